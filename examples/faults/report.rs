//! What a scenario says in the end: one row of a table.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::history::Tally;
use super::statistics::Distribution;

/// How a scenario ended, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Everything that the bar asks for.
    Met,
    /// Nothing was lost or wrong, but it took too long, or there were failovers that nobody needed.
    Missed,
    /// It could not be tried on this machine.
    Skipped,
    /// An acknowledged write is gone, a read was stale, a term had two leaders, or the cluster did not come back.
    Broken,
}

/// Times of one kind, in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Times {
    pub what: String,
    pub count: usize,
    pub median_ms: u128,
    pub p90_ms: u128,
    pub p99_ms: u128,
    pub worst_ms: u128,
}

impl Times {
    pub fn of(what: &str, times: Vec<Duration>) -> Option<Self> {
        Self::of_distribution(what, &Distribution::of(times))
    }

    pub fn of_distribution(what: &str, times: &Distribution) -> Option<Self> {
        let at = |percent| times.percentile(percent).map(|time| time.as_millis());
        Some(Self {
            what: what.to_owned(),
            count: times.len(),
            median_ms: at(50)?,
            p90_ms: at(90)?,
            p99_ms: at(99)?,
            worst_ms: at(100)?,
        })
    }

    fn cell(&self) -> String {
        let Self { what, count, median_ms, p90_ms, p99_ms, worst_ms } = self;
        format!("{what} ({count}): {median_ms} / {p90_ms} / {p99_ms} / {worst_ms}")
    }
}

/// One row.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub scenario: String,
    /// What was done, how often or for how long.
    pub done: String,
    pub acknowledged: u64,
    pub lost: u64,
    pub reads: u64,
    pub stale: u64,
    pub times: Vec<Times>,
    pub leader_changes: usize,
    /// Nodes that a leader declared down.
    pub declared_down: usize,
    /// What the bar asks for.
    pub bar: String,
    pub verdict: Verdict,
    /// Why, and what else was seen.
    pub notes: Vec<String>,
}

impl Row {
    pub fn new(scenario: &str, done: String, bar: &str) -> Self {
        Self {
            scenario: scenario.to_owned(),
            done,
            acknowledged: 0,
            lost: 0,
            reads: 0,
            stale: 0,
            times: Vec::new(),
            leader_changes: 0,
            declared_down: 0,
            bar: bar.to_owned(),
            verdict: Verdict::Met,
            notes: Vec::new(),
        }
    }

    /// Adds what the clients of one cluster saw. Whatever isn't sound is a broken promise.
    pub fn enter(&mut self, tally: &Tally, complaints: Vec<String>) {
        self.acknowledged += tally.acknowledged;
        self.lost += tally.lost;
        self.reads += tally.reads;
        self.stale += tally.stale;
        self.require(tally.is_sound(), Verdict::Broken, || {
            let Tally { lost, stale, other_breaches, .. } = tally;
            format!("{lost} writes lost, {stale} stale reads, {other_breaches} other breaches")
        });
        self.notes.extend(complaints);
    }

    /// Lowers the verdict, with a reason, where `holds` is false.
    pub fn require(&mut self, holds: bool, otherwise: Verdict, why: impl FnOnce() -> String) {
        if !holds {
            self.verdict = self.verdict.max(otherwise);
            self.notes.push(why());
        }
    }

    /// Requires that these percentiles of times are within bounds, in milliseconds.
    pub fn require_times(&mut self, times: Option<Times>, bounds: &[(&str, u128)]) {
        let Some(times) = times else {
            return self.require(false, Verdict::Missed, || "no times were measured".to_owned());
        };
        for (percentile, bound) in bounds {
            let seen = match *percentile {
                "median" => times.median_ms,
                "p99" => times.p99_ms,
                _ => times.worst_ms,
            };
            self.require(seen <= *bound, Verdict::Missed, || format!("{}: {percentile} is {seen} ms", times.what));
        }
        self.times.push(times);
    }
}

/// All rows as a table in Markdown, with the notes below it.
pub fn markdown(rows: &[Row]) -> String {
    let mut text =
        "| scenario | what was done | writes acknowledged | lost | reads | stale | ms: median / p90 / p99 / \
                    worst | leader changes | declared down | bar | verdict |\n|---|---|---|---|---|---|---|---|---|---|\
                    ---|\n"
            .to_owned();
    for row in rows {
        let times: Vec<String> = row.times.iter().map(Times::cell).collect();
        let Row { scenario, done, acknowledged, lost, reads, stale, leader_changes, declared_down, bar, .. } = row;
        let (times, verdict) = (times.join("; "), format!("{:?}", row.verdict).to_lowercase());
        let _ = writeln!(
            text,
            "| {scenario} | {done} | {acknowledged} | {lost} | {reads} | {stale} | {times} | {leader_changes} | \
             {declared_down} | {bar} | {verdict} |"
        );
    }
    let notes = rows.iter().flat_map(|row| row.notes.iter().map(|note| format!("- {}: {note}\n", row.scenario)));
    let notes: String = notes.collect();
    if notes.is_empty() { text } else { format!("{text}\n{notes}") }
}
