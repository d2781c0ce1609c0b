//! What the relay does for its operator.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::sync::{Mutex, oneshot, watch};
use vchat_certs::authority::{Authority, AuthorityError, DEFAULT_PORT};
use vchat_certs::code::Code;
use vchat_certs::invite::Link;
use vchat_certs::pin::Pin;
use vchat_proto::id::{DisplayName, RoomName};
use vchat_proto::wire::close::CloseCode;
use vchat_proto::wire::pb;

use super::{Invite, Reply, Request};
use crate::backup;
use crate::keys::{self, Progress};
use crate::registry::{Device, Grant, Invited, OpenInvites, Registry, Role, SelectError, unix_ms_now};
use crate::server::{Settings, Shared};

/// Carries out requests of people who may make them.
#[derive(Clone)]
pub(crate) struct Office {
    pub(crate) shared: Arc<Shared>,
    /// Where the relay keeps everything.
    pub(crate) state_dir: PathBuf,
    /// Held while a backup is made: two would only slow each other.
    pub(crate) backing_up: Arc<Mutex<()>>,
}

/// What the relay is called and where it is reached.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    /// The addresses bound.
    pub(crate) addrs: Vec<SocketAddr>,
    /// Where it says what people call this relay.
    pub(crate) settings: watch::Receiver<Settings>,
}

impl Names {
    /// How a link calls this relay: `host`, or as the operator says, or else by the address that the machine would be reached at;
    /// at the port that is bound where none is named.
    pub(crate) fn called(&self, host: Option<&str>) -> Result<Authority, AuthorityError> {
        let port = self.addrs.first().map_or(DEFAULT_PORT, SocketAddr::port);
        match host.or(self.settings.borrow().public.as_deref()) {
            Some(host) => Authority::parse(host, port),
            None => Ok(Authority { host: self.address().to_string(), port }),
        }
    }

    /// The address at which this machine is reached, as far as it knows.
    pub(crate) fn address(&self) -> IpAddr {
        let bound = self.addrs.first().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), SocketAddr::ip);
        if bound.is_unspecified() { own_address(bound) } else { bound.to_canonical() }
    }
}

impl Office {
    pub(crate) async fn handle(&self, request: Request) -> Reply {
        let done = match request {
            Request::Invite(invite) => self.invite(invite).await,
            Request::Invites => self.open_invites().await,
            Request::CancelInvites => self.cancel_invites().await,
            Request::Devices => self.devices().await,
            Request::Rename { device, name } => self.rename(device, &name).await,
            Request::Revoke { device } => self.revoke(device).await,
            Request::History { room, before, limit } => self.history(&room, before, limit).await,
            Request::Restart => self.restart().await,
            Request::Backup { dir, keep } => self.backup(dir, keep).await,
            Request::Qlog { device, seconds } => self.log_device(device, seconds).await,
            Request::Status => self.status().await,
            Request::Key => self.keys(keys::Command::Show).await,
            Request::RotateKey { now } => self.keys(|answer| keys::Command::Rotate { now, answer }).await,
        };
        done.map_or_else(|e| Reply::Failed(format!("{e:#}")), Reply::Done)
    }

    /// The link for the very first person, an administrator, if one is needed.
    pub(crate) async fn first_invite(&self) -> anyhow::Result<Option<String>> {
        let needed = |l: &mut crate::registry::Ledger| l.needs_first_invite(unix_ms_now(), Instant::now());
        if !self.shared.registry.ask(needed).await?? {
            return Ok(None);
        }
        let invite = Invite { uses: 1, ttl_s: FIRST_SECONDS, admin: true, ..Invite::default() };
        let made = self.invite(invite).await?;
        Ok(made["link"].as_str().map(str::to_owned))
    }

    async fn invite(&self, invite: Invite) -> anyhow::Result<Value> {
        let called = self.shared.names.called(invite.host.as_deref())?;
        let pin = self.shared.keys.borrow().current.pin();
        let made = make(&self.shared.registry, pin, called.clone(), &invite, None).await?;
        let expires = rfc3339(made.expires);
        Ok(match made.secret {
            Secret::Link(link) => {
                json!({"link": link.to_string(), "code": null, "expires": expires, "uses": invite.uses})
            }
            Secret::Code(code) => {
                json!({"link": null, "code": code.to_string(), "expires": expires, "relay": called.to_string()})
            }
        })
    }

    async fn open_invites(&self) -> anyhow::Result<Value> {
        let open = self.shared.registry.ask(|l| l.open_invites(unix_ms_now(), Instant::now())).await??;
        Ok(invites(open))
    }

    async fn cancel_invites(&self) -> anyhow::Result<Value> {
        let cancelled =
            self.shared.registry.ask(|l| l.cancel_invites(unix_ms_now(), Instant::now())).await??;
        Ok(invites(cancelled))
    }

    async fn devices(&self) -> anyhow::Result<Value> {
        let devices = self.shared.registry.ask(|l| l.devices()).await??;
        Ok(devices.iter().map(|device| self.describe(device)).collect())
    }

    async fn rename(&self, device: String, name: &str) -> anyhow::Result<Value> {
        let name = DisplayName::parse(name).context("this is no name for a device")?;
        let renamed = self.shared.registry.ask(move |l| l.rename(&device, &name)).await?;
        Ok(self.describe(&renamed?))
    }

    /// First the list, then the connections: one that comes in between is either refused or found.
    async fn revoke(&self, device: String) -> anyhow::Result<Value> {
        let revoked: Result<Device, SelectError> =
            self.shared.registry.ask(move |l| l.revoke(unix_ms_now(), &device)).await?;
        let revoked = revoked?;
        let cut = self.shared.members.cut(revoked.pin, CloseCode::Revoked);
        tracing::info!(fingerprint = %revoked.pin, connections = cut, "revoked a device");
        // One device fewer to wait for.
        drop(self.shared.rotate.try_send(keys::Command::Look));
        let mut description = self.describe(&revoked);
        description["cut"] = cut.into();
        Ok(description)
    }

    async fn history(&self, room: &str, before: Option<u64>, limit: u32) -> anyhow::Result<Value> {
        let room = RoomName::parse(room).context("this is no name for a room")?;
        let before = before.unwrap_or(u64::MAX);
        let page = self.shared.rooms.archive().page(room, before, limit.min(MAX_LINES)).await?;
        let line = |line: pb::Line| json!({"seq": line.seq, "sent": rfc3339(line.sent_ms), "name": line.name, "text": line.text});
        Ok(page.lines.into_iter().map(line).collect())
    }

    async fn restart(&self) -> anyhow::Result<Value> {
        let Ok(_held) = self.backing_up.clone().try_lock_owned() else {
            anyhow::bail!("a backup is being made: try again when it is done");
        };
        let (answer, answered) = oneshot::channel();
        self.shared.restarts.send(answer).await.context("the relay is stopping")?;
        let pid = answered.await.context("the relay is stopping")??;
        Ok(json!({ "pid": pid }))
    }

    async fn backup(&self, dir: Option<String>, keep: u32) -> anyhow::Result<Value> {
        let Ok(held) = self.backing_up.clone().try_lock_owned() else {
            anyhow::bail!("a backup is being made already");
        };
        let state_dir = self.state_dir.clone();
        let dir = dir.map_or_else(|| backup::default_dir(&state_dir), PathBuf::from);
        let make = move || {
            // Held by the work itself: who asked may be gone before it is done.
            let _held = held;
            backup::make(&state_dir, &dir, keep.clamp(1, MAX_KEPT) as usize)
        };
        let made = tokio::task::spawn_blocking(make).await.context("the backup failed")??;
        tracing::info!(path = %made.path.display(), bytes = made.bytes, "made a backup");
        let removed: Vec<String> = made.removed.iter().map(|path| path.display().to_string()).collect();
        Ok(json!({"path": made.path.display().to_string(), "bytes": made.bytes, "removed": removed}))
    }

    async fn log_device(&self, device: String, seconds: u64) -> anyhow::Result<Value> {
        ensure!((1..=MAX_LOG_SECONDS).contains(&seconds), "a device is waited for from a second to an hour");
        let device: Result<Device, SelectError> =
            self.shared.registry.ask(move |l| l.select(&device)).await?;
        let device = device?;
        let from = self.shared.members.addresses(device.pin);
        let connected = from.len();
        let dir = self.shared.logs.want(device.pin, from, Duration::from_secs(seconds))?;
        Ok(json!({
            "pin": device.pin.to_string(), "name": device.name, "directory": dir.to_string_lossy(),
            "seconds": seconds, "connections": connected,
        }))
    }

    async fn status(&self) -> anyhow::Result<Value> {
        let devices = self.shared.registry.ask(|l| l.devices()).await??;
        let devices = devices.iter().filter(|device| device.revoked.is_none()).count();
        let (stats, connections) = (self.shared.stats.clone(), self.shared.members.total());
        Ok(tokio::task::spawn_blocking(move || stats.status(connections, devices)).await?)
    }

    async fn keys(
        &self,
        command: impl FnOnce(oneshot::Sender<anyhow::Result<Progress>>) -> keys::Command,
    ) -> anyhow::Result<Value> {
        let (answer, answered) = oneshot::channel();
        self.shared.rotate.send(command(answer)).await.context("the relay is stopping")?;
        let Progress { shown, known, devices } = answered.await.context("the relay is stopping")??;
        Ok(json!({
            "pin": shown.current.pin().to_string(),
            "next": shown.next.as_ref().map(|next| json!({
                "pin": next.pin.to_string(), "known_by": known, "devices": devices,
                "switch_at": rfc3339(next.switch_at),
            })),
        }))
    }

    fn describe(&self, device: &Device) -> Value {
        let rooms: Vec<&str> = device.rooms.iter().map(RoomName::as_str).collect();
        json!({
            "pin": device.pin.to_string(), "name": device.name, "role": device.role, "rooms": rooms,
            "created": rfc3339(device.created), "last_seen": device.last_seen.map(rfc3339),
            "revoked": device.revoked.map(rfc3339), "connections": self.shared.members.count(device.pin),
        })
    }
}

/// What an invited person is given.
pub(crate) enum Secret {
    Link(Link),
    Code(Code),
}

/// Makes an invite to the relay with this key, which links call `relay`; `maker`: the device that asked for it.
pub(crate) async fn make(
    registry: &Registry,
    pin: Pin,
    relay: Authority,
    invite: &Invite,
    maker: Option<Pin>,
) -> anyhow::Result<Invited<Secret>> {
    ensure!((1..=MAX_USES).contains(&invite.uses), "an invite is for 1 to {MAX_USES} devices");
    ensure!((MIN_SECONDS..=MAX_SECONDS).contains(&invite.ttl_s), "an invite is good for a minute to 90 days");
    ensure!(invite.rooms.len() <= MAX_ROOMS, "an invite is for at most {MAX_ROOMS} rooms");
    let rooms = invite.rooms.iter().map(|name| RoomName::parse(name));
    let rooms = rooms.collect::<Result<Vec<_>, _>>().context("this is no name for a room")?;
    let grant = Grant { role: if invite.admin { Role::Admin } else { Role::Member }, rooms };
    let now = unix_ms_now();
    if invite.code {
        let made = registry.ask(move |l| l.invite_by_code(now, Instant::now(), grant)).await??;
        return Ok(Invited { secret: Secret::Code(made.secret), expires: made.expires });
    }
    let (ttl_ms, uses) = (invite.ttl_s.saturating_mul(1000), invite.uses);
    let made = registry.ask(move |l| l.invite(now, ttl_ms, uses, &grant, maker)).await??;
    Ok(Invited { secret: Secret::Link(Link { relay, pin, token: made.secret }), expires: made.expires })
}

/// The address from which this machine would talk to the world; nothing is sent. A machine without a way there is reached by
/// itself alone.
fn own_address(family: IpAddr) -> IpAddr {
    let from = |any: IpAddr, documentation: IpAddr| {
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect((documentation, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    // Addresses that are nobody's (RFC 5737, RFC 3849). IPv4 first: it is what people have at home.
    let v4 = || from(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(198, 51, 100, 1).into());
    let v6 = || from(Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into());
    v4().or_else(|| if family.is_ipv6() { v6() } else { None }).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

fn invites(open: OpenInvites) -> Value {
    json!({"links": open.links, "codes": open.codes})
}

fn rfc3339(unix_ms: u64) -> String {
    let time =
        i64::try_from(unix_ms).ok().and_then(chrono::DateTime::from_timestamp_millis).unwrap_or_default();
    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

/// How long the first person has to come in; a relay that is started later than that makes another invite.
const FIRST_SECONDS: u64 = 3600;
/// Devices of one invite: a large class.
pub(crate) const MAX_USES: u32 = 1000;
pub(crate) const MIN_SECONDS: u64 = 60;
pub(crate) const MAX_SECONDS: u64 = 90 * 24 * 3600;
const MAX_ROOMS: usize = 32;
/// Backups of one directory: three years of daily ones.
pub(crate) const MAX_KEPT: u32 = 1000;
/// Nobody looks into a network for longer without asking again.
pub(crate) const MAX_LOG_SECONDS: u64 = 3600;
/// Lines of chat at once: of the longest, a few megabytes.
pub(crate) const MAX_LINES: u32 = 1000;
