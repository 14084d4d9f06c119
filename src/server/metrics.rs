//! What `/metrics` shows: what a node holds, what its sockets have counted, and what was refused on either plane, by reason.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::net::Counters;
use crate::runtime::Engine;
use crate::telemetry::metrics::{Family, Kind, MetricsSource, exposition};

/// Reasons that are shown even while nothing was refused for them, so that a rule about them can be written before there
/// is anything to see. `docs/interface.md` says what each means.
const PULSE_REASONS: [&str; 19] = [
    "announcement_from_inside",
    "bad_checksum",
    "bad_code",
    "bad_magic",
    "impossible_sender",
    "malformed",
    "no_secret",
    "other_cluster",
    "other_generation",
    "other_incarnation",
    "other_slot",
    "other_version",
    "outside",
    "replayed",
    "too_large",
    "too_short",
    "trailing_bytes",
    "unauthenticated",
    "unencodable",
];
const STREAM_REASONS: [&str; 36] = [
    "bad_certificate",
    "bad_checksum",
    "bad_code",
    "bad_handshake",
    "bad_magic",
    "certificate_expired",
    "certificate_foreign",
    "certificate_not_yet_valid",
    "certificate_other_node",
    "displaced",
    "half_frame",
    "impossible_sender",
    "malformed",
    "no_certificate",
    "no_first_frame",
    "no_proof",
    "no_secret",
    "other_cluster",
    "other_generation",
    "other_incarnation",
    "other_sender",
    "other_shard",
    "other_slot",
    "other_version",
    "outside",
    "secret_removed",
    "too_large",
    "too_short",
    "trailing_bytes",
    "unauthenticated",
    "unencodable",
    "unknown_sender",
    "unregistered_sender",
    "unsound_entry",
    "unsound_forward",
    "unsound_snapshot",
];

/// Reads a node's numbers.
pub(super) fn source(engine: &Arc<Engine>, counters: &Arc<Counters>) -> MetricsSource {
    let (engine, counters) = (Arc::clone(engine), Arc::clone(counters));
    MetricsSource::new(move || {
        let (engine, counters) = (Arc::clone(&engine), Arc::clone(&counters));
        async move { exposition(&families(&engine, &counters).await) }
    })
}

async fn families(engine: &Engine, counters: &Counters) -> Vec<Family> {
    let mut refused = engine.rejections().await;
    for (reason, count) in counters.rejections() {
        *refused.stream.entry(reason).or_default() += count;
    }
    let of_plane = |plane: &'static str, reasons: &[&'static str], counts: BTreeMap<&'static str, u64>| {
        let mut all: BTreeMap<&'static str, u64> = reasons.iter().map(|reason| (*reason, 0)).collect();
        all.extend(counts);
        all.into_iter().map(move |(reason, count)| (vec![("plane", plane), ("reason", reason)], count))
    };
    let pulse = of_plane("pulse", &PULSE_REASONS, refused.pulse);
    let stream = of_plane("stream", &STREAM_REASONS, refused.stream);
    let rejected = Family {
        name: "jumpgate_rejected_total".to_owned(),
        kind: Kind::Counter,
        help: "Datagrams, connections and messages of peers, or of those who would like to be peers, that were refused.",
        samples: pulse.chain(stream).collect(),
    };
    let dropped = Family {
        name: "jumpgate_messages_dropped_total".to_owned(),
        kind: Kind::Counter,
        help: "Messages that were dropped because a queue was full.",
        samples: vec![(Vec::new(), engine.dropped())],
    };
    let rows = counters.rows().zip(Counters::descriptions()).map(|((name, count), help)| Family {
        name: format!("jumpgate_{name}_total"),
        kind: Kind::Counter,
        help: help.trim(),
        samples: vec![(Vec::new(), count)],
    });
    memory(engine).into_iter().chain([rejected, dropped]).chain(rows).chain(of_copies(engine)).collect()
}

fn gauge(name: &str, help: &'static str, count: Option<u64>) -> Family {
    let samples = count.map(|count| (Vec::new(), count)).into_iter().collect();
    Family { name: name.to_owned(), kind: Kind::Gauge, help, samples }
}

/// What the tables hold, and what they may.
fn memory(engine: &Engine) -> [Family; 2] {
    [
        gauge(
            "jumpgate_memory_bytes",
            "Bytes that this node's tables take: keys, values and their overhead, copies included.",
            Some(engine.load().memory_bytes),
        ),
        gauge(
            "jumpgate_memory_limit_bytes",
            "Bytes that they may take; beyond that writes are refused.",
            Some(engine.memory_bytes_max()),
        ),
    ]
}

/// How sound this node's copies are.
fn of_copies(engine: &Engine) -> Vec<Family> {
    let load = engine.load();
    let counter = |name: &str, help, count| Family {
        name: format!("jumpgate_{name}_total"),
        kind: Kind::Counter,
        help,
        samples: vec![(Vec::new(), count)],
    };
    vec![
        counter("records_scrubbed", "Records that were hashed again.", load.scrubbed_records),
        counter("bytes_scrubbed", "The memory that these are accounted with.", load.scrubbed_bytes),
        counter("differences", "Records that were found to be rotten, or other than the primary's.", load.differences),
        counter("repairs", "Records that were repaired with another copy.", load.repairs),
        counter("filling_bytes", "Bytes of records that were sent to nodes to fill them.", load.filling.sent_bytes),
        gauge(
            "jumpgate_verified_age_seconds",
            "Seconds within which all records were hashed again, and all backups compared with their primaries.",
            load.verified_at.map(|at| engine.now().since(at).as_secs()),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_explained_to_users() {
        let page = include_str!("../../docs/interface.md");
        for reason in PULSE_REASONS.iter().chain(&STREAM_REASONS) {
            assert!(page.contains(&format!("`{reason}`")), "docs/interface.md doesn't say what {reason} means");
        }
    }
}
