use clap::Parser;

use super::*;
use crate::control::Invite;

fn flags(args: &[&str]) -> Flags {
    Flags::try_parse_from(std::iter::once("vchatd").chain(args.iter().copied())).expect("good flags")
}

fn home() -> Dirs {
    Dirs { home: Some("/home/ann".into()), ..Dirs::default() }
}

fn merged(args: &[&str], text: &str) -> Result<Config, ConfigError> {
    merge(flags(args), parse(Path::new("x.toml"), text)?, home())
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let config = merged(&[], "").expect("defaults");
    assert_eq!(config.listen, [SocketAddr::from(([0_u16; 8], 4433))]);
    assert_eq!(config.state_dir, Path::new("/home/ann/.local/state/vchatd"));
    assert_eq!(config.control, Path::new("/home/ann/.local/state/vchatd/control.sock"));
    assert_eq!((config.mdns, config.trust_on_first_use, config.public), (Mdns::Auto, false, None));
    let file = "listen = ['1.2.3.4:5', '[::1]:6']\nstate-dir = '/var/x'\nlog = 'json'\ncontrol = '/run/x'
        public = 'relay.example'\nmdns = 'off'\ntrust-on-first-use = true";
    let config = merged(&["--listen", "9.9.9.9:9"], file).expect("good");
    assert_eq!(config.listen, [SocketAddr::from(([9, 9, 9, 9], 9))]);
    assert_eq!((config.state_dir.as_path(), config.log), (Path::new("/var/x"), LogFormat::Json));
    assert_eq!((config.control.as_path(), config.mdns), (Path::new("/run/x"), Mdns::Off));
    assert_eq!(config.public.as_deref(), Some("relay.example"));
    assert!(config.trust_on_first_use);
    let config = merged(&["--listen", "1.1.1.1:1", "run", "--log", "text"], file).expect("good");
    assert_eq!((config.listen.len(), config.log), (1, LogFormat::Text));
    let config = merged(&["run", "--public", "b:7", "--control", "/c"], file).expect("good");
    assert_eq!(config.public.as_deref(), Some("b:7"));
    assert_eq!((config.control.as_path(), config.listen.len()), (Path::new("/c"), 2));
}

#[test]
fn systemd_names_the_directories() {
    let dirs =
        || Dirs { state: Some("/var/lib/vchatd".into()), runtime: Some("/run/vchatd".into()), home: None };
    let config = merge(flags(&[]), File::default(), dirs()).expect("good");
    assert_eq!(config.state_dir, Path::new("/var/lib/vchatd"));
    assert_eq!(config.control, Path::new("/run/vchatd/control.sock"));
    let own = merge(flags(&["--state-dir", "/tmp/x"]), File::default(), dirs()).expect("good");
    assert_eq!(own.control, Path::new("/tmp/x/control.sock"), "another relay than the service's");
    let nowhere = merge(flags(&[]), File::default(), Dirs::default());
    assert!(matches!(nowhere, Err(ConfigError::NoStateDir)));
}

#[test]
fn a_wrong_file_is_told_with_its_line() {
    let why = merged(&[], "\nlistne = []").expect_err("unknown key").to_string();
    assert!(why.contains("x.toml") && why.contains("line 2") && why.contains("listne"), "{why}");
    let why = merged(&[], "listen = ['nonsense']").expect_err("no address").to_string();
    assert!(why.contains("line 1"), "{why}");
    for (wrong, named) in [
        ("public = 'a b'", "a b"),
        ("chat-days = 0", "chat-days is 0"),
        ("chat-days = 40000", "40000"),
        ("chat-days = -1", "-1"),
        ("chat-lines = 0", "chat-lines is 0"),
        ("max-participants = 300", "1 to 256"),
        ("max-clients = 0", "1 to 4096"),
        ("max-client-kbps = 10", "200"),
        ("max-mbps = 0", "the least is 1"),
        ("max-memory-mib = 1", "the least is 8"),
        ("max-rooms = 'all'", "string"),
        ("mdns = 'maybe'", "maybe"),
        ("metrics = 'nonsense'", "socket address"),
        ("log = 1", "string"),
    ] {
        let why = merged(&[], &format!("# a comment\n{wrong}\n")).expect_err(wrong).to_string();
        assert!(why.contains("x.toml") && why.contains("line 2") && why.contains(named), "{why}");
    }
}

#[test]
fn what_check_config_prints_is_a_configuration() {
    let file = "listen = ['1.2.3.4:5', '[::1]:6']\nstate-dir = '/var/x \"y\"'\nlog = 'json'
        public = 'relay.example'\nchat-days = 7\nchat-lines = 5\nmetrics = '[::1]:9433'
        max-rooms = 9\nmax-mbps = 100";
    let config = merged(&["check-config"], file).expect("good");
    assert_eq!((config.chat_age, config.chat_lines), (Duration::from_secs(7 * 24 * 3600), 5));
    assert_eq!(merged(&[], &config.to_string()).expect("good"), config, "{config}");
    let defaults = merged(&[], "").expect("good");
    assert_eq!(merged(&[], &defaults.to_string()).expect("good"), defaults, "{defaults}");
    assert!(merged(&["check-config", "--chat-days", "3"], file).is_ok_and(|c| c.chat_age == DAY * 3));
}

fn asked(args: &[&str]) -> (Request, Output) {
    flags(args).command.and_then(Command::request).expect("a request")
}

#[test]
fn commands_are_requests() {
    let day = Invite { uses: 1, ttl_s: 86_400, ..Invite::default() };
    assert_eq!(asked(&["invite"]), (Request::Invite(day.clone()), Output::Text));
    let team = Invite { rooms: vec!["team".into(), "b".into()], uses: 5, ttl_s: 1800, ..Invite::default() };
    let args = ["invite", "--room", "team", "--room", "b", "--uses", "5", "--ttl", "30m", "--json"];
    assert_eq!(asked(&args), (Request::Invite(team), Output::Json));
    let code = Invite { code: true, admin: true, ..day.clone() };
    assert_eq!(asked(&["invite", "--code", "--admin"]).0, Request::Invite(code));
    let host = Invite { host: Some("A:7".into()), ..day };
    assert_eq!(asked(&["invite", "--host", "A:7", "--qr"]), (Request::Invite(host), Output::Qr));
    assert_eq!(asked(&["devices"]), (Request::Devices, Output::Text));
    assert_eq!(asked(&["devices", "--json"]), (Request::Devices, Output::Json));
    assert_eq!(asked(&["devices", "list", "--json"]), (Request::Devices, Output::Json));
    let rename = Request::Rename { device: "a".into(), name: "b c".into() };
    assert_eq!(asked(&["devices", "rename", "a", "b c"]).0, rename);
    assert_eq!(asked(&["devices", "revoke", "a"]).0, Request::Revoke { device: "a".into() });
    assert_eq!(asked(&["status"]), (Request::Status, Output::Text));
    assert_eq!(asked(&["status", "--json"]), (Request::Status, Output::Json));
    let qlog = |device: &str, seconds| Request::Qlog { device: device.into(), seconds };
    assert_eq!(asked(&["qlog", "ann"]), (qlog("ann", 60), Output::Text));
    assert_eq!(asked(&["qlog", "ann", "--for", "5m", "--json"]), (qlog("ann", 300), Output::Json));
    assert_eq!(asked(&["key"]).0, Request::Key);
    assert_eq!(asked(&["key", "rotate", "--now"]).0, Request::RotateKey { now: true });
    let history = Request::History { room: "team".into(), before: Some(9), limit: 50 };
    assert_eq!(asked(&["history", "team", "--before", "9"]), (history, Output::Text));
    assert_eq!(asked(&["restart"]), (Request::Restart, Output::Text));
    assert_eq!(asked(&["backup"]), (Request::Backup { dir: None, keep: 7 }, Output::Text));
    let elsewhere = Request::Backup { dir: Some("/srv/backups".into()), keep: 30 };
    assert_eq!(asked(&["backup", "/srv/backups", "--keep", "30", "--json"]), (elsewhere, Output::Json));
    let here = std::env::current_dir().expect("a directory").join("b").to_string_lossy().into_owned();
    assert_eq!(asked(&["backup", "b"]).0, Request::Backup { dir: Some(here), keep: 7 });
    assert_eq!(asked(&["invites"]).0, Request::Invites);
    assert_eq!(asked(&["invites", "cancel"]).0, Request::CancelInvites);
    assert!(flags(&["run"]).command.and_then(Command::request).is_none());
}

#[test]
fn what_makes_no_sense_is_refused() {
    for args in [
        &["invite", "--ttl", "24"][..],
        &["invite", "--ttl", ""],
        &["invite", "--ttl", "é"],
        &["invite", "--ttl", "99999999999999999d"],
        &["invite", "--code", "--uses", "2"],
        &["invite", "--code", "--ttl", "1h"],
        &["invite", "--uses", "-1"],
        &["invite", "--uses", "0"],
        &["invite", "--uses", "1001"],
        &["invite", "--ttl", "59s"],
        &["invite", "--ttl", "91d"],
        &["invite", "--room", " "],
        &["invite", "--host", "a b"],
        &["devices", "rename", "a"],
        &["invites", "burn"],
        &["history"],
        &["history", " "],
        &["history", "a", "--limit", "0"],
        &["backup", "a", "b"],
        &["backup", "--keep", "0"],
        &["run", "--chat-days", "0"],
        &["run", "--chat-lines", "0"],
        &["run", "--max-participants", "257"],
        &["run", "--max-mbps", "0"],
        &["run", "--max-memory-mib", "x"],
        &["--metrics", "localhost"],
        &["qlog"],
        &["qlog", "ann", "--for", "2h"],
        &["--public", "a b"],
    ] {
        let all = std::iter::once("vchatd").chain(args.iter().copied());
        assert!(Flags::try_parse_from(all).is_err(), "{args:?}");
    }
}
