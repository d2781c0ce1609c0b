//! A bad network between vchat clients and their relay.

use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use vchat_proto::units::Bitrate;
use vchat_tests::netem::{Proxy, Script, Settings, parse_burst, parse_duration, parse_percent, parse_rate};

/// Stands between clients and a relay and makes the network as bad as asked for, in both directions.
///
/// Point clients at the printed address instead of the relay. Every client gets a line of its own with these
/// properties. It runs until SIGTERM, Ctrl-C or --duration, and then prints to stderr what became of the packets.
#[derive(Parser)]
#[command(
    name = "vchat-netem",
    version,
    after_help = "Example: 5% loss in bursts of four, 50 ms round trip, 2 Mb/s:
  vchat-netem --listen 127.0.0.1:4500 --to 127.0.0.1:4433 --loss 5% --burst 4 --delay 25ms --rate 2M
  vchat-client --relay 127.0.0.1:4500

Lines of a script: TIME [up|down] key=value … in order of time, keys as the options above; `up` is towards
the relay, neither is both; `rate=none` lifts the limit; the word `rebind` gives every client another
address as the relay sees it, as a router does that has forgotten it; a last line `repeat TIME` starts over:
  0s   delay=25ms
  10s  down rate=500k
  20s  down rate=none
  repeat 30s"
)]
struct Args {
    /// Where clients connect to, HOST:PORT; port 0 takes a free one
    #[arg(short, long, value_name = "ADDR", value_parser = resolve)]
    listen: SocketAddr,
    /// The relay, HOST:PORT
    #[arg(short, long, value_name = "ADDR", value_parser = resolve)]
    to: SocketAddr,
    /// Share of packets that get lost
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = parse_percent)]
    loss: f64,
    /// Mean number of packets lost in a row; 1 for losses that are independent of each other
    #[arg(long, value_name = "PACKETS", default_value = "1", value_parser = parse_burst)]
    burst: f64,
    /// Time on the way, one way
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = parse_duration)]
    delay: Duration,
    /// How far the delay strays to either side; packets keep their order
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = parse_duration)]
    jitter: Duration,
    /// Bits per second that pass, such as 2M or 500k, IP headers included [default: unlimited]
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    rate: Option<Bitrate>,
    /// Longest wait for one's turn at that rate; packets beyond are dropped
    #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = parse_duration)]
    buffer: Duration,
    /// Share of packets held back so that later ones overtake them
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = parse_percent)]
    reorder: f64,
    /// Another seed gives another sequence of losses; the same repeats it
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Changes over time
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Ends by itself after this time
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    duration: Option<Duration>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    let script = match args.script.as_deref().map(read_script).transpose() {
        Ok(script) => script.unwrap_or_default(),
        Err(error) => return fail(&error, EXIT_USAGE),
    };
    match run(args, script).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, EXIT_FAILURE),
    }
}

async fn run(args: Args, script: Script) -> anyhow::Result<()> {
    let Args { listen, to, loss, burst, delay, jitter, rate, buffer, reorder, seed, duration, .. } = args;
    let settings = Settings { loss, burst, delay, jitter, rate, buffer, reorder };
    // Before the address is printed: whoever reads it may send a signal at once.
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let proxy = Proxy::bind(listen, to)
        .with_context(|| format!("cannot listen on {listen}: choose another address"))?;
    let running = proxy.with_settings(&settings).with_script(script).with_seed(seed).spawn()?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "listening on {}", running.address())?;
    stdout.flush()?;
    let end = async {
        match duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = end => {}
    }
    let report = running.stop().context("the proxy failed")?;
    writeln!(std::io::stderr(), "{report}")?;
    Ok(())
}

fn read_script(path: &std::path::Path) -> anyhow::Result<Script> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the script {}", path.display()))?;
    Script::parse(&text).with_context(|| format!("cannot use {}", path.display()))
}

fn resolve(text: &str) -> Result<SocketAddr, String> {
    let mut addresses =
        text.to_socket_addrs().map_err(|e| format!("{e}: give HOST:PORT, such as 127.0.0.1:4433"))?;
    addresses.next().ok_or_else(|| format!("{text} has no address"))
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    // Without stderr there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "vchat-netem: {error:#}");
    ExitCode::from(code)
}

/// Exit codes of all vchat commands: wrong usage or configuration, and anything that has no code of its own.
const EXIT_USAGE: u8 = 2;
const EXIT_FAILURE: u8 = 1;
