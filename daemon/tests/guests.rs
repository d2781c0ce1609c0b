//! What members of a room may do, and how they leave.

mod support;

use support::{Relay, code, control_up};
use vchat_proto::wire::close::CloseCode;
use vchat_proto::wire::pb;

#[tokio::test]
async fn who_says_goodbye_is_let_go() {
    let relay = Relay::start().await;
    let mut guest = relay.guest("lobby").await;
    let goodbye = control_up(pb::client_control::Body::Goodbye(pb::Goodbye {}));
    guest.control.send(&goodbye).await.expect("written");
    assert_eq!(code(&guest.line.connection).await, CloseCode::Goodbye);
}

#[tokio::test]
async fn a_stream_of_empty_messages_is_cut_off_and_others_stay() {
    let relay = Relay::start().await;
    let other = relay.guest("lobby").await;
    let guest = relay.guest("lobby").await;
    let mut chat = guest.chat().await;
    // Each zero is a message of no bytes. The write fails when the relay has had enough.
    while chat.send_bytes(&[0; 1000]).await.is_some() {}
    assert_eq!(code(&guest.line.connection).await, CloseCode::TooFast);
    assert!(other.is_here());
}
