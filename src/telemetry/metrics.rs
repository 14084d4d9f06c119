//! Numbers for whoever watches a node: Prometheus' text format, version 0.0.4.

use std::borrow::Cow;
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
    /// Counts of what fell below each of some bounds, their sum, and how many there were.
    Histogram,
}

/// The value of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// A count.
    Whole(u64),
    /// A measure.
    Real(f64),
}

impl From<u64> for Number {
    fn from(count: u64) -> Self {
        Self::Whole(count)
    }
}

impl From<f64> for Number {
    fn from(measure: f64) -> Self {
        Self::Real(measure)
    }
}

impl From<bool> for Number {
    fn from(is_so: bool) -> Self {
        Self::Whole(u64::from(is_so))
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(count) => count.fmt(f),
            Self::Real(measure) => measure.fmt(f),
        }
    }
}

/// Names and values of labels. Names are words of this program; values may be anything.
pub type Labels = Vec<(&'static str, Cow<'static, str>)>;

/// A family of numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    name: String,
    kind: Kind,
    help: &'static str,
    /// What comes behind the name, the labels, and the number.
    samples: Vec<(&'static str, Labels, Number)>,
}

impl Family {
    /// A family that only rises. Its name ends in `_total`.
    #[must_use]
    pub fn counter(name: impl Into<String>, help: &'static str) -> Self {
        let name = name.into();
        debug_assert!(name.ends_with("_total"), "{name} is a counter");
        Self { name, kind: Kind::Counter, help, samples: Vec::new() }
    }

    /// One that rises and falls.
    #[must_use]
    pub fn gauge(name: &str, help: &'static str) -> Self {
        Self { name: name.to_owned(), kind: Kind::Gauge, help, samples: Vec::new() }
    }

    /// One of distributions.
    #[must_use]
    pub fn histogram(name: &str, help: &'static str) -> Self {
        Self { name: name.to_owned(), kind: Kind::Histogram, help, samples: Vec::new() }
    }

    /// The family with one more number.
    #[must_use]
    pub fn with(mut self, labels: Labels, number: impl Into<Number>) -> Self {
        self.samples.push(("", labels, number.into()));
        self
    }

    /// The family with one number that has no labels, where it is known.
    #[must_use]
    pub fn of(self, number: Option<impl Into<Number>>) -> Self {
        match number {
            Some(number) => self.with(Labels::new(), number),
            None => self,
        }
    }

    /// The family with one more distribution: how many fell into each bucket (the last has no bound), and their sum.
    #[must_use]
    pub fn with_buckets(mut self, labels: &Labels, bounds: &[f64], counts: &[u64], sum: f64) -> Self {
        assert_eq!(counts.len(), bounds.len() + 1, "one bucket has no bound");
        let ends = bounds.iter().map(f64::to_string).chain(std::iter::once("+Inf".to_owned()));
        let mut below = 0;
        for (end, count) in ends.zip(counts) {
            below += count;
            let mut labels = labels.clone();
            labels.push(("le", end.into()));
            self.samples.push(("_bucket", labels, below.into()));
        }
        self.samples.push(("_sum", labels.clone(), sum.into()));
        self.samples.push(("_count", labels.clone(), below.into()));
        self
    }

    fn write_to(&self, text: &mut String) -> fmt::Result {
        let Self { name, kind, help, samples } = self;
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n")?;
        for (suffix, labels, number) in samples {
            write!(text, "{name}{suffix}")?;
            for (nth, (label, value)) in labels.iter().enumerate() {
                write!(text, "{}{label}=\"", if nth == 0 { '{' } else { ',' })?;
                for letter in value.chars() {
                    match letter {
                        '\\' => text.push_str("\\\\"),
                        '"' => text.push_str("\\\""),
                        '\n' => text.push_str("\\n"),
                        other => text.push(other),
                    }
                }
                text.push('"');
            }
            writeln!(text, "{} {number}", if labels.is_empty() { "" } else { "}" })?;
        }
        Ok(())
    }
}

/// The families as text.
#[must_use]
pub fn exposition(families: &[Family]) -> String {
    let mut text = String::new();
    for family in families {
        family.write_to(&mut text).expect("writing to a string never fails");
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
        let refusals =
            rejections.counts().into_iter().fold(Family::counter("b_total", "Refusals."), |family, (reason, count)| {
                family.with(vec![("plane", "pulse".into()), ("reason", reason.into())], count)
            });
        let families = [
            Family::gauge("a_bytes", "Things.").of(Some(7)),
            refusals,
            Family::gauge("c_seconds", "Unknown.").of(None::<f64>),
            Family::gauge("d_ratio", "Odd.").with(vec![("peer", "a\"\\\nb".into())], 0.25),
            Family::histogram("e_seconds", "Times.").with_buckets(&Labels::new(), &[0.1, 2.5], &[1, 2, 3], 10.5),
        ];
        let expected = "# HELP a_bytes Things.\n# TYPE a_bytes gauge\na_bytes 7\n# HELP b_total Refusals.\n# TYPE b_total counter\n\
            b_total{plane=\"pulse\",reason=\"late\"} 2\nb_total{plane=\"pulse\",reason=\"torn\"} 1\n\
            # HELP c_seconds Unknown.\n# TYPE c_seconds gauge\n# HELP d_ratio Odd.\n# TYPE d_ratio gauge\n\
            d_ratio{peer=\"a\\\"\\\\\\nb\"} 0.25\n# HELP e_seconds Times.\n# TYPE e_seconds histogram\n\
            e_seconds_bucket{le=\"0.1\"} 1\ne_seconds_bucket{le=\"2.5\"} 3\ne_seconds_bucket{le=\"+Inf\"} 6\n\
            e_seconds_sum 10.5\ne_seconds_count 6\n";
        assert_eq!(exposition(&families), expected);
    }
}
