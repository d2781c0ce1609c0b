//! A stream of questions and answers.

use prost::Message;
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use vchat_proto::wire::close::CloseCode;
use vchat_proto::wire::framing::{Deframer, frame};

/// One stream on which each message is answered by one.
pub(crate) struct Talk {
    connection: Connection,
    send: SendStream,
    receive: RecvStream,
    deframer: Deframer,
    max_answer: usize,
}

impl Talk {
    /// Opens the stream. Answers have at most so many bytes.
    pub(crate) async fn open(connection: &Connection, max_answer: usize) -> Result<Self, ConnectionError> {
        let (send, receive) = connection.open_bi().await?;
        let deframer = Deframer::new(max_answer);
        Ok(Self { connection: connection.clone(), send, receive, deframer, max_answer })
    }

    /// Sends a message and waits for the answer. The error says how the connection ended; a relay whose answer makes no sense is
    /// hung up on.
    pub(crate) async fn exchange<Up: Message, Down: Message + Default>(
        &mut self,
        message: &Up,
    ) -> Result<Down, ConnectionError> {
        if self.send.write_all(&frame(message)).await.is_err() {
            return Err(self.connection.closed().await);
        }
        loop {
            match self.deframer.pop::<Down>() {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => {}
                Err(_) => vchat_quic::close(&self.connection, CloseCode::Protocol),
            }
            match self.receive.read_chunk(self.max_answer, true).await {
                Ok(Some(chunk)) => self.deframer.push(&chunk.bytes),
                Ok(None) => {
                    vchat_quic::close(&self.connection, CloseCode::Protocol);
                    return Err(self.connection.closed().await);
                }
                Err(_) => return Err(self.connection.closed().await),
            }
        }
    }
}
