//! Logs and snapshots: the claims of the Raft paper's sections 5.3 to 5.5 and 7 (Ongaro and Ousterhout, "In Search of an
//! Understandable Consensus Algorithm", 2014). Sections 5.1, 5.2 and 5.6 are in `elections`, section 6 in `changes`.

use super::lone::{Lone, entry, position, snapshot};
use crate::base::{Blob, LogIndex, Term};
use crate::raft::testing::{Faults, Network, command, milliseconds, node, nodes};
use crate::raft::{AppendOutcome, Membership, Output, Payload, PulseMessage, RaftRole, StreamMessage, Verdict};

/// Long enough for any promise to be over, and too short for a campaign.
fn after_promise(lone: &mut Lone) {
    lone.now = lone.now + milliseconds(100);
}

#[test]
fn election_safety_a_voter_votes_once_a_term_and_repeats_its_answer() {
    let mut lone = Lone::founder(&[1, 2, 3]);
    let granted = ["Follower in term 1, led by nobody", "n2 <- vote-answer granted term=1 asked=1"];
    assert_eq!(lone.vote(2, 1, (0, 0), false), granted);
    assert_eq!(lone.vote(3, 1, (0, 0), false), ["n3 <- vote-answer refused term=1 asked=1"]);
    assert_eq!(lone.vote(2, 1, (0, 0), false), [granted[1]], "the first candidate's request, doubled");
    assert_eq!(lone.vote(3, 2, (0, 0), false)[1], "n3 <- vote-answer granted term=2 asked=2", "a new term, a new vote");
    assert_eq!(lone.vote(2, 1, (0, 0), false), ["n2 <- vote-answer refused term=2 asked=1"]);
}

#[test]
fn votes_go_only_to_candidates_whose_log_is_as_recent() {
    // The voter's log ends with 3@2: the later last term wins, then the longer log.
    for (last, expected) in [
        ((3, 2), true),
        ((4, 2), true),
        ((2, 3), true),
        ((1, 9), true),
        ((2, 2), false),
        ((9, 1), false),
        ((0, 0), false),
    ] {
        for is_pre in [true, false] {
            let mut lone = Lone::follower(&[1, 2, 3], &[1, 1, 2], 0);
            after_promise(&mut lone);
            let answers = if is_pre { lone.pre_vote(3, 10, last) } else { lone.vote(3, 10, last, false) };
            let granted = answers.last().expect("an answer").contains("granted");
            assert_eq!(granted, expected, "{last:?}, only asked: {is_pre}");
        }
    }
}

#[test]
fn a_pre_vote_is_granted_only_for_a_later_term_and_changes_nothing() {
    let mut lone = Lone::follower(&[1, 2, 3], &[5], 0);
    after_promise(&mut lone);
    assert_eq!(lone.pre_vote(3, 5, (1, 5)), ["n3 <- pre-vote-answer refused term=5 proposed=5"]);
    assert_eq!(lone.pre_vote(3, 6, (1, 5)), ["n3 <- pre-vote-answer granted term=5 proposed=6"]);
    assert_eq!(lone.pre_vote(2, 6, (1, 5)), ["n2 <- pre-vote-answer granted term=5 proposed=6"], "to anybody");
}

#[test]
fn leader_append_only_nothing_makes_a_leader_change_its_own_log() {
    let mut lone = Lone::leader(&[1, 2, 3], &[1], 0);
    assert_eq!(lone.raft.last_index(), LogIndex(2));
    assert!(lone.append(3, 2, (0, 0), vec![entry(1, 2)], 1).is_empty(), "an append of its own term");
    assert_eq!((lone.raft.role(), lone.raft.last_index()), (RaftRole::Leader, LogIndex(2)));
}

#[test]
fn log_matching_an_append_that_builds_on_a_missing_entry_is_answered_with_what_is_there() {
    let mut lone = Lone::follower(&[1, 2, 3], &[1, 2, 2, 3, 3], 0);
    let conflict = |lone: &mut Lone, previous| lone.append(2, 3, previous, vec![], 0);
    let expected = ["n2 <- append-answer term=3 conflict: has 5@3, that term from 4"];
    assert_eq!(conflict(&mut lone, (9, 3)), expected, "the log ends before");
    let expected = ["n2 <- append-answer term=3 conflict: has 3@2, that term from 2"];
    assert_eq!(conflict(&mut lone, (3, 3)), expected, "another term there");
}

#[test]
fn log_matching_a_conflicting_entry_goes_with_all_that_follow_it() {
    let mut lone = Lone::follower(&[1, 2, 3], &[1, 2, 2, 2], 0);
    let answers = lone.append(3, 4, (1, 1), vec![entry(2, 2), entry(3, 4)], 0);
    assert_eq!(answers.last().expect("an answer"), "n3 <- append-answer term=4 matched through 3");
    let terms: Vec<u64> = (1..=3).filter_map(|index| lone.raft.entry(LogIndex(index))).map(|e| e.term.0).collect();
    assert_eq!((terms, lone.raft.last_index()), (vec![1, 2, 4], LogIndex(3)));
}

#[test]
fn an_old_append_takes_away_nothing_that_came_after_it() {
    let mut lone = Lone::follower(&[1, 2, 3], &[1, 1, 1, 1], 0);
    assert_eq!(
        lone.append(2, 1, (0, 0), vec![entry(1, 1), entry(2, 1)], 0),
        ["n2 <- append-answer term=1 matched through 2"]
    );
    assert_eq!(lone.raft.last_index(), LogIndex(4));
}

#[test]
fn an_entry_is_committed_once_a_majority_has_it_and_all_before_it_go_first() {
    let mut lone = Lone::ready_leader(&[1, 2, 3, 4, 5]);
    for text in ["a", "b", "c"] {
        lone.raft.propose(lone.now, command(text)).expect("a leader takes it");
    }
    let commits = |texts: Vec<String>| texts.into_iter().filter(|text| text.starts_with("commits")).collect::<Vec<_>>();
    lone.drain();
    assert!(commits(lone.matched(2, 1, 4)).is_empty(), "two of five");
    assert_eq!(commits(lone.matched(3, 1, 3)), ["commits 2@1 \"a\"", "commits 3@1 \"b\""]);
    assert!(commits(lone.matched(4, 1, 3)).is_empty(), "they are committed already, and c is with two");
    assert_eq!(commits(lone.matched(5, 1, 4)), ["commits 4@1 \"c\""]);
}

#[test]
fn a_leader_offers_entries_without_end_to_one_who_lacks_them_though_they_are_committed() {
    let mut lone = Lone::ready_leader(&[1, 2, 3]);
    lone.raft.propose(lone.now, command("x")).expect("a leader takes it");
    lone.drain();
    lone.matched(2, 1, 2);
    assert_eq!(lone.raft.commit_index(), LogIndex(2), "whoever asked for it may be told");
    let mut sequence = 1;
    for second in 1..=20 {
        let mut offers = 0;
        for _ in 0..50 {
            sequence += 1;
            let texts = lone.wait(lone.raft.timing().heartbeat);
            offers += texts.iter().filter(|text| text.starts_with("n3 <- append")).count();
            lone.ack(2, sequence, (2, 1));
        }
        assert!(offers > 0, "none in second {second}");
    }
    let texts = lone.matched(3, 1, 1);
    assert_eq!(texts, ["n3 <- append term=1 previous=1@1 commit=2 [2@1 \"x\"]"], "as soon as it answers");
}

#[test]
fn requests_that_come_twice_are_answered_twice_and_done_once() {
    let mut lone = Lone::follower(&[1, 2, 3], &[1], 0);
    let mut append = || lone.append(2, 1, (1, 1), vec![entry(2, 1), entry(3, 1)], 2);
    let answer = "n2 <- append-answer term=1 matched through 3";
    assert_eq!(append(), ["commits 1@1 \"1@1\"", "commits 2@1 \"2@1\"", answer]);
    assert_eq!(append(), [answer]);
    assert_eq!(lone.raft.last_index(), LogIndex(3));
    let mut install = || {
        let install = StreamMessage::InstallSnapshot { term: Term(1), snapshot: snapshot(7, 1, &[1, 2, 3]) };
        lone.stream(2, install)
    };
    let answer = "n2 <- snapshot-answer term=1 through 7";
    assert_eq!(install(), ["restores 7@1", answer]);
    assert_eq!(install(), [answer]);
}

#[test]
fn a_follower_commits_only_through_what_the_append_covers() {
    let mut lone = Lone::follower(&[1, 2, 3], &[1, 1, 1], 0);
    // It may share no more with this leader than entry 2, so that the leader's 3 may be another one.
    lone.append(3, 2, (1, 1), vec![entry(2, 1)], 3);
    assert_eq!(lone.raft.commit_index(), LogIndex(2));
}

#[test]
fn figure_8_an_entry_of_an_earlier_term_is_not_committed_by_counting() {
    let mut lone = Lone::leader(&[1, 2, 3, 4, 5], &[1, 2], 1);
    lone.matched(2, 1, 2);
    assert!(
        lone.matched(3, 1, 2).iter().all(|text| !text.contains("commits")),
        "three of five have entry 2, of term 2"
    );
    assert_eq!(lone.raft.commit_index(), LogIndex(1));
    lone.matched(2, 2, 3);
    let texts = lone.matched(3, 2, 3);
    let commits: Vec<&String> = texts.iter().filter(|text| text.starts_with("commits")).collect();
    assert_eq!(commits, ["commits 2@2 \"2@2\"", "commits 3@3 noop"], "the own entry takes the earlier one along");
}

#[test]
fn leader_completeness_and_state_machine_safety_through_a_chain_of_leaders() {
    let mut network = Network::founded(7, 5);
    let mut expected = Vec::new();
    for round in 0..3 {
        let leader = network.elect();
        for nth in 0..5 {
            let text = format!("{round}.{nth}");
            network.propose(leader, &text);
            expected.push(text);
        }
        let everywhere = |network: &Network| {
            let all = expected.len();
            network.processes.keys().all(|node| network.commands(*node).len() == all)
        };
        assert!(network.run_until(milliseconds(500), everywhere), "{}", network.overview());
        if round < 2 {
            network.crash(leader);
        }
    }
    for survivor in network.processes.keys().copied().collect::<Vec<_>>() {
        assert_eq!(network.commands(survivor), expected, "{survivor}");
    }
}

#[test]
fn what_only_a_deposed_leader_has_is_replaced() {
    let mut network = Network::founded(3, 3);
    let old = network.elect();
    network.isolate(old);
    network.propose(old, "lost");
    let deposed = network.run_until(milliseconds(1000), |network| {
        network.leader().is_some_and(|leader| leader != old && network.raft(leader).is_ready_leader())
    });
    assert!(deposed, "{}", network.overview());
    let new = network.leader().expect("a leader");
    network.propose(new, "kept");
    network.heal();
    network.run_for(milliseconds(500));
    for node in network.processes.keys() {
        assert_eq!(network.commands(*node), ["kept"], "{node}");
    }
}

#[test]
fn repair_takes_one_round_trip_for_each_term_in_which_the_logs_differ() {
    // The follower has ten entries each of terms 2 and 3 that the leader, of term 5, hasn't got.
    let mut lone = Lone::leader(&[1, 2, 3], &[&[1; 3][..], &[4; 30]].concat(), 0);
    let mut follower = Lone::follower(&[1, 2, 3], &[&[1; 3][..], &[2; 10], &[3; 10]].concat(), 0);
    let mut probe = StreamMessage::Append {
        term: Term(5),
        previous: position((33, 4)),
        entries: Vec::new(),
        commit: LogIndex::ZERO,
    };
    let mut asked = Vec::new();
    loop {
        if let StreamMessage::Append { previous, .. } = &probe {
            asked.push(*previous);
        }
        follower.raft.handle_stream(follower.now, node(3), probe);
        let outputs = std::iter::from_fn(|| follower.raft.poll_output());
        let answer = outputs.filter_map(|output| match output {
            Output::Stream { message, .. } => Some(message),
            _ => None,
        });
        let answer = answer.last().expect("an answer");
        if matches!(answer, StreamMessage::AppendAnswer { outcome: AppendOutcome::Matched { .. }, .. }) {
            break;
        }
        lone.raft.handle_stream(lone.now, node(2), answer);
        let Some(Output::Stream { message, .. }) = lone.raft.poll_output() else { panic!("no further probe") };
        probe = message;
    }
    // The first probe misses. The second skips all that the follower has of terms 3 and 2, as the leader has neither.
    assert_eq!(asked, [position((33, 4)), position((3, 1))]);
}

/// Sends what node 1 as the leader, whom the follower knows as node 3, has for node 2, and its answers back, until
/// nothing more is to be sent.
fn exchange(leader: &mut Lone, follower: &mut Lone) {
    let stream_to_2 = |output| match output {
        Output::Stream { to, message } if to == node(2) => Some(message),
        _ => None,
    };
    let answer = |output| match output {
        Output::Stream { message, .. } => Some(message),
        _ => None,
    };
    for _ in 0..20 {
        let messages: Vec<_> = std::iter::from_fn(|| leader.raft.poll_output()).filter_map(stream_to_2).collect();
        if messages.is_empty() {
            return;
        }
        messages.into_iter().for_each(|message| follower.raft.handle_stream(follower.now, node(3), message));
        let answers: Vec<_> = std::iter::from_fn(|| follower.raft.poll_output()).filter_map(answer).collect();
        answers.into_iter().for_each(|message| leader.raft.handle_stream(leader.now, node(2), message));
    }
    panic!("20 round trips were not enough");
}

#[test]
fn figure_7_a_leader_makes_each_of_the_logs_equal_to_its_own() {
    let logs: [(&str, &[u64]); 6] = [
        ("a", &[1, 1, 1, 4, 4, 5, 5, 6, 6]),
        ("b", &[1, 1, 1, 4]),
        ("c", &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6]),
        ("d", &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7]),
        ("e", &[1, 1, 1, 4, 4, 4, 4]),
        ("f", &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3]),
    ];
    for (name, terms) in logs {
        let mut leader = Lone::follower(&[1, 2, 3], &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6], 0);
        leader.heartbeat(2, 7, 1);
        leader.campaign();
        leader.grant_from(&[3], 8, true);
        let (term, verdict) = (Term(8), Verdict::Granted);
        leader.raft.handle_pulse(leader.now, node(3), PulseMessage::VoteAnswer { term, asked: term, verdict });
        let mut follower = Lone::follower(&[1, 2, 3], terms, 0);
        exchange(&mut leader, &mut follower);
        let log = |lone: &Lone| (1..=13).map(|index| lone.raft.entry(LogIndex(index)).cloned()).collect::<Vec<_>>();
        assert_eq!(log(&follower), log(&leader), "{name}");
        assert_eq!((leader.raft.last_index(), leader.raft.last_term()), (LogIndex(11), Term(8)), "{name}");
        assert_eq!(follower.raft.commit_index(), LogIndex(11), "{name}");
    }
}

#[test]
fn a_snapshot_replaces_a_log_that_does_not_reach_it() {
    let mut lone = Lone::follower(&[1, 2, 3], &[1, 1], 0);
    let install = StreamMessage::InstallSnapshot { term: Term(3), snapshot: snapshot(7, 2, &[1, 2, 4]) };
    let texts = lone.stream(2, install);
    assert_eq!(texts[1..], ["restores 7@2", "n2 <- snapshot-answer term=3 through 7"]);
    assert_eq!((lone.raft.last_index(), lone.raft.last_term(), lone.raft.log_length()), (LogIndex(7), Term(2), 0));
    assert_eq!(lone.raft.membership().voters, nodes(&[1, 2, 4]), "the snapshot's membership is in force");
    assert_eq!(lone.append(2, 3, (7, 2), vec![entry(8, 3)], 8)[0], "commits 8@3 \"8@3\"");
}

#[test]
fn a_snapshot_of_what_is_there_already_only_tells_that_it_is_committed() {
    let mut lone = Lone::follower(&[1, 2, 3], &[1, 1, 1, 1], 1);
    let install = |index| StreamMessage::InstallSnapshot { term: Term(1), snapshot: snapshot(index, 1, &[1, 2, 3]) };
    let expected = ["commits 2@1 \"2@1\"", "commits 3@1 \"3@1\"", "n2 <- snapshot-answer term=1 through 3"];
    assert_eq!(lone.stream(2, install(3)), expected);
    assert_eq!(lone.raft.last_index(), LogIndex(4), "what follows is kept");
    assert_eq!(lone.stream(2, install(2)), ["n2 <- snapshot-answer term=1 through 3"], "an old one changes nothing");
}

#[test]
fn a_snapshot_that_contradicts_the_log_replaces_all_of_it() {
    let mut lone = Lone::follower(&[1, 2, 3], &[1, 1, 1, 1], 1);
    let install = StreamMessage::InstallSnapshot { term: Term(3), snapshot: snapshot(3, 2, &[1, 2, 3]) };
    assert_eq!(lone.stream(3, install)[1..], ["restores 3@2", "n3 <- snapshot-answer term=3 through 3"]);
    assert_eq!((lone.raft.last_index(), lone.raft.last_term()), (LogIndex(3), Term(2)), "its 4@1 built on another 3");
}

#[test]
fn a_follower_compacts_by_itself_and_appends_that_build_on_what_is_gone_match() {
    let mut lone = Lone::follower(&[1, 2, 3], &[1, 1, 1, 1], 3);
    lone.raft.compact(LogIndex(3), Blob::from_static(b"state"));
    assert!(lone.drain().is_empty(), "nobody else hears of it");
    assert_eq!((lone.raft.snapshot_index(), lone.raft.log_length()), (LogIndex(3), 1), "the rest stays");
    let answer = ["n2 <- append-answer term=1 matched through 5"];
    assert_eq!(lone.append(2, 1, (1, 1), (2..=5).map(|index| entry(index, 1)).collect(), 0), answer);
    assert!(lone.append(2, 1, (3, 9), vec![], 0).is_empty(), "it knows the last term that the snapshot stands for");
}

#[test]
#[should_panic(expected = "compaction through 3, but only 2 is committed")]
fn only_what_is_committed_is_compacted() {
    let mut lone = Lone::follower(&[1, 2, 3], &[1, 1, 1], 2);
    lone.raft.compact(LogIndex(3), Blob::from_static(b"state"));
}

#[test]
fn a_snapshot_carries_the_membership_of_its_own_place() {
    let mut lone = Lone::ready_leader(&[1]);
    lone.raft.propose_learner(lone.now, node(2)).expect("a learner");
    lone.raft.propose_learner(lone.now, node(3)).expect("another");
    assert_eq!(lone.raft.commit_index(), LogIndex(3));
    lone.raft.compact(LogIndex(2), Blob::from_static(b"state"));
    lone.drain();
    // Node 2 has nothing, so what it needs is compacted.
    let outcome = AppendOutcome::Conflict { found: position((0, 0)), first_of_term: LogIndex(0) };
    let answer = StreamMessage::AppendAnswer { term: lone.raft.term(), previous: LogIndex(2), outcome };
    lone.raft.handle_stream(lone.now, node(2), answer);
    let Some(Output::Stream { message: StreamMessage::InstallSnapshot { snapshot, .. }, .. }) = lone.raft.poll_output()
    else {
        panic!("no snapshot for node 2")
    };
    assert_eq!((snapshot.index, snapshot.membership.learners), (LogIndex(2), nodes(&[2])));
}

#[test]
fn a_snapshot_that_is_not_answered_is_sent_again_with_more_patience() {
    let mut lone = Lone::follower(&[1, 2, 3], &[1, 1], 2);
    lone.raft.compact(LogIndex(2), Blob::from_static(b"state"));
    lone.campaign();
    lone.grant_from(&[2, 3], 2, true);
    lone.grant_from(&[3], 2, false);
    lone.matched(3, 2, 3);
    let texts = lone.ack(2, 1, (0, 0));
    assert!(texts.is_empty(), "a probe is under way: {texts:?}");
    let outcome = AppendOutcome::Conflict { found: position((0, 0)), first_of_term: LogIndex(0) };
    let answer = StreamMessage::AppendAnswer { term: Term(2), previous: LogIndex(2), outcome };
    assert_eq!(lone.stream(2, answer), ["n2 <- install-snapshot term=2 through 2@1"]);
    let mut sent = 0;
    for sequence in 2..30 {
        let texts = lone.wait(milliseconds(20));
        sent += texts.iter().filter(|text| text.contains("install-snapshot")).count();
        lone.ack(2, sequence, (0, 0));
        lone.ack(3, sequence, (3, 2));
    }
    assert_eq!(sent, 1, "in more than half a second");
}

#[test]
fn one_who_missed_what_is_compacted_gets_a_snapshot_and_then_the_rest_though_connections_break() {
    let mut network = Network::founded(5, 3);
    let leader = network.elect();
    let behind = *network.processes.keys().find(|node| **node != leader).expect("a follower");
    network.isolate(behind);
    for nth in 0..20 {
        network.propose(leader, &format!("c{nth}"));
    }
    network.run_for(milliseconds(100));
    let through = network.raft(leader).commit_index();
    let state = network.checker.state_at(through);
    network.call(leader, |raft, _| raft.compact(through, state));
    network.propose(leader, "after");
    network.heal();
    network.faults = Faults { reset_per_million: 500_000, ..Faults::NONE };
    let caught_up = |network: &Network| network.commands(behind).last().is_some_and(|last| last == "after");
    assert!(network.run_until(milliseconds(5000), caught_up), "{}", network.overview());
    assert_eq!(network.commands(behind), ["after"], "what came before came as a state");
}

#[test]
fn the_first_entry_of_all_states_the_membership_and_the_first_of_later_terms_nothing() {
    let lone = Lone::leader(&[1, 2, 3], &[], 0);
    let first = lone.raft.entry(LogIndex(1)).map(|entry| entry.payload.clone());
    assert_eq!(first, Some(Payload::Members(Membership::of_voters(nodes(&[1, 2, 3])))));
    let later = Lone::leader(&[1, 2, 3], &[1], 0);
    assert_eq!(later.raft.entry(LogIndex(2)).map(|entry| &entry.payload), Some(&Payload::Noop));
}
