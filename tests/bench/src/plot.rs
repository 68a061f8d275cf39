//! The times as a picture: one line each, on a logarithmic scale.

use crate::report::{Figure, Report, Unit, number};
use std::fmt::Write;

const LABELS: f64 = 330.0;
const SCALE: f64 = 560.0;
const MARGIN: f64 = 20.0;
const LINE: f64 = 24.0;
const HEAD: f64 = 64.0;

/// An SVG document: for each time the median as a bar, the range as a line over it, the floor and the reference as marks.
pub fn draw(report: &Report) -> String {
    let times: Vec<&Figure> = report
        .figures
        .iter()
        .filter(|figure| figure.unit == Unit::Milliseconds && figure.sample.median() > 0.0)
        .collect();
    let scale = Scale::over(&times);
    let mut rows = 0.0;
    let mut body = String::new();
    for figure in &times {
        let y = HEAD + rows * LINE;
        rows += 1.0;
        row(&mut body, figure, &scale, y);
    }
    let (width, bottom) = (MARGIN + LABELS + SCALE + 90.0, HEAD + rows * LINE);
    let mut grid = String::new();
    for decade in scale.first..=scale.last {
        let (value, x) = (10_f64.powi(decade), scale.x(10_f64.powi(decade)));
        let _ = writeln!(
            grid,
            r##"<path d="M{x:.1} {top:.1}V{bottom:.1}" stroke="#dddddd"/><text x="{x:.1}" y="{label:.1}" text-anchor="middle" fill="#666666">{value} ms</text>"##,
            top = HEAD - 6.0,
            label = HEAD - 12.0,
        );
    }
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0} {height:.0}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="#ffffff"/>
<text x="{MARGIN}" y="20" font-size="14">Times of akv-csi: bar = median, line = range, │ = floor measured in the same run, ◆ = reference, on another machine</text>
<text x="{MARGIN}" y="36" fill="#666666">{circumstances}</text>
{grid}{body}</svg>
"##,
        height = bottom + MARGIN,
        circumstances = escaped(&report.circumstances()),
    )
}

fn row(body: &mut String, figure: &Figure, scale: &Scale, y: f64) {
    let (middle, start) = (y + LINE / 2.0, MARGIN + LABELS);
    let median = scale.x(figure.sample.median());
    let (least, most) = (scale.x(figure.sample.min()), scale.x(figure.sample.max()));
    let _ = writeln!(
        body,
        r##"<text x="{label:.1}" y="{text:.1}" text-anchor="end">{name}</text><rect x="{start:.1}" y="{top:.1}" width="{length:.1}" height="12" fill="#4a7fb5"/><path d="M{least:.1} {middle:.1}H{most:.1}" stroke="#1d3b57" stroke-width="2"/>"##,
        label = start - 8.0,
        text = middle + 4.0,
        name = escaped(&figure.name),
        top = middle - 6.0,
        length = (median - start).max(1.0),
    );
    let mut rightmost = most;
    if let Some(floor) = figure.floor {
        let x = scale.x(floor);
        let _ = writeln!(
            body,
            r##"<path d="M{x:.1} {top:.1}v18" stroke="#d08000" stroke-width="3"/>"##,
            top = middle - 9.0
        );
    }
    if let Some(reference) = figure.reference {
        let x = scale.x(reference);
        rightmost = rightmost.max(x);
        let _ = writeln!(
            body,
            r##"<path d="M{x:.1} {top:.1}l6 6l-6 6l-6 -6z" fill="#b03030"/>"##,
            top = middle - 6.0
        );
    }
    let _ = writeln!(
        body,
        r##"<text x="{x:.1}" y="{y:.1}" fill="#333333">{value} ms</text>"##,
        x = rightmost + 10.0,
        y = middle + 4.0,
        value = number(figure.sample.median()),
    );
}

/// Whole decades that hold every value.
struct Scale {
    first: i32,
    last: i32,
}

impl Scale {
    fn over(figures: &[&Figure]) -> Self {
        let (mut first, mut last) = (0, 1);
        let values = figures.iter().flat_map(|figure| {
            [Some(figure.sample.min()), Some(figure.sample.max()), figure.floor, figure.reference]
        });
        for value in values.flatten().filter(|value| *value > 0.0 && value.is_finite()) {
            while 10_f64.powi(first) > value && first > -6 {
                first -= 1;
            }
            while 10_f64.powi(last) < value && last < 9 {
                last += 1;
            }
        }
        Self { first, last }
    }

    fn x(&self, value: f64) -> f64 {
        let (first, last) = (f64::from(self.first), f64::from(self.last));
        let position = (value.max(1e-6).log10() - first) / (last - first);
        MARGIN + LABELS + position.clamp(0.0, 1.0) * SCALE
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::{LABELS, MARGIN, SCALE, Scale, escaped};
    use crate::report::{Figure, Unit};

    #[test]
    fn every_value_is_on_the_scale_and_in_order() {
        let figure =
            Figure::new("x", Unit::Milliseconds, [0.04, 3.0].into_iter().collect()).reference(11_000.0);
        let scale = Scale::over(&[&figure]);
        assert_eq!((scale.first, scale.last), (-2, 5));
        let places: Vec<f64> = [0.01, 0.04, 3.0, 11_000.0, 100_000.0].map(|value| scale.x(value)).into();
        assert!(places.is_sorted() && places.windows(2).all(|pair| pair[0] < pair[1]), "{places:?}");
        assert!(
            (places[0] - MARGIN - LABELS).abs() < 0.01 && (places[4] - MARGIN - LABELS - SCALE).abs() < 0.01
        );
    }

    #[test]
    fn text_stays_text() {
        assert_eq!(escaped("a<b & c>d"), "a&lt;b &amp; c&gt;d");
    }
}
