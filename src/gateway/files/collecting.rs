//! The collector of chunks that no file is made of, on the node that leads.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant as Moment, sleep};
use tokio_util::sync::CancellationToken;

use super::store::{CoreStore, now};
use crate::files::Collector;
use crate::gateway::GatewayOptions;
use crate::port::Core;

/// The pause between two rounds: together with the minute for which replaced chunks stay, memory comes back soon.
const PAUSE_MIN: Duration = Duration::from_secs(15);
/// A round takes longer the more files there are; it must not take more than this part of the time.
const PART_OF_TIME: u32 = 20;
/// How long the store may take for one answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Collects until `shutdown`.
pub(in crate::gateway) async fn run(core: Arc<dyn Core>, options: GatewayOptions, shutdown: CancellationToken) {
    let mut collector = Collector::default();
    let mut pause = PAUSE_MIN;
    loop {
        tokio::select! {
            () = sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
        if !core.health().leader {
            // What it has watched is worth nothing once it doesn't watch: it begins anew.
            (collector, pause) = (Collector::default(), PAUSE_MIN);
            continue;
        }
        let begun = Moment::now();
        let mut asker = CoreStore::new(Arc::clone(&core), TIMEOUT).asker(&options);
        let round = tokio::select! {
            round = collector.round(&mut asker, now()) => round,
            () = shutdown.cancelled() => return,
        };
        match round {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "chunks of uploads that no file is made of were deleted"),
            // A partition that is moving, or lost: the next round may go better.
            Err(error) => tracing::debug!(%error, "chunks could not be looked through"),
        }
        pause = PAUSE_MIN.max(begun.elapsed() * PART_OF_TIME);
    }
}
