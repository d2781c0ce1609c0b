//! Figures of vchat on this machine.

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use vchat_tests::bench::{
    CallOptions, ChatOptions, FloodOptions, HandoverOptions, KillsOptions, MemoryOptions, RestartOptions,
    SoakOptions, TableOptions,
};
use vchat_tests::bench::{
    run_call, run_chat, run_flood, run_handover, run_kills, run_memory, run_restart, run_soak, run_table,
};
use vchat_tests::estimators::{EstimatorOptions, run_estimators};

/// Measures vchat with real programs, codecs and sound servers, and its parts on simulated networks.
#[derive(Parser)]
#[command(name = "vchat-bench", version)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Calls of two clients through a relay, all on this machine
    #[command(
        long_about = "Calls of two clients through a relay, all on this machine.

Both send the test card, whose barcode tells when a picture was taken, and chirps that are played into their microphones.
Measured are, from what was really shown and heard: the delay of pictures and sound, pictures a second, freezes; and the
processor time of clients and relay, bit rates, and the time to the first picture.",
        after_help = "Example: ten seconds each of three calls on a bad network, as JSON:
  vchat-bench call --profile loss5 --json"
    )]
    Call(CallOptions),
    /// Calls on all networks, as a page beside the figures of another system
    #[command(
        long_about = "Calls on all networks, as a page beside the figures of another system.

Each kind of call is made several times. What was measured is kept in target/bench, one file a kind, and the page is put
together from what is there: so single rows can be measured again. With the defaults it takes about an hour.",
        after_help = "Example: measure two rows again and write the page anew:
  vchat-bench table --only loss10,500k"
    )]
    Table(TableOptions),
    /// A call while its relay is flooded with first packets, all on this machine
    #[command(
        long_about = "A call while its relay is flooded with first packets, all on this machine.

Members made by hand send what cameras and microphones would, and count what arrives, before, during and after the attack.
Meanwhile known devices join anew. All traffic stays on the loopback interface; forged addresses are 127.x.y.z.",
        after_help = "Example: the median of five attacks, the relay on a core of its own:
  vchat-bench flood --runs 5 --pin"
    )]
    Flood(FloodOptions),
    /// Chat while its relay is killed over and over, all on this machine
    #[command(
        long_about = "Chat while its relay is killed over and over, all on this machine.

Three clients write; the relay is killed (SIGKILL) at random moments and started again. At the end every line has to be there
once, in one order for everybody, under the number that its writer was told.",
        after_help = "Example: a long night:
  vchat-bench kills --kills 1000"
    )]
    Kills(KillsOptions),
    /// How long many people notice that their relay was killed, all on this machine
    #[command(
        long_about = "How long many people notice that their relay was killed, all on this machine.

Clients made by hand send sound and pictures in several rooms. The relay is killed (SIGKILL) and started again; measured is, from
the moment that it listens again, how long it takes until each knows that its connection is gone, until it hears somebody again,
and until it has a whole picture of somebody that needs no other.",
        after_help = "Example: two hundred people, ten times:
  vchat-bench restart --clients 200 --runs 10"
    )]
    Restart(RestartOptions),
    /// What people notice of another process that takes over from their relay
    #[command(
        long_about = "What people notice of another process that takes over from their relay (vchatd restart).

Clients talk and are seen; the relay is handed over. Compared is how much sound was made up and how long pictures stood still in the
seconds in which everybody moves, with as many seconds before. The programs are the real ones.",
        after_help = "Example: twenty calls of four:
  vchat-bench handover --clients 4 --runs 20"
    )]
    Handover(HandoverOptions),
    /// What hostile clients can make a relay hold in memory
    #[command(
        long_about = "What hostile clients can make a relay hold in memory.

Members that read nothing fill every queue and window there is for them; then strangers hold all the places there are for
handshakes and pairings. Measured is how the relay's resident memory grows. All traffic stays on the loopback interface.",
        after_help = "Example: a hundred members, two to a room, of whom one stops to acknowledge while the other sends:
  vchat-bench memory --clients 100 --together 2"
    )]
    Memory(MemoryOptions),
    /// How long chat takes to be on the relay's disk, and how much a second gets there
    #[command(
        long_about = "How long chat takes to be on the relay's disk, and how much a second gets there.

Clients made by hand write in many rooms: first at a modest rate, of which the time from each line to its acknowledgement is
measured, and then as fast as lines are acknowledged. Everything runs on this machine, the disk is that of the temporary directory
(TMPDIR). It fails when a line is refused, lost, doubled or out of order.",
        after_help = "Example: few large rooms, in which each line goes to many:
  vchat-bench chat --rooms 20 --writers 500"
    )]
    Chat(ChatOptions),
    /// A relay for a long time, with people who stay and others who come and go
    #[command(
        long_about = "A relay for a long time, with people who stay and others who come and go.

Clients made by hand send sound, pictures and chat in several rooms. Others join and leave all the time, with a goodbye and
without, open rooms and leave them, or come with devices that are not let in. Measured is how the relay's resident memory grows
once it is warm, by the median of the slopes between any two points (Theil and Sen), with its 95 % interval. It fails when a line
of chat is lost, doubled or out of order, when somebody is cut off, and when somebody cannot come in.",
        after_help = "Example: a whole night:
  vchat-bench soak --minutes 600"
    )]
    Soak(SoakOptions),
    /// Estimators of bandwidth on simulated networks, in virtual time
    #[command(
        long_about = "Estimators of bandwidth on simulated networks, in virtual time.

One encoder with a pacer sends over one simulated hop, with the estimator of vchat and with the crate goog_cc, a port of
WebRTC's. It takes seconds, and the same seed gives the same figures on every machine. docs/congestion.md explains the table.",
        after_help = "Example: what the estimators do on a link that becomes narrow, ten times a second:
  vchat-bench estimators --only step --trace"
    )]
    Estimators(EstimatorOptions),
}

fn main() -> ExitCode {
    let Args { what } = Args::parse();
    let done = match what {
        What::Call(options) => run_call(&options),
        What::Table(options) => run_table(&options),
        What::Flood(options) => run_flood(&options),
        What::Kills(options) => run_kills(&options),
        What::Restart(options) => run_restart(&options),
        What::Handover(options) => run_handover(&options),
        What::Memory(options) => run_memory(&options),
        What::Chat(options) => run_chat(&options),
        What::Soak(options) => run_soak(&options),
        What::Estimators(options) => run_estimators(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without stderr there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "vchat-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
