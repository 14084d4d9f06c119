//! What busy processors, restarts and odd clocks do to a cluster: rows 7, 12, 14 and 23 of the reliability table.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::failover::{Primaries, probe, settle};
use super::network::{require_no_failover, watch};
use super::processes::{Start, until};
use super::report::{Row, Times, Verdict};
use super::say;
use super::stage::{NODES, Setting, Stage};

/// Processes that do nothing but burn time; they end when this value goes.
struct BusyLoops(Vec<Child>);

impl BusyLoops {
    fn start(count: usize) -> Self {
        let start = |_| {
            let mut command = Command::new("sh");
            command.args(["-c", "while :; do :; done"]).stdin(Stdio::null()).stdout(Stdio::null());
            command.spawn().expect("a shell")
        };
        Self((0..count).map(start).collect())
    }
}

impl Drop for BusyLoops {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Row 7: full load beside busy loops.
pub fn busy(time: Duration, loops: usize, seed: u64) -> Row {
    let cores = thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let done = format!("full load and {loops} busy loops on {cores} cores for {time:?}");
    let mut row = Row::new("busy machine", done, "no leader change");
    let stage = Stage::set(&Setting { deadline: Duration::from_secs(5), ..Setting::full(seed) });
    let busy = BusyLoops::start(loops);
    watch(&stage, "busy machine", time);
    drop(busy);
    stage.end_with_latencies(&mut row);
    let changes = row.leader_changes;
    row.require(changes == 0, Verdict::Missed, || format!("{changes} leader changes"));
    row
}

/// Row 23: each node is killed and started again in its turn.
pub fn rolling(rounds: usize, every: Duration, seed: u64) -> Row {
    let kills = rounds * NODES;
    let done = format!("{kills} nodes killed in turn and started again, {every:?} apart");
    let mut row = Row::new("rolling kills", done, "nothing lost; writable throughout but for T");
    let (mut stage, primaries) = (Stage::set(&Setting::everywhere(seed)), Primaries::targets());
    let (mut gaps, mut times, mut unready) = (Vec::new(), Vec::new(), 0);
    for nth in 0..kills {
        let victim = nth % NODES;
        settle(&stage, &primaries);
        let survivors: Vec<u16> =
            (0..NODES).filter(|node| *node != victim).map(|node| stage.cluster.port(node)).collect();
        let from = Instant::now();
        stage.cluster.kill(&[victim]);
        stage.cluster.spawn(victim);
        let [affected, _] = probe(&stage.history, &survivors, nth, from, |key| primaries.of(key) == victim);
        times.extend(affected);
        thread::sleep((from + every).saturating_duration_since(Instant::now()));
        let (gap, class) = stage.load.worst_gap(from, Instant::now());
        say(&format!("n{} killed: {} ms without writes of keys of {class}", victim + 1, gap.as_millis()));
        gaps.push(gap);
        // Whoever kills the next one while the last one is still being filled kills the only copy of something.
        let late = Instant::now();
        stage.cluster.wait_until_whole();
        unready += usize::from(late.elapsed() > Duration::from_millis(500));
    }
    if unready > 0 {
        row.notes
            .push(format!("{unready} times the cluster was not whole again after {every:?}; the next kill waited"));
    }
    row.require_times(Times::of("keys of the victim", times), &[("median", 130), ("p99", 250)]);
    // No bar: a writer that turns to the node which has just started again waits until that one has joined.
    row.times.extend(Times::of("longest time without a write of some keys", gaps));
    stage.end(&mut row);
    row
}

/// Row 12: a node is back within a second, under the same name.
pub fn restart(rounds: usize, seed: u64) -> Row {
    let mut row = Row::new(
        "restart",
        format!("{rounds} restarts in turn, at once after the kill"),
        "never two leaders a term; back as another incarnation, without a vote at first",
    );
    let mut stage = Stage::set(&Setting::light(seed));
    let (mut back, mut non_voting) = (Vec::new(), 0);
    for nth in 0..rounds {
        // Every second time it is the leader: its vote in the running term is what it must not give twice.
        let leader = stage.cluster.leader();
        let victim = if nth % 2 == 0 { leader } else { (leader + 1) % NODES };
        let observer = (victim + 1) % NODES;
        let before = stage.cluster.incarnation(observer, victim);
        let from = Instant::now();
        stage.cluster.kill(&[victim]);
        stage.cluster.spawn(victim);
        let voted_first = first_sight(&stage, victim, &before);
        non_voting += usize::from(voted_first == Some(false));
        row.require(voted_first != Some(true), Verdict::Broken, || format!("n{} was a voter at once", victim + 1));
        stage.cluster.wait_until_whole();
        let after = stage.cluster.incarnation(observer, victim);
        row.require(after != before, Verdict::Broken, || format!("n{} came back as the same incarnation", victim + 1));
        say(&format!(
            "n{} is back after {} ms; a voter at first sight: {voted_first:?}",
            victim + 1,
            from.elapsed().as_millis()
        ));
        back.push(from.elapsed());
        stage.check_keys(false);
    }
    row.notes.push(format!("{non_voting} of {rounds} were seen without a vote before they had one"));
    row.times.extend(Times::of("from the kill to a whole cluster", back));
    stage.end(&mut row);
    row
}

/// What the restarted node says of its own vote when it first answers; none where it had been let in before it was asked.
fn first_sight(stage: &Stage, node: usize, before: &str) -> Option<bool> {
    let status = until("the new process answers", || stage.cluster.try_status(node));
    let own = &status.nodes[node];
    // It is a voter only by an entry of the log, so one that has no log yet must have no vote.
    let is_new = own.incarnation != before && own.last_index.unwrap_or(0) == 0;
    (is_new || !own.voter).then_some(own.voter)
}

/// Row 14: clocks that are wrong from the start.
pub fn clock(faketime: Option<&Path>, time: Duration, seed: u64) -> Row {
    let mut row = Row::new("clocks", String::new(), "no effect");
    let mut starts = Vec::new();
    let mut done = Vec::new();
    match faketime.map(Path::to_path_buf).or_else(find_faketime) {
        // Only the wall clock: the other clocks are what leases and elections run on, and no machine moves them.
        Some(library) => {
            for (node, offset) in [(0, "+3600"), (1, "-3600")] {
                let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
                let environment = vec![
                    variable("LD_PRELOAD", &library.to_string_lossy()),
                    variable("FAKETIME", offset),
                    variable("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
                ];
                starts.push((node, Start { environment, ..Start::default() }));
            }
            done.push("wall clock of n1 an hour ahead, of n2 an hour behind");
        }
        None => {
            row.notes.push("the wall clock was left alone: there is no libfaketime here (see --faketime)".to_owned())
        }
    }
    let moves_wall_clock = !starts.is_empty();
    if may_unshare() {
        let prefix = ["unshare", "--time", "--boottime", "86400", "--monotonic", "86400", "--"].map(str::to_owned);
        starts.push((2, Start { prefix: prefix.to_vec(), ..Start::default() }));
        done.push("n3 in a time namespace whose clocks are a day ahead");
    } else {
        row.notes.push("the monotonic clocks were left alone: no time namespace can be made here".to_owned());
    }
    row.done = format!("{}; {time:?}, then each node is killed and started again", done.join("; "));
    row.require(!starts.is_empty(), Verdict::Skipped, || "nothing was tried".to_owned());
    let mut stage = Stage::set(&Setting { starts, ..Setting::everywhere(seed) });
    watch(&stage, "clocks", time);
    require_quiet(&mut row, &stage);
    if moves_wall_clock {
        // Versions begin at the wall clock of the process that gives them.
        let ahead = minutes_ahead(stage.history.newest_version());
        row.notes.push(format!("the newest version is {ahead} minutes ahead of this machine's clock"));
        row.require(ahead >= 59, Verdict::Skipped, || "libfaketime had no effect on the wall clock".to_owned());
    }
    let mut gaps = Vec::new();
    for victim in 0..NODES {
        let from = Instant::now();
        stage.cluster.kill(&[victim]);
        stage.cluster.spawn(victim);
        stage.cluster.wait_until_whole();
        gaps.push(stage.load.worst_gap(from, Instant::now()).0);
        stage.check_keys(false);
    }
    row.times.extend(Times::of("longest time without a write of some keys, at a kill", gaps));
    stage.end(&mut row);
    row
}

fn require_quiet(row: &mut Row, stage: &Stage) {
    let mut quiet = Row::new("", String::new(), "");
    (quiet.leader_changes, quiet.declared_down) = (stage.leader_changes(), stage.downs());
    require_no_failover(&mut quiet);
    row.verdict = row.verdict.max(quiet.verdict);
    row.notes.append(&mut quiet.notes);
}

/// How far a version, in microseconds since 1970, is ahead of now.
fn minutes_ahead(version: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::from_micros(version).saturating_sub(now).as_secs() / 60
}

fn may_unshare() -> bool {
    let tried =
        Command::new("unshare").args(["--time", "--boottime", "86400", "--", "true"]).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

fn find_faketime() -> Option<std::path::PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    let libraries =
        folders.flat_map(|folder| [folder.join("faketime/libfaketime.so.1"), folder.join("libfaketime.so.1")]);
    libraries.into_iter().find(|library| library.exists())
}
