//! Whom we trust: which relay is called, by which keys it is known, and what is remembered of it.

use std::net::SocketAddr;
use std::path::Path;

use vchat_certs::identity::Identity;
use vchat_certs::known::{KnownError, KnownHosts};
use vchat_certs::pin::Pin;
use vchat_certs::rotation::NextKey;
use vchat_certs::tls::{Purpose, ServerTrust};
use vchat_lan::Found;
use vchat_proto::session::Loss;

use super::reach::{self, Connected, Terms, Unreached};
use crate::cli::Target;

/// Knows who we are and which relays we trust.
///
/// A relay is trusted by its key, under the name it was paired or met with. Who knows one relay only may call it by a new name, as
/// it proves the same key; who knows several may not, or one of them could pose as another. Any other relay is not trusted,
/// but for the very first use where the user has asked for that; and another key under a known name is a hard stop.
pub(crate) struct Connector {
    target: Target,
    identity: Identity,
    known: KnownHosts,
    trust_on_first_use: bool,
    /// The key that the relay had when it took us in. Holds for this run even where it could not be written down.
    met: Option<Pin>,
}

/// What a welcome told us of the relay.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Acquaintance {
    /// Nothing new.
    Old,
    /// It is known from now on, by a key that nobody has vouched for.
    FirstUse,
    /// It is one that we know by this other name.
    Alias(String),
    /// It has the new key that it had announced.
    NewKey,
}

/// How the relay is to be recognised.
#[derive(Clone)]
enum Expectation {
    /// By one of the keys known for its name.
    Named(Vec<Pin>),
    /// By the key of the only relay that we know, or, on the local network, of any.
    Known(Vec<Pin>),
    /// Not at all.
    FirstUse,
}

impl Connector {
    pub(crate) fn new(
        target: Target,
        trust_on_first_use: bool,
        config_dir: &Path,
        state_dir: &Path,
    ) -> Result<Self, String> {
        let identity = Identity::load_or_create(config_dir).map_err(|e| e.to_string())?;
        let known = KnownHosts::open(&state_dir.join(KNOWN_RELAYS)).map_err(|e| e.to_string())?;
        Ok(Self { target, identity, known, trust_on_first_use, met: None })
    }

    pub(crate) const fn our_pin(&self) -> Pin {
        self.identity.pin()
    }

    pub(crate) const fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) const fn target(&self) -> &Target {
        &self.target
    }

    /// The relay has welcomed us, and has proved this key before.
    ///
    /// # Errors
    /// It could not be written down; or, [`KnownError::Changed`], another program has met this relay with another key
    /// since we looked.
    pub(crate) fn welcomed(&mut self, pin: Pin) -> Result<Acquaintance, KnownError> {
        let first = self.met.replace(pin).is_none();
        if self.known.follow(pin)? {
            return Ok(Acquaintance::NewKey);
        }
        let Target::Relay(relay) = &self.target else { return Ok(Acquaintance::Old) };
        let label = relay.to_string();
        if !first || self.known.get(&label).is_some() {
            return Ok(Acquaintance::Old);
        }
        let other = self.known.labels_of(pin).next().map(str::to_owned);
        self.known.remember(&label, pin)?;
        Ok(other.map_or(Acquaintance::FirstUse, Acquaintance::Alias))
    }

    /// The relay has paired with us, and has proved this key.
    ///
    /// # Errors
    /// As for [`Self::welcomed`].
    pub(crate) fn paired(&mut self, label: &str, pin: Pin) -> Result<(), KnownError> {
        self.known.remember(label, pin)
    }

    /// What has to be right before an invite is spent: whether the relay that is called so is not known with another key.
    ///
    /// # Errors
    /// [`KnownError::Changed`], the hard stop.
    pub(crate) fn check(&self, label: &str, pin: Pin) -> Result<(), KnownError> {
        self.known.check(label, pin)
    }

    /// Whether the relay is known under its name by keys of which `pin` is none.
    pub(crate) fn knows_other_than(&self, pin: Pin) -> bool {
        let Target::Relay(relay) = &self.target else { return false };
        self.known.get(&relay.to_string()).is_some_and(|known| known.pins().all(|p| p != pin))
    }

    /// The relay that we are connected with by the key `current` says what its next key is, or that it has none. Returns the
    /// next pin once it is on our disk.
    pub(crate) fn next_key(
        &mut self,
        current: Pin,
        said: Option<(Vec<u8>, Vec<u8>)>,
    ) -> Result<Option<Pin>, String> {
        let next = said.map(|(spki, signature)| NextKey { spki, signature }.verify(current));
        let next = next.transpose().map_err(|e| e.to_string())?;
        self.known.announced(current, next).map_err(|e| e.to_string())?;
        // Nothing is stored for a relay that could not be written down itself.
        Ok(next.filter(|next| self.known.labels_of(*next).next().is_some()))
    }

    /// Connects to the relay as a device that has paired with it.
    pub(crate) fn connect(
        &self,
        purpose: Purpose,
    ) -> impl Future<Output = Result<Connected, Loss>> + Send + use<> {
        let (target, expectation) = (self.target.clone(), self.expectation());
        let identity = self.identity.clone();
        async move {
            let (addrs, trust) = addresses(&target, &expectation).await?;
            let terms = Terms { identity, trust, purpose };
            reach::connect(addrs, &terms).await.map_err(|e| match e {
                Unreached::OtherKey(theirs) => expectation.other_key(&target, theirs, terms.identity.pin()),
                Unreached::Closed(e) => super::link::loss(&e),
                Unreached::Network(why) => Loss::Network(why),
            })
        }
    }

    fn expectation(&self) -> Expectation {
        let known = match &self.target {
            Target::Relay(relay) => self.known.get(&relay.to_string()).map(|known| known.pins().collect()),
            Target::Lan => None,
        };
        match (known, self.met) {
            (Some(pins), _) => Expectation::Named(pins),
            // Found on the local network in this run, or met and not written down: the same again, and no other.
            (None, Some(pin)) => Expectation::Named(self.known.pins_of(pin)),
            (None, None) if self.target == Target::Lan => {
                Expectation::Known(self.known.all_pins().into_iter().collect())
            }
            (None, None) if self.trust_on_first_use => Expectation::FirstUse,
            (None, None) => Expectation::Known(self.known.only_relay()),
        }
    }
}

impl Expectation {
    fn trust(&self) -> ServerTrust {
        match self {
            Self::Named(pins) | Self::Known(pins) => ServerTrust::Pinned(pins.clone()),
            Self::FirstUse => ServerTrust::FirstUse,
        }
    }

    /// What it means that the relay shows another key.
    fn other_key(&self, target: &Target, theirs: Pin, ours: Pin) -> Loss {
        match self {
            Self::Named(pins) => Loss::Untrusted(changed(target, pins, theirs, ours)),
            Self::Known(_) if *target == Target::Lan => Loss::Untrusted(format!(
                "somebody on this network ({theirs}) poses as a relay that this device is paired with. Name the relay with \
                 --relay HOST, or leave this network"
            )),
            Self::Known(_) | Self::FirstUse => Loss::Untrusted(not_paired(target, Some(theirs))),
        }
    }
}

/// The hard stop, with both fingerprints.
fn changed(target: &Target, known: &[Pin], theirs: Pin, ours: Pin) -> String {
    let known: Vec<String> = known.iter().map(Pin::to_string).collect();
    format!(
        "{target} shows another key than before: {theirs} instead of {} (ours: {ours}). Somebody may be in between. If its \
         operator confirms the new one, remove its line from {KNOWN_RELAYS} in the state directory and pair again",
        known.join(" or ")
    )
}

/// Where to connect. On a local network, relays that we know are told apart from others by hearsay; the connection proves it.
async fn addresses(
    target: &Target,
    expectation: &Expectation,
) -> Result<(Vec<SocketAddr>, ServerTrust), Loss> {
    let relay = match target {
        Target::Relay(relay) => relay,
        Target::Lan => {
            let pins = match expectation {
                Expectation::Named(pins) | Expectation::Known(pins) => pins.clone(),
                Expectation::FirstUse => Vec::new(),
            };
            let found = reach::look_around(pins.clone()).await.map_err(Loss::Network)?;
            let chosen = choose(found, &pins)?;
            return Ok((chosen.addrs, ServerTrust::Pinned(vec![chosen.pin])));
        }
    };
    Ok((reach::look_up(relay).await.map_err(Loss::Network)?, expectation.trust()))
}

/// The one relay that we know among those found.
fn choose(found: Vec<Found>, known: &[Pin]) -> Result<Found, Loss> {
    let (ours, others): (Vec<Found>, Vec<Found>) = found.into_iter().partition(|f| known.contains(&f.pin));
    match (&ours[..], &others[..]) {
        ([one], _) => Ok(one.clone()),
        ([], []) => Err(Loss::Network("no relay answers there; name one with --relay HOST".into())),
        ([], others) => Err(Loss::Untrusted(format!(
            "this device is paired with none of the relays on this network: {}. {HOW_TO_PAIR}",
            list(others)
        ))),
        (several, _) => Err(Loss::Untrusted(format!(
            "this device is paired with several relays on this network: {}. Name one with --relay",
            list(several)
        ))),
    }
}

/// Relays for people: name and first address.
pub(crate) fn list(found: &[Found]) -> String {
    let one = |f: &Found| match f.addrs.first() {
        Some(addr) => format!("{} ({addr})", f.name),
        None => f.name.clone(),
    };
    found.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// That relay and device do not know each other, and what to do.
pub(crate) fn not_paired(target: &Target, shown: Option<Pin>) -> String {
    let shown = shown.map_or_else(String::new, |pin| format!(" (it shows the fingerprint {pin})"));
    format!("this device is not paired with the relay {target}{shown}. {HOW_TO_PAIR}")
}

/// The label under which a relay is remembered: its name, or on the local network, where addresses change, its key.
pub(crate) fn label_of(target: &Target, pin: Pin) -> String {
    match target {
        Target::Relay(relay) => relay.to_string(),
        Target::Lan => format!("lan-{pin}"),
    }
}

/// What to do about it, in one sentence.
const HOW_TO_PAIR: &str = "Ask whoever runs it for an invite (vchatd invite) and open that: vchat-client vchat://…, or \
                           with a spoken code: vchat-client pair --relay HOST --code CODE";

const KNOWN_RELAYS: &str = "known_relays";

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: Pin = Pin([1; 32]);
    const BOB: Pin = Pin([2; 32]);

    fn connector(dir: &Path, relay: &str, first_use: bool) -> Connector {
        Connector::new(relay.parse().expect("a relay"), first_use, dir, &dir.join("state"))
            .expect("an identity")
    }

    fn trusts(connector: &Connector) -> Option<Vec<Pin>> {
        match connector.expectation().trust() {
            ServerTrust::Pinned(pins) => Some(pins),
            ServerTrust::FirstUse => None,
        }
    }

    #[test]
    fn nobody_is_trusted_before_pairing_unless_the_user_says_so() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(trusts(&connector(dir.path(), "relay.example", false)), Some(vec![]));
        assert_eq!(trusts(&connector(dir.path(), "auto", false)), Some(vec![]));
        assert_eq!(trusts(&connector(dir.path(), "relay.example", true)), None);
        assert_eq!(trusts(&connector(dir.path(), "auto", true)), Some(vec![]), "anybody can answer a search");
    }

    #[test]
    fn a_paired_relay_is_trusted_by_its_key_and_also_under_a_new_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut first = connector(dir.path(), "relay.example", false);
        first.paired("relay.example:4433", ANN).expect("remembered");
        first.paired("other.example:4433", BOB).expect("remembered");
        assert_eq!(trusts(&first), Some(vec![ANN]), "not by that of another relay");
        assert_eq!(first.welcomed(ANN).expect("read"), Acquaintance::Old);

        for first_use in [false, true] {
            let known = connector(dir.path(), "relay.example", first_use);
            assert_eq!(trusts(&known), Some(vec![ANN]), "no first use for who is known");
        }
        assert_eq!(trusts(&connector(dir.path(), "10.0.0.1", false)), Some(vec![]), "which of both?");
        let lan = trusts(&connector(dir.path(), "auto", false));
        assert_eq!(lan, Some(vec![ANN, BOB]), "there they are told apart by what they announce");

        let alone = tempfile::tempdir().expect("a directory");
        connector(alone.path(), "relay.example", false)
            .paired("relay.example:4433", ANN)
            .expect("remembered");
        let mut alias = connector(alone.path(), "10.0.0.1", false);
        assert_eq!(trusts(&alias), Some(vec![ANN]));
        assert_eq!(alias.welcomed(ANN).expect("written"), Acquaintance::Alias("relay.example:4433".into()));
        assert_eq!(trusts(&alias), Some(vec![ANN]), "from then on");
    }

    #[test]
    fn who_comes_back_to_a_relay_of_the_local_network_comes_back_to_the_same() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut lan = connector(dir.path(), "auto", false);
        lan.paired("ann.example:4433", ANN).expect("remembered");
        lan.paired("bob.example:4433", BOB).expect("remembered");
        assert_eq!(lan.welcomed(BOB).expect("read"), Acquaintance::Old);
        assert_eq!(trusts(&lan), Some(vec![BOB]));
    }

    #[test]
    fn an_invite_is_not_spent_on_a_relay_whose_key_has_changed() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut connector = connector(dir.path(), "relay.example", false);
        connector.check("relay.example:4433", ANN).expect("nothing is known yet");
        connector.paired("relay.example:4433", ANN).expect("remembered");
        connector.check("relay.example:4433", ANN).expect("the same");
        assert!(matches!(
            connector.check("relay.example:4433", BOB),
            Err(KnownError::Changed { line: 2, .. })
        ));
        assert!(connector.knows_other_than(BOB) && !connector.knows_other_than(ANN));
    }

    #[test]
    fn a_key_that_cannot_be_written_down_still_holds_for_this_run() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut connector = connector(dir.path(), "relay.example", true);
        assert_eq!(trusts(&connector), None);
        std::fs::write(dir.path().join("state"), "a file where the directory should be").expect("written");
        assert!(connector.welcomed(BOB).is_err());
        assert_eq!(trusts(&connector), Some(vec![BOB]));
    }

    #[test]
    fn a_next_key_counts_only_with_its_proof() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = tempfile::tempdir().expect("a directory");
        let (current, next) = (
            Identity::load_or_create(home.path()).expect("made"),
            Identity::create_next(home.path()).expect("made"),
        );
        let mut connector = connector(dir.path(), "relay.example", false);
        let unknown = NextKey::announce(current.pin(), &next).expect("signed");
        let said = Some((unknown.spki, unknown.signature));
        let stored = connector.next_key(current.pin(), said).expect("proved");
        assert_eq!(stored, None, "there is no line to write it to, so nobody may count on it");
        connector.paired("relay.example:4433", current.pin()).expect("remembered");
        let good = NextKey::announce(current.pin(), &next).expect("signed");
        let forged = Some((good.spki.clone(), vec![0; 64]));
        assert!(connector.next_key(current.pin(), forged).is_err());
        assert_eq!(trusts(&connector), Some(vec![current.pin()]));
        let said = Some((good.spki, good.signature));
        assert_eq!(connector.next_key(current.pin(), said).expect("proved"), Some(next.pin()));
        assert_eq!(trusts(&connector), Some(vec![current.pin(), next.pin()]));
        assert_eq!(connector.welcomed(next.pin()).expect("written"), Acquaintance::NewKey);
        assert_eq!(trusts(&connector), Some(vec![next.pin()]), "the old key is no longer good");
    }

    #[test]
    fn of_the_relays_around_the_one_that_is_known_is_taken() {
        let found = |name: &str, pin: Pin| Found {
            name: name.into(),
            addrs: vec!["10.0.0.1:4433".parse().expect("an address")],
            pin,
        };
        let all = || vec![found("ann", ANN), found("bob", BOB)];
        assert_eq!(choose(all(), &[ANN]).expect("one").pin, ANN);
        assert!(matches!(choose(vec![], &[ANN]), Err(Loss::Network(_))));
        let unknown = choose(all(), &[]).expect_err("not paired");
        assert!(
            matches!(&unknown, Loss::Untrusted(why) if why.contains("ann (10.0.0.1:4433)") && why.contains("invite"))
        );
        let several = choose(all(), &[ANN, BOB]).expect_err("which?");
        assert!(matches!(&several, Loss::Untrusted(why) if why.contains("bob") && why.contains("--relay")));
    }

    #[test]
    fn the_hard_stop_names_both_fingerprints() {
        let target: Target = "relay.example".parse().expect("a relay");
        let text = changed(&target, &[ANN], BOB, Pin([3; 32]));
        assert!(text.contains(&ANN.to_string()) && text.contains(&BOB.to_string()), "{text}");
        assert!(!text.contains('\n'));
    }
}
