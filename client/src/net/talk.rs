//! A relay that is asked something without a call: a stream of questions and answers.

use std::path::Path;

use prost::Message;
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use vchat_proto::wire::close::CloseCode;
use vchat_proto::wire::framing::{Deframer, frame};

use super::connect::Connector;
use super::pair::PairError;
use crate::cli::Target;

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

/// Does something with a relay without a call, on a runtime of its own, and blocks until it is done.
///
/// # Errors
/// Those of the work; or this device's own files are no use.
pub(crate) fn alone<T>(
    relay: &Target,
    config_dir: &Path,
    state_dir: &Path,
    work: impl AsyncFnOnce(&mut Connector) -> Result<T, PairError>,
) -> Result<T, PairError> {
    let connector = Connector::new(relay.clone(), false, config_dir, state_dir);
    let mut connector = connector.map_err(PairError::Local)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| PairError::Local(format!("cannot start the network: {e}")))?;
    let done = runtime.block_on(work(&mut connector));
    // A name service that does not answer must not hold up the end of the program.
    runtime.shutdown_background();
    done
}
