//! The memory that a process has.

use anyhow::Context;

/// What of a process's memory is in RAM, in bytes.
pub(super) fn size(process: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{process}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    parse(&text).with_context(|| format!("{path} has no VmRSS as proc(5) says"))
}

fn parse(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resident_size_is_found() {
        assert_eq!(parse("Name:\tx\nVmHWM:\t  900 kB\nVmRSS:\t  812 kB\nThreads:\t1\n"), Some(812 * 1024));
        assert_eq!(parse("Name:\tx\n"), None);
        assert!(size(std::process::id()).expect("readable") > 1 << 20);
    }
}
