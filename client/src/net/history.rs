//! Reading what was written in a room, without being there.

use chrono::{DateTime, Local, SecondsFormat, Utc};
use serde_json::{Value, json};
use vchat_certs::tls::Purpose;
use vchat_proto::id::RoomName;
use vchat_proto::session::{ChatLine, Loss};
use vchat_proto::wire::close::CloseCode;
use vchat_proto::wire::limits::{MAX_MESSAGE, MAX_PAGE, PAIRING_TIMEOUT};
use vchat_proto::wire::pb;

use super::connect::Connector;
use super::invite::failure;
use super::link::loss;
use super::pair::PairError;
use super::talk::{Talk, alone};
use crate::call::for_terminal;
use crate::cli::HistoryConfig;

/// Lines of a room's chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Oldest first.
    pub lines: Vec<ChatLine>,
    /// There are older ones.
    pub more: bool,
}

impl Read {
    /// The lines as they are shown: what was asked for, for stdout; and what helps, for stderr.
    #[must_use]
    pub fn show(&self, json: bool) -> (String, String) {
        let when = |line: &ChatLine| -> DateTime<Utc> {
            i64::try_from(line.sent_ms).ok().and_then(DateTime::from_timestamp_millis).unwrap_or_default()
        };
        if json {
            let line = |l: &ChatLine| {
                let sent = when(l).to_rfc3339_opts(SecondsFormat::Secs, true);
                json!({"seq": l.seq, "sent": sent, "name": l.name, "text": l.text})
            };
            return (self.lines.iter().map(line).collect::<Value>().to_string(), String::new());
        }
        let line = |l: &ChatLine| {
            let sent = when(l).with_timezone(&Local).format("%Y-%m-%d %H:%M");
            format!("{:>6}  {sent}  {}", l.seq, for_terminal(&l.name, &l.text))
        };
        let text = self.lines.iter().map(line).collect::<Vec<_>>().join("\n");
        let hint = match self.lines.first() {
            Some(first) if self.more => format!("There are older lines: --before {}", first.seq),
            Some(_) => String::new(),
            None => "nothing has been written there".into(),
        };
        (text, hint)
    }
}

/// Reads lines page by page, the newest first. Blocks until they are there.
///
/// # Errors
/// The relay cannot be reached, or does not do it.
pub fn run(config: &HistoryConfig) -> Result<Read, PairError> {
    alone(&config.relay, &config.config_dir, &config.state_dir, async |connector| {
        read(connector, config).await
    })
}

async fn read(connector: &Connector, config: &HistoryConfig) -> Result<Read, PairError> {
    let refused = |loss| failure(connector.target(), loss);
    let connected = connector.connect(Purpose::History).await.map_err(refused)?;
    let reading = async {
        let mut talk = Talk::open(&connected.connection, MAX_MESSAGE).await.map_err(|e| loss(&e))?;
        let mut back = Back::new(config);
        while let Some(request) = back.next() {
            let message = pb::HistoryUp { body: Some(pb::history_up::Body::Older(request)) };
            let exchange = talk.exchange::<pb::HistoryUp, pb::HistoryDown>(&message);
            let answer = tokio::time::timeout(PAIRING_TIMEOUT, exchange).await;
            let answer = answer.map_err(|_| Loss::Network("it does not answer".into()))?;
            let Some(pb::history_down::Body::Page(page)) = answer.map_err(|e| loss(&e))?.body else {
                return Err(Loss::Network(SENSELESS.into()));
            };
            back.take(page).map_err(|why| Loss::Network(why.into()))?;
        }
        Ok(back.read())
    };
    let read = reading.await.map_err(refused);
    vchat_quic::close(&connected.connection, CloseCode::Goodbye);
    connected.farewell().await;
    read
}

/// What has been read, and what is to be read yet.
struct Back {
    room: String,
    before: u64,
    left: u32,
    history: Option<u64>,
    /// The newest first.
    lines: Vec<pb::Line>,
    more: bool,
}

impl Back {
    fn new(config: &HistoryConfig) -> Self {
        Self {
            room: config.room.as_ref().map_or("", RoomName::as_str).into(),
            before: config.before.unwrap_or(u64::MAX),
            left: config.limit,
            history: None,
            lines: Vec::new(),
            more: true,
        }
    }

    fn next(&self) -> Option<pb::OlderOf> {
        let older = pb::Older { before: self.before, limit: self.left.min(MAX_PAGE) };
        (self.more && self.left > 0).then(|| pb::OlderOf { room: self.room.clone(), older: Some(older) })
    }

    /// Takes a page that goes on where the last one ended.
    fn take(&mut self, page: pb::Page) -> Result<(), &'static str> {
        let pb::Page { history, before, lines, more } = page;
        if lines.is_empty() && more {
            return Err("it cannot read its chat now; its log says why");
        }
        if *self.history.get_or_insert(history) != history {
            return Err("it has lost its chat meanwhile");
        }
        let in_order =
            lines.is_sorted_by(|a, b| a.seq < b.seq) && lines.last().is_none_or(|l| l.seq < self.before);
        if before != self.before || !in_order || lines.len() > self.left.min(MAX_PAGE) as usize {
            return Err(SENSELESS);
        }
        self.left -= u32::try_from(lines.len()).unwrap_or(self.left);
        self.before = lines.first().map_or(self.before, |l| l.seq);
        self.lines.extend(lines.into_iter().rev());
        self.more = more;
        Ok(())
    }

    fn read(self) -> Read {
        let lines = self.lines.into_iter().rev().filter_map(ChatLine::parse).collect();
        Read { lines, more: self.more }
    }
}

const SENSELESS: &str = "its answer makes no sense";

#[cfg(test)]
mod tests {
    use super::*;

    fn back(limit: u32) -> Back {
        Back {
            room: String::new(),
            before: u64::MAX,
            left: limit,
            history: None,
            lines: Vec::new(),
            more: true,
        }
    }

    fn page(before: u64, seqs: &[u64], more: bool) -> pb::Page {
        let line =
            |seq: &u64| pb::Line { seq: *seq, id: vec![1; 16], name: "ann".into(), ..pb::Line::default() };
        pb::Page { history: 5, before, lines: seqs.iter().map(line).collect(), more }
    }

    fn asked(back: &Back) -> Option<(u64, u32)> {
        back.next().and_then(|request| request.older).map(|older| (older.before, older.limit))
    }

    #[test]
    fn pages_join_on_to_each_other_until_there_are_enough_or_no_more() {
        let mut b = back(130);
        assert_eq!(asked(&b), Some((u64::MAX, MAX_PAGE)));
        b.take(page(u64::MAX, &[8, 9], true)).expect("a page");
        assert_eq!(asked(&b), Some((8, MAX_PAGE)));
        b.take(page(8, &[2, 7], false)).expect("a page");
        assert_eq!(asked(&b), None);
        let read = b.read();
        assert_eq!(read.lines.iter().map(|l| l.seq).collect::<Vec<_>>(), [2, 7, 8, 9]);

        let mut b = back(2);
        b.take(page(u64::MAX, &[8, 9], true)).expect("a page");
        assert_eq!(asked(&b), None);
        assert!(b.read().show(false).1.ends_with("--before 8"));
    }

    #[test]
    fn a_relay_that_answers_something_else_is_not_believed() {
        for wrong in [
            page(7, &[1], true),
            page(u64::MAX, &[2, 1], true),
            page(u64::MAX, &[2, 2], true),
            page(u64::MAX, &[], true),
            page(u64::MAX, &[1, 2, 3], true),
        ] {
            assert!(back(2).take(wrong.clone()).is_err(), "{wrong:?}");
        }
        let mut b = back(200);
        b.take(page(u64::MAX, &[8, 9], true)).expect("a page");
        let other = pb::Page { history: 6, ..page(8, &[7], true) };
        assert!(b.take(other).expect_err("another chat").contains("lost"));
        assert!(b.take(page(8, &[8], true)).is_err(), "it is there already");
    }
}
