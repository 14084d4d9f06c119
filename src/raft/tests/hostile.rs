//! Whatever a peer sends, nothing panics, and nothing that can't be true is believed.

use std::time::Duration;

use super::lone::{Lone, entry, position};
use crate::base::{Blob, LogIndex, Rng, Term, Timing};
use crate::raft::testing::{milliseconds, node, nodes};
use crate::raft::{
    AppendOutcome, Entry, LogPosition, Membership, Payload, PulseMessage, PulseSequence, RaftRole, Snapshot,
    StreamMessage, Verdict,
};

#[test]
fn an_append_that_would_change_what_is_committed_is_ignored() {
    for (previous, entries) in [
        ((2, 9), vec![]),
        ((2, 9), vec![entry(3, 9)]),
        ((1, 1), vec![entry(2, 9), entry(3, 9), entry(4, 9)]),
        ((0, 0), vec![entry(1, 9)]),
    ] {
        let mut lone = Lone::follower(&[1, 2, 3], &[1, 1, 1, 1], 3);
        let texts = lone.append(3, 9, previous, entries, 9);
        assert_eq!(texts, ["Follower in term 9, led by n3"], "{previous:?}");
        assert_eq!((lone.raft.last_index(), lone.raft.last_term()), (LogIndex(4), Term(1)), "{previous:?}");
    }
}

#[test]
fn an_append_that_no_leader_could_send_is_dropped_whole() {
    let nobody = Entry { payload: Payload::Members(Membership::default()), ..entry(2, 1) };
    let never = Timing { heartbeat: Duration::ZERO, ..Timing::default() };
    let far = Timing { election: Duration::MAX, heartbeat: Duration::MAX, ..Timing::default() };
    let timing = |timing| Entry { payload: Payload::Timing(timing), ..entry(2, 1) };
    for entries in [
        vec![entry(3, 1)],
        vec![entry(2, 1), entry(4, 1)],
        vec![entry(2, 0)],
        vec![entry(2, 2)],
        vec![entry(2, 1), entry(2, 1)],
        vec![nobody],
        vec![timing(never)],
        vec![timing(far)],
    ] {
        let mut lone = Lone::follower(&[1, 2, 3], &[1], 0);
        let text = format!("{entries:?}");
        assert!(lone.append(2, 1, (1, 1), entries, 9).is_empty(), "{text}");
        assert_eq!(lone.raft.last_index(), LogIndex(1), "{text}");
    }
}

#[test]
fn a_leader_believes_nobody_who_says_to_have_what_does_not_exist() {
    let mut lone = Lone::leader(&[1, 2, 3], &[1], 0);
    lone.matched(2, 1, 3);
    lone.ack(3, 1, (3, 2));
    lone.ack(3, 1, (2, 1));
    assert_eq!(lone.raft.commit_index(), LogIndex(0));
    assert_eq!([2, 3].map(|other| lone.raft.match_index(node(other))), [Some(LogIndex(0)), Some(LogIndex(0))]);
}

#[test]
fn a_conflict_that_is_out_of_date_changes_nothing() {
    let mut lone = Lone::ready_leader(&[1, 2, 3]);
    let outcome = AppendOutcome::Conflict { found: LogPosition::ZERO, first_of_term: LogIndex(0) };
    for previous in [0, 1, 7] {
        let answer = StreamMessage::AppendAnswer { term: Term(1), previous: LogIndex(previous), outcome };
        assert!(lone.stream(2, answer).is_empty(), "{previous}");
    }
}

#[test]
fn a_term_that_no_cluster_reaches_is_dropped() {
    let mut lone = Lone::follower(&[1, 2, 3], &[1], 0);
    lone.now = lone.now + milliseconds(100);
    assert!(lone.vote(3, u64::MAX, (9, 9), true).is_empty());
    assert!(lone.heartbeat(3, u64::MAX, 1).is_empty());
    assert!(lone.append(3, u64::MAX, (0, 0), vec![], 0).is_empty());
    assert_eq!(lone.raft.term(), Term(1));
}

/// Mostly small numbers, which mean something, and now and then one at an end of the range.
fn number(dice: &mut Rng) -> u64 {
    match dice.below(12) {
        0 => u64::MAX - dice.below(2),
        1 => (1 << 61) + dice.below(3) - 1,
        _ => dice.below(7),
    }
}

fn place(dice: &mut Rng) -> LogPosition {
    position((number(dice), number(dice)))
}

fn verdict(dice: &mut Rng) -> Verdict {
    [Verdict::Granted, Verdict::Promised, Verdict::Refused][dice.below(3) as usize]
}

fn membership(dice: &mut Rng) -> Membership {
    let mut some = || nodes(&(1..=5).filter(|_| dice.below(3) == 0).collect::<Vec<u8>>());
    Membership { voters: some(), outgoing: some(), learners: some() }
}

fn timing(dice: &mut Rng) -> Timing {
    let mut time = || [Duration::MAX, Duration::ZERO, milliseconds(dice.below(500))][dice.below(3) as usize];
    Timing { heartbeat: time(), election: time(), election_jitter: time(), lease: time(), down: time() }
}

fn payload(dice: &mut Rng) -> Payload {
    match dice.below(4) {
        0 => Payload::Members(membership(dice)),
        1 => Payload::Timing(timing(dice)),
        2 => Payload::Noop,
        _ => Payload::Command(Blob::default()),
    }
}

fn entries(dice: &mut Rng, previous: LogPosition) -> Vec<Entry> {
    let mut next = previous;
    let mut entry = |dice: &mut Rng| {
        next.index = LogIndex(next.index.0.wrapping_add(if dice.below(9) == 0 { number(dice) } else { 1 }));
        next.term = Term(next.term.0.wrapping_add(dice.below(2)));
        Entry { index: next.index, term: next.term, payload: payload(dice) }
    };
    (0..dice.below(4)).map(|_| entry(dice)).collect()
}

fn pulse(dice: &mut Rng) -> PulseMessage {
    let (term, sequence) = (Term(number(dice)), PulseSequence(number(dice)));
    match dice.below(6) {
        0 => PulseMessage::Heartbeat { term, sequence, matched: place(dice), commit: LogIndex(number(dice)) },
        1 => PulseMessage::HeartbeatAck { term, sequence, last: place(dice), promise: milliseconds(number(dice)) },
        2 => PulseMessage::PreVote { proposed: term, last: place(dice) },
        3 => PulseMessage::PreVoteAnswer { term, proposed: Term(number(dice)), verdict: verdict(dice) },
        4 => PulseMessage::Vote { term, last: place(dice), transfer: dice.below(2) == 0 },
        _ => PulseMessage::VoteAnswer { term, asked: Term(number(dice)), verdict: verdict(dice) },
    }
}

fn stream(dice: &mut Rng) -> StreamMessage {
    let (term, previous) = (Term(number(dice)), place(dice));
    match dice.below(6) {
        0 | 1 => {
            StreamMessage::Append { term, previous, entries: entries(dice, previous), commit: LogIndex(number(dice)) }
        }
        2 => StreamMessage::AppendAnswer {
            term,
            previous: previous.index,
            outcome: match dice.below(2) {
                0 => AppendOutcome::Matched { through: LogIndex(number(dice)) },
                _ => AppendOutcome::Conflict { found: place(dice), first_of_term: LogIndex(number(dice)) },
            },
        },
        3 => StreamMessage::InstallSnapshot {
            term,
            snapshot: Snapshot {
                index: previous.index,
                term: previous.term,
                membership: membership(dice),
                timing: if dice.below(2) == 0 { timing(dice) } else { Timing::default() },
                state: Blob::default(),
            },
        },
        4 => StreamMessage::SnapshotAnswer { term, through: previous.index },
        _ => StreamMessage::TimeoutNow { term, valid_through: PulseSequence(number(dice)) },
    }
}

#[test]
fn no_message_makes_it_panic() {
    let mut roles = std::collections::BTreeSet::new();
    for seed in 0..3000 {
        let mut dice = Rng::new(seed);
        let mut lone = match dice.below(4) {
            0 => Lone::learner(),
            1 => Lone::founder(&[1, 2, 3]),
            2 => Lone::follower(&[1, 2, 3], &[1, 1, 2], 1),
            _ => Lone::leader(&[1, 2, 3], &[1, 1], 1),
        };
        for _ in 0..40 {
            let from = 1 + dice.below(5) as u8;
            match dice.below(8) {
                0 => drop(lone.wait(milliseconds(dice.below(100)))),
                1 if lone.raft.log_length() > 0 => lone.raft.compact(lone.raft.commit_index(), Blob::default()),
                2 => drop(lone.raft.propose(lone.now, Blob::default())),
                3 | 4 => drop(lone.stream(from, stream(&mut dice))),
                _ => drop(lone.pulse(from, pulse(&mut dice))),
            }
            lone.raft.check_invariants();
            roles.insert(lone.raft.role());
        }
    }
    let all = [RaftRole::Learner, RaftRole::Follower, RaftRole::PreCandidate, RaftRole::Candidate, RaftRole::Leader];
    assert_eq!(roles.into_iter().collect::<Vec<_>>(), all, "every role was tried");
}
