//! libaom in its real-time mode.
//!
//! The settings are those that the WebRTC world runs libaom with: constant bitrate, one pass, no look-ahead, cyclic
//! refresh, and every tool off whose gain is not worth its time at speeds 8 and up.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::raw::{c_int, c_uint};
use std::ptr;

use bytes::Bytes;
use libaom_sys as ffi;
use vchat_proto::id::FrameId;
use vchat_proto::units::{Bitrate, MediaTime};

use super::encoder::{EncodeError, EncodedFrame, Encoder, FrameOptions, Settings, check_bitrate};
use super::references::{Plan, References};
use crate::picture::Picture;

/// The default encoder.
pub(super) struct Aom {
    settings: Settings,
    codec: Codec,
    /// Pictures a second that were announced last.
    fps: u32,
    pace: Pace,
    references: References,
}

impl Aom {
    pub(super) fn new(settings: Settings, first: FrameId) -> Result<Self, EncodeError> {
        let mut codec = Codec::open(settings)?;
        for &(id, value) in CONTROLS {
            codec.control(id, value)?;
        }
        codec.control(ffi::AOME_SET_CPUUSED, speed(settings))?;
        codec.control(ffi::AV1E_SET_ROW_MT, c_int::from(settings.threads > 1))?;
        codec.control(ffi::AV1E_SET_TILE_COLUMNS, tile_columns_log2(settings))?;
        let base_only = settings.layers < 2;
        codec.set_rate(settings.layers, settings.bitrate, base_only)?;
        let mut pace = Pace::new(settings.fps);
        pace.shorten = shortening(settings.layers, base_only);
        let references = References::new(settings.layers, first);
        Ok(Self { settings, codec, fps: settings.fps, pace, references })
    }
}

impl Encoder for Aom {
    fn encode(
        &mut self,
        picture: &Picture,
        captured: MediaTime,
        options: FrameOptions,
    ) -> Result<Vec<EncodedFrame>, EncodeError> {
        self.settings.check_size(picture)?;
        let (pts, duration) = self.pace.advance(captured);
        let plan = self.references.advance(options);
        self.codec.follow(&plan)?;
        let Settings { encoding, .. } = self.settings;
        let Plan { number, dependency, temporal, discardable, .. } = plan;
        let mut out = Vec::with_capacity(1);
        self.codec.encode(picture, pts, duration, plan.from.is_none(), |data| {
            let data = Bytes::copy_from_slice(data);
            out.push(EncodedFrame { data, encoding, number, dependency, temporal, discardable, captured });
        })?;
        if out.is_empty() {
            // Frames to come would refer to one that does not exist.
            return Err(EncodeError::Codec {
                codec: "aom",
                action: "encode a picture",
                why: "no frame came out".to_owned(),
            });
        }
        Ok(out)
    }

    fn set_rate(&mut self, bitrate: Bitrate, fps: u32) -> Result<(), EncodeError> {
        check_bitrate(bitrate)?;
        let base_only = self.settings.layers < 2 || fps * 2 <= self.settings.fps;
        self.codec.set_rate(self.settings.layers, bitrate, base_only)?;
        self.references.set_layers(if base_only { 1 } else { self.settings.layers });
        self.pace.shorten = shortening(self.settings.layers, base_only);
        if std::mem::replace(&mut self.fps, fps) != fps {
            self.pace.expect(fps);
        }
        Ok(())
    }

    fn name(&self) -> &'static str {
        "aom"
    }
}

/// How hard to try.
///
/// At 10, libaom 3.11 takes blocks that changed completely for unchanged ones: of 300 test cards at 1280x720, 189 came
/// out with parts of the picture before in their barcode. At 9 it was 1, and 2 at 640x360, where 8 leaves none and
/// costs half a millisecond.
fn speed(settings: Settings) -> c_int {
    if settings.width * settings.height <= 640 * 360 { 8 } else { 9 }
}

/// Tile columns are what several threads share best, but a column needs some width to be worth it.
fn tile_columns_log2(settings: Settings) -> c_int {
    let columns = settings.threads.min(settings.width / MIN_TILE_WIDTH).max(1);
    columns.ilog2() as c_int
}

/// How many frames of all layers there would be for one that is encoded; see [`Codec::set_rate`].
fn shortening(layers: u8, base_only: bool) -> i64 {
    if base_only { 1 << (layers.max(2) - 1) } else { 1 }
}

/// Timestamps for rate control: they follow the true frame rate, smoothed.
///
/// libaom takes a frame's share of the bitrate from the time since the one before. Raw capture times would make that
/// share jump with every late wake-up, fixed ones would starve a camera that halves its rate in the dark.
struct Pace {
    /// The timestamps go so many times slower.
    shorten: i64,
    interval_us: i64,
    range_us: (i64, i64),
    pts_us: i64,
    last: Option<MediaTime>,
}

impl Pace {
    fn new(fps: u32) -> Self {
        let nominal = 1_000_000 / i64::from(fps);
        Self { shorten: 1, interval_us: nominal, range_us: (nominal / 2, nominal * 4), pts_us: 0, last: None }
    }

    /// From now on so many pictures come a second.
    fn expect(&mut self, fps: u32) {
        self.interval_us = 1_000_000 / i64::from(fps.max(1));
    }

    /// The timestamp of a picture taken at `captured` and how long it lasts, both in microseconds.
    fn advance(&mut self, captured: MediaTime) -> (i64, u32) {
        if let Some(last) = self.last.replace(captured) {
            let (low, high) = self.range_us;
            let gap = captured.micros_since(last).clamp(low, high);
            self.interval_us += (gap - self.interval_us) / PACE_SMOOTHING;
            self.pts_us += self.interval_us / self.shorten;
        }
        (self.pts_us, u32::try_from(self.interval_us / self.shorten).unwrap_or(1))
    }
}

/// An open libaom encoder, and all that is unsafe about it.
struct Codec {
    /// Boxed because libaom is given this address in every call and documents no freedom to move it.
    context: Box<ffi::aom_codec_ctx_t>,
    config: ffi::aom_codec_enc_cfg_t,
}

// SAFETY: libaom keeps no thread-local state; its context may be used from any thread, one at a time, and `&mut self` on
// every method makes it one at a time.
unsafe impl Send for Codec {}

impl Codec {
    fn open(settings: Settings) -> Result<Self, EncodeError> {
        let mut config = MaybeUninit::<ffi::aom_codec_enc_cfg_t>::uninit();
        // SAFETY: the interface is a static of the library; the function fills all of `config` or returns an error.
        let mut config = unsafe {
            let iface = ffi::aom_codec_av1_cx();
            let code = ffi::aom_codec_enc_config_default(iface, config.as_mut_ptr(), ffi::AOM_USAGE_REALTIME);
            check(code, "take its defaults", ptr::null())?;
            config.assume_init()
        };
        configure(&mut config, settings);

        let mut context = Box::new(MaybeUninit::<ffi::aom_codec_ctx_t>::zeroed());
        // SAFETY: `context` is zeroed memory of the right size, as the documentation wants it; the configuration outlives
        // the call and is copied by it; the version is that of the headers these bindings were made from. On failure
        // there is nothing to destroy.
        let context = unsafe {
            let code = ffi::aom_codec_enc_init_ver(
                context.as_mut_ptr(),
                ffi::aom_codec_av1_cx(),
                &raw const config,
                0,
                ffi::AOM_ENCODER_ABI_VERSION as c_int,
            );
            check(code, "open", context.as_ptr())?;
            Box::from_raw(Box::into_raw(context).cast::<ffi::aom_codec_ctx_t>())
        };
        Ok(Self { context, config })
    }

    fn control(&mut self, id: ffi::aome_enc_control_id, value: c_int) -> Result<(), EncodeError> {
        // SAFETY: the context is open; every control used here takes one int (or unsigned int, which passes alike).
        let code = unsafe { ffi::aom_codec_control(&raw mut *self.context, id as c_int, value) };
        check(code, "take a setting", &raw const *self.context)
    }

    /// Aims at `bitrate`, divided among `layers` temporal layers; with `base_only` all of it is for the lowest, which is
    /// then encoded alone.
    ///
    /// That is told as an unchanged frame rate of which the upper layers are never seen: libaom takes seconds to find its
    /// balance when the frame rates of layers change. One layer is two of which only the lower is seen: with chosen
    /// references and one layer, its rate control stays at a quarter of its target.
    fn set_rate(&mut self, layers: u8, bitrate: Bitrate, base_only: bool) -> Result<(), EncodeError> {
        let shares = if layers > 2 { &LAYER_SHARES_3[..] } else { &LAYER_SHARES_2[..] };
        let of = |layer: usize| {
            let percent = if base_only { 100 << layer } else { shares[layer] };
            kbps(bitrate) * percent / 100
        };
        let old = std::mem::replace(&mut self.config.rc_target_bitrate, of(shares.len() - 1));
        // SAFETY: the context is open and the configuration, which is copied, differs in the bitrate only.
        let code = unsafe { ffi::aom_codec_enc_config_set(&raw mut *self.context, &raw const self.config) };
        check(code, "change its bitrate", &raw const *self.context)
            .inspect_err(|_| self.config.rc_target_bitrate = old)?;
        // SAFETY: the structure consists of integers, for which zeros are values.
        let mut params = unsafe { MaybeUninit::<ffi::aom_svc_params_t>::zeroed().assume_init() };
        params.number_spatial_layers = 1;
        params.number_temporal_layers = shares.len() as c_int;
        (params.scaling_factor_num[0], params.scaling_factor_den[0]) = (1, 1);
        for layer in 0..shares.len() {
            params.max_quantizers[layer] = MAX_QUANTIZER as c_int;
            params.min_quantizers[layer] = MIN_QUANTIZER as c_int;
            params.layer_target_bitrate[layer] = of(layer) as c_int;
            params.framerate_factor[layer] = 1 << (shares.len() - 1 - layer);
        }
        self.control_with(ffi::AV1E_SET_SVC_PARAMS, &mut params)
    }

    /// Tells which frames the next one is predicted from and where it is kept.
    fn follow(&mut self, plan: &Plan) -> Result<(), EncodeError> {
        let mut layer =
            ffi::aom_svc_layer_id_t { spatial_layer_id: 0, temporal_layer_id: c_int::from(plan.temporal) };
        self.control_with(ffi::AV1E_SET_SVC_LAYER_ID, &mut layer)?;
        let from = plan.from.unwrap_or(0) as c_int;
        let mut config =
            ffi::aom_svc_ref_frame_config_t { reference: [0; 7], ref_idx: [from; 7], refresh: [0; 8] };
        config.reference[LAST] = 1;
        if let Some(into) = plan.into {
            // Only slots that some reference points to are replaced; this one is not predicted from.
            config.ref_idx[ALTREF] = into as c_int;
            config.refresh[into] = 1;
        }
        self.control_with(ffi::AV1E_SET_SVC_REF_FRAME_CONFIG, &mut config)
    }

    /// For the controls that take a structure: `T` has to be the one that `id` is documented with.
    fn control_with<T>(&mut self, id: ffi::aome_enc_control_id, value: &mut T) -> Result<(), EncodeError> {
        // SAFETY: the context is open; the callers above pass the structure of each control, which is read during the
        // call only.
        let code = unsafe { ffi::aom_codec_control(&raw mut *self.context, id as c_int, &raw mut *value) };
        check(code, "take a setting", &raw const *self.context)
    }

    /// Encodes one picture and hands its temporal unit to `emit`.
    fn encode(
        &mut self,
        picture: &Picture,
        pts_us: i64,
        duration_us: u32,
        force_key: bool,
        mut emit: impl FnMut(&[u8]),
    ) -> Result<(), EncodeError> {
        let image = wrap(picture)?;
        let flags = if force_key { ffi::AOM_EFLAG_FORCE_KF } else { 0 };
        let context = &raw mut *self.context;
        // SAFETY: the context is open. The image describes the planes of `picture` with their true sizes and outlives the
        // call, which copies what it needs: there is no look-ahead, and denoising, the one thing that writes to the
        // image, is off.
        let code = unsafe {
            ffi::aom_codec_encode(context, &raw const image, pts_us, duration_us.max(1).into(), flags.into())
        };
        check(code, "encode a picture", context)?;

        let mut iter: ffi::aom_codec_iter_t = ptr::null();
        loop {
            // SAFETY: the context is open and `iter` is null at first and then what the last call left in it.
            let packet = unsafe { ffi::aom_codec_get_cx_data(context, &raw mut iter) };
            // SAFETY: a packet that is not null stays valid until the next call on this context.
            let Some(packet) = (unsafe { packet.as_ref() }) else { break };
            if packet.kind != ffi::AOM_CODEC_CX_FRAME_PKT {
                continue;
            }
            // SAFETY: the kind says that the union holds a frame, whose `buf` has `sz` bytes, valid as the packet is.
            let data = unsafe {
                let frame = &packet.data.frame;
                std::slice::from_raw_parts(frame.buf.cast::<u8>(), frame.sz)
            };
            emit(data);
        }
        Ok(())
    }
}

impl Drop for Codec {
    fn drop(&mut self) {
        // SAFETY: the context was opened by `open` and is destroyed once, here. The code tells nothing one could act on.
        unsafe { ffi::aom_codec_destroy(&raw mut *self.context) };
    }
}

fn configure(config: &mut ffi::aom_codec_enc_cfg_t, settings: Settings) {
    config.g_w = settings.width as c_uint;
    config.g_h = settings.height as c_uint;
    config.g_threads = settings.threads as c_uint;
    config.g_timebase = ffi::aom_rational { num: 1, den: 1_000_000 };
    config.g_pass = ffi::AOM_RC_ONE_PASS;
    config.g_lag_in_frames = 0;
    // Resilience would reset the entropy coder's statistics every frame; losses are repaired or answered by a key frame.
    config.g_error_resilient = 0;
    config.kf_mode = ffi::AOM_KF_DISABLED;
    config.rc_end_usage = ffi::AOM_CBR;
    config.rc_target_bitrate = kbps(settings.bitrate);
    config.rc_min_quantizer = MIN_QUANTIZER;
    config.rc_max_quantizer = MAX_QUANTIZER;
    config.rc_undershoot_pct = 50;
    config.rc_overshoot_pct = 50;
    config.rc_buf_sz = 1000;
    config.rc_buf_initial_sz = 600;
    config.rc_buf_optimal_sz = 600;
    // Frames are dropped before the encoder, by those who know why.
    config.rc_dropframe_thresh = 0;
}

/// Describes `picture` to libaom without copying it.
fn wrap(picture: &Picture) -> Result<ffi::aom_image_t, EncodeError> {
    let planes = picture.planes();
    let mut image = MaybeUninit::<ffi::aom_image_t>::zeroed();
    let first = planes[0].as_ptr().cast_mut();
    let (width, height) = (picture.width() as c_uint, picture.height() as c_uint);
    // SAFETY: `image` is writable memory of the right size and the function fills it or returns null. It stores `first`
    // and pointers computed from it, which are all overwritten below before anybody reads them.
    let mut image = unsafe {
        if ffi::aom_img_wrap(image.as_mut_ptr(), ffi::AOM_IMG_FMT_I420, width, height, 1, first).is_null() {
            return Err(EncodeError::Codec {
                codec: "aom",
                action: "describe a picture",
                why: "bad size".to_owned(),
            });
        }
        image.assume_init()
    };
    let chroma = picture.chroma_width() as c_int;
    image.stride = [picture.width() as c_int, chroma, chroma];
    for (to, from) in image.planes.iter_mut().zip(planes) {
        *to = from.as_ptr().cast_mut();
    }
    Ok(image)
}

fn kbps(bitrate: Bitrate) -> c_uint {
    c_uint::try_from(bitrate.kbps()).unwrap_or(c_uint::MAX)
}

/// Makes an error of what libaom returned; `context` may be null.
fn check(
    code: ffi::aom_codec_err_t,
    action: &'static str,
    context: *const ffi::aom_codec_ctx_t,
) -> Result<(), EncodeError> {
    if code == ffi::AOM_CODEC_OK {
        return Ok(());
    }
    // SAFETY: both functions return static strings or strings that live as long as the context, or null; the context is
    // null or was at least zeroed, which they allow.
    let (what, detail) = unsafe {
        let detail = if context.is_null() { ptr::null() } else { ffi::aom_codec_error_detail(context) };
        (text(ffi::aom_codec_err_to_string(code)), text(detail))
    };
    let why = if detail.is_empty() { what } else { format!("{what}: {detail}") };
    Err(EncodeError::Codec { codec: "aom", action, why })
}

/// Copies a C string; null counts as empty.
///
/// # Safety
/// `string` is null or ends in a zero byte and stays valid during the call.
unsafe fn text(string: *const std::os::raw::c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: not null, and the caller vouches for the rest.
    unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned()
}

/// Percent of the bitrate that each of two temporal layers has together with those below it: as the WebRTC world divides it. Base frames serve all that follow, so they get more.
const LAYER_SHARES_2: [c_uint; 2] = [60, 100];
/// The same for three layers.
const LAYER_SHARES_3: [c_uint; 3] = [50, 70, 100];
/// Places in libaom's lists of references.
const LAST: usize = 0;
const ALTREF: usize = 6;
/// Below this the eye sees no gain; bits saved on a still picture serve the next motion.
const MIN_QUANTIZER: c_uint = 10;
/// All of the range: a picture that turns coarse for a moment is better than a queue in the network.
const MAX_QUANTIZER: c_uint = 63;
/// Narrower tile columns than four superblocks cost more than a second thread gains.
const MIN_TILE_WIDTH: usize = 256;
/// A change of frame rate is followed within about this many frames.
const PACE_SMOOTHING: i64 = 8;

/// Settings that hold for every size. Tools that are off cost more time than they save bits at these speeds.
const CONTROLS: &[(ffi::aome_enc_control_id, c_int)] = &[
    // Of a base frame, which has 6/5 of an average one: a key frame that takes longer to send than three of those is a
    // visible pause.
    (ffi::AOME_SET_MAX_INTRA_BITRATE_PCT, 250),
    // Cyclic refresh: spends leftover bits on static blocks in turn, which is what a talking head needs.
    (ffi::AV1E_SET_AQ_MODE, 3),
    (ffi::AV1E_SET_ENABLE_CDEF, 1),
    (ffi::AV1E_SET_ENABLE_TPL_MODEL, 0),
    (ffi::AV1E_SET_DELTAQ_MODE, 0),
    (ffi::AV1E_SET_ENABLE_ORDER_HINT, 0),
    // Cost tables are refreshed once a frame at most.
    (ffi::AV1E_SET_COEFF_COST_UPD_FREQ, 3),
    (ffi::AV1E_SET_MODE_COST_UPD_FREQ, 3),
    (ffi::AV1E_SET_MV_COST_UPD_FREQ, 3),
    (ffi::AV1E_SET_CDF_UPDATE_MODE, 1),
    (ffi::AV1E_SET_ENABLE_OBMC, 0),
    (ffi::AV1E_SET_ENABLE_WARPED_MOTION, 0),
    (ffi::AV1E_SET_ENABLE_GLOBAL_MOTION, 0),
    (ffi::AV1E_SET_ENABLE_REF_FRAME_MVS, 0),
    (ffi::AV1E_SET_ENABLE_CFL_INTRA, 0),
    (ffi::AV1E_SET_ENABLE_SMOOTH_INTRA, 0),
    (ffi::AV1E_SET_ENABLE_ANGLE_DELTA, 0),
    (ffi::AV1E_SET_ENABLE_FILTER_INTRA, 0),
    (ffi::AV1E_SET_INTRA_DEFAULT_TX_ONLY, 1),
    (ffi::AV1E_SET_ENABLE_PALETTE, 0),
    (ffi::AV1E_SET_ENABLE_INTRABC, 0),
    (ffi::AV1E_SET_ENABLE_RESTORATION, 0),
    (ffi::AV1E_SET_ENABLE_TX64, 0),
    (ffi::AV1E_SET_ENABLE_RECT_PARTITIONS, 0),
    (ffi::AV1E_SET_ENABLE_RECT_TX, 0),
    (ffi::AV1E_SET_ENABLE_DUAL_FILTER, 0),
    (ffi::AV1E_SET_DISABLE_TRELLIS_QUANT, 1),
    (ffi::AV1E_SET_ENABLE_DIST_WTD_COMP, 0),
    (ffi::AV1E_SET_ENABLE_DIFF_WTD_COMP, 0),
    (ffi::AV1E_SET_ENABLE_MASKED_COMP, 0),
    (ffi::AV1E_SET_ENABLE_INTERINTRA_COMP, 0),
    (ffi::AV1E_SET_MAX_REFERENCE_FRAMES, 3),
    (ffi::AV1E_SET_REDUCED_REFERENCE_SET, 1),
    (ffi::AV1E_SET_NOISE_SENSITIVITY, 0),
    // What every picture here is: BT.601, limited range.
    (ffi::AV1E_SET_COLOR_PRIMARIES, ffi::AOM_CICP_CP_BT_601 as c_int),
    (ffi::AV1E_SET_TRANSFER_CHARACTERISTICS, ffi::AOM_CICP_TC_BT_601 as c_int),
    (ffi::AV1E_SET_MATRIX_COEFFICIENTS, ffi::AOM_CICP_MC_BT_601 as c_int),
    (ffi::AV1E_SET_COLOR_RANGE, ffi::AOM_CR_STUDIO_RANGE as c_int),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::video::encoder::Encoding;

    fn pace(gaps_us: &[u64]) -> Vec<i64> {
        let mut pace = Pace::new(30);
        let mut time = 5_000_000;
        let mut at = vec![pace.advance(MediaTime::from_micros(time)).0];
        for gap in gaps_us {
            time += gap;
            at.push(pace.advance(MediaTime::from_micros(time)).0);
        }
        at.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    #[test]
    fn rate_control_sees_the_true_frame_rate_but_no_jitter() {
        let jitter = pace(&[20_000, 46_000].repeat(50));
        assert!(jitter.iter().all(|d| (29_000..38_000).contains(d)), "{jitter:?}");
        let halved = pace(&[66_667; 60]);
        assert!((65_000..67_000).contains(&halved[59]), "{halved:?}");
        let paused = pace(&[33_333, 3_600_000_000, 0, 33_333]);
        assert!(paused.iter().all(|d| (15_000..60_000).contains(d)), "{paused:?}");
    }

    #[test]
    fn tiles_are_as_many_as_threads_but_not_narrow() {
        let tiles = |width, threads| {
            let bitrate = Bitrate::from_kbps(500);
            tile_columns_log2(Settings {
                encoding: Encoding::Full,
                width,
                height: 360,
                fps: 30,
                bitrate,
                threads,
                layers: 1,
            })
        };
        assert_eq!((tiles(640, 1), tiles(640, 2), tiles(640, 8)), (0, 1, 1));
        assert_eq!((tiles(1280, 4), tiles(1920, 64), tiles(16, 64)), (2, 2, 0));
    }
}
