//! The relay's keys: the present one, and the next one while it is announced.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;
use vchat_certs::identity::Identity;
use vchat_certs::pin::Pin;
use vchat_certs::rotation::NextKey;
use vchat_certs::secret;
use vchat_proto::wire::pb;
use vchat_quic::RelaySecrets;

use crate::registry::{Registry, unix_ms_now};
use crate::seats::Seats;

/// What the relay shows of its keys at a time.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) current: Identity,
    pub(crate) next: Option<Next>,
    /// How new connections are met with the present key.
    pub(crate) config: Arc<quinn::ServerConfig>,
}

/// The next key, as it is announced.
#[derive(Clone)]
pub(crate) struct Next {
    pub(crate) pin: Pin,
    announcement: NextKey,
    /// When it takes over at the latest, in milliseconds since 1970.
    pub(crate) switch_at: u64,
}

impl Shown {
    /// What a client is told that has met the relay with the key `met`. Whose connection is older than the present key hears of
    /// that one: it is the next key to them, and they must not forget it.
    pub(crate) fn announcement(&self, met: Pin) -> pb::NextKey {
        let said = if met == self.current.pin() {
            self.next.as_ref().map(|next| next.announcement.clone())
        } else {
            // Our own key signs; that it cannot has shown when it was announced.
            NextKey::announce(met, &self.current).ok()
        };
        said.map_or_else(pb::NextKey::default, |said| pb::NextKey {
            spki: said.spki,
            signature: said.signature,
        })
    }
}

/// How far a change of the key has come.
pub(crate) struct Progress {
    pub(crate) shown: Shown,
    /// Devices that know the next key, and devices at all.
    pub(crate) known: u64,
    pub(crate) devices: u64,
}

/// What the task is asked.
pub(crate) enum Command {
    Show(oneshot::Sender<anyhow::Result<Progress>>),
    /// Announce a next key; `now`: switch to it at once, whoever knows it.
    Rotate {
        now: bool,
        answer: oneshot::Sender<anyhow::Result<Progress>>,
    },
    /// Take the key that is on the disk, if it is another.
    Reload,
    /// Something happened after which the next key may take over.
    Look,
}

/// The task that owns the keys.
pub(crate) struct Keys {
    state_dir: PathBuf,
    registry: Registry,
    shown: watch::Sender<Shown>,
    /// Of connections: they outlive the process.
    secrets: RelaySecrets,
    /// The same.
    seats: Seats,
}

impl Keys {
    /// Loads the keys, or makes the first one. Ends a change that a crash interrupted.
    pub(crate) async fn load(state_dir: PathBuf, registry: Registry) -> anyhow::Result<Self> {
        let current = Identity::load_or_create(&state_dir)?;
        let next = match Identity::load_next(&state_dir)? {
            None => {
                // Of a change that a crash cut off at its very end, or before its beginning.
                registry.ask(|l| l.set_number(SWITCH_AT, None)).await??;
                None
            }
            Some(next) => {
                let switch_at = registry.ask(|l| l.number(SWITCH_AT)).await??.unwrap_or_else(latest_switch);
                registry.ask(move |l| l.set_number(SWITCH_AT, Some(switch_at))).await??;
                Some(announce(&current, &next, switch_at)?)
            }
        };
        let secret = secret::load_or_create(&state_dir, SECRETS)?;
        let (secrets, seats) = (RelaySecrets::new(&secret), Seats::new(&secret));
        let config = Arc::new(vchat_quic::relay_config(tls(&current)?, &secrets)?);
        let (shown, _) = watch::channel(Shown { current, next, config });
        Ok(Self { state_dir, registry, shown, secrets, seats })
    }

    pub(crate) const fn secrets(&self) -> &RelaySecrets {
        &self.secrets
    }

    pub(crate) const fn seats(&self) -> &Seats {
        &self.seats
    }

    pub(crate) fn shown(&self) -> watch::Receiver<Shown> {
        self.shown.subscribe()
    }

    /// Serves until nobody can ask any more. New connections meet the new key after a switch; those that stand go on.
    pub(crate) async fn run(self, mut commands: mpsc::Receiver<Command>) {
        // By the time of day, which may jump: hence no timer for the moment itself.
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let command = tokio::select! {
                command = commands.recv() => command,
                _ = look.tick() => Some(Command::Look),
            };
            match command {
                None => return,
                Some(Command::Show(answer)) => drop(answer.send(self.progress().await)),
                Some(Command::Rotate { now, answer }) => drop(answer.send(self.rotate(now).await)),
                Some(Command::Reload) => {
                    if let Err(e) = self.reload() {
                        tracing::error!("the relay keeps its key: {e:#}");
                    }
                }
                Some(Command::Look) => {
                    if let Err(e) = self.switch_when_ready().await {
                        tracing::error!("cannot change the relay's key: {e:#}");
                    }
                }
            }
        }
    }

    /// New connections meet the key on the disk, which the operator may have replaced; those that stand go on.
    fn reload(&self) -> anyhow::Result<()> {
        let current = Identity::load(&self.state_dir)?.context("its file is gone")?;
        let before = self.shown.borrow().clone();
        if current.pin() == before.current.pin() {
            return Ok(());
        }
        // A next key that was announced is announced by this one.
        let next = match before.next {
            None => None,
            Some(next) => Identity::load_next(&self.state_dir)?
                .map(|waiting| announce(&current, &waiting, next.switch_at))
                .transpose()?,
        };
        self.show(current, next)
    }

    /// From now on these keys are shown.
    fn show(&self, current: Identity, next: Option<Next>) -> anyhow::Result<()> {
        let config = Arc::new(vchat_quic::with_key(&self.shown.borrow().config, tls(&current)?)?);
        tracing::info!(fingerprint = %current.pin(), "the relay has a new key");
        self.shown.send_replace(Shown { current, next, config });
        Ok(())
    }

    async fn rotate(&self, now: bool) -> anyhow::Result<Progress> {
        if self.shown.borrow().next.is_none() {
            let switch_at = latest_switch();
            self.registry.ask(move |l| l.set_number(SWITCH_AT, Some(switch_at))).await??;
            let next = Identity::create_next(&self.state_dir)?;
            let current = self.shown.borrow().current.clone();
            let next = announce(&current, &next, switch_at)?;
            tracing::info!(next = %next.pin, "announcing the relay's next key");
            self.shown.send_modify(|shown| shown.next = Some(next));
        }
        if now {
            self.switch().await?;
        } else {
            self.switch_when_ready().await?;
        }
        self.progress().await
    }

    async fn progress(&self) -> anyhow::Result<Progress> {
        let shown = self.shown.borrow().clone();
        let pin = shown.next.as_ref().map_or(Pin([0; 32]), |next| next.pin);
        let (known, devices) = self.registry.ask(move |l| l.next_key_known(pin)).await??;
        Ok(Progress { shown, known, devices })
    }

    /// The next key takes over when every device knows it and no invite names the present one, or when its time has come.
    async fn switch_when_ready(&self) -> anyhow::Result<()> {
        let Some(next) = self.shown.borrow().next.clone() else { return Ok(()) };
        let now = unix_ms_now();
        let (known, devices) = self.registry.ask(move |l| l.next_key_known(next.pin)).await??;
        let open = self.registry.ask(move |l| l.open_invites(now, std::time::Instant::now())).await??;
        let nobody_lost = known >= devices && open.links == 0 && open.codes == 0;
        if nobody_lost || now >= next.switch_at { self.switch().await } else { Ok(()) }
    }

    async fn switch(&self) -> anyhow::Result<()> {
        Identity::promote_next(&self.state_dir)?;
        let current = Identity::load_or_create(&self.state_dir)?;
        self.show(current, None)?;
        self.registry.ask(|l| l.set_number(SWITCH_AT, None)).await??;
        Ok(())
    }
}

fn tls(identity: &Identity) -> anyhow::Result<rustls::ServerConfig> {
    vchat_certs::tls::server_config(identity).context("cannot set up TLS")
}

fn announce(current: &Identity, next: &Identity, switch_at: u64) -> anyhow::Result<Next> {
    let announcement = NextKey::announce(current.pin(), next).context("cannot announce the next key")?;
    Ok(Next { pin: next.pin(), announcement, switch_at })
}

fn latest_switch() -> u64 {
    unix_ms_now().saturating_add(PATIENCE_MS)
}

/// The file of the secret from which the keys of connections are derived.
const SECRETS: &str = "quic.key";

/// The name under which the registry keeps when to switch.
const SWITCH_AT: &str = "key-switch-at";

/// Devices that were not here for so long need a new invite: a month, as long as holidays last.
const PATIENCE_MS: u64 = 30 * 24 * 3_600_000;

/// How often the time of day is looked at while a next key waits.
const LOOK: Duration = Duration::from_secs(60);
