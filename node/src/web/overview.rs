//! What the mesh does with each image, summed over its nodes: the headline, the bars and the room are drawn from it.
//!
//! Rule: pure arithmetic on one [`Status`]; only nodes that are here count. Not here: how it looks (`page`, `room`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use labmesh_proto::id::InfoHash;
use labmesh_proto::node::{ImageStatus, NodeStatus, Status};
use labmesh_proto::wire::control::{TransferReport, TransferState};

use crate::view;

/// One image and those who have it or want it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Flow<'a> {
    pub(super) image: &'a ImageStatus,
    /// Nodes here with a whole copy.
    pub(super) have: usize,
    /// Nodes here that fetch it, those that wait included.
    pub(super) fetching: usize,
    /// Of these, those that wait for pieces that nobody present has.
    pub(super) waiting: usize,
    /// Nodes here whose transfer has failed.
    pub(super) failed: usize,
    /// Bytes per second that arrive, at all nodes together.
    pub(super) down_bps: u64,
    /// Until the last of those that make progress is done; `None` = nobody knows.
    pub(super) left: Option<Duration>,
    /// Pieces that nobody present has.
    pub(super) missing_pieces: u32,
    /// Nodes with a whole copy that are away.
    pub(super) away: Vec<&'a str>,
    /// Of the copies under way, the sum of their thousandths.
    permilles: usize,
}

impl<'a> Flow<'a> {
    fn new(image: &'a ImageStatus, here: &BTreeSet<&str>) -> Self {
        let (present, away): (Vec<&str>, Vec<&str>) =
            image.holders.iter().map(String::as_str).partition(|name| here.contains(name));
        Self {
            image,
            have: present.len(),
            fetching: 0,
            waiting: 0,
            failed: 0,
            down_bps: 0,
            left: None,
            missing_pieces: 0,
            away,
            permilles: 0,
        }
    }

    fn count(&mut self, report: &TransferReport) {
        match report.state {
            TransferState::Fetching | TransferState::Waiting | TransferState::Checking if report.permille < 1000 => {}
            TransferState::Failed => {
                self.failed += 1;
                return;
            }
            _ => return,
        }
        self.fetching += 1;
        self.permilles += usize::from(report.permille);
        self.down_bps = self.down_bps.saturating_add(report.down_bps);
        self.left = self.left.max(view::report_left(self.image.size, report));
        if report.state == TransferState::Waiting {
            self.waiting += 1;
            self.missing_pieces = self.missing_pieces.max(report.missing_pieces);
        }
    }

    /// Somebody fetches it.
    pub(super) fn is_active(&self) -> bool {
        self.fetching > 0
    }

    /// Of all copies that are here or on their way, in thousandths.
    pub(super) fn permille(&self) -> u16 {
        let copies = self.have + self.fetching;
        let done = self.have * 1000 + self.permilles;
        done.checked_div(copies).unwrap_or(0).min(1000) as u16
    }
}

/// Everything that is counted of one moment.
#[derive(Debug)]
pub(super) struct Overview<'a> {
    /// Nodes that are here.
    pub(super) here: usize,
    /// Every image, in the order of the catalogue.
    pub(super) flows: Vec<Flow<'a>>,
    by_hash: BTreeMap<InfoHash, usize>,
}

impl<'a> Overview<'a> {
    pub(super) fn new(status: &'a Status) -> Self {
        let here: BTreeSet<&str> = status.nodes.iter().filter(|n| n.live).map(|n| n.name.as_str()).collect();
        let mut flows: Vec<Flow<'a>> = status.images.iter().map(|image| Flow::new(image, &here)).collect();
        let by_hash: BTreeMap<_, _> = status.images.iter().map(|i| i.info_hash).zip(0..).collect();
        for report in status.nodes.iter().filter(|n| n.live).flat_map(|n| &n.transfers) {
            if let Some(image) = by_hash.get(&report.info_hash) {
                flows[*image].count(report);
            }
        }
        Self { here: here.len(), flows, by_hash }
    }

    /// What somebody fetches, what most are busy with first.
    pub(super) fn active(&self) -> Vec<&Flow<'a>> {
        let mut active: Vec<_> = self.flows.iter().filter(|flow| flow.is_active()).collect();
        active.sort_by_key(|flow| std::cmp::Reverse(flow.have + flow.fetching));
        active
    }

    /// The image that a look at the room is about: what most are busy with, or the only one.
    pub(super) fn main(&self) -> Option<&Flow<'a>> {
        self.active().first().copied().or(match self.flows.as_slice() {
            [only] => Some(only),
            _ => None,
        })
    }

    /// The image of a transfer, if the catalogue has it.
    pub(super) fn image(&self, info_hash: &InfoHash) -> Option<&'a ImageStatus> {
        self.by_hash.get(info_hash).map(|n| self.flows[*n].image)
    }

    /// How long a node's transfer will take.
    pub(super) fn left(&self, report: &TransferReport) -> Option<Duration> {
        view::report_left(self.image(&report.info_hash)?.size, report)
    }

    /// How many whole copies a node has.
    pub(super) fn held_by(&self, node: &NodeStatus) -> usize {
        self.flows.iter().filter(|flow| flow.image.holders.contains(&node.name)).count()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use labmesh_proto::config::{Mode, RateLimits, Weight};
    use labmesh_proto::id::NodeId;
    use labmesh_proto::node::Role;

    use super::*;

    fn image(n: u8, holders: &[&str]) -> ImageStatus {
        ImageStatus {
            name: format!("{n}.img"),
            info_hash: InfoHash([n; 20]),
            size: 1_000_000,
            piece_length: 1,
            holders: holders.iter().map(|h| (*h).to_owned()).collect(),
            here: None,
            ambiguous: false,
            complete: 0,
            downloading: 0,
            downloaded: 0,
        }
    }

    pub(in crate::web) fn report(n: u8, state: TransferState, permille: u16, down_bps: u64) -> TransferReport {
        TransferReport {
            info_hash: InfoHash([n; 20]),
            mode: Mode::Peer,
            state,
            permille,
            down_bps,
            up_bps: 0,
            seed_left_s: None,
            missing_pieces: 7,
        }
    }

    pub(in crate::web) fn node(name: &str, live: bool, transfers: Vec<TransferReport>) -> NodeStatus {
        NodeStatus {
            id: NodeId([0; 32]),
            name: name.to_owned(),
            addr: None,
            http_port: 1,
            role: Role::Follower,
            weight: Weight::DEFAULT,
            site: String::new(),
            live,
            transfers,
        }
    }

    fn status(nodes: Vec<NodeStatus>, images: Vec<ImageStatus>) -> Status {
        Status {
            torrents: Vec::new(),
            id: NodeId([0; 32]),
            name: "pc1".to_owned(),
            role: Role::Solo,
            term: 1,
            master: None,
            nodes,
            images,
            transfers: vec![],
            trackers: vec![],
            limits: RateLimits::default(),
        }
    }

    #[test]
    fn only_nodes_that_are_here_count() {
        use TransferState::{Failed, Fetching, Seeding, Waiting};
        let nodes = vec![
            node("pc1", true, vec![report(1, Seeding, 1000, 0)]),
            node("pc2", true, vec![report(1, Fetching, 500, 1000)]),
            node("pc3", true, vec![report(1, Waiting, 900, 0), report(2, Failed, 1, 0)]),
            node("pc4", false, vec![report(1, Fetching, 0, 5)]),
        ];
        let status = status(nodes, vec![image(1, &["pc1", "pc4"]), image(2, &["pc1"])]);
        let overview = Overview::new(&status);
        let flow = &overview.flows[0];
        assert_eq!((overview.here, flow.have, flow.fetching, flow.waiting, flow.failed), (3, 1, 2, 1, 0));
        assert_eq!((flow.permille(), flow.down_bps, flow.missing_pieces), (800, 1000, 7));
        assert_eq!((flow.left, &flow.away[..]), (Some(Duration::from_secs(500)), &["pc4"][..]));
        assert_eq!((overview.flows[1].failed, overview.flows[1].is_active()), (1, false));
        assert_eq!(overview.main().map(|f| f.image.name.as_str()), Some("1.img"));
        assert_eq!(overview.held_by(&status.nodes[0]), 2);
    }

    #[test]
    fn what_nobody_fetches_is_the_headline_only_if_it_is_alone() {
        let one = status(vec![], vec![image(1, &[])]);
        assert!(Overview::new(&one).main().is_some());
        assert_eq!(Overview::new(&one).flows[0].permille(), 0);
        let two = status(vec![], vec![image(1, &[]), image(2, &[])]);
        assert!(Overview::new(&two).main().is_none());
    }

    #[test]
    fn reports_of_images_that_left_the_catalogue_are_ignored() {
        let gone = status(vec![node("pc1", true, vec![report(9, TransferState::Fetching, 1, 1)])], vec![image(1, &[])]);
        let overview = Overview::new(&gone);
        assert!(overview.active().is_empty());
        assert_eq!(overview.left(&gone.nodes[0].transfers[0]), None);
    }
}
