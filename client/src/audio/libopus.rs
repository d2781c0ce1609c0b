//! The part of libopus 1.6 that a call needs, its deep redundancy (DRED) included: no safe binding has that whole.
//!
//! `opus` 0.4 knows no DRED, and `opusic-c` 1.6 restores only the frame next to the packet. DRED is coarse features of
//! up to the last second of speech in the padding of a packet, which the decoder's neural vocoder makes sound of
//! (draft-ietf-mlcodec-opus-dred).
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int};
use std::ptr::{self, NonNull};

use opusic_sys as ffi;

use super::{FRAME, RATE};

/// An encoder of mono speech at 48 kHz.
pub(super) struct Encoder(NonNull<ffi::OpusEncoder>);

/// A decoder of mono sound at 48 kHz.
pub(super) struct Decoder(NonNull<ffi::OpusDecoder>);

/// Reads the redundancy out of packets and holds that of one.
pub(super) struct Redundancy {
    reader: NonNull<ffi::OpusDREDDecoder>,
    state: NonNull<ffi::OpusDRED>,
    /// Whether `state` is ready to be decoded from.
    ready: bool,
}

/// A setting of the encoder; the ranges are libopus' own, which refuses other values.
#[derive(Clone, Copy, Debug)]
pub(super) enum Setting {
    /// Bits a second.
    Bitrate(i32),
    /// 0 to 10.
    Complexity(i32),
    /// Percent of packets expected to be lost.
    Loss(i32),
    /// Whether packets carry a coarse copy of the packet before.
    Copies(bool),
    /// Sound that the redundancy covers, in units of 10 ms; 0 turns it off.
    Redundancy(i32),
}

/// Why libopus refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("libopus: {}", self.text())]
pub(super) struct Error(c_int);

impl Encoder {
    /// An encoder with variable bitrate, tuned for speech.
    pub(super) fn new() -> Result<Self, Error> {
        let mut error = ffi::OPUS_OK;
        // SAFETY: rate and channels are among those allowed, `error` is valid for the call.
        let made =
            unsafe { ffi::opus_encoder_create(RATE as i32, 1, ffi::OPUS_APPLICATION_VOIP, &raw mut error) };
        let mut encoder = Self(owned(made, error)?);
        encoder.control(ffi::OPUS_SET_SIGNAL_REQUEST, ffi::OPUS_SIGNAL_VOICE)?;
        encoder.control(ffi::OPUS_SET_VBR_REQUEST, 1)?;
        Ok(encoder)
    }

    pub(super) fn set(&mut self, setting: Setting) -> Result<(), Error> {
        match setting {
            Setting::Bitrate(bps) => self.control(ffi::OPUS_SET_BITRATE_REQUEST, bps),
            Setting::Complexity(level) => self.control(ffi::OPUS_SET_COMPLEXITY_REQUEST, level),
            Setting::Loss(percent) => self.control(ffi::OPUS_SET_PACKET_LOSS_PERC_REQUEST, percent),
            Setting::Copies(on) => self.control(ffi::OPUS_SET_INBAND_FEC_REQUEST, c_int::from(on)),
            Setting::Redundancy(frames) => self.control(ffi::OPUS_SET_DRED_DURATION_REQUEST, frames),
        }
    }

    /// Samples by which the decoded sound lags behind the frames encoded.
    pub(super) fn lookahead(&mut self) -> Result<usize, Error> {
        let mut samples: c_int = 0;
        // SAFETY: the encoder is live, and this request takes one pointer to an `opus_int32` to write to.
        let code = unsafe {
            ffi::opus_encoder_ctl(self.0.as_ptr(), ffi::OPUS_GET_LOOKAHEAD_REQUEST, &raw mut samples)
        };
        checked(code)?;
        Ok(usize::try_from(samples).unwrap_or(0))
    }

    /// Encodes a frame into `packet`; returns the bytes written.
    pub(super) fn encode(&mut self, frame: &[f32; FRAME], packet: &mut [u8]) -> Result<usize, Error> {
        // SAFETY: `frame` holds one channel of FRAME samples, and at most the length given is written to `packet`.
        checked(unsafe {
            ffi::opus_encode_float(
                self.0.as_ptr(),
                frame.as_ptr(),
                FRAME as c_int,
                packet.as_mut_ptr(),
                length(packet),
            )
        })
    }

    /// For requests that take one integer.
    fn control(&mut self, request: c_int, value: c_int) -> Result<(), Error> {
        // SAFETY: the encoder is live; only requests with one argument, an `opus_int32`, are passed (see the callers).
        checked(unsafe { ffi::opus_encoder_ctl(self.0.as_ptr(), request, value) }).map(drop)
    }
}

impl Decoder {
    /// A decoder that conceals and restores with its neural vocoder.
    pub(super) fn new() -> Result<Self, Error> {
        let mut error = ffi::OPUS_OK;
        // SAFETY: rate and channels are among those allowed, `error` is valid for the call.
        let made = unsafe { ffi::opus_decoder_create(RATE as i32, 1, &raw mut error) };
        let decoder = Self(owned(made, error)?);
        // SAFETY: the decoder is live; this request takes one `opus_int32`.
        checked(unsafe {
            ffi::opus_decoder_ctl(decoder.0.as_ptr(), ffi::OPUS_SET_COMPLEXITY_REQUEST, DEEP_CONCEALMENT)
        })?;
        Ok(decoder)
    }

    /// Decodes a packet; with `copy` the coarse copy in it of the frame before.
    pub(super) fn decode(&mut self, packet: &[u8], copy: bool, out: &mut [f32]) -> Result<(), Error> {
        // SAFETY: pointer and length are those of `packet`, and at most `out.len()` samples of one channel are written.
        checked(unsafe {
            ffi::opus_decode_float(
                self.0.as_ptr(),
                packet.as_ptr(),
                length(packet),
                out.as_mut_ptr(),
                length(out),
                c_int::from(copy),
            )
        })
        .map(drop)
    }

    /// Invents sound; `out` is a multiple of 2.5 ms long.
    pub(super) fn conceal(&mut self, out: &mut [f32]) -> Result<(), Error> {
        // SAFETY: no packet is announced by the null pointer; at most `out.len()` samples of one channel are written.
        checked(unsafe {
            ffi::opus_decode_float(self.0.as_ptr(), ptr::null(), 0, out.as_mut_ptr(), length(out), 0)
        })
        .map(drop)
    }

    /// Restores the frame that begins `back` frames before the packet last given to [`Redundancy::read`].
    pub(super) fn restore(
        &mut self,
        redundancy: &Redundancy,
        back: usize,
        out: &mut [f32; FRAME],
    ) -> Result<(), Error> {
        if !redundancy.ready {
            return Err(Error(ffi::OPUS_INVALID_STATE));
        }
        let offset = c_int::try_from(back.saturating_mul(FRAME)).map_err(|_| Error(ffi::OPUS_BAD_ARG))?;
        // SAFETY: both are live, `ready` says that the state was parsed and processed; FRAME samples of one channel
        // are written. Offsets beyond what the state holds are checked there, feature by feature.
        checked(unsafe {
            ffi::opus_decoder_dred_decode_float(
                self.0.as_ptr(),
                redundancy.state.as_ptr(),
                offset,
                out.as_mut_ptr(),
                FRAME as c_int,
            )
        })
        .map(drop)
    }
}

impl Redundancy {
    pub(super) fn new() -> Result<Self, Error> {
        let mut error = ffi::OPUS_OK;
        // SAFETY: `error` is valid for the call.
        let reader = owned(unsafe { ffi::opus_dred_decoder_create(&raw mut error) }, error)?;
        // SAFETY: `error` is valid for the call.
        match owned(unsafe { ffi::opus_dred_alloc(&raw mut error) }, error) {
            Ok(state) => Ok(Self { reader, state, ready: false }),
            Err(error) => {
                // SAFETY: just created, and not used again.
                unsafe { ffi::opus_dred_decoder_destroy(reader.as_ptr()) };
                Err(error)
            }
        }
    }

    /// How many frames back the redundancy of a packet reaches, at most `frames`; forgets the packet before.
    ///
    /// Cheap: it only decodes the entropy code. For [`Self::read`] it is what a packet must have.
    pub(super) fn reach(&mut self, packet: &[u8], frames: usize) -> usize {
        self.parse(packet, frames, true)
    }

    /// Prepares up to `frames` frames before a packet for [`Decoder::restore`]; returns how many there are.
    pub(super) fn read(&mut self, packet: &[u8], frames: usize) -> usize {
        let reach = self.parse(packet, frames, false);
        self.ready = reach > 0;
        reach
    }

    fn parse(&mut self, packet: &[u8], frames: usize, look: bool) -> usize {
        self.ready = false;
        let most = c_int::try_from(frames.saturating_mul(FRAME)).unwrap_or(RATE as c_int).min(RATE as c_int);
        let mut newest: c_int = 0;
        // SAFETY: reader and state are live; pointer and length are those of `packet`, which is checked like any Opus
        // packet; `newest` is valid for the call.
        let samples = unsafe {
            ffi::opus_dred_parse(
                self.reader.as_ptr(),
                self.state.as_ptr(),
                packet.as_ptr(),
                length(packet),
                most,
                RATE as c_int,
                &raw mut newest,
                c_int::from(look),
            )
        };
        usize::try_from(samples).unwrap_or(0).min(usize::try_from(most).unwrap_or(0)) / FRAME
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        // SAFETY: owned, and not used again.
        unsafe { ffi::opus_encoder_destroy(self.0.as_ptr()) }
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // SAFETY: owned, and not used again.
        unsafe { ffi::opus_decoder_destroy(self.0.as_ptr()) }
    }
}

impl Drop for Redundancy {
    fn drop(&mut self) {
        // SAFETY: both are owned, and not used again.
        unsafe {
            ffi::opus_dred_free(self.state.as_ptr());
            ffi::opus_dred_decoder_destroy(self.reader.as_ptr());
        }
    }
}

// SAFETY: the three own their memory alone, libopus keeps no state per thread, and no method takes `&self` to change it.
unsafe impl Send for Encoder {}
// SAFETY: as above.
unsafe impl Send for Decoder {}
// SAFETY: as above.
unsafe impl Send for Redundancy {}

impl Error {
    fn text(self) -> &'static str {
        // SAFETY: libopus returns a pointer to a constant string for every number.
        unsafe { CStr::from_ptr(ffi::opus_strerror(self.0)) }.to_str().unwrap_or("unknown error")
    }
}

/// Samples in a packet; none when it is none.
pub(super) fn packet_samples(packet: &[u8]) -> Option<usize> {
    // SAFETY: pointer and length are those of `packet`.
    let samples = unsafe { ffi::opus_packet_get_nb_samples(packet.as_ptr(), length(packet), RATE as c_int) };
    usize::try_from(samples).ok()
}

fn owned<T>(made: *mut T, error: c_int) -> Result<NonNull<T>, Error> {
    NonNull::new(made).filter(|_| error == ffi::OPUS_OK).ok_or(Error(error))
}

/// A result of libopus: a count, or an error when negative.
fn checked(code: c_int) -> Result<usize, Error> {
    usize::try_from(code).map_err(|_| Error(code))
}

fn length<T>(slice: &[T]) -> c_int {
    c_int::try_from(slice.len()).unwrap_or(c_int::MAX)
}

/// Decoder complexity from which libopus conceals with its vocoder; from 6 on it would also enhance what it decodes, in
/// builds that have the models for that.
const DEEP_CONCEALMENT: c_int = 5;
