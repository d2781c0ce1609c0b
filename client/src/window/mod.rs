//! The call's window: people in tiles, the chat beside them, buttons below.
//!
//! [`Scene`] is plain data; [`Window::show`] paints what changed in it and tells what the user asked for. All but the
//! last module is pure: time and input come in, pixels and [`Action`]s go out, so it is tested without a display.
//!
//! | module | job |
//! |---|---|
//! | `scene` | what is shown |
//! | `layout` | where it is shown |
//! | `paint`, `icons`, `text`, `blit` | pixels: shapes, signs, letters, pictures |
//! | `tiles`, `chat`, `panels`, `bar` | the parts of the window |
//! | `screen` | keeps the pixels, paints the parts that changed |
//! | `keys`, `editor`, `view` | what keys and clicks mean |
//! | `shell` | minifb |
//!
//! A remote picture is never covered or cut: names stand below it, panels beside it (only the help, while it is open,
//! stands over the tiles).

mod bar;
mod blit;
mod chat;
mod editor;
mod icons;
mod keys;
mod layout;
mod paint;
mod panels;
mod scene;
mod screen;
mod shell;
mod text;
mod tiles;
mod view;

pub use scene::{Above, Action, ChatLine, MAX_MESSAGE_BYTES, Me, Scene, Tile};
pub use shell::{Shown, Window, WindowError};
