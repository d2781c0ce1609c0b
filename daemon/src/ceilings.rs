//! What the operator lets the relay use of its machine, and who is refused when that is used up.

use serde::Deserialize;
use tokio::sync::watch;
use vchat_proto::ceiling::Ceiling;
use vchat_proto::units::Bitrate;

use crate::server::Settings;
use crate::stats::Load;

/// The most that there may be of anything. What has no number has no limit but that of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Limits {
    /// Rooms with people in them.
    pub max_rooms: u32,
    /// People in one room.
    pub max_participants: u32,
    /// People in all rooms.
    pub max_clients: u32,
    /// What one client may send, in kilobits a second.
    pub max_client_kbps: Option<u32>,
    /// What the relay may send to all clients, in megabits a second.
    pub max_mbps: Option<u32>,
    /// Memory that the relay may have in use before it takes in nobody more, in mebibytes.
    pub max_memory_mib: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_rooms: MAX_ROOMS,
            max_participants: MAX_PARTICIPANTS,
            max_clients: MAX_CLIENTS,
            max_client_kbps: None,
            max_mbps: None,
            max_memory_mib: None,
        }
    }
}

impl Limits {
    /// What one client may send all in all.
    pub(crate) fn client_rate(&self) -> Option<Bitrate> {
        self.max_client_kbps.map(|kbps| Bitrate::from_kbps(kbps.into()))
    }

    /// What of that is for video: the rest is for sound, headers and repairs.
    pub(crate) fn client_video(&self) -> Option<Bitrate> {
        self.client_rate().map(|rate| Bitrate::from_bps(rate.bps() / 4 * 3))
    }
}

/// How things stand with the limits of the whole relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ceilings {
    /// There is no memory, or no bandwidth, for one more.
    pub(crate) reached: bool,
    /// How much video each receiver may be sent, where that is limited.
    pub(crate) share: Option<Bitrate>,
}

/// Compares the load of each second with the limits. Never ends.
pub(crate) async fn watch(
    mut load: watch::Receiver<Load>,
    settings: watch::Receiver<Settings>,
    ceilings: watch::Sender<Ceilings>,
) {
    let mut bandwidth: Option<(u32, Ceiling)> = None;
    while load.changed().await.is_ok() {
        let Load { memory_bytes, pulse, .. } = *load.borrow_and_update();
        let Limits { max_mbps, max_memory_mib, .. } = settings.borrow().limits;
        if bandwidth.as_ref().map(|(mbps, _)| *mbps) != max_mbps {
            let rate = |mbps: u32| Bitrate::from_kbps(u64::from(mbps) * 1000);
            bandwidth = max_mbps.map(|mbps| (mbps, Ceiling::new(rate(mbps))));
        }
        if let Some((_, ceiling)) = &mut bandwidth {
            let [sent, largest] =
                [pulse.sent_bps, pulse.largest_bps].map(|bps| Bitrate::from_bps(bps as u64));
            ceiling.handle_rate(sent, largest);
        }
        let ceiling = bandwidth.as_ref().map(|(_, ceiling)| ceiling);
        let no_memory = max_memory_mib.is_some_and(|mib| memory_bytes >= u64::from(mib) << 20);
        let now = Ceilings {
            reached: no_memory || ceiling.is_some_and(Ceiling::is_reached),
            share: ceiling.and_then(Ceiling::share),
        };
        let before = ceilings.send_replace(now);
        match (before.reached, now.reached) {
            (false, true) if no_memory => {
                tracing::warn!(memory_bytes, "max-memory-mib is reached: nobody more is taken in");
            }
            (false, true) => tracing::warn!("max-mbps is reached: nobody more is taken in"),
            (true, false) => tracing::info!("people are taken in again"),
            _ => {}
        }
    }
}

/// Rooms with people in them, and as many that are empty and wait for somebody to come back before they give way.
const MAX_ROOMS: u32 = 1000;
/// As many as a welcome can tell of.
pub(crate) const MAX_PARTICIPANTS: u32 = vchat_proto::wire::limits::MAX_PARTICIPANTS as u32;
/// With the limits on streams and datagrams at most some 4 GB in the very worst case.
pub(crate) const MAX_CLIENTS: u32 = 4096;
