//! Packets on their way between two processes of a relay, over a stream: each is its length, where it came from, and its bytes.
//!
//! ```text
//!  0       4    6                22      26        30     46 47  48      50
//! | length |port| address of sender|flow  | scope   | to  |fl|ecn| stride | packets ...
//! ```
//! Numbers are big-endian; IPv4 addresses are mapped to IPv6; `fl`: 1: the sender's address is IPv4, 2: `to` is there, 4: and is IPv4.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::task::{Context, Poll, ready};

use quinn::udp::{EcnCodepoint, RecvMeta};
use tokio::net::UnixStream;

/// The end into which packets go.
pub(crate) struct Outlet {
    stream: UnixStream,
    /// The rest of what the stream had no room for. Overflow: packets are lost while there is one, like on any line.
    rest: Vec<u8>,
}

/// The end from which they come.
pub(crate) struct Inlet {
    stream: UnixStream,
    /// Read and not handed out yet; at most one message and a piece of the next.
    read: Vec<u8>,
}

impl Outlet {
    pub(crate) const fn new(stream: UnixStream) -> Self {
        Self { stream, rest: Vec::new() }
    }

    /// Passes packets on; never waits.
    ///
    /// # Errors
    /// Nobody reads them any more.
    pub(crate) fn pass(&mut self, meta: &RecvMeta, packets: &[u8]) -> io::Result<()> {
        if !self.flush()? {
            return Ok(());
        }
        self.rest = encode(meta, packets);
        self.flush().map(drop)
    }

    /// Whether everything is written.
    fn flush(&mut self) -> io::Result<bool> {
        while !self.rest.is_empty() {
            match self.stream.try_write(&self.rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => drop(self.rest.drain(..written)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }
}

impl Inlet {
    pub(crate) const fn new(stream: UnixStream) -> Self {
        Self { stream, read: Vec::new() }
    }

    /// As a socket receives.
    pub(crate) fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut count = 0;
            for (buf, meta) in bufs.iter_mut().zip(meta.iter_mut()) {
                let Some((header, packets, rest)) = split(&self.read) else { break };
                let len = packets.len().min(buf.len());
                buf[..len].copy_from_slice(&packets[..len]);
                *meta = decode(header, len);
                count += 1;
                let taken = self.read.len() - rest.len();
                self.read.drain(..taken);
            }
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
            ready!(self.stream.poll_read_ready(cx))?;
            self.read.reserve(LARGEST);
            match self.stream.try_read_buf(&mut self.read) {
                // Nothing will come any more; what this process still has to say to its clients goes out all the same.
                Ok(0) => return Poll::Pending,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }
}

fn encode(meta: &RecvMeta, packets: &[u8]) -> Vec<u8> {
    let (ip, flow, scope) = match meta.addr {
        SocketAddr::V4(addr) => (addr.ip().to_ipv6_mapped(), 0, 0),
        SocketAddr::V6(addr) => (*addr.ip(), addr.flowinfo(), addr.scope_id()),
    };
    let (to, to_flags) = match meta.dst_ip {
        None => (Ipv6Addr::UNSPECIFIED, 0),
        Some(IpAddr::V4(ip)) => (ip.to_ipv6_mapped(), TO | TO_V4),
        Some(IpAddr::V6(ip)) => (ip, TO),
    };
    let flags = to_flags | if meta.addr.is_ipv4() { FROM_V4 } else { 0 };
    let stride = u16::try_from(meta.stride).unwrap_or(u16::MAX);
    let mut message = Vec::with_capacity(HEADER + packets.len());
    message.extend(u32::try_from(packets.len()).unwrap_or(u32::MAX).to_be_bytes());
    message.extend(meta.addr.port().to_be_bytes());
    message.extend(ip.octets());
    message.extend(flow.to_be_bytes());
    message.extend(scope.to_be_bytes());
    message.extend(to.octets());
    message.extend([flags, meta.ecn.map_or(0, |ecn| ecn as u8)]);
    message.extend(stride.to_be_bytes());
    message.extend(packets);
    message
}

/// The first message, its packets, and what comes after it.
fn split(read: &[u8]) -> Option<(&[u8; HEADER], &[u8], &[u8])> {
    let (header, after) = read.split_first_chunk::<HEADER>()?;
    let len = u32::from_be_bytes(*header.first_chunk()?);
    let (packets, rest) = after.split_at_checked(len as usize)?;
    Some((header, packets, rest))
}

fn decode(header: &[u8; HEADER], len: usize) -> RecvMeta {
    let u16_at = |at: usize| u16::from_be_bytes(std::array::from_fn(|i| header[at + i]));
    let u32_at = |at: usize| u32::from_be_bytes(std::array::from_fn(|i| header[at + i]));
    let ip_at = |at: usize| Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|i| header[at + i]));
    let (flags, ecn) = (header[46], header[47]);
    let from = SocketAddr::V6(SocketAddrV6::new(ip_at(6), u16_at(4), u32_at(22), u32_at(26)));
    let unmapped = SocketAddr::new(from.ip().to_canonical(), from.port());
    let to = IpAddr::V6(ip_at(30));
    RecvMeta {
        addr: if flags & FROM_V4 == 0 { from } else { unmapped },
        len,
        stride: u16_at(48).into(),
        ecn: EcnCodepoint::from_bits(ecn),
        dst_ip: (flags & TO != 0).then(|| if flags & TO_V4 == 0 { to } else { to.to_canonical() }),
    }
}

const HEADER: usize = 50;
/// What the system makes of a burst of one sender at once, at most.
const LARGEST: usize = HEADER + 64 * 1024;
const FROM_V4: u8 = 1;
const TO: u8 = 2;
const TO_V4: u8 = 4;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn metas() -> Vec<RecvMeta> {
        let mut all = Vec::new();
        for addr in ["10.1.2.3:77", "[::ffff:10.1.2.3]:77", "[fe80::1%3]:9", "[2001:db8::7]:65535"] {
            for to in [None, Some("10.9.9.9"), Some("2001:db8::1"), Some("::ffff:10.9.9.9")] {
                for ecn in [None, Some(EcnCodepoint::Ce)] {
                    let addr = addr.parse().expect("an address");
                    let dst_ip = to.map(|to| to.parse().expect("an address"));
                    all.push(RecvMeta { addr, len: 3000, stride: 1200, ecn, dst_ip });
                }
            }
        }
        all
    }

    fn same(a: &RecvMeta, b: &RecvMeta) -> bool {
        (a.addr, a.len, a.stride, a.ecn.map(|e| e as u8), a.dst_ip)
            == (b.addr, b.len, b.stride, b.ecn.map(|e| e as u8), b.dst_ip)
    }

    #[test]
    fn what_is_known_of_packets_goes_with_them() {
        for meta in metas() {
            let bytes = encode(&meta, &[7; 3000]);
            let (header, packets, rest) = split(&bytes).expect("whole");
            assert!(same(&decode(header, packets.len()), &meta), "{meta:?}");
            assert_eq!((packets, rest), (&[7; 3000][..], &[][..]));
            assert!((0..bytes.len()).all(|len| split(&bytes[..len]).is_none()));
        }
    }

    fn numbered(meta: &mut RecvMeta, n: u32) -> Vec<u8> {
        meta.len = 100 + (n % 1000) as usize;
        let mut packet = vec![n as u8; meta.len];
        packet[..4].copy_from_slice(&n.to_be_bytes());
        packet
    }

    /// The numbers of the packets that come, until one of them is at least `last`.
    async fn read(mut inlet: Inlet, last: u32) -> Vec<u32> {
        let mut numbers = Vec::new();
        let mut space = vec![vec![0; 2000]; 8];
        while numbers.last().is_none_or(|n| *n < last) {
            let mut bufs: Vec<IoSliceMut<'_>> = space.iter_mut().map(|b| IoSliceMut::new(b)).collect();
            let mut metas = vec![RecvMeta::default(); 8];
            let count = poll_fn(|cx| inlet.poll_recv(cx, &mut bufs, &mut metas)).await.expect("packets");
            for (buf, meta) in bufs.iter().zip(&metas).take(count) {
                let n = u32::from_be_bytes(*buf.first_chunk().expect("a number"));
                assert_eq!(meta.len, 100 + (n % 1000) as usize);
                assert!(buf[4..meta.len].iter().all(|b| *b == n as u8), "packet {n} is whole");
                numbers.push(n);
            }
        }
        numbers
    }

    #[tokio::test]
    async fn packets_arrive_in_order_and_whole_and_too_many_are_lost() {
        let (a, b) = UnixStream::pair().expect("streams");
        let (mut outlet, inlet) = (Outlet::new(a), Inlet::new(b));
        let mut meta = metas()[0];
        const FLOOD: u32 = 20_000;
        for n in 0..FLOOD {
            let packet = numbered(&mut meta, n);
            outlet.pass(&meta, &packet).expect("somebody reads");
        }
        let reader = tokio::spawn(read(inlet, FLOOD));
        for n in FLOOD.. {
            let packet = numbered(&mut meta, n);
            if outlet.pass(&meta, &packet).is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let numbers = reader.await.expect("packets");
        assert!(numbers.is_sorted() && numbers[..100].iter().eq(&Vec::from_iter(0..100)), "{numbers:?}");
        assert!(numbers.len() < FLOOD as usize, "nobody waits for who does not read");
    }
}
