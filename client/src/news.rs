//! The one queue to the main thread.

use std::sync::mpsc;

use vchat_proto::id::ParticipantId;

use crate::audio::Heard;
use crate::call::decode::Decoded;
use crate::net::NetNews;
use crate::slot::Slot;

/// What the other threads tell the main thread.
#[derive(Debug)]
pub enum News {
    /// From the network.
    Net(NetNews),
    /// What is heard of this participant will be told here.
    Listening(ParticipantId, Heard),
    /// The pictures of this participant will be in this slot.
    Decoding(ParticipantId, Slot<Decoded>),
    /// A new picture of this participant is in its slot.
    Picture(ParticipantId),
    /// A new picture of our own camera is in its slot.
    SelfView,
    /// The camera is gone; the call goes on without it.
    CameraGone(String),
    /// A microphone or speaker is gone; the call goes on without it.
    SoundGone(String),
    /// A line typed on stdin, and whom to tell that it was taken.
    Line(String, mpsc::SyncSender<()>),
    /// The user or the system wants the program to end.
    Stop,
}

/// Sends [`News`].
///
/// The queue has no limit, but what enters it has: a note about a picture is sent only when its slot was empty (at most one
/// per participant waits), and everything else is rare.
pub type NewsSender = mpsc::Sender<News>;
