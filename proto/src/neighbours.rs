//! Who is connected to whom in one swarm: the arithmetic that the tracker uses.
//!
//! Rule: per site, the members that upload form a pseudo-random, nearly regular graph (degree 14 to 20; everybody
//! with everybody up to fifteen); sites are joined by at most [`BRIDGES`] links a pair, at members that have everything
//! if there are some. The graph is a pure function of the info hash and the members: arrival order, the number of calls
//! and the master that computes it do not show.
//!
//! How: several rings. Ring `r` orders the members by a hash of `(info hash, r, member)` and links each to its
//! successor, so the union of the rings is regular and connected, and a join or a leave moves two links a ring. Chance
//! makes a few of these links coincide; further rings then serve only those who have too few neighbours, and lead to
//! others like them as long as they can: everybody shares his link among his neighbours, so who has fewer than they have
//! receives less than they do.
//!
//! What the rings do not give is attached by consistent hashing with bounded load: one seeder to each who missed one
//! (as far as the seeders' degree goes), some uploaders to each leecher, which uploads nothing and so is no link of
//! the graph, and a few of our nodes to each foreign client.
//!
//! Not here: who is a member, when to choose again, whom to tell (`tracker`).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::config::PEERS_PER_IMAGE_MAX;
use crate::id::{InfoHash, NodeId};

/// Up to this many members, everybody is linked with everybody.
pub const ALL_PAIRS_MAX: usize = 15;
/// So many that somebody always has room (`docs/SIMULATION.md`, Scheduling), and far above `ln n + 3`, where a random
/// graph is connected beyond doubt: the least degree in larger swarms, and the most that rings and seeders may lead to within a site.
pub const DEGREE_MIN: usize = 14;
/// See [`DEGREE_MIN`].
pub const DEGREE_MAX: usize = 20;
/// Links between two sites: one may be slow and one may die, and the copies on the scarce line stay few.
pub const BRIDGES: usize = 3;
/// Uploaders for each leecher: enough that one slow or full one is no matter.
pub const LEECHER_LINKS: usize = 4;
/// Our nodes for each foreign client, and foreign clients for each of our nodes; they may dial more themselves.
pub const FOREIGN_LINKS: usize = 4;
/// Seeders that are asked to take on one who has none: with more, one completion would displace many.
const SEEDER_TRIES: usize = 2;
/// Members that leech may lead one uploader to this degree, which leaves room for those that dial unasked.
const CROWD_MAX: usize = PEERS_PER_IMAGE_MAX * 3 / 4;
/// After this many rings somebody may be left with fewer links than [`DEGREE_MIN`]. Nearly all graphs need fewer than 16;
/// with sixteen members a ring seldom has one of the two that the last one still lacks, and 32 left one in some thousands.
const RINGS_MAX: u64 = 256;
/// So many further rings have nobody in them but those who have too few neighbours, and give half of them one more. They
/// have usually found each other by then; the last of them need somebody who has enough.
const RINGS_OF_NEEDY: u64 = 12;

/// A place whose inner links are cheap: nodes behind one switch. A digest of the site's configured name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site(u64);

impl Site {
    /// The site of that name; the empty name is a site like any other.
    pub fn named(name: &str) -> Self {
        Self(digest(name.as_bytes()))
    }
}

/// Who a member is, for the rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemberId(u64);

impl MemberId {
    /// One of our nodes.
    pub fn of_node(node: &NodeId) -> Self {
        Self(digest(&node.0))
    }

    /// A foreign client.
    pub fn of_client(addr: &SocketAddr) -> Self {
        let host = match addr.ip() {
            IpAddr::V4(ip) => digest(&ip.octets()),
            IpAddr::V6(ip) => digest(&ip.octets()),
        };
        Self(mix(host, u64::from(addr.port())))
    }
}

/// What a member is good for. In order: who is first taken as the end of a link between sites, and served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Has every piece.
    Whole,
    /// Fetches in seeder mode: is given a seeder before others are.
    Seeder,
    /// Fetches and uploads.
    Peer,
    /// Fetches and uploads nothing.
    Leecher,
    /// A foreign client with every piece.
    ForeignWhole,
    /// A foreign client.
    Foreign,
}

impl Part {
    fn gives(self) -> bool {
        matches!(self, Self::Whole | Self::Seeder | Self::Peer)
    }

    fn is_foreign(self) -> bool {
        matches!(self, Self::ForeignWhole | Self::Foreign)
    }
}

/// One member of the swarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub id: MemberId,
    /// Where; without meaning for foreign clients.
    pub site: Site,
    /// What it is good for.
    pub part: Part,
}

/// The links of one swarm, by the index of the member in the slice that was given. Always symmetric.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graph {
    links: Vec<Vec<u32>>,
}

impl Graph {
    fn new(members: usize) -> Self {
        Self { links: vec![Vec::new(); members] }
    }

    /// The neighbours of a member.
    pub fn of(&self, member: usize) -> &[u32] {
        &self.links[member]
    }

    fn degree(&self, member: u32) -> usize {
        self.links[member as usize].len()
    }

    /// Whether the link is new.
    fn link(&mut self, a: u32, b: u32) -> bool {
        let new = a != b && !self.links[a as usize].contains(&b);
        if new {
            self.links[a as usize].push(b);
            self.links[b as usize].push(a);
        }
        new
    }
}

/// Chooses the links of one swarm. Takes about `n log n` steps for `n` members.
pub fn choose(info_hash: &InfoHash, members: &[Member]) -> Graph {
    let mut choice = Choice { members, salt: digest(&info_hash.0), graph: Graph::new(members.len()) };
    let givers = choice.by_site(Part::gives);
    for (site, givers) in &givers {
        choice.mesh(*site, givers);
    }
    choice.join_sites(&givers);
    for givers in givers.values() {
        choice.spread_seeders(givers);
    }
    choice.serve_leechers(&givers);
    choice.serve_foreign();
    choice.graph
}

struct Choice<'a> {
    members: &'a [Member],
    salt: u64,
    graph: Graph,
}

impl Choice<'_> {
    fn part(&self, member: u32) -> Part {
        self.members[member as usize].part
    }

    fn which(&self, wanted: impl Fn(Part) -> bool) -> impl Iterator<Item = u32> {
        (0..).zip(self.members).filter(move |(_, m)| wanted(m.part)).map(|(index, _)| index)
    }

    fn by_site(&self, wanted: impl Fn(Part) -> bool) -> BTreeMap<Site, Vec<u32>> {
        let mut sites = BTreeMap::<Site, Vec<u32>>::new();
        for index in self.which(wanted) {
            sites.entry(self.members[index as usize].site).or_default().push(index);
        }
        sites
    }

    fn place(&self, salt: u64, member: u32) -> u64 {
        mix(salt, self.members[member as usize].id.0)
    }

    fn mesh(&mut self, site: Site, givers: &[u32]) {
        let ids: Vec<u64> = givers.iter().map(|g| self.members[*g as usize].id.0).collect();
        let links = regular(mix(self.salt, site.0), &ids);
        for (a, b) in links {
            self.graph.link(givers[a as usize], givers[b as usize]);
        }
    }

    /// Pairs of sites by the same rings (a hostile roster may have thousands of sites), then the ends of each pair.
    fn join_sites(&mut self, sites: &BTreeMap<Site, Vec<u32>>) {
        let ids: Vec<u64> = sites.keys().map(|s| s.0).collect();
        for (a, b) in regular(self.salt, &ids) {
            let (a, b) = (Site(ids[a.min(b) as usize]), Site(ids[a.max(b) as usize]));
            let salt = mix(mix(self.salt, a.0), b.0);
            let ends = [a, b].map(|site| self.best(salt, &sites[&site]));
            for n in 0..BRIDGES {
                self.graph.link(ends[0][n % ends[0].len()], ends[1][n % ends[1].len()]);
            }
        }
    }

    fn best(&self, salt: u64, givers: &[u32]) -> Vec<u32> {
        let mut ranked = givers.to_vec();
        ranked.sort_unstable_by_key(|g| (self.part(*g), self.place(salt, *g)));
        ranked.truncate(BRIDGES);
        ranked
    }

    fn spread_seeders(&mut self, givers: &[u32]) {
        let (seeders, others): (Vec<u32>, Vec<u32>) = givers.iter().partition(|g| self.part(**g) == Part::Whole);
        let missed = |g: &u32| self.graph.of(*g as usize).iter().all(|n| self.part(*n) != Part::Whole);
        let missed: Vec<u32> = others.into_iter().filter(missed).collect();
        self.attach(
            missed,
            &seeders,
            Terms { links: 1, tries: SEEDER_TRIES, load_max: DEGREE_MAX, degree_max: DEGREE_MAX },
        );
    }

    fn serve_leechers(&mut self, givers: &BTreeMap<Site, Vec<u32>>) {
        let anywhere: Vec<u32> = if givers.is_empty() {
            self.which(Part::is_foreign).collect()
        } else {
            givers.values().flatten().copied().collect()
        };
        for (site, leechers) in self.by_site(|part| part == Part::Leecher) {
            let pool = givers.get(&site).unwrap_or(&anywhere);
            self.attach(
                leechers,
                pool,
                Terms { links: LEECHER_LINKS, tries: pool.len(), load_max: CROWD_MAX, degree_max: CROWD_MAX },
            );
        }
    }

    fn serve_foreign(&mut self) {
        let foreign: Vec<u32> = self.which(Part::is_foreign).collect();
        let ours: Vec<u32> = self.which(|part| !part.is_foreign()).collect();
        self.attach(
            foreign,
            &ours,
            Terms { links: FOREIGN_LINKS, tries: ours.len(), load_max: FOREIGN_LINKS, degree_max: CROWD_MAX },
        );
    }

    /// Links each of `who` to the next of `pool` on a ring that still have room.
    fn attach(&mut self, mut who: Vec<u32>, pool: &[u32], terms: Terms) {
        if who.is_empty() || pool.is_empty() {
            return;
        }
        who.sort_unstable_by_key(|w| (self.part(*w), self.place(self.salt, *w)));
        let mut ring: Vec<(u64, u32)> = pool.iter().map(|p| (self.place(self.salt, *p), *p)).collect();
        ring.sort_unstable();
        // A power of two, so that the bound, and with it everybody's place, moves seldom.
        let even = (who.len() * terms.links * 5 / 4).div_ceil(ring.len()).next_power_of_two();
        let load_max = even.min(terms.load_max);
        let mut load = vec![0; ring.len()];
        for w in who {
            let start = ring.partition_point(|(place, _)| *place < self.place(self.salt, w));
            let mut missing = terms.links;
            for at in (start..ring.len()).chain(0..start).take(terms.tries) {
                let room = load[at] < load_max && self.graph.degree(ring[at].1) < terms.degree_max;
                if room && self.graph.link(ring[at].1, w) {
                    load[at] += 1;
                    missing -= 1;
                    if missing == 0 {
                        break;
                    }
                }
            }
        }
    }
}

/// What attaching gives and costs.
struct Terms {
    /// Links for each that is served.
    links: usize,
    /// How many servers are asked for them.
    tries: usize,
    /// Links that one server may take on here.
    load_max: usize,
    /// Links that one server may have in all.
    degree_max: usize,
}

/// A connected graph over `ids`, each with [`DEGREE_MIN`] to [`DEGREE_MAX`] links if there are so many others.
fn regular(salt: u64, ids: &[u64]) -> Vec<(u32, u32)> {
    let count = ids.len() as u32;
    if ids.len() <= ALL_PAIRS_MAX {
        return (0..count).flat_map(|a| (0..a).map(move |b| (b, a))).collect();
    }
    let base = DEGREE_MIN as u64 / 2;
    let mut graph = Graph::new(ids.len());
    let mut links = Vec::with_capacity(ids.len() * DEGREE_MIN);
    let mut order: Vec<(u64, u32)> = Vec::with_capacity(ids.len());
    for ring in 0..RINGS_MAX {
        // Decided before the ring is closed, so that one link does not decide the next and a change stays local.
        let needy: Vec<bool> = (0..count).map(|m| ring < base || graph.degree(m) < DEGREE_MIN).collect();
        if !needy.contains(&true) {
            break;
        }
        let salt = mix(salt, ring);
        order.clear();
        let only_needy = (base..base + RINGS_OF_NEEDY).contains(&ring);
        let members = (0..count).filter(|m| needy[*m as usize] || !only_needy);
        order.extend(members.map(|m| (mix(salt, ids[m as usize]), m)));
        order.sort_unstable();
        let successors = order.iter().cycle().skip(1);
        for (&(place, a), &(next, b)) in order.iter().zip(successors) {
            // One link for each of a pair, and chance says who are pairs, so that this stays local too.
            let pair = place % 2 == 0 && next % 2 == 1;
            let wanted = if only_needy { pair } else { needy[a as usize] || needy[b as usize] };
            let room = graph.degree(a) < DEGREE_MAX && graph.degree(b) < DEGREE_MAX;
            if wanted && room && graph.link(a, b) {
                links.push((a, b));
            }
        }
    }
    links
}

/// Scatters two words into one (the finaliser of SplitMix64).
fn mix(a: u64, b: u64) -> u64 {
    let mut word = a.rotate_left(23) ^ b.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

fn digest(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(bytes.len() as u64, |sum, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(sum, u64::from_le_bytes(word))
    })
}

#[cfg(test)]
mod tests;
