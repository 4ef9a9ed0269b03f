//! What a scenario file says: a room, what goes wrong in it, and what is expected of it.
//!
//! Rule: an unknown key, a number without its unit or a room that makes no sense is refused with its place.
//!
//! Machines are numbered from 1, as in their names: `pc001` is number 1.

use std::time::Duration;

use labmesh_proto::config::{HUGE_BLOCK_BYTES, Mode, NODES_MAX, PIECE_BYTES_MAX, PIECE_BYTES_MIN, SeedTime, Weight};
use serde::Deserialize;

mod units;

pub use units::{Rate, Size, Span, Text};

/// Accidents of one file, each with all its repetitions.
const ACCIDENTS_MAX: usize = 10_000;

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
    /// Machines that differ from the others; of several that name one machine, the last one counts.
    #[serde(default)]
    pub other: Vec<Other>,
    /// Machines that come later.
    #[serde(default)]
    pub join: Vec<Join>,
    /// What goes wrong at a chosen moment.
    #[serde(default)]
    pub accident: Vec<Accident>,
    /// What goes wrong at random moments.
    #[serde(default)]
    pub faults: Faults,
    /// The room and its faults are drawn from the seed; what the file says of them does not count.
    #[serde(default)]
    pub storm: bool,
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
    /// The first so many hold an image; the very first is the heaviest and becomes master.
    #[serde(default = "one")]
    pub holders: usize,
    /// The cable of each machine, each way: `1Gbit/s`.
    pub link: Rate,
    /// One way between any two.
    #[serde(default = "Span::lan")]
    pub latency: Span,
    /// What one peer connection may have under way.
    #[serde(default = "window")]
    pub window: Size,
    /// Switches: half of the machines hang on each of two, joined by `uplink`.
    #[serde(default = "one")]
    pub sites: usize,
    /// The cable between two switches, each way.
    #[serde(default)]
    pub uplink: Option<Rate>,
    /// Hashing and writing: `400MB/s`.
    #[serde(default = "Rate::ssd")]
    pub disk: Rate,
    /// What each write costs beside its bytes.
    #[serde(default)]
    pub seek: Span,
    /// Memory of each machine for pieces in flight.
    #[serde(default = "buffers")]
    pub buffers: Size,
    /// The image: `1GiB`. Without one the room only elects.
    #[serde(default)]
    pub image: Size,
    /// The length of its pieces; as the mesh has them if it is not said.
    #[serde(default)]
    pub piece: Option<Size>,
    /// The longest block that one machine asks of another.
    #[serde(default = "block")]
    pub block: Size,
    /// So many images of that size. Each holder has one of them in turn, everybody wants all.
    #[serde(default = "one")]
    pub images: usize,
    /// The mode of every `get`.
    #[serde(default)]
    pub mode: Mode,
    /// The seed time of every `get`: `60`, `10m`, `forever`, `enough`.
    #[serde(default)]
    pub seed_time: Option<Text<SeedTime>>,
    /// Everybody says `stop` once the copy is whole.
    #[serde(default)]
    pub stop_when_complete: bool,
    /// Each machine is switched on at a random moment of this.
    #[serde(default)]
    pub starts_within: Span,
    /// When everybody says `get`, if it is on by then.
    #[serde(default = "Span::settled")]
    pub get_at: Span,
    /// Of a thousand heartbeats so many are lost, always.
    #[serde(default)]
    pub lost_datagrams_permille: u16,
    /// Of a thousand receivers of a beacon or an mDNS answer so many miss it, always.
    #[serde(default)]
    pub lost_multicasts_permille: u16,
    /// When the world ends.
    pub ends_at: Span,
}

/// Machines that differ. What is not said is as in the room.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Other {
    /// Their numbers.
    pub pcs: Vec<usize>,
    /// What their cable sends.
    #[serde(default)]
    pub up: Option<Rate>,
    /// What their cable receives.
    #[serde(default)]
    pub down: Option<Rate>,
    /// Hashing and writing.
    #[serde(default)]
    pub disk: Option<Rate>,
    /// What each write costs beside its bytes.
    #[serde(default)]
    pub seek: Option<Span>,
    /// Free bytes of the disk; a larger image does not fit.
    #[serde(default)]
    pub space: Option<Size>,
    /// The mode of their `get`.
    #[serde(default)]
    pub mode: Option<Mode>,
    /// The seed time of their `get`.
    #[serde(default)]
    pub seed_time: Option<Text<SeedTime>>,
    /// How willing they are to be master.
    #[serde(default)]
    pub weight: Option<Weight>,
    /// Of a thousand blocks that they send so many are not what they should be.
    #[serde(default)]
    pub poison_permille: u16,
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

/// Something goes wrong at a chosen moment.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accident {
    /// When, for the first time.
    pub at: Span,
    /// What.
    pub what: What,
    /// To whom; whoever is master then if nobody is named.
    #[serde(default)]
    pub pcs: Vec<usize>,
    /// It is put right after this; never if nothing is said.
    #[serde(default, rename = "for")]
    pub lasts: Option<Span>,
    /// What is left of the speed of a slow link or disk.
    #[serde(default = "tenth")]
    pub percent: u32,
    /// How often it happens.
    #[serde(default = "one")]
    pub times: usize,
    /// From one time to the next.
    #[serde(default)]
    pub every: Span,
}

/// What can go wrong.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The program is killed; put right: started.
    Kill,
    /// The power is gone.
    PowerCut,
    /// The program stands still.
    Suspend,
    /// It hears no heartbeat.
    Deaf,
    /// Nothing that it sends arrives; what is sent to it does.
    Mute,
    /// Those named reach each other, and nobody else.
    Cut,
    /// The cable has `percent` of its speed.
    SlowLink,
    /// The disk has `percent` of its speed.
    SlowDisk,
    /// Nothing more can be written.
    DiskFull,
    /// Nothing can be written or read.
    DiskBroken,
    /// Its clock jumps ahead by `for`, and stays so.
    ClockStep,
}

/// What goes wrong at random: drawn from the seed, between the start and `until`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// The master's program is killed when everybody together has so many percent.
    pub master_killed_at_percent: Option<f64>,
    /// Then it is started again after this.
    pub master_back_after: Option<Span>,
    /// So many random machines are killed and started again.
    pub kills: usize,
    /// So often whoever is master then is killed and started again.
    pub master_kills: usize,
    /// So many random machines lose their power and get it back: nobody is told.
    pub power_cuts: usize,
    /// So many random machines stand still for a while.
    pub suspensions: usize,
    /// So many random machines hear no heartbeat for a while.
    pub deaf: usize,
    /// So many random machines are not heard at all for a while: one-way loss.
    pub mute: usize,
    /// So many times the room is cut in two and healed.
    pub partitions: usize,
    /// So many random cables are slow for a while.
    pub slow_links: usize,
    /// So many random disks are slow for a while.
    pub slow_disks: usize,
    /// So many random disks are full for a while.
    pub full_disks: usize,
    /// So many random disks neither read nor write for a while.
    pub broken_disks: usize,
    /// So many random clocks jump ahead.
    pub clock_steps: usize,
    /// Of a thousand datagrams (heartbeats, beacons) so many are lost, until `until`.
    pub lost_datagrams_permille: u16,
    /// Of a thousand control messages so many are lost, until `until`.
    pub lost_words_permille: u16,
    /// Of a thousand control messages so many come twice, until `until`.
    pub doubled_words_permille: u16,
    /// No random fault begins later, and all are healed then.
    pub until: Option<Span>,
}

/// What must be true. Everybody who asked for an image has it in the end, there is one master, and its books are
/// true: that is expected always.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// Everybody that said `get` has the image so long after it (or after its start), but for those in `slow`.
    pub complete_within: Option<Span>,
    /// The same, in multiples of what the links allow at best.
    pub over_limit: Option<f64>,
    /// Numbers of machines that may take until the end.
    pub slow: Vec<usize>,
    /// Numbers of machines that are complete before any other.
    pub first: Vec<usize>,
    /// Numbers of machines whose transfer fails and says why; exactly these.
    pub failed: Vec<usize>,
    /// Machines that are not there in the end.
    pub away: Vec<usize>,
    /// One master and everybody following it, so long after the last fault.
    pub one_master_within: Span,
    /// The first holder sends at most so many copies.
    pub source_copies: Option<f64>,
    /// Everybody together receives at most so many times what it needs.
    pub received: Option<f64>,
    /// At most so many copies pass from one site to another.
    pub uplink_copies: Option<f64>,
    /// How many machines still seed when the world ends, at most.
    pub seeding_at_end: Option<usize>,
    /// Everybody who misses pieces waits, and says for whom, when the master that was killed comes back.
    pub says_what_it_waits_for: bool,
    /// At least so many times a peer is refused for bad data.
    pub refusals: usize,
}

impl Default for Expect {
    fn default() -> Self {
        Self {
            complete_within: None,
            over_limit: None,
            slow: Vec::new(),
            first: Vec::new(),
            failed: Vec::new(),
            away: Vec::new(),
            // Lease, rank steps and one round of claims, twice: a first winner may lose its merge.
            one_master_within: Span(Duration::from_millis(1500)),
            source_copies: None,
            received: None,
            uplink_copies: None,
            seeding_at_end: None,
            says_what_it_waits_for: false,
            refusals: 0,
        }
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

fn sense(holds: bool, otherwise: &str) -> Result<(), BadScenario> {
    if holds { Ok(()) } else { Err(BadScenario::Senseless(otherwise.to_owned())) }
}

impl Scenario {
    /// Reads a scenario file.
    ///
    /// # Errors
    /// With the place of what is wrong.
    pub fn parse(text: &str) -> Result<Self, BadScenario> {
        let scenario: Self = toml::from_str(text)?;
        scenario.lab.check()?;
        scenario.check_numbers()?;
        let (faults, lab) = (&scenario.faults, &scenario.lab);
        let chances = [faults.lost_datagrams_permille, faults.lost_words_permille, faults.doubled_words_permille];
        sense(chances.iter().all(|chance| *chance <= 1000), "expected at most 1000 lost in a thousand")?;
        sense(!faults.is_random() || faults.until.is_some(), "random faults need `until`")?;
        let repeated = scenario.accident.iter().fold(0usize, |sum, accident| sum.saturating_add(accident.times));
        sense(repeated <= ACCIDENTS_MAX, &format!("expected at most {ACCIDENTS_MAX} accidents"))?;
        sense(scenario.last_fault() < lab.ends_at.0, "expected the world to end after the last fault")?;
        Ok(scenario)
    }

    fn check_numbers(&self) -> Result<(), BadScenario> {
        let machines = self.machines();
        sense((1..=NODES_MAX).contains(&machines), &format!("expected 1 to {NODES_MAX} machines"))?;
        let lists = self.other.iter().map(|o| &o.pcs).chain(self.accident.iter().map(|a| &a.pcs));
        let expect = &self.expect;
        for pc in lists.chain([&expect.slow, &expect.first, &expect.failed, &expect.away]).flatten() {
            sense((1..=machines).contains(pc), &format!("no machine has the number {pc}: expected 1 to {machines}"))?;
        }
        for accident in &self.accident {
            let master = accident.pcs.is_empty();
            sense(!master || accident.what == What::Kill, "expected `pcs`: only `kill` may mean the master")?;
            sense((1..=100).contains(&accident.percent), "expected 1 to 100 percent")?;
        }
        for other in &self.other {
            sense(other.poison_permille <= 1000, "expected at most 1000 bad blocks in a thousand")?;
            let rates = [other.up, other.down, other.disk];
            sense(rates.iter().flatten().all(|rate| rate.0 > 0), "expected a link and a disk with some speed")?;
        }
        Ok(())
    }

    /// All machines there will be.
    pub fn machines(&self) -> usize {
        self.join.iter().fold(self.lab.machines, |sum, join| sum.saturating_add(join.machines))
    }

    /// After this no fault begins or ends.
    pub fn last_fault(&self) -> Duration {
        let accidents = self.accident.iter().map(Accident::ends);
        accidents.chain(self.faults.until.map(|until| until.0)).max().unwrap_or_default()
    }
}

impl Lab {
    fn check(&self) -> Result<(), BadScenario> {
        sense(self.machines >= 1, "expected at least one machine at the start")?;
        let image = self.image.0 > 0;
        sense(!image || (1..=self.machines).contains(&self.holders), "expected 1 to `machines` holders")?;
        sense((1..=64).contains(&self.images), "expected 1 to 64 images")?;
        sense(!image || self.images <= self.holders, "expected a holder for each image")?;
        sense(self.link.0 > 0 && self.disk.0 > 0, "expected a link and a disk with some speed")?;
        let piece = u64::from(PIECE_BYTES_MIN)..=u64::from(PIECE_BYTES_MAX);
        sense(self.piece.is_none_or(|p| piece.contains(&p.0)), "expected pieces of 16 KiB to 64 MiB")?;
        sense(piece.contains(&self.block.0), "expected blocks of 16 KiB to 64 MiB")?;
        sense(self.uplink.is_none_or(|rate| rate.0 > 0), "expected an uplink with some speed")?;
        sense(self.sites == 1 && self.uplink.is_none() || self.sites == 2, "expected 1 site, or 2 and an `uplink`")?;
        let chances = [self.lost_datagrams_permille, self.lost_multicasts_permille];
        sense(chances.iter().all(|chance| *chance <= 1000), "expected at most 1000 lost datagrams in a thousand")
    }
}

impl Accident {
    fn ends(&self) -> Duration {
        let repeated = self.every.0.saturating_mul(u32::try_from(self.times.saturating_sub(1)).unwrap_or(u32::MAX));
        self.at.0.saturating_add(repeated).saturating_add(self.lasts.map_or(Duration::ZERO, |lasts| lasts.0))
    }
}

impl Faults {
    /// Whether anything is left to chance.
    pub fn is_random(&self) -> bool {
        let counts = [self.kills, self.master_kills, self.power_cuts, self.suspensions, self.deaf, self.mute];
        let more = [self.partitions, self.slow_links, self.slow_disks, self.full_disks, self.broken_disks];
        counts.iter().chain(&more).any(|count| *count > 0)
            || self.clock_steps > 0
            || self.lost_datagrams_permille + self.lost_words_permille + self.doubled_words_permille > 0
    }
}

fn one() -> usize {
    1
}

fn one_seed() -> Vec<u64> {
    vec![1]
}

fn tenth() -> u32 {
    10
}

/// A gigabit for 8 ms.
fn window() -> Size {
    Size(1 << 20)
}

/// As the binary has it.
fn block() -> Size {
    Size(HUGE_BLOCK_BYTES.into())
}

/// As the default configuration has it.
fn buffers() -> Size {
    Size(256 << 20)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    /// Every scenario that we have.
    fn files() -> Vec<String> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let files = [folder.join("large"), folder].into_iter().flat_map(|f| std::fs::read_dir(f).expect("a folder"));
        let paths = files.map(|entry| entry.expect("an entry").path()).filter(|path| path.extension().is_some());
        let texts: Vec<_> = paths.map(|path| std::fs::read_to_string(path).expect("a file")).collect();
        assert!(texts.len() > 20, "{}", texts.len());
        texts
    }

    /// A file that was cut off is refused as long as it says not enough for a room.
    #[test]
    fn a_file_may_end_anywhere() {
        for text in files() {
            Scenario::parse(&text).expect(&text);
            let enough = text.find("ends_at").expect(&text) + "ends_at = \"1s\"".len();
            for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
                match Scenario::parse(&text[..end]) {
                    Ok(scenario) => assert!(end >= enough && scenario.machines() > 0, "{}", &text[..end]),
                    Err(error) => assert!(!error.to_string().is_empty(), "{}", &text[..end]),
                }
            }
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in "\\PC*", bytes: Vec<u8>, file: prop::sample::Index, at: prop::sample::Index) {
            let files = files();
            let mut spoilt = file.get(&files).clone();
            let at = spoilt.floor_char_boundary(at.index(spoilt.len()));
            spoilt.insert_str(at, &noise);
            for text in [&spoilt, &noise, &String::from_utf8_lossy(&bytes).into_owned()] {
                let _ = Scenario::parse(text);
            }
        }

        /// What a careless hand makes: any value where another one was, numbers of any size with any unit.
        #[test]
        fn any_value_of_a_key_is_taken_or_refused(
            number: i64, unit in "(s|ms|us|min|h|years|GiB|kB|Gbit/s|MB/s|%|)", kind in 0..4, file: prop::sample::Index,
            line: prop::sample::Index,
        ) {
            let files = files();
            let text = file.get(&files);
            let keys: Vec<_> = text.lines().filter(|line| line.contains(" = ")).collect();
            let line = *line.get(&keys);
            let key = line.split(" = ").next().expect("split gives one");
            let value = match kind {
                0 => number.to_string(),
                1 => format!("\"{number}{unit}\""),
                2 => format!("[{number}, 1]"),
                _ => format!("\"{unit}\""),
            };
            if let Ok(scenario) = Scenario::parse(&text.replacen(line, &format!("{key} = {value}"), 1)) {
                prop_assert!((1..=NODES_MAX).contains(&scenario.machines()));
                prop_assert!(scenario.last_fault() < scenario.lab.ends_at.0);
            }
        }
    }
}
