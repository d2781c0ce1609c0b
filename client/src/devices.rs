//! `vchat-client devices`: what can be chosen.

use serde_json::json;

use crate::audio::{self, DeviceInfo};
use crate::video::camera;

/// The devices as text for people, or as one JSON object.
#[must_use]
pub fn list(as_json: bool) -> String {
    let (cameras, sound) = (camera::list(), audio::devices());
    if as_json {
        let sound_json = |list: &[DeviceInfo]| -> Vec<_> {
            list.iter()
                .map(|d| json!({"name": d.name, "description": d.description, "default": d.default}))
                .collect()
        };
        let cameras: Vec<_> =
            cameras.iter().map(|c| json!({"index": c.index, "name": c.name, "formats": c.formats})).collect();
        let all = json!({
            "cameras": cameras, "microphones": sound_json(&sound.microphones), "speakers": sound_json(&sound.speakers),
        });
        return all.to_string();
    }
    let mut text = String::from("Cameras (--camera):\n");
    let none = "  none found\n";
    for c in &cameras {
        text += &format!("  {}  {} ({})\n", c.index, c.name, c.formats.join(", "));
    }
    if cameras.is_empty() {
        text += none;
    }
    for (title, list) in
        [("Microphones (--mic)", &sound.microphones), ("Speakers (--speaker)", &sound.speakers)]
    {
        text += &format!("{title}:\n");
        for d in list {
            text +=
                &format!("  {}  {}{}\n", d.name, d.description, if d.default { " [default]" } else { "" });
        }
        if list.is_empty() {
            text += none;
        }
    }
    text.truncate(text.trim_end().len());
    text
}
