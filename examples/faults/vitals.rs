//! Resident memory and open descriptors of the nodes' processes, looked at again and again, and whether they rise.
//!
//! A node's *life* is one process: one that is started again begins anew, with nothing in memory. Each life has samples of
//! its own, and a line of its own is laid through them (least squares). What comes before the end of a warm-up is left out:
//! maps and rings fill up to their bounds, and marks of idempotency keys are kept for ten minutes.

use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const HOUR_S: f64 = 3600.0;

/// What was seen of a process at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Since the first sample of its life.
    pub at: Duration,
    pub resident_bytes: u64,
    pub descriptors: u64,
}

/// One process.
#[derive(Clone, Debug)]
pub struct Life {
    pub node: usize,
    process: u32,
    began: Instant,
    pub samples: Vec<Sample>,
}

/// How something went in the time after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trend {
    pub mean: f64,
    /// Of the line through the samples, in their unit an hour.
    pub per_hour: f64,
    /// How far that may be off by chance, were the samples independent: one standard error.
    pub error_per_hour: f64,
}

impl Trend {
    pub fn percent_per_hour(&self) -> f64 {
        100.0 * self.per_hour / self.mean.max(1.0)
    }
}

/// The line of least squares through points of seconds and values; none through fewer than three moments.
fn trend(points: &[(f64, f64)]) -> Option<Trend> {
    let count = points.len() as f64;
    let (mean_x, mean) =
        (points.iter().map(|(x, _)| x).sum::<f64>() / count, points.iter().map(|(_, y)| y).sum::<f64>() / count);
    let spread: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    if points.len() < 3 || spread == 0.0 {
        return None;
    }
    let slope = points.iter().map(|(x, y)| (x - mean_x) * (y - mean)).sum::<f64>() / spread;
    let rest: f64 = points.iter().map(|(x, y)| (y - mean - slope * (x - mean_x)).powi(2)).sum();
    let error = (rest / (count - 2.0) / spread).sqrt();
    Some(Trend { mean, per_hour: slope * HOUR_S, error_per_hour: error * HOUR_S })
}

impl Life {
    /// The samples after the warm-up.
    fn judged(&self, warm_up: Duration) -> &[Sample] {
        &self.samples[self.samples.partition_point(|sample| sample.at < warm_up)..]
    }

    /// For how long it was watched after the warm-up.
    pub fn watched(&self, warm_up: Duration) -> Duration {
        let judged = self.judged(warm_up);
        judged.last().zip(judged.first()).map_or(Duration::ZERO, |(last, first)| last.at - first.at)
    }

    fn trend_of(&self, warm_up: Duration, of: impl Fn(&Sample) -> u64) -> Option<Trend> {
        let points = self.judged(warm_up).iter().map(|sample| (sample.at.as_secs_f64(), of(sample) as f64));
        trend(&points.collect::<Vec<_>>())
    }

    pub fn memory(&self, warm_up: Duration) -> Option<Trend> {
        self.trend_of(warm_up, |sample| sample.resident_bytes)
    }

    pub fn descriptors(&self, warm_up: Duration) -> Option<Trend> {
        self.trend_of(warm_up, |sample| sample.descriptors)
    }
}

/// Bytes that a process has resident; none where it is gone.
pub fn resident_bytes(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}

/// Descriptors that a process has open; none where it is gone.
pub fn descriptors(process: u32) -> Option<u64> {
    Some(fs::read_dir(format!("/proc/{process}/fd")).ok()?.count() as u64)
}

#[derive(Debug, Default)]
struct Watched {
    /// The process of each node that runs, by node.
    processes: Vec<Option<u32>>,
    lives: Vec<Life>,
}

/// Looks at the processes that it is told of, until it is asked for what it saw.
pub struct Vitals {
    watched: Arc<Mutex<Watched>>,
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Vitals {
    pub fn watch(nodes: usize, every: Duration) -> Self {
        let watched = Arc::new(Mutex::new(Watched { processes: vec![None; nodes], lives: Vec::new() }));
        let (stop, stopped) = mpsc::channel();
        let shared = Arc::clone(&watched);
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(every) == Err(mpsc::RecvTimeoutError::Timeout) {
                lock(&shared).look();
            }
        });
        Self { watched, stop, thread }
    }

    /// Says which process is `node`'s from now on.
    pub fn set_process(&self, node: usize, process: Option<u32>) {
        lock(&self.watched).processes[node] = process;
    }

    /// The newest sample of each life that goes on.
    pub fn newest(&self) -> Vec<(usize, Sample)> {
        let watched = lock(&self.watched);
        let is_current = |life: &&Life| watched.processes[life.node] == Some(life.process);
        let mut newest: Vec<_> = watched
            .lives
            .iter()
            .filter(is_current)
            .filter_map(|life| Some((life.node, *life.samples.last()?)))
            .collect();
        newest.sort_by_key(|(node, _)| *node);
        newest
    }

    /// Ends it: all lives, in the order in which they began.
    pub fn end(self) -> Vec<Life> {
        let _ = self.stop.send(());
        self.thread.join().expect("looking doesn't panic");
        std::mem::take(&mut lock(&self.watched).lives)
    }
}

impl Watched {
    fn look(&mut self) {
        for (node, process) in self.processes.iter().enumerate() {
            let Some((process, resident_bytes, descriptors)) =
                process.and_then(|process| Some((process, resident_bytes(process)?, descriptors(process)?)))
            else {
                continue;
            };
            let known = self.lives.iter().rposition(|life| life.process == process);
            let place = known.unwrap_or_else(|| {
                self.lives.push(Life { node, process, began: Instant::now(), samples: Vec::new() });
                self.lives.len() - 1
            });
            let life = &mut self.lives[place];
            life.samples.push(Sample { at: life.began.elapsed(), resident_bytes, descriptors });
        }
    }
}

fn lock(watched: &Mutex<Watched>) -> MutexGuard<'_, Watched> {
    watched.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(samples: impl IntoIterator<Item = (u64, u64, u64)>) -> Life {
        let sample =
            |(at, resident_bytes, descriptors)| Sample { at: Duration::from_secs(at), resident_bytes, descriptors };
        Life { node: 0, process: 1, began: Instant::now(), samples: samples.into_iter().map(sample).collect() }
    }

    #[test]
    fn a_leak_shows_as_a_slope_and_noise_does_not() {
        let leaking = life((0..360).map(|nth| (nth * 10, 50_000_000 + nth * 2_000, 40 + nth / 60)));
        let memory = leaking.memory(Duration::ZERO).expect("a line");
        assert!((memory.per_hour - 720_000.0).abs() < 1.0 && memory.error_per_hour < 1.0, "{memory:?}");
        assert!((1.4..1.5).contains(&memory.percent_per_hour()), "{memory:?}");
        assert!(leaking.descriptors(Duration::ZERO).expect("a line").per_hour > 5.0);
        let noisy = life((0..360).map(|nth| (nth * 10, 50_000_000 + nth * 7_919 % 1_000 * 100, 40 + nth * 31 % 7)));
        let memory = noisy.memory(Duration::ZERO).expect("a line");
        assert!(memory.percent_per_hour().abs() < 0.1 && memory.error_per_hour > 0.0, "{memory:?}");
    }

    #[test]
    fn what_fills_up_during_the_warm_up_is_no_leak() {
        let filling = life((0..200).map(|nth| (nth * 10, 1_000_000 * nth.min(50), 40)));
        let warm_up = Duration::from_secs(500);
        assert!(filling.memory(Duration::ZERO).expect("a line").per_hour > 1_000_000.0);
        let memory = filling.memory(warm_up).expect("a line");
        assert!(memory.per_hour.abs() < 1e-3, "{memory:?}");
        assert_eq!(filling.watched(warm_up), Duration::from_secs(1490));
        assert_eq!(filling.memory(Duration::from_secs(1980)), None, "two samples make no line");
        assert_eq!(filling.watched(Duration::from_secs(5000)), Duration::ZERO);
    }

    #[test]
    fn this_process_has_memory_and_descriptors_and_one_that_is_gone_has_none() {
        let own = std::process::id();
        assert!(resident_bytes(own) > Some(1 << 20));
        let before = descriptors(own).expect("it runs");
        let files: Vec<_> = (0..50).map(|_| fs::File::open("/dev/null").expect("a file")).collect();
        assert!(descriptors(own).expect("it runs") + 20 > before + 50, "other tests close a few meanwhile");
        drop(files);
        assert_eq!((resident_bytes(u32::MAX), descriptors(u32::MAX)), (None, None));
    }
}
