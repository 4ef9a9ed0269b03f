//! A page that shows runs: one file, no script, nothing from elsewhere, light or dark as the reader has it.
//!
//! Rule: what it shows is the same for the same runs, so two pages can be compared. Not here: axes and lines
//! ([`plot`]), what each picture shows ([`charts`]).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::record::Recorder;
use crate::report::{Row, ratio, seconds};
use crate::scenario::Scenario;

mod charts;
mod plot;

use self::plot::escape;

const STYLE: &str = include_str!("html/style.css");

/// One recorded run.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// What was run.
    pub scenario: &'a Scenario,
    /// What it led to.
    pub row: &'a Row,
    /// What happened meanwhile.
    pub recording: &'a Recorder,
}

/// The page: all runs in a table and a plot, then the recorded ones.
pub fn page(rows: &[Row], pictures: &[Picture<'_>]) -> String {
    let failed = rows.iter().filter(|row| !row.failures.is_empty()).count();
    let verdict = match failed {
        0 => "all passed".to_owned(),
        failed => format!("<strong class=bad>{failed} failed</strong>"),
    };
    let mut page = format!(
        "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n<meta name=viewport content=\"width=device-width\">\n\
         <meta name=color-scheme content=\"light dark\">\n<title>labmesh simulator</title>\n<style>\n{STYLE}</style>\n\
         <h1>labmesh simulator</h1>\n<p>{} runs, {verdict}. Times are virtual; the limit is the fluid bound of the \
         links.</p>\n",
        rows.len()
    );
    contents(&mut page, pictures);
    page += &format!("<div class=single>{}</div>\n", charts::ratios(rows));
    table(&mut page, rows);
    for picture in pictures {
        section(&mut page, picture);
    }
    if pictures.is_empty() {
        page += "<p class=quiet>Pictures of single runs need the runs themselves: \
                 <code>labmesh-sim report SCENARIO</code>.</p>\n";
    }
    page + "</html>\n"
}

fn contents(page: &mut String, pictures: &[Picture<'_>]) {
    if pictures.len() < 2 {
        return;
    }
    let links = pictures.iter().map(|picture| {
        let name = escape(&picture.row.scenario);
        format!("<a href=\"#{name}\">{name}</a>")
    });
    *page += &format!("<nav>{}</nav>\n", links.collect::<Vec<_>>().join(" "));
}

fn table(page: &mut String, rows: &[Row]) {
    *page += "<h2>All runs</h2>\n<div class=wide><table>\n<thead><tr><th>scenario<th>seed<th>makespan<th>limit<th>/limit\
              <th>median<th>source<th>received<th>two masters<th>events<th>trace</thead>\n";
    let mut groups: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    rows.iter().for_each(|row| groups.entry(&row.scenario).or_default().push(row));
    for (name, rows) in groups {
        *page += "<tbody>\n";
        for (number, row) in rows.iter().enumerate() {
            let bad = if row.failures.is_empty() { "" } else { " class=bad" };
            let head = if number == 0 {
                format!("<th rowspan={}>{}", rows.len() + failing(&rows), escape(name))
            } else {
                String::new()
            };
            let limit = (row.limit_s > 0.0).then_some(row.limit_s);
            let cells = [
                row.seed.to_string(),
                seconds(row.makespan_s),
                seconds(limit),
                ratio(row.ratio()),
                seconds(row.median_s),
                format!("{:.3}", row.source_copies),
                format!("{:.3}", row.received),
                format!("{:.0} ms", row.two_masters_s * 1e3),
                row.events.to_string(),
            ];
            // A text takes every line.
            let _ = writeln!(page, "<tr{bad}>{head}<td>{}<td><code>{}</code>", cells.join("<td>"), escape(&row.trace));
            if !row.failures.is_empty() {
                let what = escape(&row.failures.join("; "));
                let _ = writeln!(page, "<tr class=bad><td class=words colspan=10>failed: {what}");
            }
        }
        *page += "</tbody>\n";
    }
    *page += "</table></div>\n";
}

fn failing(rows: &[&Row]) -> usize {
    rows.iter().filter(|row| !row.failures.is_empty()).count()
}

fn section(page: &mut String, picture: &Picture<'_>) {
    let (row, name) = (picture.row, escape(&picture.row.scenario));
    let about = escape(&picture.scenario.about);
    let verdict = match &row.failures[..] {
        [] => String::new(),
        failures => format!("<p class=bad>failed: {}</p>\n", escape(&failures.join("; "))),
    };
    let machines = picture.recording.machines();
    *page += &format!("<section id=\"{name}\">\n<h2>{name}</h2>\n<p>{about}.</p>\n{verdict}");
    let times = match row.makespan_s {
        Some(makespan) => format!(", complete after {makespan:.2} s ({} times the limit)", ratio(row.ratio())),
        None => String::new(),
    };
    *page += &format!("<p class=quiet>Seed {}, {machines} machines{times}.</p>\n<div class=charts>\n", row.seed);
    *page += &charts::all(picture);
    *page += "</div>\n</section>\n";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::measure;
    use crate::world::World;

    #[test]
    fn a_page_stands_alone_and_shows_what_was_recorded() {
        let text = "about = \"a <test> & more\"\n[lab]\nmachines = 4\nlink = \"1Gbit/s\"\nimage = \"16MiB\"\nends_at = \"12s\"";
        let scenario = Scenario::parse(text).unwrap();
        let mut world = World::new(&scenario, 1);
        world.trace.record();
        let row = Row { scenario: "small".to_owned(), ..measure(1, &mut world, |_| true) };
        let failed = Row { failures: vec!["a <bad> end".to_owned()], ..row.clone() };
        let recording = world.trace.end_record().unwrap();
        let page = page(&[row.clone(), failed], &[Picture { scenario: &scenario, row: &row, recording: &recording }]);
        assert_eq!(page.matches("<svg").count(), 5, "all runs, and four pictures of one");
        assert!(page.contains("a &lt;test&gt; &amp; more") && page.contains("a &lt;bad&gt; end"));
        for outside in ["http:", "https:", "<script", "url(", "@import", " src="] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(!page.contains("NaN") && !page.contains("inf"));
    }

    #[test]
    fn nothing_to_draw_is_no_picture() {
        let row = Row { scenario: "quiet".to_owned(), seed: 1, ..Row::default() };
        assert_eq!(page(&[row], &[]).matches("<svg").count(), 0);
    }
}
