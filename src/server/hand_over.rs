//! What a node that leads does before it stops: it hands its leadership over, so that nobody has to find out that it is
//! gone.

use std::time::Duration;

use tracing::info;

use crate::api::{AdminAction, AdminRequest};
use crate::port::Core;

/// How long that may take. A failover takes less than this; waiting longer would cost more than it saves.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(1);

/// Gives leadership away, if `core` has it. Where nobody can take it, the others find a leader themselves.
pub(super) async fn hand_over(core: &dyn Core) {
    hand_over_within(core, HAND_OVER_TIMEOUT).await;
}

async fn hand_over_within(core: &dyn Core, limit: Duration) {
    if !core.leadership().is_leader {
        return;
    }
    let request = AdminRequest { action: AdminAction::Transfer { to: None }, dry_run: false };
    match tokio::time::timeout(limit, core.admin(request)).await {
        Ok(Ok(report)) => report.steps.iter().for_each(|step| info!("before the stop: {step}")),
        Ok(Err(error)) => info!("leadership was not handed over: {error}"),
        Err(_) => info!("leadership was not handed over within {limit:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;
    use crate::api::{AdminReport, ClusterStatus, Error, FeedCursor, FeedPart, Request, Response};
    use crate::port::{Answer, BoxFuture, FeedSubscription, Health, Leadership};

    /// What the core under a node that stops does when it is asked to hand over.
    enum Reaction {
        Complies,
        Refuses,
        Hangs,
    }

    struct Stopping {
        is_leader: bool,
        reaction: Reaction,
        asked: Mutex<Vec<AdminRequest>>,
    }

    impl Core for Stopping {
        fn submit(&self, _: Request) -> Answer {
            Answer::Now(Ok(Response::NotFound))
        }

        fn status(&self) -> BoxFuture<'_, ClusterStatus> {
            Box::pin(async { ClusterStatus::default() })
        }

        fn admin(&self, request: AdminRequest) -> BoxFuture<'_, Result<AdminReport, Error>> {
            self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(request);
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
            Leadership { is_leader: self.is_leader, ..Leadership::default() }
        }

        fn subscribe(&self) -> BoxFuture<'_, Result<FeedSubscription, Error>> {
            Box::pin(async { Err(Error::Busy("it stops".to_owned())) })
        }

        fn feed_since(&self, _: &FeedCursor, _: Vec<u64>) -> BoxFuture<'_, Result<FeedPart, Error>> {
            Box::pin(async { Err(Error::Busy("it stops".to_owned())) })
        }
    }

    async fn asked(is_leader: bool, reaction: Reaction) -> Vec<AdminRequest> {
        let core = Stopping { is_leader, reaction, asked: Mutex::default() };
        hand_over_within(&core, Duration::from_millis(1)).await;
        core.asked.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    #[tokio::test]
    async fn a_leader_hands_over_before_it_stops_and_never_waits_for_ever() {
        let transfer = AdminRequest { action: AdminAction::Transfer { to: None }, dry_run: false };
        for reaction in [Reaction::Complies, Reaction::Refuses, Reaction::Hangs] {
            assert_eq!(asked(true, reaction).await, std::slice::from_ref(&transfer));
        }
        assert_eq!(asked(false, Reaction::Complies).await, [], "a follower has nothing to hand over");
    }
}
