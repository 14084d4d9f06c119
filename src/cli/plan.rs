//! `jumpgate plan`: what a change of members would move, reckoned from what the cluster says of itself. Nothing is
//! changed, and nobody but the node that answers is asked.

use clap::Args;
use indicatif::BinaryBytes;
use serde::Serialize;

use super::output::{Output, printable};
use super::{Failure, Target};
use crate::api::{ClusterStatus, NodeStatus, Role};
use crate::base::{Slot, SlotSet, limits};
use crate::placement::{self, PlacementMap};

/// The arguments of `plan`.
#[derive(Debug, Args)]
#[command(after_help = "\
Where a value belongs follows from the members and the number of copies alone, so what a change moves can be reckoned
before it is made. Nodes without a vote that hold no copies don't count as members; a name that isn't in cluster.toml is
taken for a node that is appended to it. The nodes don't say how large each partition is: sizes are estimated from the
memory that their tables take.

Examples:
  jumpgate plan --add n4
  jumpgate plan --remove n2
  jumpgate plan --add n6 --replicas 4       with another number of copies afterwards
  jumpgate plan --remove n2 --json | jq .bytes")]
pub struct Plan {
    /// What if this node got its share of the copies
    #[arg(long, value_name = "NODE", required_unless_present = "remove", conflicts_with = "remove")]
    pub add: Option<String>,
    /// What if this node's copies went to others
    #[arg(long, value_name = "NODE")]
    pub remove: Option<String>,
    /// Copies of each value afterwards; as many as now otherwise
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u8).range(1..=limits::NODES_MAX as i64))]
    pub replicas: Option<u8>,
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
    /// The cluster.
    #[command(flatten)]
    pub target: Target,
}

impl Plan {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let status = self.target.client()?.status().await?;
        let planned = self.planned(&status)?;
        let mut output = Output::new();
        if self.json {
            output.line(serde_json::to_string_pretty(&planned).expect("a plan has a JSON form"))?;
        } else {
            output.line(planned.for_people())?;
        }
        output.flush()
    }

    fn planned(&self, status: &ClusterStatus) -> Result<Planned, Failure> {
        let partitions = u16::try_from(status.partitions.total).unwrap_or(u16::MAX);
        if partitions == 0 {
            return Err(Failure::Failed("there is no cluster yet, so there is nothing to move".to_owned()));
        }
        if usize::from(partitions) > limits::PARTITIONS_MAX || status.nodes.len() > limits::NODES_MAX {
            return Err(Failure::Failed("the cluster is larger than this program knows any to be".to_owned()));
        }
        let mut names: Vec<String> = status.nodes.iter().map(|node| node.name.clone()).collect();
        let slots = (0_u8..).map(Slot).zip(&status.nodes);
        let before: SlotSet = slots.filter(|(_, node)| is_member(node)).map(|(slot, _)| slot).collect();
        let (name, is_added) = match (&self.add, &self.remove) {
            (Some(name), _) => (name, true),
            (None, Some(name)) => (name, false),
            (None, None) => return Err(Failure::Usage("say which node: --add NODE or --remove NODE".to_owned())),
        };
        let found = names.iter().position(|known| known == name).map(|index| Slot(index as u8));
        let slot = match found {
            Some(slot) => slot,
            None if !is_added => {
                let known = names.join(", ");
                return Err(Failure::Usage(format!("no node is called {name}; configured are {known}")));
            }
            None if names.len() == limits::NODES_MAX => {
                return Err(Failure::Usage(format!("a cluster has at most {} nodes", limits::NODES_MAX)));
            }
            None => {
                names.push(name.clone());
                Slot((names.len() - 1) as u8)
            }
        };
        if before.contains(slot) == is_added {
            let how = if is_added { "holds its share of the copies already" } else { "holds no copies" };
            return Err(Failure::Usage(format!("{name} {how}")));
        }
        let after = if is_added { before.with(slot) } else { before.without(slot) };
        if after.is_empty() {
            return Err(Failure::Usage(format!("{name} is the only node that holds copies")));
        }
        let replicas = status.replicas.max(1);
        let change = Change { partitions, before, after, replicas, replicas_after: self.replicas.unwrap_or(replicas) };
        Ok(change.planned(status, &names, name, is_added))
    }
}

/// Whether a node is meant to hold copies, as far as the status tells: one that is drained isn't, and of one that is out
/// of the cluster nothing is left. A dead node keeps its place.
fn is_member(node: &NodeStatus) -> bool {
    !node.draining && (node.voter || node.in_sync > 0 || node.learning > 0)
}

/// One change of members.
struct Change {
    partitions: u16,
    before: SlotSet,
    after: SlotSet,
    replicas: u8,
    replicas_after: u8,
}

impl Change {
    fn planned(&self, status: &ClusterStatus, names: &[String], name: &str, is_added: bool) -> Planned {
        let old = PlacementMap::derive(self.partitions, self.before, self.replicas);
        let new = PlacementMap::derive(self.partitions, self.after, self.replicas_after);
        let plan = placement::Plan::between(&old, &new);
        let copy_bytes = estimated_copy_bytes(status);
        let sizes = copy_bytes.map(|bytes| vec![bytes; usize::from(self.partitions)]);
        let named = |set: SlotSet| set.iter().filter_map(|slot| names.get(slot.index()).cloned()).collect();
        let to = self.after.iter().filter_map(|slot| {
            let copies = plan.moves.iter().filter(|a_move| a_move.to == slot).count();
            let node = names.get(slot.index())?.clone();
            let bytes = sizes.as_ref().map(|sizes| plan.bytes_to(slot, sizes));
            (copies > 0).then_some(Receiver { node, copies, bytes })
        });
        let mut moved: Vec<u16> = plan.moves.iter().map(|a_move| a_move.partition.0).collect();
        moved.dedup();
        Planned {
            action: if is_added { "add" } else { "remove" },
            node: name.to_owned(),
            nodes_before: named(self.before),
            nodes_after: named(self.after),
            replicas_before: self.replicas,
            replicas_after: self.replicas_after,
            partitions: self.partitions,
            partitions_moved: moved.len(),
            copies_moved: plan.moves.len(),
            copies_dropped: plan.drops.len(),
            primaries_moved: plan.primaries_moved,
            bytes: sizes.as_ref().map(|sizes| plan.bytes(sizes)),
            bytes_per_copy_estimated: copy_bytes,
            to: to.collect(),
        }
    }
}

/// How large one copy of one partition is on average: what the living nodes' tables take, by the copies that they hold.
/// None where no node tells.
fn estimated_copy_bytes(status: &ClusterStatus) -> Option<u64> {
    let living = status.nodes.iter().filter(|node| node.role != Role::Dead);
    let telling =
        living.filter_map(|node| Some((node.memory_bytes?, u64::from(node.in_sync) + u64::from(node.learning))));
    let (bytes, copies) = telling.fold((0_u64, 0_u64), |(bytes, copies), (its_bytes, its_copies)| {
        (bytes.saturating_add(its_bytes), copies + its_copies)
    });
    bytes.checked_div(copies)
}

/// What would happen; its JSON form is what `--json` prints.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Planned {
    action: &'static str,
    node: String,
    nodes_before: Vec<String>,
    nodes_after: Vec<String>,
    replicas_before: u8,
    replicas_after: u8,
    /// All there are.
    partitions: u16,
    /// Those of which another node gets a copy.
    partitions_moved: usize,
    copies_moved: usize,
    /// Copies that nobody takes the place of.
    copies_dropped: usize,
    primaries_moved: usize,
    /// Bytes that are sent; null where no node tells how much memory it takes.
    bytes: Option<u64>,
    bytes_per_copy_estimated: Option<u64>,
    /// Who gets how much, those who get something.
    to: Vec<Receiver>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Receiver {
    node: String,
    copies: usize,
    bytes: Option<u64>,
}

impl Planned {
    fn for_people(&self) -> String {
        let about = |bytes: Option<u64>| match bytes {
            Some(bytes) => format!("about {}", BinaryBytes(bytes)),
            None => "of unknown size".to_owned(),
        };
        let share = |part: usize| 100.0 * part as f64 / f64::from(self.partitions);
        let listed = |names: &[String]| printable(&names.join(", ")).into_owned();
        let verb = if self.action == "add" { "adding" } else { "removing" };
        let mut text = format!(
            "{verb} {}: {} copies on {}, then {} copies on {}\n",
            printable(&self.node),
            self.replicas_before,
            listed(&self.nodes_before),
            self.replicas_after,
            listed(&self.nodes_after),
        );
        if usize::from(self.replicas_after) > self.nodes_after.len() {
            text += &format!("  only {} nodes are left, so there are only so many copies\n", self.nodes_after.len());
        }
        text += &format!(
            "  {} of {} partitions move: {} copies, {}\n",
            self.partitions_moved,
            self.partitions,
            self.copies_moved,
            about(self.bytes)
        );
        for Receiver { node, copies, bytes } in &self.to {
            text += &format!("    to {}: {copies} copies, {}\n", printable(node), about(*bytes));
        }
        if self.copies_dropped > 0 {
            text += &format!("  {} copies are dropped\n", self.copies_dropped);
        }
        text += &format!("  {} primaries move ({:.1} %)\n", self.primaries_moved, share(self.primaries_moved));
        text += &match self.bytes_per_copy_estimated {
            Some(bytes) => format!(
                "sizes are estimated: the nodes' tables take {} a copy of a partition on average",
                BinaryBytes(bytes)
            ),
            None => "sizes are unknown: no node says how much memory its tables take".to_owned(),
        };
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::PartitionCounts;

    /// Three nodes with two copies of 4096 partitions of 1 KiB each, and a fourth that is only configured.
    fn status() -> ClusterStatus {
        let node = |name: &str, holds: u32| NodeStatus {
            name: name.to_owned(),
            role: Role::Follower,
            voter: holds > 0,
            in_sync: holds,
            memory_bytes: Some(u64::from(holds) << 10),
            ..NodeStatus::default()
        };
        ClusterStatus {
            replicas: 2,
            partitions: PartitionCounts { total: 4096, full: 4096, ..PartitionCounts::default() },
            nodes: vec![node("n1", 2731), node("n2", 2731), node("n3", 2730), node("n4", 0)],
            ..ClusterStatus::default()
        }
    }

    fn plan(add: Option<&str>, remove: Option<&str>, replicas: Option<u8>) -> Plan {
        let timeout = std::time::Duration::from_secs(1);
        let target = Target { urls: Vec::new(), cacert: None, token: None, token_file: None, timeout };
        Plan { add: add.map(str::to_owned), remove: remove.map(str::to_owned), replicas, json: false, target }
    }

    fn planned(add: Option<&str>, remove: Option<&str>, replicas: Option<u8>) -> Planned {
        plan(add, remove, replicas).planned(&status()).expect("it can be planned")
    }

    #[test]
    fn a_new_node_gets_its_share_and_little_else_moves() {
        for (name, nodes_after) in [("n4", ["n1", "n2", "n3", "n4"]), ("n5", ["n1", "n2", "n3", "n5"])] {
            let planned = planned(Some(name), None, None);
            assert_eq!(planned.nodes_before, ["n1", "n2", "n3"]);
            assert_eq!(planned.nodes_after, nodes_after);
            let newcomer = planned.to.iter().find(|receiver| receiver.node == name).expect("it gets something");
            assert!((1900..2200).contains(&newcomer.copies), "{newcomer:?}");
            assert_eq!(newcomer.bytes, Some(newcomer.copies as u64 * 1024));
            assert_eq!(planned.bytes, Some(planned.copies_moved as u64 * 1024));
            assert!(planned.partitions_moved <= planned.copies_moved && planned.copies_dropped == 0);
            let text = planned.for_people();
            assert!(text.contains("2 copies on n1, n2, n3, then") && text.contains("sizes are estimated"), "{text}");
        }
    }

    #[test]
    fn what_a_node_held_goes_to_those_who_stay() {
        let planned = planned(None, Some("n3"), None);
        let receivers: Vec<&str> = planned.to.iter().map(|receiver| &*receiver.node).collect();
        assert_eq!((receivers, planned.copies_dropped), (vec!["n1", "n2"], 0));
        assert_eq!(planned.copies_moved, planned.to.iter().map(|receiver| receiver.copies).sum::<usize>());
        let fewer = super::tests::planned(None, Some("n3"), Some(1));
        assert!(fewer.copies_dropped > 4000 && fewer.copies_moved < planned.copies_moved, "{fewer:?}");
        let capped = super::tests::planned(None, Some("n3"), Some(3));
        assert!(capped.for_people().contains("only 2 nodes are left"), "{}", capped.for_people());
    }

    #[test]
    fn a_drained_node_is_no_member_and_a_dead_one_is() {
        let mut status = status();
        status.nodes[0].role = Role::Dead;
        status.nodes[1].draining = true;
        let planned = plan(Some("n2"), None, None).planned(&status).expect("it can be planned");
        assert_eq!(planned.nodes_before, ["n1", "n3"]);
        assert_eq!(planned.bytes_per_copy_estimated, Some(1024), "the dead node's memory says nothing");
        status.nodes.iter_mut().for_each(|node| node.memory_bytes = None);
        let planned = plan(Some("n2"), None, None).planned(&status).expect("it can be planned");
        assert_eq!(planned.bytes, None);
        assert!(planned.for_people().contains("sizes are unknown"), "{}", planned.for_people());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refusal = |plan: Plan, status: &ClusterStatus| plan.planned(status).expect_err("it makes no sense");
        let status = status();
        for (add, remove, says) in [
            (Some("n2"), None, "n2 holds its share of the copies already"),
            (None, Some("n4"), "n4 holds no copies"),
            (None, Some("n9"), "configured are n1, n2, n3, n4"),
        ] {
            let Failure::Usage(message) = refusal(plan(add, remove, None), &status) else { panic!("{says}") };
            assert!(message.contains(says), "{message}");
        }
        let mut lone = status.clone();
        lone.nodes.truncate(1);
        assert!(matches!(refusal(plan(None, Some("n1"), None), &lone), Failure::Usage(_)));
        let unfounded = ClusterStatus { nodes: status.nodes.clone(), ..ClusterStatus::default() };
        assert!(matches!(refusal(plan(Some("n4"), None, None), &unfounded), Failure::Failed(_)));
        let mut huge = status;
        huge.partitions.total = u32::MAX;
        assert!(matches!(refusal(plan(Some("n4"), None, None), &huge), Failure::Failed(_)));
    }
}
