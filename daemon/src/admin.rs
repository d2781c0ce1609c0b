//! What an administrator's device may ask for from afar: invites.

use anyhow::ensure;
use quinn::Connection;
use vchat_proto::id::RoomName;
use vchat_proto::wire::close::CloseCode;
use vchat_proto::wire::framing::{Deframer, frame};
use vchat_proto::wire::limits::{MAX_HELLO, PAIRING_TIMEOUT};
use vchat_proto::wire::pb;

use crate::connection::{End, next};
use crate::control::{Invite, Secret, make};
use crate::pairing::farewell;
use crate::registry::{Device, Role};
use crate::server::Shared;

/// Answers one request of a device that may be here, and closes the connection.
pub(crate) async fn serve(connection: &Connection, device: &Device, shared: &Shared) {
    if device.role != Role::Admin {
        return vchat_quic::close(connection, CloseCode::NotAdmin);
    }
    match tokio::time::timeout(PAIRING_TIMEOUT, answer(connection, device, shared)).await {
        Ok(Ok(())) => {
            tracing::info!(fingerprint = %device.pin, "an administrator asked for an invite");
            farewell(connection).await;
        }
        Ok(Err(End::Protocol(code))) => vchat_quic::close(connection, code),
        Ok(Err(End::Goodbye | End::Connection)) => {}
        Err(_) => vchat_quic::close(connection, CloseCode::HelloTimeout),
    }
}

async fn answer(connection: &Connection, device: &Device, shared: &Shared) -> Result<(), End> {
    let (mut send, mut receive) = connection.accept_bi().await.map_err(|_| End::Connection)?;
    let request = match next::<pb::AdminUp>(&mut receive, &mut Deframer::new(MAX_HELLO)).await? {
        Some(pb::AdminUp { body: Some(pb::admin_up::Body::Invite(request)) }) => request,
        Some(pb::AdminUp { body: None }) => return Err(End::Protocol(CloseCode::Protocol)),
        None => return Err(End::Connection),
    };
    let body = match invite(device, shared, request).await {
        Ok(made) => pb::admin_down::Body::Invite(made),
        Err(e) => pb::admin_down::Body::Failed(format!("{e:#}")),
    };
    let message = frame(&pb::AdminDown { body: Some(body) });
    send.write_all(&message).await.map_err(|_| End::Connection)?;
    // Fails only when it is finished already.
    drop(send.finish());
    Ok(())
}

async fn invite(
    device: &Device,
    shared: &Shared,
    request: pb::InviteRequest,
) -> anyhow::Result<pb::InviteMade> {
    let pb::InviteRequest { mut rooms, uses, ttl_s, code, admin, relay } = request;
    // Nobody gives away more than they have.
    let own = || device.rooms.iter().map(RoomName::as_str);
    if !device.rooms.is_empty() {
        if rooms.is_empty() {
            rooms = own().map(str::to_owned).collect();
        }
        ensure!(
            rooms.iter().all(|room| own().any(|o| o == room)),
            "this device may invite only to its own rooms"
        );
    }
    // As the operator says, or else as the administrator calls the relay, or else as the relay would.
    let asked = Some(relay).filter(|relay| !relay.is_empty() && shared.settings.borrow().public.is_none());
    let called = shared.names.called(asked.as_deref())?;
    let pin = shared.keys.borrow().current.pin();
    let invite = Invite { rooms, uses, ttl_s, host: None, code, admin };
    let maker = Some(device.pin);
    let made = make(&shared.registry, pin, called, &invite, maker).await?;
    let (link, code) = match made.secret {
        Secret::Link(link) => (link.to_string(), String::new()),
        Secret::Code(code) => (String::new(), code.to_string()),
    };
    Ok(pb::InviteMade { link, code, expires_ms: made.expires })
}
