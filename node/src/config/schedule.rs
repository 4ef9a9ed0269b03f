//! Which rate limits hold at what time of the week: "not during lessons".
//!
//! Rule: the first entry of `limits` whose days and hours have come holds; outside all of them the plain limits
//! (`upload_limit`, `download_limit`) do, and for the direction that an entry does not name. Times are those of the
//! clock on the wall. An entry whose `to` is before its `from` ends on the next day, and its days are those on which it
//! begins.
//!
//! Not here: who looks at the clock ([`crate::driver`]), how a limit is kept (`labmesh_proto::limiter`).

use jiff::civil::DateTime;
use labmesh_proto::config::{RateLimit, RateLimits};
use serde::Deserialize;

use super::values::{Value, one, several};

/// The limits of a node, as the time of the week has them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Schedule {
    plain: RateLimits,
    entries: Vec<Entry>,
}

impl Schedule {
    /// The two plain limits, and the entries if there are any.
    pub fn new(upload: RateLimit, download: RateLimit, entries: Option<Vec<Entry>>) -> Self {
        Self { plain: RateLimits { upload, download }, entries: entries.unwrap_or_default() }
    }

    /// Whether the limits are the same at all times.
    pub fn is_constant(&self) -> bool {
        self.entries.is_empty()
    }

    /// Which entry holds at a local time, `None` = none of them, and the limits then.
    pub fn at(&self, local: DateTime) -> (Option<usize>, RateLimits) {
        let holds = self.entries.iter().position(|entry| entry.holds(local));
        let Some(entry) = holds.map(|n| &self.entries[n]) else { return (None, self.plain) };
        let upload = entry.upload.unwrap_or(self.plain.upload);
        let download = entry.download.unwrap_or(self.plain.download);
        (holds, RateLimits { upload, download })
    }
}

/// One entry of `limits`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Said")]
pub struct Entry {
    days: Days,
    /// Minutes after midnight.
    from: u16,
    /// Minutes after midnight; not `from`.
    to: u16,
    upload: Option<RateLimit>,
    download: Option<RateLimit>,
}

impl Entry {
    fn holds(&self, local: DateTime) -> bool {
        let minute = u16::from(local.hour().unsigned_abs()) * 60 + u16::from(local.minute().unsigned_abs());
        let today = local.weekday().to_monday_zero_offset().unsigned_abs();
        let yesterday = (today + 6) % 7;
        if self.from < self.to {
            self.days.has(today) && (self.from..self.to).contains(&minute)
        } else {
            (self.days.has(today) && minute >= self.from) || (self.days.has(yesterday) && minute < self.to)
        }
    }
}

/// An entry as the file has it.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Said {
    #[serde(deserialize_with = "several")]
    days: Option<Vec<Days>>,
    #[serde(deserialize_with = "one")]
    from: Option<Clock>,
    #[serde(deserialize_with = "one")]
    to: Option<Clock>,
    #[serde(deserialize_with = "one")]
    upload: Option<RateLimit>,
    #[serde(deserialize_with = "one")]
    download: Option<RateLimit>,
}

impl TryFrom<Said> for Entry {
    type Error = String;

    fn try_from(said: Said) -> Result<Self, String> {
        let Said { days, from, to, upload, download } = said;
        if upload.is_none() && download.is_none() {
            return Err("an entry of limits says upload, download or both".to_owned());
        }
        let days = days.map_or(Days::ALL, |days| Days(days.iter().fold(0, |all, days| all | days.0)));
        if days == Days(0) {
            return Err("an entry of limits has no days (leave days out for all of them)".to_owned());
        }
        let (from, to) = (from.map_or(0, |clock| clock.0), to.map_or(DAY, |clock| clock.0));
        if from == to || from == DAY || to == 0 {
            return Err(format!("an entry of limits goes from {} to {}", shown(from), shown(to)));
        }
        Ok(Self { days, from, to, upload, download })
    }
}

/// Days of the week, a bit for each from Monday on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Days(u8);

const NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl Days {
    const ALL: Self = Self(0b111_1111);

    fn has(self, day: u8) -> bool {
        self.0 >> day & 1 == 1
    }
}

impl Value for Days {
    const EXPECTED: &'static str = "a day such as \"mon\", or several such as \"mon-fri\"";

    fn read(text: &str) -> Result<Self, String> {
        let bad = || format!("no such day: {text:?} (expected {}, or several such as mon-fri)", NAMES.join(", "));
        let day = |name: &str| NAMES.iter().position(|n| n.eq_ignore_ascii_case(name)).ok_or_else(bad);
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (day(first)?, day(last)?);
        // Over the end of the week too: sat-mon.
        let count = (last + 7 - first) % 7;
        Ok(Self((0..=count).fold(0, |days, n| days | 1 << ((first + n) % 7))))
    }
}

/// Minutes after midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Clock(u16);

/// Minutes in a day, and its end.
const DAY: u16 = 24 * 60;

impl Value for Clock {
    const EXPECTED: &'static str = "a time of day such as \"08:00\"";

    fn read(text: &str) -> Result<Self, String> {
        let number = |digits: &str| {
            let good = (1..=2).contains(&digits.len()) && digits.bytes().all(|c| c.is_ascii_digit());
            digits.parse::<u16>().ok().filter(|_| good)
        };
        let minutes = text.split_once(':').and_then(|(hour, minute)| {
            let minute = number(minute).filter(|m| *m < 60 && minute.len() == 2)?;
            Some(number(hour)? * 60 + minute)
        });
        let bad = || format!("no such time of day: {text:?} (expected 00:00 to 24:00)");
        minutes.filter(|m| *m <= DAY).map(Self).ok_or_else(bad)
    }
}

fn shown(minutes: u16) -> String {
    format!("{:02}:{:02}", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(n: u64) -> RateLimit {
        RateLimit::try_from(n).unwrap()
    }

    #[derive(Deserialize)]
    struct File {
        limits: Vec<Entry>,
    }

    fn schedule(entries: &str) -> Schedule {
        let file: File = toml::from_str(entries).unwrap();
        Schedule::new(limit(9_000_000), RateLimit::NONE, Some(file.limits))
    }

    /// In a week whose 2nd is a Monday.
    #[track_caller]
    fn check(schedule: &Schedule, local: &str, entry: Option<usize>, upload: u64, download: u64) {
        let local: DateTime = format!("2026-11-{local}").parse().unwrap();
        let expected = (entry, RateLimits { upload: limit(upload), download: limit(download) });
        assert_eq!(schedule.at(local), expected, "{local}");
    }

    const LESSONS: &str = r#"
        [[limits]]
        days = ["mon-fri"]
        from = "08:00"
        to = "14:30"
        upload = "1MiB"
        download = "2 MiB"

        [[limits]]
        days = ["fri", "sat"]
        from = "12:00"
        to = "6:00"
        upload = 0
        "#;

    #[test]
    fn lessons_are_on_weekdays_and_the_first_entry_wins() {
        let lessons = schedule(LESSONS);
        check(&lessons, "02T07:59:59", None, 9_000_000, 0);
        check(&lessons, "02T08:00:00", Some(0), 1 << 20, 2 << 20);
        check(&lessons, "02T14:29:59", Some(0), 1 << 20, 2 << 20);
        check(&lessons, "02T14:30:00", None, 9_000_000, 0);
        check(&lessons, "06T12:00:00", Some(0), 1 << 20, 2 << 20);
        check(&lessons, "06T14:30:00", Some(1), 0, 0);
    }

    #[test]
    fn an_entry_over_midnight_ends_on_the_day_after() {
        let lessons = schedule(LESSONS);
        check(&lessons, "07T05:59:59", Some(1), 0, 0);
        check(&lessons, "07T06:00:00", None, 9_000_000, 0);
        check(&lessons, "07T12:00:00", Some(1), 0, 0);
        check(&lessons, "08T05:59:59", Some(1), 0, 0);
        check(&lessons, "08T12:00:00", None, 9_000_000, 0);
        check(&lessons, "06T05:59:59", None, 9_000_000, 0);
    }

    #[test]
    fn without_days_or_hours_an_entry_holds_on_all_of_them() {
        let always = schedule("[[limits]]\nupload = 100000");
        for local in ["01T00:00:00", "07T23:59:59"] {
            check(&always, local, Some(0), 100_000, 0);
        }
        let late = schedule("[[limits]]\nupload = 100000\nfrom = \"18:00\"\nto = \"24:00\"\ndays = [\"Sat-Mon\"]");
        check(&late, "01T17:59:59", None, 9_000_000, 0);
        check(&late, "01T23:59:59", Some(0), 100_000, 0);
        check(&late, "03T20:00:00", None, 9_000_000, 0);
    }
}
