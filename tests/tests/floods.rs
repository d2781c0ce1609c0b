//! A relay under a flood of first packets.

use clap::Parser;
use vchat_tests::bench::FloodOptions;
use vchat_tests::bench::flood::flood;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: FloodOptions,
}

/// Nothing about speed: a busy machine may lose media, and an attacker may be slower than told.
#[test]
fn a_call_goes_on_and_devices_come_in_during_a_flood() -> anyhow::Result<()> {
    for kind in ["spoofed", "garbage"] {
        let options =
            ["flood", "--rate", "500", "--seconds", "1", "--members", "2", "--kind", kind].map(String::from);
        let [before, during, after] = flood(&Cli::try_parse_from(options)?.options)?;
        assert!(during.attacked() > 0 && before.attacked() + after.attacked() == 0, "{kind}");
        for part in [before, during, after] {
            assert!(part.lost() < 0.9, "{kind}: the call stopped, {} lost", part.lost());
            assert!(part.joined() > 0, "{kind}: nobody came in");
        }
    }
    Ok(())
}
