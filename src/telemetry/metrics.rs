//! Numbers for whoever watches a node: Prometheus' text format, version 0.0.4.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

/// What was refused, by reason. The reasons are words of the program, so there are few of them.
#[derive(Debug, Default)]
pub struct Rejections(Mutex<BTreeMap<&'static str, u64>>);

impl Rejections {
    /// Counts something that was refused for `reason`.
    pub fn add(&self, reason: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
    }

    /// How often something was refused so far, by reason.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How a number may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only rises.
    Counter,
    /// It rises and falls.
    Gauge,
}

/// A family of numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    /// Its name, which ends in `_total` where it only rises.
    pub name: String,
    /// Whether it only rises.
    pub kind: Kind,
    /// What is counted.
    pub help: &'static str,
    /// Its numbers: the names and values of their labels, and how many. Names and values are words of this program, which
    /// need no escape.
    pub samples: Vec<(Vec<(&'static str, &'static str)>, u64)>,
}

/// The families as text.
#[must_use]
pub fn exposition(families: &[Family]) -> String {
    let mut text = String::new();
    for Family { name, kind, help, samples } in families {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        // Writing to a string never fails.
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (labels, count) in samples {
            let labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            let _ = writeln!(text, "{name}{labels} {count}");
        }
    }
    text
}

type Text = Pin<Box<dyn Future<Output = String> + Send>>;

/// Where a gateway gets the text of `/metrics` from.
#[derive(Clone)]
pub struct MetricsSource(Arc<dyn Fn() -> Text + Send + Sync>);

impl MetricsSource {
    /// What `read` gives, asked anew each time.
    pub fn new<F: Future<Output = String> + Send + 'static>(read: impl Fn() -> F + Send + Sync + 'static) -> Self {
        Self(Arc::new(move || Box::pin(read())))
    }

    /// The text, now.
    pub async fn text(&self) -> String {
        (self.0)().await
    }
}

impl Default for MetricsSource {
    /// Nothing is counted.
    fn default() -> Self {
        Self::new(|| async { String::new() })
    }
}

impl fmt::Debug for MetricsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MetricsSource")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_written_as_prometheus_reads_them() {
        let rejections = Rejections::default();
        ["late", "torn", "late"].into_iter().for_each(|reason| rejections.add(reason));
        let samples = rejections
            .counts()
            .into_iter()
            .map(|(reason, count)| (vec![("plane", "pulse"), ("reason", reason)], count));
        let families = [
            Family { name: "a_bytes".to_owned(), kind: Kind::Gauge, help: "Things.", samples: vec![(Vec::new(), 7)] },
            Family { name: "b_total".to_owned(), kind: Kind::Counter, help: "Refusals.", samples: samples.collect() },
        ];
        let expected = "# HELP a_bytes Things.\n# TYPE a_bytes gauge\na_bytes 7\n# HELP b_total Refusals.\n# TYPE b_total counter\n\
            b_total{plane=\"pulse\",reason=\"late\"} 2\nb_total{plane=\"pulse\",reason=\"torn\"} 1\n";
        assert_eq!(exposition(&families), expected);
    }
}
