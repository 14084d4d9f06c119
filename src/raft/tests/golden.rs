//! Two scripts to read: what is sent, and what comes of it, from the first line to the last.
//!
//! A line is the time in milliseconds and an event. `->` is a datagram's arrival, `=>` that of a message on the stream
//! plane; everything takes a millisecond.

use crate::raft::testing::{Network, milliseconds};

fn assert_script(actual: &str, expected: &str) {
    let lines =
        |text: &str| text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(actual), lines(expected), "the script is now:\n{actual}");
}

#[test]
fn an_election() {
    let mut network = Network::founded(1, 3);
    network.transcript = Some(String::new());
    network.run_for(milliseconds(150));
    assert_script(&network.transcript.expect("a transcript"), "");
}

#[test]
fn a_log_repair() {
    let mut network = Network::founded(1, 3);
    let old = network.elect();
    network.run_for(milliseconds(5));
    network.isolate(old);
    for text in ["x", "y", "z"] {
        network.propose(old, text);
    }
    let replaced = |network: &Network| {
        network.leader().is_some_and(|leader| leader != old && network.raft(leader).is_ready_leader())
    };
    assert!(network.run_until(milliseconds(500), replaced));
    let new = network.leader().expect("a leader");
    network.propose(new, "a");
    network.run_for(milliseconds(3));
    network.heal();
    network.transcript = Some(String::new());
    network.run_for(milliseconds(45));
    assert_script(&network.transcript.expect("a transcript"), "");
}
