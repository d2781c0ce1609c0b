//! `vchat-bench restart`: how long many people notice that their relay was killed.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use vchat_certs::identity::Identity;
use vchat_proto::stats::Distribution;

use super::attendee::{Arrived, Attendee, TRACKS};
use super::guest::{self, Guest};
use super::kills::{record, summary};
use super::machine::Machine;
use crate::harness::Relay;
use crate::netem::Random;

/// How many people lose their relay.
#[derive(Args, Clone, Debug)]
pub struct RestartOptions {
    /// People in calls, each of whom sends sound and pictures
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..=500))]
    clients: u32,
    /// People to a room
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..=100))]
    together: u32,
    /// Times that the relay is killed; the figures are of all of them
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Measures as the options say, and prints the result to stdout.
pub fn run_restart(options: &RestartOptions) -> anyhow::Result<()> {
    let [noticed, heard, seen] = Runtime::new()?.block_on(measure(options))?.each_ref().map(summary);
    let text = if options.json {
        json!({
            "machine": Machine::read().json(), "clients": options.clients, "together": options.together, "runs": options.runs,
            "noticed_ms": {"p50": noticed[0], "p99": noticed[1], "max": noticed[2]},
            "heard_ms": {"p50": heard[0], "p99": heard[1], "max": heard[2]},
            "seen_ms": {"p50": seen[0], "p99": seen[1], "max": seen[2]},
        })
        .to_string()
    } else {
        format!(
            "{} clients, {} to a room, {} kills; after the new start of the relay\n\
             a client knows                  p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms\n\
             and hears somebody again        p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms\n\
             and sees somebody again         p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms",
            options.clients,
            options.together,
            options.runs,
            noticed[0],
            noticed[1],
            noticed[2],
            heard[0],
            heard[1],
            heard[2],
            seen[0],
            seen[1],
            seen[2]
        )
    };
    writeln!(std::io::stdout(), "{text}").context("cannot write to stdout")
}

/// Until people knew, until they heard somebody, and until they saw somebody.
async fn measure(options: &RestartOptions) -> anyhow::Result<[Distribution; 3]> {
    let mut relay = Relay::start()?;
    let identities = guest::devices(&relay, options.clients as usize).await?;
    let crowd = Arc::new(Crowd(Mutex::new(vec![Person::default(); identities.len()])));
    let mut people = JoinSet::new();
    for (place, identity) in identities.into_iter().enumerate() {
        let room = format!("room {}", place / options.together as usize);
        people.spawn(person(relay.address(), identity, room, place, crowd.clone()));
    }
    crowd.wait_for_all().await?;
    let mut times = <[Distribution; 3]>::default();
    for _ in 0..options.runs {
        // Until round trips are known and everybody is where they would be in a call.
        tokio::time::sleep(SETTLE).await;
        crowd.lock().fill(Person::default());
        // As the harness starts it: the moment that it says where it listens.
        relay = tokio::task::spawn_blocking(move || -> anyhow::Result<Relay> {
            relay.process().kill()?;
            relay.restart()?;
            Ok(relay)
        })
        .await??;
        let start = Instant::now();
        crowd.wait_for_all().await?;
        for person in crowd.lock().iter() {
            for (at, times) in [person.noticed, person.heard, person.seen].into_iter().zip(&mut times) {
                record(times, start, at.context("everybody is back")?);
            }
        }
    }
    people.shutdown().await;
    Ok(times)
}

/// What became of everybody since the relay was killed.
struct Crowd(Mutex<Vec<Person>>);

#[derive(Clone, Debug, Default)]
struct Person {
    noticed: Option<Instant>,
    heard: Option<Instant>,
    seen: Option<Instant>,
}

impl Crowd {
    fn lock(&self) -> MutexGuard<'_, Vec<Person>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notices(&self, place: usize) {
        if let Some(person) = self.lock().get_mut(place) {
            person.noticed.get_or_insert_with(Instant::now);
        }
    }

    fn hears(&self, place: usize) {
        if let Some(person) = self.lock().get_mut(place) {
            person.heard.get_or_insert_with(Instant::now);
        }
    }

    fn sees(&self, place: usize) {
        if let Some(person) = self.lock().get_mut(place) {
            person.seen.get_or_insert_with(Instant::now);
        }
    }

    async fn wait_for_all(&self) -> anyhow::Result<()> {
        let end = Instant::now() + DEADLINE;
        while !self.lock().iter().all(|person| person.heard.is_some() && person.seen.is_some()) {
            ensure!(Instant::now() < end, "somebody hears or sees nobody");
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}

/// Somebody who talks, and comes back as often as the relay is gone.
async fn person(
    relay: SocketAddr,
    identity: Identity,
    room: String,
    place: usize,
    crowd: Arc<Crowd>,
) -> anyhow::Result<()> {
    let mut random = Random::new(place as u64, 0);
    loop {
        if let Ok(guest) = Guest::join(relay, &identity, &room, &TRACKS).await {
            talk(guest, place, &crowd).await?;
            crowd.notices(place);
        }
        // As `vchat_proto::session` does.
        tokio::time::sleep(RETRY / 2 + random.below(RETRY / 2)).await;
    }
}

/// Is in the call until the connection is gone.
async fn talk(mut guest: Guest, place: usize, crowd: &Crowd) -> anyhow::Result<()> {
    let mut attendee = Attendee::new(&guest, Instant::now())?;
    let arrived = |what| match what {
        Arrived::Sound { .. } => crowd.hears(place),
        // Not before: nothing can be decoded.
        Arrived::Picture { key: true } => crowd.sees(place),
        Arrived::Picture { key: false } | Arrived::Left => {}
    };
    attendee.attend(&mut guest.control, arrived).await
}

/// The first wait of a client that lost its relay.
const RETRY: Duration = Duration::from_millis(50);
const SETTLE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(5);
const DEADLINE: Duration = Duration::from_secs(60);
