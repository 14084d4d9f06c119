//! The core as files use it, and the clocks that they are told.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant as Moment, sleep};

use crate::api::{Error, Once, Operation, Request, Response, Retry};
use crate::base::Instant;
use crate::files::{Asker, Store};
use crate::gateway::GatewayOptions;
use crate::gateway::routes::{GRACE, wait};
use crate::port::Core;

/// The pause before something is asked again: a failover is over in a few of them.
const PAUSE: Duration = Duration::from_millis(25);

/// Asks the core, and asks again where that may go better, for as long as each request may take. A file is many requests: it
/// should not fail because a node has died in the middle.
#[derive(Clone)]
pub(in crate::gateway) struct CoreStore {
    core: Arc<dyn Core>,
    timeout: Duration,
}

impl CoreStore {
    pub(in crate::gateway) const fn new(core: Arc<dyn Core>, timeout: Duration) -> Self {
        Self { core, timeout }
    }

    /// A way to it for one operation.
    pub(in crate::gateway) fn asker(&self, options: &GatewayOptions) -> Asker<Self> {
        Asker::new(self.clone(), options.key_bytes_max, rand::random())
    }
}

impl Store for CoreStore {
    async fn ask(&self, operation: Operation, once: Option<Once>) -> Result<Response, Error> {
        let ends = Moment::now() + self.timeout;
        loop {
            let left = ends.saturating_duration_since(Moment::now()).max(Duration::from_millis(1));
            let timeout_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
            let request = Request { operation: operation.clone(), once, timeout_ms };
            let answer = wait(&*self.core, self.core.submit(request), ends + GRACE.min(self.timeout), left).await;
            match answer {
                Err(error) if may_go_better(&error) && Moment::now() + PAUSE < ends => sleep(PAUSE).await,
                answer => return answer,
            }
        }
    }
}

/// Everything that files ask may be asked twice: see [`Store::ask`].
fn may_go_better(error: &Error) -> bool {
    match error {
        // Only somebody else's delete would help, and the client should know before that.
        Error::MemoryFull { .. } => false,
        error => error.retry() != Retry::Never,
    }
}

/// The monotonic clock of this process.
pub(in crate::gateway) fn now() -> Instant {
    static BEGUN: LazyLock<Moment> = LazyLock::new(Moment::now);
    Instant::ZERO + BEGUN.elapsed()
}

/// The time of day, in milliseconds since 1970: for people to read, and nothing else.
pub(in crate::gateway) fn millis_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
