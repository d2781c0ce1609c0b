//! What sockets lost.

use anyhow::Context;

/// Datagrams for a port of this machine (IPv4) that its socket had no room for, since it was opened.
pub(super) fn overflow(port: u16) -> anyhow::Result<u64> {
    let table = std::fs::read_to_string("/proc/net/udp").context("cannot read /proc/net/udp")?;
    parse(&table, port).with_context(|| format!("port {port} is not in /proc/net/udp"))
}

/// The last field of the line whose second one ends with the port.
fn parse(table: &str, port: u16) -> Option<u64> {
    let local = format!(":{port:04X}");
    let line = table
        .lines()
        .skip(1)
        .find(|line| line.split_whitespace().nth(1).is_some_and(|address| address.ends_with(&local)))?;
    line.split_whitespace().next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_found_by_its_number() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
 1093: 00000000:14E9 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 36064 2 0000000000000000 0
 2301: 0100007F:1151 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 36063 2 0000000000000000 417";
        assert_eq!((parse(table, 0x1151), parse(table, 0x14e9), parse(table, 1)), (Some(417), Some(0), None));
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        assert_eq!(overflow(socket.local_addr().expect("bound").port()).expect("listed"), 0);
    }
}
