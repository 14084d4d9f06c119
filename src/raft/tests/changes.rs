//! Changes of members (section 6 of the paper, chapter 4 of Ongaro's dissertation), and of the times.

use super::lone::{Lone, entry};
use crate::base::mutant::{Mutant, with_broken};
use crate::base::{LogIndex, Timing};
use crate::raft::testing::{Network, command, milliseconds, node, nodes, reborn};
use crate::raft::{Entry, Membership, Payload, ProposeError, RaftRole};

fn members(index: u64, term: u64, voters: &[u8], outgoing: &[u8], learners: &[u8]) -> Entry {
    let membership = Membership { voters: nodes(voters), outgoing: nodes(outgoing), learners: nodes(learners) };
    Entry { payload: Payload::Members(membership), ..entry(index, term) }
}

/// Node 1 leads {1 2 3} with the learner 4, which has caught up; all is committed, through index 2.
fn leader_with_learner() -> Lone {
    let mut lone = Lone::ready_leader(&[1, 2, 3]);
    assert_eq!(lone.raft.propose_learner(lone.now, node(4)), Ok(LogIndex(2)));
    lone.drain();
    for other in [2, 3, 4] {
        lone.matched(other, 1, 2);
    }
    assert_eq!(lone.raft.commit_index(), LogIndex(2));
    lone
}

#[test]
fn learners_get_everything_and_count_for_nothing() {
    let mut lone = leader_with_learner();
    lone.raft.propose(lone.now, command("x")).expect("a leader takes it");
    let sent = lone.drain();
    assert!(sent.iter().any(|text| text.starts_with("n4 <- append")), "{sent:?}");
    lone.matched(4, 2, 3);
    assert_eq!(lone.raft.commit_index(), LogIndex(2), "one voter of three, and a learner");
    lone.matched(2, 2, 3);
    assert_eq!(lone.raft.commit_index(), LogIndex(3));
}

#[test]
fn a_process_that_was_told_nothing_takes_the_log_and_has_no_say() {
    let mut lone = Lone::learner();
    assert_eq!(lone.raft.role(), RaftRole::Learner);
    assert!(lone.vote(2, 5, (9, 4), false).is_empty(), "it doesn't vote");
    assert!(lone.pre_vote(2, 5, (9, 4)).is_empty());
    assert!(lone.wait(milliseconds(10_000)).is_empty(), "it doesn't campaign");
    let texts = lone.append(2, 5, (0, 0), vec![members(1, 5, &[2, 3], &[], &[1])], 1);
    assert_eq!(texts[0], "Learner in term 5, led by n2");
    assert_eq!(texts.last().expect("an answer"), "n2 <- append-answer term=5 matched through 1");
    assert_eq!(lone.wait(milliseconds(10_000)), ["Learner in term 5, led by nobody"], "nor now that it is a learner");
    let texts = lone.append(2, 5, (1, 5), vec![members(2, 5, &[1, 2], &[2, 3], &[])], 1);
    assert_eq!(
        texts,
        [
            "Learner in term 5, led by n2",
            "Follower in term 5, led by n2",
            "n2 <- append-answer term=5 matched through 2"
        ]
    );
    assert!(lone.wait(milliseconds(150)).contains(&"PreCandidate in term 5, led by nobody".to_owned()));
}

#[test]
fn a_learner_that_knows_the_members_votes_when_asked_for_it_may_be_a_voter_by_what_it_has_not_got() {
    let mut lone = Lone::learner();
    lone.append(2, 5, (0, 0), vec![members(1, 5, &[2, 3], &[], &[1])], 1);
    lone.now = lone.now + milliseconds(100);
    assert_eq!(lone.vote(3, 6, (1, 5), false)[1], "n3 <- vote-answer granted term=6 asked=6");
}

#[test]
fn members_change_after_an_own_entry_is_committed_and_one_at_a_time() {
    let mut lone = Lone::leader(&[1, 2, 3], &[1], 1);
    assert_eq!(lone.raft.propose_learner(lone.now, node(4)), Err(ProposeError::NotReady));
    lone.matched(2, 1, 2);
    assert_eq!(lone.raft.propose_learner(lone.now, node(4)), Ok(LogIndex(3)));
    assert_eq!(lone.raft.propose_learner(lone.now, node(5)), Err(ProposeError::Busy), "one is in flight");
    assert_eq!(lone.raft.propose_voters(lone.now, nodes(&[1, 2])), Err(ProposeError::Busy));
    lone.matched(2, 2, 3);
    assert_eq!(lone.raft.propose_voters(lone.now, nodes(&[1, 2])), Ok(LogIndex(4)));
    assert!(lone.raft.membership().is_joint(), "in force when appended");
    lone.matched(2, 3, 4);
    assert_eq!(lone.raft.propose_learner(lone.now, node(5)), Err(ProposeError::Busy), "its second half is in flight");
    lone.matched(2, 4, 5);
    assert_eq!(lone.raft.propose_learner(lone.now, node(5)), Ok(LogIndex(6)));
}

#[test]
fn proposals_that_make_no_sense_are_refused_for_good() {
    let mut lone = leader_with_learner();
    let now = lone.now;
    for result in [
        lone.raft.propose_learner(now, node(2)),
        lone.raft.propose_learner(now, node(4)),
        lone.raft.propose_drop_learner(now, node(2)),
        lone.raft.propose_voters(now, nodes(&[1, 2, 3])),
        lone.raft.propose_voters(now, nodes(&[])),
        lone.raft.propose_voters(now, nodes(&[1, 2, 9])),
        lone.raft.propose_timing(now, Timing { lease: milliseconds(500), ..Timing::default() }),
        lone.raft.propose(now, vec![0; 2 << 20].into()),
        lone.raft.transfer(now, node(4)).map(|()| LogIndex(0)),
        lone.raft.transfer(now, node(1)).map(|()| LogIndex(0)),
    ] {
        assert!(matches!(result, Err(ProposeError::Refused(_))), "{result:?}");
    }
    let mut follower = Lone::follower(&[1, 2, 3], &[1], 0);
    let expected = Err(ProposeError::NotLeader { leader: Some(node(2)) });
    assert_eq!(follower.raft.propose(follower.now, command("x")), expected);
}

#[test]
fn a_learner_replaces_another_life_in_its_slot_and_can_be_dropped() {
    let mut lone = leader_with_learner();
    lone.raft.propose_learner(lone.now, reborn(4, 2)).expect("another life");
    assert_eq!(lone.raft.membership().learners, [reborn(4, 2)].into());
    lone.matched(2, 2, 3);
    lone.raft.propose_learner(lone.now, reborn(2, 2)).expect("another life of a voter");
    assert_eq!(lone.raft.membership().voters, nodes(&[1, 2, 3]), "the voter stays");
    lone.matched(2, 3, 4);
    lone.raft.propose_drop_learner(lone.now, reborn(4, 2)).expect("a learner");
    assert_eq!(lone.raft.membership().learners, [reborn(2, 2)].into());
}

/// Lets so many heartbeats pass, acked by the voters 2 and 3; the numbers of those to node 4.
fn beat(lone: &mut Lone, times: usize) -> Vec<u64> {
    let mut numbers = Vec::new();
    for _ in 0..times {
        for text in lone.wait(Timing::default().heartbeat) {
            let Some((to, rest)) = text.split_once(" <- heartbeat #") else { continue };
            let number = rest.split(' ').next().and_then(|number| number.parse().ok()).expect("a number");
            match to {
                "n4" => numbers.push(number),
                _ => drop(lone.ack(to[1..].parse().expect("a node"), number, (1, 1))),
            }
        }
    }
    numbers
}

/// Node 4 leaves and is let in again by the same leader; the last number that it heard before, and the first after that.
fn numbers_of_one_who_is_let_in_again() -> (u64, u64) {
    let mut lone = leader_with_learner();
    let before = beat(&mut lone, 10);
    lone.raft.propose_drop_learner(lone.now, node(4)).expect("a learner");
    lone.matched(2, 2, 3);
    let while_it_leaves = beat(&mut lone, 40);
    assert!(while_it_leaves.len() < 30, "it is told for a while that it has left: {while_it_leaves:?}");
    let heard = *while_it_leaves.last().or(before.last()).expect("heartbeats");
    lone.raft.propose_learner(lone.now, node(4)).expect("it isn't there");
    lone.ack(4, heard, (1, 1));
    assert_eq!(lone.raft.peer_acked_at(node(4)), None, "an ack of a heartbeat from before is no news");
    (heard, beat(&mut lone, 5)[0])
}

#[test]
fn who_is_let_in_again_gets_heartbeats_with_numbers_after_those_from_before() {
    let (heard, next) = numbers_of_one_who_is_let_in_again();
    assert!(next > heard, "#{next} after #{heard}");
    let (heard, next) = with_broken(Mutant::NumbersRestart, numbers_of_one_who_is_let_in_again);
    assert!(next <= heard, "#{next} after #{heard}");
}

#[test]
fn who_is_to_vote_must_have_this_terms_log() {
    let mut lone = Lone::ready_leader(&[1, 2, 3]);
    lone.raft.propose_learner(lone.now, node(4)).expect("a learner");
    lone.matched(2, 1, 2);
    let voters = nodes(&[1, 2, 3, 4]);
    assert_eq!(lone.raft.propose_voters(lone.now, voters.clone()), Err(ProposeError::NotReady));
    lone.ack(4, 2, (1, 1));
    assert_eq!(lone.raft.propose_voters(lone.now, voters), Ok(LogIndex(3)));
}

#[test]
fn a_joint_membership_commits_by_both_majorities_and_then_its_end_is_appended() {
    let mut lone = leader_with_learner();
    lone.raft.propose_voters(lone.now, nodes(&[1, 4])).expect("a change");
    assert!(lone.raft.membership().learners.is_empty(), "a learner that becomes a voter stops being a learner");
    lone.matched(2, 2, 3);
    assert_eq!(lone.raft.commit_index(), LogIndex(2), "two of {{1 2 3}}, one of {{1 4}}");
    lone.matched(4, 2, 3);
    assert_eq!(lone.raft.commit_index(), LogIndex(3));
    let settled = Membership::of_voters(nodes(&[1, 4]));
    assert_eq!((lone.raft.membership(), lone.raft.last_index()), (&settled, LogIndex(4)));
    lone.matched(2, 3, 4);
    assert_eq!(lone.raft.commit_index(), LogIndex(3), "the outgoing ones count no more");
    lone.matched(4, 3, 4);
    assert_eq!(lone.raft.commit_index(), LogIndex(4));

    let mut other_half = leader_with_learner();
    other_half.raft.propose_voters(other_half.now, nodes(&[1, 4])).expect("a change");
    other_half.matched(4, 2, 3);
    assert_eq!(other_half.raft.commit_index(), LogIndex(2), "two of {{1 4}}, one of {{1 2 3}}");
}

#[test]
fn a_joint_election_takes_both_majorities() {
    for (granting, elected) in [(&[4, 5][..], false), (&[2, 3], false), (&[2, 4], true)] {
        let mut lone = Lone::founder(&[1, 2, 3]);
        let joint = members(2, 1, &[1, 4, 5], &[1, 2, 3], &[]);
        lone.append(2, 1, (0, 0), vec![entry(1, 1), joint], 0);
        lone.campaign();
        lone.grant_from(granting, 2, true);
        lone.grant_from(granting, 2, false);
        assert_eq!(lone.raft.role() == RaftRole::Leader, elected, "{granting:?}");
    }
}

/// Node 1 with a joint membership that isn't committed, as a voter of both sets or of one of them.
fn joint(voters: &[u8], outgoing: &[u8]) -> Lone {
    let mut lone = Lone::founder(outgoing);
    lone.append(2, 1, (0, 0), vec![entry(1, 1), members(2, 1, voters, outgoing, &[])], 0);
    assert!(lone.raft.membership().is_joint());
    lone
}

#[test]
fn any_server_of_either_set_may_lead_and_sends_to_all_of_both() {
    for (voters, outgoing, granting) in
        [(&[4, 5, 6][..], &[1, 2, 3][..], &[2, 4, 5][..]), (&[1, 5, 6], &[2, 3, 4], &[2, 3, 5])]
    {
        let mut lone = joint(voters, outgoing);
        lone.campaign();
        lone.grant_from(granting, 2, true);
        let mut texts = lone.grant_from(granting, 2, false);
        assert_eq!(lone.raft.role(), RaftRole::Leader, "{voters:?} {outgoing:?}");
        // The answer of each to the first probe brings it the rest.
        let others: Vec<u8> = voters.iter().chain(outgoing).copied().filter(|other| *other != 1).collect();
        others.iter().for_each(|other| texts.extend(lone.matched(*other, 2, 2)));
        for other in others {
            let entry = |text: &String| text.starts_with(&format!("n{other} <- append")) && text.contains("3@2 noop");
            assert!(texts.iter().any(entry), "node {other}: {texts:?}");
        }
    }
}

#[test]
fn a_new_leader_ends_the_change_that_its_predecessor_began() {
    let mut lone = joint(&[1, 4, 5], &[1, 2, 3]);
    lone.campaign();
    lone.grant_from(&[2, 4], 2, true);
    lone.grant_from(&[2, 4], 2, false);
    lone.matched(2, 2, 3);
    assert!(lone.raft.membership().is_joint(), "it commits along with the first entry of the new term");
    lone.matched(4, 2, 3);
    assert_eq!(lone.raft.membership(), &Membership::of_voters(nodes(&[1, 4, 5])));
    assert_eq!((lone.raft.commit_index(), lone.raft.last_index()), (LogIndex(3), LogIndex(4)));
}

#[test]
fn check_quorum_takes_both_majorities_while_joint() {
    for (acking, leads) in [(&[2, 4][..], true), (&[2, 3], false), (&[4, 5], false)] {
        let mut lone = joint(&[1, 4, 5], &[1, 2, 3]);
        lone.campaign();
        lone.grant_from(&[2, 4], 2, true);
        lone.grant_from(&[2, 4], 2, false);
        for sequence in 1..10 {
            acking.iter().for_each(|other| drop(lone.ack(*other, sequence, (2, 1))));
            lone.wait(milliseconds(20));
        }
        assert_eq!(lone.raft.role() == RaftRole::Leader, leads, "{acking:?}");
        assert_eq!(lone.raft.quorum_contact().is_some(), leads, "{acking:?}");
    }
}

#[test]
fn a_voter_that_was_taken_out_while_it_was_cut_off_disturbs_nobody_when_it_comes_back() {
    let mut network = Network::founded(12, 4);
    let leader = network.elect();
    let out = *network.processes.keys().find(|node| **node != leader).expect("a follower");
    network.isolate(out);
    let mut rest = network.raft(leader).membership().voters.clone();
    rest.remove(&out);
    network.call(leader, |raft, now| raft.propose_voters(now, rest)).expect("a change");
    network.run_for(milliseconds(3000));
    let term = network.raft(leader).term();
    network.heal();
    network.run_for(milliseconds(3000));
    assert_eq!((network.leader(), network.raft(leader).term()), (Some(leader), term), "{}", network.overview());
    assert_eq!(network.raft(out).role(), RaftRole::PreCandidate, "nobody answers it: {}", network.overview());
}

#[test]
fn truncation_brings_the_membership_before_back() {
    let mut lone = Lone::follower(&[1, 2, 3], &[1], 0);
    lone.append(2, 1, (1, 1), vec![members(2, 1, &[1, 2, 3], &[], &[4])], 0);
    assert_eq!(lone.raft.membership().learners, nodes(&[4]), "in force when appended");
    lone.append(3, 2, (1, 1), vec![entry(2, 2)], 0);
    assert_eq!(lone.raft.membership(), &Membership::of_voters(nodes(&[1, 2, 3])));
}

#[test]
fn a_leader_that_takes_itself_out_leads_without_counting_itself_until_that_is_committed() {
    let mut lone = Lone::ready_leader(&[1, 2, 3]);
    lone.raft.propose_voters(lone.now, nodes(&[2, 3])).expect("a change");
    lone.matched(2, 1, 2);
    assert_eq!(lone.raft.commit_index(), LogIndex(1), "one of {{2 3}}");
    lone.matched(3, 1, 2);
    assert_eq!((lone.raft.commit_index(), lone.raft.last_index()), (LogIndex(2), LogIndex(3)));
    lone.matched(2, 2, 3);
    assert_eq!((lone.raft.role(), lone.raft.commit_index()), (RaftRole::Leader, LogIndex(2)), "one of {{2 3}}");
    let texts = lone.matched(3, 2, 3);
    assert_eq!(lone.raft.role(), RaftRole::Learner);
    let tells = texts.iter().position(|text| text.starts_with("n2 <- append") && text.contains("commit=3"));
    let steps_down = texts.iter().position(|text| text.starts_with("Learner"));
    assert!(tells.is_some() && tells < steps_down, "the others learn of the commit first: {texts:?}");
    let silence = lone.wait(milliseconds(5000));
    assert!(silence.iter().all(|text| !text.contains("Candidate")), "who is out doesn't campaign: {silence:?}");
}

#[test]
fn a_voter_that_was_taken_out_is_told_and_disturbs_nobody() {
    let mut network = Network::founded(11, 4);
    let leader = network.elect();
    let out = *network.processes.keys().find(|node| **node != leader).expect("a follower");
    let mut rest = network.raft(leader).membership().voters.clone();
    rest.remove(&out);
    network.call(leader, |raft, now| raft.propose_voters(now, rest)).expect("a change");
    network.run_for(milliseconds(3000));
    assert_eq!(network.raft(out).role(), RaftRole::Learner, "{}", network.overview());
    assert_eq!(network.leader(), Some(leader), "{}", network.overview());
    assert!(network.raft(leader).peer_acked_at(out).is_none(), "the leader has forgotten it");
}

#[test]
fn who_leaves_is_told_for_a_while_for_the_first_word_may_be_lost() {
    let mut lone = Lone::ready_leader(&[1, 2, 3]);
    lone.raft.propose_voters(lone.now, nodes(&[1, 2])).expect("a change");
    lone.matched(2, 1, 2);
    lone.matched(2, 2, 3);
    assert_eq!(lone.raft.membership(), &Membership::of_voters(nodes(&[1, 2])));
    let mut heartbeats = Vec::new();
    for sequence in 2..40 {
        let texts = lone.wait(milliseconds(20));
        lone.ack(2, sequence, (3, 1));
        heartbeats.push(texts.iter().any(|text| text.starts_with("n3 <- heartbeat")));
    }
    let told = heartbeats.iter().filter(|told| **told).count();
    assert!((10..30).contains(&told) && !heartbeats[38 - 1], "{heartbeats:?}");
}

#[test]
fn a_voter_by_the_committed_membership_campaigns_though_an_entry_that_is_not_committed_takes_it_out() {
    let mut lone = Lone::founder(&[1, 2, 3]);
    let joint = members(2, 1, &[2, 4, 5], &[1, 2, 3], &[]);
    lone.append(2, 1, (0, 0), vec![entry(1, 1), joint, members(3, 1, &[2, 4, 5], &[], &[])], 2);
    assert_eq!(lone.raft.role(), RaftRole::Follower);
    lone.campaign();
    lone.grant_from(&[4, 5], 2, true);
    lone.grant_from(&[4], 2, false);
    assert_eq!(lone.raft.role(), RaftRole::Candidate, "its own vote doesn't count");
    lone.grant_from(&[5], 2, false);
    assert_eq!(lone.raft.role(), RaftRole::Leader);
}

#[test]
fn a_candidate_that_is_no_voter_here_is_heard_only_if_its_log_is_ahead() {
    for (from, last, heard) in [(9, (1, 1), false), (9, (0, 0), false), (9, (2, 1), true), (2, (1, 1), true)] {
        let mut lone = Lone::follower(&[1, 2, 3], &[1], 1);
        lone.now = lone.now + milliseconds(100);
        assert_eq!(!lone.pre_vote(from, 7, last).is_empty(), heard, "pre-vote of {from}, {last:?}");
        assert_eq!(!lone.vote(from, 7, last, false).is_empty(), heard, "vote of {from}, {last:?}");
        assert_eq!(lone.raft.term().0, if heard { 7 } else { 1 }, "a stranger's term is not taken over");
    }
}

#[test]
fn a_restarted_node_takes_its_predecessors_place() {
    let mut network = Network::founded(2, 3);
    let leader = network.elect();
    let gone = *network.processes.keys().find(|node| **node != leader).expect("a follower");
    network.crash(gone);
    let back = reborn(gone.slot.0 + 1, 2);
    network.start_learner(back);
    network.call(leader, |raft, now| raft.propose_learner(now, back)).expect("a learner");
    let caught_up =
        |network: &Network| network.raft(leader).match_index(back) == Some(network.raft(leader).last_index());
    assert!(network.run_until(milliseconds(500), caught_up), "{}", network.overview());
    let mut voters = network.raft(leader).membership().voters.clone();
    voters.remove(&gone);
    voters.insert(back);
    network.call(leader, |raft, now| raft.propose_voters(now, voters)).expect("a change");
    network.run_for(milliseconds(300));
    assert_eq!(network.raft(back).role(), RaftRole::Follower, "{}", network.overview());
    // With the old leader gone, the newcomer's vote is needed.
    network.crash(leader);
    network.elect();
}

fn timing(election_ms: u64) -> Timing {
    let election = milliseconds(election_ms);
    Timing { heartbeat: election / 5, election, lease: election * 4 / 5, ..Timing::default() }
}

#[test]
fn while_a_change_of_times_is_not_committed_the_longer_promise_and_the_shorter_lease_hold() {
    for (changed, kept_election, kept_lease) in [(timing(300), 300, 80), (timing(50), 100, 40)] {
        let mut lone = Lone::ready_leader(&[1, 2, 3]);
        lone.raft.propose_timing(lone.now, changed).expect("sane times");
        let kept = lone.raft.timing();
        assert_eq!((kept.election, kept.lease), (milliseconds(kept_election), milliseconds(kept_lease)));
        lone.matched(2, 1, 2);
        assert_eq!(lone.raft.timing(), changed, "committed");
    }
}

#[test]
fn a_follower_keeps_a_promise_that_it_gave_under_longer_times() {
    let mut lone = Lone::founder(&[1, 2, 3]);
    let long = Entry { payload: Payload::Timing(timing(300)), ..entry(1, 1) };
    let short = Entry { payload: Payload::Timing(timing(50)), ..entry(2, 1) };
    lone.append(2, 1, (0, 0), vec![long], 1);
    lone.heartbeat(2, 1, 1);
    lone.append(2, 1, (1, 1), vec![short], 2);
    assert_eq!(lone.raft.timing().election, milliseconds(50));
    lone.heartbeat(2, 1, 2);
    lone.now = lone.now + milliseconds(299);
    assert_eq!(lone.vote(3, 2, (2, 1), false), ["n3 <- vote-answer promised term=1 asked=2"]);
    lone.now = lone.now + milliseconds(1);
    assert!(lone.vote(3, 2, (2, 1), false)[1].contains("granted"));
}

#[test]
fn a_longer_lease_is_used_only_when_a_quorum_has_promised_for_longer() {
    let mut lone = Lone::ready_leader(&[1, 2, 3]);
    lone.raft.propose_timing(lone.now, timing(300)).expect("sane times");
    lone.matched(2, 1, 2);
    // The contact is still that of acks under the promise of 100 ms: a third of the new one.
    assert_eq!(lone.raft.timing().lease, milliseconds(240));
    assert_eq!(lone.raft.lease(), milliseconds(80));
    lone.wait(milliseconds(60));
    lone.ack(2, 2, (2, 1));
    assert_eq!(lone.raft.lease(), milliseconds(240));
}

/// Node 1 leads {1 2 3}, under the long times of the first `timing` that it committed, and has just heard an ack of node 2.
fn leader_under(timing: Timing) -> Lone {
    let mut lone = Lone::ready_leader(&[1, 2, 3]);
    lone.raft.propose_timing(lone.now, timing).expect("sane times");
    lone.matched(2, 1, 2);
    let sequence = heartbeats_sent(&mut lone);
    lone.ack(2, sequence, (2, 1));
    lone
}

/// Lets a heartbeat go out; its number.
fn heartbeats_sent(lone: &mut Lone) -> u64 {
    let sent = lone.wait(lone.raft.timing().heartbeat);
    let heartbeat = sent.iter().rev().find_map(|text| text.split("heartbeat #").nth(1)).expect("a heartbeat is sent");
    heartbeat.split(' ').next().and_then(|number| number.parse().ok()).expect("it has a number")
}

#[test]
fn a_leader_keeps_what_it_promised_under_longer_times_when_they_become_shorter() {
    let mut lone = leader_under(timing(300));
    let contact = lone.raft.quorum_contact().expect("in contact");
    assert_eq!(lone.raft.lease(), milliseconds(240));
    lone.raft.propose_timing(lone.now, timing(100)).expect("sane times");
    lone.matched(2, 2, 3);
    assert_eq!(lone.raft.timing().election, milliseconds(100));
    lone.wait(milliseconds(150));
    assert_eq!(lone.raft.role(), RaftRole::Follower, "it has lost contact under the shorter times");
    // The lease that began at the contact may still be in use.
    lone.now = contact + milliseconds(299);
    assert_eq!(lone.vote(3, 2, (3, 1), false), ["n3 <- vote-answer promised term=1 asked=2"]);
    lone.now = contact + milliseconds(300);
    assert!(lone.vote(3, 2, (3, 1), false).iter().any(|text| text.contains("granted")));
}

#[test]
fn nobody_campaigns_while_it_still_keeps_a_longer_promise_itself() {
    let mut lone = Lone::founder(&[1, 2, 3]);
    let long = Entry { payload: Payload::Timing(timing(300)), ..entry(1, 1) };
    let short = Entry { payload: Payload::Timing(timing(50)), ..entry(2, 1) };
    lone.append(2, 1, (0, 0), vec![long], 1);
    lone.heartbeat(2, 1, 1);
    let promised_until = lone.now + milliseconds(300);
    lone.append(2, 1, (1, 1), vec![short], 2);
    lone.heartbeat(2, 1, 2);
    assert!(lone.raft.poll_timeout() >= promised_until, "it would vote for itself before");
}

#[test]
fn a_leader_whose_followers_promise_less_than_it_keeps_itself_grants_by_what_they_promise() {
    let mut lone = Lone::ready_leader(&[1, 2, 3]);
    lone.raft.be_patient(Some(timing(300)));
    let kept = lone.raft.timing();
    assert_eq!((kept.election, kept.lease), (milliseconds(300), milliseconds(80)), "patience makes no lease longer");
    assert_eq!((lone.raft.promised(), lone.raft.lease()), (milliseconds(100), milliseconds(80)));
    lone.wait(milliseconds(250));
    assert_eq!(lone.raft.role(), RaftRole::Leader, "it waits longer for acks");
    lone.raft.be_patient(None);
    assert_eq!(lone.raft.timing(), Timing::default());
}

#[test]
fn a_patient_follower_waits_longer_and_says_so_in_its_promise() {
    let mut lone = Lone::follower(&[1, 2, 3], &[1], 1);
    lone.raft.be_patient(Some(timing(300)));
    lone.heartbeat(2, 1, 1);
    let heard_at = lone.now;
    assert!(lone.raft.poll_timeout() >= heard_at + milliseconds(300));
    lone.raft.be_patient(None);
    lone.now = heard_at + milliseconds(299);
    assert_eq!(lone.vote(3, 2, (1, 1), false), ["n3 <- vote-answer promised term=1 asked=2"], "a promise is kept");
}
