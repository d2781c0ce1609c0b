//! Links, codes, fingerprints and announcements; and the codes that a relay has given out.

use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use vchat_certs::authority::Authority;
use vchat_certs::code::Code;
use vchat_certs::codes::{Attempt, Begin, LIFETIME, OpenCodes, TRIES};
use vchat_certs::invite::Link;
use vchat_certs::pake;
use vchat_certs::pin::Pin;
use vchat_certs::rotation::NextKey;

/// What is taken as a link, a code, a relay or a fingerprint reads back from its text; no share and no announcement made up from
/// bytes convinces anybody.
pub fn trust(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(link) = text.parse::<Link>() {
        assert!(link.to_string().parse() == Ok(link));
    }
    if let Ok(code) = text.parse::<Code>() {
        assert!(code.to_string().parse() == Ok(code));
    }
    if let Ok(relay) = text.parse::<Authority>() {
        assert_eq!(relay.to_string().parse(), Ok(relay));
    }
    if let Ok(pin) = text.parse::<Pin>() {
        assert_eq!(pin.to_string().parse(), Ok(pin));
    }
    let (spki, signature) = data.split_at(data.len().min(44));
    let said = NextKey { spki: spki.to_vec(), signature: signature.to_vec() };
    assert!(said.verify(Pin([0; 32])).is_err());
    let Ok(code) = "4-1234-5678".parse::<Code>() else { return };
    let (share, proof) = data.split_at(data.len().min(33));
    if let Ok((relay, _)) = pake::Relay::answer(&code, Pin([1; 32]), Pin([2; 32]), share, &[3; 32]) {
        assert!(relay.check(proof).is_err());
    }
}

#[derive(Arbitrary, Debug)]
enum Step {
    Pass(u16),
    Issue,
    Begin(u8),
    Wrong(u8),
    Redeem(u8),
    Abandon(u8),
}

/// A code is redeemed at most once, in its time, and not after its last try; one attempt at a code is under way at a time.
pub fn codes(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let mut codes: OpenCodes<usize> = OpenCodes::default();
    let (start, mut seconds) = (Instant::now(), 0);
    // Of each code: when it was made, how often it was tried in vain, whether it was redeemed.
    let mut made: Vec<(u64, u8, bool)> = Vec::new();
    let mut nameplates = [None; 100];
    let mut attempts: Vec<(Attempt, usize)> = Vec::new();
    while !input.is_empty()
        && let Ok(step) = Step::arbitrary(&mut input)
    {
        let now = start + Duration::from_secs(seconds);
        let open =
            |made: &(u64, u8, bool)| seconds < made.0 + LIFETIME.as_secs() && made.1 < TRIES && !made.2;
        let pick = |attempts: &mut Vec<(Attempt, usize)>, n: u8| {
            (!attempts.is_empty()).then(|| attempts.swap_remove(usize::from(n) % attempts.len()))
        };
        match step {
            Step::Pass(more) => seconds += u64::from(more % 300),
            Step::Issue => {
                if let Ok(code) = codes.issue(now, made.len()) {
                    nameplates[usize::from(code.nameplate())] = Some(made.len());
                    made.push((seconds, 0, false));
                }
            }
            Step::Begin(nameplate) => {
                let nameplate = nameplate % 100;
                if let Begin::Open(attempt, _) = codes.begin(now, nameplate.into()) {
                    let code = nameplates[usize::from(nameplate)].expect("given out");
                    assert!(open(&made[code]));
                    assert!(attempts.iter().all(|(_, c)| *c != code || !open(&made[*c])), "side by side");
                    attempts.push((attempt, code));
                }
            }
            Step::Wrong(n) => {
                if let Some((attempt, code)) = pick(&mut attempts, n) {
                    codes.wrong(attempt);
                    made[code].1 += 1;
                }
            }
            Step::Redeem(n) => {
                if let Some((attempt, code)) = pick(&mut attempts, n) {
                    let good = open(&made[code]);
                    assert_eq!(codes.redeem(now, attempt), good.then_some(code));
                    made[code].2 = true;
                }
            }
            Step::Abandon(n) => {
                if let Some((attempt, _)) = pick(&mut attempts, n) {
                    codes.abandon(attempt);
                }
            }
        }
        assert!(codes.len(now) <= made.len());
    }
}
