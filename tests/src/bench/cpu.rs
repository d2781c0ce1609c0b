//! The time that a process has computed.

use std::time::Duration;

use anyhow::Context;

/// User and system time of a process and all its threads so far, to a hundredth of a second.
pub(super) fn used(process: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{process}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let ticks = parse(&text).with_context(|| format!("{path} is not as proc(5) says: {text:?}"))?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// Fields 14 (`utime`) and 15 (`stime`) of `/proc/PID/stat`, added up. Field 2 is the program's name in brackets, which
/// may have blanks and brackets in it.
fn parse(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(14 - 3);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(ticks()? + ticks()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_are_found_behind_any_name() {
        let rest = "S 1 2 2 0 -1 4194304 5 6 7 8 1234 66 9 10 20 0 3 0 77 0 0";
        for name in ["vchatd", "a b", "evil) S 1 (name"] {
            assert_eq!(parse(&format!("4321 ({name}) {rest}")), Some(1300), "{name}");
        }
        for broken in ["", "4321 (vchatd", "4321 (vchatd) S 1 2", "4321 (x) S 1 2 2 0 -1 4 5 6 7 8 x 66"] {
            assert_eq!(parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn computing_takes_time() {
        let before = used(std::process::id()).expect("readable");
        let mut sum = 0_u64;
        while used(std::process::id()).expect("readable") == before {
            sum = (0..100_000).fold(sum, u64::wrapping_add);
        }
        assert!(used(u32::MAX).is_err(), "{sum}");
    }
}
