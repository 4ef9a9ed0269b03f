//! Torrents that somebody here asked for, and who is asked for them.
//!
//! Rule: holders are asked one after the other, the next when one says no, sends something else, or is silent for two
//! seconds. Who is not connected is dialled and asked then. What comes counts only if it is the torrent of
//! that info hash. Not here: what the torrent is for.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::id::{InfoHash, NodeId, Time};
use crate::wire::metainfo::Metainfo;

/// How long one node may take to answer: a control message of 10 MB under full load.
const PATIENCE: Duration = Duration::from_secs(2);
/// Nodes asked for one torrent.
const ASKED_MAX: usize = 16;
/// Torrents wanted at once; the oldest gives way.
const WANTED_MAX: usize = 64;

/// What happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Get this torrent from one of these nodes.
    Want {
        /// Whose torrent.
        info_hash: InfoHash,
        /// Who could have it, likeliest first.
        holders: Vec<NodeId>,
    },
    /// A node sent one.
    Came {
        /// Who.
        from: NodeId,
        /// Whose torrent it says it is.
        info_hash: InfoHash,
        /// Unchecked.
        bytes: Vec<u8>,
    },
    /// A node has none.
    Denied {
        /// Who.
        from: NodeId,
        /// Of which image.
        info_hash: InfoHash,
    },
    /// A connection with this node stands now: what it was asked before it did was not said.
    Up(NodeId),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Ask this node.
    Ask {
        /// Whom.
        to: NodeId,
        /// For which torrent.
        info_hash: InfoHash,
    },
    /// Here it is.
    Got(Arc<Metainfo>),
    /// Nobody had it.
    Failed(InfoHash),
}

#[derive(Debug)]
struct Wanted {
    holders: VecDeque<NodeId>,
    asked: Option<NodeId>,
    until: Time,
}

/// The torrents on their way here.
#[derive(Debug, Default)]
pub struct Torrents {
    wanted: BTreeMap<InfoHash, Wanted>,
    outputs: VecDeque<Output>,
}

impl Torrents {
    /// Something happened.
    pub fn handle_input(&mut self, now: Time, input: Input) {
        match input {
            Input::Want { info_hash, mut holders } => {
                holders.truncate(ASKED_MAX);
                if let Some(wanted) = self.wanted.get_mut(&info_hash) {
                    wanted.holders.extend(holders);
                    wanted.holders.truncate(ASKED_MAX);
                    return;
                }
                if self.wanted.len() >= WANTED_MAX
                    && let Some((oldest, _)) = self.wanted.iter().min_by_key(|(_, w)| w.until)
                {
                    let oldest = *oldest;
                    self.wanted.remove(&oldest);
                    self.outputs.push_back(Output::Failed(oldest));
                }
                self.wanted.insert(info_hash, Wanted { holders: holders.into(), asked: None, until: now });
                self.ask_next(now, info_hash);
            }
            Input::Came { from, info_hash, bytes } => {
                if !self.wanted.contains_key(&info_hash) {
                    return;
                }
                match Metainfo::parse(&bytes) {
                    Ok(metainfo) if metainfo.info_hash() == info_hash => {
                        self.wanted.remove(&info_hash);
                        self.outputs.push_back(Output::Got(Arc::new(metainfo)));
                    }
                    _ => {
                        tracing::debug!(%from, %info_hash, "sent something that is not the torrent");
                        self.denied(now, from, info_hash);
                    }
                }
            }
            Input::Denied { from, info_hash } => self.denied(now, from, info_hash),
            Input::Up(node) => {
                let asked = self.wanted.iter().filter(|(_, wanted)| wanted.asked == Some(node));
                let again = asked.map(|(info_hash, _)| Output::Ask { to: node, info_hash: *info_hash });
                self.outputs.extend(again);
            }
        }
    }

    /// The deadline has come.
    pub fn handle_timeout(&mut self, now: Time) {
        let overdue: Vec<InfoHash> =
            self.wanted.iter().filter(|(_, w)| w.until <= now).map(|(hash, _)| *hash).collect();
        for info_hash in overdue {
            self.ask_next(now, info_hash);
        }
    }

    /// What is to be done, oldest first.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When it wants to be woken, and why.
    pub fn poll_timeout(&self) -> Option<(Time, &'static str)> {
        self.wanted.values().map(|w| w.until).min().map(|at| (at, "torrent asked for"))
    }

    fn denied(&mut self, now: Time, from: NodeId, info_hash: InfoHash) {
        if self.wanted.get(&info_hash).is_some_and(|w| w.asked == Some(from)) {
            self.ask_next(now, info_hash);
        }
    }

    fn ask_next(&mut self, now: Time, info_hash: InfoHash) {
        let Some(wanted) = self.wanted.get_mut(&info_hash) else { return };
        wanted.asked = wanted.holders.pop_front();
        wanted.until = now + PATIENCE;
        match wanted.asked {
            Some(to) => self.outputs.push_back(Output::Ask { to, info_hash }),
            None => {
                self.wanted.remove(&info_hash);
                self.outputs.push_back(Output::Failed(info_hash));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::metainfo;

    fn node(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    #[test]
    fn holders_are_asked_in_turn_until_one_sends_the_right_torrent() {
        let (right, wrong) = (metainfo(100_000, 16_384), metainfo(200_000, 16_384));
        let info_hash = right.info_hash();
        let mut torrents = Torrents::default();
        let now = Time(0);
        let ask = |n| Some(Output::Ask { to: node(n), info_hash });
        torrents.handle_input(now, Input::Want { info_hash, holders: (1..=4).map(node).collect() });
        assert_eq!(torrents.poll_output(), ask(1));
        torrents.handle_input(now, Input::Denied { from: node(3), info_hash });
        assert_eq!(torrents.poll_output(), None, "that one was not asked");
        torrents.handle_input(now, Input::Denied { from: node(1), info_hash });
        assert_eq!(torrents.poll_output(), ask(2));
        let (due, _) = torrents.poll_timeout().unwrap();
        torrents.handle_timeout(due);
        assert_eq!(torrents.poll_output(), ask(3));
        let bytes = wrong.to_bytes(&[], None);
        torrents.handle_input(due, Input::Came { from: node(3), info_hash, bytes });
        assert_eq!(torrents.poll_output(), ask(4));
        let bytes = right.to_bytes(&[], None);
        torrents.handle_input(due, Input::Came { from: node(2), info_hash, bytes });
        assert_eq!(torrents.poll_output(), Some(Output::Got(right)), "late is fine");
        assert_eq!(torrents.poll_timeout(), None);
    }

    #[test]
    fn who_was_not_connected_is_asked_once_it_is() {
        let info_hash = InfoHash([1; 20]);
        let mut torrents = Torrents::default();
        let ask = Some(Output::Ask { to: node(1), info_hash });
        torrents.handle_input(Time(0), Input::Want { info_hash, holders: vec![node(1), node(2)] });
        assert_eq!(torrents.poll_output(), ask);
        torrents.handle_input(Time(0), Input::Up(node(2)));
        assert_eq!(torrents.poll_output(), None, "that one was not asked");
        torrents.handle_input(Time(0), Input::Up(node(1)));
        assert_eq!(torrents.poll_output(), ask);
    }

    #[test]
    fn when_nobody_has_it_that_is_said() {
        let info_hash = InfoHash([1; 20]);
        let mut torrents = Torrents::default();
        torrents.handle_input(Time(0), Input::Want { info_hash, holders: vec![] });
        assert_eq!(torrents.poll_output(), Some(Output::Failed(info_hash)));
    }
}
