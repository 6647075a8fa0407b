//! Charts of the last hour, as SVG in the page: no script draws them, so they are there without one.

use std::fmt::Write;

use jiff::Timestamp;

use crate::model::html::escape;
use crate::observe::history::{HistoryStep, STEP, STEPS};

/// The width and the height of the drawing, in its own units: one for each step, and percent of the scale.
const SIZE: (f64, f64) = (STEPS as f64, 100.0);

/// A chart of the last hour.
pub(super) struct Chart<'c> {
    /// Its title.
    pub(super) title: &'c str,
    /// What its values are, such as `ms`; empty: they are numbers.
    pub(super) unit: &'c str,
    /// Its lines, three at most.
    pub(super) lines: Vec<ChartLine<'c>>,
}

/// Returns a value of a step; nothing: there is none.
type StepValue<'c> = Box<dyn Fn(&HistoryStep) -> Option<f64> + 'c>;

/// A line of a chart.
pub(super) struct ChartLine<'c> {
    pub(super) name: &'c str,
    pub(super) value: StepValue<'c>,
}

impl<'c> ChartLine<'c> {
    /// Makes a line of values that each step may have.
    pub(super) fn new(name: &'c str, value: impl Fn(&HistoryStep) -> Option<f64> + 'c) -> Self {
        Self { name, value: Box::new(value) }
    }
}

impl Chart<'_> {
    /// Draws the chart, with its latest and its highest values as text.
    pub(super) fn draw(&self, steps: &[HistoryStep], now: Timestamp) -> String {
        let values: Vec<Vec<_>> = self.lines.iter().map(|line| steps.iter().map(&line.value).collect()).collect();
        let highest = values.iter().flatten().flatten().copied().fold(0.0, f64::max);
        let scale = nice(highest);
        let mut drawing = String::new();
        for (index, values) in values.iter().enumerate() {
            let path = path(steps, values, scale, now);
            let _ = write!(drawing, "<path class=\"line{index}\" d=\"{path}\"/>");
        }
        let said = self.lines.iter().zip(&values).enumerate().map(|(index, (line, values))| {
            let most = values.iter().flatten().copied().reduce(f64::max);
            let latest = values.last().copied().flatten();
            format!(
                "<li><svg class=\"key\" viewBox=\"0 0 24 4\" aria-hidden=\"true\"><path class=\"line{index}\" d=\"M0 2h24\"/></svg> \
                 {}: {}, highest {}</li>",
                escape(line.name),
                self.shown(latest),
                self.shown(most)
            )
        });
        let (width, height) = SIZE;
        format!(
            "<figure><figcaption>{}</figcaption><p class=\"scale\">{}</p><svg class=\"plot\" viewBox=\"0 0 {width} {height}\" \
             preserveAspectRatio=\"none\" aria-hidden=\"true\"><path class=\"grid\" d=\"M0 0h{width}M0 50h{width}M0 100h{width}\"/>{drawing}</svg>\
             <p class=\"axis\"><span>an hour ago</span><span>now</span></p><ul class=\"legend\">{}</ul></figure>",
            escape(self.title),
            self.shown(Some(scale)),
            said.collect::<String>()
        )
    }

    /// Returns a value with its unit.
    fn shown(&self, value: Option<f64>) -> String {
        let Some(value) = value else { return "none".to_owned() };
        let number = short(value);
        if self.unit.is_empty() { number } else { format!("{number} {}", escape(self.unit)) }
    }
}

/// Writes a number with as many digits as tell something.
fn short(value: f64) -> String {
    match value {
        _ if value.fract().abs() < 1e-9 || value >= 100.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Returns the top of a scale: 1, 2 or 5 with noughts, not below the highest value.
fn nice(highest: f64) -> f64 {
    if highest <= 1.0 {
        return 1.0;
    }
    let power = 10f64.powf(highest.log10().floor());
    [1.0, 2.0, 5.0].iter().map(|step| step * power).find(|top| *top >= highest).unwrap_or(10.0 * power)
}

/// Writes a line as the data of an SVG path. It breaks off where there is no value.
fn path(steps: &[HistoryStep], values: &[Option<f64>], scale: f64, now: Timestamp) -> String {
    let (mut path, mut is_down) = (String::new(), false);
    for (step, value) in steps.iter().zip(values) {
        let Some(value) = value else {
            is_down = false;
            continue;
        };
        let age = now.duration_since(step.at).as_secs_f64() / STEP.as_secs_f64();
        let (x, y) = (SIZE.0 - age.clamp(0.0, SIZE.0), SIZE.1 - value / scale * SIZE.1);
        // A point without neighbours is a dot: the cap of a line that has almost no length.
        let _ = if is_down { write!(path, "L{x:.1} {y:.1}") } else { write!(path, "M{x:.1} {y:.1}h.1") };
        is_down = true;
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::metrics::MetricTotals;

    fn step(at: i64, tunnels: u64) -> HistoryStep {
        let counts = MetricTotals { tunnels, ..MetricTotals::default() };
        HistoryStep { at: Timestamp::from_second(at).unwrap(), seconds: 10.0, counts }
    }

    #[test]
    fn a_line_breaks_off_where_there_is_no_value() {
        let steps: Vec<_> = [(0, 1), (10, 2), (20, 0), (30, 4)].map(|(at, tunnels)| step(at, tunnels)).into();
        let values = [Some(1.0), Some(2.0), None, Some(4.0)];
        let path = path(&steps, &values, 5.0, Timestamp::from_second(30).unwrap());
        assert_eq!(path, "M357.0 80.0h.1L358.0 60.0M360.0 20.0h.1");
    }

    #[test]
    fn a_chart_says_its_values_in_words() {
        let line = ChartLine::new("open <now>", |step| Some(step.counts.tunnels as f64));
        let chart = Chart { title: "Tunnels & calls", unit: "", lines: vec![line] };
        let drawn = chart.draw(&[step(0, 7), step(10, 3)], Timestamp::from_second(10).unwrap());
        for part in [
            "<figcaption>Tunnels &amp; calls<",
            "open &lt;now&gt;: 3, highest 7<",
            ">10</p>",
            "d=\"M359.0 30.0h.1L360.0 70.0\"",
        ] {
            assert!(drawn.contains(part), "{part}: {drawn}");
        }
        assert!(chart.draw(&[], Timestamp::UNIX_EPOCH).contains("open &lt;now&gt;: none, highest none"));
    }

    #[test]
    fn scales_end_at_round_numbers() {
        for (highest, top) in
            [(0.0, 1.0), (0.3, 1.0), (1.0, 1.0), (1.1, 2.0), (4.0, 5.0), (70.0, 100.0), (100.0, 100.0), (101.0, 200.0)]
        {
            assert_eq!(nice(highest), top, "{highest}");
        }
        assert_eq!([0.25, 3.0, 12.345, 1234.5].map(short), ["0.25", "3", "12.3", "1234"]);
    }
}
