//! The longer measurements, shortly: that nothing is lost, nothing about speed.

use clap::Parser;
use vchat_tests::bench::posts::chat;
use vchat_tests::bench::soak::soak;
use vchat_tests::bench::{ChatOptions, SoakOptions};

#[derive(Parser)]
struct Soak {
    #[command(flatten)]
    options: SoakOptions,
}

#[derive(Parser)]
struct Chat {
    #[command(flatten)]
    options: ChatOptions,
}

#[test]
fn while_others_come_and_go_in_every_way_nobody_who_stays_loses_anything() -> anyhow::Result<()> {
    let soak = soak(&Soak::try_parse_from(["soak", "--minutes", "0.15", "--clients", "8"])?.options)?;
    assert_eq!((soak.losses(), soak.surprises()), (&[][..], &[][..]));
    assert!(soak.joins() > 0 && soak.lines() > 8, "{} joins, {} lines", soak.joins(), soak.lines());
    Ok(())
}

#[test]
fn many_who_write_at_once_have_every_line_stored_once_and_in_order() -> anyhow::Result<()> {
    let options = ["chat", "--rooms", "4", "--writers", "20", "--rate", "100", "--seconds", "1"];
    let [modest, fast] = chat(&Chat::try_parse_from(options)?.options)?;
    // As many as they may at once, and what comes in a second.
    assert!(modest.lines() >= 80 && fast.lines() >= 20 * 45, "{}, {}", modest.lines(), fast.lines());
    Ok(())
}
