//! One roster, and what passes between that of a master and that of a follower.

use std::net::Ipv4Addr;

use super::*;
use crate::config::MEMBER_FORGET;

fn ms(n: u64) -> Time {
    Time(n * 1_000_000)
}

fn id(n: u8) -> NodeId {
    NodeId([n; 32])
}

fn member(n: u8, name: &str) -> Member {
    Member {
        id: id(n),
        name: name.to_owned(),
        addr: None,
        control_port: 6970,
        peer_port: 6881,
        http_port: 6969,
        weight: Weight::DEFAULT,
        site: String::new(),
        version: "0".to_owned(),
    }
}

fn said(roster: &mut Roster) -> Vec<Output> {
    std::iter::from_fn(|| roster.poll_output()).collect()
}

fn address(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, n))
}

fn greet(roster: &mut Roster, at: u64, member: Member) {
    let from = member.id;
    roster.handle_input(ms(at), Input::Up { node: from, addr: address(from.0[0]) });
    roster.handle_input(ms(at), Input::Hello { from, member, protocol: PROTOCOL_VERSION, beat: None });
}

fn epoch(term: u64, n: u8) -> Epoch {
    Epoch { term, node: id(n) }
}

/// Node 1 leads, nodes 2 to 4 have greeted it.
fn leader() -> Roster {
    let mut roster = Roster::new(ms(0), member(1, "pc01"), false);
    roster.handle_input(ms(0), Input::Leading { epoch: epoch(1, 1) });
    for n in 2..=4 {
        greet(&mut roster, 10, member(n, "pc"));
    }
    roster
}

fn delta(roster: &mut Roster, version: u64) -> RosterDelta {
    said(roster);
    roster.handle_input(ms(100), Input::Since { from: id(9), version });
    match said(roster).pop() {
        Some(Output::Send { message: Message::Roster(delta), .. }) => delta,
        other => panic!("no roster but {other:?}"),
    }
}

fn follower() -> Roster {
    let mut roster = Roster::new(ms(0), member(9, "pc09"), false);
    roster.handle_input(ms(0), Input::Following { epoch: epoch(1, 1) });
    roster
}

#[test]
fn a_follower_has_the_masters_roster_by_deltas() {
    let (mut leader, mut follower) = (leader(), follower());
    let full = delta(&mut leader, 0);
    follower.handle_input(ms(100), Input::Delta { from: id(1), delta: full });
    assert_eq!(follower.entries().count(), 5, "and itself, which has not greeted yet");
    greet(&mut leader, 110, member(5, "pc05"));
    greet(&mut leader, 110, member(9, "pc09"));
    let more = delta(&mut leader, follower.version());
    assert_eq!(more.changed.len(), 2);
    follower.handle_input(ms(120), Input::Delta { from: id(1), delta: more });
    assert!(follower.entries().eq(leader.entries()));
    assert_eq!((follower.version(), follower.succession()), (leader.version(), leader.succession()));
    assert_eq!(follower.address(&id(3)), Some(address(3)));
}

#[test]
fn deltas_of_other_masters_epochs_and_versions_are_ignored() {
    let (mut leader, mut follower) = (leader(), follower());
    let full = delta(&mut leader, 0);
    let wrong = [
        (id(2), full.clone()),
        (id(1), RosterDelta { epoch: epoch(2, 1), ..full.clone() }),
        (id(1), RosterDelta { from: 7, ..full }),
    ];
    for (from, delta) in wrong {
        follower.handle_input(ms(100), Input::Delta { from, delta });
        assert_eq!(follower.entries().count(), 1);
    }
}

#[test]
fn a_newer_version_in_a_heartbeat_is_asked_for_once_in_a_while() {
    let mut roster = follower();
    said(&mut roster);
    for at in [10, 110, 210] {
        roster.handle_input(ms(at), Input::Version(at));
        while roster.poll_timeout().is_some_and(|(due, _)| due <= ms(at)) {
            roster.handle_timeout(ms(at));
        }
    }
    assert_eq!(said(&mut roster), [Output::Send { to: id(1), message: Message::RosterSince(0) }]);
}

#[test]
fn a_master_that_is_connected_late_is_asked_at_once() {
    let mut roster = follower();
    roster.handle_input(ms(10), Input::Version(3));
    said(&mut roster);
    roster.handle_input(ms(20), Input::Up { node: id(1), addr: address(1) });
    let question = Output::Send { to: id(1), message: Message::RosterSince(0) };
    assert!(said(&mut roster).contains(&question));
}

#[test]
fn silent_members_are_away_then_forgotten_and_greetings_bring_them_back() {
    let mut roster = leader();
    said(&mut roster);
    roster.handle_input(ms(4000), Input::Heard(id(2)));
    let mut at = 0;
    while at < 6000 {
        at += 1000;
        roster.handle_timeout(ms(at));
    }
    let live: Vec<u8> = roster.entries().filter(|entry| entry.live).map(|entry| entry.member.id.0[0]).collect();
    assert_eq!(live, [1, 2]);
    assert!(said(&mut roster).contains(&Output::MemberDown(id(3))));
    greet(&mut roster, 6500, member(3, "pc"));
    assert!(said(&mut roster).contains(&Output::MemberUp(id(3))));
    let before = roster.version();
    roster.handle_timeout(Time(MEMBER_FORGET.as_nanos() as u64 + 60_000_000_000));
    roster.handle_timeout(Time(MEMBER_FORGET.as_nanos() as u64 + 70_000_000_000));
    assert_eq!(roster.entries().count(), 1);
    let gone = delta(&mut roster, before).gone;
    assert_eq!(gone, [id(4), id(2), id(3)], "in the order of forgetting");
}

#[test]
fn a_member_whose_connection_ended_is_away_soon() {
    let mut roster = leader();
    for second in 1..=20 {
        for n in 2..=4 {
            roster.handle_input(ms(1000 * second), Input::Heard(id(n)));
        }
        roster.handle_timeout(ms(1000 * second));
    }
    roster.handle_input(ms(20_000), Input::Down(id(2)));
    // Its goodbye, by way of others.
    roster.handle_input(ms(20_010), Input::Heard(id(2)));
    roster.handle_timeout(ms(21_000));
    assert_eq!(roster.member(&id(2)).map(|entry| entry.live), Some(false));
    assert_eq!(roster.member(&id(3)).map(|entry| entry.live), Some(true));
}

#[test]
fn a_new_master_counts_only_who_greeted_it() {
    let (mut leader, mut follower) = (leader(), follower());
    let full = delta(&mut leader, 0);
    follower.handle_input(ms(100), Input::Delta { from: id(1), delta: full });
    said(&mut follower);
    follower.handle_input(ms(200), Input::Leading { epoch: epoch(2, 9) });
    greet(&mut follower, 210, member(2, "pc"));
    let members = said(&mut follower).into_iter().rev().find_map(|output| match output {
        Output::Members(members) => Some(members.iter().map(|(node, _)| node.0[0]).collect::<Vec<_>>()),
        _ => None,
    });
    assert_eq!(members, Some(vec![2, 9]));
    assert_eq!(follower.entries().filter(|entry| entry.live).count(), 5, "but all are shown for a while");
}

#[test]
fn the_succession_is_by_weight_then_node_id_and_holds_five() {
    let mut roster = Roster::new(ms(0), member(1, "pc01"), false);
    roster.handle_input(ms(0), Input::Leading { epoch: epoch(1, 1) });
    for (n, weight) in [(9, 60), (8, 99), (7, 50), (6, 50), (5, 0), (4, 10), (3, 30), (2, 40)] {
        let weight = Weight::try_from(weight).unwrap();
        greet(&mut roster, 10, Member { weight, ..member(n, "pc") });
    }
    assert_eq!(roster.succession(), [8, 9, 6, 7, 2].map(id), "99 counts as 60 in a mesh without a key");
}

#[test]
fn two_nodes_of_one_name_are_told_apart() {
    let mut roster = Roster::new(ms(0), member(1, "pc"), false);
    roster.handle_input(ms(0), Input::Leading { epoch: epoch(1, 1) });
    for (n, name) in [(2, "pc"), (3, "pc-2"), (4, "pc"), (5, "lab")] {
        greet(&mut roster, 10, member(n, name));
    }
    let names: Vec<&str> = (1..=5).filter_map(|n| roster.name(&id(n))).collect();
    assert_eq!(names, ["pc", "pc-3", "pc-2", "pc-4", "lab"]);
}

#[test]
fn who_speaks_for_others_or_another_protocol_is_not_listed() {
    let mut roster = leader();
    said(&mut roster);
    let hello = |protocol| Input::Hello { from: id(7), member: member(8, "pc"), protocol, beat: None };
    roster.handle_input(ms(20), hello(PROTOCOL_VERSION));
    assert_eq!(said(&mut roster), []);
    roster.handle_input(ms(20), hello(99));
    let refusal = Message::Incompatible { protocol: PROTOCOL_VERSION };
    let told = Output::Send { to: id(7), message: refusal };
    assert_eq!(said(&mut roster), [Output::Incompatible { node: id(7), theirs: 99 }, told]);
    assert_eq!(roster.entries().count(), 4);
}

#[test]
fn the_address_is_what_the_connection_shows_except_among_nodes_of_one_machine() {
    let mut roster = leader();
    let lie = Member { addr: Some(address(99)), ..member(7, "pc") };
    greet(&mut roster, 20, lie);
    assert_eq!(roster.address(&id(7)), Some(address(7)));
    let loopback = |n| IpAddr::V4(Ipv4Addr::new(127, 0, 0, n));
    let bound = Member { addr: Some(loopback(8)), ..member(8, "pc") };
    roster.handle_input(ms(20), Input::Up { node: id(8), addr: loopback(1) });
    roster.handle_input(ms(20), Input::Hello { from: id(8), member: bound, protocol: PROTOCOL_VERSION, beat: None });
    assert_eq!(roster.address(&id(8)), Some(loopback(8)));
}

#[test]
fn the_loser_of_a_merge_hands_over_whom_the_winner_does_not_know() {
    let (mut winner, mut loser) = (leader(), follower());
    loser.handle_input(ms(100), Input::Leading { epoch: epoch(2, 9) });
    greet(&mut loser, 100, member(6, "pc06"));
    said(&mut loser);
    loser.handle_input(ms(200), Input::HandOver { to: id(1) });
    let Some(Output::Send { message: Message::Handover(entries), .. }) = loser.poll_output() else {
        panic!("nothing is handed over")
    };
    winner.handle_input(ms(210), Input::Handover(entries));
    assert!(winner.followers().any(|addr| addr.ip() == address(6)), "it gets heartbeats at once");
}

#[test]
fn a_full_roster_refuses_the_newest() {
    let row = |n: u32| {
        let id = NodeId([&n.to_be_bytes()[..], &[200; 28]].concat().try_into().unwrap());
        own_row(ms(0), &Member { id, ..member(7, "pc") })
    };
    let mut roster = leader();
    roster.table.replace((0..NODES_MAX as u32).map(row));
    assert!(!roster.table.put(row(1 << 20)));
    greet(&mut roster, 20, member(7, "pc07"));
    assert_eq!((roster.entries().count(), roster.member(&id(7))), (NODES_MAX, None));
    roster.table.get_mut(&row(5).entry.member.id).unwrap().entry.live = false;
    greet(&mut roster, 30, member(7, "pc07"));
    assert!(roster.member(&id(7)).is_some(), "in the place of one that is away");
}
