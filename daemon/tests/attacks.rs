//! Attacks on a relay, each by its name, over real QUIC: what an unpaired, a revoked or a misbehaving client can do.
//! Those on the handshake itself are in `certs/tests/handshake.rs`.

mod support;

use std::time::{Duration, Instant};

use quinn::ConnectionError;
use support::{
    Guest, Line, PATIENCE, Relay, Stream, close_code, code, connect, control_up, exchange, exporter, hello,
    identity, invite, link_of, pair_by_code, pair_by_link, pair_up, refusal,
};
use vchat_certs::code::Code;
use vchat_certs::invite::{Link, Token};
use vchat_certs::pake;
use vchat_certs::pin::Pin;
use vchat_certs::tls::Purpose;
use vchat_proto::wire::close::CloseCode;
use vchat_proto::wire::framing::frame;
use vchat_proto::wire::limits::{
    HELLO_TIMEOUT, MAX_HELLO, MAX_PAIRING, MEDIA_RATE, PAGE_RATE, PAIRING_TIMEOUT,
};
use vchat_proto::wire::{STREAM_CONTROL, pb};
use vchatd::control::{Invite, Request};

// ---- Strangers ----

#[tokio::test]
async fn an_unpaired_client_never_reaches_a_room() {
    let relay = Relay::start().await;
    let mut witness = relay.guest("lobby").await;
    let stranger = identity();
    let refused = Guest::join(relay.addr, &stranger, "lobby").await.err().expect("refused");
    assert_eq!(close_code(&refused), CloseCode::NotPaired);

    // Nor does it on the protocol of pairing, whatever it sends there.
    let line = connect(relay.addr, &stranger, Purpose::Pair).await.expect("a connection");
    let mut stream = Stream::open(&line.connection).await.expect("a stream");
    stream.send_bytes(&[&[STREAM_CONTROL][..], &hello("lobby")].concat()).await.expect("written");
    assert_eq!(code(&line.connection).await, CloseCode::Protocol);

    // Nobody in the room has heard of it, nor does the relay know it. A change of one's own comes back after all news of others.
    let next = witness.control.receive::<pb::RelayControl>().await.expect("here").body;
    assert!(matches!(next, Some(pb::relay_control::Body::Seat(_))), "{next:?}");
    let next = witness.control.receive::<pb::RelayControl>().await.expect("here").body;
    assert!(matches!(next, Some(pb::relay_control::Body::NextKey(_))), "{next:?}");
    let ping = pb::client_control::Body::ClockPing(pb::ClockPing { sent_us: 7 });
    witness.control.send(&control_up(ping)).await.expect("written");
    let next = witness.control.receive::<pb::RelayControl>().await.expect("here").body;
    assert!(matches!(next, Some(pb::relay_control::Body::ClockPong(_))), "{next:?}");
    assert_eq!(relay.devices().await.len(), 1);
}

#[tokio::test]
async fn a_stranger_is_turned_away_before_its_first_byte_is_read() {
    let relay = Relay::start().await;
    let line = connect(relay.addr, &identity(), Purpose::Call).await.expect("a connection");
    // It says nothing, and does not have to: its key is enough.
    let begun = Instant::now();
    assert_eq!(code(&line.connection).await, CloseCode::NotPaired);
    assert!(begun.elapsed() < HELLO_TIMEOUT, "not by a timeout");
}

#[tokio::test]
async fn a_member_cannot_bring_a_stranger_in_by_an_open_pairing_connection() {
    let relay = Relay::start().await;
    let member = relay.device().await;
    let line = connect(relay.addr, &member, Purpose::Pair).await.expect("a connection");
    let mut stream = Stream::open(&line.connection).await.expect("a stream");
    stream.send_bytes(&hello("lobby")).await.expect("written");
    assert_eq!(code(&line.connection).await, CloseCode::Protocol, "a paired key does not make a call of it");
}

#[tokio::test]
async fn a_silent_stranger_is_not_waited_for() {
    let relay = Relay::start().await;
    let line = connect(relay.addr, &identity(), Purpose::Pair).await.expect("a connection");
    assert_eq!(code(&line.connection).await, CloseCode::HelloTimeout);
}

#[tokio::test]
async fn a_pairing_message_byte_by_byte_runs_out_of_time() {
    let relay = Relay::start().await;
    let link = relay.link().await;
    let line = connect(relay.addr, &identity(), Purpose::Pair).await.expect("a connection");
    let mut stream = Stream::open(&line.connection).await.expect("a stream");
    let body =
        pb::PairByLink { token: link.token.as_bytes().to_vec(), name: "a".into(), ..Default::default() };
    let message = frame(&pair_up(pb::pair_up::Body::Link(body)));
    let closed = drip(&line, &mut stream, &message, PAIRING_TIMEOUT / 20).await;
    assert_eq!(closed, CloseCode::HelloTimeout);
}

#[tokio::test]
async fn an_oversized_pairing_message_is_refused_by_its_length() {
    let relay = Relay::start().await;
    let line = connect(relay.addr, &identity(), Purpose::Pair).await.expect("a connection");
    let mut stream = Stream::open(&line.connection).await.expect("a stream");
    let name = "x".repeat(MAX_PAIRING);
    let huge = frame(&pair_up(pb::pair_up::Body::Link(pb::PairByLink { name, ..Default::default() })));
    stream.send_bytes(&huge[..2]).await.expect("written");
    assert_eq!(code(&line.connection).await, CloseCode::Protocol);
}

#[tokio::test]
async fn garbage_instead_of_pairing_is_refused() {
    let relay = Relay::start().await;
    let empty = frame(&pb::PairUp { body: None });
    let short = frame(&pair_up(pb::pair_up::Body::Link(pb::PairByLink {
        token: vec![7; 15],
        name: "a".into(),
        ..Default::default()
    })));
    let proof_first = frame(&pair_up(pb::pair_up::Body::Proof(pb::PairProof { proof: vec![0; 32] })));
    for bytes in [&[5, 0xff, 0xff, 0xff, 0xff, 0xff][..], &[0xff; 64], &empty, &short, &proof_first] {
        let line = connect(relay.addr, &identity(), Purpose::Pair).await.expect("a connection");
        let mut stream = Stream::open(&line.connection).await.expect("a stream");
        stream.send_bytes(bytes).await.expect("written");
        assert_eq!(code(&line.connection).await, CloseCode::Protocol, "{bytes:?}");
    }
}

#[tokio::test]
async fn a_stranger_gets_two_streams_and_no_more() {
    let relay = Relay::start().await;
    let line = connect(relay.addr, &identity(), Purpose::Pair).await.expect("a connection");
    let _two = (line.connection.open_bi().await.expect("one"), line.connection.open_bi().await.expect("two"));
    tokio::select! {
        biased;
        third = line.connection.open_bi() => assert!(third.is_err(), "a third stream"),
        closed = line.connection.closed() => drop(closed),
    }
    let uni = connect(relay.addr, &identity(), Purpose::Pair).await.expect("a connection");
    tokio::select! {
        biased;
        stream = uni.connection.open_uni() => assert!(stream.is_err(), "a unidirectional stream"),
        closed = uni.connection.closed() => drop(closed),
    }
}

#[tokio::test]
async fn a_strangers_datagrams_go_nowhere() {
    let relay = Relay::start().await;
    let witness = relay.guest("lobby").await;
    let line = connect(relay.addr, &identity(), Purpose::Pair).await.expect("a connection");
    line.connection.send_datagram(vec![1; 1000].into()).expect("queued");
    let told = tokio::select! {
        datagram = witness.line.connection.read_datagram() => panic!("forwarded: {datagram:?}"),
        code = code(&line.connection) => code,
    };
    assert_eq!(told, CloseCode::Protocol, "at once, before they fill a buffer");
    assert!(witness.is_here());
}

#[tokio::test]
async fn a_network_that_keeps_failing_is_refused_and_its_members_stay() {
    let relay = Relay::start().await;
    let member = relay.guest("lobby").await;
    let mut refused = false;
    for _ in 0..40 {
        match connect(relay.addr, &identity(), Purpose::Call).await {
            Ok(line) => assert_eq!(code(&line.connection).await, CloseCode::NotPaired),
            Err(ConnectionError::ConnectionClosed(close)) => {
                assert_eq!(close.error_code, quinn::TransportErrorCode::CONNECTION_REFUSED, "{close}");
                refused = true;
                break;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused, "forty strangers in a row from one address");
    assert!(member.is_here());
}

// ---- Load ----

#[tokio::test]
async fn a_member_gets_in_by_a_retry_while_strangers_crowd_the_door() {
    let relay = Relay::start().await;
    let member = relay.device().await;
    let mut strangers = Vec::new();
    // Handshakes that are done and say nothing: under way for five seconds.
    for _ in 0..40 {
        strangers.push(connect(relay.addr, &identity(), Purpose::Pair).await.expect("a connection"));
    }
    let guest = Guest::join(relay.addr, &member, "lobby").await.expect("a member");
    assert!(guest.is_here());
    let waiting = strangers.iter().filter(|s| s.connection.close_reason().is_none()).count();
    assert!(waiting > 32, "the door was crowded: {waiting}");
}

// ---- Administration ----

#[tokio::test]
async fn a_member_or_a_stranger_who_asks_for_invites_is_refused() {
    let relay = Relay::start().await;
    for (who, code_expected) in
        [(relay.device().await, CloseCode::NotAdmin), (identity(), CloseCode::NotPaired)]
    {
        let line = connect(relay.addr, &who, Purpose::Admin).await.expect("a connection");
        assert_eq!(code(&line.connection).await, code_expected);
    }
    assert_eq!(relay.ask(Request::Invites).await.expect("told")["links"], 0);
}

// ---- Old chat ----

#[tokio::test]
async fn old_chat_is_read_only_by_devices_that_may_be_in_the_room() {
    let relay = Relay::start().await;
    let bound = identity();
    let link = link_of(&relay.invite(Invite { rooms: vec!["team".into()], ..invite() }).await);
    pair_by_link(relay.addr, &bound, &link).await.expect("paired");
    for (who, room, expected) in [
        (relay.device().await, "lobby", None),
        (bound.clone(), "", None),
        (bound.clone(), "lobby", Some(CloseCode::OtherRoom)),
        (bound, "\u{202e}", Some(CloseCode::BadName)),
        (identity(), "lobby", Some(CloseCode::NotPaired)),
    ] {
        let line = connect(relay.addr, &who, Purpose::History).await.expect("a connection");
        let page = async {
            let mut stream = Stream::open(&line.connection).await?;
            let older = Some(pb::Older { before: u64::MAX, limit: 0 });
            let body = pb::history_up::Body::Older(pb::OlderOf { room: room.into(), older });
            stream.send(&pb::HistoryUp { body: Some(body) }).await?;
            stream.receive::<pb::HistoryDown>().await?.body
        };
        let page = page.await;
        assert_eq!(page.is_some(), expected.is_none(), "{room}: {page:?}");
        if let Some(expected) = expected {
            assert_eq!(code(&line.connection).await, expected, "{room}");
        }
    }
}

#[tokio::test]
async fn old_chat_is_read_at_the_relays_pace_and_others_write_meanwhile() {
    let relay = Relay::start().await;
    let (ann, eve) = (relay.device().await, relay.device().await);
    let writer = Guest::join(relay.addr, &ann, "lobby").await.expect("a member");
    let mut chat = writer.chat().await;
    let chat_up = |body| pb::ChatUp { body: Some(body) };
    chat.send(&chat_up(pb::chat_up::Body::Resume(pb::Resume::default()))).await.expect("sent");
    let line = connect(relay.addr, &eve, Purpose::History).await.expect("a connection");
    let mut reader = Stream::open(&line.connection).await.expect("a stream");
    let older = Some(pb::Older { before: u64::MAX, limit: 0 });
    let body = pb::history_up::Body::Older(pb::OlderOf { room: String::new(), older });
    let (begun, pages) = (Instant::now(), PAGE_RATE.1 + PAGE_RATE.0 / 2);
    for _ in 0..pages {
        reader.send(&pb::HistoryUp { body: Some(body.clone()) }).await.expect("sent");
    }
    let post = pb::Post { id: vec![1; 16], text: "hi".into() };
    chat.send(&chat_up(pb::chat_up::Body::Post(post))).await.expect("sent");
    while !matches!(
        chat.receive::<pb::ChatDown>().await.expect("the chat goes on").body,
        Some(pb::chat_down::Body::Ack(_))
    ) {}
    for _ in 0..pages {
        reader.receive::<pb::HistoryDown>().await.expect("each is answered");
    }
    assert!(begun.elapsed() >= Duration::from_millis(450), "half a second's after those at once");
    assert!(writer.is_here());
}

// ---- Links ----

#[tokio::test]
async fn a_used_token_lets_no_second_device_in() {
    let relay = Relay::start().await;
    let link = relay.link().await;
    let (ann, bob) = (identity(), identity());
    assert!(matches!(pair_by_link(relay.addr, &ann, &link).await, Ok(pb::pair_down::Body::Paired(_))));
    assert_eq!(refusal(pair_by_link(relay.addr, &bob, &link).await), pb::PairRefusal::Used);
    let refused = Guest::join(relay.addr, &bob, "lobby").await.err().expect("refused");
    assert_eq!(close_code(&refused), CloseCode::NotPaired);
}

#[tokio::test]
async fn one_token_raced_by_many_devices_lets_one_in() {
    let relay = Relay::start().await;
    let link = relay.link().await;
    let mut racers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (addr, link) = (relay.addr, link.clone());
        racers.spawn(async move { pair_by_link(addr, &identity(), &link).await });
    }
    let answers = racers.join_all().await;
    let paired = answers.iter().filter(|a| matches!(a, Ok(pb::pair_down::Body::Paired(_)))).count();
    assert_eq!((paired, relay.devices().await.len()), (1, 1), "{answers:?}");
}

#[tokio::test]
async fn an_expired_token_lets_nobody_in() {
    let mut relay = Relay::start().await;
    let link = relay.link().await;
    // The clock of a test cannot be moved, but what is written down can.
    relay.stop_and(|db| db.execute("UPDATE invite SET expires = 1000000000", [])).await;
    assert_eq!(refusal(pair_by_link(relay.addr, &identity(), &link).await), pb::PairRefusal::Expired);
}

#[tokio::test]
async fn a_foreign_a_guessed_and_a_cancelled_token_let_nobody_in() {
    let (relay, other) = (Relay::start().await, Relay::start().await);
    let foreign = other.link().await;
    let guessed = Link { token: Token::generate().expect("random"), ..relay.link().await };
    let cancelled = relay.link().await;
    relay.ask(Request::CancelInvites).await.expect("done");
    for link in [foreign, guessed, cancelled] {
        assert_eq!(refusal(pair_by_link(relay.addr, &identity(), &link).await), pb::PairRefusal::Unknown);
    }
    assert!(relay.devices().await.is_empty());
}

#[tokio::test]
async fn a_token_is_still_used_up_after_a_restart() {
    let mut relay = Relay::start().await;
    let (link, ann) = (relay.link().await, identity());
    assert!(matches!(pair_by_link(relay.addr, &ann, &link).await, Ok(pb::pair_down::Body::Paired(_))));
    relay.restart().await;
    assert_eq!(refusal(pair_by_link(relay.addr, &identity(), &link).await), pb::PairRefusal::Used);
    Guest::join(relay.addr, &ann, "lobby").await.expect("still a member");
}

#[tokio::test]
async fn an_invite_to_one_room_opens_no_other() {
    let relay = Relay::start().await;
    let answer = relay.invite(Invite { rooms: vec!["team".into()], ..invite() }).await;
    let ann = identity();
    match pair_by_link(relay.addr, &ann, &link_of(&answer)).await {
        Ok(pb::pair_down::Body::Paired(paired)) => assert_eq!(paired.rooms, ["team"]),
        other => panic!("{other:?}"),
    }
    for other in ["lobby", "TEAM", "team2"] {
        let refused = Guest::join(relay.addr, &ann, other).await.err().expect("refused");
        assert_eq!(close_code(&refused), CloseCode::OtherRoom, "{other}");
    }
    for own in ["team", ""] {
        assert_eq!(Guest::join(relay.addr, &ann, own).await.expect("a member").welcome.room, "team");
    }
}

#[tokio::test]
async fn a_name_that_misleads_the_operator_is_refused() {
    let relay = Relay::start().await;
    let link = relay.link().await;
    for name in ["", "\u{202e}nna", "a\nb", &"x".repeat(500)] {
        let line = connect(relay.addr, &identity(), Purpose::Pair).await.expect("a connection");
        let token = link.token.as_bytes().to_vec();
        let body = pb::PairByLink { token, name: name.into(), ..Default::default() };
        let answer = exchange(&line, &mut None, pb::pair_up::Body::Link(body)).await;
        assert_eq!(refusal(answer), pb::PairRefusal::Name, "{name:?}");
    }
    let paired = pair_by_link(relay.addr, &identity(), &link).await;
    assert!(matches!(paired, Ok(pb::pair_down::Body::Paired(_))), "the token was not used up: {paired:?}");
}

// ---- Codes ----

#[tokio::test]
async fn a_wrong_code_lets_nobody_in_and_the_third_burns_it() {
    let relay = Relay::start().await;
    let code = relay.code().await;
    let wrong: Code = other_code(&code);
    for _ in 0..3 {
        let answer = pair_by_code(relay.addr, &identity(), &wrong, relay.pin).await;
        assert_eq!(refusal(answer), pb::PairRefusal::Code);
    }
    let answer = pair_by_code(relay.addr, &identity(), &code, relay.pin).await;
    assert_eq!(refusal(answer), pb::PairRefusal::Code, "the right one after the burn");
    assert!(relay.devices().await.is_empty());
}

#[tokio::test]
async fn two_wrong_tries_leave_the_third_to_the_right_person() {
    let relay = Relay::start().await;
    let code = relay.code().await;
    for _ in 0..2 {
        let answer = pair_by_code(relay.addr, &identity(), &other_code(&code), relay.pin).await;
        assert_eq!(refusal(answer), pb::PairRefusal::Code);
    }
    let ann = identity();
    let answer = pair_by_code(relay.addr, &ann, &code, relay.pin).await;
    assert!(matches!(answer, Ok(pb::pair_down::Body::Paired(_))), "{answer:?}");
    Guest::join(relay.addr, &ann, "lobby").await.expect("a member");
    let again = pair_by_code(relay.addr, &identity(), &code, relay.pin).await;
    assert_eq!(refusal(again), pb::PairRefusal::Code, "good for one device");
}

#[tokio::test]
async fn a_code_that_was_never_given_out_looks_like_a_wrong_one() {
    let relay = Relay::start().await;
    for never in ["4-1234-5678", "99-0000-0000"] {
        let never: Code = never.parse().expect("a code");
        let line = connect(relay.addr, &identity(), Purpose::Pair).await.expect("a connection");
        let (_, share) = pake::Client::start(&never, identity().pin(), relay.pin);
        let body = pb::PairByCode {
            nameplate: never.nameplate().into(),
            share,
            name: "a".into(),
            ..Default::default()
        };
        let mut stream = None;
        let answer = exchange(&line, &mut stream, pb::pair_up::Body::Code(body)).await;
        assert!(matches!(answer, Ok(pb::pair_down::Body::Share(_))), "it goes on: {answer:?}");
        let proof = pb::pair_up::Body::Proof(pb::PairProof { proof: vec![0; 32] });
        assert_eq!(refusal(exchange(&line, &mut stream, proof).await), pb::PairRefusal::Code);
    }
}

#[tokio::test]
async fn guesses_cannot_be_made_side_by_side() {
    let relay = Relay::start().await;
    let code = relay.code().await;
    let start = |identity: &vchat_certs::identity::Identity| {
        let (client, share) = pake::Client::start(&code, identity.pin(), relay.pin);
        let nameplate = code.nameplate().into();
        (
            client,
            pb::pair_up::Body::Code(pb::PairByCode {
                nameplate,
                share,
                name: "a".into(),
                ..Default::default()
            }),
        )
    };
    let (ann, mallory) = (identity(), identity());
    let first = connect(relay.addr, &mallory, Purpose::Pair).await.expect("a connection");
    let mut stream = None;
    let answer = exchange(&first, &mut stream, start(&mallory).1).await;
    assert!(matches!(answer, Ok(pb::pair_down::Body::Share(_))), "{answer:?}");
    let second = connect(relay.addr, &ann, Purpose::Pair).await.expect("a connection");
    let answer = exchange(&second, &mut None, start(&ann).1).await;
    assert_eq!(refusal(answer), pb::PairRefusal::Busy);
    // Whoever holds the code's place without a word loses it, and no try is lost.
    assert_eq!(support::code(&first.connection).await, CloseCode::HelloTimeout);
    let answer = loop {
        match pair_by_code(relay.addr, &ann, &code, relay.pin).await {
            Ok(pb::pair_down::Body::Refused(r)) if r.why() == pb::PairRefusal::Busy => {}
            other => break other,
        }
    };
    assert!(matches!(answer, Ok(pb::pair_down::Body::Paired(_))), "{answer:?}");
}

#[tokio::test]
async fn a_man_in_the_middle_of_the_code_exchange_gets_nothing() {
    let relay = Relay::start().await;
    let code = relay.code().await;
    // The client saw Mallory's key in its handshake; he passes every message on over a connection of his own.
    let (ann, mallory) = (identity(), identity());
    let line = connect(relay.addr, &mallory, Purpose::Pair).await.expect("a connection");
    let (client, share) = pake::Client::start(&code, ann.pin(), mallory.pin());
    let nameplate = code.nameplate().into();
    let body = pb::PairByCode { nameplate, share, name: "ann".into(), ..Default::default() };
    let mut stream = None;
    let share = match exchange(&line, &mut stream, pb::pair_up::Body::Code(body)).await {
        Ok(pb::pair_down::Body::Share(share)) => share.share,
        other => panic!("{other:?}"),
    };
    // Not even the exporter of his own connection helps him.
    let (_, proof) = client.prove(&share, &exporter(&line.connection)).expect("a share");
    let answer = exchange(&line, &mut stream, pb::pair_up::Body::Proof(pb::PairProof { proof })).await;
    assert_eq!(refusal(answer), pb::PairRefusal::Code);
    assert!(relay.devices().await.is_empty());
}

#[tokio::test]
async fn a_proof_made_for_another_session_is_worth_nothing() {
    let relay = Relay::start().await;
    let (code, ann) = (relay.code().await, identity());
    let line = connect(relay.addr, &ann, Purpose::Pair).await.expect("a connection");
    let (client, share) = pake::Client::start(&code, ann.pin(), relay.pin);
    let nameplate = code.nameplate().into();
    let body = pb::PairByCode { nameplate, share, name: "ann".into(), ..Default::default() };
    let mut stream = None;
    let share = match exchange(&line, &mut stream, pb::pair_up::Body::Code(body)).await {
        Ok(pb::pair_down::Body::Share(share)) => share.share,
        other => panic!("{other:?}"),
    };
    // Right code, right keys, but the exporter of a session that somebody else has with the relay.
    let other = connect(relay.addr, &ann, Purpose::Pair).await.expect("a connection");
    let (_, proof) = client.prove(&share, &exporter(&other.connection)).expect("a share");
    let answer = exchange(&line, &mut stream, pb::pair_up::Body::Proof(pb::PairProof { proof })).await;
    assert_eq!(refusal(answer), pb::PairRefusal::Code);
}

#[tokio::test]
async fn a_malformed_share_costs_its_author_a_try() {
    let relay = Relay::start().await;
    let code = relay.code().await;
    for share in [vec![], vec![0x41; 5], [&[0x42][..], &[0; 32]].concat()] {
        let line = connect(relay.addr, &identity(), Purpose::Pair).await.expect("a connection");
        let nameplate = code.nameplate().into();
        let body = pb::PairByCode { nameplate, share, name: "a".into(), ..Default::default() };
        let answer = exchange(&line, &mut None, pb::pair_up::Body::Code(body)).await;
        assert_eq!(refusal(answer), pb::PairRefusal::Code);
    }
    let answer = pair_by_code(relay.addr, &identity(), &code, relay.pin).await;
    assert_eq!(refusal(answer), pb::PairRefusal::Code, "burnt");
}

// ---- Revocation ----

#[tokio::test]
async fn a_revoked_device_is_cut_off_at_once_and_does_not_come_back() {
    let relay = Relay::start().await;
    let (ann, other) = (relay.device().await, relay.guest("lobby").await);
    let first = Guest::join(relay.addr, &ann, "lobby").await.expect("a member");
    let second = Guest::join(relay.addr, &ann, "team").await.expect("a member");
    let pin = ann.pin().to_string();
    let answer = relay.ask(Request::Revoke { device: pin }).await.expect("done");
    assert_eq!(answer["cut"], 2);
    for guest in [&first, &second] {
        assert_eq!(code(&guest.line.connection).await, CloseCode::Revoked);
    }
    let refused = Guest::join(relay.addr, &ann, "lobby").await.err().expect("refused");
    assert_eq!(close_code(&refused), CloseCode::Revoked);
    assert!(other.is_here());
}

#[tokio::test]
async fn a_device_that_connects_while_it_is_revoked_does_not_slip_through() {
    let relay = Relay::start().await;
    // Fewer failures than make the relay refuse this network.
    for _ in 0..2 {
        let ann = relay.device().await;
        let (addr, pin) = (relay.addr, ann.pin().to_string());
        let joining = tokio::spawn(async move {
            let mut guests = Vec::new();
            for _ in 0..4 {
                guests.push(Guest::join(addr, &ann, "lobby").await);
            }
            guests
        });
        relay.ask(Request::Revoke { device: pin }).await.expect("done");
        for guest in joining.await.expect("no panic") {
            match guest {
                Ok(guest) => assert_eq!(code(&guest.line.connection).await, CloseCode::Revoked),
                Err(error) => assert_eq!(close_code(&error), CloseCode::Revoked),
            }
        }
    }
}

#[tokio::test]
async fn a_revoked_device_cannot_pair_again_with_a_link_it_still_has() {
    let relay = Relay::start().await;
    let link = link_of(&relay.invite(Invite { uses: 5, ..invite() }).await);
    let ann = identity();
    assert!(matches!(pair_by_link(relay.addr, &ann, &link).await, Ok(pb::pair_down::Body::Paired(_))));
    relay.ask(Request::Revoke { device: ann.pin().to_string() }).await.expect("done");
    assert_eq!(refusal(pair_by_link(relay.addr, &ann, &link).await), pb::PairRefusal::Revoked);
    let refused = Guest::join(relay.addr, &ann, "lobby").await.err().expect("refused");
    assert_eq!(close_code(&refused), CloseCode::Revoked);
}

// ---- Members that misbehave ----

#[tokio::test]
async fn an_oversized_hello_is_refused_by_its_length() {
    let relay = Relay::start().await;
    let line = connect(relay.addr, &relay.device().await, Purpose::Call).await.expect("a connection");
    let mut stream = Stream::open(&line.connection).await.expect("a stream");
    let huge = pb::Hello { room: "x".repeat(MAX_HELLO), ..pb::Hello::default() };
    let huge = frame(&control_up(pb::client_control::Body::Hello(huge)));
    stream.send_bytes(&[&[STREAM_CONTROL][..], &huge[..3]].concat()).await.expect("written");
    assert_eq!(code(&line.connection).await, CloseCode::Protocol);
}

#[tokio::test]
async fn a_silent_member_is_not_waited_for() {
    let relay = Relay::start().await;
    let line = connect(relay.addr, &relay.device().await, Purpose::Call).await.expect("a connection");
    assert_eq!(code(&line.connection).await, CloseCode::HelloTimeout);
}

#[tokio::test]
async fn a_slow_hello_runs_out_of_time() {
    let relay = Relay::start().await;
    let line = connect(relay.addr, &relay.device().await, Purpose::Call).await.expect("a connection");
    let mut stream = Stream::open(&line.connection).await.expect("a stream");
    let message = [&[STREAM_CONTROL][..], &hello("lobby")].concat();
    let closed = drip(&line, &mut stream, &message, HELLO_TIMEOUT / 10).await;
    assert_eq!(closed, CloseCode::HelloTimeout);
}

#[tokio::test]
async fn a_stream_hoarder_gets_four() {
    let relay = Relay::start().await;
    let guest = relay.guest("lobby").await;
    let mut held = Vec::new();
    // Control is the first; the allowance for the others comes with the welcome.
    for n in 2..=4 {
        let stream = tokio::time::timeout(PATIENCE, guest.line.connection.open_bi()).await;
        held.push(stream.unwrap_or_else(|_| panic!("stream {n}")).expect("open"));
    }
    let fifth = tokio::time::timeout(Duration::from_millis(300), guest.line.connection.open_bi()).await;
    assert!(fifth.is_err(), "a fifth stream");
    assert!(guest.is_here());
}

#[tokio::test]
async fn a_datagram_flood_is_cut_down_and_harms_nobody() {
    let relay = Relay::start().await;
    let witness = relay.listener("lobby").await;
    let flooder = relay.speaker("lobby").await;
    let track = flooder.welcome.you.as_ref().expect("described").tracks[0].id;
    let track = u16::try_from(track).expect("a track").to_be_bytes();
    // Small sound, as fast as it goes for a second and a half.
    let begun = Instant::now();
    let (mut sent, mut heard) = (0_u32, 0_u32);
    while begun.elapsed() < Duration::from_millis(1500) {
        for _ in 0..20 {
            let number = sent.to_be_bytes();
            let datagram =
                [&[0, 0, 2, track[0], track[1]][..], &number, &[0, 0, 0, 1, 0, 0, 0], &[0; 6], &[7]].concat();
            sent += u32::from(flooder.line.connection.send_datagram(datagram.into()).is_ok());
        }
        loop {
            tokio::select! {
                biased;
                Ok(_) = witness.line.connection.read_datagram() => heard += 1,
                () = std::future::ready(()) => break,
            }
        }
        tokio::task::yield_now().await;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let allowed = f64::from(MEDIA_RATE.1) + seconds * f64::from(MEDIA_RATE.0);
    assert!(heard > 0 && f64::from(heard) <= allowed, "{heard} of {sent} came through in {seconds:.1} s");
    let chat = &mut witness.chat().await;
    let resume = pb::chat_up::Body::Resume(pb::Resume::default());
    chat.send(&pb::ChatUp { body: Some(resume) }).await.expect("written");
    let answer = chat.receive::<pb::ChatDown>().await.expect("served");
    assert!(matches!(answer.body, Some(pb::chat_down::Body::History(_))));
    assert!(witness.is_here() && flooder.is_here(), "too much is dropped, not punished");
}

#[tokio::test]
async fn one_device_cannot_take_all_places() {
    let relay = Relay::start().await;
    let (mallory, ann) = (relay.device().await, relay.device().await);
    let mut held = Vec::new();
    let refused = loop {
        match Guest::join(relay.addr, &mallory, &format!("room {}", held.len())).await {
            Ok(guest) => held.push(guest),
            Err(error) => break close_code(&error),
        }
        assert!(held.len() <= 16, "more than sixteen");
    };
    assert_eq!((refused, held.len()), (CloseCode::TooFast, 16));
    Guest::join(relay.addr, &ann, "lobby").await.expect("others come in");
}

// ---- The relay's key ----

#[tokio::test]
async fn a_false_receipt_for_the_next_key_does_not_hasten_the_change() {
    let relay = Relay::start().await;
    let (mut ann, _bob) = (relay.guest("lobby").await, relay.device().await);
    relay.ask(Request::RotateKey { now: false }).await.expect("begun");
    let next = loop {
        match ann.control.receive::<pb::RelayControl>().await.expect("here").body {
            Some(pb::relay_control::Body::NextKey(next)) if !next.spki.is_empty() => break next,
            _ => {}
        }
    };
    let announced = vchat_certs::rotation::NextKey { spki: next.spki, signature: next.signature };
    let pin = announced.verify(relay.pin).expect("proved");
    for stored in [vec![], vec![7; 32], relay.pin.0.to_vec(), pin.0[..31].to_vec()] {
        let stored = pb::client_control::Body::NextKeyStored(pb::NextKeyStored { pin: stored });
        ann.control.send(&control_up(stored)).await.expect("written");
    }
    // A receipt that counts comes last, so all before it have been looked at when it has.
    let stored = pb::client_control::Body::NextKeyStored(pb::NextKeyStored { pin: pin.0.to_vec() });
    for _ in 0..3 {
        ann.control.send(&control_up(stored.clone())).await.expect("written");
    }
    let key = loop {
        let key = relay.ask(Request::Key).await.expect("told");
        if key["next"]["known_by"] != 0 {
            break key;
        }
    };
    assert_eq!((&key["next"]["known_by"], &key["next"]["devices"]), (&1.into(), &2.into()), "{key}");
    assert_eq!(key["pin"], relay.pin.to_string(), "Bob has not heard of it");
    assert_ne!(pin, Pin([0; 32]));
}

/// The same nameplate with other digits.
fn other_code(code: &Code) -> Code {
    let other = if code.to_string().ends_with('0') { '1' } else { '0' };
    let text = code.to_string();
    format!("{}{other}", &text[..text.len() - 1]).parse().expect("a code")
}

/// Sends a message byte by byte with pauses, all but the last, until the relay has had enough.
async fn drip(line: &Line, stream: &mut Stream, message: &[u8], pause: Duration) -> CloseCode {
    let drip = async {
        for byte in &message[..message.len() - 1] {
            if stream.send_bytes(&[*byte]).await.is_none() {
                break;
            }
            tokio::time::sleep(pause).await;
        }
    };
    tokio::select! {
        code = code(&line.connection) => code,
        () = drip => code(&line.connection).await,
    }
}
