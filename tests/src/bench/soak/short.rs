//! Thousands of connections that end as soon as they have begun.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use vchat_certs::identity::Identity;
use vchat_certs::tls::Purpose;

use super::Stage;
use super::regular::Regular;
use super::watch::Watch;
use crate::bench::attendee::say_goodbye;
use crate::bench::guest::{self, Guest, Line};
use crate::harness::Relay;

/// What many short connections did to a relay, and to a call that went on meanwhile.
#[derive(Clone, Debug)]
pub struct ShortConnections {
    /// That came, said hello and goodbye, and were closed by the relay.
    pub connections: u32,
    /// Packets of sound that came through in the call.
    pub sound: u64,
    /// And those that did not.
    pub lost: u64,
    /// Bytes of memory after the first half of the connections, and after the second.
    pub resident: (u64, u64),
    /// Open files at the same times.
    pub descriptors: (usize, usize),
    /// How long somebody new took to come in afterwards.
    pub newcomer: Duration,
}

/// Makes 50 short connections with each of so many devices, half of them at a time, while two others are in a call.
///
/// # Errors
/// One of them did not get in, or the call broke.
pub fn short_connections(devices: u32) -> anyhow::Result<ShortConnections> {
    let mut relay = Relay::start_with(&["--mdns", "off", "--log", "json"])?;
    Runtime::new()?.block_on(measure(devices, &mut relay))
}

async fn measure(count: u32, relay: &mut Relay) -> anyhow::Result<ShortConnections> {
    let mut devices = guest::devices(relay, count as usize + 3).await?;
    let of_call = devices.split_off(count as usize);
    let [ann, bob, eve] = &of_call[..] else { anyhow::bail!("not as many devices as asked for") };
    let (end, over) = tokio::sync::watch::channel(false);
    let clock = Instant::now();
    let stage = Arc::new(Stage { relay: relay.address(), rooms: vec!["call".into()], clock, over });
    let mut call = [Regular::enter(&stage, ann, 0, 0).await?, Regular::enter(&stage, bob, 1, 0).await?];

    let mut watch = Watch::default();
    for _ in 0..HALVES {
        let mut short = JoinSet::new();
        for (place, device) in (0..).zip(&devices) {
            short.spawn(come_and_go(stage.clone(), device.clone(), place));
        }
        while let Some(done) = short.join_next().await {
            done??;
        }
        watch.look(relay)?;
    }
    let began = Instant::now();
    let _newcomer = Guest::join(relay.address(), eve, "call", &[]).await.context("nobody new comes in")?;
    let newcomer = began.elapsed();

    end.send_replace(true);
    let (mut sound, mut lost) = (0, 0);
    // Closing a chat is a goodbye.
    let mut chats = Vec::new();
    for regular in &mut call {
        chats.push(regular.settle().await?);
    }
    for regular in call {
        let media = regular.leave().await?;
        sound += media.sound;
        lost += media.lost;
    }
    let connections = count * EACH * HALVES;
    let (resident, descriptors) = (watch.resident(), watch.descriptors());
    Ok(ShortConnections { connections, sound, lost, resident, descriptors, newcomer })
}

/// As often as one half has it.
async fn come_and_go(stage: Arc<Stage>, device: Identity, place: u32) -> anyhow::Result<()> {
    // The relay counts handshakes by address.
    let from = Ipv4Addr::from_bits(0x7f30_0001 + place);
    for _ in 0..EACH {
        let line = Line::open_from(from, stage.relay, &device, Purpose::Call).await?;
        let mut guest = Guest::enter(line, &format!("short {place}"), &[]).await?;
        say_goodbye(&mut guest.control, &guest.line.connection).await?;
    }
    Ok(())
}

/// Connections of a device in each half. Both together are what a device may make at once.
const EACH: u32 = 25;
const HALVES: u32 = 2;
