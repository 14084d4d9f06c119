//! What clients ask of one gateway, counted: how much, of what kind, with what outcome, how fast.
//!
//! Counting is on the way of every request, so it takes no lock and allocates nothing: a few relaxed additions to numbers
//! that the thread mostly has for itself (a few sets of them, summed up by whoever reads). The labels are words of
//! this program, so there are at most `routes × methods × statuses` numbers, whatever clients send.
//!
//! [`LogBudget`] keeps a failing cluster from filling its logs.

use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Sets of numbers. More threads than these share some; fewer leave some at zero.
const SHARDS: usize = 8;

/// The upper ends of the latency buckets in microseconds; one more bucket has no end.
pub const LATENCY_BOUNDS_US: [u32; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];
const BUCKETS: usize = LATENCY_BOUNDS_US.len() + 1;

/// Statuses that are told apart; all others are one.
const STATUSES: [u16; 28] = [
    101, 200, 201, 204, 206, 304, 307, 400, 401, 403, 404, 405, 408, 409, 412, 413, 415, 416, 421, 422, 426, 429, 431,
    500, 501, 503, 504, 507,
];
/// The places of a status: those above, any other, and a client that went away before there was one.
const STATUS_PLACES: usize = STATUSES.len() + 2;

macro_rules! labels {
    ($(#[doc = $doc:literal])* $name:ident { $($(#[doc = $item_doc:literal])* $item:ident => $label:literal,)* }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[doc = $item_doc])* $item,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$item,)*];

            /// Its word in metrics and logs.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$item => $label,)* }
            }
        }
    };
}

labels! {
    /// What a request is about, by its path.
    Route {
        /// `/v1/kv/{key}`
        Kv => "kv",
        /// `/v1/kv`
        List => "list",
        /// `/v1/batch`
        Batch => "batch",
        /// `/v1/feed`, `/v1/feed/sse`
        Feed => "feed",
        /// `/v1/files/…`
        Files => "files",
        /// `/v1/admin/…`
        Admin => "admin",
        /// `/v1/cluster`, `/v1/locate/…`
        Cluster => "cluster",
        /// `/healthz`, `/readyz`, `/leaderz`
        Health => "health",
        /// `/metrics`
        Metrics => "metrics",
        /// `/`
        Dashboard => "dashboard",
        /// Anything else.
        Other => "other",
    }
}

labels! {
    /// A request's method.
    Verb {
        /// GET
        Get => "GET",
        /// HEAD
        Head => "HEAD",
        /// PUT
        Put => "PUT",
        /// POST
        Post => "POST",
        /// DELETE
        Delete => "DELETE",
        /// Any other.
        Other => "other",
    }
}

labels! {
    /// Why a viewer of the feed was told to go.
    CutOff {
        /// It read too slowly.
        TooSlow => "too_slow",
        /// The node had missed changes itself.
        Interrupted => "interrupted",
        /// The node goes away.
        ShuttingDown => "shutting_down",
        /// What it had missed could not be gathered in time.
        CatchUp => "catch_up",
        /// Its token ended.
        Revoked => "revoked",
    }
}

impl Route {
    /// The route of a raw path.
    #[must_use]
    pub fn of(path: &str) -> Self {
        let Some(rest) = path.strip_prefix("/v1/") else {
            return match path {
                "/healthz" | "/readyz" | "/leaderz" => Self::Health,
                "/metrics" => Self::Metrics,
                "/" => Self::Dashboard,
                _ => Self::Other,
            };
        };
        let first = rest.split_once('/').map_or(rest, |(first, _)| first);
        match first {
            "kv" if rest.len() == first.len() => Self::List,
            "kv" => Self::Kv,
            "batch" => Self::Batch,
            "feed" => Self::Feed,
            "files" => Self::Files,
            "admin" => Self::Admin,
            "cluster" | "locate" => Self::Cluster,
            _ => Self::Other,
        }
    }

    /// Whether it is the store's own work, and not what is asked about it.
    #[must_use]
    pub const fn is_data(self) -> bool {
        matches!(self, Self::Kv | Self::List | Self::Batch | Self::Files)
    }
}

impl Verb {
    /// The verb of a method.
    #[must_use]
    pub fn of(method: &str) -> Self {
        match method {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "PUT" => Self::Put,
            "POST" => Self::Post,
            "DELETE" => Self::Delete,
            _ => Self::Other,
        }
    }

    /// Whether requests with it change something.
    #[must_use]
    pub const fn is_write(self) -> bool {
        matches!(self, Self::Put | Self::Post | Self::Delete)
    }
}

/// How long requests took: how many fell into each bucket, and the sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    /// By bucket, each for itself (not cumulated).
    pub counts: [u64; BUCKETS],
    /// The sum in nanoseconds.
    pub sum_ns: u64,
}

impl Latencies {
    /// How many requests.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(count, more)| *count += more);
        self.sum_ns += other.sum_ns;
    }
}

/// One thread's numbers, mostly. Aligned so that no two of them share a line of the processor's cache.
#[repr(align(128))]
#[derive(Debug)]
struct Shard {
    /// By route, verb and status.
    requests: Box<[AtomicU64]>,
    /// By route, reads before writes: the buckets, then the sum in nanoseconds.
    latencies: Box<[AtomicU64]>,
    in_flight: AtomicI64,
}

impl Default for Shard {
    fn default() -> Self {
        let zeros = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            requests: zeros(Route::ALL.len() * Verb::ALL.len() * STATUS_PLACES),
            latencies: zeros(Route::ALL.len() * 2 * (BUCKETS + 1)),
            in_flight: AtomicI64::new(0),
        }
    }
}

/// What clients asked of one gateway.
#[derive(Debug, Default)]
pub struct Traffic {
    shards: [Shard; SHARDS],
    /// Connections that are open.
    pub connections: Gauge,
    /// Connections that were told that there are too many.
    pub connections_refused: Gauge,
    /// All that were accepted.
    pub connections_accepted: Gauge,
    /// Viewers of the feed.
    pub viewers: Gauge,
    /// All that there were.
    pub viewers_begun: Gauge,
    /// Requests that took longer than the threshold of the log.
    pub slow_requests: Gauge,
    cut_off: [Gauge; CutOff::ALL.len()],
}

/// A number that rises and falls, or only rises. Reading it orders nothing else.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds one.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one away.
    pub fn remove(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// The number now.
    #[must_use]
    pub fn value(&self) -> u64 {
        u64::try_from(self.0.load(Ordering::Relaxed)).unwrap_or(0)
    }
}

thread_local! {
    static SHARD: usize = {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) as usize % SHARDS
    };
    static LAST_ID: Cell<u64> = Cell::new(rand::random());
}

/// A number for a request that brought no id of its own. It differs from all others by chance: each thread counts on from
/// a random start.
#[must_use]
pub fn next_request_id() -> u64 {
    LAST_ID.with(|last| {
        last.set(last.get().wrapping_add(1));
        last.get()
    })
}

impl Traffic {
    fn shard(&self) -> &Shard {
        &self.shards[SHARD.with(|shard| *shard)]
    }

    /// A request has come.
    pub fn on_request(&self) {
        self.shard().in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// It was answered, or its client has gone before that (`None`).
    pub fn on_answer(&self, route: Route, verb: Verb, status: Option<u16>, took: Duration) {
        let shard = self.shard();
        shard.in_flight.fetch_sub(1, Ordering::Relaxed);
        let place =
            status.map_or(STATUS_PLACES - 1, |status| STATUSES.binary_search(&status).unwrap_or(STATUSES.len()));
        let row = route as usize * Verb::ALL.len() + verb as usize;
        shard.requests[row * STATUS_PLACES + place].fetch_add(1, Ordering::Relaxed);
        let took_us = took.as_micros();
        let bucket = LATENCY_BOUNDS_US.partition_point(|bound| u128::from(*bound) < took_us);
        let row = (route as usize * 2 + usize::from(verb.is_write())) * (BUCKETS + 1);
        shard.latencies[row + bucket].fetch_add(1, Ordering::Relaxed);
        let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        shard.latencies[row + BUCKETS].fetch_add(took_ns, Ordering::Relaxed);
    }

    /// A viewer of the feed was told to go.
    pub fn on_cut_off(&self, why: CutOff) {
        self.cut_off[why as usize].add();
    }

    /// How many viewers were told to go, by reason.
    pub fn cut_off(&self) -> impl Iterator<Item = (CutOff, u64)> {
        CutOff::ALL.iter().zip(&self.cut_off).map(|(why, count)| (*why, count.value()))
    }

    /// Requests that are under way.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        let sum: i64 = self.shards.iter().map(|shard| shard.in_flight.load(Ordering::Relaxed)).sum();
        // A request that ends on another thread than it began on, while this reads: never shown as less than none.
        u64::try_from(sum).unwrap_or(0)
    }

    /// How many requests were answered how; without what never was.
    #[must_use]
    pub fn requests(&self) -> Vec<(Route, Verb, &'static str, u64)> {
        let mut all = Vec::new();
        for route in Route::ALL {
            for verb in Verb::ALL {
                let row = (*route as usize * Verb::ALL.len() + *verb as usize) * STATUS_PLACES;
                for place in 0..STATUS_PLACES {
                    let counts = self.shards.iter().map(|shard| shard.requests[row + place].load(Ordering::Relaxed));
                    match counts.sum() {
                        0 => {}
                        count => all.push((*route, *verb, status_label(place), count)),
                    }
                }
            }
        }
        all
    }

    /// How many answers said that this gateway, or the store behind it, failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        let failures =
            self.requests().into_iter().filter(|(route, _, status, _)| route.is_data() && status.starts_with('5'));
        failures.map(|(_, _, _, count)| count).sum()
    }

    /// How long requests of a route took, reads or writes.
    #[must_use]
    pub fn latencies(&self, route: Route, writes: bool) -> Latencies {
        let row = (route as usize * 2 + usize::from(writes)) * (BUCKETS + 1);
        let mut sum = Latencies::default();
        for shard in &self.shards {
            let numbers = &shard.latencies[row..row + BUCKETS + 1];
            let mut part = Latencies { sum_ns: numbers[BUCKETS].load(Ordering::Relaxed), ..Latencies::default() };
            part.counts.iter_mut().zip(numbers).for_each(|(count, number)| *count = number.load(Ordering::Relaxed));
            sum.add(&part);
        }
        sum
    }

    /// The same of all that is the store's own work.
    #[must_use]
    pub fn data_latencies(&self, writes: bool) -> Latencies {
        let mut sum = Latencies::default();
        Route::ALL.iter().filter(|route| route.is_data()).for_each(|route| sum.add(&self.latencies(*route, writes)));
        sum
    }
}

/// The status at a place, as a word.
fn status_label(place: usize) -> &'static str {
    const LABELS: [&str; STATUS_PLACES] = [
        "101", "200", "201", "204", "206", "304", "307", "400", "401", "403", "404", "405", "408", "409", "412", "413",
        "415", "416", "421", "422", "426", "429", "431", "500", "501", "503", "504", "507", "other", "gone",
    ];
    LABELS[place]
}

/// How many lines may be written in a second about what goes wrong again and again.
#[derive(Debug, Default)]
pub struct LogBudget {
    second: AtomicU64,
    used: AtomicU64,
    withheld: AtomicU64,
}

impl LogBudget {
    /// Lines in one second: enough to see what is wrong.
    const LINES_PER_SECOND: u64 = 5;

    /// Whether a line may be written in second `now_s` of any clock; if so, how many were withheld before it.
    pub fn allow(&self, now_s: u64) -> Option<u64> {
        if self.second.swap(now_s, Ordering::Relaxed) != now_s {
            self.used.store(0, Ordering::Relaxed);
        }
        if self.used.fetch_add(1, Ordering::Relaxed) < Self::LINES_PER_SECOND {
            return Some(self.withheld.swap(0, Ordering::Relaxed));
        }
        self.withheld.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_routes() {
        let cases = [
            ("/v1/kv/a", Route::Kv),
            ("/v1/kv/", Route::Kv),
            ("/v1/kv", Route::List),
            ("/v1/kvx", Route::Other),
            ("/v1/feed/sse", Route::Feed),
            ("/v1/cluster", Route::Cluster),
            ("/v1/cluster/map", Route::Cluster),
            ("/v1/admin/nodes/n1/add", Route::Admin),
            ("/v1/files/a/b", Route::Files),
            ("/readyz", Route::Health),
            ("/", Route::Dashboard),
            ("/wp-login.php", Route::Other),
        ];
        for (path, route) in cases {
            assert_eq!(Route::of(path), route, "{path}");
        }
    }

    #[test]
    fn what_is_counted_on_many_threads_is_read_as_one_sum() {
        let traffic = Traffic::default();
        std::thread::scope(|scope| {
            for _ in 0..2 * SHARDS {
                scope.spawn(|| {
                    traffic.on_request();
                    traffic.on_answer(Route::Kv, Verb::Put, Some(201), Duration::from_micros(100));
                    traffic.on_request();
                    traffic.on_answer(Route::Kv, Verb::Get, Some(299), Duration::from_millis(11));
                    traffic.on_request();
                });
            }
        });
        let threads = 2 * SHARDS as u64;
        assert_eq!(traffic.in_flight(), threads);
        let rows = [(Route::Kv, Verb::Get, "other", threads), (Route::Kv, Verb::Put, "201", threads)];
        assert_eq!(traffic.requests(), rows);
        let writes = traffic.latencies(Route::Kv, true);
        assert_eq!((writes.counts[0], writes.count(), writes.sum_ns), (threads, threads, threads * 100_000));
        assert_eq!(traffic.data_latencies(false).counts[7], threads, "above 10 ms, up to 25 ms");
        traffic.on_answer(Route::List, Verb::Get, None, Duration::from_secs(60));
        assert_eq!(traffic.requests().last(), Some(&(Route::List, Verb::Get, "gone", 1)));
        assert_eq!(traffic.latencies(Route::List, false).counts[BUCKETS - 1], 1);
    }

    #[test]
    fn every_status_has_its_own_label() {
        assert!(STATUSES.is_sorted(), "they are searched");
        for (place, status) in STATUSES.iter().enumerate() {
            assert_eq!(status_label(place), status.to_string());
        }
    }

    #[test]
    fn a_flood_of_failures_is_a_few_lines_a_second_that_count_the_rest() {
        let budget = LogBudget::default();
        let allowed: Vec<_> = (0..20).filter_map(|_| budget.allow(7)).collect();
        assert_eq!(allowed, [0; LogBudget::LINES_PER_SECOND as usize]);
        assert_eq!((budget.allow(8), budget.allow(8)), (Some(15), Some(0)));
    }

    #[test]
    fn request_ids_differ() {
        let ids: std::collections::BTreeSet<u64> = (0..100).map(|_| next_request_id()).collect();
        assert_eq!(ids.len(), 100);
    }
}
