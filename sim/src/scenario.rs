//! What a scenario file says: a room, what goes wrong in it, and what is expected of it.
//!
//! Rule: an unknown key, a number without its unit or a room that makes no sense is refused with its place.

use std::time::Duration;

use labmesh_proto::config::{Mode, NODES_MAX, SeedTime};
use serde::Deserialize;

/// A scenario file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// One sentence: what it shows.
    pub about: String,
    /// Run when no others are asked for.
    #[serde(default = "one_seed")]
    pub seeds: Vec<u64>,
    /// The room.
    pub lab: Lab,
    /// Machines that come later.
    #[serde(default)]
    pub join: Vec<Join>,
    /// What goes wrong.
    #[serde(default)]
    pub faults: Faults,
    /// What must be true in the end.
    #[serde(default)]
    pub expect: Expect,
}

/// The room.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lab {
    /// How many machines are there from the start.
    pub machines: usize,
    /// The first so many hold the image; the very first is the heaviest and becomes master.
    #[serde(default = "one")]
    pub holders: usize,
    /// The cable of each machine, each way: `1Gbit/s`.
    pub link: Rate,
    /// One way between any two.
    #[serde(default = "Span::lan")]
    pub latency: Span,
    /// Hashing and writing: `400MB/s`.
    #[serde(default = "Rate::ssd")]
    pub disk: Rate,
    /// The image: `1GiB`. Without one the room only elects.
    #[serde(default)]
    pub image: Size,
    /// The mode of every `get`.
    #[serde(default)]
    pub mode: Mode,
    /// The seed time of every `get`: `60`, `10m`, `forever`, `enough`.
    #[serde(default)]
    pub seed_time: Option<Text<SeedTime>>,
    /// When everybody says `get`.
    #[serde(default = "Span::settled")]
    pub get_at: Span,
    /// When the world ends.
    pub ends_at: Span,
}

/// Machines that come later and say `get` as soon as they can.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// How many.
    pub machines: usize,
    /// When they are switched on.
    pub at: Span,
}

/// What goes wrong. Random faults are drawn from the seed, between the start and `until`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// The master's program is killed when everybody together has so many percent.
    pub master_killed_at_percent: Option<f64>,
    /// Then it is started again after this.
    pub master_back_after: Option<Span>,
    /// So many random machines are killed and started again.
    pub kills: usize,
    /// So many random machines lose their power and get it back: nobody is told.
    pub power_cuts: usize,
    /// So many random machines stand still for a while.
    pub suspensions: usize,
    /// So many random machines hear no heartbeat for a while.
    pub deaf: usize,
    /// So many times the room is cut in two and healed.
    pub partitions: usize,
    /// Of a thousand datagrams (heartbeats, beacons) so many are lost, until `until`.
    pub lost_datagrams_permille: u16,
    /// No random fault begins later, and all are healed then.
    pub until: Option<Span>,
}

/// What must be true.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// Everybody that said `get` has the image so long after it (or after its start).
    pub complete_within: Option<Span>,
    /// One master and everybody following it, so long after the last fault.
    pub one_master_within: Span,
    /// The first holder sends at most so many copies.
    pub source_copies: Option<f64>,
    /// How many machines still seed when the world ends, at most.
    pub seeding_at_end: Option<usize>,
}

impl Default for Expect {
    fn default() -> Self {
        // Lease, rank steps and one round of claims, twice: a first winner may lose its merge.
        let one_master_within = Span(Duration::from_millis(1500));
        Self { complete_within: None, one_master_within, source_copies: None, seeding_at_end: None }
    }
}

/// Why a text is no scenario.
#[derive(Debug, thiserror::Error)]
pub enum BadScenario {
    /// Not TOML, an unknown key, or a value of the wrong kind; says line and column.
    #[error(transparent)]
    Toml(#[from] toml::de::Error),
    /// A room that makes no sense.
    #[error("{0}")]
    Senseless(String),
}

impl Scenario {
    /// Reads a scenario file.
    ///
    /// # Errors
    /// With the place of what is wrong.
    pub fn parse(text: &str) -> Result<Self, BadScenario> {
        let scenario: Self = toml::from_str(text)?;
        let sense = |holds: bool, otherwise: &str| {
            if holds { Ok(()) } else { Err(BadScenario::Senseless(otherwise.to_owned())) }
        };
        let lab = &scenario.lab;
        sense((1..=NODES_MAX).contains(&scenario.machines()), &format!("expected 1 to {NODES_MAX} machines"))?;
        sense(lab.machines >= 1, "expected at least one machine at the start")?;
        sense(lab.image.0 == 0 || (1..=lab.machines).contains(&lab.holders), "expected 1 to `machines` holders")?;
        sense(lab.link.0 > 0 && lab.disk.0 > 0, "expected a link and a disk with some speed")?;
        sense(scenario.faults.lost_datagrams_permille <= 1000, "expected at most 1000 lost datagrams in a thousand")?;
        sense(!scenario.faults.is_random() || scenario.faults.until.is_some(), "random faults need `until`")?;
        sense(scenario.last_fault() < lab.ends_at.0, "expected the world to end after the last fault")?;
        Ok(scenario)
    }

    /// All machines there will be.
    pub fn machines(&self) -> usize {
        self.join.iter().fold(self.lab.machines, |sum, join| sum.saturating_add(join.machines))
    }

    /// After this no random fault is left.
    pub fn last_fault(&self) -> Duration {
        self.faults.until.map_or(Duration::ZERO, |until| until.0)
    }
}

impl Faults {
    /// Whether anything is left to chance.
    pub fn is_random(&self) -> bool {
        self.kills + self.power_cuts + self.suspensions + self.deaf + self.partitions > 0
            || self.lost_datagrams_permille > 0
    }
}

fn one() -> usize {
    1
}

fn one_seed() -> Vec<u64> {
    vec![1]
}

/// A time with its unit: `90s`, `200us`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(pub Duration);

impl Span {
    /// One way through a switch and two stacks.
    fn lan() -> Self {
        Self(Duration::from_micros(150))
    }

    /// Late enough for a master and a catalogue.
    fn settled() -> Self {
        Self(Duration::from_secs(5))
    }
}

impl TryFrom<String> for Span {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        humantime::parse_duration(&text).map(Self).map_err(|error| format!("{text:?} is no time such as 90s: {error}"))
    }
}

/// Bytes a second: `1Gbit/s`, `200Mbit/s`, `400MB/s`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Rate(pub u64);

impl Rate {
    /// An old SATA SSD.
    fn ssd() -> Self {
        Self(400_000_000)
    }
}

impl TryFrom<String> for Rate {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let bad = || format!("{text:?} is no rate such as 1Gbit/s or 400MB/s");
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?);
        let number: u64 = number.parse().map_err(|_| bad())?;
        let (scale, divisor) = match unit.trim() {
            "Gbit/s" => (1_000_000_000, 8),
            "Mbit/s" => (1_000_000, 8),
            "GB/s" => (1_000_000_000, 1),
            "MB/s" => (1_000_000, 1),
            _ => return Err(bad()),
        };
        number.checked_mul(scale).map(|n| Self(n / divisor)).ok_or_else(bad)
    }
}

/// Bytes: `1GiB`, `256MiB`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct Size(pub u64);

impl TryFrom<String> for Size {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let size: bytesize::ByteSize = text.parse().map_err(|e| format!("{text:?} is no size such as 1GiB: {e}"))?;
        Ok(Self(size.as_u64()))
    }
}

/// Anything that the protocol reads from text.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Text<T: std::str::FromStr>(pub T)
where
    T::Err: std::fmt::Display;

impl<T: std::str::FromStr> TryFrom<String> for Text<T>
where
    T::Err: std::fmt::Display,
{
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|error: T::Err| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        about = "two machines"
        [lab]
        machines = 2
        link = "1Gbit/s"
        image = "64MiB"
        seed_time = "90s"
        ends_at = "1min"
    "#;

    #[test]
    fn units_are_read() {
        let scenario = Scenario::parse(GOOD).unwrap();
        assert_eq!((scenario.lab.link.0, scenario.lab.image.0), (125_000_000, 64 << 20));
        assert!(matches!(scenario.lab.seed_time, Some(Text(SeedTime::For(d))) if d.as_secs() == 90));
    }

    #[test]
    fn nonsense_is_refused_with_its_place() {
        for (from, to, word) in [
            ("machines = 2", "machines = 2\nmachine = 3", "machine"),
            ("machines = 2", "machines = 0", "machine"),
            ("machines = 2", "machines = 99999999", "machines"),
            ("machines = 2", "machines = 2\nholders = 3", "holders"),
            ("1Gbit/s", "1", "line 5"),
            ("1Gbit/s", "0Gbit/s", "speed"),
            ("1Gbit/s", "99999999999999999Gbit/s", "line 5"),
            ("64MiB", "large", "line 6"),
            ("90s", "soon", "line 7"),
            ("1min", "-1s", "line 8"),
            ("ends_at = \"1min\"", "ends_at = \"1min\"\n[faults]\nkills = 1", "until"),
            ("ends_at = \"1min\"", "ends_at = \"1min\"\n[faults]\nkills = 1\nuntil = \"2min\"", "end after"),
        ] {
            let text = GOOD.replace(from, to);
            let error = Scenario::parse(&text).expect_err(to).to_string();
            assert!(error.contains(word), "{to}: {error}");
        }
    }
}
