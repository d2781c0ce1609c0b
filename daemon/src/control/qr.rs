//! QR codes on a terminal.

use qrcode::{Color, EcLevel, QrCode};

/// A text as a QR code of half blocks, two rows of modules in a line, with the quiet zone that scanners need (ISO/IEC 18004,
/// section 6.3.8: four modules). None for a text that is too long for any.
///
/// Colours are set for every line, black on white whatever the terminal's own: many scanners do not read the inverse.
pub(super) fn draw(text: &str) -> Option<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    let (width, colors) = (code.width(), code.to_colors());
    let dark = |x: usize, y: usize| {
        let inside = |n: usize| n.checked_sub(QUIET).filter(|n| *n < width);
        matches!((inside(x), inside(y)), (Some(x), Some(y)) if colors[y * width + x] == Color::Dark)
    };
    let size = width + 2 * QUIET;
    let line = |y: usize| -> String {
        let blocks = (0..size).map(|x| match (dark(x, y), y + 1 < size && dark(x, y + 1)) {
            (true, true) => '█',
            (true, false) => '▀',
            (false, true) => '▄',
            (false, false) => ' ',
        });
        format!("{BLACK_ON_WHITE}{}{RESET}\n", blocks.collect::<String>())
    };
    Some((0..size).step_by(2).map(line).collect())
}

/// Modules of light around the code.
const QUIET: usize = 4;
const BLACK_ON_WHITE: &str = "\x1b[30;107m";
const RESET: &str = "\x1b[0m";

#[cfg(test)]
mod tests {
    use super::*;

    /// The modules that a terminal shows, dark ones true.
    fn modules(drawn: &str) -> Vec<Vec<bool>> {
        let mut rows = Vec::new();
        for line in drawn.lines() {
            let blocks =
                line.strip_prefix(BLACK_ON_WHITE).and_then(|l| l.strip_suffix(RESET)).expect("colours");
            rows.push(blocks.chars().map(|c| matches!(c, '█' | '▀')).collect());
            rows.push(blocks.chars().map(|c| matches!(c, '█' | '▄')).collect());
        }
        rows
    }

    #[test]
    fn a_scanner_reads_what_was_drawn() {
        for text in
            ["vchat://relay.example:4433/#aeaacaqdaqcqmbyibefawdanbyhraeiscmkbkfqxdamrugy4dupb7jnf", "x"]
        {
            let rows = modules(&draw(text).expect("short enough"));
            const SCALE: usize = 4;
            let size = rows[0].len() * SCALE;
            let shade = |x: usize, y: usize| {
                if rows.get(y / SCALE).is_some_and(|row| row[x / SCALE]) { 0 } else { 255 }
            };
            let mut image = rqrr::PreparedImage::prepare_from_greyscale(size, size, shade);
            let grids = image.detect_grids();
            assert_eq!(grids.len(), 1);
            assert_eq!(grids[0].decode().expect("readable").1, text);
        }
    }

    #[test]
    fn what_no_code_can_hold_is_not_drawn() {
        assert!(draw(&"x".repeat(4000)).is_none());
    }
}
