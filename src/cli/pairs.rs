//! The part of `jumpgate status` that shows how each node hears each other one on the pulse plane.
//!
//! A row is what one node says of the others: a network that is broken one way only shows in one half of the table.

use comfy_table::{Table, presets};

use super::output::printable;
use crate::api::{ClusterStatus, NodeStatus, PeerStatus, TimingStatus};

/// A table of who hears whom, rows: from whom, columns: of whom. None where no node has said anything yet.
pub(super) fn table(status: &ClusterStatus, for_people: bool) -> Option<String> {
    if status.nodes.iter().all(|node| node.peers.is_empty()) {
        return None;
    }
    let mut table = Table::new();
    table.load_style(if for_people { presets::UTF8_FULL_CONDENSED } else { presets::NOTHING });
    let names = status.nodes.iter().map(|node| printable(&node.name).into_owned());
    table.set_header(std::iter::once("HEARS".to_owned()).chain(names.clone()));
    for (node, name) in status.nodes.iter().zip(names) {
        table.add_row(std::iter::once(name).chain(status.nodes.iter().map(|other| cell_of(node, &other.name))));
    }
    let rows: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    Some(rows.join("\n"))
}

fn cell_of(node: &NodeStatus, other: &str) -> String {
    let said = node.peers.iter().find(|peer| peer.name == other);
    said.filter(|_| node.name != other).map_or_else(|| "-".to_owned(), cell)
}

/// `1.2 ms, 0.3 %, 12 ms ago`: round trip, loss, last heard.
fn cell(peer: &PeerStatus) -> String {
    let Some(last_heard_ms) = peer.last_heard_ms else {
        return "never".to_owned();
    };
    let round_trip = peer.round_trip_us.map_or_else(|| "-".to_owned(), round_trip);
    let loss = peer.loss.map_or_else(|| "-".to_owned(), |loss| format!("{:.1} %", loss * 100.0));
    format!("{round_trip}, {loss}, {} ago", milliseconds(last_heard_ms))
}

/// On loopback and in one rack it is a fraction of a millisecond that counts.
fn round_trip(microseconds: u64) -> String {
    let milliseconds = microseconds as f64 / 1000.0;
    if microseconds < 1000 { format!("{milliseconds:.2} ms") } else { format!("{milliseconds:.1} ms") }
}

/// A time as people read it.
pub(super) fn milliseconds(milliseconds: u64) -> String {
    match milliseconds {
        0..1000 => format!("{milliseconds} ms"),
        _ => format!("{:.1} s", milliseconds as f64 / 1000.0),
    }
}

/// The timing in one line.
pub(super) fn timing(timing: &TimingStatus) -> String {
    let kind = if timing.adaptive { "adaptive" } else { "fixed" };
    let lateness = timing.lateness_us.map_or_else(String::new, |late| format!("; wakes up {} late", round_trip(late)));
    let times = [
        ("heartbeat", timing.heartbeat_ms),
        ("election", timing.election_ms),
        ("lease", timing.lease_ms),
        ("down", timing.down_ms),
    ];
    let times = times.map(|(name, milliseconds)| format!("{name} {} ms", (milliseconds * 10.0).round() / 10.0));
    format!("timing ({kind}): {}{lateness}", times.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str, last_heard_ms: Option<u64>, round_trip_us: Option<u64>, loss: Option<f64>) -> PeerStatus {
        PeerStatus { name: name.to_owned(), last_heard_ms, round_trip_us, loss }
    }

    fn node(name: &str, peers: Vec<PeerStatus>) -> NodeStatus {
        NodeStatus { name: name.to_owned(), peers, ..NodeStatus::default() }
    }

    #[test]
    fn each_row_is_what_one_node_says_of_the_others() {
        let says = vec![peer("n2", Some(12), Some(1_234), Some(0.003)), peer("n3", None, None, None)];
        let nodes = vec![
            node("n1", says),
            // Names in another order, itself among them, and one that nobody knows.
            node(
                "n2",
                vec![
                    peer("n9", Some(1), None, None),
                    peer("n2", Some(0), None, None),
                    peer("n1", Some(61_250), Some(150), None),
                ],
            ),
            node("n3", vec![]),
        ];
        let status = ClusterStatus { nodes, ..ClusterStatus::default() };
        let text = table(&status, false).expect("somebody said something");
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
            .collect();
        let expected = [
            vec!["HEARS", "n1", "n2", "n3"],
            vec!["n1", "-", "1.2 ms, 0.3 %, 12 ms ago", "never"],
            vec!["n2", "0.15 ms, -, 61.2 s ago", "-", "-"],
            vec!["n3", "-", "-", "-"],
        ];
        assert_eq!(rows, expected, "{text}");
        assert_eq!(table(&ClusterStatus { nodes: vec![node("n1", vec![])], ..status }, true), None);
    }

    #[test]
    fn the_timing_is_one_line() {
        let status = TimingStatus {
            adaptive: true,
            heartbeat_ms: 20.0,
            election_ms: 112.5004,
            lease_ms: 80.0,
            down_ms: 90.0,
            lateness_us: Some(210),
        };
        let expected =
            "timing (adaptive): heartbeat 20 ms, election 112.5 ms, lease 80 ms, down 90 ms; wakes up 0.21 ms late";
        assert_eq!(timing(&status), expected);
        let fixed = timing(&TimingStatus { adaptive: false, lateness_us: None, ..status });
        assert!(fixed.starts_with("timing (fixed)") && fixed.ends_with("down 90 ms"), "{fixed}");
    }
}
