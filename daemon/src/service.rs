//! What a service manager gives and wants to hear (systemd: sd_listen_fds(3), sd_notify(3)). Without one nothing of this does
//! anything.

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::Context;
use listenfd::ListenFd;
use sd_notify::NotifyState;

/// The sockets that the service manager has opened for this process, in its order. They are given once.
///
/// # Errors
/// One of them is no UDP socket.
pub fn sockets() -> anyhow::Result<Vec<UdpSocket>> {
    let mut given = ListenFd::from_env();
    let count = given.len();
    let mut sockets = Vec::new();
    for at in 0..count {
        let socket = given.take_udp_socket(at);
        sockets.extend(
            socket
                .context("the service manager gave a socket that is not one of UDP: see ListenDatagram=")?,
        );
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
