//! What a run came to, as a table and as JSON.

use std::time::Duration;

use comfy_table::{Table, presets};
use serde::Serialize;

use super::histogram::Histogram;
use super::load::{Seen, Tally};

/// The longest bar of a histogram, in characters.
const BAR: usize = 40;

/// The report of a run. Times are in microseconds.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// `closed` or `open`.
    #[serde(rename = "loop")]
    kind: &'static str,
    /// The rate that was asked for, in operations a second; none in a closed loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<f64>,
    connections: usize,
    batch: u64,
    value_bytes: usize,
    seconds: f64,
    reads: Row,
    writes: Row,
    /// Whole requests, where each was a batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    batches: Option<Row>,
    all: Row,
    /// Reads that found no such key.
    missing: u64,
    /// Requests that were due and could not be sent before the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_sent: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    viewers: Option<Viewers>,
    /// All requests, by doublings of their time.
    histogram: Vec<Bar>,
}

/// One kind of operation.
#[derive(Debug, Serialize)]
struct Row {
    done: u64,
    failed: u64,
    per_second: f64,
    /// None where operations went in batches, or there were none.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    times: Option<Times>,
}

#[derive(Debug, Serialize)]
struct Times {
    mean_us: f64,
    p50_us: u64,
    p90_us: u64,
    p99_us: u64,
    p999_us: u64,
    longest_us: u64,
}

/// Requests whose time lies below `below_us` and in no bar before.
#[derive(Debug, Serialize)]
struct Bar {
    below_us: u64,
    requests: u64,
}

/// What the viewers of the feed got.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Viewers {
    pub viewers: usize,
    /// Changes that all of them together were sent.
    pub events: u64,
    /// The fewest that one of them was sent.
    pub fewest: u64,
    /// Feeds that ended before the run did.
    pub ended: usize,
}

/// How a run was asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// Operations a second; none in a closed loop.
    pub rate: Option<f64>,
    pub connections: usize,
    pub batch: u64,
    pub value_bytes: usize,
}

impl Report {
    pub(super) fn new(
        asked: Asked,
        seen: &Seen,
        elapsed: Duration,
        not_sent: Option<u64>,
        viewers: Option<Viewers>,
    ) -> Self {
        let seconds = elapsed.as_secs_f64().max(1e-6);
        let (all_times, no_times) = (seen.times(), Histogram::default());
        let row = |done: u64, failed: u64, times: &Histogram| Row {
            done,
            failed,
            per_second: done as f64 / seconds,
            times: (times.total() > 0).then(|| Times::of(times)),
        };
        let of = |tally: &Tally| row(tally.done, tally.failed, &tally.times);
        Self {
            kind: if asked.rate.is_some() { "open" } else { "closed" },
            rate: asked.rate,
            connections: asked.connections,
            batch: asked.batch,
            value_bytes: asked.value_bytes,
            seconds,
            reads: of(&seen.reads),
            writes: of(&seen.writes),
            batches: (asked.batch > 1).then(|| of(&seen.batches)),
            // A batch's time is none of its operations.
            all: row(seen.done(), seen.failed(), if asked.batch > 1 { &no_times } else { &all_times }),
            missing: seen.missing,
            not_sent,
            viewers,
            histogram: all_times
                .doublings()
                .into_iter()
                .map(|(below_us, requests)| Bar { below_us, requests })
                .collect(),
        }
    }

    /// The report for people.
    pub(super) fn text(&self) -> String {
        let mut text = self.table();
        text += &format!("\n{} in {:.2} s", self.what(), self.seconds);
        if self.missing > 0 {
            text += &format!("; {} reads found no such key", self.missing);
        }
        if let Some(not_sent) = self.not_sent.filter(|&not_sent| not_sent > 0) {
            text += &format!("; {not_sent} requests were due and not sent: the cluster, or this client, can't keep up");
        }
        if let Some(Viewers { viewers, events, fewest, ended }) = self.viewers {
            text += &format!(
                "\n{viewers} viewers were sent {events} changes ({:.0} a second), each at least {fewest}; {ended} feeds ended early",
                events as f64 / self.seconds
            );
        }
        text += "\n";
        text + &self.bars()
    }

    fn what(&self) -> String {
        let Self { connections, batch, value_bytes, .. } = self;
        let pace = self.rate.map_or_else(|| "closed loop".to_owned(), |rate| format!("open loop at {rate:.0}/s"));
        let ops = if *batch > 1 { format!(", {batch} operations a request") } else { String::new() };
        format!("{pace}, {connections} connections, values of {value_bytes} bytes{ops}")
    }

    fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header(["", "DONE", "FAILED", "PER SECOND", "MEAN", "P50", "P90", "P99", "P99.9", "LONGEST"]);
        let rows = [("reads", Some(&self.reads)), ("writes", Some(&self.writes)), ("batches", self.batches.as_ref())];
        let rows = rows.into_iter().filter_map(|(name, row)| Some((name, row?)));
        for (name, row) in rows.filter(|(_, row)| row.done + row.failed > 0).chain([("all", &self.all)]) {
            let mut cells =
                vec![name.to_owned(), row.done.to_string(), row.failed.to_string(), format!("{:.0}", row.per_second)];
            match &row.times {
                None => cells.extend(std::iter::repeat_n("-".to_owned(), 6)),
                Some(times) => cells.extend(times.cells()),
            }
            table.add_row(cells);
        }
        table.to_string()
    }

    /// The histogram: one line for each doubling.
    fn bars(&self) -> String {
        let total: u64 = self.histogram.iter().map(|bar| bar.requests).sum();
        let most = self.histogram.iter().map(|bar| bar.requests).max().unwrap_or(0).max(1);
        let line = |bar: &Bar| {
            let share = 100.0 * bar.requests as f64 / total as f64;
            let length = (bar.requests as usize * BAR).div_ceil(most as usize);
            format!("below {:>9}  {share:5.1} %  {}\n", time(bar.below_us), "#".repeat(length))
        };
        self.histogram.iter().map(line).collect()
    }
}

impl Times {
    fn of(times: &Histogram) -> Self {
        Self {
            mean_us: times.mean_us(),
            p50_us: times.quantile_us(0.5),
            p90_us: times.quantile_us(0.9),
            p99_us: times.quantile_us(0.99),
            p999_us: times.quantile_us(0.999),
            longest_us: times.longest_us(),
        }
    }

    fn cells(&self) -> [String; 6] {
        let Self { mean_us, p50_us, p90_us, p99_us, p999_us, longest_us } = *self;
        [mean_us.round() as u64, p50_us, p90_us, p99_us, p999_us, longest_us].map(time)
    }
}

/// A time as people read it, with three digits or so.
pub(super) fn time(us: u64) -> String {
    match us {
        0..=999 => format!("{us} us"),
        1000..=9_999 => format!("{:.2} ms", us as f64 / 1e3),
        10_000..=99_999 => format!("{:.1} ms", us as f64 / 1e3),
        100_000..=999_999 => format!("{:.0} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        let mut seen = Seen::default();
        seen.reads.done = 3;
        seen.missing = 1;
        [100, 200, 3000].iter().for_each(|&us| seen.reads.times.record(Duration::from_micros(us)));
        seen.writes.failed = 1;
        seen
    }

    const ASKED: Asked = Asked { rate: None, connections: 2, batch: 1, value_bytes: 128 };

    #[test]
    fn a_report_says_what_was_done_and_how_long_it_took() {
        let report = Report::new(ASKED, &seen(), Duration::from_secs(2), None, None);
        let text = report.text();
        assert!(text.contains("| reads  | 3    | 0      | 2          | 1.10 ms | 200 us |"), "{text}");
        assert!(text.contains("| writes | 0    | 1      | 0          | -"), "{text}");
        assert!(
            text.contains("closed loop, 2 connections, values of 128 bytes in 2.00 s; 1 reads found no such key\n")
        );
        assert!(text.ends_with("below   4.10 ms   33.3 %  ########################################\n"), "{text}");
        let json = serde_json::to_value(&report).expect("a report has a JSON form");
        assert_eq!((&json["reads"]["p50_us"], &json["all"]["failed"]), (&200.into(), &1.into()));
        assert_eq!(json["histogram"][0], serde_json::json!({"below_us": 128, "requests": 1}));
        assert!(json["writes"].get("p50_us").is_none() && json.get("viewers").is_none());
    }

    #[test]
    fn what_could_not_be_sent_is_said() {
        let asked = Asked { rate: Some(5000.0), ..ASKED };
        let viewers = Viewers { viewers: 2, events: 10, fewest: 4, ended: 1 };
        let text = Report::new(asked, &seen(), Duration::from_secs(1), Some(7), Some(viewers)).text();
        assert!(text.contains("open loop at 5000/s") && text.contains("7 requests were due and not sent"), "{text}");
        assert!(text.contains("2 viewers were sent 10 changes (10 a second), each at least 4"), "{text}");
    }
}
