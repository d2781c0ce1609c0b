//! Everything that is counted, as Prometheus reads it (text format 0.0.4).
//!
//! A room is called by its number and a participant by the one that its room has given it, so labels tell nobody who that is.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet, prometheus_text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use rustix::process::{Resource, getrlimit};

use super::client::{Dropped, EXTRA, Traffic};
use super::load::cpu_time;
use super::{ClientNow, Snapshot, Stats};

pub(super) use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;

/// Writes all of it. `connections`: how many known devices have.
pub(super) fn write(stats: &Stats, connections: usize) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    let now = stats.snapshot();
    registry.register_collector(Box::new(Scrape { stats: stats.clone(), now, connections }));
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry)?;
    Ok(text)
}

/// One reading of a relay.
struct Scrape {
    stats: Stats,
    now: Snapshot,
    connections: usize,
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape(..)")
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.process(&mut page)?;
        self.relay(&mut page)?;
        self.connections(&mut page)?;
        self.chat(&mut page)?;
        self.rooms(&mut page)?;
        self.clients(&mut page)
    }
}

impl Scrape {
    /// By the names that all exporters use.
    fn process(&self, page: &mut Page<'_>) -> fmt::Result {
        let load = self.now.load;
        let began = self.stats.0.began_unix.as_secs_f64();
        let max_fds = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        page.counter("process_cpu_seconds", "Processor time used", one(cpu_time().as_secs_f64()))?;
        page.gauge("process_resident_memory_bytes", "Memory in use", one(load.memory_bytes))?;
        page.gauge("process_open_fds", "Files and sockets that are open", one(load.fds))?;
        page.gauge("process_max_fds", "Files and sockets that may be open", one(max_fds))?;
        page.gauge("process_start_time_seconds", "When the relay was started, in Unix time", one(began))
    }

    fn relay(&self, page: &mut Page<'_>) -> fmt::Result {
        let now = &self.now;
        let version = [(vec![("version", env!("CARGO_PKG_VERSION").to_owned())], 1_u64)];
        let delay = now.load.short.loop_delay.as_secs_f64();
        page.gauge("vchatd_build_info", "The version that runs; always 1", version)?;
        page.gauge("vchatd_rooms", "Rooms that are open, empty ones among them", one(now.rooms.len()))?;
        page.counter("vchatd_rooms_opened", "Rooms that were opened", one(now.opened))?;
        page.gauge("vchatd_participants", "People in rooms", one(now.participants()))?;
        page.gauge("vchatd_connections", "Connections of known devices", one(self.connections))?;
        let help = "How long the relay's one thread kept somebody waiting, at worst in the last 10 seconds";
        page.gauge("vchatd_loop_delay_seconds", help, one(delay))?;
        traffic(page, "vchatd", "all clients", &[(Vec::new(), now.traffic)])
    }

    fn connections(&self, page: &mut Page<'_>) -> fmt::Result {
        let events = self.stats.events();
        let verdicts = events.verdicts().map(|(verdict, n)| (vec![("verdict", verdict.into())], n));
        let help = "Attempts to connect, by what was decided before the handshake";
        page.counter("vchatd_connection_attempts", help, verdicts)?;
        let handshakes = events.handshakes().map(|(reason, n)| (vec![("reason", reason.into())], n));
        page.counter("vchatd_failed_handshakes", "Handshakes that came to nothing", handshakes)?;
        let refusals = events.refusals().map(|(code, n)| {
            (vec![("code", (code as u32).to_string()), ("reason", code.reason().into())], n)
        });
        let help = "Connections turned away after the handshake, by close code";
        page.counter("vchatd_refusals", help, refusals)?;
        page.counter("vchatd_joins", "Times that somebody came into a room", one(events.joins.get()))?;
        let leaves = events.leaves().map(|(reason, n)| (vec![("reason", reason.into())], n));
        page.counter("vchatd_leaves", "Times that somebody left a room", leaves)
    }

    fn chat(&self, page: &mut Page<'_>) -> fmt::Result {
        let chat = &self.stats.0.chat;
        let stored = chat.stored.count();
        let lines = [("stored", stored), ("known", chat.known.get()), ("failed", chat.failed.get())];
        let lines = lines.map(|(result, n)| (vec![("result", result.into())], n));
        let help = "Lines of chat: stored now, known from before, or failed to be stored";
        page.counter("vchatd_chat_lines", help, lines)?;
        page.gauge("vchatd_chat_broken", "1 if the last line could not be stored", one(chat.broken.get()))?;
        let help = "From the room to the disk and back, of each line that was stored";
        let mut family =
            page.0.encode_descriptor("vchatd_chat_store_seconds", help, None, MetricType::Histogram)?;
        let buckets = chat.stored.buckets();
        family.encode_histogram::<NoLabelSet>(chat.stored.sum_seconds(), stored, &buckets, None)
    }

    fn rooms(&self, page: &mut Page<'_>) -> fmt::Result {
        let rooms = &self.now.rooms;
        let label = |number: u64| vec![("room", number.to_string())];
        let people = rooms.iter().map(|room| (label(room.number), room.clients.len()));
        page.gauge("vchatd_room_participants", "People in a room", people)?;
        let rows: Vec<(Labels, Traffic)> = rooms.iter().map(|r| (label(r.number), r.traffic)).collect();
        traffic(page, "vchatd_room", "the clients of a room", &rows)
    }

    fn clients(&self, page: &mut Page<'_>) -> fmt::Result {
        let clients = || {
            let rooms = self.now.rooms.iter();
            rooms.flat_map(|room| room.clients.iter().map(move |c| (labels(room.number, c.participant), c)))
        };
        let mut gauge = |name: &str, help: &str, value: fn(&ClientNow) -> f64| {
            page.gauge(name, help, clients().map(|(labels, c)| (labels, value(c))))
        };
        let seconds = |c: &ClientNow| c.connected.as_secs_f64();
        gauge("vchatd_client_connected_seconds", "How long a client is here", seconds)?;
        let help = "Round trip to a client, as QUIC measures it";
        gauge("vchatd_client_round_trip_seconds", help, |c| c.round_trip.as_secs_f64())?;
        let help = "Share of the datagrams to a client that was lost in the last two seconds, 0 to 1";
        gauge("vchatd_client_loss_ratio", help, |c| c.hop.loss)?;
        let help = "What the network to a client bears";
        gauge("vchatd_client_target_bytes_per_second", help, |c| c.hop.target_bps as f64 / 8.0)?;
        let help = "What of that is for video";
        gauge("vchatd_client_video_target_bytes_per_second", help, |c| c.hop.video_target_bps as f64 / 8.0)?;
        let help = "What QUIC lets be on its way to a client";
        gauge("vchatd_client_congestion_window_bytes", help, |c| c.window_bytes as f64)?;
        let lost = clients().map(|(labels, c)| (labels, c.lost_packets));
        page.counter("vchatd_client_lost_packets", "Packets of QUIC to a client that were lost", lost)?;
        let rows: Vec<(Labels, Traffic)> = clients().map(|(labels, c)| (labels, c.traffic)).collect();
        traffic(page, "vchatd_client", "a client", &rows)
    }
}

/// What is counted alike of a client, a room and the relay.
fn traffic(page: &mut Page<'_>, prefix: &str, whose: &str, rows: &[(Labels, Traffic)]) -> fmt::Result {
    let mut counter = |name: &str, help: &str, value: fn(&Traffic) -> u64| {
        let samples = rows.iter().map(|(labels, traffic)| (labels.clone(), value(traffic)));
        page.counter(&format!("{prefix}_{name}"), &format!("{help} {whose}"), samples)
    };
    counter("received_datagrams", "Datagrams received from", |t| t.received_datagrams)?;
    counter("received_bytes", "Bytes of datagrams received from", |t| t.received_bytes)?;
    counter("sent_datagrams", "Datagrams sent to", |t| t.sent_datagrams)?;
    counter("sent_bytes", "Bytes of datagrams sent to", |t| t.sent_bytes)?;
    let help = "Datagrams that should have come, as their numbers tell, from";
    counter("uplink_expected_datagrams", help, |t| t.expected)?;
    counter("uplink_arrived_datagrams", "Those of them that came from", |t| t.arrived)?;
    let by = |key: &'static str, names: &'static [&'static str], values: fn(&Traffic) -> &[u64]| {
        rows.iter().flat_map(move |(labels, traffic)| {
            let label = move |name: &&str| [labels.clone(), vec![(key, (*name).to_owned())]].concat();
            names.iter().map(label).zip(values(traffic).iter().copied())
        })
    };
    let help = format!("Datagrams that the relay dropped, from or to {whose}");
    let dropped = by("reason", &Dropped::ALL, |t| &t.dropped);
    page.counter(&format!("{prefix}_dropped_datagrams"), &help, dropped)?;
    let help = format!("Bytes sent against losses and to measure the network, to {whose}");
    page.counter(&format!("{prefix}_extra_sent_bytes"), &help, by("kind", &EXTRA, |t| &t.extra_bytes))
}

type Labels = Vec<(&'static str, String)>;

fn labels(room: u64, participant: u32) -> Labels {
    vec![("room", room.to_string()), ("participant", participant.to_string())]
}

/// A sample without labels.
fn one<V>(value: V) -> [(Labels, V); 1] {
    [(Vec::new(), value)]
}

struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    /// `name` gets `_total` behind it.
    fn counter<V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        samples.into_iter().try_for_each(|(labels, value)| {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
        })
    }

    fn gauge<V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        samples
            .into_iter()
            .try_for_each(|(labels, value)| family.encode_family(&labels)?.encode_gauge(&value))
    }
}
