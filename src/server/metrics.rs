//! What `/metrics` shows: a node's numbers, plane by plane.
//!
//! Most are read where they are counted. What the control core knows is asked of it, and where it doesn't answer in time
//! the rest is shown all the same: numbers are wanted most while something hangs.

mod process;
mod reasons;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::streams::StreamLinks;
use crate::api::{ClusterStatus, NodeStatus, Role};
use crate::base::Options;
use crate::gateway::Guard;
use crate::net::Counters;
use crate::node::ControlEvent;
use crate::port::Core as _;
use crate::runtime::{ControlCounts, Engine, EventSink};
use crate::telemetry::lines_dropped;
use crate::telemetry::metrics::{Family, Labels, MetricsSource, exposition};
use crate::telemetry::traffic::{LATENCY_BOUNDS_US, Route, Traffic};
use reasons::{PULSE_REASONS, STREAM_REASONS};

/// How long the control core may take to say what it knows; it has everything at hand.
const CONTROL_TIMEOUT: Duration = Duration::from_millis(500);

/// Every role, in the order in which they are shown.
const ROLES: [Role; 5] = [Role::Starting, Role::Learner, Role::Follower, Role::Candidate, Role::Leader];

/// What happened in a node's cluster, as it heard.
#[derive(Debug, Default)]
pub(super) struct Tally {
    leaders: AtomicU64,
    downs: AtomicU64,
    ups: AtomicU64,
}

impl Tally {
    /// A sink that counts what it passes on to `events`.
    pub(super) fn counting(self: &Arc<Self>, events: EventSink) -> EventSink {
        let tally = Arc::clone(self);
        Arc::new(move |event, options: &Options| {
            let counted = match event {
                ControlEvent::Leader { .. } => Some(&tally.leaders),
                ControlEvent::NodeDown { .. } => Some(&tally.downs),
                ControlEvent::NodeUp { .. } => Some(&tally.ups),
                _ => None,
            };
            if let Some(counted) = counted {
                counted.fetch_add(1, Ordering::Relaxed);
            }
            events(event, options);
        })
    }
}

/// Where a node's numbers are.
pub(super) struct Numbers {
    pub engine: Arc<Engine>,
    pub counters: Arc<Counters>,
    pub traffic: Arc<Traffic>,
    pub guard: Arc<Guard>,
    pub tally: Arc<Tally>,
    pub links: Arc<StreamLinks>,
    /// The nodes' names, by slot.
    pub names: Vec<String>,
}

impl Numbers {
    /// Reads them whenever it is asked.
    pub(super) fn source(self) -> MetricsSource {
        let numbers = Arc::new(self);
        MetricsSource::new(move || {
            let numbers = Arc::clone(&numbers);
            async move { exposition(&numbers.families().await) }
        })
    }

    async fn families(&self) -> Vec<Family> {
        let asked = async { (self.engine.counts().await, self.engine.status().await) };
        let (counts, status) = tokio::time::timeout(CONTROL_TIMEOUT, asked).await.ok().unzip();
        let mut families = self.about(status.as_ref());
        families.extend(self.gateway());
        families.extend(self.feed());
        families.extend(self.sockets());
        families.extend(self.consensus(status.as_ref(), counts.as_ref()));
        families.extend(pulse(status.as_ref()));
        families.extend(self.data(status.as_ref()));
        families.extend(self.copies());
        families.push(self.refusals(counts.unwrap_or_default()));
        families.extend(process::families());
        families
    }

    fn about(&self, status: Option<&ClusterStatus>) -> Vec<Family> {
        let health = self.engine.health();
        let text = |value: &str| value.to_owned().into();
        let labels = |status: &ClusterStatus| {
            let version = env!("CARGO_PKG_VERSION").into();
            vec![("version", version), ("cluster", text(&status.name)), ("node", text(&status.node))]
        };
        let info = Family::gauge("jumpgate_info", "Which program this is, of which node of which cluster; always 1.");
        vec![
            status.map_or(info.clone(), |status| info.with(labels(status), 1)),
            Family::gauge("jumpgate_alive", "Whether the threads of the node make progress.").of(Some(health.alive)),
            Family::gauge("jumpgate_ready", "Whether the node can serve.").of(Some(health.ready)),
            Family::counter("jumpgate_log_lines_dropped_total", "Lines that were dropped because nobody read them.")
                .of(Some(lines_dropped())),
        ]
    }

    fn gateway(&self) -> Vec<Family> {
        let traffic = &self.traffic;
        let mut requests = Family::counter(
            "jumpgate_http_requests_total",
            "Requests by what they are about, method and status; gone: the connection ended before there was an answer.",
        );
        for (route, verb, status, count) in traffic.requests() {
            let labels =
                vec![("route", route.label().into()), ("method", verb.label().into()), ("status", status.into())];
            requests = requests.with(labels, count);
        }
        let mut latencies = Family::histogram(
            "jumpgate_http_request_duration_seconds",
            "How long requests took from their head to the head of the answer, by what they are about.",
        );
        let bounds = LATENCY_BOUNDS_US.map(|bound| f64::from(bound) / 1e6);
        for route in Route::ALL {
            for (writes, word) in [(false, "read"), (true, "write")] {
                let taken = traffic.latencies(*route, writes);
                // What is looked at in every cluster is there from the start.
                if taken.count() > 0 || *route == Route::Kv {
                    let labels = vec![("route", route.label().into()), ("kind", word.into())];
                    latencies = latencies.with_buckets(&labels, &bounds, &taken.counts, taken.sum_ns as f64 / 1e9);
                }
            }
        }
        vec![
            requests,
            latencies,
            Family::gauge("jumpgate_http_requests_in_flight", "Requests that are under way.")
                .of(Some(traffic.in_flight())),
            Family::counter(
                "jumpgate_http_slow_requests_total",
                "Requests that took longer than [gateway] slow_request.",
            )
            .of(Some(traffic.slow_requests.value())),
            Family::gauge("jumpgate_client_connections", "Connections of clients that are open.")
                .of(Some(traffic.connections.value())),
            Family::counter("jumpgate_client_connections_accepted_total", "Connections of clients that were accepted.")
                .of(Some(traffic.connections_accepted.value())),
            Family::counter(
                "jumpgate_client_connections_refused_total",
                "Connections of clients that were one too many.",
            )
            .of(Some(traffic.connections_refused.value())),
            self.clients_refused(),
        ]
    }

    /// Whom the gateways have let in no further, by reason.
    fn clients_refused(&self) -> Family {
        let refused = Family::counter(
            "jumpgate_clients_refused_total",
            "Requests of clients that were refused for want of a good token.",
        );
        self.guard
            .refused()
            .fold(refused, |family, (reason, count)| family.with(vec![("reason", reason.into())], count))
    }

    fn feed(&self) -> Vec<Family> {
        let traffic = &self.traffic;
        let cut_off =
            Family::counter("jumpgate_feed_cut_off_total", "Viewers of the feed that were told to go, by reason.");
        let cut_off = traffic
            .cut_off()
            .fold(cut_off, |family, (why, count)| family.with(vec![("reason", why.label().into())], count));
        vec![
            Family::gauge("jumpgate_feed_viewers", "Viewers of the feed.").of(Some(traffic.viewers.value())),
            Family::counter("jumpgate_feed_viewers_total", "Viewers of the feed since the start.")
                .of(Some(traffic.viewers_begun.value())),
            cut_off,
        ]
    }

    fn sockets(&self) -> Vec<Family> {
        let rows = self.counters.rows().zip(Counters::descriptions());
        let mut families: Vec<Family> = rows
            .map(|((name, count), help)| Family::counter(format!("jumpgate_{name}_total"), help.trim()).of(Some(count)))
            .collect();
        let dropped = "Messages that were dropped because a queue was full.";
        families.push(Family::counter("jumpgate_messages_dropped_total", dropped).of(Some(self.engine.dropped())));
        let queue =
            Family::gauge("jumpgate_stream_queue_bytes", "Bytes that wait for a peer, or are being written to it.");
        families.push(self.links.queued().fold(queue, |family, (slot, bytes)| {
            let peer = self.names.get(slot.index()).cloned().unwrap_or_default();
            family.with(vec![("peer", peer.into())], bytes as u64)
        }));
        families
    }

    fn consensus(&self, status: Option<&ClusterStatus>, counts: Option<&ControlCounts>) -> Vec<Family> {
        let me = status.and_then(myself);
        let count = |counted: &AtomicU64| Some(counted.load(Ordering::Relaxed));
        let role = me.into_iter().flat_map(|me| ROLES.map(|role| (role, me.role == role)));
        let role = role.fold(
            Family::gauge("jumpgate_raft_role", "1 for the role that the node has, 0 for the others."),
            |family, (role, is_it)| family.with(vec![("role", role.to_string().into())], is_it),
        );
        let nodes = Family::gauge("jumpgate_nodes", "Nodes of the configuration, by whether they are heard.");
        let nodes = status.map(alive).into_iter().fold(nodes, |family, (alive, dead)| {
            family.with(vec![("state", "alive".into())], alive).with(vec![("state", "dead".into())], dead)
        });
        vec![
            role,
            Family::gauge("jumpgate_raft_term", "The term that the node is in.").of(status.map(|status| status.term)),
            Family::gauge("jumpgate_raft_commit_index", "The last entry of the control log that is committed.")
                .of(me.and_then(|me| me.commit_index)),
            Family::gauge("jumpgate_raft_last_index", "The last entry of the control log.")
                .of(me.and_then(|me| me.last_index)),
            Family::gauge("jumpgate_quorum", "Whether a majority is in contact, as far as the node knows.")
                .of(status.map(|status| status.quorum)),
            nodes,
            Family::counter("jumpgate_elections_total", "Elections in which the node asked for votes.")
                .of(counts.map(|counts| counts.elections)),
            Family::counter("jumpgate_leader_changes_total", "Leaders that the node heard of.")
                .of(count(&self.tally.leaders)),
            Family::counter("jumpgate_nodes_down_total", "How often a node was declared down.")
                .of(count(&self.tally.downs)),
            Family::counter("jumpgate_nodes_up_total", "How often a node was declared up.").of(count(&self.tally.ups)),
        ]
    }

    fn data(&self, status: Option<&ClusterStatus>) -> Vec<Family> {
        let load = self.engine.load();
        let me = status.and_then(myself);
        let partitions =
            Family::gauge("jumpgate_partitions", "Partitions of the cluster by state, as this node sees them.");
        let partitions = status.into_iter().fold(partitions, |family, status| {
            let counts = status.partitions;
            let states = [
                ("full", counts.full),
                ("reduced", counts.reduced),
                ("unavailable", counts.unavailable),
                ("lost", counts.lost),
            ];
            let with = |family: Family, (state, count): (&'static str, u32)| {
                family.with(vec![("state", state.into())], u64::from(count))
            };
            states.into_iter().fold(family, with)
        });
        let held =
            Family::gauge("jumpgate_partitions_held", "Partitions of which this node is primary, in sync, or learner.");
        let held = me.into_iter().fold(held, |family, me| {
            let with = |family: Family, (role, count): (&'static str, u32)| {
                family.with(vec![("as", role.into())], u64::from(count))
            };
            [("primary", me.primaries), ("in_sync", me.in_sync), ("learner", me.learning)]
                .into_iter()
                .fold(family, with)
        });
        vec![
            partitions,
            Family::gauge("jumpgate_partitions_misplaced", "Partitions that another node leads than should.")
                .of(status.map(|status| u64::from(status.partitions.misplaced))),
            held,
            Family::gauge("jumpgate_keys", "Keys that this node holds, copies included.").of(Some(load.keys)),
            Family::gauge(
                "jumpgate_memory_bytes",
                "Bytes that this node's tables take: keys, values and their overhead, copies included.",
            )
            .of(Some(load.memory_bytes)),
            Family::gauge("jumpgate_memory_limit_bytes", "Bytes that they may take; beyond that writes are refused.")
                .of(Some(self.engine.memory_bytes_max())),
            Family::counter(
                "jumpgate_in_sync_changes_total",
                "Changes of in-sync sets that this node's primaries asked for.",
            )
            .of(Some(self.engine.in_sync_changes())),
            Family::gauge(
                "jumpgate_filling_learners",
                "Learners that this node fills, one for each partition and node.",
            )
            .of(Some(u64::from(load.filling.learners))),
            Family::gauge("jumpgate_filling_left_bytes", "Bytes of tables that these lack.")
                .of(Some(load.filling.left_bytes)),
            Family::counter("jumpgate_filling_sent_bytes_total", "Bytes of tables that were sent to fill others.")
                .of(Some(load.filling.sent_bytes)),
        ]
    }

    /// How sound this node's copies are.
    fn copies(&self) -> Vec<Family> {
        let load = self.engine.load();
        let counter = |name, help, count: u64| Family::counter(name, help).of(Some(count));
        vec![
            counter("jumpgate_records_scrubbed_total", "Records that were hashed again.", load.scrubbed_records),
            counter("jumpgate_bytes_scrubbed_total", "The memory that these are accounted with.", load.scrubbed_bytes),
            counter(
                "jumpgate_differences_total",
                "Records that were found to be rotten, or other than the primary's.",
                load.differences,
            ),
            counter("jumpgate_repairs_total", "Records that were repaired with another copy.", load.repairs),
            Family::gauge(
                "jumpgate_verified_age_seconds",
                "Seconds within which all records were hashed again, and all backups compared with their primaries.",
            )
            .of(load.verified_at.map(|at| self.engine.now().since(at).as_secs())),
        ]
    }

    fn refusals(&self, counts: ControlCounts) -> Family {
        let (pulse, mut stream) = (counts.pulse, counts.stream);
        for (reason, count) in self.counters.rejections() {
            *stream.entry(reason).or_default() += count;
        }
        let of_plane = |plane: &'static str, reasons: &[&'static str], counts: BTreeMap<&'static str, u64>| {
            let mut all: BTreeMap<&'static str, u64> = reasons.iter().map(|reason| (*reason, 0)).collect();
            all.extend(counts);
            all.into_iter()
                .map(move |(reason, count)| (vec![("plane", plane.into()), ("reason", reason.into())], count))
        };
        let rejected = Family::counter(
            "jumpgate_rejected_total",
            "Datagrams, connections and messages of peers, or of those who would like to be peers, that were refused.",
        );
        let all = of_plane("pulse", &PULSE_REASONS, pulse).chain(of_plane("stream", &STREAM_REASONS, stream));
        all.fold(rejected, |family, (labels, count)| family.with(labels, count))
    }
}

fn myself(status: &ClusterStatus) -> Option<&NodeStatus> {
    status.nodes.iter().find(|node| node.name == status.node)
}

/// How many nodes are heard, and how many aren't.
fn alive(status: &ClusterStatus) -> (u64, u64) {
    let dead = status.nodes.iter().filter(|node| node.role == Role::Dead).count();
    ((status.nodes.len() - dead) as u64, dead as u64)
}

/// How this node hears the others on the pulse plane.
fn pulse(status: Option<&ClusterStatus>) -> Vec<Family> {
    let peers = || status.and_then(myself).into_iter().flat_map(|me| &me.peers);
    let seconds = |ms: u64| ms as f64 / 1e3;
    let mut trips = Family::gauge("jumpgate_pulse_round_trip_seconds", "The round trip to a peer, smoothed.");
    let mut losses =
        Family::gauge("jumpgate_pulse_loss_ratio", "The share of a peer's datagrams that did not arrive lately.");
    let mut silences = Family::gauge("jumpgate_pulse_silence_seconds", "How long ago a peer was heard last.");
    for peer in peers() {
        let labels: Labels = vec![("peer", peer.name.clone().into())];
        let with = |family: Family, number: Option<f64>| match number {
            Some(number) => family.with(labels.clone(), number),
            None => family,
        };
        trips = with(trips, peer.round_trip_us.map(|us| us as f64 / 1e6));
        losses = with(losses, peer.loss);
        silences = with(silences, peer.last_heard_ms.map(seconds));
    }
    let lateness = status.and_then(|status| status.timing.as_ref()?.lateness_us).map(|us| us as f64 / 1e6);
    let election = status.and_then(|status| Some(status.timing.as_ref()?.election_ms / 1e3));
    vec![
        trips,
        losses,
        silences,
        Family::gauge("jumpgate_pulse_lateness_seconds", "By how much the pulse's thread wakes up late.").of(lateness),
        Family::gauge("jumpgate_election_timeout_seconds", "How long a silent leader is waited for.").of(election),
    ]
}
