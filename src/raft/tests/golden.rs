//! Two scripts to read: what is sent, and what comes of it, from the first line to the last.
//!
//! A line is the time in milliseconds and an event. `->` is a datagram's arrival, `=>` that of a message on the stream
//! plane; everything takes a millisecond. A place in the log is written `index@term`. Lines with a `#` are for the reader.

use crate::raft::testing::{Network, milliseconds};

fn assert_script(network: Network, expected: &str) {
    let actual = network.transcript.expect("a transcript");
    let lines = |text: &str| {
        let lines = text.lines().map(|line| line.trim().to_owned());
        lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect::<Vec<_>>()
    };
    assert_eq!(lines(&actual), lines(expected), "the script is now:\n{actual}");
}

#[test]
fn an_election() {
    let mut network = Network::founded(1, 3);
    network.transcript = Some(String::new());
    network.run_for(milliseconds(140));
    let expected = r#"
        # n1's wait ends first: 100 ms and a random part. It asks whether a campaign would succeed.
        114 n1 is PreCandidate in term 0, led by nobody
        115 n1 -> n2: pre-vote proposed=1 last=0@0
        115 n1 -> n3: pre-vote proposed=1 last=0@0
        116 n2 -> n1: pre-vote-answer granted term=0 proposed=1
        # Two of three would vote for it: the first yes decides. Only now does a term rise.
        116 n1 is Candidate in term 1, led by nobody
        116 n3 -> n1: pre-vote-answer granted term=0 proposed=1
        117 n1 -> n2: vote term=1 last=0@0
        117 n2 is Follower in term 1, led by nobody
        117 n1 -> n3: vote term=1 last=0@0
        117 n3 is Follower in term 1, led by nobody
        118 n2 -> n1: vote-answer granted term=1 asked=1
        # Its heartbeats and its first entry go out together.
        118 n1 is Leader in term 1, led by n1
        118 n3 -> n1: vote-answer granted term=1 asked=1
        119 n1 -> n2: heartbeat #1 term=1 matched=0@0 commit=0
        119 n2 is Follower in term 1, led by n1
        119 n1 -> n3: heartbeat #1 term=1 matched=0@0 commit=0
        119 n3 is Follower in term 1, led by n1
        119 n1 => n2: append term=1 previous=0@0 commit=0 [1@1 members {s1 s2 s3}]
        119 n1 => n3: append term=1 previous=0@0 commit=0 [1@1 members {s1 s2 s3}]
        120 n2 -> n1: heartbeat-ack #1 term=1 last=0@0
        120 n3 -> n1: heartbeat-ack #1 term=1 last=0@0
        120 n2 => n1: append-answer term=1 matched through 1
        # A majority has the entry; the others are told at once.
        120 n1 commits 1@1 members {s1 s2 s3}
        120 n3 => n1: append-answer term=1 matched through 1
        121 n1 => n2: append term=1 previous=1@1 commit=1 []
        121 n2 commits 1@1 members {s1 s2 s3}
        121 n1 => n3: append term=1 previous=1@1 commit=1 []
        121 n3 commits 1@1 members {s1 s2 s3}
        122 n2 => n1: append-answer term=1 matched through 1
        122 n3 => n1: append-answer term=1 matched through 1
        # From here on only heartbeats. By now the leader knows what each one has.
        139 n1 -> n2: heartbeat #2 term=1 matched=1@1 commit=1
        139 n1 -> n3: heartbeat #2 term=1 matched=1@1 commit=1
    "#;
    assert_script(network, expected);
}

#[test]
fn a_log_repair() {
    let mut network = Network::founded(1, 3);
    let old = network.elect();
    network.run_for(milliseconds(5));
    // The leader n1 is cut off with three entries of term 1 that nobody else gets.
    network.isolate(old);
    for text in ["x", "y", "z"] {
        network.propose(old, text);
    }
    let replaced = |network: &Network| {
        network.leader().is_some_and(|leader| leader != old && network.raft(leader).is_ready_leader())
    };
    assert!(network.run_until(milliseconds(500), replaced));
    // n2 leads term 2 and commits two entries with n3. Then n1 comes back.
    let new = network.leader().expect("a leader");
    network.propose(new, "a");
    network.run_for(milliseconds(5));
    network.heal();
    network.transcript = Some(String::new());
    network.run_for(milliseconds(40));
    let expected = r#"
        # The first heartbeat of term 2 that n1 gets. Its ack names an entry that n2 never had.
        262 n2 -> n1: heartbeat #2 term=2 matched=0@0 commit=0
        262 n1 is Follower in term 2, led by n2
        262 n2 -> n3: heartbeat #2 term=2 matched=3@2 commit=3
        263 n1 -> n2: heartbeat-ack #2 term=2 last=4@1
        263 n3 -> n2: heartbeat-ack #2 term=2 last=3@2
        # So n2 probes at once at its own last entry that isn't of a later term than that one.
        264 n2 => n1: append term=2 previous=1@1 commit=3 []
        265 n1 => n2: append-answer term=2 matched through 1
        # They part there. What n1 had after it goes, and what it lacks comes.
        266 n2 => n1: append term=2 previous=1@1 commit=3 [2@2 noop, 3@2 "a"]
        266 n1 commits 2@2 noop
        266 n1 commits 3@2 "a"
        267 n1 => n2: append-answer term=2 matched through 3
        282 n2 -> n1: heartbeat #3 term=2 matched=3@2 commit=3
        282 n2 -> n3: heartbeat #3 term=2 matched=3@2 commit=3
        283 n1 -> n2: heartbeat-ack #3 term=2 last=3@2
        283 n3 -> n2: heartbeat-ack #3 term=2 last=3@2
    "#;
    assert_script(network, expected);
}
