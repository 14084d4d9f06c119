//! What a node does before it stops: it hands over what it leads, so that nobody has to find out that it is gone.

use std::time::Duration;

use tracing::info;

use crate::port::Core;

/// How long that may take. Partitions go within two seconds; the rest is for a cluster that needs this node for a moment
/// longer, because another one has just restarted. Whoever sent the signal loses patience after ten seconds, mostly.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a node that was let go goes on, so that the others hear of that while it still acks.
const LINGERS_FOR: Duration = Duration::from_millis(100);

/// Hands over what the node leads. Where nobody can take it, or not in time, the others find out that it is gone.
pub(super) async fn hand_over(core: &dyn Core) {
    hand_over_within(core, HAND_OVER_TIMEOUT).await;
}

async fn hand_over_within(core: &dyn Core, limit: Duration) {
    match tokio::time::timeout(limit, core.prepare_stop()).await {
        Ok(Ok(report)) => {
            report.steps.iter().for_each(|step| info!("before the stop: {step}"));
            tokio::time::sleep(LINGERS_FOR).await;
        }
        Ok(Err(error)) => info!("what this node leads was not handed over: {error}"),
        Err(_) => info!("what this node leads was not handed over within {limit:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::api::{AdminReport, AdminRequest, ClusterStatus, Error, FeedCursor, FeedPart, Request, Response};
    use crate::port::{Answer, BoxFuture, FeedSubscription, Health, Leadership};

    /// What the core under a node that stops does when it is asked to hand over.
    enum Reaction {
        Complies,
        Refuses,
        Hangs,
    }

    struct Stopping {
        reaction: Reaction,
        asked: AtomicUsize,
    }

    impl Core for Stopping {
        fn submit(&self, _: Request) -> Answer {
            Answer::Now(Ok(Response::NotFound))
        }

        fn status(&self) -> BoxFuture<'_, ClusterStatus> {
            Box::pin(async { ClusterStatus::default() })
        }

        fn admin(&self, _: AdminRequest) -> BoxFuture<'_, Result<AdminReport, Error>> {
            Box::pin(async { Err(Error::Busy("it stops".to_owned())) })
        }

        fn prepare_stop(&self) -> BoxFuture<'_, Result<AdminReport, Error>> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            Box::pin(async {
                match self.reaction {
                    Reaction::Complies => Ok(AdminReport::default()),
                    Reaction::Refuses => Err(Error::Conflict("nobody else is there".to_owned())),
                    Reaction::Hangs => std::future::pending().await,
                }
            })
        }

        fn health(&self) -> Health {
            Health::default()
        }

        fn leadership(&self) -> Leadership {
            Leadership::default()
        }

        fn subscribe(&self) -> BoxFuture<'_, Result<FeedSubscription, Error>> {
            Box::pin(async { Err(Error::Busy("it stops".to_owned())) })
        }

        fn feed_since(&self, _: &FeedCursor, _: Vec<u64>) -> BoxFuture<'_, Result<FeedPart, Error>> {
            Box::pin(async { Err(Error::Busy("it stops".to_owned())) })
        }
    }

    #[tokio::test]
    async fn a_node_hands_over_before_it_stops_and_never_waits_for_ever() {
        for reaction in [Reaction::Complies, Reaction::Refuses, Reaction::Hangs] {
            let core = Stopping { reaction, asked: AtomicUsize::new(0) };
            hand_over_within(&core, Duration::from_millis(1)).await;
            assert_eq!(core.asked.into_inner(), 1);
        }
    }
}
