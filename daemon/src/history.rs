//! The old chat of a room, for a device that may be in it and need not be.

use std::time::{Duration, Instant};

use quinn::Connection;
use tokio::time::{sleep, timeout};
use vchat_proto::bucket::TokenBucket;
use vchat_proto::room::Older;
use vchat_proto::wire::close::CloseCode;
use vchat_proto::wire::framing::{Deframer, frame};
use vchat_proto::wire::limits::{MAX_HELLO, PAGE_RATE, PAIRING_TIMEOUT};
use vchat_proto::wire::pb;

use crate::connection::{End, next, room_of, without_media};
use crate::registry::Device;
use crate::server::Shared;

/// Answers the requests of a device that may be here, one after the other, until it has no more.
pub(crate) async fn serve(connection: &Connection, device: &Device, shared: &Shared) {
    let breach = End::Protocol(CloseCode::Protocol);
    match without_media(connection, breach, answer(connection, device, shared)).await {
        Ok(()) | Err(End::Goodbye) => vchat_quic::close(connection, CloseCode::Goodbye),
        Err(End::Protocol(code)) => vchat_quic::close(connection, code),
        Err(End::Connection) => {}
    }
}

async fn answer(connection: &Connection, device: &Device, shared: &Shared) -> Result<(), End> {
    let late = |_| End::Protocol(CloseCode::HelloTimeout);
    let stream = timeout(PAIRING_TIMEOUT, connection.accept_bi()).await.map_err(late)?;
    let (mut send, mut receive) = stream.map_err(|_| End::Connection)?;
    let (mut deframer, mut rate) = (Deframer::new(MAX_HELLO), TokenBucket::new(PAGE_RATE));
    loop {
        let request = timeout(PAIRING_TIMEOUT, next::<pb::HistoryUp>(&mut receive, &mut deframer)).await;
        let Some(request) = request.map_err(late)?? else { return Ok(()) };
        let Some(pb::history_up::Body::Older(request)) = request.body else {
            return Err(End::Protocol(CloseCode::Protocol));
        };
        while !rate.take(Instant::now(), 1) {
            sleep(PACE).await;
        }
        let page = page(device, shared, request).await?;
        let message = frame(&pb::HistoryDown { body: Some(pb::history_down::Body::Page(page)) });
        // Who does not read holds one page and no thread.
        let written = timeout(PAIRING_TIMEOUT, send.write_all(&message)).await;
        written.map_err(|_| End::Protocol(CloseCode::TooSlow))?.map_err(|_| End::Connection)?;
    }
}

async fn page(device: &Device, shared: &Shared, request: pb::OlderOf) -> Result<pb::Page, End> {
    let pb::OlderOf { room, older } = request;
    let room = room_of(device, &room).map_err(End::Protocol)?;
    let older = Older::from(older.unwrap_or_default());
    let found = shared.rooms.archive().page(room, older.before, older.lines()).await;
    Ok(found.map_or_else(|_| older.unread(0), |found| older.page(found)))
}

/// Of a page.
const PACE: Duration = Duration::from_millis(1000 / PAGE_RATE.0 as u64);
