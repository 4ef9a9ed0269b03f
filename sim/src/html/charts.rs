//! What the pictures show: completion, links, copies, masters, and all runs beside their limits.
//!
//! Rule: a picture of a thousand machines is as small as one of ten. Not here: how lines are drawn ([`super::plot`]).

use std::collections::BTreeMap;

use labmesh_proto::id::Time;

use super::Picture;
use super::plot::Plot;
use crate::lines::name;
use crate::record::{Bin, Copies, Recorder};
use crate::report::Row;
use crate::trace::ROOM;

/// Of more machines than this only some are drawn.
const CURVES_MAX: usize = 60;
/// Of more machines than this that ever were master the first are drawn.
const MASTERS_MAX: usize = 24;
/// About so many points in a curve of link use: smooth enough to be read.
const LINK_POINTS: usize = 160;
/// The height of a line of bars, in pixels.
const LANE: f64 = 18.0;

/// A note that begins or ends like this says that something was put right.
const RIGHT: [&str; 4] = ["started", "again", "goes on", "0 of 1000"];

/// Numbers on an axis of logarithms.
const FAR_TICKS: [f64; 9] = [1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0];

/// The pictures of one run.
pub(super) fn all(picture: &Picture<'_>) -> String {
    let span = busy(picture);
    let transfer = span.map_or(String::new(), |span| {
        completion(picture, span) + &links(picture, span) + &copies(picture.recording, span)
    });
    transfer + &masters(picture)
}

/// When pieces moved, in seconds, with a little room at both ends.
fn busy(picture: &Picture<'_>) -> Option<(f64, f64)> {
    let recording = picture.recording;
    let width = recording.bin_width().as_secs_f64();
    let bins = recording.bins();
    let first = bins.iter().position(|bin| bin.received > 0)? as f64 * width;
    let last = bins.iter().rposition(|bin| bin.received > 0)? as f64 * width + width;
    let curves = (0..recording.machines()).filter_map(|machine| recording.curve(machine).last());
    let last = curves.map(|(at, _)| at.as_secs_f64()).fold(last, f64::max);
    let room = (last - first) * 0.03;
    Some(((first - room).max(0.0), last + room))
}

/// Who was complete when; of those who did not begin with everything.
fn completion(picture: &Picture<'_>, span: (f64, f64)) -> String {
    let recording = picture.recording;
    let mut takers: Vec<usize> = (0..recording.machines())
        .filter(|machine| recording.curve(*machine).first().is_some_and(|(_, held)| *held < recording.wanted(*machine)))
        .collect();
    // The one that is complete first comes first; who never is comes last.
    takers.sort_by_key(|machine| {
        let curve = recording.curve(*machine);
        let whole = curve.iter().find(|(_, held)| *held == recording.wanted(*machine));
        (whole.map_or(Time::NEVER, |(at, _)| *at), *machine)
    });
    let shown = spread(&takers, CURVES_MAX);
    let about = if shown.len() < takers.len() {
        format!("of {} of {} machines", shown.len(), takers.len())
    } else {
        "of each machine".to_owned()
    };
    let mut plot = Plot::new("Completion", &about, span, (0.0, 100.0), 220.0);
    plot.x_axis("seconds");
    plot.y_axis(" %");
    let get_at = picture.scenario.lab.get_at.0.as_secs_f64();
    plot.upright("dash grey", get_at, "get");
    let limited = plot.upright("dash red", get_at + picture.row.limit_s, "the limit");
    let (middle, last) = (takers.get(takers.len() / 2), takers.last());
    for machine in shown.iter().filter(|m| Some(*m) != middle && Some(*m) != last) {
        curve(&mut plot, recording, *machine, "thin grey", span);
    }
    if let (Some(middle), Some(last)) = (middle, last) {
        curve(&mut plot, recording, *middle, "line one", span);
        curve(&mut plot, recording, *last, "line two", span);
        plot.key("one", format!("the middle one, {}", name(*middle)));
        plot.key("two", format!("the last one, {}", name(*last)));
    }
    plot.key("grey", "others");
    if limited {
        plot.key("red", "the limit");
    }
    plot.finish()
}

fn curve(plot: &mut Plot, recording: &Recorder, machine: usize, class: &str, span: (f64, f64)) {
    let wanted = f64::from(recording.wanted(machine).max(1));
    let points =
        recording.curve(machine).iter().map(|(at, held)| (at.as_secs_f64(), f64::from(*held) / wanted * 100.0));
    let last = recording.curve(machine).last().map(|(_, held)| (span.1, f64::from(*held) / wanted * 100.0));
    plot.steps(class, points.chain(last), &name(machine));
}

/// Evenly so many of them, the first and the last included.
fn spread(machines: &[usize], most: usize) -> Vec<usize> {
    if machines.len() <= most {
        return machines.to_vec();
    }
    (0..most).map(|n| machines[n * (machines.len() - 1) / (most - 1)]).collect()
}

/// What the links carried, as a share of what they can.
fn links(picture: &Picture<'_>, span: (f64, f64)) -> String {
    let recording = picture.recording;
    let width = recording.bin_width().as_secs_f64();
    let range = (span.0 / width) as usize..((span.1 / width).ceil() as usize).min(recording.bins().len());
    let bins = &recording.bins()[range.start.min(range.end)..range.end];
    let merged = bins.len().div_ceil(LINK_POINTS).max(1);
    let link = picture.scenario.lab.link.0 as f64 * width;
    let machines = recording.machines() as f64;
    let mut plot = Plot::new("Links", "payload as a share of the link", span, (0.0, 105.0), 220.0);
    plot.x_axis("seconds");
    plot.y_axis(" %");
    let mut draw = |class, words: &str, field: fn(&Bin) -> u64, links: f64| {
        let points = bins.chunks(merged).enumerate().map(|(n, bins)| {
            let bytes: u64 = bins.iter().map(field).sum();
            let at = (range.start + n * merged) as f64 * width + bins.len() as f64 * width / 2.0;
            (at, bytes as f64 / (link * links * bins.len() as f64) * 100.0)
        });
        plot.line(class, points, words);
    };
    draw("line three", "pc001 down", |bin| bin.source_received, 1.0);
    draw("line one", "all machines down", |bin| bin.received, machines);
    draw("line two", "pc001 up", |bin| bin.source_sent, 1.0);
    plot.key("two", "pc001 up");
    plot.key("three", "pc001 down");
    plot.key("one", format!("all {machines} down (= up)"));
    plot.finish()
}

/// How many copies of each piece are on offer.
fn copies(recording: &Recorder, span: (f64, f64)) -> String {
    let width = recording.bin_width().as_secs_f64();
    let found: Vec<(f64, Copies)> = recording
        .bins()
        .iter()
        .enumerate()
        .filter_map(|(n, bin)| Some(((n + 1) as f64 * width, bin.copies?)))
        .filter(|(at, _)| (span.0..=span.1).contains(at))
        .collect();
    let most = found.iter().map(|(_, copies)| copies[4]).max().unwrap_or(0);
    let mut plot = Plot::new("Copies of each piece", "on offer", span, (0.0, f64::from(most) * 1.05), 220.0);
    plot.x_axis("seconds");
    plot.y_axis("");
    let band = |low: usize, high: usize| -> Vec<_> {
        found.iter().map(|(at, copies)| (*at, f64::from(copies[low]), f64::from(copies[high]))).collect()
    };
    let line = |rank: usize| found.iter().map(move |(at, copies)| (*at, f64::from(copies[rank])));
    plot.band("one faint", &band(0, 4));
    plot.band("one half", &band(1, 3));
    plot.line("line one", line(2), "the middle piece");
    plot.line("line two", line(0), "the rarest piece");
    plot.key("two", "the rarest piece");
    plot.key("one", "the middle piece");
    plot.key("one half", "four fifths of all");
    plot.key("one faint", "all");
    plot.finish()
}

/// Who was master when, and what went wrong meanwhile.
fn masters(picture: &Picture<'_>) -> String {
    let recording = picture.recording;
    let end = picture.row.ended_at_s.unwrap_or(picture.scenario.lab.ends_at.0.as_secs_f64());
    let mut lanes: Vec<usize> = Vec::new();
    for machine in recording.reigns.iter().map(|reign| reign.machine) {
        if !lanes.contains(&machine) {
            lanes.push(machine);
        }
    }
    if lanes.is_empty() {
        return String::new();
    }
    let about = if lanes.len() > MASTERS_MAX {
        format!("the first {MASTERS_MAX} of {}", lanes.len())
    } else {
        "and mishaps".to_owned()
    };
    lanes.truncate(MASTERS_MAX);
    let faults = &recording.notes;
    let rows = lanes.len() + usize::from(!faults.is_empty());
    let mut plot =
        Plot::new("Masters", &about, (0.0, end), (0.0, rows as f64), LANE * rows.max(2) as f64).with_names(62.0);
    plot.x_axis("seconds");
    let lane: BTreeMap<usize, f64> = lanes.iter().enumerate().map(|(n, m)| (*m, (rows - n) as f64 - 0.5)).collect();
    for (machine, y) in &lane {
        plot.y_name(*y, &name(*machine));
    }
    for reign in &recording.reigns {
        let Some(y) = lane.get(&reign.machine) else { continue };
        let (from, until) = (reign.from.as_secs_f64(), reign.until.map_or(end, Time::as_secs_f64));
        let (class, what) = match reign.term {
            Some(term) => ("one", format!("master, term {term}")),
            None => ("grey half", "alone".to_owned()),
        };
        plot.bar(
            class,
            (from, until),
            *y,
            LANE - 5.0,
            &format!("{} {what}, {from:.3} to {until:.3} s", name(reign.machine)),
        );
    }
    if !faults.is_empty() {
        plot.y_name(0.5, "mishaps");
    }
    for (at, machine, what) in faults {
        let who = if *machine == ROOM { "the room".to_owned() } else { name(*machine) };
        let class =
            if RIGHT.iter().any(|word| what.starts_with(word) || what.ends_with(word)) { "three" } else { "red" };
        plot.dot(class, at.as_secs_f64(), 0.5, &format!("{:.3} s: {who} {what}", at.as_secs_f64()));
    }
    plot.key("one", "master");
    plot.key("grey half", "master of itself alone");
    plot.key("red", "a mishap");
    plot.key("three", "put right");
    plot.finish()
}

/// Each run as a dot: its makespan over the limit.
pub(super) fn ratios(rows: &[Row]) -> String {
    let mut scenarios: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.ratio().is_some()) {
        scenarios.entry(&row.scenario).or_default().push(row);
    }
    let most = rows.iter().filter_map(Row::ratio).fold(1.0, f64::max);
    if scenarios.is_empty() {
        return String::new();
    }
    // Waiting for somebody takes many times the limit and would press the others together.
    let far = most > 2.0;
    let scale = |ratio: f64| if far { ratio.ln() } else { ratio };
    let (count, about) = (scenarios.len() as f64, "of every run; 1 is the best that links allow");
    let span = (scale(0.97), scale(most * 1.03));
    let mut plot = Plot::new("Makespan / limit", about, span, (0.0, count), LANE * count.max(2.0)).with_names(150.0);
    if far {
        let numbers = FAR_TICKS.into_iter().filter(|ratio| *ratio <= most * 1.03);
        plot.x_axis_with("makespan / limit", numbers.map(|ratio| (scale(ratio), ratio.to_string())));
    } else {
        plot.x_axis("makespan / limit");
    }
    plot.upright("dash red", scale(1.0), "the limit");
    for (n, (name, rows)) in scenarios.into_iter().enumerate() {
        let y = count - n as f64 - 0.5;
        plot.y_name(y, name);
        for row in rows {
            let Some(ratio) = row.ratio() else { continue };
            plot.dot("one half", scale(ratio), y, &format!("{name} seed {}: {ratio:.3}", row.seed));
        }
    }
    plot.key("one half", "a run");
    plot.key("red", "the limit");
    plot.finish()
}
