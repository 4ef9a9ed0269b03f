//! One machine at a time: each rule, and each case that a naive rule gets wrong. Whole dialogues are in
//! `tests/traces/election`.

use super::*;
use crate::config::{OBJECTION, RANK_STEP};

const ME: NodeId = NodeId([5; 32]);
const A: NodeId = NodeId([1; 32]);
const B: NodeId = NodeId([9; 32]);

fn ms(n: u64) -> Time {
    Time(n * 1_000_000)
}

fn weight(n: u8) -> Weight {
    Weight::try_from(n).unwrap()
}

fn beat(node: NodeId, term: u64, seq: u64, members: u32) -> Beat {
    Beat { epoch: Epoch { term, node }, seq, members, ..Beat::silent(node) }
}

/// A node whose disk knows the master A of that term.
fn starting(term: u64) -> Election {
    let on_disk = Epoch { term, node: if term > 0 { A } else { NodeId::default() } };
    Election::new(ms(0), ME, Weight::DEFAULT, false, 6970, on_disk, 1)
}

fn hear(election: &mut Election, at: u64, beat: Beat, direct: bool) {
    election.handle_input(ms(at), Input::Beat { beat, direct });
}

fn said(election: &mut Election) -> Vec<Output> {
    std::iter::from_fn(|| election.poll_output()).collect()
}

/// Lets time pass as a driver does: timers in order, the disk answers at once.
fn run(election: &mut Election, until: u64) -> Vec<Output> {
    let mut all = Vec::new();
    loop {
        for output in said(election) {
            if let Output::Persist { epoch } = output {
                let now = election.poll_timeout().map_or(ms(until), |(at, _)| at.min(ms(until)));
                election.handle_input(now, Input::Persisted { epoch });
            }
            all.push(output);
        }
        match election.poll_timeout() {
            Some((at, _)) if at <= ms(until) => election.handle_timeout(at),
            _ if election.outputs.is_empty() => return all,
            _ => {}
        }
    }
}

/// A follower of A in term 3 whose newest heartbeat is number 10, at 1000 ms.
fn follower() -> Election {
    let mut election = starting(0);
    election.handle_input(ms(10), Input::Up(A));
    election.handle_input(ms(10), Input::Up(B));
    hear(&mut election, 100, beat(A, 3, 1, 4), true);
    election.handle_input(ms(110), Input::Heard(A));
    for seq in 2..=10 {
        hear(&mut election, 100 * seq, beat(A, 3, seq, 4), true);
    }
    election.handle_input(ms(1000), Input::Succession(vec![ME, B]));
    said(&mut election);
    election
}

/// The master of term 1 with three members, itself included, and connections with two others, at about 1000 ms.
fn master() -> Election {
    let mut election = starting(0);
    election.handle_input(ms(10), Input::Up(A));
    election.handle_input(ms(10), Input::Up(B));
    election.handle_input(ms(10), Input::ForceClaim);
    run(&mut election, 1000);
    let members = [ME, NodeId([3; 32]), NodeId([4; 32])].map(|node| (node, Weight::DEFAULT)).to_vec();
    election.handle_input(ms(1000), Input::Members(members));
    assert_eq!(election.role(), Role::Master);
    said(&mut election);
    election
}

#[track_caller]
fn check_follows(election: &Election, node: NodeId, term: u64) {
    assert_eq!((election.role(), election.epoch()), (Role::Follower, Some(Epoch { term, node })));
}

#[test]
fn alone_it_is_solo_within_a_second_and_a_half_and_raises_no_term() {
    let mut election = starting(7);
    run(&mut election, 1500);
    assert_eq!((election.role(), election.epoch()), (Role::Solo, Some(Epoch { term: 7, node: ME })));
}

#[test]
fn weight_zero_serves_itself_alone_but_is_never_master_of_others_not_even_by_force() {
    let mut election = Election::new(ms(0), ME, weight(0), true, 6970, Epoch::default(), 1);
    run(&mut election, 1500);
    assert_eq!(election.role(), Role::Solo);
    election.handle_input(ms(1500), Input::Up(A));
    for at in (1500..10_000).step_by(100) {
        election.handle_input(ms(at), Input::Answer { from: A, beat: None });
        election.handle_input(ms(at), Input::ForceClaim);
        run(&mut election, at + 100);
        assert_eq!(election.role(), Role::Candidate, "{at}");
    }
}

#[test]
fn without_a_key_no_weight_counts_for_more_than_sixty() {
    let mut election = Election::new(ms(0), ME, weight(60), false, 6970, Epoch::default(), 1);
    election.handle_input(ms(1), Input::Members(vec![(B, weight(99))]));
    assert_eq!(election.patience_of(ME), Duration::ZERO);
    assert_eq!(election.patience_of(B), RANK_STEP);
}

#[test]
fn an_old_heartbeat_renews_nothing() {
    let mut election = follower();
    for seq in 1..=10 {
        hear(&mut election, 1590, beat(A, 3, seq, 4), true);
    }
    let outputs = run(&mut election, 1600);
    assert!(outputs.contains(&Output::LostMaster { epoch: Epoch { term: 3, node: A } }));
    assert!(outputs.contains(&Output::Redial(A)));
    hear(&mut election, 1601, beat(A, 3, 10, 4), true);
    assert_eq!(election.role(), Role::Candidate);
    hear(&mut election, 1602, beat(A, 3, 11, 4), true);
    check_follows(&election, A, 3);
}

#[test]
fn whoever_has_newer_proof_of_life_stops_the_claim() {
    let mut election = follower();
    run(&mut election, 1650);
    election.handle_input(ms(1650), Input::Answer { from: B, beat: Some(beat(A, 3, 16, 4)) });
    check_follows(&election, A, 3);
}

/// After a killed master others still hold its last heartbeat, which proves nothing.
#[test]
fn proof_that_is_no_newer_stops_no_claim() {
    let mut election = follower();
    election.handle_input(ms(1050), Input::Gone(A));
    election.handle_input(ms(1060), Input::Answer { from: B, beat: Some(beat(A, 3, 10, 4)) });
    run(&mut election, 1050 + OBJECTION.as_millis() as u64);
    assert_eq!((election.role(), election.epoch()), (Role::Master, Some(Epoch { term: 4, node: ME })));
}

#[test]
fn a_node_that_nobody_answers_is_solo_and_raises_no_term() {
    let mut election = follower();
    run(&mut election, 3000);
    assert_eq!((election.role(), election.epoch()), (Role::Solo, Some(Epoch { term: 3, node: ME })));
}

#[test]
fn its_own_epoch_is_on_disk_before_it_is_claimed() {
    let mut election = follower();
    election.handle_input(ms(1050), Input::Goodbye { from: A, epoch: Epoch { term: 3, node: A }, successor: Some(ME) });
    let epoch = Epoch { term: 4, node: ME };
    assert!(said(&mut election).contains(&Output::Persist { epoch }));
    assert_eq!(election.role(), Role::Candidate);
    election.handle_input(ms(1060), Input::Persisted { epoch: Epoch { node: A, ..epoch } });
    assert_eq!(election.role(), Role::Candidate);
    election.handle_input(ms(1070), Input::Persisted { epoch });
    assert_eq!(election.role(), Role::Master);
}

#[test]
fn only_the_master_itself_says_its_goodbye_and_only_a_claimant_its_claim() {
    let mut election = follower();
    let epoch = Epoch { term: 3, node: A };
    election.handle_input(ms(1050), Input::Goodbye { from: B, epoch, successor: Some(ME) });
    election.handle_input(ms(1050), Input::Claim { from: A, epoch: Epoch { term: 9, node: B }, members: 9 });
    check_follows(&election, A, 3);
}

#[test]
fn a_fresh_lease_is_not_broken_by_a_higher_epoch_but_the_master_hears_of_it() {
    let mut election = follower();
    let rival = beat(B, 8, 1, 1);
    hear(&mut election, 1050, rival, true);
    check_follows(&election, A, 3);
    assert_eq!(said(&mut election), [Output::Send { to: A, message: Message::Beat(rival) }]);
    hear(&mut election, 1400, beat(B, 8, 4, 1), true);
    check_follows(&election, B, 8);
}

#[test]
fn a_solo_is_obeyed_by_nobody() {
    let mut election = starting(0);
    hear(&mut election, 100, Beat { solo: true, ..beat(A, 3, 1, 1) }, true);
    assert_eq!(election.role(), Role::Listening);
}

#[test]
fn terms_that_jump_are_refused() {
    for term in [u64::MAX, TERM_JUMP_MAX + 4] {
        let mut election = follower();
        hear(&mut election, 1590, beat(B, term, 1, 100), true);
        election.handle_input(ms(1590), Input::Ask { from: B, epoch: Epoch { term, node: B } });
        check_follows(&election, A, 3);
        run(&mut election, 1600);
        assert_eq!(election.role(), Role::Candidate);
    }
}

#[test]
fn a_damaged_term_on_disk_keeps_no_node_out() {
    for damaged in [u64::MAX, u64::MAX - 1, TERM_JUMP_MAX + 100] {
        let mut election = starting(damaged);
        hear(&mut election, 100, beat(A, 3, 1, 4), true);
        check_follows(&election, A, 3);
    }
}

/// A node that was in a mesh of a higher term does not obey a lower one, it has the master raise its term.
#[test]
fn a_lower_epoch_is_asked_to_rise() {
    let mut election = starting(7);
    election.handle_input(ms(50), Input::Up(A));
    hear(&mut election, 100, beat(A, 3, 1, 4), true);
    assert_eq!(election.role(), Role::Listening);
    let question = Message::Ask(Epoch { term: 7, node: A });
    assert_eq!(said(&mut election), [Output::Send { to: A, message: question }]);

    let mut master = master();
    master.handle_input(ms(1010), Input::Ask { from: B, epoch: Epoch { term: 7, node: NodeId::default() } });
    run(&mut master, 1050);
    assert_eq!(master.epoch(), Some(Epoch { term: 8, node: ME }));
}

#[test]
fn the_larger_side_wins_and_takes_a_term_above_both() {
    let mut election = master();
    hear(&mut election, 1010, beat(B, 40, 7, 2), true);
    run(&mut election, 1050);
    assert_eq!((election.role(), election.epoch()), (Role::Master, Some(Epoch { term: 41, node: ME })));
}

/// Two masters that greeted each other are members of each other's side, and of neither for this.
#[test]
fn a_rival_is_no_member_of_this_side() {
    let mut election = master();
    election.handle_input(ms(1000), Input::Members([ME, A, B].map(|node| (node, Weight::DEFAULT)).to_vec()));
    hear(&mut election, 1010, beat(B, 40, 7, 2), true);
    check_follows(&election, B, 40);
}

#[test]
fn the_smaller_side_says_goodbye_hands_over_and_follows() {
    let mut election = master();
    hear(&mut election, 1010, beat(B, 1, 7, 4), true);
    check_follows(&election, B, 1);
    let outputs = said(&mut election);
    let goodbye = Message::Goodbye { epoch: Epoch { term: 1, node: ME }, successor: Some(B) };
    assert!(outputs.contains(&Output::Gossip(goodbye)), "{outputs:?}");
    assert!(outputs.contains(&Output::HandOver { to: B }), "{outputs:?}");
}

/// A connection that was silenced by a cut delivers all that a dead master said, from one node and then from another.
#[test]
fn a_burst_of_old_hearsay_unseats_nobody() {
    let mut election = master();
    for (at, seq) in [(1010, 7), (1011, 8), (1040, 9), (1140, 5), (1200, 9), (3300, 10), (3301, 11)] {
        run(&mut election, at);
        hear(&mut election, at, beat(B, 4, seq, 9), false);
        assert_eq!(election.role(), Role::Master, "{at}");
    }
}

#[test]
fn hearsay_is_answered_by_a_question_and_believed_when_newer_hearsay_follows() {
    let mut election = master();
    hear(&mut election, 1010, beat(B, 4, 7, 9), false);
    assert!(matches!(said(&mut election)[..], [Output::Send { to: B, message: Message::Beat(_) }]));
    hear(&mut election, 1060, beat(B, 4, 8, 9), false);
    check_follows(&election, B, 4);
    let mut election = master();
    hear(&mut election, 1010, beat(B, 4, 7, 9), false);
    hear(&mut election, 1011, beat(B, 4, 7, 9), true);
    check_follows(&election, B, 4);
}

/// The winner is the one of the lower epoch: the loser stays until it has raised it, and tells it so.
#[test]
fn nobody_yields_to_a_lower_epoch() {
    let mut election = master();
    hear(&mut election, 1010, beat(A, 1, 7, 9), true);
    assert_eq!(election.role(), Role::Master);
    assert!(matches!(said(&mut election)[..], [Output::Send { to: A, message: Message::Beat(_) }]));
    hear(&mut election, 1100, beat(A, 2, 1, 9), true);
    check_follows(&election, A, 2);
}

#[test]
fn halves_of_one_size_are_decided_by_the_higher_epoch() {
    let mut election = master();
    hear(&mut election, 1010, beat(A, 1, 7, 3), true);
    run(&mut election, 1050);
    assert_eq!((election.role(), election.epoch()), (Role::Master, Some(Epoch { term: 2, node: ME })));
    hear(&mut election, 1060, beat(B, 2, 7, 3), true);
    check_follows(&election, B, 2);
}

#[test]
fn a_master_that_was_away_for_longer_than_a_lease_listens_first() {
    for absence in [602, 3000, 1_000_000] {
        let mut election = master();
        let before = election.latest_beat().unwrap().seq;
        election.handle_timeout(ms(1000 + absence));
        assert_eq!(election.role(), Role::Listening, "{absence}");
        assert!(said(&mut election).contains(&Output::LostMaster { epoch: Epoch { term: 1, node: ME } }));
        assert!(before > 0 && election.latest_beat().is_none());
    }
    let mut election = master();
    election.handle_timeout(ms(1500));
    assert_eq!(election.role(), Role::Master);
}

#[test]
fn who_comes_back_believes_nothing_that_may_have_waited_for_it() {
    let mut election = follower();
    hear(&mut election, 5000, beat(B, 4, 7, 4), true);
    election.handle_input(ms(5040), Input::Claim { from: B, epoch: Epoch { term: 4, node: B }, members: 4 });
    assert_eq!(election.role(), Role::Listening);
    hear(&mut election, 5100, beat(B, 4, 8, 4), true);
    check_follows(&election, B, 4);
}

#[test]
fn a_master_that_everybody_left_is_solo_and_keeps_its_term() {
    let mut election = master();
    election.handle_input(ms(1000), Input::Members(vec![(ME, Weight::DEFAULT)]));
    run(&mut election, 2900);
    assert_eq!(election.role(), Role::Master);
    let outputs = run(&mut election, 3100);
    assert_eq!((election.role(), election.epoch()), (Role::Solo, Some(Epoch { term: 1, node: ME })));
    assert!(outputs.contains(&Output::BecameSolo));
}

/// After a cut a connection stays silent for seconds, and then delivers old news.
#[test]
fn a_connection_over_which_no_answer_comes_is_dialled_anew() {
    let mut election = follower();
    election.handle_input(ms(1050), Input::Goodbye { from: A, epoch: Epoch { term: 3, node: A }, successor: None });
    election.handle_input(ms(1100), Input::Heard(B));
    election.handle_input(ms(1100), Input::Answer { from: B, beat: None });
    let redials = |outputs: Vec<Output>| outputs.iter().filter(|o| matches!(o, Output::Redial(_))).count();
    assert_eq!(redials(run(&mut election, 1340)), 0);
    assert_eq!(run(&mut election, 1360).iter().filter(|o| **o == Output::Redial(A)).count(), 1);
    assert_eq!(redials(run(&mut election, 1500)), 0, "B is heard");
}

/// A claim below what others have obeyed would be contradicted at once.
#[test]
fn a_claim_is_above_every_term_that_the_others_ask_about() {
    let mut election = follower();
    election.handle_input(ms(1050), Input::Gone(A));
    for term in [6, TERM_JUMP_MAX + 100] {
        election.handle_input(ms(1060), Input::Ask { from: B, epoch: Epoch { term, node: B } });
    }
    election.handle_input(ms(1070), Input::Answer { from: B, beat: None });
    run(&mut election, 1160);
    assert_eq!((election.role(), election.epoch()), (Role::Master, Some(Epoch { term: 7, node: ME })));
}

/// Both have a list that puts the other first: only one steps back.
#[test]
fn two_candidates_do_not_wait_for_each_other() {
    let stands_back = |me: u8, other: u8| {
        let mut election = follower();
        election.me = NodeId([me; 32]);
        let other = NodeId([other; 32]);
        election.handle_input(ms(1001), Input::Up(other));
        election.handle_input(ms(1001), Input::Members(vec![(other, Weight::DEFAULT)]));
        election.handle_input(ms(1001), Input::Succession(vec![other]));
        election.handle_input(ms(1050), Input::Gone(A));
        let before = election.poll_timeout();
        election.handle_input(ms(1051), Input::Ask { from: other, epoch: Epoch { term: 3, node: A } });
        election.poll_timeout() != before
    };
    assert_ne!(stands_back(5, 7), stands_back(7, 5));
}

#[test]
fn over_a_restart_the_highest_epoch_is_obeyed_and_no_lower_one() {
    let on_disk = Epoch { term: 3, node: B };
    let start = || Election::new(ms(0), ME, Weight::DEFAULT, false, 6970, on_disk, 1);
    let mut election = start();
    hear(&mut election, 100, beat(A, 3, 50, 9), true);
    assert_eq!(election.role(), Role::Listening, "the other master of that term, and the lower one");
    hear(&mut election, 200, beat(B, 3, 8, 2), true);
    check_follows(&election, B, 3);
    let mut election = start();
    run(&mut election, 1500);
    assert_eq!((election.role(), election.highest()), (Role::Solo, on_disk));
}

#[test]
fn what_is_asked_of_a_deputy_is_answered_only_first_hand() {
    let ask = Input::Ask { from: B, epoch: Epoch { term: 3, node: A } };
    let answer = |beat| Output::Send { to: B, message: Message::Answer(beat) };
    let mut election = follower();
    election.handle_input(ms(1200), ask.clone());
    assert!(said(&mut election).contains(&answer(Some(beat(A, 3, 10, 4)))));
    hear(&mut election, 1450, beat(A, 3, 14, 4), false);
    election.handle_input(ms(1450), ask);
    assert!(said(&mut election).contains(&answer(None)));
}

#[test]
fn heartbeats_are_relayed_to_who_asked_for_a_while() {
    let mut election = follower();
    election.handle_input(ms(1050), Input::Ask { from: B, epoch: Epoch { term: 3, node: A } });
    said(&mut election);
    hear(&mut election, 1100, beat(A, 3, 11, 4), true);
    assert_eq!(said(&mut election), [Output::Send { to: B, message: Message::Beat(beat(A, 3, 11, 4)) }]);
    for seq in 12..=22 {
        hear(&mut election, 100 * seq, beat(A, 3, seq, 4), true);
    }
    said(&mut election);
    hear(&mut election, 2300, beat(A, 3, 23, 4), true);
    assert_eq!(said(&mut election), []);
}

#[test]
fn a_person_makes_the_master_name_this_node() {
    let mut election = follower();
    election.handle_input(ms(1050), Input::ForceClaim);
    assert_eq!(said(&mut election), [Output::Send { to: A, message: Message::Yield(Epoch { term: 3, node: A }) }]);

    let mut master = master();
    master.handle_input(ms(1010), Input::Yield { from: B, epoch: Epoch { term: 1, node: ME } });
    let goodbye = Message::Goodbye { epoch: Epoch { term: 1, node: ME }, successor: Some(B) };
    assert!(said(&mut master).contains(&Output::Gossip(goodbye)));
    assert_eq!(master.role(), Role::Candidate);
}

/// A preferred node of that weight that follows A (or has just been told to), the master of term 3.
fn preferred(own: u8, of_master: u8) -> Election {
    let mut election = Election::new(ms(0), ME, weight(own), false, 6970, Epoch::default(), 1).preferred(true);
    hear(&mut election, 100, beat(A, 3, 1, 4), true);
    election.handle_input(ms(150), Input::Up(A));
    election.handle_input(ms(160), Input::Members(vec![(A, weight(of_master)), (ME, weight(own)), (B, weight(0))]));
    election
}

fn claims(election: &mut Election) -> usize {
    said(election).iter().filter(|output| matches!(output, Output::Send { message: Message::Yield(_), .. })).count()
}

#[test]
fn a_preferred_node_claims_from_a_lower_weight_only() {
    for (own, of_master, claims_made) in [(60, 50, 1), (51, 50, 1), (50, 50, 0), (40, 50, 0), (1, 0, 1), (0, 0, 0)] {
        assert_eq!(claims(&mut preferred(own, of_master)), claims_made, "{own} {of_master}");
    }
    // Without a key 99 is 60, as for everybody.
    assert_eq!(claims(&mut preferred(99, 60)), 0);
    let mut usual = follower();
    usual.handle_input(ms(1000), Input::Members(vec![(A, weight(1))]));
    assert_eq!(claims(&mut usual), 0);
}

#[test]
fn a_preferred_node_claims_once_until_it_was_away_or_alone() {
    let mut election = preferred(60, 50);
    assert_eq!(claims(&mut election), 1);
    // Another one becomes master, by whatever way: a person may have wanted it.
    let goodbye = Input::Goodbye { from: A, epoch: Epoch { term: 3, node: A }, successor: Some(B) };
    election.handle_input(ms(170), goodbye);
    hear(&mut election, 180, beat(B, 4, 1, 4), true);
    election.handle_input(ms(180), Input::Up(B));
    election.handle_input(ms(190), Input::Members(vec![(B, weight(40))]));
    check_follows(&election, B, 4);
    assert_eq!(claims(&mut election), 0);
    // Suspended for a minute.
    election.handle_input(ms(60_000), Input::Heard(B));
    assert_eq!(election.role(), Role::Listening);
    hear(&mut election, 60_100, beat(B, 4, 500, 4), true);
    assert_eq!(claims(&mut election), 1);
    // Alone.
    for node in [A, B] {
        election.handle_input(ms(60_200), Input::Down(node));
    }
    run(&mut election, 70_000);
    assert_eq!(election.role(), Role::Solo);
    hear(&mut election, 70_100, beat(B, 5, 1, 4), true);
    assert_eq!(claims(&mut election), 0, "not before it is connected");
    election.handle_input(ms(70_110), Input::Up(B));
    assert_eq!(claims(&mut election), 1);
}

/// It is master by an election, and a person prefers another one.
#[test]
fn a_preferred_master_that_a_person_unseats_stays_a_follower() {
    let mut election = starting(0).preferred(true);
    for node in [A, B] {
        election.handle_input(ms(10), Input::Up(node));
    }
    election.handle_input(ms(10), Input::ForceClaim);
    run(&mut election, 1000);
    assert_eq!(election.role(), Role::Master);
    election.handle_input(ms(1010), Input::Yield { from: B, epoch: Epoch { term: 1, node: ME } });
    hear(&mut election, 1050, beat(B, 2, 1, 3), true);
    election.handle_input(ms(1060), Input::Members(vec![(A, weight(50)), (B, weight(10))]));
    check_follows(&election, B, 2);
    assert_eq!(claims(&mut election), 0);
}

#[test]
fn a_clean_stop_names_the_first_deputy_that_is_connected() {
    let mut election = master();
    election.handle_input(ms(1010), Input::Succession(vec![NodeId([3; 32]), B, A]));
    election.handle_input(ms(1020), Input::Shutdown);
    let goodbye = Message::Goodbye { epoch: Epoch { term: 1, node: ME }, successor: Some(B) };
    assert_eq!(said(&mut election), [Output::Send { to: B, message: goodbye.clone() }, Output::Gossip(goodbye)]);
    assert_eq!(election.poll_timeout(), None);
}

#[test]
fn tables_are_bounded() {
    let mut election = follower();
    let node = |n: u32| NodeId([&n.to_be_bytes()[..], &[7; 28]].concat().try_into().unwrap());
    for n in 0..2 * NODES_MAX as u32 {
        election.handle_input(ms(1001), Input::Up(node(n)));
        election.handle_input(ms(1001), Input::Ask { from: node(n), epoch: Epoch { term: 3, node: A } });
    }
    let members = (0..2 * NODES_MAX as u32).map(|n| (node(n), Weight::DEFAULT)).collect();
    election.handle_input(ms(1001), Input::Members(members));
    election.handle_input(ms(1001), Input::Succession(vec![A; 100]));
    let sizes = (election.up.len(), election.relays.len(), election.members.len(), election.succession.len());
    assert_eq!(sizes, (NODES_MAX, RELAYS_MAX, NODES_MAX, SUCCESSION));
}
