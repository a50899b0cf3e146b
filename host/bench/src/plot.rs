//! The growth figures as an SVG: one panel for each quantity that grows, one bar for each size.

use std::fmt::Write;

use crate::{grown::Grown, stats::shown};

/// Pixels of a panel, and of the space around its bars.
const WIDTH: usize = 320;
const HEIGHT: usize = 200;
const SPACE: usize = 40;
const ACROSS: usize = 3;

/// One panel: what grew, then each size with its figure.
pub(crate) type Panel = (Grown, Vec<(usize, f64)>);

pub(crate) fn svg(panels: &[Panel], about: &str) -> String {
    let rows = panels.len().div_ceil(ACROSS);
    let (width, height) = (WIDTH * ACROSS, HEIGHT * rows + SPACE);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (place, panel) in panels.iter().enumerate() {
        draw(&mut out, panel, (place % ACROSS) * WIDTH, (place / ACROSS) * HEIGHT);
    }
    let _infallible = writeln!(out, "<text x=\"10\" y=\"{}\" fill=\"gray\">{}</text>\n</svg>", height - 12, escaped(about));
    out
}

#[expect(clippy::cast_precision_loss, reason = "pixels and panels are few")]
fn draw(out: &mut String, (grown, bars): &Panel, x: usize, y: usize) {
    let _infallible =
        writeln!(out, "<text x=\"{}\" y=\"{}\" font-weight=\"bold\">{} ({})</text>", x + 10, y + 20, escaped(grown.title()), grown.unit());
    let most = bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    let step = (WIDTH - SPACE) / bars.len().max(1);
    let (floor, tallest) = ((y + HEIGHT - SPACE / 2) as f64, (HEIGHT - 2 * SPACE) as f64);
    for (place, (size, value)) in bars.iter().enumerate() {
        let tall = tallest * value / most;
        let (left, middle) = (x + SPACE / 2 + place * step, x + SPACE / 2 + place * step + step / 2);
        let _infallible = writeln!(
            out,
            "<rect x=\"{left}\" y=\"{:.1}\" width=\"{}\" height=\"{tall:.1}\" fill=\"#4477aa\"/>\n\
             <text x=\"{middle}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n\
             <text x=\"{middle}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"gray\">{}</text>",
            floor - tall,
            step - 12,
            floor - tall - 4.0,
            shown(*value),
            floor + 14.0,
            thousands(*size)
        );
    }
}

/// 1,000 apart.
fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_bar_fills_its_panel_and_texts_are_escaped() {
        let drawn = svg(&[(Grown::Queues, vec![(1, 100.0), (1_000, 50.0)])], "<here> & there");
        assert!(drawn.contains("height=\"120.0\"") && drawn.contains("height=\"60.0\""), "{drawn}");
        assert!(drawn.contains("&lt;here&gt; &amp; there") && drawn.contains(">1,000<"));
        assert!(drawn.starts_with("<svg ") && drawn.ends_with("</svg>\n"));
    }
}
