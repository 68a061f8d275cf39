//! Requests and delays over the number of nodes, as a picture with logarithmic axes.

use crate::run::Outcome;
use crate::service::LIMIT;
use std::collections::BTreeMap;
use std::fmt::Write;

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 60.0;
const GAP: f64 = 110.0;
const COLOURS: [&str; 5] = ["#1d6fb8", "#c2571a", "#3d8f4f", "#8a4fb5", "#777777"];

/// One line of a panel.
struct Line {
    name: String,
    dashed: bool,
    points: Vec<(f64, f64)>,
}

/// An SVG document: requests in ten seconds, and how long a new version and the recovery from an outage take.
pub fn draw(outcomes: &[Outcome]) -> String {
    let mut requests: BTreeMap<(u64, bool), Vec<(f64, f64)>> = BTreeMap::new();
    let (mut rotation, mut recovery) = (requests.clone(), requests.clone());
    for outcome in outcomes {
        let fleet = &outcome.fleet;
        let key = (fleet.load.interval.as_secs(), !fleet.load.spread);
        let scale = f64::from(fleet.scale);
        let nodes = f64::from(fleet.nodes) * scale;
        requests.entry(key).or_default().push((nodes, outcome.quiet.average * scale));
        rotation.entry(key).or_default().push((nodes, outcome.rotation.p99));
        recovery.entry(key).or_default().push((nodes, outcome.recovery.p99));
    }
    let name = |&(interval, in_step): &(u64, bool)| {
        format!("interval {interval} s{}", if in_step { ", in step" } else { "" })
    };
    let lines = |of: &BTreeMap<(u64, bool), Vec<(f64, f64)>>, what: &str, dashed| -> Vec<Line> {
        let line = |(key, points): (&(u64, bool), &Vec<(f64, f64)>)| Line {
            name: format!("{}{what}", name(key)),
            dashed,
            points: points.clone(),
        };
        of.iter().map(line).collect()
    };
    let mut left = lines(&requests, "", false);
    let limit = f64::from(u32::try_from(LIMIT).expect("a few thousand"));
    let ends = outcomes.iter().map(|outcome| f64::from(outcome.fleet.nodes) * f64::from(outcome.fleet.scale));
    let (least, most) = (ends.clone().fold(f64::MAX, f64::min), ends.fold(1.0, f64::max));
    left.push(Line {
        name: "what the vault answers".to_owned(),
        dashed: true,
        points: vec![(least, limit), (most, limit)],
    });
    let mut right = lines(&rotation, ": new version", false);
    right.extend(lines(&recovery, ": after the outage", true));
    let mut body = String::new();
    panel(&mut body, LEFT, "requests in 10 s, on average", &left, (least, most));
    panel(
        &mut body,
        LEFT + WIDTH + GAP,
        "seconds until 99 of 100 pods are up to date",
        &right,
        (least, most),
    );
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {:.0} {:.0}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="#ffffff"/>
<text x="{LEFT}" y="22" font-size="14">Fleets on one Key Vault, simulated: nodes from left to right</text>
{body}</svg>
"##,
        LEFT + 2.0 * WIDTH + GAP + 40.0,
        TOP + HEIGHT + 60.0 + 16.0 * f64::from(u32::try_from(left.len().max(right.len())).expect("a few")),
    )
}

fn panel(body: &mut String, left: f64, title: &str, lines: &[Line], (least, most): (f64, f64)) {
    let values = lines.iter().flat_map(|line| line.points.iter().map(|point| point.1));
    let values: Vec<f64> = values.filter(|value| value.is_finite() && *value > 0.0).collect();
    let low = values.iter().copied().fold(f64::MAX, f64::min).log10().floor();
    let high = values.iter().copied().fold(1.0, f64::max).log10().ceil().max(low + 1.0);
    let bottom = TOP + HEIGHT;
    let x = |nodes: f64| left + WIDTH * (nodes / least).log10() / (most / least).log10().max(0.1);
    let y = |value: f64| bottom - HEIGHT * (value.log10() - low) / (high - low);
    let _ = writeln!(body, r#"<text x="{left}" y="{}">{title}</text>"#, TOP - 14.0);
    let mut decade = low;
    while decade <= high {
        let (at, value) = (y(10_f64.powf(decade)), 10_f64.powf(decade));
        let _ = writeln!(
            body,
            r##"<path d="M{left:.1} {at:.1}H{:.1}" stroke="#dddddd"/><text x="{:.1}" y="{:.1}" text-anchor="end" fill="#666666">{value}</text>"##,
            left + WIDTH,
            left - 6.0,
            at + 4.0,
        );
        decade += 1.0;
    }
    let mut marks: Vec<f64> = lines.iter().flat_map(|line| line.points.iter().map(|point| point.0)).collect();
    marks.sort_by(f64::total_cmp);
    marks.dedup();
    for nodes in marks {
        let _ = writeln!(
            body,
            r##"<text x="{:.1}" y="{:.1}" text-anchor="middle" fill="#666666">{nodes}</text>"##,
            x(nodes),
            bottom + 16.0
        );
    }
    for (number, line) in lines.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let dash = if line.dashed { r#" stroke-dasharray="5 4""# } else { "" };
        let points: Vec<String> = line
            .points
            .iter()
            .filter(|point| point.1.is_finite() && point.1 > 0.0)
            .map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1)))
            .collect();
        let legend = bottom + 38.0 + 16.0 * f64::from(u32::try_from(number).expect("a few"));
        let _ = writeln!(
            body,
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"{dash}/><path d="M{left:.1} {legend:.1}h24" stroke="{colour}" stroke-width="2"{dash}/><text x="{:.1}" y="{:.1}">{}</text>"#,
            points.join(" "),
            left + 30.0,
            legend + 4.0,
            line.name,
        );
    }
}
