//! Behaviour of whole swarms, in virtual time.

use std::time::Duration;

use super::room::Room;
use super::*;
use crate::config::{HUGE_BLOCK_BYTES, LARGE_BLOCK_BYTES, PIECE_BYTES_MIN, RateLimit};
use crate::wire::control::Neighbour;
use crate::wire::pex::Pex;

const MIB: u64 = 1 << 20;
const GBIT: u64 = 118_000_000;
const IMAGE: u64 = 256 * MIB;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn forever() -> Option<SeedTime> {
    Some(SeedTime::Forever)
}

#[test]
fn ten_peers_finish_in_little_more_than_one_copy_takes() {
    let mut room = Room::new(IMAGE, MIB as u32);
    room.join(GBIT, Mode::Seeder, None, true);
    let begin = room.now;
    for _ in 0..10 {
        room.join(GBIT, Mode::Peer, forever(), false);
    }
    room.run_until(secs(60), "everybody complete", Room::all_complete);
    let limit = IMAGE as f64 / GBIT as f64;
    let ratio = room.now.since(begin).as_secs_f64() / limit;
    let copies = room.hosts[0].uploaded as f64 / IMAGE as f64;
    assert!(ratio < 1.5, "makespan is {ratio:.2} of the limit; the source sent {copies:.2} copies");
    assert!(copies < 1.5, "the source sent {copies:.2} copies; makespan {ratio:.2}");
    assert!(room.hosts.iter().all(|h| h.swarm.wasted() < IMAGE / 50), "little is sent in vain");
}

#[test]
fn huge_blocks_are_for_who_receives_very_fast() {
    for (rate, longest) in [(GBIT, LARGE_BLOCK_BYTES), (10 * GBIT, HUGE_BLOCK_BYTES)] {
        let mut room = Room::new(IMAGE, 4 * MIB as u32);
        room.join(rate, Mode::Seeder, None, true);
        let peer = room.join(rate, Mode::Peer, forever(), false);
        room.run_until(secs(60), "complete", |room| room.hosts[peer].swarm.is_complete());
        assert_eq!(room.hosts[peer].longest, longest, "at {rate} bytes a second");
    }
}

#[test]
fn a_leecher_uploads_nothing_while_it_downloads() {
    let mut room = Room::new(IMAGE, MIB as u32);
    room.join(GBIT, Mode::Seeder, None, true);
    let leechers: Vec<usize> = (0..3).map(|_| room.join(GBIT, Mode::Leecher, None, false)).collect();
    room.run_until(secs(60), "everybody complete", Room::all_complete);
    for l in leechers {
        assert_eq!(room.hosts[l].uploaded, 0);
        assert_eq!(room.state(l), TransferState::Idle);
    }
}

#[test]
fn a_seed_time_ends_and_an_idle_copy_is_woken_for_a_late_joiner() {
    let mut room = Room::new(IMAGE, MIB as u32);
    let source = room.join(GBIT, Mode::Seeder, None, true);
    let peer = room.join(GBIT, Mode::Peer, Some(SeedTime::For(secs(3))), false);
    room.run_until(secs(60), "complete", Room::all_complete);
    let complete = room.now;
    room.run_until(secs(10), "idle", |room| room.state(peer) == TransferState::Idle);
    let seeded = room.now.since(complete);
    assert!(seeded >= secs(3) && seeded < secs(3) + Duration::from_millis(200), "{seeded:?}");
    room.kill(source);
    room.run_for(secs(100));
    let late = room.join(GBIT, Mode::Peer, forever(), false);
    room.run_until(secs(60), "the late joiner is complete", |room| room.hosts[late].swarm.is_complete());
}

#[test]
fn an_image_added_here_is_still_served_after_five_minutes() {
    let mut room = Room::new(IMAGE, MIB as u32);
    room.join(GBIT, Mode::Seeder, None, true);
    room.run_for(secs(300));
    let late = room.join(GBIT, Mode::Peer, None, false);
    room.run_until(secs(30), "complete", |room| room.hosts[late].swarm.is_complete());
}

#[test]
fn a_killed_peer_costs_nobody_its_image() {
    let mut room = Room::new(IMAGE, MIB as u32);
    room.join(GBIT, Mode::Seeder, None, true);
    let peers: Vec<usize> = (0..4).map(|_| room.join(GBIT, Mode::Peer, forever(), false)).collect();
    room.run_until(secs(60), "half", |room| room.hosts[peers[0]].downloaded > IMAGE / 2);
    room.kill(peers[0]);
    room.run_until(secs(60), "the others complete", Room::all_complete);
    for p in &peers[1..] {
        assert!(room.hosts[*p].downloaded < IMAGE * 105 / 100, "{}", room.hosts[*p].downloaded);
    }
}

#[test]
fn when_the_only_source_dies_all_keep_what_they_have_and_finish_when_it_is_back() {
    let mut room = Room::new(IMAGE, MIB as u32);
    let source = room.join(GBIT, Mode::Seeder, None, true);
    let peers: Vec<usize> = (0..4).map(|_| room.join(GBIT, Mode::Peer, forever(), false)).collect();
    room.run_until(secs(60), "a third", |room| room.hosts[source].uploaded > IMAGE / 3);
    room.kill(source);
    room.run_until(secs(60), "all wait", |room| peers.iter().all(|p| room.state(*p) == TransferState::Waiting));
    room.run_for(secs(60));
    let missing: Vec<u32> = peers.iter().map(|p| room.hosts[*p].swarm.missing_pieces()).collect();
    assert!(missing.iter().all(|m| *m == missing[0] && *m > 0), "they agree on what nobody has: {missing:?}");
    room.join(GBIT, Mode::Seeder, None, true);
    room.run_until(secs(60), "everybody complete", Room::all_complete);
    for p in &peers {
        assert!(room.hosts[*p].downloaded < IMAGE * 105 / 100, "fetched twice: {}", room.hosts[*p].downloaded);
    }
}

#[test]
fn a_liar_is_found_and_refused_and_the_copy_is_good_all_the_same() {
    for foreign in [false, true] {
        let mut room = Room::new(IMAGE, MIB as u32);
        let honest = room.join(GBIT, Mode::Seeder, None, true);
        let liar = if foreign { room.join_foreign(GBIT) } else { room.join(GBIT, Mode::Seeder, None, true) };
        room.hosts[liar].liar = true;
        let peer = room.join(GBIT, Mode::Peer, forever(), false);
        room.run_until(secs(120), "complete", |room| room.hosts[peer].swarm.is_complete());
        assert!(room.hosts[liar].uploaded < IMAGE / 4, "the liar went on: {}", room.hosts[liar].uploaded);

        let (own, other) = (room.hosts[liar].me, PeerId(*b"-TR3000-another name"));
        assert!(room.refuses(peer, liar, own), "it comes again");
        assert!(room.refuses(peer, liar, other), "it comes again under another name");
        let neighbour = PeerId::of_node(&crate::id::NodeId([9; 32]));
        assert!(!room.refuses(peer, liar, neighbour), "a node of ours behind the same address");
        assert!(!room.refuses(peer, honest, other), "the same name elsewhere");
    }
}

#[test]
fn names_do_not_help_who_sends_bad_pieces() {
    let mut ledger = Ledger::default();
    let strike_out = |ledger: &mut Ledger, addr, id| {
        let sender = ledger.open(addr, id).unwrap();
        assert!(!ledger.strike(sender) && ledger.strike(sender));
        ledger.close(sender);
    };
    let ours = |n| PeerId::of_node(&crate::id::NodeId([n; 32]));
    strike_out(&mut ledger, addr(1), ours(1));
    assert!(ledger.is_refused(addr(1), ours(1)) && !ledger.is_refused(addr(1), ours(2)));
    strike_out(&mut ledger, addr(1), ours(2));
    assert!(ledger.is_refused(addr(1), ours(3)), "two of one address are enough");
    assert!(!ledger.is_refused(addr(2), ours(1)));
    // On this machine every client and every web server has the same address.
    let here = ([127, 0, 0, 1], 6881).into();
    for n in 1..=3 {
        strike_out(&mut ledger, here, PeerId([n; 20]));
        assert!(ledger.is_refused(here, PeerId([n; 20])) && !ledger.is_refused(here, PeerId([n + 1; 20])));
    }
}

#[test]
fn a_slow_node_delays_nobody_but_itself() {
    let mut room = Room::new(IMAGE, MIB as u32);
    room.join(GBIT, Mode::Seeder, None, true);
    let slow = room.join(GBIT / 10, Mode::Peer, forever(), false);
    let begin = room.now;
    let fast: Vec<usize> = (0..6).map(|_| room.join(GBIT, Mode::Peer, forever(), false)).collect();
    room.run_until(secs(90), "everybody complete", Room::all_complete);
    let limit = IMAGE as f64 / GBIT as f64;
    for f in fast {
        let at = room.hosts[f].complete_at.map_or(f64::MAX, |at| at.since(begin).as_secs_f64());
        assert!(at < limit * 1.6, "{:.2} of the limit", at / limit);
    }
    assert!(room.hosts[slow].swarm.is_complete());
}

/// A foreign seed that has served well and then keeps the last requests to itself: others are asked within seconds,
/// however slow it has become meanwhile by our count.
#[test]
fn a_foreign_seed_that_falls_silent_costs_a_few_seconds() {
    let mut room = Room::new(IMAGE, MIB as u32);
    let foreign = room.join_foreign(GBIT);
    let peer = room.join(GBIT, Mode::Peer, forever(), false);
    room.run_until(secs(60), "nearly all", |room| room.hosts[peer].downloaded > IMAGE * 9 / 10);
    room.hosts[foreign].silent = true;
    room.join(GBIT, Mode::Seeder, None, true);
    room.run_until(secs(5), "complete", |room| room.hosts[peer].swarm.is_complete());
}

#[test]
fn a_foreign_seed_is_asked_for_as_much_as_it_sends_in_a_second_and_for_less_than_it_offers() {
    let mut room = Room::new(IMAGE, MIB as u32);
    room.join_foreign(GBIT / 20);
    let peer = room.join(GBIT, Mode::Peer, forever(), false);
    room.run_until(secs(60), "some", |room| room.hosts[peer].downloaded > IMAGE / 4);
    let asked = room.hosts[peer].swarm.peers[0].asked_bytes;
    assert!((GBIT / 25..GBIT / 15).contains(&asked), "{asked} bytes are asked for");
    let mut room = Room::new(IMAGE, MIB as u32);
    room.join_foreign(GBIT);
    let peer = room.join(GBIT, Mode::Peer, forever(), false);
    let mut most = 0;
    room.run_until(secs(60), "complete", |room| {
        most = most.max(room.hosts[peer].swarm.peers.first().map_or(0, |p| p.asked.len()));
        room.hosts[peer].swarm.is_complete()
    });
    assert!(most < REQUESTS_PER_PEER_MAX, "all of {most} requests that it offers are used");
}

#[test]
fn a_mode_changed_in_mid_transfer_takes_effect_within_a_second_on_the_same_connections() {
    let mut room = Room::new(4 * IMAGE, MIB as u32);
    room.join(GBIT / 8, Mode::Seeder, None, true);
    let a = room.join(GBIT / 8, Mode::Peer, forever(), false);
    let b = room.join(GBIT / 8, Mode::Peer, forever(), false);
    room.run_until(secs(20), "both trade", |room| {
        room.hosts[a].uploaded > 10 * MIB && room.hosts[b].uploaded > 10 * MIB
    });
    room.tell(a, Input::Mode(Mode::Leecher, None));
    room.run_for(secs(1));
    let before = room.hosts[a].uploaded;
    let conns = room.hosts[a].swarm.peers.len();
    room.run_for(secs(5));
    assert_eq!((room.hosts[a].uploaded, room.hosts[a].swarm.peers.len()), (before, conns));
    room.tell(a, Input::Mode(Mode::Peer, None));
    room.run_for(secs(2));
    assert!(room.hosts[a].uploaded > before);
}

/// Said once for each change, and never of a whole copy: that is no partial one any more.
#[test]
fn a_change_of_mode_is_remembered_beside_a_partial_copy() {
    let mut room = Room::new(IMAGE, MIB as u32);
    let (whole, part) = (room.join(GBIT, Mode::Seeder, None, true), room.join(GBIT, Mode::Peer, None, false));
    let mut said = |host: usize, mode, seed_time| {
        room.hosts[host].swarm.handle_input(room.now, Input::Mode(mode, seed_time));
        let outputs = std::iter::from_fn(|| room.hosts[host].swarm.poll_output());
        let remember = outputs.filter_map(|output| match output {
            Output::Border(io::Output::Remember { mode, seed_time, .. }) => Some((mode, seed_time)),
            _ => None,
        });
        remember.collect::<Vec<_>>()
    };
    assert_eq!(said(part, Mode::Leecher, None), [(Mode::Leecher, None)]);
    assert_eq!(said(part, Mode::Leecher, forever()), [(Mode::Leecher, forever())]);
    assert_eq!(said(part, Mode::Leecher, forever()), []);
    assert_eq!(said(whole, Mode::Peer, None), []);
}

/// A person who says `mode x.img seeder 60` means from now on, however long the copy has been whole.
#[test]
fn a_seed_time_counts_from_when_it_was_said() {
    let mut alone = Alone::new(crate::testing::metainfo(MIB, 65_536), true);
    let left = |alone: &Alone| alone.0.seed_left(alone.1);
    assert_eq!((left(&alone), alone.0.state(alone.1)), (None, TransferState::Seeding));
    alone.1 = alone.1 + secs(600);
    alone.0.handle_input(alone.1, Input::Mode(Mode::Seeder, Some(SeedTime::For(secs(60)))));
    assert_eq!(left(&alone), Some(secs(60)));
    alone.0.handle_input(alone.1, Input::Master(true));
    assert_eq!((left(&alone), alone.0.seeds_as_master(alone.1)), (None, true), "its master serves it");
    alone.1 = alone.1 + secs(50);
    alone.0.handle_input(alone.1, Input::Master(false));
    assert_eq!((left(&alone), alone.0.seeds_as_master(alone.1)), (Some(secs(10)), false));
    alone.1 = alone.1 + secs(10);
    alone.0.handle_timeout(alone.1);
    assert_eq!(alone.0.state(alone.1), TransferState::Idle);
    assert_eq!(alone.0.rates(alone.1), (0, 0));
}

fn limits(upload: u64, download: u64) -> RateLimits {
    let limit = |n| RateLimit::try_from(n).unwrap();
    RateLimits { upload: limit(upload), download: limit(download) }
}

/// What a limit of `rate` lets pass in so many seconds: all of it, and a burst and a share at most beyond.
#[track_caller]
fn keeps(rate: u64, seconds: u64, bytes: u64, what: &str) {
    let (expected, beyond) = (rate * seconds, rate / 8 + 2 * (rate / 32).max(16 * 1024));
    let fits = (expected * 95 / 100..=expected + beyond).contains(&bytes);
    assert!(fits, "{what}: {bytes} bytes in {seconds} s with a limit of {rate} a second");
}

#[test]
fn a_limited_download_asks_for_no_more_than_its_rate_and_asks_everybody() {
    for rate in [64 * 1024, 3 * MIB, 20 * MIB] {
        let mut room = Room::new(IMAGE, MIB as u32);
        let sources: Vec<usize> = (0..3).map(|_| room.join(GBIT, Mode::Seeder, None, true)).collect();
        let foreign = room.join_foreign(GBIT);
        let peer = room.join(GBIT, Mode::Peer, forever(), false);
        room.limit(peer, limits(0, rate));
        room.run_for(secs(10));
        keeps(rate, 10, room.hosts[peer].asked, "asked");
        keeps(rate, 10, room.hosts[peer].downloaded, "came");
        assert_eq!(room.hosts[peer].swarm.wasted(), 0);
        for source in sources.into_iter().chain([foreign]) {
            let sent = room.hosts[source].uploaded;
            assert!(sent > rate * 10 / 4 / 2, "one of four sent {sent} bytes");
        }
    }
}

#[test]
fn a_limited_upload_sends_no_more_than_its_rate_to_all_together() {
    for rate in [64 * 1024, 3 * MIB, 20 * MIB] {
        let mut room = Room::new(IMAGE, MIB as u32);
        let source = room.join(GBIT, Mode::Seeder, None, true);
        room.limit(source, limits(rate, 0));
        let takers: Vec<usize> = (0..3).map(|_| room.join(GBIT, Mode::Leecher, forever(), false)).collect();
        room.run_for(secs(10));
        keeps(rate, 10, room.hosts[source].uploaded, "sent");
        for taker in takers {
            assert_eq!(room.hosts[taker].swarm.wasted(), 0);
        }
    }
}

#[test]
fn a_limit_changed_in_mid_transfer_holds_at_once() {
    let mut room = Room::new(8 * IMAGE, MIB as u32);
    let source = room.join(GBIT, Mode::Seeder, None, true);
    let peer = room.join(GBIT, Mode::Peer, forever(), false);
    room.run_until(secs(10), "some", |room| room.hosts[peer].downloaded > IMAGE / 4);
    let mut passed = |host: usize, of: fn(&room::Host) -> u64, limits: RateLimits| {
        room.limit(host, limits);
        let before = of(&room.hosts[host]);
        room.run_for(secs(2));
        of(&room.hosts[host]) - before
    };
    for rate in [3 * MIB, MIB, 10 * MIB] {
        keeps(rate, 2, passed(peer, |host| host.asked, limits(0, rate)), "asked");
    }
    assert!(passed(peer, |host| host.asked, limits(0, 0)) > GBIT, "without a limit as fast as the link");
    for rate in [3 * MIB, MIB, 10 * MIB] {
        keeps(rate, 2, passed(source, |host| host.uploaded, limits(rate, 0)), "sent");
    }
    assert!(passed(source, |host| host.uploaded, limits(0, 0)) > GBIT, "without a limit as fast as the link");
}

/// Our own limit is no fault of those whom we ask, nor of those who ask us.
#[test]
fn nobody_is_judged_by_our_own_limit() {
    let mut room = Room::new(IMAGE, MIB as u32);
    let source = room.join(GBIT, Mode::Seeder, None, true);
    let foreign = room.join_foreign(GBIT);
    let slow = room.join(GBIT, Mode::Peer, forever(), false);
    room.limit(slow, limits(16 * 1024, 16 * 1024));
    let fast = room.join(GBIT, Mode::Peer, forever(), false);
    for _ in 0..600 {
        room.run_for(Duration::from_millis(100));
        for host in [source, foreign, slow] {
            assert!(room.hosts[host].swarm.peers.iter().all(|p| !p.snubbed && !p.slow), "at {:?}", room.now);
        }
    }
    assert!(room.hosts[fast].swarm.is_complete());
    keeps(16 * 1024, 60, room.hosts[slow].downloaded, "came");
}

/// Only what comes counts in the end: what was asked of a peer that then leaves is made up for.
#[test]
fn what_was_asked_for_and_will_not_come_is_given_back() {
    let mut room = Room::new(IMAGE, MIB as u32);
    let source = room.join(GBIT, Mode::Seeder, None, true);
    let peer = room.join(GBIT, Mode::Peer, forever(), false);
    room.hosts[source].silent = true;
    room.limit(peer, limits(0, MIB));
    room.run_for(secs(1));
    let lost = room.hosts[peer].asked;
    assert!(lost > MIB / 2 && room.hosts[peer].downloaded == 0, "{lost} bytes are asked for");
    room.hosts[source].silent = false;
    for stopped in [true, false] {
        room.tell(source, Input::Stopped(stopped));
    }
    room.run_for(secs(10));
    keeps(MIB, 11, room.hosts[peer].downloaded, "came");
    keeps(MIB, 11, room.hosts[peer].asked - lost, "asked");
}

/// The pieces that a host has begun by now, of one other or of all.
fn begun(room: &Room, host: usize, of: Option<usize>) -> Vec<u32> {
    let of = |source: usize| of.is_none_or(|of| of == source);
    room.hosts[host].begun.iter().filter(|(source, _)| of(*source)).map(|(_, piece)| *piece).collect()
}

/// How often a piece is followed by one that lies before it in the file.
fn turns_back(pieces: &[u32]) -> usize {
    pieces.windows(2).filter(|pair| pair[1] < pair[0]).count()
}

/// In runs, each somewhere else, so that they send different pieces.
#[test]
fn whole_copies_go_through_the_file_for_a_room() {
    for copies in [1, 2] {
        let mut room = Room::new(IMAGE, MIB as u32);
        let sources: Vec<usize> = (0..copies).map(|_| room.join(GBIT / 8, Mode::Seeder, None, true)).collect();
        let takers: Vec<usize> = (0..6).map(|_| room.join(GBIT / 8, Mode::Peer, forever(), false)).collect();
        room.run_until(secs(60), "a quarter", |room| room.hosts[sources[0]].uploaded > IMAGE / 4);
        let mut sent: Vec<u32> = Vec::new();
        for source in &sources {
            for taker in &takers {
                let of_taker = begun(&room, *taker, Some(*source));
                assert!(turns_back(&of_taker) <= 3, "of {copies} whole copies: {of_taker:?}");
                sent.extend(of_taker);
            }
        }
        let all = sent.len();
        sent.sort_unstable();
        sent.dedup();
        assert!(all - sent.len() <= 4, "{copies} whole copies sent {} of {all} pieces twice", all - sent.len());
    }
}

/// Until the end game every piece is asked for once. Whole copies of ours suggest pieces and foreign ones do not.
#[test]
fn who_fetches_alone_goes_through_the_file_once_and_so_does_each_whole_copy() {
    for (ours, foreign) in [(1, 0), (0, 1), (3, 0), (2, 1)] {
        let mut room = Room::new(IMAGE, MIB as u32);
        let mut sources: Vec<usize> = (0..ours).map(|_| room.join(GBIT, Mode::Seeder, None, true)).collect();
        sources.extend((0..foreign).map(|_| room.join_foreign(GBIT)));
        let taker = room.join(GBIT, Mode::Peer, forever(), false);
        room.run_until(secs(60), "nearly all", |room| room.hosts[taker].downloaded > IMAGE * 9 / 10);
        let all = begun(&room, taker, None);
        assert_eq!(all, Vec::from_iter(0..all.len() as u32), "of {ours} of ours and {foreign} others");
        for source in &sources {
            let share = begun(&room, taker, Some(*source)).len();
            assert!(share > all.len() / sources.len() / 2, "{share} pieces of {} of one of {sources:?}", all.len());
        }
    }
}

#[test]
fn when_a_second_taker_comes_the_two_fetch_different_pieces_at_once() {
    let mut room = Room::new(IMAGE, MIB as u32);
    let source = room.join(GBIT / 4, Mode::Seeder, None, true);
    let first = room.join(GBIT / 4, Mode::Peer, forever(), false);
    room.run_until(secs(60), "a quarter", |room| room.hosts[first].downloaded > IMAGE / 4);
    assert!(begun(&room, first, None).is_sorted());
    let second = room.join(GBIT / 4, Mode::Peer, forever(), false);
    // Connections, and what was promised before.
    room.run_for(Duration::from_millis(200));
    let before = [first, second].map(|taker| begun(&room, taker, Some(source)).len());
    room.run_until(secs(60), "three quarters", |room| room.hosts[first].downloaded > IMAGE * 3 / 4);
    let [of_first, of_second] = [(first, before[0]), (second, before[1])]
        .map(|(taker, before)| begun(&room, taker, Some(source))[before..].to_vec());
    assert!(of_first.len() > 20 && of_second.len() > 20, "{of_first:?} {of_second:?}");
    // A run may be followed by one that lies before it.
    assert!(turns_back(&of_first) <= 3 && turns_back(&of_second) <= 3, "{of_first:?} {of_second:?}");
    let twice = of_second.iter().filter(|piece| of_first.contains(piece)).count();
    assert!(twice <= 2, "{twice} pieces of the same: {of_first:?} {of_second:?}");
    room.run_until(secs(60), "both complete", Room::all_complete);
    let copies = room.hosts[source].uploaded as f64 / IMAGE as f64;
    assert!(copies < 1.1, "the source sent {copies:.2} copies");
}

/// A whole copy promises as much as is asked at first, however short the pieces are.
#[test]
fn what_is_asked_at_first_goes_out_once() {
    for piece in [PIECE_BYTES_MIN, 64 * 1024, 1024 * 1024] {
        let mut room = Room::new(IMAGE, piece);
        let source = room.join(GBIT / 8, Mode::Seeder, None, true);
        let takers: Vec<usize> = (0..8).map(|_| room.join(GBIT / 8, Mode::Leecher, None, false)).collect();
        let at_first = 8 * MIB;
        room.run_until(secs(10), "what was asked at first came", |room| room.hosts[source].uploaded >= at_first);
        let sent: Vec<u32> = takers.iter().flat_map(|taker| begun(&room, *taker, Some(source))).collect();
        let distinct: std::collections::BTreeSet<u32> = sent.iter().copied().collect();
        assert_eq!(distinct.len(), sent.len(), "pieces of {piece} bytes");
    }
}

#[test]
fn many_that_begin_together_begin_with_different_pieces() {
    for (ours, foreign) in [(1, 0), (2, 0), (0, 1)] {
        let mut room = Room::new(IMAGE, MIB as u32);
        for n in 0..ours + foreign {
            if n < ours {
                room.join(GBIT, Mode::Seeder, None, true)
            } else {
                room.join_foreign(GBIT)
            };
        }
        let takers: Vec<usize> = (0..8).map(|_| room.join(GBIT, Mode::Peer, forever(), false)).collect();
        room.run_for(Duration::from_millis(5));
        let firsts: Vec<u32> = takers.iter().map(|taker| begun(&room, *taker, None)[0]).collect();
        let distinct: std::collections::BTreeSet<u32> = firsts.iter().copied().collect();
        assert!(distinct.len() >= takers.len() - 1, "of {ours} of ours and {foreign} others: {firsts:?}");
    }
}

#[test]
fn enough_ends_when_the_last_one_has_it() {
    let mut room = Room::new(IMAGE, MIB as u32);
    room.join(GBIT, Mode::Seeder, None, true);
    let enough = room.join(GBIT, Mode::Peer, Some(SeedTime::Enough), false);
    let slow = room.join(GBIT / 10, Mode::Peer, Some(SeedTime::Enough), false);
    room.run_until(secs(60), "the fast one is complete", |room| room.hosts[enough].swarm.is_complete());
    assert_eq!(room.state(enough), TransferState::Seeding);
    room.run_until(secs(120), "the slow one is complete", |room| room.hosts[slow].swarm.is_complete());
    room.run_for(secs(1));
    assert_eq!((room.state(enough), room.state(slow)), (TransferState::Idle, TransferState::Idle));
}

#[test]
fn a_disk_error_stops_the_transfer_with_its_reason() {
    let mut room = Room::new(IMAGE, MIB as u32);
    let host = room.join(GBIT, Mode::Peer, None, false);
    let error = DiskError::NoSpace { missing: 5, place: "/cache".to_owned() };
    room.tell(host, Input::Verified(room.hosts[host].swarm.geometry.piece(0).unwrap(), Err(error.clone())));
    assert_eq!(room.state(host), TransferState::Fetching, "nobody asked for that piece");
    room.tell(host, Input::ReadFailed(error.clone()));
    assert_eq!((room.state(host), room.hosts[host].swarm.error()), (TransferState::Failed, Some(&error)));
}

#[test]
fn the_master_serves_those_in_mode_seeder_first() {
    let mut room = Room::new(IMAGE, MIB as u32);
    let master = room.join(GBIT / 8, Mode::Seeder, None, true);
    room.tell(master, Input::Master(true));
    let peers: Vec<usize> = (0..4).map(|_| room.join(GBIT / 8, Mode::Leecher, None, false)).collect();
    let seeder = room.join(GBIT / 8, Mode::Seeder, None, false);
    room.run_until(secs(60), "the seeder is complete", |room| room.hosts[seeder].swarm.is_complete());
    let first = room.hosts[master].swarm.sources().map(|(_, id, _, up)| (up, id)).max().map(|(_, id)| id);
    assert_eq!(first, Some(room.hosts[seeder].swarm.me), "it got the most from the master");
    assert!(peers.iter().all(|p| !room.hosts[*p].swarm.is_complete()));
}

/// It gets more while it has less, but the first goes on.
#[test]
fn a_second_taker_catches_up_with_the_first() {
    let mut room = Room::new(IMAGE, MIB as u32);
    room.join(GBIT / 20, Mode::Seeder, None, true);
    let first = room.join(GBIT / 20, Mode::Leecher, None, false);
    room.run_until(secs(60), "a tenth", |room| room.hosts[first].downloaded > IMAGE / 10);
    let second = room.join(GBIT / 20, Mode::Leecher, None, false);
    let before = room.hosts[first].downloaded;
    room.run_for(secs(10));
    let shares = [room.hosts[first].downloaded - before, room.hosts[second].downloaded].map(|b| b as f64 / MIB as f64);
    assert!(shares[1] > 1.5 * shares[0] && shares[0] > 0.15 * shares[1], "{shares:.1?} MiB");
    room.run_until(secs(60), "half", |room| room.hosts[first].downloaded > IMAGE / 2);
    let have = [first, second].map(|host| room.hosts[host].downloaded as f64 / MIB as f64);
    assert!((have[0] - have[1]).abs() < IMAGE as f64 / MIB as f64 / 16.0, "{have:.1?} MiB");
}

/// One swarm with its file open, and whom it dials.
struct Alone(Swarm, Time);

impl Alone {
    fn new(metainfo: Arc<Metainfo>, whole: bool) -> Self {
        let pieces = metainfo.geometry().pieces();
        Self::with(metainfo, if whole { Bitfield::full(pieces) } else { Bitfield::empty(pieces) })
    }

    fn with(metainfo: Arc<Metainfo>, here: Bitfield) -> Self {
        let start = Start {
            image: ImageIndex(0),
            name: "a.img".to_owned(),
            metainfo,
            me: PeerId(*b"-LM0100-abcdefghijkl"),
            peer_port: 6881,
            mode: Mode::Seeder,
            seed_time: None,
            complete: here.is_full(),
            stopped: false,
            master: false,
            buffer_bytes: 64 << 20,
            limits: RateLimits::default(),
            block_bytes: HUGE_BLOCK_BYTES,
            exchange: true,
            transient: false,
            seed: 1,
        };
        let mut alone = Self(Swarm::new(Time(0), start), Time(0));
        alone.dials(Input::Opened(Ok(here)));
        alone
    }

    fn dials(&mut self, input: Input) -> Vec<SocketAddr> {
        self.0.handle_input(self.1, input);
        self.dialled()
    }

    /// Whom it dials until then if nothing happens.
    fn dials_until(&mut self, end: Time) -> Vec<SocketAddr> {
        let mut dialled = Vec::new();
        while let Some(at) = self.0.poll_timeout().map(|(at, _)| at).filter(|at| *at <= end) {
            self.1 = self.1.max(at);
            self.0.handle_timeout(self.1);
            dialled.extend(self.dialled());
        }
        self.1 = end;
        dialled
    }

    fn dialled(&mut self) -> Vec<SocketAddr> {
        let dial = |output| match output {
            Output::Border(io::Output::DialPeer { addr, .. }) => Some(addr),
            _ => None,
        };
        std::iter::from_fn(|| self.0.poll_output()).filter_map(dial).collect()
    }

    /// A node of ours at .1 and a client at .2, both whole.
    fn neighbours(&self) -> Input {
        let neighbour = |n, node| Neighbour { node, addr: addr(n), complete: true };
        let neighbours = vec![neighbour(1, Some(crate::id::NodeId([1; 32]))), neighbour(2, None)];
        let info_hash = self.0.info_hash();
        Input::Neighbours(Neighbours { info_hash, neighbours, complete: 2, incomplete: 1, stay: false })
    }
}

fn addr(n: u8) -> SocketAddr {
    ([10, 0, 0, n], 6881).into()
}

#[test]
fn a_whole_copy_dials_strangers_and_waits_for_everybody_else() {
    let metainfo = crate::testing::metainfo(MIB, 65_536);
    let mut whole = Alone::new(Arc::clone(&metainfo), true);
    let neighbours = whole.neighbours();
    assert!(whole.dials(neighbours).is_empty());
    assert_eq!(whole.dials(Input::Strangers(vec![addr(3), addr(4)])), [addr(3), addr(4)]);
    assert_eq!(whole.dials(Input::Stranger(addr(5))), [addr(5)]);
    assert!(whole.dials(Input::Stranger(addr(3))).is_empty(), "known already");
    let mut fetching = Alone::new(metainfo, false);
    let neighbours = fetching.neighbours();
    assert_eq!(fetching.dials(neighbours), [addr(1), addr(2)]);
    assert_eq!(fetching.dials(Input::Strangers(vec![addr(2), addr(3)])), [addr(3)]);
}

#[test]
fn of_a_private_torrent_only_nodes_and_peers_of_its_own_tracker_are_dialled() {
    let mut info = crate::testing::metainfo(MIB, 65_536).info_bytes().to_vec();
    info.pop();
    info.extend_from_slice(b"7:privatei1ee");
    let mut fetching = Alone::new(Arc::new(Metainfo::from_info(info).unwrap()), false);
    let neighbours = fetching.neighbours();
    assert_eq!(fetching.dials(neighbours), [addr(1)]);
    assert_eq!(fetching.dials(Input::Strangers(vec![addr(3)])), [addr(3)]);
    assert!(fetching.dials(Input::Stranger(addr(4))).is_empty());
}

/// Two whole copies have nothing to do with each other: the next look is when the stranger may miss pieces again.
#[test]
fn a_stranger_of_no_use_does_not_keep_a_whole_copy_awake() {
    let mut whole = Alone::new(crate::testing::metainfo(MIB, 65_536), true);
    assert_eq!(whole.dials(Input::Stranger(addr(3))), [addr(3)]);
    let handshake = Handshake { info_hash: whole.0.info_hash(), peer_id: PeerId([9; 20]), fast: true, extended: true };
    let conn = ConnId(0);
    whole.dials(Input::PeerUp { conn, addr: addr(3), handshake, outgoing: true });
    whole.dials(Input::Peer(conn, Message::HaveAll));
    let neighbours = whole.neighbours();
    whole.dials(neighbours);
    let mut looks = 0;
    while let Some((at, why)) = whole.0.poll_timeout().filter(|(at, _)| *at < Time(0) + secs(60)) {
        looks += u32::from(why == "swarm review");
        whole.0.handle_timeout(at);
    }
    assert!(looks <= 2, "{looks} looks in a minute");
}

/// Of each piece there come to be two who have it: half of the requests wait at the second, though all were made to the
/// first.
#[test]
fn a_request_changes_over_to_who_gets_the_piece_too() {
    let mut alone = Alone::new(crate::testing::metainfo(8 * MIB, 32_768), false);
    let info_hash = alone.0.info_hash();
    let mut says = |input| -> Vec<(ConnId, Message)> {
        alone.0.handle_input(alone.1, input);
        let told = |output| match output {
            Output::Border(io::Output::Peer { conn, message }) => Some((conn, message)),
            _ => None,
        };
        std::iter::from_fn(|| alone.0.poll_output()).filter_map(told).collect()
    };
    let mut comes = |n: u8, has| -> Vec<Range> {
        let peer_id = PeerId::of_node(&crate::id::NodeId([n; 32]));
        let (conn, handshake) = (ConnId(n.into()), Handshake { info_hash, peer_id, fast: true, extended: true });
        says(Input::PeerUp { conn, addr: addr(n), handshake, outgoing: true });
        let extended = Extended { block: Some(LARGE_BLOCK_BYTES), ..Extended::default() };
        let messages = [has, Message::Extended(extended), Message::Unchoke];
        let told = messages.into_iter().flat_map(|message| says(Input::Peer(conn, message)));
        let requests = told.filter_map(|(_, message)| match message {
            Message::Request(range) => Some(range),
            _ => None,
        });
        requests.collect()
    };
    let asked = comes(1, Message::HaveAll);
    assert_eq!(asked.len(), 32, "a pipeline of a megabyte");
    let mut stay = Vec::new();
    let mut move_over = Vec::new();
    for (n, range) in (2..).zip(asked) {
        assert!(comes(n, Message::HaveNone).is_empty());
        stay.push((ConnId(n.into()), range));
    }
    for (conn, range) in std::mem::take(&mut stay) {
        let told = says(Input::Peer(conn, Message::Have(range.piece)));
        assert!(
            told.iter().all(|(_, message)| !matches!(message, Message::Request(_))),
            "one at a time is asked for it"
        );
        let moves = told.contains(&(ConnId(1), Message::Cancel(range)));
        if moves { &mut move_over } else { &mut stay }.push((conn, range));
    }
    assert!((8..=24).contains(&move_over.len()), "{} of 32 leave the line of the first", move_over.len());
    // Who says it again and again does not get more for it.
    for (conn, range) in stay.iter().cycle().take(1000) {
        assert!(says(Input::Peer(*conn, Message::Have(range.piece))).is_empty());
    }
    for (conn, range) in move_over {
        let told = says(Input::Peer(ConnId(1), Message::Reject(range)));
        let of_it: Vec<_> = told.into_iter().filter(|(to, _)| *to == conn).map(|(_, message)| message).collect();
        assert_eq!(of_it, [Message::Request(range)]);
    }
}

/// Six blocks go out at once; of those who wait, who wants what nobody else has is next.
#[test]
fn what_nobody_else_has_is_sent_first_and_once() {
    let metainfo = crate::testing::metainfo(8 * MIB, LARGE_BLOCK_BYTES);
    let piece = |n| metainfo.geometry().piece(n).unwrap();
    let mut here = Bitfield::empty(metainfo.geometry().pieces());
    let (common, lone) = (piece(0), piece(1));
    here.set(common);
    here.set(lone);
    let mut alone = Alone::with(Arc::clone(&metainfo), here);
    let info_hash = alone.0.info_hash();
    let mut says = |input| -> Vec<(u32, u32)> {
        alone.0.handle_input(alone.1, input);
        let sends = |output| match output {
            Output::Border(io::Output::SendBlock { conn, block, .. }) => Some((conn.0, block.piece.get())),
            _ => None,
        };
        std::iter::from_fn(|| alone.0.poll_output()).filter_map(sends).collect()
    };
    for n in 1..=9 {
        let peer_id = PeerId::of_node(&crate::id::NodeId([n; 32]));
        let (conn, handshake) = (ConnId(n.into()), Handshake { info_hash, peer_id, fast: true, extended: true });
        says(Input::PeerUp { conn, addr: addr(n), handshake, outgoing: true });
        says(Input::Peer(conn, Message::HaveNone));
        says(Input::Peer(conn, Message::Interested));
    }
    says(Input::Peer(ConnId(9), Message::Have(common.get())));
    let mut asks = |n, piece: PieceIndex| {
        let range = Range { piece: piece.get(), offset: 0, len: LARGE_BLOCK_BYTES };
        says(Input::Peer(ConnId(n), Message::Request(range)))
    };
    let sent: Vec<_> = (1..=6).flat_map(|n| asks(n, common)).collect();
    assert_eq!(sent, [(1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0)], "six at once");
    assert!(asks(7, common).is_empty() && asks(8, lone).is_empty() && asks(9, lone).is_empty());
    let mut has_sent = |n| says(Input::Sent(ConnId(n), metainfo.geometry().block(0, 0, LARGE_BLOCK_BYTES).unwrap()));
    assert_eq!(has_sent(1), [(8, 1)], "nobody has it");
    assert_eq!(has_sent(2), [(7, 0)], "now it is on its way, and the others have their turns");
    assert_eq!(has_sent(3), [(9, 1)]);
}

/// A piece of the 32 is a round of turns.
#[test]
fn who_lags_behind_is_served_before_those_that_waited_longer() {
    let metainfo = crate::testing::metainfo(8 * MIB, LARGE_BLOCK_BYTES);
    let mut whole = Alone::new(Arc::clone(&metainfo), true);
    let info_hash = whole.0.info_hash();
    let mut says = |input| -> Vec<(u32, u32)> {
        whole.0.handle_input(whole.1, input);
        let sends = |output| match output {
            Output::Border(io::Output::SendBlock { conn, block, .. }) => Some((conn.0, block.piece.get())),
            _ => None,
        };
        std::iter::from_fn(|| whole.0.poll_output()).filter_map(sends).collect()
    };
    // The tenth is not ours, and what it says of itself moves nobody.
    for (n, count) in [(10, 31)].into_iter().chain((1..=6).map(|n| (n, 5))).chain([(7, 9), (8, 8), (9, 6)]) {
        let mut has = Bitfield::empty(metainfo.geometry().pieces());
        for piece in metainfo.geometry().all().take(count) {
            has.set(piece);
        }
        let peer_id = if n == 10 { PeerId([n; 20]) } else { PeerId::of_node(&crate::id::NodeId([n; 32])) };
        let (conn, handshake) = (ConnId(n.into()), Handshake { info_hash, peer_id, fast: true, extended: true });
        says(Input::PeerUp { conn, addr: addr(n), handshake, outgoing: true });
        says(Input::Peer(conn, Message::Bitfield(has.as_bytes().to_vec())));
        says(Input::Peer(conn, Message::Interested));
    }
    // Others are known to have it: it is no first.
    let mut asks = |n| {
        let range = Range { piece: 4, offset: 0, len: LARGE_BLOCK_BYTES };
        says(Input::Peer(ConnId(n), Message::Request(range)))
    };
    let sent: Vec<_> = (1..=6).flat_map(&mut asks).collect();
    assert_eq!(sent.len(), 6, "six at once");
    assert!((7..=9).all(|n| asks(n).is_empty()));
    let mut has_sent = |n| says(Input::Sent(ConnId(n), metainfo.geometry().block(4, 0, LARGE_BLOCK_BYTES).unwrap()));
    assert_eq!([has_sent(1), has_sent(2), has_sent(3)].concat(), [(9, 4), (8, 4), (7, 4)]);
}

/// In the middle of an image, of pieces of 64 KiB, sixteen are told of together. What nobody else has is told at once,
/// and everything at the next review.
#[test]
fn common_pieces_are_told_of_together_and_others_at_once() {
    const PIECE: u32 = 65_536;
    let metainfo = crate::testing::metainfo(8 * MIB, PIECE);
    let pieces = metainfo.geometry().pieces();
    let of_first = |n: usize| {
        let mut set = Bitfield::empty(pieces);
        for piece in metainfo.geometry().all().take(n) {
            set.set(piece);
        }
        set
    };
    let mut alone = Alone::with(Arc::clone(&metainfo), of_first(8));
    let (info_hash, mut asked) = (alone.0.info_hash(), VecDeque::new());
    // What it tells of and whom, and what it asks for.
    let tells = |swarm: &mut Swarm, asked: &mut VecDeque<Range>| {
        let mut told: Vec<(u32, Vec<u32>)> = Vec::new();
        while let Some(output) = swarm.poll_output() {
            match output {
                Output::Border(io::Output::Have { piece, to, .. }) => {
                    told.push((piece.get(), to.iter().map(|conn| conn.0).collect()));
                }
                Output::Border(io::Output::Peer { message: Message::Request(range), .. }) => asked.push_back(range),
                _ => {}
            }
        }
        told
    };
    let whole_suggests = [Message::HaveAll, Message::Suggest(8), Message::Suggest(9), Message::Unchoke];
    let has_many = [Message::Bitfield(of_first(48).as_bytes().to_vec())];
    for (n, messages) in [(3, &has_many[..]), (2, &[Message::HaveNone]), (1, &whole_suggests)] {
        let peer_id = PeerId::of_node(&crate::id::NodeId([n; 32]));
        let (conn, handshake) = (ConnId(n.into()), Handshake { info_hash, peer_id, fast: true, extended: true });
        alone.0.handle_input(Time(0), Input::PeerUp { conn, addr: addr(n), handshake, outgoing: true });
        let extended = Message::Extended(Extended { block: Some(PIECE), ..Extended::default() });
        for message in [extended].iter().chain(messages) {
            alone.0.handle_input(Time(0), Input::Peer(conn, message.clone()));
        }
    }
    tells(&mut alone.0, &mut asked);
    let mut comes = |swarm: &mut Swarm| {
        let range = asked.pop_front().expect("it asks for more");
        let piece = metainfo.geometry().piece(range.piece).unwrap();
        swarm.handle_input(Time(0), Input::Block(ConnId(1), range));
        swarm.handle_input(Time(0), Input::Verified(piece, Ok(true)));
        (range.piece, tells(swarm, &mut asked))
    };
    let swarm = &mut alone.0;
    assert_eq!((comes(swarm), comes(swarm)), ((8, vec![]), (9, vec![])));
    let (rare, told) = comes(swarm);
    assert!(rare >= 48, "the rarest is asked for first");
    // Peer 3 had the two before, and whole copies want to know in any case.
    assert_eq!(told, [(8, vec![2, 1]), (9, vec![2, 1]), (rare, vec![3, 2, 1])]);
    for _ in 48..pieces - 1 {
        let (rare, told) = comes(swarm);
        assert_eq!(told, [(rare, vec![3, 2, 1])]);
    }
    let mut untold = Vec::new();
    for _ in 0..15 {
        let (common, told) = comes(swarm);
        assert_eq!(told, []);
        untold.push((common, vec![2, 1]));
    }
    // Meanwhile another gets one of them.
    swarm.handle_input(Time(0), Input::Peer(ConnId(2), Message::Have(untold[3].0)));
    untold[3].1 = vec![1];
    let (common, told) = comes(swarm);
    untold.push((common, vec![2, 1]));
    assert_eq!(told, untold);
    let (common, told) = comes(swarm);
    assert_eq!(told, []);
    swarm.handle_timeout(Time(0) + REVIEW);
    assert_eq!(tells(swarm, &mut VecDeque::new()), [(common, vec![2, 1])]);
}

/// A swarm with connections to clients, and what it tells them of others.
struct Exchanging {
    alone: Alone,
    now: Time,
}

impl Exchanging {
    fn new(metainfo: Arc<Metainfo>, whole: bool) -> Self {
        Self { alone: Alone::new(metainfo, whole), now: Time(0) }
    }

    /// A client at `.n` dials us and says that it wants the exchange, and where it listens.
    fn comes(&mut self, n: u8, peer_id: PeerId) {
        let handshake = Handshake { info_hash: self.alone.0.info_hash(), peer_id, fast: true, extended: true };
        let (conn, from) = (ConnId(u32::from(n)), ([10, 0, 0, n], 40_000).into());
        self.says(Input::PeerUp { conn, addr: from, handshake, outgoing: false });
        let extended = Extended { pex: Some(100 + n), port: Some(6881), ..Extended::default() };
        self.says(Input::Peer(conn, Message::Extended(extended)));
    }

    /// A client that is not ours.
    fn stranger(&mut self, n: u8) {
        self.comes(n, PeerId([n; 20]));
    }

    fn tells(&mut self, n: u8, added: &[(u8, u8)]) -> Vec<SocketAddr> {
        let added = added.iter().map(|(n, flags)| (addr(*n), *flags)).collect();
        self.says(Input::Peer(ConnId(u32::from(n)), Message::Pex(Extended::PEX, Pex { added, dropped: Vec::new() })))
    }

    /// Whom it dials.
    fn says(&mut self, input: Input) -> Vec<SocketAddr> {
        self.alone.0.handle_input(self.now, input);
        std::iter::from_fn(|| self.alone.0.poll_output())
            .filter_map(|output| match output {
                Output::Border(io::Output::DialPeer { addr, .. }) => Some(addr),
                _ => None,
            })
            .collect()
    }

    /// What is told in the time that passes: to whom, under which id, and who came and went.
    fn told(&mut self, time: Duration) -> Vec<(u32, u8, Vec<u8>, Vec<u8>)> {
        let (end, mut told) = (self.now + time, Vec::new());
        while let Some((at, _)) = self.alone.0.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            self.alone.0.handle_timeout(self.now);
            while let Some(output) = self.alone.0.poll_output() {
                if let Output::Border(io::Output::Peer { conn, message: Message::Pex(id, pex) }) = output {
                    let last = |addr: &SocketAddr| match addr.ip() {
                        std::net::IpAddr::V4(ip) => ip.octets()[3],
                        std::net::IpAddr::V6(_) => 0,
                    };
                    let added = pex.added.iter().map(|(addr, _)| last(addr)).collect();
                    told.push((conn.0, id, added, pex.dropped.iter().map(last).collect()));
                }
            }
        }
        self.now = end;
        told
    }
}

#[test]
fn clients_are_told_of_each_other_once_a_minute_and_our_own_nodes_never() {
    let mut swarm = Exchanging::new(crate::testing::metainfo(MIB, 65_536), false);
    swarm.stranger(1);
    assert_eq!(swarm.told(secs(100)), [], "of nobody there is nothing to tell");
    swarm.stranger(2);
    swarm.comes(3, PeerId::of_node(&crate::id::NodeId([3; 32])));
    let mut told = swarm.told(secs(2));
    told.sort();
    assert_eq!(told, [(1, 101, vec![2, 3], vec![]), (2, 102, vec![1, 3], vec![])]);
    swarm.stranger(4);
    swarm.says(Input::PeerDown(ConnId(2)));
    assert_eq!(swarm.told(secs(50)), [(4, 104, vec![1, 3], vec![])]);
    assert_eq!(swarm.told(secs(10)), [(1, 101, vec![4], vec![2])]);
    assert_eq!(swarm.told(secs(300)), []);
}

#[test]
fn what_a_client_tells_is_dialled_once_a_minute_and_never_for_a_private_torrent() {
    let metainfo = crate::testing::metainfo(MIB, 65_536);
    let mut fetching = Exchanging::new(Arc::clone(&metainfo), false);
    fetching.stranger(1);
    assert_eq!(fetching.tells(1, &[(8, 0), (9, crate::wire::pex::SEED), (1, 0)]), [addr(8), addr(9)]);
    assert_eq!(fetching.tells(1, &[(10, 0)]), [], "too soon");
    fetching.told(secs(60));
    assert_eq!(fetching.tells(1, &[(10, 0)]), [addr(10)]);
    fetching.comes(2, PeerId::of_node(&crate::id::NodeId([2; 32])));
    assert_eq!(fetching.tells(2, &[(11, 0)]), [], "our own nodes do not exchange");

    let mut whole = Exchanging::new(metainfo, true);
    whole.stranger(1);
    assert_eq!(whole.tells(1, &[(8, 0), (9, crate::wire::pex::SEED)]), [addr(8)], "a seed is of no use to a seed");

    let mut info = crate::testing::metainfo(MIB, 65_536).info_bytes().to_vec();
    info.pop();
    info.extend_from_slice(b"7:privatei1ee");
    let mut private = Exchanging::new(Arc::new(Metainfo::from_info(info).unwrap()), false);
    private.stranger(1);
    private.stranger(2);
    assert_eq!((private.tells(1, &[(8, 0)]), private.told(secs(100))), (vec![], vec![]));
}

/// Alone is who is connected with nobody who misses pieces, and hears of nobody from the tracker.
#[test]
fn the_first_pieces_are_begun_by_who_is_alone_as_far_as_it_knows() {
    let alone = |others_missing: u32, stranger: Option<Message>| {
        let mut fetching = Exchanging::new(crate::testing::metainfo(64 * MIB, 65_536), false);
        let info_hash = fetching.alone.0.info_hash();
        let incomplete = 1 + others_missing;
        let neighbours = Neighbours { info_hash, neighbours: Vec::new(), complete: 1, incomplete, stay: false };
        fetching.says(Input::Neighbours(neighbours));
        if let Some(has) = stranger {
            fetching.stranger(1);
            fetching.says(Input::Peer(ConnId(1), has));
        }
        fetching.stranger(2);
        fetching.says(Input::Peer(ConnId(2), Message::HaveAll));
        fetching.says(Input::Peer(ConnId(2), Message::Unchoke));
        let begun: Vec<u32> = fetching.alone.0.pieces.partials().iter().map(|partial| partial.piece.get()).collect();
        assert!(begun.len() > 4);
        begun == Vec::from_iter(0..begun.len() as u32)
    };
    assert!(alone(0, None) && alone(0, Some(Message::HaveAll)));
    assert!(!alone(1, None), "the tracker knows of another");
    assert!(!alone(0, Some(Message::HaveNone)), "a client that the tracker does not know");
    assert!(!alone(0, Some(Message::Have(1023))), "one with its last piece");
}

#[test]
fn a_web_server_is_dialled_only_for_what_no_peer_has() {
    let metainfo = crate::testing::metainfo(MIB, 65_536);
    let mut fetching = Alone::new(Arc::clone(&metainfo), false);
    assert!(fetching.dials(Input::WebSeed(addr(9))).is_empty(), "peers come first");
    assert_eq!(fetching.dials_until(Time(5_000_000_000)), [addr(9)]);
    let mut served = Alone::new(metainfo, false);
    served.dials(Input::Strangers(vec![addr(1)]));
    let handshake = Handshake { info_hash: served.0.info_hash(), peer_id: PeerId([1; 20]), fast: true, extended: true };
    served.dials(Input::PeerUp { conn: ConnId(0), addr: addr(1), handshake, outgoing: true });
    served.dials(Input::Peer(ConnId(0), Message::HaveAll));
    served.dials(Input::WebSeed(addr(9)));
    assert!(served.dials_until(Time(5_000_000_000)).is_empty());
    served.dials(Input::PeerDown(ConnId(0)));
    assert!(served.dials_until(Time(6_000_000_000)).contains(&addr(9)));
}
