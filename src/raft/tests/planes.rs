//! What becomes of leadership when messages are lost on one plane or the other.

use bincode::config::standard;

use super::lone::{Lone, entry, position};
use crate::base::{LogIndex, NodeId, Term};
use crate::raft::testing::{Faults, Network, command, milliseconds, node};
use crate::raft::{LogPosition, Payload, ProposeError, PulseMessage, PulseSequence, RaftRole, StreamMessage, Verdict};

fn others(network: &Network, than: NodeId) -> Vec<NodeId> {
    network.processes.keys().copied().filter(|node| *node != than).collect()
}

#[test]
fn pre_vote_a_node_that_was_cut_off_disturbs_nobody_when_it_comes_back() {
    let mut network = Network::founded(1, 3);
    let leader = network.elect();
    let term = network.raft(leader).term();
    let cut_off = others(&network, leader)[0];
    network.isolate(cut_off);
    network.run_for(milliseconds(3000));
    assert_eq!(network.raft(cut_off).role(), RaftRole::PreCandidate);
    assert_eq!(network.raft(cut_off).term(), term, "asking raises no term");
    network.heal();
    network.run_for(milliseconds(500));
    assert_eq!((network.leader(), network.raft(leader).term()), (Some(leader), term));
    assert_eq!(network.raft(cut_off).role(), RaftRole::Follower);
}

#[test]
fn check_quorum_a_leader_without_contact_steps_down_within_the_election_timeout() {
    let mut network = Network::founded(1, 3);
    let leader = network.elect();
    network.isolate(leader);
    network.run_for(milliseconds(90));
    assert_eq!(network.raft(leader).role(), RaftRole::Leader);
    network.run_for(milliseconds(10));
    assert_ne!(network.raft(leader).role(), RaftRole::Leader);
}

#[test]
fn one_live_follower_of_two_is_contact_enough() {
    let mut network = Network::founded(1, 3);
    let leader = network.elect();
    let dead = others(&network, leader)[0];
    network.crash(dead);
    network.run_for(milliseconds(2000));
    assert_eq!((network.leader(), network.raft(leader).term()), (Some(leader), Term(1)));
}

#[test]
fn who_heard_from_a_leader_votes_for_nobody_and_takes_over_no_term() {
    let mut lone = Lone::follower(&[1, 2, 3], &[1], 0);
    let deadline = lone.raft.poll_timeout();
    lone.now = lone.now + milliseconds(99);
    assert_eq!(lone.vote(3, 9, (5, 5), false), ["n3 <- vote-answer promised term=1 asked=9"]);
    assert_eq!(lone.pre_vote(3, 9, (5, 5)), ["n3 <- pre-vote-answer promised term=1 proposed=9"]);
    assert_eq!((lone.raft.term(), lone.raft.leader(), lone.raft.poll_timeout()), (Term(1), Some(node(2)), deadline));
    lone.now = lone.now + milliseconds(1);
    assert!(lone.vote(3, 9, (5, 5), false)[1].contains("granted"), "the promise is over");
}

#[test]
fn a_leader_in_contact_refuses_and_keeps_the_promise_when_it_leads_no_more() {
    let mut lone = Lone::ready_leader(&[1, 2, 3]);
    lone.wait(milliseconds(60));
    lone.ack(2, 4, (1, 1));
    assert_eq!(lone.vote(3, 9, (5, 5), false), ["n3 <- vote-answer promised term=1 asked=9"]);
    assert_eq!(lone.raft.role(), RaftRole::Leader);
    // Deposed by a later term, it counted itself for a lease from the heartbeat that was sent after 60 ms.
    let (term, sequence, last) = (Term(2), PulseSequence(4), position((1, 1)));
    lone.pulse(3, PulseMessage::HeartbeatAck { term, sequence, last, promise: milliseconds(100) });
    assert_eq!((lone.raft.role(), lone.raft.term()), (RaftRole::Follower, Term(2)));
    lone.now = lone.now + milliseconds(99);
    assert_eq!(lone.vote(3, 9, (5, 5), false), ["n3 <- vote-answer promised term=2 asked=9"]);
    lone.now = lone.now + milliseconds(1);
    assert!(lone.vote(3, 9, (5, 5), false)[1].contains("granted"));
}

#[test]
fn a_candidate_asks_again_until_it_is_decided_and_only_those_who_have_not_granted() {
    let mut lone = Lone::founder(&[1, 2, 3, 4, 5]);
    let asked = |texts: &[String]| texts.iter().filter_map(|text| text.get(..2)).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(asked(&lone.campaign()[1..]), ["n2", "n3", "n4", "n5"]);
    lone.grant_from(&[3], 1, true);
    assert!(lone.wait(milliseconds(49)).is_empty());
    assert_eq!(asked(&lone.wait(milliseconds(1))), ["n2", "n4", "n5"]);
}

#[test]
fn a_vote_that_is_split_is_tried_again_after_the_random_part_alone() {
    let mut lone = Lone::founder(&[1, 2, 3]);
    lone.campaign();
    lone.grant_from(&[2], 1, true);
    let refused = PulseMessage::VoteAnswer { term: Term(1), asked: Term(1), verdict: Verdict::Refused };
    lone.pulse(2, refused.clone());
    assert_eq!(lone.raft.role(), RaftRole::Candidate, "node 3 may still vote for it");
    lone.pulse(3, refused);
    assert_eq!(lone.raft.role(), RaftRole::Follower);
    let wait = lone.raft.poll_timeout().since(lone.now);
    assert!(wait >= milliseconds(40) && wait < milliseconds(80), "{wait:?}");
}

#[test]
fn a_promise_is_no_refusal_for_good() {
    let mut lone = Lone::founder(&[1, 2, 3]);
    lone.campaign();
    for from in [2, 3] {
        let verdict = Verdict::Promised;
        lone.pulse(from, PulseMessage::PreVoteAnswer { term: Term(0), proposed: Term(1), verdict });
    }
    assert_eq!(lone.raft.role(), RaftRole::PreCandidate);
}

#[test]
fn answers_to_another_campaign_or_of_a_stranger_count_for_nothing() {
    let mut lone = Lone::founder(&[1, 2, 3]);
    lone.campaign();
    lone.grant_from(&[2, 3], 2, true);
    lone.grant_from(&[2, 3], 1, false);
    lone.grant_from(&[7, 8], 1, true);
    let (term, verdict) = (Term(40), Verdict::Refused);
    lone.pulse(7, PulseMessage::PreVoteAnswer { term, proposed: Term(1), verdict });
    lone.pulse(2, PulseMessage::PreVoteAnswer { term, proposed: Term(5), verdict });
    assert_eq!((lone.raft.role(), lone.raft.term()), (RaftRole::PreCandidate, Term(0)));
    lone.pulse(2, PulseMessage::PreVoteAnswer { term: Term(4), proposed: Term(1), verdict });
    assert_eq!((lone.raft.role(), lone.raft.term()), (RaftRole::Follower, Term(4)), "this one is told what to beat");
}

#[test]
fn an_old_or_doubled_heartbeat_changes_nothing_and_extends_no_timer() {
    let mut lone = Lone::follower(&[1, 2, 3], &[1], 0);
    assert_eq!(lone.heartbeat(2, 1, 5), ["n2 <- heartbeat-ack #5 term=1 last=1@1"]);
    let before = (lone.raft.poll_timeout(), lone.raft.leader_heard_at());
    lone.now = lone.now + milliseconds(10);
    for sequence in [5, 4, 0] {
        assert!(lone.heartbeat(2, 1, sequence).is_empty(), "{sequence}");
    }
    assert_eq!((lone.raft.poll_timeout(), lone.raft.leader_heard_at()), before);
    lone.campaign();
    assert!(lone.heartbeat(2, 1, 5).is_empty(), "nor does it end a campaign");
    assert_eq!(lone.raft.role(), RaftRole::PreCandidate);
    assert_eq!(lone.heartbeat(2, 1, 6)[0], "Follower in term 1, led by n2", "a new one does");
}

#[test]
fn an_append_counts_as_a_heartbeat() {
    let mut lone = Lone::follower(&[1, 2, 3], &[1], 0);
    lone.now = lone.now + milliseconds(90);
    lone.append(2, 1, (1, 1), vec![], 0);
    assert_eq!(lone.raft.leader_heard_at(), Some(lone.now));
    lone.now = lone.now + milliseconds(90);
    assert_eq!(lone.vote(3, 2, (1, 1), false), ["n3 <- vote-answer promised term=1 asked=2"]);
}

#[test]
fn a_deposed_leaders_messages_are_answered_with_the_term_that_deposed_it() {
    let mut lone = Lone::follower(&[1, 2, 3], &[4], 0);
    assert_eq!(lone.heartbeat(3, 2, 9), ["n3 <- heartbeat-ack #9 term=4 last=1@4"]);
    let expected = ["n3 <- append-answer term=4 conflict: has 1@4, that term from 1"];
    assert_eq!(lone.append(3, 2, (1, 2), vec![entry(2, 2)], 0), expected);
    assert_eq!(lone.raft.leader(), Some(node(2)));
    let mut leader = Lone::leader(&[1, 2, 3], &[1], 0);
    let (sequence, last) = (PulseSequence(1), position((1, 1)));
    leader.pulse(3, PulseMessage::HeartbeatAck { term: Term(7), sequence, last, promise: milliseconds(100) });
    assert_eq!((leader.raft.role(), leader.raft.term()), (RaftRole::Follower, Term(7)));
}

#[test]
fn a_heartbeat_commits_what_it_names_as_shared_and_no_more() {
    let heartbeat = |matched, commit| {
        let (sequence, commit) = (PulseSequence(1), LogIndex(commit));
        PulseMessage::Heartbeat { term: Term(1), sequence, matched: position(matched), commit }
    };
    for (matched, commit, expected) in [((2, 1), 2, 2), ((2, 1), 3, 2), ((3, 1), 1, 1), ((3, 9), 3, 0), ((9, 1), 9, 0)]
    {
        let mut lone = Lone::follower(&[1, 2, 3], &[1, 1, 1], 0);
        lone.pulse(2, heartbeat(matched, commit));
        assert_eq!(lone.raft.commit_index(), LogIndex(expected), "{matched:?} {commit}");
    }
}

#[test]
fn contact_is_the_send_time_of_what_was_acked_and_late_acks_do_not_count_for_more() {
    let mut lone = Lone::ready_leader(&[1, 2, 3]);
    let begin = lone.now;
    lone.wait(milliseconds(59));
    assert_eq!(lone.raft.quorum_contact(), Some(begin));
    lone.ack(2, 3, (1, 1));
    assert_eq!(lone.raft.quorum_contact(), Some(begin + milliseconds(40)), "the third was sent after 40 ms");
    let acked_at = lone.raft.peer_acked_at(node(2));
    assert_eq!(acked_at, Some(begin + milliseconds(59)));
    lone.now = lone.now + milliseconds(1);
    for sequence in [3, 2, 99] {
        lone.ack(2, sequence, (1, 1));
    }
    lone.ack(3, 1, (1, 1));
    assert_eq!(lone.raft.quorum_contact(), Some(begin + milliseconds(40)), "doubled, old, never sent");
    assert_eq!(lone.raft.peer_acked_at(node(2)), acked_at);
    assert_eq!(lone.raft.round_trip(node(2)), Some(milliseconds(19) / 8), "an eighth of 19 ms after one of 0");
}

#[test]
fn while_a_leader_that_is_cut_off_counts_on_its_lease_nobody_else_leads() {
    for seed in 0..50 {
        let mut network = Network::founded(seed, 3);
        let old = network.elect();
        network.run_for(milliseconds(seed));
        network.isolate(old);
        let mut lease_ends = network.now;
        let replaced = |network: &Network| network.leader().is_some_and(|leader| leader != old);
        while !network.run_until(milliseconds(1), replaced) {
            let contact = network.raft(old).quorum_contact();
            lease_ends = contact.map_or(lease_ends, |contact| contact + network.raft(old).lease());
        }
        let served = network.now.since(lease_ends);
        assert!(served > milliseconds(0) && served < milliseconds(200), "{served:?}, seed {seed}");
    }
}

#[test]
fn an_ack_that_lacks_entries_starts_a_sync_at_once() {
    // The new leader believes nothing yet; node 2 says its log ends with entries that the leader hasn't got.
    let mut lone = Lone::leader(&[1, 2, 3], &[1, 1, 4], 0);
    lone.matched(2, 3, 4);
    let texts = lone.ack(2, 1, (4, 5));
    assert!(texts.is_empty(), "what it names is what the leader believes: {texts:?}");
    let mut lone = Lone::leader(&[1, 2, 3], &[1, 1, 4], 0);
    lone.wait(milliseconds(59));
    let texts = lone.ack(2, 3, (5, 3));
    assert_eq!(texts, ["n2 <- append term=5 previous=2@1 commit=0 []"], "a probe where the logs may part");
}

#[test]
fn an_append_that_was_lost_is_noticed_by_the_ack_and_else_by_the_clock() {
    let lost = |lone: &mut Lone| {
        lone.raft.propose(lone.now, command("x")).expect("a leader takes it");
        lone.drain()
    };
    let mut lone = Lone::ready_leader(&[1, 2, 3]);
    assert!(lost(&mut lone).iter().any(|text| text == "n2 <- append term=1 previous=1@1 commit=1 [2@1 \"x\"]"));
    lone.wait(milliseconds(21));
    assert!(lone.ack(2, 1, (1, 1)).is_empty(), "an old ack");
    let probe = "n2 <- append term=1 previous=1@1 commit=1 []";
    assert_eq!(lone.ack(2, 2, (1, 1)), [probe], "a probe first, without the entries");
    lone.wait(milliseconds(19));
    assert!(lone.ack(2, 3, (1, 1)).is_empty(), "one at a time");
    let again = lone.matched(2, 1, 1);
    assert_eq!(again, ["n2 <- append term=1 previous=1@1 commit=1 [2@1 \"x\"]"], "the stream lives");

    let mut silent = Lone::ready_leader(&[1, 2, 3]);
    lost(&mut silent);
    let texts = silent.wait(milliseconds(99));
    assert!(!texts.contains(&probe.to_owned()), "{texts:?}");
    silent.ack(3, 4, (1, 1));
    assert!(silent.wait(milliseconds(21)).contains(&probe.to_owned()));
}

#[test]
fn a_dead_stream_is_not_filled_with_the_same_entries_over_and_over() {
    let mut lone = Lone::ready_leader(&[1, 2]);
    lone.raft.propose(lone.now, command("x")).expect("a leader takes it");
    lone.drain();
    let mut texts = Vec::new();
    for sequence in 2..10 {
        texts.extend(lone.wait(milliseconds(20)));
        texts.extend(lone.ack(2, sequence, (1, 1)));
    }
    let appends: Vec<&String> = texts.iter().filter(|text| text.contains("append")).collect();
    assert!(!appends.is_empty() && appends.iter().all(|text| text.ends_with("[]")), "{appends:?}");
}

#[test]
fn appends_are_sent_without_waiting_but_only_so_many() {
    let mut lone = Lone::ready_leader(&[1, 2, 3]);
    let mut sent = 0;
    for _ in 0..50 {
        lone.raft.propose(lone.now, command("x")).expect("a leader takes it");
        sent += lone.drain().iter().filter(|text| text.starts_with("n2 <- append")).count();
    }
    assert_eq!(sent, 16, "in flight to node 2");
    let texts = lone.matched(2, 1, 3);
    let rest: Vec<&String> = texts.iter().filter(|text| text.starts_with("n2 <- append")).collect();
    assert!(rest[0].contains("previous=17@1") && rest[0].contains("51@1"), "the rest goes in one: {rest:?}");
}

#[test]
fn too_much_that_is_not_committed_makes_a_leader_busy() {
    let mut lone = Lone::ready_leader(&[1, 2, 3]);
    let large = vec![0; 1 << 20];
    let taken = (0..20).take_while(|_| lone.raft.propose(lone.now, large.clone().into()).is_ok()).count();
    assert_eq!(taken, 7, "of 1 MiB, with what is added to each");
    assert_eq!(lone.raft.propose(lone.now, large.into()), Err(ProposeError::Busy));
    lone.matched(2, 1, 2);
    assert!(lone.raft.propose(lone.now, command("x")).is_ok(), "one is committed");

    let mut lone = Lone::ready_leader(&[1, 2, 3]);
    let taken = (0..9999).take_while(|_| lone.raft.propose(lone.now, command("")).is_ok()).count();
    assert_eq!(taken, 4096);
}

#[test]
fn a_leader_whose_stream_is_dead_steps_down_though_its_pulse_is_well_and_another_one_leads() {
    let mut network = Network::founded(4, 3);
    let old = network.elect();
    for other in others(&network, old) {
        network.cut_stream((old, other));
        network.cut_stream((other, old));
    }
    network.run_for(milliseconds(1000));
    assert_eq!(network.leader(), Some(old), "as long as no entry waits, nothing is amiss");
    network.propose(old, "x");
    network.run_for(milliseconds(190));
    assert_eq!(network.raft(old).role(), RaftRole::Leader);
    let replaced = |network: &Network| {
        network.leader().is_some_and(|leader| leader != old && network.raft(leader).is_ready_leader())
    };
    assert!(network.run_until(milliseconds(400), replaced), "{}", network.overview());
    network.heal();
    network.run_for(milliseconds(1000));
    let logs: Vec<LogIndex> = network.processes.values().map(|process| process.raft.commit_index()).collect();
    assert_eq!(logs[..2], logs[1..], "{}", network.overview());
}

#[test]
fn with_dead_pulses_the_leader_steps_down_and_all_is_well_when_they_come_back() {
    let mut network = Network::founded(4, 3);
    let old = network.elect();
    network.isolate(old);
    network.stream_cut.clear();
    network.run_for(milliseconds(400));
    assert_ne!(network.raft(old).role(), RaftRole::Leader, "{}", network.overview());
    network.heal();
    let leader = network.elect();
    network.propose(leader, "x");
    network.run_for(milliseconds(200));
    for node in network.processes.keys() {
        assert_eq!(network.commands(*node), ["x"], "{node}");
    }
}

#[test]
fn with_a_third_of_the_datagrams_lost_doubled_and_reordered_the_first_leader_stays() {
    let mut network = Network::founded(9, 3);
    let leader = network.elect();
    network.faults = Faults {
        pulse_lost_per_million: 300_000,
        pulse_doubled_per_million: 300_000,
        delay_jitter: milliseconds(10),
        ..Faults::NONE
    };
    network.run_for(milliseconds(200));
    let before = network.raft(leader).quorum_contact();
    network.run_for(milliseconds(800));
    assert_eq!(network.leader(), Some(leader), "{}", network.overview());
    assert!(network.raft(leader).quorum_contact() > before);
}

#[test]
fn transfer_the_heir_takes_over_at_once_with_everything_and_promises_do_not_hinder_it() {
    let mut network = Network::founded(6, 3);
    let old = network.elect();
    let heir = others(&network, old)[0];
    network.propose(old, "x");
    network.call(old, |raft, now| raft.transfer(now, heir)).expect("a transfer");
    let refused = network.call(old, |raft, now| raft.propose(now, command("y")));
    assert_eq!(refused, Err(ProposeError::Busy));
    assert_eq!(network.raft(old).transferring(), Some(heir));
    network.run_for(milliseconds(20));
    assert_eq!((network.leader(), network.commands(heir)), (Some(heir), vec!["x".to_owned()]));
    assert_eq!(network.raft(old).role(), RaftRole::Follower);
}

#[test]
fn a_transfer_waits_until_the_heir_has_the_whole_log_and_is_then_no_base_for_leases() {
    let mut lone = Lone::ready_leader(&[1, 2, 3]);
    lone.raft.propose(lone.now, command("x")).expect("a leader takes it");
    lone.raft.transfer(lone.now, node(2)).expect("a transfer");
    assert!(lone.drain().iter().all(|text| !text.contains("timeout-now")));
    assert!(lone.raft.quorum_contact().is_some());
    assert!(lone.matched(2, 1, 2).contains(&"n2 <- timeout-now term=1".to_owned()));
    assert_eq!(lone.raft.quorum_contact(), None, "an election may come that breaks the promises");
    assert!(lone.wait(milliseconds(20)).contains(&"n2 <- timeout-now term=1".to_owned()), "repeated");
}

#[test]
fn a_transfer_is_given_up_after_an_election_timeout_and_what_is_left_of_it_made_void() {
    let mut lone = Lone::ready_leader(&[1, 2, 3]);
    lone.raft.transfer(lone.now, node(2)).expect("a transfer");
    for sequence in 2..6 {
        lone.wait(milliseconds(20));
        lone.ack(3, sequence, (1, 1));
    }
    lone.ack(2, 5, (1, 1));
    assert_eq!(lone.raft.quorum_contact(), None, "node 2 may still get the message");
    let texts = lone.wait(milliseconds(20));
    assert_eq!(lone.raft.transferring(), None);
    assert!(lone.raft.propose(lone.now, command("x")).is_ok());
    assert_eq!(lone.raft.quorum_contact(), None);
    let void = texts.iter().filter_map(|text| text.strip_prefix("n2 <- heartbeat #")).next_back().expect("a heartbeat");
    let sequence = void.split(' ').next().and_then(|number| number.parse().ok()).expect("a number");
    assert!(sequence > 1 << 20, "past the numbers that the hand-over reserved: {sequence}");
    lone.ack(2, sequence, (1, 1));
    assert!(lone.raft.quorum_contact().is_some(), "node 2 will ignore it now");
}

#[test]
fn a_leader_whose_heir_falls_silent_steps_down_so_that_a_new_term_makes_the_hand_over_void() {
    let mut network = Network::founded(6, 3);
    let old = network.elect();
    let heir = others(&network, old)[0];
    // Told, and then cut off before it can do anything.
    network.call(old, |raft, now| raft.transfer(now, heir)).expect("a transfer");
    network.isolate(heir);
    network.run_for(milliseconds(290));
    assert_eq!((network.raft(old).role(), network.raft(old).quorum_contact()), (RaftRole::Leader, None));
    network.run_for(milliseconds(30));
    assert_ne!(network.raft(old).role(), RaftRole::Leader);
    let leader = network.elect();
    assert!(network.raft(leader).term() > Term(1));
}

#[test]
fn only_the_present_leaders_word_that_is_not_void_starts_a_campaign() {
    for (from, term, valid_through, campaigns) in
        [(2, 1, 5, true), (2, 1, 4, false), (3, 1, 9, false), (2, 0, 9, false), (2, 2, 9, false)]
    {
        let mut lone = Lone::follower(&[1, 2, 3], &[1], 0);
        lone.heartbeat(2, 1, 5);
        let (term, valid_through) = (Term(term), PulseSequence(valid_through));
        let texts = lone.stream(from, StreamMessage::TimeoutNow { term, valid_through });
        assert_eq!(lone.raft.role() == RaftRole::Candidate, campaigns, "{from} {term} {valid_through}");
        if campaigns {
            assert_eq!(texts[1..], ["n2 <- vote term=2 last=1@1 transfer", "n3 <- vote term=2 last=1@1 transfer"]);
        }
    }
}

#[test]
fn a_vote_that_the_old_leader_asked_for_breaks_a_promise_but_not_the_rule_about_logs() {
    for (last, granted) in [((2, 1), true), ((0, 0), false)] {
        let mut lone = Lone::follower(&[1, 2, 3], &[1, 1], 0);
        let answer = lone.vote(3, 2, last, true).pop().expect("an answer");
        assert_eq!(answer.contains("granted"), granted, "{answer}");
    }
}

#[test]
fn a_new_leader_is_ready_once_an_own_entry_is_committed() {
    let mut lone = Lone::leader(&[1, 2, 3], &[1, 1], 1);
    assert!(!lone.raft.is_ready_leader());
    lone.raft.propose(lone.now, command("x")).expect("commands may come before");
    lone.matched(2, 2, 3);
    assert!(lone.raft.is_ready_leader());
    let alone = Lone::leader(&[1], &[], 0);
    assert!(alone.raft.is_ready_leader(), "alone it is at once");
}

#[test]
fn datagrams_stay_small_whatever_they_say() {
    let (term, index) = (Term(u64::MAX), LogIndex(u64::MAX));
    let (position, sequence) = (LogPosition::new(index, term), PulseSequence(u64::MAX));
    let (promise, verdict) = (std::time::Duration::MAX, Verdict::Promised);
    for message in [
        PulseMessage::Heartbeat { term, sequence, matched: position, commit: index },
        PulseMessage::HeartbeatAck { term, sequence, last: position, promise },
        PulseMessage::PreVote { proposed: term, last: position },
        PulseMessage::PreVoteAnswer { term, proposed: term, verdict },
        PulseMessage::Vote { term, last: position, transfer: true },
        PulseMessage::VoteAnswer { term, asked: term, verdict },
    ] {
        let bytes = bincode::encode_to_vec(&message, standard()).expect("it encodes");
        assert!(bytes.len() <= 400, "{} bytes: {message}", bytes.len());
        let (decoded, _): (PulseMessage, usize) = bincode::decode_from_slice(&bytes, standard()).expect("it decodes");
        assert_eq!(decoded, message);
    }
}

#[test]
fn commands_are_bounded_in_bytes_when_batched() {
    let mut network = Network::founded_with(1, 3, 64);
    let leader = network.elect();
    for nth in 0..40 {
        network.propose(leader, &format!("command {nth}"));
    }
    network.run_for(milliseconds(200));
    let applied = network.processes.values().map(|process| process.applied.len()).min();
    assert_eq!(applied, Some(41), "{}", network.overview());
    let is_first = |payload: &Payload| matches!(payload, Payload::Members(_));
    assert!(network.processes.values().all(|process| is_first(&process.applied[0].payload)));
}
