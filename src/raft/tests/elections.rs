//! Terms and elections: the claims of the Raft paper's sections 5.1, 5.2 and 5.6. Whose log is good enough to be voted
//! for (5.4.1) is in `paper`, what becomes of a leader afterwards in `planes`.

use std::collections::BTreeSet;

use super::lone::{Lone, entry, snapshot};
use crate::base::{LogIndex, Term, Timing};
use crate::raft::testing::{Faults, Network, milliseconds, node};
use crate::raft::{
    AppendOutcome, LogPosition, ProposeError, PulseMessage, PulseSequence, RaftRole, StreamMessage, Verdict,
};

/// A way to tell a machine of term 9.
type Tell = fn(&mut Lone);

/// Node 1 of three, a candidate in term 2 by a pre-vote of node 2.
fn candidate() -> Lone {
    let mut lone = Lone::follower(&[1, 2, 3], &[1], 0);
    lone.campaign();
    lone.grant_from(&[2], 2, true);
    assert_eq!((lone.raft.role(), lone.raft.term()), (RaftRole::Candidate, Term(2)));
    lone
}

#[test]
fn terms_a_request_of_an_earlier_term_is_refused_and_changes_nothing() {
    let mut lone = Lone::follower(&[1, 2, 3], &[2], 0);
    lone.heartbeat(2, 4, 1);
    let state = |lone: &Lone| {
        let raft = &lone.raft;
        (raft.role(), raft.term(), raft.leader(), raft.leader_heard_at(), raft.last_index(), raft.poll_timeout())
    };
    let before = state(&lone);
    lone.now = lone.now + milliseconds(10);
    assert_eq!(lone.vote(3, 3, (9, 3), true), ["n3 <- vote-answer refused term=4 asked=3"]);
    assert_eq!(lone.heartbeat(3, 3, 9), ["n3 <- heartbeat-ack #9 term=4 last=1@2"]);
    let conflict = ["n3 <- append-answer term=4 conflict: has 0@0, that term from 0"];
    assert_eq!(lone.append(3, 3, (0, 0), vec![entry(1, 3)], 1), conflict);
    let install = StreamMessage::InstallSnapshot { term: Term(3), snapshot: snapshot(9, 3, &[1, 2, 3]) };
    assert_eq!(lone.stream(3, install), ["n3 <- snapshot-answer term=4 through 0"]);
    let timeout_now = StreamMessage::TimeoutNow { term: Term(3), valid_through: PulseSequence(9) };
    assert!(lone.stream(3, timeout_now).is_empty());
    assert_eq!(state(&lone), before);
    // One that has no leader and hasn't voted in its own term has a vote to give, but none for a term that is over.
    lone.campaign();
    assert_eq!(lone.vote(3, 3, (9, 3), false), ["n3 <- vote-answer refused term=4 asked=3"]);
}

#[test]
fn terms_a_later_term_makes_a_leader_and_a_candidate_followers() {
    let tell: [(&str, Tell); 7] = [
        ("heartbeat", |lone| drop(lone.heartbeat(3, 9, 1))),
        ("append", |lone| drop(lone.append(3, 9, (1, 1), vec![], 0))),
        ("snapshot", |lone| {
            let snapshot = snapshot(7, 8, &[1, 2, 3]);
            lone.stream(3, StreamMessage::InstallSnapshot { term: Term(9), snapshot });
        }),
        ("vote that a hand-over asks for", |lone| drop(lone.vote(3, 9, (9, 8), true))),
        ("ack", |lone| {
            let (sequence, last, promise) = (PulseSequence(1), LogPosition::ZERO, milliseconds(100));
            lone.pulse(3, PulseMessage::HeartbeatAck { term: Term(9), sequence, last, promise });
        }),
        ("answer to an append", |lone| {
            let outcome = AppendOutcome::Matched { through: LogIndex(1) };
            lone.stream(3, StreamMessage::AppendAnswer { term: Term(9), previous: LogIndex(1), outcome });
        }),
        ("answer to a request to vote", |lone| {
            let verdict = Verdict::Refused;
            lone.pulse(3, PulseMessage::VoteAnswer { term: Term(9), asked: Term(2), verdict });
        }),
    ];
    // A candidate has sent no heartbeats and no appends, a leader asks for no votes.
    let cases = tell[..6].iter().map(|tell| (Lone::leader(&[1, 2, 3], &[1], 1), tell));
    let cases = cases.chain(tell[..4].iter().chain(&tell[6..]).map(|tell| (candidate(), tell)));
    for (mut lone, (message, tell)) in cases {
        let before = lone.raft.role();
        tell(&mut lone);
        assert_eq!((lone.raft.role(), lone.raft.term()), (RaftRole::Follower, Term(9)), "{before:?}, by {message}");
    }
}

#[test]
fn servers_start_as_followers_and_stay_so_while_they_hear_from_a_leader() {
    let mut lone = Lone::founder(&[1, 2, 3]);
    assert_eq!((lone.raft.role(), lone.raft.term(), lone.raft.leader()), (RaftRole::Follower, Term(0), None));
    let almost = lone.raft.timing().election - milliseconds(1);
    for sequence in 1..30 {
        let silence = lone.wait(almost);
        assert!(silence.is_empty(), "before heartbeat {sequence}: {silence:?}");
        lone.heartbeat(2, 1, sequence);
    }
    assert_eq!((lone.raft.role(), lone.raft.term(), lone.raft.leader()), (RaftRole::Follower, Term(1), Some(node(2))));
}

#[test]
fn granting_a_vote_starts_the_wait_anew_and_refusing_one_does_not() {
    let mut lone = Lone::follower(&[1, 2, 3], &[1, 1, 2], 0);
    let deadline = lone.raft.poll_timeout();
    lone.now = lone.now + lone.raft.timing().election;
    assert!(lone.vote(3, 5, (1, 1), false)[1].contains("refused"), "its log is behind");
    assert_eq!(lone.raft.poll_timeout(), deadline);
    assert!(lone.vote(2, 6, (3, 2), false)[1].contains("granted"));
    assert!(lone.raft.poll_timeout() >= lone.now + lone.raft.timing().election);
}

#[test]
fn an_election_timeout_starts_a_campaign_in_a_new_term_with_its_own_vote_and_a_request_to_every_other() {
    let mut lone = Lone::founder(&[1, 2, 3, 4, 5]);
    let texts = lone.wait(lone.raft.timing().election + lone.raft.timing().election_jitter);
    assert_eq!(texts[0], "PreCandidate in term 0, led by nobody");
    lone.grant_from(&[2], 1, true);
    assert_eq!(lone.raft.role(), RaftRole::PreCandidate, "two of five would vote for it");
    let mut expected = vec!["Candidate in term 1, led by nobody".to_owned()];
    expected.extend((2..=5).map(|other| format!("n{other} <- vote term=1 last=0@0")));
    assert_eq!(lone.grant_from(&[3], 1, true), expected);
    assert_eq!(lone.vote(2, 1, (9, 0), false), ["n2 <- vote-answer refused term=1 asked=1"], "its vote is its own");
}

#[test]
fn a_candidate_leads_once_a_majority_of_all_has_voted_for_it() {
    for count in 2..=7 {
        let voters: Vec<u8> = (1..=count).collect();
        let mut lone = Lone::founder(&voters);
        lone.campaign();
        lone.grant_from(&voters, 1, true);
        // Its own vote and those of the nodes 2 to `votes`; each of them comes twice and counts once.
        for votes in 2..=count {
            lone.grant_from(&[votes, votes], 1, false);
            let expected = if votes > count / 2 { RaftRole::Leader } else { RaftRole::Candidate };
            assert_eq!(lone.raft.role(), expected, "{votes} votes of {count}");
        }
    }
}

#[test]
fn a_new_leader_tells_all_others_at_once_and_goes_on_telling_them() {
    let mut lone = Lone::founder(&[1, 2, 3, 4, 5]);
    lone.campaign();
    lone.grant_from(&[2, 3], 1, true);
    let heartbeats = |texts: Vec<String>, to: u8| {
        let to = format!("n{to} <- heartbeat");
        texts.iter().filter(|text| text.starts_with(&to)).count()
    };
    let texts = lone.grant_from(&[2, 3], 1, false);
    assert_eq!([2, 3, 4, 5].map(|to| heartbeats(texts.clone(), to)), [1; 4], "{texts:?}");
    let texts = lone.wait(lone.raft.timing().election - milliseconds(1));
    for to in 2..=5 {
        assert!(heartbeats(texts.clone(), to) >= 2, "within an election timeout: {texts:?}");
    }
}

#[test]
fn a_candidate_follows_a_leader_of_its_own_term_or_a_later_one_and_refuses_one_of_an_earlier() {
    for is_pre in [true, false] {
        for (later, follows) in [(2, true), (1, true), (0, false)] {
            for by_append in [true, false] {
                let mut lone = candidate();
                if is_pre {
                    lone.wait(milliseconds(200));
                }
                let (role, own) = (lone.raft.role(), lone.raft.term().0);
                let term = own + later - 1;
                let texts = match by_append {
                    true => lone.append(2, term, (1, 1), vec![], 0),
                    false => lone.heartbeat(2, term, 1),
                };
                let answer = texts.last().expect("an answer");
                let expected = if follows { (RaftRole::Follower, Some(node(2))) } else { (role, None) };
                assert_eq!((lone.raft.role(), lone.raft.leader()), expected, "{role:?} of term {own}, told {term}");
                assert!(answer.contains(&format!("term={}", own.max(term))), "{answer}");
            }
        }
    }
}

#[test]
fn a_candidate_without_a_majority_in_time_tries_again_in_a_new_term() {
    let mut lone = candidate();
    lone.wait(lone.raft.timing().election - milliseconds(1));
    assert_eq!((lone.raft.role(), lone.raft.term()), (RaftRole::Candidate, Term(2)), "it still asks");
    lone.wait(lone.raft.timing().election_jitter + milliseconds(1));
    assert_eq!((lone.raft.role(), lone.raft.term()), (RaftRole::PreCandidate, Term(2)));
    lone.grant_from(&[3], 3, true);
    assert_eq!((lone.raft.role(), lone.raft.term()), (RaftRole::Candidate, Term(3)));
}

#[test]
fn each_wait_for_a_leader_is_drawn_anew_from_the_same_interval() {
    let mut lone = Lone::founder(&[1, 2, 3]);
    let Timing { election, election_jitter, .. } = lone.raft.timing();
    let mut waits = BTreeSet::new();
    for sequence in 1..100 {
        lone.now = lone.now + milliseconds(10);
        lone.heartbeat(2, 1, sequence);
        waits.insert(lone.raft.poll_timeout().since(lone.now));
    }
    assert!(waits.len() > 90, "{} different waits of 99", waits.len());
    let (shortest, longest) = (waits.first().copied().unwrap_or_default(), waits.last().copied().unwrap_or_default());
    assert!(shortest >= election && longest <= election + election_jitter, "{shortest:?} to {longest:?}");
    assert!(longest - shortest > election_jitter * 3 / 4, "{shortest:?} to {longest:?}");
}

#[test]
fn split_votes_end_by_a_new_term_and_other_waits() {
    let mut split = 0;
    for seed in 0..200 {
        let mut network = Network::founded(seed, 4);
        network.faults = Faults { delay_jitter: milliseconds(20), ..Faults::NONE };
        let elected = network.run_until(milliseconds(3000), |network| network.leader().is_some());
        assert!(elected, "seed {seed}: {}", network.overview());
        let leader = network.leader().expect("a leader");
        split += u32::from(network.raft(leader).term() > Term(1));
    }
    assert!(split >= 5, "only {split} of the votes were split at first");
}

#[test]
fn times_that_leave_no_room_for_a_lost_heartbeat_are_refused() {
    let mut lone = Lone::ready_leader(&[1, 2, 3]);
    let timing = |heartbeat_ms| Timing { heartbeat: milliseconds(heartbeat_ms), ..lone.raft.timing() };
    let (too_slow, slow) = (timing(51), timing(50));
    assert!(matches!(lone.raft.propose_timing(lone.now, too_slow), Err(ProposeError::Refused(_))));
    assert!(lone.raft.propose_timing(lone.now, slow).is_ok(), "two heartbeats in an election timeout of 100 ms");
}
