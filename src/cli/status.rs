//! `jumpgate status` and `jumpgate health`.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::BinaryBytes;

use super::operation::ranges;
use super::output::{Output, printable};
use super::pairs::{self, milliseconds};
use super::{Failure, Target};
use crate::api::{ClusterStatus, HealingStatus, NodeStatus, PartitionCounts, VerificationStatus};

/// How often `--watch` asks again.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

const HEADER: [&str; 11] = [
    "NODE",
    "ROLE",
    "TERM",
    "LOG/COMMIT",
    "HEARD",
    "ROUND TRIP",
    "PRIMARY/IN SYNC/LEARNING",
    "KEYS",
    "MEMORY",
    "VERIFIED",
    "URL",
];

/// The arguments of `status`.
#[derive(Debug, Args)]
#[command(after_help = "\
The table is the view of the node that answers. A role in brackets belongs to a node that has no vote. LOG/COMMIT are the
last entry of the node's control log and how far it is committed; HEARD is how long ago the answering node heard of it;
then come the partitions that the node is the primary of, is in sync with, and is being filled with.

The second table is how the nodes hear each other on the pulse plane: each row is what one node says of the others, as
round trip, share of lost datagrams, and how long ago it heard them.

Examples:
  jumpgate status
  jumpgate status --watch
  jumpgate status --json | jq -r .leader
  jumpgate status --url http://127.0.0.1:7402     as the second node sees it")]
pub struct Status {
    /// Print what the node says as JSON
    #[arg(long)]
    pub json: bool,
    /// Show it again every second until Ctrl-C
    #[arg(long, short)]
    pub watch: bool,
    /// The cluster.
    #[command(flatten)]
    pub target: Target,
}

impl Status {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let client = self.target.client()?;
        let mut output = Output::new();
        let for_people = io::stdout().is_terminal();
        loop {
            let status = client.status().await?;
            if self.watch && for_people {
                // Home, then clear to the end: the table stays where it is.
                output.bytes(b"\x1b[H\x1b[J")?;
            }
            output.line(if self.json { as_json(&status, self.watch) } else { as_table(&status, for_people) })?;
            output.flush()?;
            if !self.watch {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(WATCH_INTERVAL) => {}
                _ = tokio::signal::ctrl_c() => return Ok(()),
            }
        }
    }
}

/// On one line where one follows the other.
fn as_json(status: &ClusterStatus, one_line: bool) -> String {
    let text = if one_line { serde_json::to_string(status) } else { serde_json::to_string_pretty(status) };
    text.expect("a status has a JSON form")
}

fn as_table(status: &ClusterStatus, for_people: bool) -> String {
    let mut table = Table::new();
    table.load_style(if for_people { presets::UTF8_FULL_CONDENSED } else { presets::NOTHING });
    table.set_header(HEADER);
    for node in &status.nodes {
        table.add_row(row(node));
    }
    for column in 2..10 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let rows: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    let mut text = summary(status);
    if let Some(healing) = &status.healing {
        text += &format!("\n{}", filling(healing));
    }
    if let Some(timing) = &status.timing {
        text += &format!("\n{}", pairs::timing(timing));
    }
    text += &format!("\n{}", rows.join("\n"));
    if let Some(pairs) = pairs::table(status, for_people) {
        text += &format!("\n\n{pairs}");
    }
    text
}

fn row(node: &NodeStatus) -> [String; 11] {
    let mut role = if node.voter { node.role.to_string() } else { format!("({})", node.role) };
    if node.draining {
        role += ", draining";
    }
    if let Some(stalled_ms) = node.workers_stalled_ms {
        role += &format!(", stalled for {}", milliseconds(stalled_ms));
    }
    if let Some(held) = &node.held_back {
        role += &match held.late_percent {
            Some(percent) => format!(", kept out: it wakes up {percent} % late"),
            None => format!(", kept out for {}: it fell out {} times", milliseconds(held.left_ms), held.falls),
        };
    }
    let partitions = format!("{}/{}/{}", node.primaries, node.in_sync, node.learning);
    [
        printable(&node.name).into_owned(),
        role,
        or_dash(node.term),
        format!("{}/{}", or_dash(node.last_index), or_dash(node.commit_index)),
        or_dash(node.last_heard_ms.map(milliseconds)),
        or_dash(node.round_trip_us.map(|microseconds| format!("{:.2} ms", microseconds as f64 / 1000.0))),
        partitions,
        or_dash(node.keys),
        or_dash(node.memory_bytes.map(BinaryBytes)),
        or_dash(node.verification.map(verified)),
        printable(&node.url).into_owned(),
    ]
}

/// How long ago all copies of a node were looked at, and what was found bad so far.
fn verified(verification: VerificationStatus) -> String {
    let VerificationStatus { verified_ms, differences, repairs } = verification;
    let ago = or_dash(verified_ms.map(milliseconds));
    if differences == 0 { ago } else { format!("{ago}, {differences} bad, {repairs} repaired") }
}

fn or_dash(value: Option<impl std::fmt::Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// The line above the table: who leads, and how the partitions are.
fn summary(status: &ClusterStatus) -> String {
    let leader = match (&status.leader, status.quorum) {
        (Some(leader), true) => format!("{} leads (term {})", printable(leader), status.term),
        (Some(leader), false) => format!("{} led last (term {}), no quorum", printable(leader), status.term),
        (None, true) => format!("no leader yet (term {})", status.term),
        (None, false) => format!("no leader and no quorum (term {})", status.term),
    };
    let PartitionCounts { total, full, reduced, unavailable, lost, misplaced } = status.partitions;
    let mut partitions = format!("{total} partitions");
    if total == 0 {
        // Before a cluster is founded, or before this node has heard of it.
        partitions = "no partitions yet".to_owned();
    } else if full == total {
        partitions.push_str(", all full");
    } else {
        partitions.push_str(&format!(": {full} full"));
        for (count, state) in [(reduced, "reduced"), (unavailable, "unavailable"), (lost, "LOST")] {
            if count > 0 {
                partitions.push_str(&format!(", {count} {state}"));
            }
        }
        if !status.lost.is_empty() {
            partitions.push_str(&format!(" ({})", ranges(&status.lost)));
        }
    }
    if misplaced > 0 {
        partitions.push_str(&format!(", {misplaced} not led by their targets yet"));
    }
    let copies = format!("{} copies, at least {}", status.replicas, status.min_copies);
    format!("{}: {leader}; {partitions}; {copies}; seen by {}", printable(&status.name), printable(&status.node))
}

/// The line on copies that are being made.
fn filling(healing: &HealingStatus) -> String {
    let HealingStatus { partitions, done_bytes, left_bytes, bytes_per_second, seconds_left } = *healing;
    let [done, left, rate] = [done_bytes, left_bytes, bytes_per_second].map(BinaryBytes);
    let end = seconds_left.map_or_else(String::new, |seconds| format!(", about {seconds} s"));
    format!("filling {partitions} partitions: {done} copied, {left} left, {rate}/s{end}")
}

/// The arguments of `health`.
#[derive(Debug, Args)]
#[command(after_help = "\
Asks one node, the first URL's, and ends with exit code 0 when it is able to serve.

Examples:
  jumpgate health --url http://127.0.0.1:7501
  HEALTHCHECK CMD [\"jumpgate\", \"health\", \"--url\", \"http://127.0.0.1:7501\"]     in a Dockerfile")]
pub struct Health {
    /// The cluster.
    #[command(flatten)]
    pub target: Target,
}

impl Health {
    pub(super) async fn run(self) -> Result<(), Failure> {
        self.target.client()?.ready().await?;
        let mut output = Output::new();
        output.line("ready")?;
        output.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{PeerStatus, Role, TimingStatus};

    fn cluster() -> ClusterStatus {
        let leader = NodeStatus {
            name: "n1".to_owned(),
            role: Role::Leader,
            voter: true,
            url: "http://127.0.0.1:7401".to_owned(),
            term: Some(3),
            last_index: Some(17),
            commit_index: Some(16),
            round_trip_us: Some(150),
            primaries: 2048,
            in_sync: 4096,
            keys: Some(12),
            memory_bytes: Some(3 << 20),
            ..NodeStatus::default()
        };
        let dead = NodeStatus {
            name: "n2".to_owned(),
            role: Role::Dead,
            last_heard_ms: Some(12_345),
            ..NodeStatus::default()
        };
        ClusterStatus {
            name: "store".to_owned(),
            node: "n1".to_owned(),
            leader: Some("n1".to_owned()),
            term: 3,
            quorum: true,
            partitions: PartitionCounts { total: 4096, full: 4000, reduced: 96, ..PartitionCounts::default() },
            replicas: 2,
            min_copies: 2,
            nodes: vec![leader, dead],
            ..ClusterStatus::default()
        }
    }

    #[test]
    fn in_a_pipe_each_node_is_one_plain_line() {
        let text = as_table(&cluster(), false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert_eq!(
            lines[0],
            "store: n1 leads (term 3); 4096 partitions: 4000 full, 96 reduced; 2 copies, at least 2; seen by n1"
        );
        let leader: Vec<&str> = lines[2].split_whitespace().collect();
        let expected = [
            "n1",
            "leader",
            "3",
            "17/16",
            "-",
            "0.15",
            "ms",
            "2048/4096/0",
            "12",
            "3.00",
            "MiB",
            "-",
            "http://127.0.0.1:7401",
        ];
        assert_eq!(leader, expected);
        assert!(lines[3].contains("(dead)") && lines[3].contains("12.3 s"), "{text}");
    }

    #[test]
    fn what_else_is_known_stands_beside_the_roles_and_below_the_table() {
        let mut status = cluster();
        status.nodes[1].draining = true;
        status.healing = Some(HealingStatus {
            partitions: 96,
            done_bytes: 3 << 20,
            left_bytes: 10 << 20,
            bytes_per_second: 4 << 20,
            seconds_left: Some(3),
        });
        status.nodes[1].workers_stalled_ms = Some(1_500);
        let verification = VerificationStatus { verified_ms: Some(12_300), differences: 3, repairs: 2 };
        status.nodes[0].verification = Some(verification);
        status.timing = Some(TimingStatus { heartbeat_ms: 20.0, ..TimingStatus::default() });
        let hears = PeerStatus { name: "n2".to_owned(), last_heard_ms: Some(7), ..PeerStatus::default() };
        status.nodes[0].peers = vec![hears];
        let text = as_table(&status, false);
        assert!(text.contains("(dead), draining, stalled for 1.5 s"), "{text}");
        let filling = "filling 96 partitions: 3.00 MiB copied, 10.00 MiB left, 4.00 MiB/s, about 3 s";
        assert_eq!(text.lines().nth(1), Some(filling));
        assert!(text.contains("12.3 s, 3 bad, 2 repaired"), "{text}");
        assert!(text.lines().nth(2).is_some_and(|line| line.starts_with("timing (fixed): heartbeat 20 ms")), "{text}");
        let (_, pairs) = text.split_once("\n\n").expect("an empty line before the second table");
        assert!(pairs.contains("HEARS") && pairs.contains("-, -, 7 ms ago"), "{text}");
    }

    #[test]
    fn the_summary_says_what_is_wrong() {
        let mut status = cluster();
        status.quorum = false;
        status.partitions = PartitionCounts { total: 8, full: 4, reduced: 1, unavailable: 2, lost: 1, misplaced: 3 };
        status.lost = vec![5];
        let line = summary(&status);
        assert!(
            line.contains("no quorum") && line.contains("2 unavailable, 1 LOST (p5), 3 not led by their targets yet"),
            "{line}"
        );
        status.partitions = PartitionCounts { total: 8, full: 8, ..PartitionCounts::default() };
        assert!(summary(&status).contains("8 partitions, all full"));
        status.partitions = PartitionCounts::default();
        assert!(summary(&status).contains("no partitions yet"), "an unfounded cluster looks whole");
    }
}
