//! What every node transfers and who is in each swarm, for pages, `status` and `/scrape`.
//!
//! Rule: once a second a node tells its master what changed of its own transfers, and the master tells everybody the
//! whole board if it changed or somebody came, more seldom in a large room and while it sends images over a slow link;
//! only transfers that move, wait or end are on it. Nobody decides anything by it. Not here: who shows it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::config::NODES_MAX;
use crate::id::{InfoHash, NodeId, Time};
use crate::wire::control::{BoardState, SwarmCount, TransferReport, TransferState};

/// How often reports travel: what a person can follow, and 30 messages/s in a room of thirty.
const EVERY: Duration = Duration::from_secs(1);
/// What the master may send of boards in a second: a hundredth of a gigabit link. The whole board for everybody grows with
/// the square of the room: with more than 120 nodes it comes more seldom, with a thousand every minute.
const BYTES_PER_SECOND: u64 = 1_250_000;
/// While the master sends images, boards take one of so many bytes beside them, as long as that makes nobody wait longer
/// than `BESIDE_MOST`. In a room of thirty at 50 Mbit/s that is one in four seconds.
const BESIDE: u64 = 256;
const BESIDE_MOST: Duration = Duration::from_secs(5);
/// A transfer on the wire: two ids and a few numbers.
const REPORT_BYTES: u64 = 90;
/// A swarm on the wire.
const COUNT_BYTES: u64 = 65;
/// Transfers of one node on the board; the first in the order of the cache.
pub const REPORTS_MAX: usize = 32;

/// What happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// This node's transfers now; given at each deadline.
    Mine {
        /// What it fetches and seeds.
        reports: Vec<TransferReport>,
        /// What its book has of the swarms, if it is master and tells everybody.
        counts: Option<Vec<SwarmCount>>,
    },
    /// A follower's transfers.
    Of(NodeId, Vec<TransferReport>),
    /// The master's board.
    All(BoardState),
    /// A node has come, and knows nothing of the board.
    Came,
    /// A node is away.
    Gone(NodeId),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Tell the master.
    Mine(Vec<TransferReport>),
    /// As master, tell everybody.
    All(BoardState),
}

/// The board.
#[derive(Debug)]
pub struct Board {
    me: NodeId,
    reports: BTreeMap<NodeId, Vec<TransferReport>>,
    /// In the order of info hashes where the master's was heard.
    counts: Vec<SwarmCount>,
    changed: bool,
    /// Not before this the master tells everybody again.
    tell_at: Time,
    due: Time,
    outputs: VecDeque<Output>,
}

/// Whether a transfer is worth a line.
pub fn is_worth_telling(report: &TransferReport) -> bool {
    match report.state {
        TransferState::Fetching | TransferState::Waiting | TransferState::Checking | TransferState::Failed => true,
        TransferState::Seeding => report.up_bps > 0 || report.seed_left_s.is_some(),
        TransferState::Idle | TransferState::Stopped => false,
    }
}

impl Board {
    /// An empty board.
    pub fn new(now: Time, me: NodeId) -> Self {
        let (reports, counts, outputs) = Default::default();
        Self { me, reports, counts, changed: false, tell_at: now, due: now + EVERY, outputs }
    }

    /// Something happened.
    pub fn handle_input(&mut self, now: Time, input: Input) {
        match input {
            Input::Mine { mut reports, counts } => {
                reports.retain(is_worth_telling);
                reports.truncate(REPORTS_MAX);
                self.due = now + EVERY;
                if self.set(self.me, reports.clone()) {
                    self.outputs.push_back(Output::Mine(reports));
                }
                let Some(counts) = counts else { return };
                self.changed |= self.counts != counts;
                self.counts = counts;
                if self.changed && self.tell_at <= now {
                    self.changed = false;
                    self.tell_at = now + self.pause();
                    let transfers = self.reports.iter().map(|(node, r)| (*node, r.clone())).collect();
                    self.outputs.push_back(Output::All(BoardState { transfers, counts: self.counts.clone() }));
                }
            }
            Input::Of(node, mut reports) => {
                reports.truncate(REPORTS_MAX);
                self.set(node, reports);
            }
            Input::All(BoardState { transfers, counts }) => {
                self.counts = counts;
                self.counts.sort_unstable_by_key(|count| count.info_hash);
                let mine = self.reports.remove(&self.me);
                self.reports = transfers.into_iter().filter(|(node, _)| *node != self.me).collect();
                if let Some(mine) = mine {
                    self.reports.insert(self.me, mine);
                }
            }
            Input::Came => self.changed = true,
            Input::Gone(node) => {
                self.set(node, Vec::new());
            }
        }
    }

    /// How long telling everybody of everybody takes at the rate that boards may have.
    fn pause(&self) -> Duration {
        let (nodes, reports) = (self.reports.len() as u64, self.reports.values().map(|r| r.len() as u64).sum::<u64>());
        let bytes = nodes * (reports * REPORT_BYTES + self.counts.len() as u64 * COUNT_BYTES);
        let takes = |per_second| Duration::from_millis(bytes * 1000 / per_second);
        let sends = self.of(&self.me).iter().fold(0, |sum: u64, report| sum.saturating_add(report.up_bps));
        let beside = if sends == 0 { Duration::ZERO } else { takes((sends / BESIDE).max(1)).min(BESIDE_MOST) };
        takes(BYTES_PER_SECOND).max(beside)
    }

    fn set(&mut self, node: NodeId, reports: Vec<TransferReport>) -> bool {
        let same = self.reports.get(&node).map_or(&[][..], Vec::as_slice) == reports;
        if !same {
            self.changed = true;
            if reports.is_empty() {
                self.reports.remove(&node);
            } else if self.reports.len() < NODES_MAX {
                self.reports.insert(node, reports);
            }
        }
        !same
    }

    /// What is to be done, oldest first.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When it wants this node's transfers, and why.
    pub fn poll_timeout(&self) -> Option<(Time, &'static str)> {
        Some((self.due, "progress report"))
    }

    /// A node's transfers.
    pub fn of(&self, node: &NodeId) -> &[TransferReport] {
        self.reports.get(node).map_or(&[], Vec::as_slice)
    }

    /// Whole copies and others in a swarm, as the master told last.
    pub fn counts(&self, info_hash: &InfoHash) -> (u32, u32) {
        let found = self.counts.binary_search_by_key(info_hash, |count| count.info_hash);
        found.map_or((0, 0), |at| (self.counts[at].complete, self.counts[at].incomplete))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mode;

    fn report(permille: u16) -> TransferReport {
        TransferReport {
            info_hash: InfoHash([1; 20]),
            mode: Mode::Peer,
            state: TransferState::Fetching,
            permille,
            down_bps: 5,
            up_bps: 0,
            seed_left_s: None,
            missing_pieces: 0,
        }
    }

    fn board_of(transfers: Vec<(NodeId, Vec<TransferReport>)>) -> BoardState {
        BoardState { transfers, counts: Vec::new() }
    }

    #[test]
    fn only_what_changed_is_told() {
        let (me, other) = (NodeId([1; 32]), NodeId([2; 32]));
        let mut board = Board::new(Time(0), me);
        let mine = vec![report(10)];
        let tell = |board: &mut Board, now| {
            board.handle_input(Time(now), Input::Mine { reports: mine.clone(), counts: Some(Vec::new()) });
            board.poll_output()
        };
        assert_eq!(tell(&mut board, 1), Some(Output::Mine(mine.clone())));
        assert_eq!(board.poll_output(), Some(Output::All(board_of(vec![(me, mine.clone())]))));
        assert_eq!(tell(&mut board, 2_000_000), None);
        board.handle_input(Time(3_000_000), Input::Of(other, vec![report(3)]));
        let both = board_of(vec![(me, mine.clone()), (other, vec![report(3)])]);
        assert_eq!(tell(&mut board, 4_000_000), Some(Output::All(both.clone())));
        board.handle_input(Time(5_000_000), Input::Came);
        assert_eq!(tell(&mut board, 6_000_000), Some(Output::All(both)), "who has just come hears it too");
        board.handle_input(Time(7_000_000), Input::All(board_of(vec![(me, vec![]), (other, vec![report(9)])])));
        assert_eq!((board.of(&me), board.of(&other)), (&mine[..], &[report(9)][..]), "nobody tells us of ourselves");
    }

    /// Boards of thirty that send nothing come every second, those beside a slow upload after a while.
    #[test]
    fn beside_images_on_a_slow_link_the_board_is_told_more_seldom() {
        let told = |up_bps| {
            let mut board = Board::new(Time(0), NodeId([0; 32]));
            for n in 1..30 {
                board.handle_input(Time(0), Input::Of(NodeId([n; 32]), vec![report(0)]));
            }
            let told = (0..60).filter(|second| {
                let reports = vec![TransferReport { up_bps, ..report(*second) }];
                let now = Time(0) + EVERY * u32::from(*second);
                board.handle_input(now, Input::Mine { reports, counts: Some(Vec::new()) });
                std::iter::from_fn(|| board.poll_output()).any(|output| matches!(output, Output::All(_)))
            });
            told.count()
        };
        let (idle, gigabit, slow, trickle) = (told(0), told(110_000_000), told(6_000_000), told(1));
        assert_eq!((idle, gigabit, slow, trickle), (60, 60, 15, 12));
    }

    #[test]
    fn everybody_knows_what_the_master_counts() {
        let (mut master, mut follower) = (Board::new(Time(0), NodeId([1; 32])), Board::new(Time(0), NodeId([2; 32])));
        let info_hash = InfoHash([1; 20]);
        let counts = vec![SwarmCount { info_hash, complete: 2, incomplete: 5 }];
        master.handle_input(Time(1), Input::Mine { reports: Vec::new(), counts: Some(counts) });
        let Some(Output::All(board)) = master.poll_output() else { panic!("it is told") };
        assert_eq!(follower.counts(&info_hash), (0, 0));
        follower.handle_input(Time(2), Input::All(board));
        follower.handle_input(Time(3), Input::Mine { reports: Vec::new(), counts: None });
        assert_eq!(follower.counts(&info_hash), (2, 5));
    }

    #[test]
    fn idle_copies_and_quiet_seeders_are_not_on_the_board() {
        let mut board = Board::new(Time(0), NodeId([1; 32]));
        let quiet = TransferReport { state: TransferState::Seeding, ..report(1000) };
        let idle = TransferReport { state: TransferState::Idle, ..report(1000) };
        board.handle_input(Time(1), Input::Mine { reports: vec![quiet, idle], counts: Some(Vec::new()) });
        assert_eq!(board.poll_output(), None);
    }
}
