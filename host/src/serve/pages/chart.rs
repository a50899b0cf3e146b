//! Charts as SVG, drawn on the server, with the numbers as a table behind them for those who do not see them.

use maud::{Markup, html};
use taskhost_core::{task::Millis, units};

use super::view::View;

const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 120.0;

/// One line or stack of a chart.
pub(super) struct Series {
    pub(super) name: &'static str,
    /// Its class in the stylesheet.
    pub(super) class: &'static str,
    pub(super) values: Vec<f64>,
}

/// How a chart is drawn.
pub(super) enum Kind {
    /// Bars, the series on top of each other.
    Stack,
    Lines,
}

impl View {
    /// A chart of steps of time. `show` writes a value.
    pub(super) fn chart(&self, title: &str, starts: &[Millis], series: &[Series], kind: &Kind, show: impl Fn(f64) -> String) -> Markup {
        let count = starts.len().max(1);
        let at = |n: usize| series.iter().map(move |one| one.values.get(n).copied().unwrap_or(0.0));
        let height_of = |n: usize| if matches!(kind, Kind::Stack) { at(n).sum::<f64>() } else { at(n).fold(0.0, f64::max) };
        let top = (0..count).map(height_of).fold(0.0, f64::max);
        let scale = if top > 0.0 { HEIGHT / top } else { 0.0 };
        let step = WIDTH / to_float(count);
        let last: Vec<String> =
            series.iter().map(|one| format!("{} {}", show(one.values.iter().copied().fold(0.0, f64::max)), one.name)).collect();
        html! {
            figure.chart {
                figcaption {
                    b { (title) }
                    @for one in series { span.key { span class=(format!("dot {}", one.class)) aria-hidden="true" {} (one.name) } }
                    span.top { (self.say("at most")) " " (show(top)) }
                }
                svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none" role="img" aria-label=(format!("{title}: {} {}", self.say("at most"), last.join(", "))) {
                    line class="axis" x1="0" x2=(WIDTH) y1=(HEIGHT) y2=(HEIGHT) {}
                    @match kind {
                        Kind::Stack => @for n in 0..count { (bar(n, step, scale, series)) },
                        Kind::Lines => @for one in series {
                            polyline class=(format!("line {}", one.class)) points=(points(&one.values, step, scale)) {}
                        },
                    }
                }
                details {
                    summary { (self.say("as a table")) }
                    div.scroll tabindex="0" {
                        table {
                            thead { tr { th { (self.say("From")) } @for one in series { th.number { (one.name) } } } }
                            tbody {
                                @for (n, start) in starts.iter().enumerate() {
                                    tr { td { (units::show_instant(*start)) } @for value in at(n) { td.number { (show(value)) } } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A line of some numbers, as small as a word. `about` says them to those who do not see it.
pub(super) fn spark(values: &[u64], about: &str) -> Markup {
    const TALL: u64 = 16;
    let top = values.iter().copied().max().unwrap_or(0).max(1);
    let point = |(x, value): (usize, &u64)| format!("{x},{}", TALL - value.saturating_mul(TALL) / top);
    let points: Vec<_> = values.iter().enumerate().map(point).collect();
    html! {
        svg.spark viewBox=(format!("0 -1 {} {}", values.len().saturating_sub(1).max(1), TALL + 2)) preserveAspectRatio="none" role="img" {
            title { (about) }
            polyline.line points=(points.join(" ")) {}
        }
    }
}

/// The stacked bars of one step.
fn bar(n: usize, step: f64, scale: f64, series: &[Series]) -> Markup {
    let mut y = HEIGHT;
    let mut rects = Vec::new();
    for one in series {
        let height = one.values.get(n).copied().unwrap_or(0.0) * scale;
        if height > 0.0 {
            y -= height;
            rects.push((one.class, y, height));
        }
    }
    html! {
        @for (class, y, height) in rects {
            rect class=(format!("bar {class}")) x=(short(to_float(n) * step + 0.5)) width=(short((step - 1.0).max(0.5))) y=(short(y)) height=(short(height)) {}
        }
    }
}

fn points(values: &[f64], step: f64, scale: f64) -> String {
    let point = |(n, value): (usize, &f64)| format!("{},{}", short((to_float(n) + 0.5) * step), short(HEIGHT - value * scale));
    values.iter().enumerate().map(point).collect::<Vec<_>>().join(" ")
}

fn short(number: f64) -> String {
    format!("{number:.1}")
}

/// There are at most some hundred steps.
fn to_float(n: usize) -> f64 {
    u32::try_from(n).map_or(f64::MAX, f64::from)
}
