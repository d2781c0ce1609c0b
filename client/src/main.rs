//! See the library.
use libdav1d_sys as _;
fn main() {
    let mut s = dav1d::Settings::new();
    s.set_max_frame_delay(1);
    s.set_n_threads(1);
    let d = dav1d::Decoder::with_settings(&s).unwrap();
    println!("delay {}", d.get_frame_delay());
    println!("{}", opus::version());
}
