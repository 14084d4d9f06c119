//! What `/metrics` shows: what a node's sockets have counted, and what was refused on either plane, by reason.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::net::Counters;
use crate::runtime::Engine;
use crate::telemetry::metrics::{Family, MetricsSource, exposition};

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
const STREAM_REASONS: [&str; 29] = [
    "bad_checksum",
    "bad_code",
    "bad_magic",
    "displaced",
    "half_frame",
    "impossible_sender",
    "malformed",
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
        help: "Datagrams, connections and messages of peers, or of those who would like to be peers, that were refused.",
        samples: pulse.chain(stream).collect(),
    };
    let dropped = Family {
        name: "jumpgate_messages_dropped_total".to_owned(),
        help: "Messages that were dropped because a queue was full.",
        samples: vec![(Vec::new(), engine.dropped())],
    };
    let rows = counters.rows().zip(Counters::descriptions()).map(|((name, count), help)| Family {
        name: format!("jumpgate_{name}_total"),
        help: help.trim(),
        samples: vec![(Vec::new(), count)],
    });
    [rejected, dropped].into_iter().chain(rows).collect()
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
