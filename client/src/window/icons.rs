//! The signs on buttons and tiles, drawn from distances so that they are smooth at every size.
//!
//! Each is drawn in a square of 20 units. The distance functions (to a segment, a box with round corners, a circle)
//! are those of Inigo Quilez, "2D distance functions", https://iquilezles.org/articles/distfunctions2d/.

use super::layout::Rect;
use super::paint::{Canvas, Colour};

/// What to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Icon {
    Microphone,
    Camera,
    Chat,
    Statistics,
    Help,
    Leave,
}

/// Draws `icon` into the square `area`. A crossed one is struck through.
pub(crate) fn draw(canvas: &mut Canvas<'_>, area: Rect, icon: Icon, crossed: bool, colour: Colour) {
    let unit = area.w as f32 / UNITS;
    let (left, top) = (area.x as f32, area.y as f32);
    canvas.shape(area, colour, |x, y| {
        let p = ((x - left) / unit, (y - top) / unit);
        let sign = distance(icon, p);
        let d = if crossed {
            let stroke = segment(p, (3.0, 2.5), (17.0, 17.5));
            // A gap on both sides sets the stroke off from the sign.
            sign.max(2.4 - stroke).min(stroke - 0.9)
        } else {
            sign
        };
        d * unit
    });
}

fn distance(icon: Icon, p: (f32, f32)) -> f32 {
    match icon {
        Icon::Microphone => {
            let head = segment(p, (10.0, 5.0), (10.0, 9.5)) - 3.0;
            let cup = ((circle(p, (10.0, 9.5), 5.6)).abs() - 0.8).max(9.5 - p.1);
            let stem = segment(p, (10.0, 15.5), (10.0, 18.0)) - 0.8;
            head.min(cup).min(stem)
        }
        Icon::Camera => {
            let body = rounded_box(p, (7.5, 10.0), (6.0, 5.0), 1.8);
            let lens = triangle(p, (14.2, 10.0), (19.0, 6.2), (19.0, 13.8));
            body.min(lens)
        }
        Icon::Chat => {
            let bubble = rounded_box(p, (10.0, 8.7), (8.2, 6.2), 2.6);
            let tail = triangle(p, (4.0, 13.0), (4.0, 19.0), (10.5, 13.0));
            let dots =
                [6.3, 10.0, 13.7].map(|x| circle(p, (x, 8.7), 1.2)).into_iter().fold(f32::MAX, f32::min);
            bubble.min(tail).max(-dots)
        }
        Icon::Statistics => {
            let bar = |x, top: f32| rounded_box(p, (x, (top + 17.0) / 2.0), (1.7, (17.0 - top) / 2.0), 0.7);
            bar(4.5, 11.0).min(bar(10.0, 7.0)).min(bar(15.5, 3.0))
        }
        Icon::Help => {
            let curve = (circle(p, (10.0, 7.0), 3.6).abs() - 0.95).max((9.8 - p.0).min(p.1 - 7.0));
            let stem = segment(p, (10.0, 10.6), (10.0, 12.3)) - 0.95;
            curve.min(stem).min(circle(p, (10.0, 16.0), 1.3))
        }
        Icon::Leave => {
            let cross = segment(p, (5.0, 5.0), (15.0, 15.0)).min(segment(p, (15.0, 5.0), (5.0, 15.0)));
            cross - 1.3
        }
    }
}

fn circle(p: (f32, f32), centre: (f32, f32), radius: f32) -> f32 {
    (p.0 - centre.0).hypot(p.1 - centre.1) - radius
}

fn segment(p: (f32, f32), a: (f32, f32), b: (f32, f32)) -> f32 {
    let (px, py, bx, by) = (p.0 - a.0, p.1 - a.1, b.0 - a.0, b.1 - a.1);
    let along = ((px * bx + py * by) / (bx * bx + by * by)).clamp(0.0, 1.0);
    (px - bx * along).hypot(py - by * along)
}

fn rounded_box(p: (f32, f32), centre: (f32, f32), half: (f32, f32), radius: f32) -> f32 {
    let (x, y) = ((p.0 - centre.0).abs() - half.0 + radius, (p.1 - centre.1).abs() - half.1 + radius);
    x.max(0.0).hypot(y.max(0.0)) + x.max(y).min(0.0) - radius
}

/// The largest of the distances to three edges: exact along edges, which is enough here. Corners in either order.
fn triangle(p: (f32, f32), a: (f32, f32), b: (f32, f32), c: (f32, f32)) -> f32 {
    let turn = ((b.0 - a.0) * (c.1 - a.1) - (b.1 - a.1) * (c.0 - a.0)).signum();
    let edge = |a: (f32, f32), b: (f32, f32)| {
        let (dx, dy) = (b.0 - a.0, b.1 - a.1);
        turn * ((p.0 - a.0) * dy - (p.1 - a.1) * dx) / dx.hypot(dy)
    };
    edge(a, b).max(edge(b, c)).max(edge(c, a))
}

const UNITS: f32 = 20.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sign_has_ink_and_leaves_room_around_it() {
        for icon in [Icon::Microphone, Icon::Camera, Icon::Chat, Icon::Statistics, Icon::Help, Icon::Leave] {
            for crossed in [false, true] {
                let mut pixels = vec![0; 40 * 40];
                let area = Rect { x: 0, y: 0, w: 40, h: 40 };
                draw(&mut Canvas::new(&mut pixels, (40, 40)), area, icon, crossed, 0xff_ffff);
                let ink = pixels.iter().filter(|&&p| p == 0xff_ffff).count();
                assert!((150..900).contains(&ink), "{icon:?} {ink}");
                assert!([0, 39, 39 * 40, 40 * 40 - 1].iter().all(|&i| pixels[i] == 0), "{icon:?}");
            }
        }
    }

    #[test]
    fn triangles_do_not_depend_on_the_order_of_corners() {
        let (a, b, c) = ((0.0, 0.0), (9.0, 0.0), (0.0, 9.0));
        for p in [(2.0, 2.0), (8.0, 8.0), (-1.0, 3.0)] {
            assert!((triangle(p, a, b, c) - triangle(p, a, c, b)).abs() < 1e-5);
        }
        assert!(triangle((2.0, 2.0), a, b, c) < 0.0);
    }
}
