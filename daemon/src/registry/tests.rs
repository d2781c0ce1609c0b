use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use vchat_certs::codes::LIFETIME;
use vchat_certs::invite::Token;
use vchat_certs::pin::Pin;
use vchat_proto::id::{DisplayName, RoomName};

use super::*;

const NOW: u64 = 1_800_000_000_000;
const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;
const ANN: Pin = Pin([1; 32]);
const BOB: Pin = Pin([2; 32]);
const EVE: Pin = Pin([3; 32]);

fn ledger() -> (Ledger, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    (Ledger::open(dir.path()).expect("begun"), dir)
}

fn name(text: &str) -> DisplayName {
    DisplayName::parse(text).expect("a name")
}

fn room(text: &str) -> RoomName {
    RoomName::parse(text).expect("a name")
}

fn member(rooms: &[&str]) -> Grant {
    Grant { role: Role::Member, rooms: rooms.iter().map(|r| room(r)).collect() }
}

fn link(ledger: &mut Ledger, uses: u32, grant: &Grant) -> Token {
    ledger.invite(NOW, DAY, uses, grant, None).expect("made").secret
}

fn redeem(ledger: &mut Ledger, now: u64, token: &Token, pin: Pin) -> Result<Device, Refusal> {
    ledger.redeem_link(now, token, pin, &name("somebody")).map(|(device, _)| device)
}

fn room_of(ledger: &mut Ledger, token: &Token, pin: Pin) -> Option<RoomName> {
    ledger.redeem_link(NOW, token, pin, &name("somebody")).expect("let in").1
}

fn is_member(ledger: &Ledger, pin: Pin) -> bool {
    matches!(ledger.admission(pin).expect("read"), Admission::Member(_))
}

#[test]
fn a_link_lets_one_device_in_and_only_once() {
    let (mut ledger, _dir) = ledger();
    let token = link(&mut ledger, 1, &member(&[]));
    assert!(ledger.admission(ANN).expect("read") == Admission::Unknown);
    let device = redeem(&mut ledger, NOW, &token, ANN).expect("let in");
    assert!(
        device.pin == ANN && device.role == Role::Member && device.rooms.is_empty() && device.created == NOW
    );
    assert!(matches!(redeem(&mut ledger, NOW, &token, BOB), Err(Refusal::Used)));
    assert!(is_member(&ledger, ANN) && !is_member(&ledger, BOB));
}

#[test]
fn the_device_whose_answer_got_lost_may_ask_again_even_when_the_time_is_over() {
    let (mut ledger, _dir) = ledger();
    let token = link(&mut ledger, 2, &member(&[]));
    for now in [NOW, NOW + 1, NOW + 2 * DAY] {
        redeem(&mut ledger, now, &token, ANN).expect("let in");
    }
    assert!(matches!(redeem(&mut ledger, NOW + DAY, &token, BOB), Err(Refusal::Expired)), "no use was lost");
    redeem(&mut ledger, NOW + DAY - 1, &token, BOB).expect("the second use");
}

#[test]
fn a_link_of_several_uses_lets_as_many_in() {
    let (mut ledger, _dir) = ledger();
    let token = link(&mut ledger, 3, &member(&[]));
    for n in 0..3 {
        redeem(&mut ledger, NOW, &token, Pin([10 + n; 32])).expect("let in");
    }
    assert!(matches!(redeem(&mut ledger, NOW, &token, ANN), Err(Refusal::Used)));
}

#[test]
fn a_foreign_or_made_up_token_is_unknown() {
    let (mut one, _dir) = ledger();
    let (mut other, _dir) = ledger();
    let token = link(&mut other, 1, &member(&[]));
    assert!(matches!(redeem(&mut one, NOW, &token, ANN), Err(Refusal::Unknown)));
    let made_up = Token::from_bytes(&[0; 16]).expect("16 bytes");
    assert!(matches!(redeem(&mut one, NOW, &made_up, ANN), Err(Refusal::Unknown)));
}

#[test]
fn the_token_itself_is_nowhere_on_the_disk() {
    let (mut ledger, dir) = ledger();
    let token = link(&mut ledger, 1, &member(&[]));
    redeem(&mut ledger, NOW, &token, ANN).expect("let in");
    drop(ledger);
    let mut files = 0;
    for entry in std::fs::read_dir(dir.path()).expect("listed") {
        let path = entry.expect("an entry").path();
        let bytes = std::fs::read(&path).expect("read");
        assert!(!bytes.windows(16).any(|w| w == token.as_bytes()), "{}", path.display());
        let mode = std::fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", path.display());
        files += 1;
    }
    assert!(files >= 2);
}

#[test]
fn what_was_answered_survives_a_crash() {
    let (mut ledger, dir) = ledger();
    let token = link(&mut ledger, 1, &member(&["team"]));
    redeem(&mut ledger, NOW, &token, ANN).expect("let in");
    // As a crash leaves it: nothing is closed, and the log has not been written back.
    let copy = tempfile::tempdir().expect("a directory");
    for entry in std::fs::read_dir(dir.path()).expect("listed") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("copied");
    }
    let mut again = Ledger::open(copy.path()).expect("opened");
    let Admission::Member(device) = again.admission(ANN).expect("read") else { panic!("gone") };
    assert!(device.rooms == [room("team")]);
    assert!(matches!(redeem(&mut again, NOW, &token, BOB), Err(Refusal::Used)));
}

#[test]
fn an_invite_binds_to_its_rooms_and_another_one_adds_to_them() {
    let (mut ledger, _dir) = ledger();
    let (team, club, any) = (member(&["team"]), member(&["club", "den"]), member(&[]));
    let tokens = [&team, &club, &team, &any, &team].map(|grant| link(&mut ledger, 1, grant));
    let device = redeem(&mut ledger, NOW, &tokens[0], ANN).expect("let in");
    assert!(
        device.may_enter(&room("team"))
            && !device.may_enter(&room("lobby"))
            && !device.may_enter(&room("club"))
    );
    let device = redeem(&mut ledger, NOW, &tokens[1], ANN).expect("let in");
    assert!(device.rooms == [room("club"), room("den"), room("team")]);
    // What gives nothing new is not used up.
    redeem(&mut ledger, NOW, &tokens[2], ANN).expect("a member");
    redeem(&mut ledger, NOW, &tokens[2], BOB).expect("still good");
    let device = redeem(&mut ledger, NOW, &tokens[3], ANN).expect("let in");
    assert!(device.rooms.is_empty() && device.may_enter(&room("lobby")));
    let device = redeem(&mut ledger, NOW, &tokens[4], ANN).expect("a member");
    assert!(device.rooms.is_empty(), "an invite to one room does not take the others away");
}

#[test]
fn a_member_opens_an_old_link_to_come_in_not_to_be_let_in() {
    let (mut ledger, _dir) = ledger();
    let (first, old) = (link(&mut ledger, 1, &member(&[])), link(&mut ledger, 1, &member(&[])));
    redeem(&mut ledger, NOW, &first, ANN).expect("let in");
    redeem(&mut ledger, NOW + 2 * DAY, &old, ANN).expect("a member");
    redeem(&mut ledger, NOW, &Token::from_bytes(&[9; 16]).expect("16 bytes"), ANN).expect("a member");
}

#[test]
fn an_administrator_stays_one_and_a_member_can_become_one() {
    let (mut ledger, _dir) = ledger();
    let admin = Grant { role: Role::Admin, rooms: vec![] };
    let (first, plain) = (link(&mut ledger, 2, &admin), link(&mut ledger, 2, &member(&["team"])));
    assert_eq!(redeem(&mut ledger, NOW, &first, ANN).expect("let in").role, Role::Admin);
    assert_eq!(redeem(&mut ledger, NOW, &plain, ANN).expect("a member").role, Role::Admin);
    assert_eq!(redeem(&mut ledger, NOW, &plain, BOB).expect("let in").role, Role::Member);
    let device = redeem(&mut ledger, NOW, &first, BOB).expect("let in");
    assert!(device.role == Role::Admin && device.rooms.is_empty());
}

#[test]
fn a_revoked_device_comes_back_only_by_an_invite_made_afterwards() {
    let (mut ledger, _dir) = ledger();
    let token = link(&mut ledger, 2, &member(&[]));
    let second = link(&mut ledger, 1, &member(&[]));
    redeem(&mut ledger, NOW, &token, ANN).expect("let in");
    let revoked = ledger.revoke(NOW + 5, "somebody").expect("one of that name");
    assert_eq!((revoked.pin == ANN, revoked.revoked), (true, Some(NOW + 5)));
    assert!(ledger.admission(ANN).expect("read") == Admission::Revoked);
    for old in [&token, &second] {
        assert!(matches!(redeem(&mut ledger, NOW + 6, old, ANN), Err(Refusal::Revoked)));
    }
    assert_eq!(ledger.revoke(NOW + 9, "somebody").expect("there").revoked, Some(NOW + 5), "once");
    let fresh = ledger.invite(NOW + 10, DAY, 1, &member(&["team"]), None).expect("made").secret;
    let device = redeem(&mut ledger, NOW + 11, &fresh, ANN).expect("let in");
    assert!(device.revoked.is_none() && device.rooms == [room("team")] && device.created == NOW + 11);
    assert!(is_member(&ledger, ANN));
    ledger.revoke(NOW + 12, "somebody").expect("there");
    assert!(matches!(redeem(&mut ledger, NOW + 13, &fresh, ANN), Err(Refusal::Revoked)));
}

#[test]
fn devices_are_found_by_name_or_by_how_their_fingerprint_begins() {
    let (mut ledger, _dir) = ledger();
    let token = link(&mut ledger, 3, &member(&[]));
    for (pin, called) in [(ANN, "ann"), (BOB, "bob"), (EVE, "bob")] {
        ledger.redeem_link(NOW, &token, pin, &name(called)).expect("let in");
    }
    let text = BOB.to_string();
    assert!(ledger.rename("ann", &name("Ann, laptop")).expect("found").name == "Ann, laptop");
    assert!(matches!(ledger.rename("bob", &name("x")), Err(SelectError::Several(_, 2))));
    assert!(matches!(ledger.rename("ann", &name("x")), Err(SelectError::None(_))));
    assert!(matches!(ledger.rename(&text[..3], &name("x")), Err(SelectError::None(_))), "too short");
    assert!(matches!(ledger.rename("", &name("x")), Err(SelectError::None(_))));
    for which in [text.clone(), text.to_uppercase(), text.replace('-', ""), text[..6].to_owned()] {
        assert!(ledger.rename(&which, &name("bob")).expect("found").pin == BOB, "{which}");
    }
    let names: Vec<String> = ledger.devices().expect("read").into_iter().map(|d| d.name).collect();
    assert_eq!(names, ["Ann, laptop", "bob", "bob"]);
}

#[test]
fn the_first_person_is_invited_until_there_is_one() {
    let (mut ledger, _dir) = ledger();
    let at = Instant::now();
    assert!(ledger.needs_first_invite(NOW, at).expect("read"));
    let token = ledger.invite(NOW, HOUR, 1, &member(&[]), None).expect("made").secret;
    assert!(!ledger.needs_first_invite(NOW, at).expect("read"), "one is open");
    assert!(ledger.needs_first_invite(NOW + HOUR, at).expect("read"), "nobody came");
    redeem(&mut ledger, NOW, &token, ANN).expect("let in");
    assert!(!ledger.needs_first_invite(NOW + HOUR, at).expect("read"));
    ledger.revoke(NOW, "somebody").expect("there");
    assert!(!ledger.needs_first_invite(NOW + DAY, at).expect("read"), "a relay has one first person");
}

#[test]
fn open_invites_are_counted_and_can_be_taken_back() {
    let (mut ledger, _dir) = ledger();
    let at = Instant::now();
    let (one, two) = (link(&mut ledger, 1, &member(&[])), link(&mut ledger, 2, &member(&[])));
    let code = ledger.invite_by_code(NOW, at, member(&[])).expect("made");
    assert_eq!(code.expires, NOW + 600_000);
    redeem(&mut ledger, NOW, &one, ANN).expect("let in");
    assert_eq!(ledger.open_invites(NOW, at).expect("read"), OpenInvites { links: 1, codes: 1 });
    assert_eq!(
        ledger.open_invites(NOW + DAY, at + LIFETIME).expect("read"),
        OpenInvites { links: 0, codes: 0 }
    );
    assert_eq!(ledger.cancel_invites(NOW, at).expect("done"), OpenInvites { links: 1, codes: 1 });
    assert!(matches!(redeem(&mut ledger, NOW, &two, BOB), Err(Refusal::Unknown)));
    assert!(is_member(&ledger, ANN), "who is in stays in");
    let CodeBegin::With { made_up, .. } = ledger.begin_code(at, code.secret.nameplate()).expect("random")
    else {
        panic!("busy")
    };
    assert!(made_up);
}

#[test]
fn a_code_lets_one_device_in() {
    let (mut ledger, _dir) = ledger();
    let at = Instant::now();
    let code = ledger.invite_by_code(NOW, at, member(&["team"])).expect("made").secret;
    let CodeBegin::With { attempt, code: expected, made_up: false } =
        ledger.begin_code(at, code.nameplate()).expect("random")
    else {
        panic!("not open")
    };
    assert!(expected == code);
    assert!(matches!(ledger.begin_code(at, code.nameplate()), Ok(CodeBegin::Busy)));
    let (device, to) = ledger.redeem_code(NOW, at, attempt, ANN, &name("ann")).expect("let in");
    assert!(to == Some(room("team")));
    assert!(device.rooms == [room("team")] && is_member(&ledger, ANN));
    // Afterwards the nameplate looks like one that never was: an exchange with a code that nobody has.
    let CodeBegin::With { code: decoy, made_up: true, .. } =
        ledger.begin_code(at, code.nameplate()).expect("random")
    else {
        panic!("open again")
    };
    assert!(decoy != code);
    assert!(matches!(ledger.begin_code(at, code.nameplate()), Ok(CodeBegin::Busy)), "as one that is open");
}

#[test]
fn a_code_that_is_over_during_the_exchange_lets_nobody_in() {
    let (mut ledger, _dir) = ledger();
    let at = Instant::now();
    let code = ledger.invite_by_code(NOW, at, member(&[])).expect("made").secret;
    let just = at + LIFETIME - Duration::from_millis(1);
    let CodeBegin::With { attempt, made_up: false, .. } =
        ledger.begin_code(just, code.nameplate()).expect("random")
    else {
        panic!("not open")
    };
    let late = ledger.redeem_code(NOW, at + LIFETIME, attempt, ANN, &name("ann"));
    assert!(matches!(late, Err(Refusal::Code)) && !is_member(&ledger, ANN));
}

#[test]
fn first_use_takes_keys_until_there_is_no_room() {
    let (mut ledger, _dir) = ledger();
    let Admission::Member(device) = ledger.admission_on_first_use(NOW, ANN).expect("written") else {
        panic!("no room")
    };
    assert!(device.role == Role::Member && is_member(&ledger, ANN));
    ledger.revoke(NOW, &ANN.to_string()).expect("there");
    assert!(ledger.admission_on_first_use(NOW, ANN).expect("read") == Admission::Revoked, "and stays so");
    let back = ledger.invite(NOW + 1, DAY, 1, &member(&[]), None).expect("made").secret;
    ledger.redeem_link(NOW + 1, &back, ANN, &name("newcomer")).expect("let in");
    ledger.name_newcomer(ANN, &name("ann")).expect("written");
    ledger.name_newcomer(ANN, &name("another")).expect("written");
    assert_eq!(ledger.devices().expect("read")[0].name, "ann", "named once");
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4999)
        INSERT INTO device (pin, name, admin, created) SELECT randomblob(32), 'x', 0, 0 FROM n";
    ledger.db.execute(fill, []).expect("filled");
    assert!(ledger.admission_on_first_use(NOW, BOB).expect("read") == Admission::Unknown);
    let token = link(&mut ledger, 3, &member(&[]));
    redeem(&mut ledger, NOW, &token, EVE).expect("who is invited finds room");
    ledger.db.execute(fill, []).expect("filled");
    assert!(matches!(redeem(&mut ledger, NOW, &token, BOB), Err(Refusal::Full)));
    redeem(&mut ledger, NOW, &token, ANN).expect("who is known stays known");
    ledger.db.execute("UPDATE device SET revoked = ?1 WHERE name = 'x'", [NOW - 89 * DAY]).expect("written");
    assert!(matches!(redeem(&mut ledger, NOW, &token, BOB), Err(Refusal::Full)));
    // Those that were revoked so long ago that no link from before is good make way.
    ledger.db.execute("UPDATE device SET revoked = ?1 WHERE name = 'x'", [NOW - 91 * DAY]).expect("written");
    redeem(&mut ledger, NOW, &token, BOB).expect("room again");
}

#[test]
fn it_is_known_who_has_the_next_key() {
    let (mut ledger, _dir) = ledger();
    let token = link(&mut ledger, 3, &member(&[]));
    for pin in [ANN, BOB, EVE] {
        ledger.redeem_link(NOW, &token, pin, &name(&pin.to_string()[..8])).expect("let in");
    }
    let next = Pin([7; 32]);
    assert_eq!(ledger.next_key_known(next).expect("read"), (0, 3));
    ledger.next_key_stored(ANN, next).expect("written");
    ledger.next_key_stored(BOB, Pin([8; 32])).expect("written");
    assert_eq!(ledger.next_key_known(next).expect("read"), (1, 3));
    ledger.revoke(NOW, &EVE.to_string()).expect("there");
    ledger.next_key_stored(BOB, next).expect("written");
    assert_eq!(ledger.next_key_known(next).expect("read"), (2, 2), "who is not let in is not waited for");
}

#[test]
fn an_invite_says_which_room_to_go_to_now() {
    let (mut ledger, _dir) = ledger();
    let (team, club, any) = (member(&["team"]), member(&["club"]), member(&[]));
    let tokens = [&team, &club, &any].map(|grant| link(&mut ledger, 1, grant));
    let rooms = tokens.each_ref().map(|token| room_of(&mut ledger, token, ANN));
    assert!(rooms == [Some(room("team")), Some(room("club")), None]);
    assert!(room_of(&mut ledger, &tokens[1], ANN) == Some(room("club")), "also when it is opened again");
}

#[test]
fn the_links_of_an_administrator_end_with_its_device_and_are_not_without_end() {
    let (mut ledger, _dir) = ledger();
    let first = link(&mut ledger, 1, &Grant { role: Role::Admin, rooms: vec![] });
    redeem(&mut ledger, NOW, &first, ANN).expect("let in");
    let made: Vec<Token> =
        (0..200).map(|_| ledger.invite(NOW, DAY, 5, &member(&[]), Some(ANN)).expect("made").secret).collect();
    assert!(ledger.invite(NOW, DAY, 1, &member(&[]), Some(ANN)).is_err(), "enough");
    let operators = link(&mut ledger, 1, &member(&[]));
    redeem(&mut ledger, NOW, &made[0], BOB).expect("let in");
    ledger.revoke(NOW, &ANN.to_string()).expect("there");
    assert!(matches!(redeem(&mut ledger, NOW, &made[0], EVE), Err(Refusal::Unknown)));
    assert!(matches!(redeem(&mut ledger, NOW, &made[1], EVE), Err(Refusal::Unknown)));
    redeem(&mut ledger, NOW, &operators, EVE).expect("the operator's are good");
    assert!(is_member(&ledger, BOB), "who came in stays in");
}

#[test]
fn a_device_that_was_revoked_long_ago_stays_on_the_list_while_there_is_room() {
    let (mut ledger, _dir) = ledger();
    let token = link(&mut ledger, 2, &member(&[]));
    redeem(&mut ledger, NOW, &token, ANN).expect("let in");
    ledger.revoke(NOW, &ANN.to_string()).expect("there");
    let later = NOW + 100 * DAY;
    let fresh = ledger.invite(later, DAY, 1, &member(&[]), None).expect("made").secret;
    redeem(&mut ledger, later, &fresh, BOB).expect("let in");
    assert!(ledger.admission(ANN).expect("read") == Admission::Revoked);
}

#[test]
fn an_invite_adds_to_what_a_member_may_do_by_link_and_by_code() {
    let (mut ledger, _dir) = ledger();
    let at = Instant::now();
    let plain = link(&mut ledger, 1, &member(&[]));
    let admin = link(&mut ledger, 1, &Grant { role: Role::Admin, rooms: vec![] });
    redeem(&mut ledger, NOW, &plain, ANN).expect("let in");
    assert_eq!(redeem(&mut ledger, NOW, &admin, ANN).expect("a member").role, Role::Admin);

    let mut by_code = |now: u64, rooms: &[&str]| {
        let code = ledger.invite_by_code(now, at, member(rooms)).expect("made").secret;
        let CodeBegin::With { attempt, .. } = ledger.begin_code(at, code.nameplate()).expect("random") else {
            panic!("busy")
        };
        let device = ledger.redeem_code(now, at, attempt, BOB, &name("bob")).expect("let in").0;
        if rooms == ["club"] {
            ledger.revoke(now, &BOB.to_string()).expect("there");
        }
        device
    };
    assert!(by_code(NOW, &["team"]).rooms == [room("team")]);
    assert!(by_code(NOW, &["club"]).rooms == [room("club"), room("team")]);
    let back = by_code(NOW, &["team"]);
    assert!(back.revoked.is_none() && back.rooms == [room("team")], "who was revoked begins anew");
}

#[test]
fn who_is_seen_twice_a_minute_is_written_down_once() {
    let (mut ledger, _dir) = ledger();
    let token = link(&mut ledger, 1, &member(&[]));
    redeem(&mut ledger, NOW, &token, ANN).expect("let in");
    let at = |now: u64| {
        ledger.seen(now, ANN).expect("written");
        ledger.devices().expect("read")[0].last_seen
    };
    assert_eq!(at(NOW), Some(NOW));
    assert_eq!(at(NOW + 59_000), Some(NOW));
    assert_eq!(at(NOW + 61_000), Some(NOW + 61_000));
}

#[test]
fn one_directory_serves_one_relay() {
    let (ledger, dir) = ledger();
    let text = format!("{:#}", Ledger::open(dir.path()).err().expect("refused"));
    assert!(text.contains("another vchatd") && text.contains("--state-dir"), "{text}");
    drop(ledger);
    Ledger::open(dir.path()).expect("free again");
}

#[test]
fn a_file_of_a_later_version_or_of_something_else_is_left_alone() {
    let (ledger, dir) = ledger();
    ledger.db.pragma_update(None, "user_version", 99).expect("written");
    drop(ledger);
    let text = format!("{:#}", Ledger::open(dir.path()).err().expect("refused"));
    assert!(text.contains("vchatd.db") && text.contains("later") && text.contains("99"), "{text}");
    let path = dir.path().join("vchatd.db");
    std::fs::write(&path, "no database at all, but long enough to look at\n".repeat(100)).expect("written");
    let before = std::fs::read(&path).expect("read");
    let text = format!("{:#}", Ledger::open(dir.path()).err().expect("refused"));
    assert!(text.contains("vchatd.db"), "{text}");
    assert_eq!(std::fs::read(&path).expect("read"), before);
}

#[test]
fn numbers_are_kept_and_forgotten() {
    let (ledger, _dir) = ledger();
    assert_eq!(ledger.number("x").expect("read"), None);
    ledger.set_number("x", Some(7)).expect("written");
    ledger.set_number("x", Some(8)).expect("written");
    assert_eq!(ledger.number("x").expect("read"), Some(8));
    ledger.set_number("x", None).expect("written");
    assert_eq!(ledger.number("x").expect("read"), None);
}

#[tokio::test]
async fn questions_are_answered_in_turn() {
    let (ledger, _dir) = ledger();
    let (registry, ended) = Registry::start(ledger).expect("a thread");
    let token = registry.ask(|l| link(l, 1, &member(&[]))).await.expect("running");
    registry.tell(move |l| drop(redeem(l, NOW, &token, ANN)));
    assert!(registry.ask(|l| is_member(l, ANN)).await.expect("running"));
    drop(registry);
    ended.await.expect_err("the other end is dropped");
}
