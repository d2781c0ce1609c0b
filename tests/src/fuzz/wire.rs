//! Parsers.

use bytes::Bytes;
use prost::Message;
use vchat_proto::id::{DisplayName, MAX_NAME_BYTES, RoomName};
use vchat_proto::wire::datagram::{HOP_LEN, HopCounter, Media};
use vchat_proto::wire::framing::{Deframer, frame};
use vchat_proto::wire::pb;

/// A datagram ends in an error, or in a header that encodes to the same bytes.
pub fn datagram(data: &[u8]) {
    let Ok(media) = Media::parse(Bytes::copy_from_slice(data)) else { return };
    let again = media.header.datagram(&media.payload());
    assert_eq!(again[HOP_LEN..], data[HOP_LEN..], "{:?}", media.header);
    assert_eq!(HopCounter::default().forward(&media.body)[HOP_LEN..], data[HOP_LEN..]);
}

/// The bytes of a stream, cut anywhere, end in messages or an error; what was read can be written and read again.
pub fn framing(data: &[u8]) {
    messages::<pb::ClientControl>(data);
    messages::<pb::RelayControl>(data);
    messages::<pb::ChatUp>(data);
    messages::<pb::ChatDown>(data);
}

fn messages<M: Message + Default + PartialEq + std::fmt::Debug>(data: &[u8]) {
    let [limit, cut, rest @ ..] = data else { return };
    let limit = usize::from(*limit) * 16;
    let mut deframer = Deframer::new(limit);
    for chunk in rest.chunks(usize::from(*cut).max(1)) {
        deframer.push(chunk);
        loop {
            match deframer.pop::<M>() {
                Ok(Some(message)) => {
                    let mut again = Deframer::new(usize::MAX);
                    again.push(&frame(&message));
                    assert!(again.pop::<M>().is_ok_and(|m| m.as_ref() == Some(&message)), "{message:?}");
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// What is taken as a name is short, plain, and the same when it is taken again.
pub fn names(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(name) = DisplayName::parse(&text) {
        let text = name.as_str();
        assert!((1..=MAX_NAME_BYTES).contains(&text.len()) && text == text.trim());
        assert!(!text.chars().any(char::is_control));
        assert_eq!(DisplayName::parse(text), Ok(name.clone()));
        assert_eq!(RoomName::parse(text).map(|room| room.as_str() == text), Ok(true));
    }
}
