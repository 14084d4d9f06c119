//! What a bad network does to a cluster: rows 4, 5, 6 and 8 of the reliability table.

use std::thread;
use std::time::{Duration, Instant};

use jumpgate::base::Rng;
use jumpgate::config::TimingConfig;

use super::history::Outcome;
use super::load;
use super::processes::until;
use super::report::{Row, Times, Verdict};
use super::say;
use super::stage::{NODES, Setting, Stage};
use super::weather::{self, Cut, Cuts, Weather};

/// Row 5: datagrams are lost, doubled and disordered.
pub fn loss(time: Duration, loss_percent: u32, duplicate_percent: u32, seed: u64) -> Row {
    let reorder_percent = 20;
    let done = format!(
        "{loss_percent} % of datagrams lost, {duplicate_percent} % doubled, {reorder_percent} % late, for {time:?}"
    );
    let mut row = Row::new("bad datagrams", done, "no failover");
    let stage = Stage::set(&Setting::relayed(seed));
    let weather = Weather { loss_percent, duplicate_percent, reorder_percent, ..Weather::default() };
    let (all_before, lost_before, doubled_before) = stage.relays().datagrams.counts();
    stage.relays().set_weather(weather);
    watch(&stage, &row.scenario, time);
    let (all, lost, doubled) = stage.relays().datagrams.counts();
    let (lost, doubled) = (lost - lost_before, doubled - doubled_before);
    row.notes.push(format!("{} datagrams, {lost} lost, {doubled} doubled", all - all_before));
    stage.relays().set_weather(Weather::default());
    stage.end_with_latencies(&mut row);
    require_no_failover(&mut row);
    row
}

/// Row 6: everything is late.
pub fn delay(time: Duration, settle: Duration, wide: bool, seed: u64) -> Row {
    let timing = if wide {
        let millis = |millis| Some(Duration::from_millis(millis));
        TimingConfig { heartbeat: millis(100), election: millis(1000), lease: millis(800), down: millis(900) }
    } else {
        TimingConfig::default()
    };
    let profile = if wide { "a fixed profile" } else { "default timing" };
    let done = format!("75 ± 50 ms on all ways, {profile}; {time:?} counted after {settle:?}");
    let mut row = Row::new("delay", done, "no failover once the timing fits; a warning before");
    let deadline = Duration::from_secs(3);
    let stage = Stage::set(&Setting { timing, deadline, ..Setting::relayed(seed) });
    let (delay_min, delay_spread) = (Duration::from_millis(25), Duration::from_millis(100));
    stage.relays().set_weather(Weather { delay_min, delay_spread, ..Weather::default() });
    let lines_before = warnings(&stage).len();
    watch(&stage, "delay, settling", settle);
    let (changes_before, downs_before) = (stage.leader_changes(), stage.downs());
    watch(&stage, "delay", time);
    let (changes, downs) = (stage.leader_changes() - changes_before, stage.downs() - downs_before);
    let warning = warnings(&stage).into_iter().nth(lines_before);
    row.notes.push(format!("the first warning: {}", warning.as_deref().unwrap_or("none")));
    stage.relays().set_weather(Weather::default());
    stage.end_with_latencies(&mut row);
    row.require(changes == 0 && downs == 0, Verdict::Missed, || {
        format!("{changes} leader changes and {downs} nodes declared down after the timing had its time")
    });
    row
}

/// What the nodes have warned of, in the order of time.
fn warnings(stage: &Stage) -> Vec<String> {
    let logs = stage.cluster.texts("err");
    let lines = logs.iter().flat_map(|log| log.lines().filter(|line| line.contains(" WARN ")));
    let mut lines: Vec<String> = lines.map(str::to_owned).collect();
    // Each begins with its time.
    lines.sort();
    lines
}

/// Row 4: ways are cut one at a time, each way and each plane; then a bridge.
pub fn cuts(each: Duration, only: &str, seed: u64) -> Row {
    let mut row =
        Row::new("cuts", String::new(), "T ≤ 1000; at most one leader change a minute; bridge: ≥ 99 % of writes");
    let stage = Stage::set(&Setting::relayed(seed));
    let mut gaps = Vec::new();
    let planes = [("both planes", Cut::BOTH), ("pulse only", Cut::PULSE), ("stream only", Cut::STREAM)];
    // Who leads may change with every cut, so each is drawn up when its turn comes.
    type Draw = fn(usize, usize, usize, Cut) -> Cuts;
    let shapes: [(&str, Draw); 7] = [
        ("leader to follower", |leader, one, _, cut| vec![(leader, one, cut)]),
        ("follower to leader", |leader, one, _, cut| vec![(one, leader, cut)]),
        ("follower to follower", |_, one, other, cut| vec![(one, other, cut)]),
        ("bridge: the leader sees both", |_, one, other, cut| weather::between(one, other, cut)),
        ("bridge: a follower sees both", |leader, one, _, cut| weather::between(leader, one, cut)),
        ("a follower alone", |_, one, _, cut| weather::around(one, NODES, cut)),
        ("the leader alone", |leader, _, _, cut| weather::around(leader, NODES, cut)),
    ];
    for (shape, draw) in shapes {
        for (plane, cut) in planes {
            let what = format!("{shape}, {plane}");
            if !what.contains(only) {
                continue;
            }
            let leader = stage.cluster.leader();
            let (one, other) = ((leader + 1) % NODES, (leader + 2) % NODES);
            let alone =
                [("a follower alone", one), ("the leader alone", leader)].into_iter().find(|(name, _)| *name == shape);
            gaps.push(one_cut(
                &stage,
                &mut row,
                &what,
                &draw(leader, one, other, cut),
                each,
                alone.map(|alone| alone.1),
            ));
        }
    }
    row.done = format!("{} cuts of {each:?}: each way and each plane, bridges, a node alone", gaps.len());
    row.require_times(Times::of("longest time without a write of some keys", gaps), &[("worst", 1000)]);
    stage.end(&mut row);
    row
}

/// Cuts, waits, heals and waits until all is well; the longest time in which keys of some owners couldn't be written.
fn one_cut(
    stage: &Stage,
    row: &mut Row,
    what: &str,
    cuts: &[(usize, usize, Cut)],
    each: Duration,
    alone: Option<usize>,
) -> Duration {
    let (before, changes_before) = (stage.tally(), stage.leader_changes());
    let from = Instant::now();
    stage.relays().cut(cuts);
    let last = alone.and_then(|node| keep_writing_to(stage, node, what, from + each));
    thread::sleep((from + each).saturating_duration_since(Instant::now()));
    let to = Instant::now();
    let (gap, class) = stage.load.worst_gap(from, to);
    let (tally, changes) = (stage.tally().since(&before), stage.leader_changes() - changes_before);
    stage.relays().heal();
    let writable = stage.wait_until_writable();
    stage.cluster.wait_until_whole();
    let share = 100.0 * tally.acknowledged as f64 / tally.writes().max(1) as f64;
    say(&format!(
        "{what}: {} ms without writes of keys of {class}, {share:.2} % of writes done, {changes} leader changes, {} ms \
         until writable after the heal",
        gap.as_millis(),
        writable.as_millis()
    ));
    if let Some(last) = last.map(|last| last.saturating_duration_since(from)) {
        say(&format!("{what}: it acknowledged its last write after {} ms", last.as_millis()));
        let stops = last <= Duration::from_millis(300) || !what.contains("both planes");
        row.require(stops, Verdict::Missed, || format!("{what}: it acknowledged writes for {} ms", last.as_millis()));
    }
    let minutes = each.as_secs().div_ceil(60) as usize;
    row.require(changes <= minutes, Verdict::Missed, || format!("{what}: {changes} leader changes in {each:?}"));
    let is_bridge = what.starts_with("bridge");
    row.require(!is_bridge || share >= 99.0, Verdict::Missed, || format!("{what}: {share:.2} % of writes were done"));
    row.require(gap <= Duration::from_secs(1), Verdict::Missed, || {
        format!("{what}: keys of {class} could not be written for {} ms", gap.as_millis())
    });
    gap
}

/// Writes to a node that is cut off, until `end`: a client that can't go anywhere else. When its last write was
/// acknowledged; none where none was. Whatever it acknowledges is judged with everything else.
fn keep_writing_to(stage: &Stage, node: usize, what: &str, end: Instant) -> Option<Instant> {
    const DEADLINE: Duration = Duration::from_millis(250);
    let (mut client, mut last) = (stage.cluster.http(node), None);
    let prefix = format!("alone/{}", what.replace([' ', ','], "-"));
    for nth in 0.. {
        if Instant::now() >= end {
            break;
        }
        let entry = stage.history.open(format!("{prefix}/{nth}"));
        let Some(number) = stage.history.begin_write(&entry) else { continue };
        let outcome = load::write(&mut client, &entry.key, number, DEADLINE);
        stage.history.end_write(&entry, outcome);
        if let Outcome::Acknowledged { .. } = outcome {
            last = Some(Instant::now());
        }
        thread::sleep(Duration::from_millis(5));
    }
    last
}

/// Row 8: ways are clogged by chance and healed, again and again.
pub fn clogs(rounds: usize, seed: u64) -> Row {
    let mut row =
        Row::new("clog and heal", format!("{rounds} rounds, seed {seed}"), "writable within 1000 of each heal");
    let stage = Stage::set(&Setting::relayed(seed));
    let mut rng = Rng::new(seed);
    let mut times = Vec::new();
    for nth in 0..rounds {
        let round = weather::round(&mut rng, NODES);
        stage.relays().cut(&round.cuts);
        thread::sleep(round.lasts);
        stage.relays().heal();
        let healed = Instant::now();
        until("keys of all owners are written", || stage.load.all_written_since(healed).then_some(()));
        let writable = healed.elapsed();
        say(&format!(
            "round {} of {rounds}: {} for {} ms; writable {} ms after",
            nth + 1,
            round.what,
            round.lasts.as_millis(),
            writable.as_millis()
        ));
        times.push(writable);
        thread::sleep(round.rest.saturating_sub(writable));
    }
    row.require_times(Times::of("from the heal to writes of all keys", times), &[("worst", 1000)]);
    stage.end(&mut row);
    row
}

/// Lets time pass, and says now and then how it goes.
pub fn watch(stage: &Stage, what: &str, time: Duration) {
    const SAY_EVERY: Duration = Duration::from_secs(10);
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        thread::sleep(left.min(SAY_EVERY));
        let (written, changes, downs) = (stage.tally().acknowledged, stage.leader_changes(), stage.downs());
        let left = end.saturating_duration_since(Instant::now()).as_secs();
        say(&format!("{what}: {written} writes, {changes} leader changes, {downs} declared down; {left} s left"));
    }
}

pub fn require_no_failover(row: &mut Row) {
    let (changes, downs) = (row.leader_changes, row.declared_down);
    row.require(changes == 0 && downs == 0, Verdict::Missed, || {
        format!("{changes} leader changes, {downs} times a node was declared down")
    });
}
