//! Changing the relay's key, as its clients live through it.

mod support;

use support::{Guest, PATIENCE, Relay, connect, control_up, identity, pair_by_link};
use vchat_certs::pin::{Pin, peer_pin};
use vchat_certs::rotation::NextKey;
use vchat_certs::tls::Purpose;
use vchat_proto::wire::pb;
use vchatd::control::Request;

/// The next announcement that this member hears, verified as a client does who has met the relay with the key `met`.
async fn announced(guest: &mut Guest, met: Pin) -> Option<Pin> {
    let hear = async {
        loop {
            let message = guest.control.receive::<pb::RelayControl>().await.expect("here");
            if let Some(pb::relay_control::Body::NextKey(next)) = message.body {
                return next;
            }
        }
    };
    let next = tokio::time::timeout(PATIENCE, hear).await.expect("an announcement");
    if next.spki.is_empty() {
        return None;
    }
    Some(NextKey { spki: next.spki, signature: next.signature }.verify(met).expect("proved"))
}

async fn stored(guest: &mut Guest, pin: Pin) {
    let stored = pb::client_control::Body::NextKeyStored(pb::NextKeyStored { pin: pin.0.to_vec() });
    guest.control.send(&control_up(stored)).await.expect("written");
}

/// The key that the relay shows to a new connection.
async fn shown(relay: &Relay) -> Pin {
    let line = connect(relay.addr, &relay.device().await, Purpose::Call).await.expect("a connection");
    peer_pin(line.connection.peer_identity()).expect("a key")
}

#[tokio::test]
async fn the_next_key_takes_over_when_all_know_it_and_nobody_is_disconnected() {
    let relay = Relay::start().await;
    let (mut ann, mut bob) = (relay.guest("lobby").await, relay.guest("lobby").await);
    for guest in [&mut ann, &mut bob] {
        assert_eq!(announced(guest, relay.pin).await, None, "nothing yet");
    }
    relay.ask(Request::RotateKey { now: false }).await.expect("begun");
    let next = announced(&mut ann, relay.pin).await.expect("a key");
    assert_eq!(announced(&mut bob, relay.pin).await, Some(next));
    stored(&mut ann, next).await;
    stored(&mut bob, next).await;
    // Those who met the old key keep hearing of the new one: who forgot it now would be locked out.
    for guest in [&mut ann, &mut bob] {
        assert_eq!(announced(guest, relay.pin).await, Some(next));
    }
    let key = relay.ask(Request::Key).await.expect("told");
    assert_eq!((&key["pin"], &key["next"]), (&next.to_string().into(), &serde_json::Value::Null));
    assert!(ann.is_here() && bob.is_here());
    assert_eq!(shown(&relay).await, next);
}

#[tokio::test]
async fn an_open_link_and_a_device_that_is_away_are_waited_for() {
    let relay = Relay::start().await;
    let (mut ann, away) = (relay.guest("lobby").await, relay.device().await);
    let link = relay.link().await;
    relay.ask(Request::RotateKey { now: false }).await.expect("begun");
    assert_eq!(announced(&mut ann, relay.pin).await, None, "nothing yet");
    let next = announced(&mut ann, relay.pin).await.expect("a key");
    stored(&mut ann, next).await;

    // The link names the present key, so it is still good.
    let newcomer = identity();
    let paired = pair_by_link(relay.addr, &newcomer, &link).await;
    assert!(matches!(paired, Ok(pb::pair_down::Body::Paired(_))), "{paired:?}");
    let mut guests = Vec::new();
    for identity in [&away, &newcomer] {
        let mut guest = Guest::join(relay.addr, identity, "lobby").await.expect("a member");
        assert_eq!(announced(&mut guest, relay.pin).await, Some(next));
        stored(&mut guest, next).await;
        guests.push(guest);
    }
    // Told again after the switch, which the last receipt has set off.
    for guest in &mut guests {
        assert_eq!(announced(guest, relay.pin).await, Some(next));
    }
    assert_eq!(relay.ask(Request::Key).await.expect("told")["pin"], next.to_string());
}

#[tokio::test]
async fn a_revoked_device_is_not_waited_for() {
    let relay = Relay::start().await;
    let (mut ann, away) = (relay.guest("lobby").await, relay.device().await);
    relay.ask(Request::RotateKey { now: false }).await.expect("begun");
    assert_eq!(announced(&mut ann, relay.pin).await, None, "nothing yet");
    let next = announced(&mut ann, relay.pin).await.expect("a key");
    stored(&mut ann, next).await;
    relay.ask(Request::Revoke { device: away.pin().to_string() }).await.expect("done");
    assert_eq!(announced(&mut ann, relay.pin).await, Some(next), "told again after the switch");
    assert_eq!(relay.ask(Request::Key).await.expect("told")["pin"], next.to_string());
}

#[tokio::test]
async fn a_change_goes_on_after_a_restart() {
    let mut relay = Relay::start().await;
    let (ann, _away) = (relay.device().await, relay.device().await);
    let begun = relay.ask(Request::RotateKey { now: false }).await.expect("begun");
    relay.restart().await;
    let key = relay.ask(Request::Key).await.expect("told");
    assert_eq!(key["next"]["pin"], begun["next"]["pin"]);
    assert_eq!(key["next"]["switch_at"], begun["next"]["switch_at"]);
    let mut guest = Guest::join(relay.addr, &ann, "lobby").await.expect("a member");
    let next = announced(&mut guest, relay.pin).await.expect("a key");
    assert_eq!(key["next"]["pin"], next.to_string());

    // At once, whoever knows it; and that is still so after another restart.
    relay.ask(Request::RotateKey { now: true }).await.expect("done");
    assert_eq!(shown(&relay).await, next);
    let old = std::mem::replace(&mut relay.pin, next);
    relay.restart().await;
    assert_eq!(relay.pin, next);
    assert_ne!(old, next);
}

#[tokio::test]
async fn when_its_time_has_come_the_next_key_takes_over_without_those_who_are_away() {
    let mut relay = Relay::start().await;
    let _away = relay.device().await;
    let begun = relay.ask(Request::RotateKey { now: false }).await.expect("begun");
    assert_eq!(begun["next"]["known_by"], 0);
    relay
        .stop_and(|db| db.execute("UPDATE number SET value = 1000000000 WHERE name = 'key-switch-at'", []))
        .await;
    // Looked at with the next thing that happens.
    relay.ask(Request::RotateKey { now: false }).await.expect("done");
    assert_eq!(relay.ask(Request::Key).await.expect("told")["pin"], begun["next"]["pin"]);
}
