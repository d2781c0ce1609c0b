use super::*;

fn settings() -> Settings {
    Settings {
        room: RoomName::parse("lobby").ok(),
        name: DisplayName::parse("ann").expect("a name"),
        publish: vec![pb::TrackKind::Camera],
        subscriptions: pb::Subscriptions { audio: true, video: true },
        media_state: pb::MediaState::default(),
        agent: "test".into(),
        instance: 1,
    }
}

fn drain(s: &mut Session) -> Vec<Output> {
    std::iter::from_fn(|| s.poll_output()).collect()
}

fn events(s: &mut Session) -> Vec<Event> {
    drain(s).into_iter().filter_map(|o| if let Output::Event(e) = o { Some(e) } else { None }).collect()
}

fn posts(outputs: &[Output]) -> Vec<u8> {
    let post = |o: &Output| match o {
        Output::Chat(pb::ChatUp { body: Some(pb::chat_up::Body::Post(p)) }) => Some(p.id[0]),
        _ => None,
    };
    outputs.iter().filter_map(post).collect()
}

fn relay(s: &mut Session, now: Instant, body: pb::relay_control::Body) {
    s.handle_control(now, MediaTime::default(), pb::RelayControl { body: Some(body) });
}

fn chat(s: &mut Session, body: pb::chat_down::Body) {
    s.handle_chat(pb::ChatDown { body: Some(body) });
}

fn line(seq: u64) -> pb::chat_down::Body {
    pb::chat_down::Body::Line(pb::Line {
        seq,
        id: vec![seq as u8; 16],
        text: "hi".into(),
        ..pb::Line::default()
    })
}

fn participant(id: u32, name: &str) -> pb::Participant {
    pb::Participant {
        id,
        name: name.into(),
        tracks: vec![pb::Track { id: id * 10, kind: 1 }],
        ..Default::default()
    }
}

fn welcome(s: &mut Session, now: Instant, you: u32, others: &[(u32, &str)]) {
    s.handle_connected();
    let others = others.iter().map(|(id, name)| participant(*id, name)).collect();
    relay(
        s,
        now,
        pb::relay_control::Body::Welcome(pb::Welcome {
            you: Some(participant(you, "ann")),
            others,
            room: "lobby".into(),
        }),
    );
}

fn joined(now: Instant) -> Session {
    let mut s = Session::new(settings());
    welcome(&mut s, now, 1, &[(2, "bob")]);
    drain(&mut s);
    s
}

#[test]
fn joining_says_hello_and_tells_who_is_there() {
    let mut s = Session::new(settings());
    assert_eq!(drain(&mut s), [Output::Connect]);
    s.handle_connected();
    let outputs = drain(&mut s);
    assert!(
        matches!(&outputs[0], Output::Control(pb::ClientControl { body: Some(pb::client_control::Body::Hello(h)) }) if h.name == "ann")
    );
    assert!(
        matches!(&outputs[1], Output::Chat(pb::ChatUp { body: Some(pb::chat_up::Body::Resume(r)) }) if r.after_seq == 0)
    );
    let now = Instant::now();
    let welcome = pb::Welcome {
        you: Some(participant(1, "ann")),
        others: vec![participant(2, "bob"), participant(3, "\u{202e}")],
        room: "lobby".into(),
    };
    relay(&mut s, now, pb::relay_control::Body::Welcome(welcome));
    let events = events(&mut s);
    assert!(
        matches!(&events[0], Event::Joined { me, gap: None } if me.id == ParticipantId(1) && me.tracks == [(TrackId(10), pb::TrackKind::Camera)])
    );
    assert!(matches!(&events[1], Event::PeerJoined(p) if p.name.as_str() == "bob"));
    assert_eq!(events.len(), 2, "a name that misleads is not shown");
}

#[test]
fn a_wrong_address_ends_the_session_but_a_lost_call_is_mended() {
    let now = Instant::now();
    let mut s = Session::new(settings());
    drain(&mut s);
    s.handle_disconnected(now, Loss::Network("timed out".into()));
    assert_eq!(events(&mut s), [Event::Ended(End::Unreachable("timed out".into()))]);

    let mut s = joined(now);
    s.handle_disconnected(now, Loss::Network("timed out".into()));
    assert_eq!(events(&mut s), [Event::Reconnecting("timed out".into())]);
    let mut at = now;
    for wait in [50, 100, 200, 400, 800, 1600, 2000, 2000] {
        let due = s.poll_timeout().expect("it tries again");
        assert!(
            (wait / 2..=wait).contains(&((due - at).as_millis() as u64)),
            "{:?}, at most {wait} ms",
            due - at
        );
        at = due;
        s.handle_timeout(at, MediaTime::default());
        assert_eq!(drain(&mut s), [Output::Connect]);
        s.handle_disconnected(at, Loss::Network("refused".into()));
        assert_eq!(drain(&mut s), [], "the user has been told");
    }
    at = s.poll_timeout().expect("it tries again");
    s.handle_timeout(at, MediaTime::default());
    drain(&mut s);
    welcome(&mut s, at, 7, &[(2, "eve")]);
    let events = events(&mut s);
    assert!(matches!(&events[0], Event::Joined { gap: Some(gap), .. } if *gap == at - now));
    assert_eq!(events[1], Event::PeerLeft(ParticipantId(2)), "the same number may be somebody else now");
    assert!(matches!(&events[2], Event::PeerJoined(p) if p.name.as_str() == "eve"));
}

#[test]
fn who_was_here_before_a_break_is_waited_for() {
    let now = Instant::now();
    let mut s = Session::new(settings());
    welcome(&mut s, now, 1, &[(2, "bob"), (3, "eve"), (4, "dan")]);
    relay(&mut s, now, pb::relay_control::Body::Seat(pb::Seat { proof: vec![7; 32] }));
    drain(&mut s);
    s.handle_disconnected(now, Loss::Network("timed out".into()));
    let at = s.poll_timeout().expect("it tries again");
    s.handle_timeout(at, MediaTime::default());
    drain(&mut s);
    s.handle_connected();
    let hello = hello(&drain(&mut s));
    assert_eq!((hello.participant, &hello.seat[..]), (1, &[7; 32][..]), "for the same number");
    welcome(&mut s, at, 1, &[(2, "bob")]);
    let told = events(&mut s);
    assert!(matches!(&told[1..], [Event::PeerChanged(p)] if p.name.as_str() == "bob"), "{told:?}");

    let later = at + Duration::from_millis(200);
    relay(&mut s, later, pb::relay_control::Body::Participant(participant(3, "eve")));
    assert_eq!(events(&mut s), [], "as if nothing had been");
    let mut due = later;
    while events(&mut s) != [Event::PeerLeft(ParticipantId(4))] {
        due = s.poll_timeout().expect("somebody is waited for");
        assert!(due <= at + Duration::from_secs(3));
        s.handle_timeout(due, MediaTime::default());
    }
    assert!(due - at > Duration::from_secs(1));
    relay(&mut s, due, pb::relay_control::Body::Left(pb::Left { participant: 3, reason: 1 }));
    assert_eq!(events(&mut s), [Event::PeerLeft(ParticipantId(3))]);
}

#[test]
fn another_process_takes_over_without_a_break() {
    let now = Instant::now();
    let mut s = joined(now);
    let at = MediaTime::from_micros(5_000_000);
    let pong = pb::ClockPong { sent_us: 4_990_000, relay_us: 10_000_000 };
    s.handle_control(now, at, pb::RelayControl { body: Some(pb::relay_control::Body::ClockPong(pong)) });
    s.say(ChatId([1; 16]), "before").expect("room");
    drain(&mut s);
    let go = pb::relay_control::Body::GoAway(pb::GoAway { at_us: 10_700_000 });
    let mut go_away = || s.handle_control(now, at, pb::RelayControl { body: Some(go.clone()) });
    go_away();
    go_away();
    assert_eq!(drain(&mut s), [Output::ConnectNext], "once");
    s.say(ChatId([2; 16]), "while it is made").expect("room");
    assert_eq!(drain(&mut s), [], "the old process would not store it");

    s.handle_next_disconnected(now);
    let again = now + Duration::from_secs(1);
    assert!(s.poll_timeout().is_some_and(|due| due < again));
    s.handle_timeout(again, at);
    assert!(drain(&mut s).contains(&Output::ConnectNext), "it tries again");
    s.handle_next_connected();
    s.say(ChatId([3; 16]), "on it").expect("room");
    let outputs = drain(&mut s);
    let post = |o: &Output| match o {
        Output::NextChat(pb::ChatUp { body: Some(pb::chat_up::Body::Post(p)) }) => Some(p.id[0]),
        _ => None,
    };
    assert!(
        matches!(&outputs[0], Output::NextControl(pb::ClientControl { body: Some(pb::client_control::Body::Hello(h)) }) if h.participant == 1)
    );
    assert_eq!(outputs.iter().filter_map(post).collect::<Vec<_>>(), [1, 2, 3]);

    let muted = pb::MediaState { muted: true, camera_off: false };
    s.set_view(again, vec![(ParticipantId(2), 180)]);
    s.set_media_state(muted);
    drain(&mut s);
    // The one of before still tells of the room.
    relay(&mut s, again, pb::relay_control::Body::Participant(participant(3, "eve")));
    assert!(matches!(&events(&mut s)[..], [Event::PeerJoined(_)]));
    let welcome = pb::Welcome {
        you: Some(pb::Participant { media_state: Some(pb::MediaState::default()), ..participant(1, "ann") }),
        others: vec![participant(2, "bob")],
        room: "lobby".into(),
    };
    s.handle_next_control(again, pb::RelayControl { body: Some(pb::relay_control::Body::Welcome(welcome)) });
    let outputs = drain(&mut s);
    let told: Vec<&Event> =
        outputs.iter().filter_map(|o| if let Output::Event(e) = o { Some(e) } else { None }).collect();
    let is_control = |o: &Output| matches!(o, Output::Control(_));
    let is_moved = |o: &Output| matches!(o, Output::Event(Event::Moved { .. }));
    let body = |o: &Output| match o {
        Output::Control(pb::ClientControl { body }) => body.clone(),
        _ => None,
    };
    let said: Vec<_> = outputs.iter().skip_while(|o| !is_moved(o)).filter_map(body).collect();
    assert_eq!(outputs.iter().filter(|o| is_control(o)).count(), said.len(), "nothing to the one of before");
    assert!(said.contains(&pb::client_control::Body::MediaState(muted)), "{said:?}");
    assert!(said.iter().any(|b| matches!(b, pb::client_control::Body::View(_))), "{said:?}");
    let when = MediaTime::from_micros(5_695_000);
    assert!(
        matches!(&told[..], [Event::Moved { me, at }, Event::PeerChanged(_)] if me.id.0 == 1 && at.micros_since(when).abs() < 10),
        "{told:?}"
    );
    let clock = |o: &Output| {
        matches!(o, Output::Control(pb::ClientControl { body: Some(pb::client_control::Body::Clock(_)) }))
    };
    assert!(outputs.iter().any(clock), "whose clock is known already");
    s.say(ChatId([4; 16]), "after").expect("room");
    assert_eq!(posts(&drain(&mut s)), [4]);
}

#[test]
fn a_refusal_and_a_changed_key_end_the_session() {
    let now = Instant::now();
    for (loss, end) in [
        (Loss::Closed(CloseCode::RoomFull), End::Refused(CloseCode::RoomFull)),
        (Loss::Untrusted("key".into()), End::Untrusted("key".into())),
    ] {
        let mut s = joined(now);
        s.handle_disconnected(now, loss);
        assert_eq!(events(&mut s), [Event::Ended(end)]);
        assert_eq!(s.poll_timeout(), None);
    }
    let mut s = joined(now);
    s.handle_disconnected(now, Loss::Closed(CloseCode::ShuttingDown));
    assert!(matches!(&events(&mut s)[..], [Event::Reconnecting(_)]));
}

#[test]
fn what_was_not_acknowledged_is_said_again() {
    let now = Instant::now();
    let mut s = joined(now);
    (1..=3).for_each(|n| s.say(ChatId([n; 16]), "hi").expect("room"));
    assert_eq!(posts(&drain(&mut s)), [1, 2, 3]);
    assert!(!s.all_is_said());
    chat(&mut s, pb::chat_down::Body::Ack(pb::Ack { id: vec![1; 16], seq: 8 }));
    chat(&mut s, pb::chat_down::Body::Refusal(pb::Refusal { id: vec![2; 16], reason: 3 }));
    assert_eq!(
        events(&mut s),
        [
            Event::ChatStored(ChatId([1; 16]), 8),
            Event::ChatRefused(ChatId([2; 16]), pb::RefusalReason::TooFast)
        ]
    );
    s.handle_disconnected(now, Loss::Network("lost".into()));
    s.say(ChatId([4; 16]), "while away").expect("room");
    assert_eq!(posts(&drain(&mut s)), []);
    s.handle_timeout(now + FIRST_RETRY, MediaTime::default());
    s.handle_connected();
    assert_eq!(posts(&drain(&mut s)), [3, 4]);
}

#[test]
fn a_first_hello_that_got_lost_is_said_again_some_times() {
    let now = Instant::now();
    let mut s = Session::new(settings());
    let unheard = |s: &mut Session| {
        drain(s);
        s.handle_connected();
        s.handle_disconnected(now, Loss::Closed(CloseCode::HelloTimeout));
    };
    unheard(&mut s);
    assert_eq!(events(&mut s), [], "nobody needs to know");
    let due = s.poll_timeout().expect("it tries again");
    s.handle_timeout(due, MediaTime::default());
    welcome(&mut s, due, 1, &[]);
    assert!(events(&mut s).iter().any(|e| matches!(e, Event::Joined { .. })));

    let mut s = Session::new(settings());
    for _ in 1..MAX_UNHEARD {
        unheard(&mut s);
        let due = s.poll_timeout().expect("it tries again");
        s.handle_timeout(due, MediaTime::default());
    }
    unheard(&mut s);
    assert_eq!(events(&mut s), [Event::Ended(End::Refused(CloseCode::HelloTimeout))]);
}

#[test]
fn who_lost_the_same_relay_comes_back_at_different_times_and_waits_ever_longer() {
    let now = Instant::now();
    let waits = |instance: u64| -> Vec<Duration> {
        let mut s = Session::new(Settings { instance, ..settings() });
        welcome(&mut s, now, 1, &[]);
        let lose = |_| {
            s.handle_disconnected(now, Loss::Network("lost".into()));
            let until = s.poll_timeout().expect("a time to try again");
            s.handle_timeout(until, MediaTime::default());
            until - now
        };
        (0..12).map(lose).collect()
    };
    let all: Vec<Vec<Duration>> = (0..100).map(|n| waits(n << 32)).collect();
    for waits in &all {
        assert!(waits[0] >= FIRST_RETRY / 2 && waits[0] <= FIRST_RETRY, "{waits:?}");
        assert!(
            waits[1] >= FIRST_RETRY && waits[11] >= LAST_RETRY / 2 && waits[11] <= LAST_RETRY,
            "{waits:?}"
        );
    }
    let early = all.iter().filter(|w| w[0] < FIRST_RETRY * 3 / 4).count();
    assert!((25..=75).contains(&early), "{early} of 100 in the first half of the time");
}

#[test]
fn lines_come_once_and_a_new_history_starts_over() {
    let now = Instant::now();
    let mut s = joined(now);
    chat(&mut s, pb::chat_down::Body::History(pb::History { id: 5, after_seq: 0 }));
    [1, 2, 2, 1, 3].into_iter().for_each(|seq| chat(&mut s, line(seq)));
    let seqs = |s: &mut Session| -> Vec<u64> {
        events(s)
            .into_iter()
            .filter_map(|e| if let Event::Chat(l) = e { Some(l.seq) } else { None })
            .collect()
    };
    assert_eq!(seqs(&mut s), [1, 2, 3]);
    s.handle_disconnected(now, Loss::Network("lost".into()));
    s.handle_timeout(now + FIRST_RETRY, MediaTime::default());
    s.handle_connected();
    let resumes = drain(&mut s);
    assert!(resumes.iter().any(|o| matches!(o, Output::Chat(pb::ChatUp { body: Some(pb::chat_up::Body::Resume(r)) }) if (r.history, r.after_seq) == (5, 3))));
    chat(&mut s, pb::chat_down::Body::History(pb::History { id: 6, after_seq: 0 }));
    chat(&mut s, line(1));
    assert_eq!(seqs(&mut s), [1]);
}

fn history(s: &mut Session, id: u64, after_seq: u64) {
    chat(s, pb::chat_down::Body::History(pb::History { id, after_seq }));
}

fn page(s: &mut Session, history: u64, before: u64, seqs: &[u64], more: bool) {
    let line = |seq: &u64| match line(*seq) {
        pb::chat_down::Body::Line(line) => line,
        _ => unreachable!("it is a line"),
    };
    let lines = seqs.iter().map(line).collect();
    chat(s, pb::chat_down::Body::Page(pb::Page { history, before, lines, more }));
}

/// What was asked for, as the number before which lines are wanted; and what was told, as numbers and whether there are more.
fn read(s: &mut Session) -> (Vec<u64>, Vec<(Vec<u64>, bool)>) {
    let (mut asked, mut told) = (Vec::new(), Vec::new());
    for output in drain(s) {
        match output {
            Output::Chat(pb::ChatUp { body: Some(pb::chat_up::Body::Older(older)) }) => {
                asked.push(older.before)
            }
            Output::Event(Event::ChatPage { lines, more }) => {
                told.push((lines.iter().map(|l| l.seq).collect(), more));
            }
            _ => {}
        }
    }
    (asked, told)
}

#[test]
fn older_lines_are_read_back_page_by_page_to_the_first() {
    let mut now = Instant::now();
    let mut s = joined(now);
    s.read_back(now);
    assert_eq!(read(&mut s), (vec![], vec![]), "where the chat begins is not known yet");
    history(&mut s, 5, 4);
    assert_eq!(events(&mut s), [Event::ChatBegins { lost: false, more: true }]);
    chat(&mut s, line(5));
    s.handle_timeout(now, MediaTime::default());
    assert_eq!(read(&mut s), (vec![5], vec![]));
    s.read_back(now);
    page(&mut s, 5, 4, &[3], true);
    assert_eq!(read(&mut s), (vec![], vec![]), "one at a time, and the one that was asked for");
    // What is doubled, out of place or not older is left out.
    page(&mut s, 5, 5, &[3, 3, 2, 4, 5, 9], true);
    assert_eq!(read(&mut s), (vec![], vec![(vec![3, 4], true)]));

    s.read_back(now);
    assert_eq!(read(&mut s).0, [0; 0], "sooner than the relay allows for good");
    now = s.poll_timeout().expect("it is kept").max(now + back_interval());
    s.handle_timeout(now, MediaTime::default());
    assert_eq!(read(&mut s).0, [3]);
    page(&mut s, 5, 3, &[1, 2], false);
    assert_eq!(read(&mut s), (vec![], vec![(vec![1, 2], false)]));
    s.read_back(now + back_interval());
    assert_eq!(read(&mut s), (vec![], vec![(vec![], false)]), "nothing is before the first");
}

fn back_interval() -> Duration {
    Duration::from_millis(250)
}

#[test]
fn a_page_that_does_not_come_is_told_and_one_lost_with_the_connection_is_asked_for_again() {
    let now = Instant::now();
    let mut s = joined(now);
    history(&mut s, 5, 4);
    s.read_back(now);
    assert_eq!(read(&mut s).0, [5]);
    s.handle_disconnected(now, Loss::Network("lost".into()));
    let at = now + FIRST_RETRY;
    s.handle_timeout(at, MediaTime::default());
    welcome(&mut s, at, 1, &[]);
    history(&mut s, 5, 3);
    s.handle_timeout(at + back_interval(), MediaTime::default());
    assert_eq!(read(&mut s), (vec![5], vec![]));
    s.handle_timeout(at + Duration::from_secs(10), MediaTime::default());
    assert_eq!(read(&mut s), (vec![], vec![(vec![], true)]), "an older relay does not know the question");
    page(&mut s, 5, 5, &[4], true);
    assert_eq!(read(&mut s).1, [], "too late");
}

#[test]
fn what_was_written_during_a_break_and_is_not_at_hand_is_read_back_to() {
    let now = Instant::now();
    let mut s = joined(now);
    history(&mut s, 5, 0);
    chat(&mut s, line(1));
    assert_eq!(events(&mut s)[0], Event::ChatBegins { lost: false, more: false });
    s.read_back(now);
    assert_eq!(read(&mut s).1, [(vec![], false)]);
    s.handle_disconnected(now, Loss::Network("lost".into()));
    s.handle_timeout(now + FIRST_RETRY, MediaTime::default());
    welcome(&mut s, now, 1, &[]);
    drain(&mut s);
    history(&mut s, 5, 1);
    assert_eq!(events(&mut s), [], "it goes on where it was");
    history(&mut s, 5, 7);
    assert_eq!(events(&mut s), [Event::ChatBegins { lost: false, more: true }]);
    s.read_back(now + back_interval());
    assert_eq!(read(&mut s).0, [8]);
    history(&mut s, 6, 2);
    page(&mut s, 6, 8, &[7], true);
    assert_eq!(events(&mut s), [Event::ChatBegins { lost: true, more: true }]);
    s.handle_timeout(now + back_interval(), MediaTime::default());
    assert_eq!(read(&mut s).0, [3], "of the chat that there is now");
    page(&mut s, 5, 3, &[1, 2], false);
    assert_eq!(read(&mut s).1, [(vec![], true)], "a page of another chat is of no use");
}

#[test]
fn texts_that_cannot_be_said_are_refused_at_once() {
    let mut s = joined(Instant::now());
    assert_eq!(s.say(ChatId([0; 16]), " \n"), Err(SayError::Empty));
    assert_eq!(s.say(ChatId([0; 16]), &"x".repeat(MAX_CHAT_TEXT + 1)), Err(SayError::TooLong));
    (0..MAX_OUTBOX).for_each(|n| s.say(ChatId([n as u8; 16]), "hi").expect("room"));
    assert_eq!(s.say(ChatId([200; 16]), "hi"), Err(SayError::Full));
}

#[test]
fn clocks_are_measured_published_and_compared() {
    let now = Instant::now();
    let mut s = joined(now);
    assert_eq!(s.clock_difference(ParticipantId(2)), None);
    let due = s.poll_timeout().expect("a ping");
    s.handle_timeout(due, MediaTime::from_micros(1000));
    assert!(
        matches!(&drain(&mut s)[..], [Output::Control(pb::ClientControl { body: Some(pb::client_control::Body::ClockPing(p)) })] if p.sent_us == 1000)
    );
    let pong = pb::relay_control::Body::ClockPong(pb::ClockPong { sent_us: 1000, relay_us: 51_100 });
    s.handle_control(due, MediaTime::from_micros(1200), pb::RelayControl { body: Some(pong) });
    let clock = pb::Clock { offset_us: 50_000, error_us: 100 };
    assert_eq!(
        drain(&mut s),
        [Output::Control(pb::ClientControl { body: Some(pb::client_control::Body::Clock(clock)) })]
    );
    let theirs = pb::Clock { offset_us: -7_000_000, error_us: 50 };
    relay(
        &mut s,
        due,
        pb::relay_control::Body::Participant(pb::Participant {
            clock: Some(theirs),
            ..participant(2, "bob")
        }),
    );
    assert_eq!(s.clock_difference(ParticipantId(2)), Some(-7_050_000));
}

#[test]
fn a_clock_that_cannot_be_is_as_good_as_none() {
    let now = Instant::now();
    let mut s = joined(now);
    s.handle_timeout(now, MediaTime::from_micros(1000));
    let pong = pb::relay_control::Body::ClockPong(pb::ClockPong { sent_us: 1000, relay_us: 51_100 });
    s.handle_control(now, MediaTime::from_micros(1200), pb::RelayControl { body: Some(pong) });
    for offset_us in [i64::MIN, i64::MAX] {
        let clock = Some(pb::Clock { offset_us, error_us: 0 });
        let news = pb::relay_control::Body::Participant(pb::Participant { clock, ..participant(2, "bob") });
        relay(&mut s, now, news);
        assert_eq!(s.clock_difference(ParticipantId(2)), None);
    }
}

#[test]
fn a_relay_cannot_make_up_more_people_than_a_room_holds() {
    let now = Instant::now();
    let mut s = joined(now);
    for id in 0..2 * MAX_PARTICIPANTS as u32 {
        let tracks = vec![pb::Track { id: 1, kind: 1 }; 10 * MAX_TRACKS];
        let crowd = pb::Participant { tracks, ..participant(id, "crowd") };
        relay(&mut s, now, pb::relay_control::Body::Participant(crowd));
    }
    let told = events(&mut s).into_iter().filter_map(|e| match e {
        Event::PeerJoined(peer) => Some(peer.tracks.len()),
        _ => None,
    });
    let tracks: Vec<usize> = told.collect();
    assert!(tracks.len() < MAX_PARTICIPANTS, "{} people", tracks.len());
    assert!(tracks.iter().all(|n| *n <= MAX_TRACKS));
}

#[test]
fn who_is_told_of_twice_is_there_once() {
    let mut s = Session::new(settings());
    drain(&mut s);
    welcome(&mut s, Instant::now(), 1, &[(2, "bob"), (2, "bob")]);
    let joined = |e: &Event| matches!(e, Event::PeerJoined(_));
    assert_eq!(events(&mut s).iter().filter(|e| joined(e)).count(), 1);
}

#[test]
fn an_author_has_a_name_that_can_be_shown() {
    let mut s = joined(Instant::now());
    for (seq, name) in [(1, "bob"), (2, "\u{1b}[2J"), (3, "")] {
        let line = pb::Line { seq, id: vec![seq as u8; 16], name: name.into(), ..pb::Line::default() };
        chat(&mut s, pb::chat_down::Body::Line(line));
    }
    let names: Vec<String> = events(&mut s)
        .into_iter()
        .filter_map(|e| if let Event::Chat(l) = e { Some(l.name) } else { None })
        .collect();
    assert_eq!(names, ["bob", "?", "?"]);
}

#[test]
fn only_our_own_tracks_are_asked_of_us() {
    let now = Instant::now();
    let mut s = joined(now);
    for track in [10, 20, u32::MAX] {
        relay(
            &mut s,
            now,
            pb::relay_control::Body::KeyFrameRequest(pb::KeyFrameRequest { track, decoded: None }),
        );
    }
    assert_eq!(events(&mut s), [Event::RefreshRequested(TrackId(10), None)]);
}

#[test]
fn what_is_asked_of_our_tracks_is_passed_on() {
    use pb::relay_control::Body;
    let now = Instant::now();
    let mut s = joined(now);
    let decoded = Some(7);
    relay(&mut s, now, Body::KeyFrameRequest(pb::KeyFrameRequest { track: 10, decoded }));
    relay(&mut s, now, Body::Wanted(pb::Wanted { track: 10, wanted: true }));
    relay(&mut s, now, Body::Wanted(pb::Wanted { track: 20, wanted: true }));
    relay(&mut s, now, Body::Audience(pb::Audience { loss_permille: 30, burst_ms: 40 }));
    let track = TrackId(10);
    assert_eq!(
        events(&mut s),
        [
            Event::RefreshRequested(track, Some(FrameId(7))),
            Event::TrackWanted(track, true),
            Event::Audience { loss_permille: 30, burst_ms: 40 }
        ]
    );
    s.request_refresh(TrackId(20), Some(FrameId(3)));
    let request = pb::KeyFrameRequest { track: 20, decoded: Some(3) };
    let body = Some(pb::client_control::Body::KeyFrameRequest(request));
    assert_eq!(drain(&mut s), [Output::Control(pb::ClientControl { body })]);
}

fn views(s: &mut Session) -> Vec<Vec<(u32, u32)>> {
    let view = |o: Output| match o {
        Output::Control(pb::ClientControl { body: Some(pb::client_control::Body::View(v)) }) => {
            Some(v.tiles.iter().map(|t| (t.participant, t.height)).collect())
        }
        _ => None,
    };
    drain(s).into_iter().filter_map(view).collect()
}

#[test]
fn the_view_is_told_when_it_changes_but_not_with_each_pixel() {
    let mut now = Instant::now();
    let mut s = joined(now);
    let view = |height| vec![(ParticipantId(3), 90), (ParticipantId(2), height)];
    s.set_view(now, view(1));
    assert_eq!(views(&mut s), [[(2, 1), (3, 90)]]);
    for height in 2..=100 {
        now += Duration::from_millis(16);
        s.set_view(now, view(height));
        s.handle_timeout(now, MediaTime::default());
    }
    let told = views(&mut s);
    assert!((6..=8).contains(&told.len()), "{} times", told.len());
    while told.last() != Some(&vec![(2, 100), (3, 90)]) {
        now = s.poll_timeout().expect("something is left to be told");
        s.handle_timeout(now, MediaTime::default());
        if let [last] = &views(&mut s)[..] {
            assert_eq!(last[..], [(2, 100), (3, 90)]);
            break;
        }
    }
    now += Duration::from_secs(1);
    s.set_view(now, view(100));
    assert_eq!(views(&mut s).len(), 0, "no news");
    s.handle_disconnected(now, Loss::Network("lost".into()));
    s.set_view(now, view(101));
    s.handle_timeout(now + FIRST_RETRY, MediaTime::default());
    assert_eq!(views(&mut s).len(), 0);
    welcome(&mut s, now + FIRST_RETRY, 1, &[(2, "bob")]);
    assert_eq!(views(&mut s), [[(2, 101), (3, 90)]], "the relay may be another");
}

#[test]
fn what_is_switched_while_joining_is_told_after_the_welcome() {
    let mut s = Session::new(settings());
    s.handle_connected();
    let on = pb::MediaState { muted: true, camera_off: false };
    s.set_media_state(on);
    let you = pb::Participant { media_state: Some(pb::MediaState::default()), ..participant(1, "ann") };
    let welcome = pb::Welcome { you: Some(you), others: vec![], room: "lobby".into() };
    relay(&mut s, Instant::now(), pb::relay_control::Body::Welcome(welcome));
    let told = |o: &Output| matches!(o, Output::Control(pb::ClientControl { body: Some(pb::client_control::Body::MediaState(m)) }) if *m == on);
    assert!(drain(&mut s).iter().any(told));
}

fn hello(outputs: &[Output]) -> pb::Hello {
    let hello = |o: &Output| match o {
        Output::Control(pb::ClientControl { body: Some(pb::client_control::Body::Hello(h)) }) => {
            Some(h.clone())
        }
        _ => None,
    };
    outputs.iter().find_map(hello).expect("a hello")
}

#[test]
fn who_names_no_room_learns_which_it_is_and_comes_back_to_it() {
    let now = Instant::now();
    let mut s = Session::new(Settings { room: None, ..settings() });
    s.handle_connected();
    assert_eq!(hello(&drain(&mut s)).room, "");
    let welcome =
        pb::Welcome { you: Some(participant(1, "ann")), room: "team".into(), ..pb::Welcome::default() };
    relay(&mut s, now, pb::relay_control::Body::Welcome(welcome));
    assert!(matches!(&events(&mut s)[0], Event::Joined { me, .. } if me.room.as_str() == "team"));
    s.handle_disconnected(now, Loss::Network("gone".into()));
    s.handle_timeout(s.poll_timeout().expect("it tries again"), MediaTime::default());
    s.handle_connected();
    assert_eq!(hello(&drain(&mut s)).room, "team");
}

#[test]
fn a_relay_that_does_not_want_the_device_is_not_asked_again() {
    let now = Instant::now();
    for code in [CloseCode::NotPaired, CloseCode::Revoked, CloseCode::OtherRoom] {
        let mut s = joined(now);
        s.handle_disconnected(now, Loss::Closed(code));
        assert_eq!(drain(&mut s), [Output::Event(Event::Ended(End::Refused(code)))]);
        assert_eq!(s.poll_timeout(), None);
    }
}

#[test]
fn the_relays_next_key_is_passed_on_and_its_storage_told() {
    let now = Instant::now();
    let mut s = joined(now);
    let next = pb::NextKey { spki: vec![1; 44], signature: vec![2; 64] };
    relay(&mut s, now, pb::relay_control::Body::NextKey(next));
    relay(&mut s, now, pb::relay_control::Body::NextKey(pb::NextKey::default()));
    let said = Event::NextKey(Some((vec![1; 44], vec![2; 64])));
    assert_eq!(events(&mut s), [said, Event::NextKey(None)]);
    s.next_key_stored([7; 32]);
    let stored = pb::client_control::Body::NextKeyStored(pb::NextKeyStored { pin: vec![7; 32] });
    assert_eq!(drain(&mut s), [Output::Control(pb::ClientControl { body: Some(stored) })]);
}
