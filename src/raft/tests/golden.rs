//! Four scripts to read: what is sent, and what comes of it, from the first line to the last.
//!
//! A line is the time in milliseconds and an event. `->` is a datagram's arrival, `=>` that of a message on the stream
//! plane; everything takes a millisecond. A place in the log is written `index@term`. Lines with a `#` are for the reader.

use crate::raft::testing::{Network, milliseconds, node, nodes};

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

#[test]
fn a_transfer() {
    let mut network = Network::founded(1, 3);
    let old = network.elect();
    network.run_for(milliseconds(30));
    network.transcript = Some(String::new());
    // A command is still under way to everybody when n1 is told to hand over to n3.
    network.propose(old, "x");
    network.call(old, |raft, now| raft.transfer(now, node(3))).expect("a transfer");
    network.run_for(milliseconds(9));
    let expected = r#"
        # The command is under way to everybody when n1 is told to hand over to n3, which must have it first.
        151 n1 => n2: append term=1 previous=1@1 commit=1 [2@1 "x"]
        151 n1 => n3: append term=1 previous=1@1 commit=1 [2@1 "x"]
        152 n2 => n1: append-answer term=1 matched through 2
        152 n1 commits 2@1 "x"
        152 n3 => n1: append-answer term=1 matched through 2
        153 n1 => n2: append term=1 previous=2@1 commit=2 []
        153 n2 commits 2@1 "x"
        153 n1 => n3: append term=1 previous=2@1 commit=2 []
        153 n3 commits 2@1 "x"
        # Now n3 has all that n1 has. It asks nobody beforehand and waits for nothing.
        153 n1 => n3: timeout-now term=1
        153 n3 is Candidate in term 2, led by nobody
        154 n2 => n1: append-answer term=1 matched through 2
        154 n3 => n1: append-answer term=1 matched through 2
        # The others have just heard from n1 and promised to vote for nobody; the word "transfer" frees them.
        154 n3 -> n1: vote term=2 last=2@1 transfer
        154 n1 is Follower in term 2, led by nobody
        154 n3 -> n2: vote term=2 last=2@1 transfer
        154 n2 is Follower in term 2, led by nobody
        155 n1 -> n3: vote-answer granted term=2 asked=2
        155 n3 is Leader in term 2, led by n3
        155 n2 -> n3: vote-answer granted term=2 asked=2
        156 n3 -> n1: heartbeat #1 term=2 matched=0@0 commit=0
        156 n1 is Follower in term 2, led by n3
        156 n3 -> n2: heartbeat #1 term=2 matched=0@0 commit=0
        156 n2 is Follower in term 2, led by n3
        # Once the entry of its own term is committed n3 knows all that is. That is 7 ms after the command.
        156 n3 => n1: append term=2 previous=2@1 commit=2 [3@2 noop]
        156 n3 => n2: append term=2 previous=2@1 commit=2 [3@2 noop]
        157 n1 -> n3: heartbeat-ack #1 term=2 last=2@1
        157 n2 -> n3: heartbeat-ack #1 term=2 last=2@1
        157 n1 => n3: append-answer term=2 matched through 3
        157 n3 commits 3@2 noop
        157 n2 => n3: append-answer term=2 matched through 3
        158 n3 => n1: append term=2 previous=3@2 commit=3 []
        158 n1 commits 3@2 noop
        158 n3 => n2: append term=2 previous=3@2 commit=3 []
        158 n2 commits 3@2 noop
        159 n1 => n3: append-answer term=2 matched through 3
        159 n2 => n3: append-answer term=2 matched through 3
    "#;
    assert_script(network, expected);
}

#[test]
fn a_change_of_members() {
    let mut network = Network::founded(1, 3);
    let leader = network.elect();
    network.start_learner(node(4));
    network.call(leader, |raft, now| raft.propose_learner(now, node(4))).expect("a learner");
    network.run_for(milliseconds(30));
    network.transcript = Some(String::new());
    // n4 has caught up, and is to vote in n3's place.
    network.call(leader, |raft, now| raft.propose_voters(now, nodes(&[1, 2, 4]))).expect("a change");
    network.run_for(milliseconds(8));
    let expected = r#"
        # The joint membership is in force as soon as it is in the log: n1 sends to all four, and n4 is a voter when it
        # has the entry, not when that is committed.
        151 n1 => n2: append term=1 previous=2@1 commit=2 [3@1 members {s1 s2 s4 | outgoing s1 s2 s3}]
        151 n1 => n3: append term=1 previous=2@1 commit=2 [3@1 members {s1 s2 s4 | outgoing s1 s2 s3}]
        151 n1 => n4: append term=1 previous=2@1 commit=2 [3@1 members {s1 s2 s4 | outgoing s1 s2 s3}]
        151 n4 is Follower in term 1, led by n1
        152 n2 => n1: append-answer term=1 matched through 3
        # n1 and n2 are a majority of both sets. So n1 appends the entry that ends the change, and n3 gets that one too.
        152 n1 commits 3@1 members {s1 s2 s4 | outgoing s1 s2 s3}
        152 n3 => n1: append-answer term=1 matched through 3
        152 n4 => n1: append-answer term=1 matched through 3
        153 n1 => n2: append term=1 previous=3@1 commit=3 []
        153 n2 commits 3@1 members {s1 s2 s4 | outgoing s1 s2 s3}
        153 n1 => n3: append term=1 previous=3@1 commit=3 []
        153 n3 commits 3@1 members {s1 s2 s4 | outgoing s1 s2 s3}
        153 n1 => n4: append term=1 previous=3@1 commit=3 []
        153 n4 commits 3@1 members {s1 s2 s4 | outgoing s1 s2 s3}
        153 n1 => n2: append term=1 previous=3@1 commit=3 [4@1 members {s1 s2 s4}]
        153 n1 => n3: append term=1 previous=3@1 commit=3 [4@1 members {s1 s2 s4}]
        153 n1 => n4: append term=1 previous=3@1 commit=3 [4@1 members {s1 s2 s4}]
        154 n2 => n1: append-answer term=1 matched through 3
        154 n3 => n1: append-answer term=1 matched through 3
        154 n4 => n1: append-answer term=1 matched through 3
        154 n2 => n1: append-answer term=1 matched through 4
        # From here on n3 counts for nothing. It is told, lest it campaign when it hears no more.
        154 n1 commits 4@1 members {s1 s2 s4}
        154 n3 => n1: append-answer term=1 matched through 4
        154 n4 => n1: append-answer term=1 matched through 4
        155 n1 => n2: append term=1 previous=4@1 commit=4 []
        155 n2 commits 4@1 members {s1 s2 s4}
        155 n1 => n3: append term=1 previous=4@1 commit=4 []
        155 n3 commits 4@1 members {s1 s2 s4}
        155 n3 is Learner in term 1, led by n1
        155 n1 => n4: append term=1 previous=4@1 commit=4 []
        155 n4 commits 4@1 members {s1 s2 s4}
        156 n2 => n1: append-answer term=1 matched through 4
        156 n3 => n1: append-answer term=1 matched through 4
        156 n4 => n1: append-answer term=1 matched through 4
    "#;
    assert_script(network, expected);
}
