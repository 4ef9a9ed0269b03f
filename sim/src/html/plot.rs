//! A frame with two axes, and what can be drawn into it.
//!
//! Rule: coordinates of the data come in, SVG text goes out; no more points than a screen has. Not here: colours
//! (`style.css`), meaning ([`super::charts`]).

use std::fmt::Write as _;

const WIDTH: f64 = 680.0;
const LEFT: f64 = 54.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 10.0;
/// Axis numbers, its name, and the legend.
const BOTTOM: f64 = 58.0;
/// Points of one line that are closer than this, in pixels, are one.
const CLOSE: f64 = 2.0;
/// About so many numbers on an axis.
const TICKS: f64 = 6.0;

/// Text as HTML and SVG take it.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A picture that is being drawn.
pub(super) struct Plot {
    x: (f64, f64),
    y: (f64, f64),
    height: f64,
    left: f64,
    title: String,
    body: String,
    legend: Vec<(&'static str, String)>,
}

impl Plot {
    /// From and to on each axis; the height of what is inside the axes, in pixels.
    pub(super) fn new(title: &str, about: &str, x: (f64, f64), y: (f64, f64), height: f64) -> Self {
        // An axis of no length has no place for anything.
        let some = |(from, to): (f64, f64)| (from, if to > from { to } else { from + 1.0 });
        let title = format!("{} <span>{}</span>", escape(title), escape(about));
        Self { x: some(x), y: some(y), height, left: LEFT, title, body: String::new(), legend: Vec::new() }
    }

    /// With so many pixels for the words left of the vertical axis.
    pub(super) fn with_names(self, left: f64) -> Self {
        Self { left, ..self }
    }

    /// The horizontal axis with its numbers and name.
    pub(super) fn x_axis(&mut self, name: &str) {
        self.x_axis_with(name, ticks(self.x));
    }

    /// The same with these numbers.
    pub(super) fn x_axis_with(&mut self, name: &str, numbers: impl IntoIterator<Item = (f64, String)>) {
        let bottom = TOP + self.height;
        for (at, label) in numbers {
            let x = self.px(at);
            self.add(&format!("<line class=grid x1={x:.1} x2={x:.1} y1={TOP} y2={bottom:.1} />"));
            self.add(&format!("<text x={x:.1} y={:.1} text-anchor=middle>{label}</text>", bottom + 15.0));
        }
        let (left, end, y) = (self.left, WIDTH - RIGHT, bottom + 31.0);
        self.add(&format!("<line class=axis x1={left} x2={end} y1={bottom:.1} y2={bottom:.1} />"));
        self.add(&format!("<text x={end} y={y:.1} text-anchor=end>{}</text>", escape(name)));
    }

    /// The vertical axis with its numbers; `unit` follows each.
    pub(super) fn y_axis(&mut self, unit: &str) {
        for (at, label) in ticks(self.y) {
            let (y, left, end) = (self.py(at), self.left, WIDTH - RIGHT);
            self.add(&format!("<line class=grid x1={left} x2={end} y1={y:.1} y2={y:.1} />"));
            self.add(&format!("<text x={} y={:.1} text-anchor=end>{label}{unit}</text>", left - 6.0, y + 4.0));
        }
    }

    /// A word left of the vertical axis.
    pub(super) fn y_name(&mut self, at: f64, name: &str) {
        let y = self.py(at) + 4.0;
        self.add(&format!("<text class=name x={} y={y:.1} text-anchor=end>{}</text>", self.left - 6.0, escape(name)));
    }

    /// Straight from point to point; `hint` is shown to who points at it.
    pub(super) fn line(&mut self, class: &str, points: impl IntoIterator<Item = (f64, f64)>, hint: &str) {
        let path = self.path(points, false);
        self.add(&format!("<path class=\"{class}\" d=\"{path}\"><title>{}</title></path>", escape(hint)));
    }

    /// From one value to the next at once.
    pub(super) fn steps(&mut self, class: &str, points: impl IntoIterator<Item = (f64, f64)>, hint: &str) {
        let path = self.path(points, true);
        self.add(&format!("<path class=\"{class}\" d=\"{path}\"><title>{}</title></path>", escape(hint)));
    }

    /// The area between two lines of steps that have the same x: x, low, high.
    pub(super) fn band(&mut self, class: &str, points: &[(f64, f64, f64)]) {
        let upper = self.path(points.iter().map(|(x, _, high)| (*x, *high)), false);
        let lower = self.path(points.iter().rev().map(|(x, low, _)| (*x, *low)), false);
        self.add(&format!("<path class=\"fill {class}\" d=\"{upper}{}Z\" />", lower.replacen('M', "L", 1)));
    }

    /// A box: from and to on x; the middle on y and how many pixels high.
    pub(super) fn bar(&mut self, class: &str, x: (f64, f64), y: f64, high: f64, hint: &str) {
        let (from, to) = (self.px(x.0), self.px(x.1));
        let (wide, top) = ((to - from).max(1.5), self.py(y) - high / 2.0);
        let hint = escape(hint);
        self.add(&format!(
            "<rect class=\"fill {class}\" x={from:.1} y={top:.1} width={wide:.1} height={high} rx=2><title>{hint}</title></rect>"
        ));
    }

    /// A dot.
    pub(super) fn dot(&mut self, class: &str, x: f64, y: f64, hint: &str) {
        let (x, y, hint) = (self.px(x), self.py(y), escape(hint));
        self.add(&format!("<circle class=\"fill {class}\" cx={x:.1} cy={y:.1} r=4><title>{hint}</title></circle>"));
    }

    /// A vertical line through everything, if it is inside.
    pub(super) fn upright(&mut self, class: &str, x: f64, hint: &str) -> bool {
        let inside = (self.x.0..=self.x.1).contains(&x);
        if inside {
            self.line(class, [(x, self.y.0), (x, self.y.1)], hint);
        }
        inside
    }

    /// An entry of the legend: a class of colours and what it stands for.
    pub(super) fn key(&mut self, class: &'static str, words: impl Into<String>) {
        self.legend.push((class, words.into()));
    }

    /// The whole as a `figure`.
    pub(super) fn finish(mut self) -> String {
        let mut x = self.left;
        let y = TOP + self.height + 48.0;
        for (class, words) in std::mem::take(&mut self.legend) {
            self.add(&format!("<rect class=\"fill {class}\" x={x:.0} y={:.1} width=14 height=5 rx=2 />", y - 7.0));
            self.add(&format!("<text class=key x={:.0} y={y:.1}>{}</text>", x + 19.0, escape(&words)));
            // A character of this font is narrower than this.
            x += 36.0 + 6.4 * words.chars().count() as f64;
        }
        let Self { title, body, height, .. } = self;
        let high = TOP + height + BOTTOM;
        format!(
            "<figure><figcaption>{title}</figcaption>\n<svg viewBox=\"0 0 {WIDTH} {high}\" role=img>\n{body}</svg></figure>\n"
        )
    }

    fn add(&mut self, element: &str) {
        self.body.push_str(element);
        self.body.push('\n');
    }

    fn px(&self, x: f64) -> f64 {
        let share = ((x - self.x.0) / (self.x.1 - self.x.0)).clamp(0.0, 1.0);
        self.left + share * (WIDTH - self.left - RIGHT)
    }

    fn py(&self, y: f64) -> f64 {
        let share = ((y - self.y.0) / (self.y.1 - self.y.0)).clamp(0.0, 1.0);
        TOP + (1.0 - share) * self.height
    }

    /// Of points that fall together the last is drawn, and the very last always.
    fn path(&self, points: impl IntoIterator<Item = (f64, f64)>, steps: bool) -> String {
        let mut path = String::new();
        let mut drawn: Option<(f64, f64)> = None;
        let mut waiting: Option<(f64, f64)> = None;
        let mut draw = |(x, y): (f64, f64), drawn: &mut Option<(f64, f64)>| {
            // A text takes every number.
            let _ = match drawn {
                None => write!(path, "M{x:.1} {y:.1}"),
                Some(_) if steps => write!(path, "H{x:.1}V{y:.1}"),
                Some(_) => write!(path, "L{x:.1} {y:.1}"),
            };
            *drawn = Some((x, y));
        };
        for (x, y) in points {
            let point = (self.px(x), self.py(y));
            if drawn.is_none_or(|(before, _)| (point.0 - before).abs() >= CLOSE) {
                if let Some(skipped) = waiting.take() {
                    draw(skipped, &mut drawn);
                }
                draw(point, &mut drawn);
            } else {
                waiting = Some(point);
            }
        }
        if let Some(last) = waiting {
            draw(last, &mut drawn);
        }
        path
    }
}

/// Round numbers inside a range, with their labels.
fn ticks((from, to): (f64, f64)) -> Vec<(f64, String)> {
    let rough = (to - from) / TICKS;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= rough).unwrap_or(rough);
    let digits = (-step.log10().floor()).max(0.0) as usize;
    let first = (from / step).ceil() as i64;
    let last = (to / step + 1e-9).floor() as i64;
    (first..=last).map(|n| (n as f64 * step, format!("{:.digits$}", n as f64 * step))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let labels = |from, to| ticks((from, to)).into_iter().map(|(_, label)| label).collect::<Vec<_>>();
        assert_eq!(labels(0.0, 100.0), ["0", "20", "40", "60", "80", "100"]);
        assert_eq!(labels(4.9, 6.1), ["5.0", "5.2", "5.4", "5.6", "5.8", "6.0"]);
        assert_eq!(labels(0.0, 3.0), ["0.0", "0.5", "1.0", "1.5", "2.0", "2.5", "3.0"]);
    }

    #[test]
    fn a_million_points_are_no_more_than_a_screen_has() {
        let mut plot = Plot::new("t", "", (0.0, 1e6), (0.0, 1.0), 100.0);
        plot.line("line", (0..1_000_000).map(|n| (f64::from(n), f64::from(n % 2))), "");
        let svg = plot.finish();
        assert!(svg.len() < 40_000, "{}", svg.len());
    }
}
