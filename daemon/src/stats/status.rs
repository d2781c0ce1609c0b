//! What `vchatd status` tells.

use serde_json::{Value, json};

use super::{ClientNow, RoomNow, Snapshot, Stats};

impl Stats {
    /// How the relay is, as one object. `connections`: those of known devices; `devices`: how many may come in.
    pub(crate) fn status(&self, connections: usize, devices: usize) -> Value {
        let now = self.snapshot();
        let Snapshot { load, traffic, .. } = &now;
        let (short, long, rates) = (load.short, load.long, load.short.rates);
        let chat = &self.0.chat;
        let quantile = |q| chat.stored.quantile_ms(q).map(tenths);
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_s": now.uptime.as_secs(),
            "rooms": now.rooms.len(),
            "participants": now.participants(),
            "connections": connections,
            "devices": devices,
            "datagrams": {
                "received": traffic.received_datagrams, "sent": traffic.sent_datagrams,
                "received_per_s": tenths(rates.received_datagrams), "sent_per_s": tenths(rates.sent_datagrams),
                "dropped": traffic.dropped.iter().sum::<u64>(),
            },
            "bytes": {
                "received": traffic.received_bytes, "sent": traffic.sent_bytes,
                "received_per_s": rates.received_bytes.round() as u64, "sent_per_s": rates.sent_bytes.round() as u64,
            },
            "load": {
                "cores": thousandths(short.cores), "cores_1m": thousandths(long.cores),
                "loop_delay_ms": tenths(short.loop_delay.as_secs_f64() * 1e3),
                "loop_delay_1m_ms": tenths(long.loop_delay.as_secs_f64() * 1e3),
                "memory_bytes": load.memory_bytes, "fds": load.fds,
            },
            "chat": {
                "lines": chat.stored.count(), "failed": chat.failed.get(), "broken": chat.broken.get() > 0,
                "stored_ms": {"p50": quantile(0.5), "p99": quantile(0.99)},
            },
            "by_room": now.rooms.iter().map(room).collect::<Vec<_>>(),
        })
    }
}

fn room(room: &RoomNow) -> Value {
    let clients: Vec<Value> = room.clients.iter().map(client).collect();
    json!({"room": room.number, "participants": clients.len(), "clients": clients})
}

fn client(client: &ClientNow) -> Value {
    let ClientNow { participant, connected, traffic, hop, pace, round_trip, .. } = client;
    json!({
        "participant": participant, "connected_s": connected.as_secs(),
        "rtt_ms": tenths(round_trip.as_secs_f64() * 1e3),
        "received_kbps": (pace.received_bps / 1e3).round() as u64, "sent_kbps": (pace.sent_bps / 1e3).round() as u64,
        "loss": thousandths(hop.loss), "uplink_loss": thousandths(traffic.uplink_loss()),
        "video_kbps": hop.video_target_bps / 1000, "dropped": traffic.dropped.iter().sum::<u64>(),
    })
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn thousandths(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
