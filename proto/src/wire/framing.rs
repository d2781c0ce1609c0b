//! Messages on a stream: each is preceded by its length as a protobuf varint.

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;

/// Why bytes of a stream are no messages. The peer broke the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// The length is no varint, or larger than the limit.
    #[error("a message is longer than {limit} bytes")]
    TooLong {
        /// The limit that held.
        limit: usize,
    },
    /// The bytes are no message of the expected type.
    #[error("a message does not parse: {0}")]
    Malformed(String),
}

/// Turns a message into bytes for the stream.
#[must_use]
pub fn frame(message: &impl Message) -> Bytes {
    message.encode_length_delimited_to_vec().into()
}

/// Finds the messages in the bytes of a stream, however these are cut into chunks.
///
/// Holds at most one incomplete message: the caller drains [`Self::pop`] after each [`Self::push`].
#[derive(Debug)]
pub struct Deframer {
    buffer: BytesMut,
    limit: usize,
}

impl Deframer {
    /// Messages longer than `limit` bytes are errors.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), limit }
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// Changes the limit for the messages to come.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// The next whole message, or `None` until more bytes come. After an error the stream is of no more use.
    pub fn pop<M: Message + Default>(&mut self) -> Result<Option<M>, FramingError> {
        let Some((length, prefix)) = self.length()? else { return Ok(None) };
        if self.buffer.len() < prefix + length {
            return Ok(None);
        }
        self.buffer.advance(prefix);
        let body = self.buffer.split_to(length).freeze();
        M::decode(body).map(Some).map_err(|e| FramingError::Malformed(e.to_string()))
    }

    /// The length of the next message and of its prefix, once the prefix is there.
    fn length(&self) -> Result<Option<(usize, usize)>, FramingError> {
        let too_long = FramingError::TooLong { limit: self.limit };
        let mut length = 0_usize;
        for (i, byte) in self.buffer.iter().enumerate() {
            if i >= MAX_PREFIX {
                return Err(too_long);
            }
            length |= usize::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                return if length > self.limit { Err(too_long) } else { Ok(Some((length, i + 1))) };
            }
        }
        Ok(None)
    }
}

/// Three varint bytes tell lengths up to 2 MiB, more than any limit.
const MAX_PREFIX: usize = 3;

#[cfg(test)]
mod tests {
    use super::super::pb;
    use super::*;
    use proptest::prelude::*;

    fn ack(seq: u64) -> pb::Ack {
        pb::Ack { id: vec![7; 16], seq }
    }

    #[test]
    fn messages_survive_any_cut() {
        let stream = [frame(&ack(1)), frame(&ack(300)), frame(&ack(0))].concat();
        for cut in 0..stream.len() {
            let mut deframer = Deframer::new(100);
            let mut seen = Vec::new();
            for chunk in [&stream[..cut], &stream[cut..]] {
                deframer.push(chunk);
                while let Some(m) = deframer.pop::<pb::Ack>().expect("good bytes") {
                    seen.push(m.seq);
                }
            }
            assert_eq!(seen, [1, 300, 0], "cut at {cut}");
        }
    }

    #[test]
    fn a_long_message_is_refused_by_its_length_alone() {
        let mut deframer = Deframer::new(100);
        deframer.push(&[101]);
        assert_eq!(deframer.pop::<pb::Ack>(), Err(FramingError::TooLong { limit: 100 }));
        let mut deframer = Deframer::new(usize::MAX);
        deframer.push(&[0xff; 4]);
        assert!(deframer.pop::<pb::Ack>().is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_messages_or_an_error(chunks: Vec<Vec<u8>>) {
            let mut deframer = Deframer::new(1000);
            for chunk in chunks {
                deframer.push(&chunk);
                loop {
                    match deframer.pop::<pb::ClientControl>() {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => return Ok(()),
                    }
                }
                prop_assert!(deframer.buffer.len() <= 1000 + MAX_PREFIX);
            }
        }
    }
}
