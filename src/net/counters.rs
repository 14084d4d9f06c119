//! What went in and out, and what was refused why.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::telemetry::metrics::Rejections;

/// A number that only rises. Reading it orders nothing else.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// What was added up so far.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// What a node's sockets did since its start; one for all of them.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[doc = $doc])* pub $name: Counter,)*
            rejections: Rejections,
        }

        impl Counters {
            /// Every counter with its name, in a fixed order; [`Counters::rejections`] are not among them.
            pub fn rows(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name.value()),)*].into_iter()
            }

            /// What the counters of [`Counters::rows`] count, in the same order.
            pub fn descriptions() -> impl Iterator<Item = &'static str> {
                [$(concat!($($doc),*),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Datagrams handed to the kernel.
    datagrams_sent,
    /// Datagrams that came in, good and bad.
    datagrams_received,
    /// Datagrams dropped because the socket's send buffer was full.
    datagrams_dropped,
    /// Datagrams that the kernel refused to send, and reports that nobody listens where one went.
    datagrams_unreachable,
    /// Frames handed to the kernel.
    frames_sent,
    /// Frames that came in and were sound.
    frames_received,
    /// Bytes of frames handed to the kernel, headers included.
    stream_bytes_sent,
    /// Bytes that came in on stream connections.
    stream_bytes_received,
    /// Messages refused because a peer's queue was full.
    messages_refused,
    /// Messages thrown away unsent because they were meant for a life of the peer that has ended.
    messages_discarded,
    /// Messages that were being written when a connection broke. Some of them may have arrived.
    messages_lost,
    /// Connections made to peers.
    connections_dialed,
    /// Attempts at that which failed.
    dials_failed,
    /// Connections that came in.
    connections_accepted,
    /// Connections closed at once because too many were open.
    connections_over_cap,
    /// How often other secrets were taken over from the secret file.
    secrets_changed,
    /// How often another certificate, key or authority was taken over.
    certificates_changed,
}

impl Counters {
    /// Counts something from outside that was refused for `reason`.
    pub fn add_rejection(&self, reason: &'static str) {
        self.rejections.add(reason);
    }

    /// How often something from outside was refused, by reason.
    #[must_use]
    pub fn rejections(&self) -> BTreeMap<&'static str, u64> {
        self.rejections.counts()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_rejections_say_what_was_counted() {
        let counters = Counters::default();
        counters.frames_sent.add(2);
        counters.frames_sent.add(3);
        counters.add_rejection("bad_magic");
        counters.add_rejection("bad_magic");
        let not_zero: Vec<_> = counters.rows().filter(|(_, value)| *value > 0).collect();
        assert_eq!(not_zero, [("frames_sent", 5)]);
        assert_eq!(counters.rejections(), BTreeMap::from([("bad_magic", 2)]));
    }
}
