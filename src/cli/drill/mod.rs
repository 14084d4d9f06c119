//! `jumpgate drill`: a running cluster is loaded, half of it is killed at once, and every key is compared.
//!
//! The nodes are containers of one Compose project, or processes that the drill starts itself on loopback. While things
//! happen to them, one probe writes and one reads all the time; both note what failed and for how long nothing went.
//! Every value is made from its key, so that a value can be judged without a copy of it.
//!
//! What is promised, and makes the drill fail where it doesn't hold: no acknowledged value is lost or altered, every key
//! can be read after each fault, and all copies are in sync again after each repair.
//!
//! | file | what it holds |
//! |---|---|
//! | `mod` | the command, the steps, the report |
//! | `nodes` | containers and processes: kill, start, pause, cut off |
//! | `probe` | the load, the probes and the comparison |

mod nodes;
mod probe;

use std::time::{Duration, Instant};

use clap::Args;
use comfy_table::{Table, presets};
use serde::Serialize;

use super::output::{Output, note};
use super::target::duration;
use super::{Failure, Target};
use crate::api::Role;
use crate::client::Client;

use nodes::Nodes;
use probe::Probe;

/// How often the state of the cluster is asked for while something is waited for.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// For how long a node stays paused or cut off: several times what it takes to be declared down.
const AWAY: Duration = Duration::from_secs(3);

/// The arguments of `drill`.
#[derive(Debug, Args)]
#[command(after_help = "\
It kills nodes: point it at a cluster that is there for that. Half of five nodes is two. Keys below drill/ are written and
left behind. The exit code is 0 only if nothing was lost and everything was in sync again after each step.

Examples:
  docker compose up --detach && jumpgate drill --project jumpgate
  jumpgate drill --processes 5                             its own cluster on loopback; no containers needed
  jumpgate drill --processes 5 --keys 20000 --json")]
pub struct Drill {
    /// The Compose project whose containers are the nodes
    #[arg(long, value_name = "NAME", default_value = "jumpgate")]
    pub project: String,
    /// The command that speaks to the engine of the containers
    #[arg(long, value_name = "COMMAND", default_value = "docker")]
    pub docker: String,
    /// Start so many nodes as processes on loopback instead, and stop them at the end
    #[arg(long, value_name = "N", conflicts_with = "project", value_parser = clap::value_parser!(u16).range(3..=9))]
    pub processes: Option<u16>,
    /// How many keys to load
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub keys: u64,
    /// Bytes of each value
    #[arg(long, value_name = "BYTES", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub size: u32,
    /// How long the cluster may take to be whole again after each step
    #[arg(long, value_name = "TIME", default_value = "90s", value_parser = duration)]
    pub patience: Duration,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
    /// The cluster; with --processes it is the drill's own.
    #[command(flatten)]
    pub target: Target,
}

/// What one step showed.
#[derive(Debug, Default, Serialize)]
struct Step {
    /// What was done to which node.
    step: String,
    /// The longest time without a read that succeeded, in milliseconds.
    reads_gap_ms: u64,
    /// The same for writes.
    writes_gap_ms: u64,
    /// Reads that gave up.
    reads_failed: u64,
    /// Writes that gave up.
    writes_failed: u64,
    /// Keys that were compared.
    compared: u64,
    /// Acknowledged values that were missing or other than what was written.
    lost: u64,
    /// Keys that could not be read within the time-out.
    unreadable: u64,
    /// Milliseconds until all was in sync after the repair; none where it never was.
    in_sync_after_ms: Option<u64>,
}

impl Step {
    const fn kept(&self) -> bool {
        self.lost == 0 && self.unreadable == 0 && self.in_sync_after_ms.is_some()
    }
}

/// What is done to nodes.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    Pause,
    CutOff,
}

impl Drill {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let (mut nodes, target) = match self.processes {
            Some(count) => {
                let (nodes, urls) = Nodes::processes(count)?;
                (nodes, Target { urls, ..self.target.clone() })
            }
            None => (Nodes::containers(self.docker.clone(), self.project.clone()), self.target.clone()),
        };
        let client = target.client()?;
        self.whole(&client)
            .await
            .ok_or_else(|| Failure::Failed("the cluster was not whole to begin with".to_owned()))?;
        let gateways = client.status().await?.nodes.iter().map(|node| node.url.clone()).collect();
        let client = self.target.client_of(gateways)?;
        note(&format!("loading {} keys of {} bytes", self.keys, self.size));
        let probe = Probe::start(client.clone(), self.size);
        let steps = async {
            probe.load(self.keys).await?;
            self.steps(&client, &probe, &mut nodes).await
        }
        .await;
        probe.stop().await;
        nodes.end();
        self.report(&steps?)
    }

    async fn steps(&self, client: &Client, probe: &Probe, nodes: &mut Nodes) -> Result<Vec<Step>, Failure> {
        let mut steps = Vec::new();
        let (names, leader) = members(client).await?;
        let half: Vec<String> =
            names.iter().rev().filter(|name| **name != leader).take(names.len() / 2).cloned().collect();
        steps.push(self.step(client, probe, nodes, Fault::Kill, &half).await?);
        for fault in [Fault::Pause, Fault::CutOff] {
            if matches!(fault, Fault::CutOff) && !nodes.can_cut_off() {
                note("skipped: processes on loopback have no network of their own to be cut off from");
                continue;
            }
            let (names, leader) = members(client).await?;
            let one: Vec<String> = names.into_iter().filter(|name| *name != leader).take(1).collect();
            steps.push(self.step(client, probe, nodes, fault, &one).await?);
        }
        let (names, leader) = members(client).await?;
        // Half again, with the leader among them.
        let others = names.iter().filter(|name| **name != leader).take((names.len() / 2).saturating_sub(1));
        let half: Vec<String> = std::iter::once(&leader).chain(others).cloned().collect();
        steps.push(self.step(client, probe, nodes, Fault::Kill, &half).await?);
        Ok(steps)
    }

    async fn step(
        &self,
        client: &Client,
        probe: &Probe,
        nodes: &mut Nodes,
        fault: Fault,
        which: &[String],
    ) -> Result<Step, Failure> {
        let verb = match fault {
            Fault::Kill => "kill",
            Fault::Pause => "pause",
            Fault::CutOff => "cut off",
        };
        let mut step = Step { step: format!("{verb} {}", which.join(", ")), ..Step::default() };
        note(&step.step);
        probe.begin();
        match fault {
            Fault::Kill => nodes.kill(which)?,
            Fault::Pause => nodes.pause(which)?,
            Fault::CutOff => nodes.cut_off(which)?,
        }
        if !matches!(fault, Fault::Kill) {
            tokio::time::sleep(AWAY).await;
        }
        let compared = probe.compare(self.keys).await;
        match fault {
            Fault::Kill => nodes.start(which)?,
            Fault::Pause => nodes.resume(which)?,
            Fault::CutOff => nodes.join(which)?,
        }
        step.in_sync_after_ms = self.whole(client).await.map(|time| time.as_millis() as u64);
        let again = probe.compare(self.keys).await;
        (step.reads_gap_ms, step.writes_gap_ms) = probe.gaps();
        (step.reads_failed, step.writes_failed) = probe.failures();
        step.compared = compared.compared + again.compared;
        step.lost = compared.lost + again.lost;
        step.unreadable = compared.unreadable + again.unreadable;
        note(&format!("{}: {} of {} compared values lost", step.step, step.lost, step.compared));
        Ok(step)
    }

    /// Waits until every node takes part and every partition is full; how long that took, if it came.
    async fn whole(&self, client: &Client) -> Option<Duration> {
        let start = Instant::now();
        while start.elapsed() < self.patience {
            if let Ok(status) = client.status().await {
                let all_there = status
                    .nodes
                    .iter()
                    .all(|node| node.voter && node.learning == 0 && matches!(node.role, Role::Leader | Role::Follower));
                let counts = status.partitions;
                if all_there && status.leader.is_some() && counts.total > 0 && counts.full == counts.total {
                    return Some(start.elapsed());
                }
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
        None
    }

    fn report(&self, steps: &[Step]) -> Result<(), Failure> {
        let mut output = Output::new();
        if self.json {
            let text = serde_json::to_string_pretty(steps).map_err(|error| Failure::Failed(error.to_string()))?;
            output.line(text)?;
        } else {
            output.line(table(steps))?;
        }
        output.flush()?;
        match steps.iter().filter(|step| !step.kept()).count() {
            0 => Ok(()),
            broken => Err(Failure::Failed(format!("in {broken} of {} steps a promise was broken", steps.len()))),
        }
    }
}

/// The names of all nodes, and the leader's.
async fn members(client: &Client) -> Result<(Vec<String>, String), Failure> {
    let status = client.status().await?;
    let leader = status.leader.ok_or_else(|| Failure::Failed("the cluster has no leader".to_owned()))?;
    Ok((status.nodes.into_iter().map(|node| node.name).collect(), leader))
}

fn table(steps: &[Step]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        "STEP",
        "NO READ FOR",
        "NO WRITE FOR",
        "READS FAILED",
        "WRITES FAILED",
        "COMPARED",
        "LOST",
        "UNREADABLE",
        "IN SYNC AFTER",
    ]);
    for step in steps {
        table.add_row([
            step.step.clone(),
            format!("{} ms", step.reads_gap_ms),
            format!("{} ms", step.writes_gap_ms),
            step.reads_failed.to_string(),
            step.writes_failed.to_string(),
            step.compared.to_string(),
            step.lost.to_string(),
            step.unreadable.to_string(),
            step.in_sync_after_ms.map_or_else(|| "never".to_owned(), |time| format!("{time} ms")),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_keeps_the_promise_only_if_nothing_is_missing() {
        let good = || Step { in_sync_after_ms: Some(5), writes_failed: 3, ..Step::default() };
        assert!(good().kept());
        assert!(!Step { lost: 1, ..good() }.kept());
        assert!(!Step { unreadable: 1, ..good() }.kept());
        assert!(!Step { in_sync_after_ms: None, ..good() }.kept());
        assert!(table(&[good()]).contains("5 ms"));
    }
}
