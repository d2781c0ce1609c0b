//! What a service manager gives and wants to hear (systemd: sd_listen_fds(3), sd_notify(3)). Without one nothing of this does
//! anything.

use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use anyhow::{Context, ensure};
use listenfd::ListenFd;
use sd_notify::NotifyState;

/// Sockets that were open before the relay.
#[derive(Debug, Default)]
pub struct Sockets {
    /// For calls.
    pub calls: Vec<UdpSocket>,
    /// For metrics.
    pub metrics: Option<TcpListener>,
}

/// The sockets that the service manager has opened for this process, in its order. They are given once.
///
/// # Errors
/// One of them is neither a UDP socket nor the one TCP socket.
pub fn sockets() -> anyhow::Result<Sockets> {
    let mut given = ListenFd::from_env();
    let count = given.len();
    let mut sockets = Sockets::default();
    for at in 0..count {
        if let Ok(socket) = given.take_udp_socket(at) {
            sockets.calls.extend(socket);
            continue;
        }
        let listener = given.take_tcp_listener(at).context(
            "the service manager gave a socket that is neither one for calls (ListenDatagram=) nor for metrics (ListenStream=)",
        )?;
        ensure!(
            sockets.metrics.is_none(),
            "the service manager gave two sockets for metrics: name one address with ListenStream="
        );
        sockets.metrics = listener;
    }
    Ok(sockets)
}

/// Everything is open, and people can come in; or what was told by [`reloading`] is done.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The settings are being read again.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// The relay is about to end.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Another process is the service from now on.
pub(crate) fn succeeded_by(pid: u32) {
    tell(&[NotifyState::MainPid(pid)]);
}

/// The relay works, as far as it can tell.
pub(crate) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// After how long without [`alive`] the service manager starts the relay anew, if it does.
pub(crate) fn patience() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

fn tell(news: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(news) {
        tracing::warn!("the service manager cannot be told {news:?}: {e}");
    }
}
