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

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(times: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        times.into_iter().map(Duration::from_millis).collect()
    }

    #[test]
    fn a_verdict_only_gets_worse() {
        let mut row = Row::new("a", String::new(), "");
        row.require(true, Verdict::Broken, || "never said".to_owned());
        assert_eq!((row.verdict, row.notes.len()), (Verdict::Met, 0));
        row.require(false, Verdict::Broken, || "lost".to_owned());
        row.require(false, Verdict::Missed, || "late".to_owned());
        assert_eq!((row.verdict, row.notes), (Verdict::Broken, vec!["lost".to_owned(), "late".to_owned()]));
    }

    #[test]
    fn a_stale_read_or_a_lost_write_breaks_a_promise_and_clusters_add_up() {
        let mut row = Row::new("a", String::new(), "");
        row.enter(&Tally { acknowledged: 10, reads: 5, ..Tally::default() }, Vec::new());
        assert_eq!(row.verdict, Verdict::Met);
        row.enter(&Tally { acknowledged: 7, reads: 5, stale: 1, ..Tally::default() }, vec!["a key".to_owned()]);
        assert_eq!((row.acknowledged, row.reads, row.stale, row.verdict), (17, 10, 1, Verdict::Broken));
        assert_eq!(row.notes.last().map(String::as_str), Some("a key"));
    }

    #[test]
    fn times_are_held_against_their_bounds() {
        let bounds = [("median", 130), ("p99", 250)];
        let verdict = |times: Vec<Duration>| {
            let mut row = Row::new("a", String::new(), "");
            row.require_times(Times::of("T", times), &bounds);
            row.verdict
        };
        assert_eq!(verdict(millis([100, 130, 250])), Verdict::Met);
        assert_eq!(verdict(millis([100, 131, 250])), Verdict::Missed);
        assert_eq!(verdict(millis([100, 130, 251])), Verdict::Missed);
        assert_eq!(verdict(Vec::new()), Verdict::Missed, "nothing was measured");
    }

    #[test]
    fn a_table_has_as_many_cells_in_each_line_and_the_notes_below() {
        let mut row = Row::new("a", "b".to_owned(), "c");
        row.require_times(Times::of("T", millis([1, 2, 3])), &[("worst", 2)]);
        let text = markdown(&[row]);
        let lines: Vec<&str> = text.lines().collect();
        let cells = |line: &str| line.matches('|').count();
        assert!(lines[..3].iter().all(|line| cells(line) == 12), "{text}");
        assert!(lines[2].contains("T (3): 2 / 3 / 3 / 3") && lines[2].ends_with("| c | missed |"), "{text}");
        assert_eq!(lines[4], "- a: T: worst is 3 ms");
    }
}
