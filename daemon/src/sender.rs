//! The task that sends one receiver its media.

use std::time::Instant;

use tokio::sync::mpsc;
use vchat_proto::egress::Egress;
use vchat_proto::wire::limits::MAX_DATAGRAM;

use crate::room::{Command, ToReceiver};

/// Takes media from the room as fast as it comes and hands it to QUIC as fast as that takes it; what does not pass in time
/// is dropped by frame in between ([`Egress`]). Ends with the connection.
pub(crate) async fn run(
    connection: quinn::Connection,
    mut from_room: mpsc::Receiver<ToReceiver>,
    to_room: mpsc::Sender<Command>,
) {
    let mut egress = Egress::default();
    loop {
        let Some(next) = from_room.recv().await else { return };
        take(&mut egress, next, &to_room);
        while let Ok(next) = from_room.try_recv() {
            take(&mut egress, next, &to_room);
        }
        // While QUIC has no room, one datagram waits at its door and the queue behind it goes on taking from the room.
        while let Some(datagram) = egress.pop() {
            if connection.datagram_send_buffer_space() >= MAX_DATAGRAM {
                if connection.send_datagram(datagram).is_err() {
                    return;
                }
                continue;
            }
            let sent = connection.send_datagram_wait(datagram);
            tokio::pin!(sent);
            loop {
                tokio::select! {
                    result = &mut sent => match result {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                    next = from_room.recv() => match next {
                        Some(next) => take(&mut egress, next, &to_room),
                        None => return,
                    },
                }
            }
        }
    }
}

fn take(egress: &mut Egress, item: ToReceiver, to_room: &mpsc::Sender<Command>) {
    match item {
        ToReceiver::Media(header, body) => egress.push(Instant::now(), header, body),
        ToReceiver::TrackEnded(track) => egress.forget(track),
    }
    while let Some(track) = egress.poll_key_frame_needed() {
        // Lost when the room is overloaded; the queue asks again.
        drop(to_room.try_send(Command::KeyFrameNeeded(track)));
    }
}
