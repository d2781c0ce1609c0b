//! What an administrator's device may ask for from afar: invites.

use quinn::{Connection, RecvStream, SendStream};
use vchat_certs::authority::Authority;
use vchat_certs::pin::Pin;
use vchat_proto::wire::close::CloseCode;
use vchat_proto::wire::framing::{Deframer, frame};
use vchat_proto::wire::limits::{MAX_HELLO, PAIRING_TIMEOUT};
use vchat_proto::wire::pb;

use crate::connection::{End, next};
use crate::control::{Invite, Secret, make};
use crate::pairing::farewell;
use crate::registry::{Device, Registry, Role};

/// Answers one request of a device that may be here, and closes the connection. `relay` is the key that links will name.
pub(crate) async fn serve(connection: &Connection, device: &Device, registry: &Registry, relay: Pin) {
    if device.role != Role::Admin {
        return vchat_quic::close(connection, CloseCode::NotAdmin);
    }
    match tokio::time::timeout(PAIRING_TIMEOUT, answer(connection, registry, relay)).await {
        Ok(Ok(())) => {
            tracing::info!(fingerprint = %device.pin, "an administrator asked for an invite");
            farewell(connection).await;
        }
        Ok(Err(End::Protocol(code))) => vchat_quic::close(connection, code),
        Ok(Err(End::Goodbye | End::Connection)) => {}
        Err(_) => vchat_quic::close(connection, CloseCode::HelloTimeout),
    }
}

async fn answer(connection: &Connection, registry: &Registry, relay: Pin) -> Result<(), End> {
    let (mut send, mut receive): (SendStream, RecvStream) =
        connection.accept_bi().await.map_err(|_| End::Connection)?;
    let request = match next::<pb::AdminUp>(&mut receive, &mut Deframer::new(MAX_HELLO)).await? {
        Some(pb::AdminUp { body: Some(pb::admin_up::Body::Invite(request)) }) => request,
        Some(pb::AdminUp { body: None }) => return Err(End::Protocol(CloseCode::Protocol)),
        None => return Err(End::Connection),
    };
    let body = match invite(registry, relay, request).await {
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
    registry: &Registry,
    relay: Pin,
    request: pb::InviteRequest,
) -> anyhow::Result<pb::InviteMade> {
    let pb::InviteRequest { rooms, uses, ttl_s, code, admin, relay: called } = request;
    let called: Authority = called.parse()?;
    let invite = Invite { rooms, uses, ttl_s, host: None, code, admin };
    let made = make(registry, relay, called, &invite).await?;
    let (link, code) = match made.secret {
        Secret::Link(link) => (link.to_string(), String::new()),
        Secret::Code(code) => (String::new(), code.to_string()),
    };
    Ok(pb::InviteMade { link, code, expires_ms: made.expires })
}
