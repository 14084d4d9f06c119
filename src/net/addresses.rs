//! Where the peers are: names of the configuration, resolved again and again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often names are looked up. A container that comes back with another address is found again within this time.
const RESOLVE_EVERY: Duration = Duration::from_secs(2);

/// The addresses of the peers' pulse sockets, by slot.
#[derive(Debug)]
pub struct Addresses {
    names: Vec<String>,
    current: Vec<ArcSwapOption<SocketAddr>>,
}

impl Addresses {
    /// The addresses behind `names` (`host:port`), by slot. Those that are IP literals are known at once.
    #[must_use]
    pub fn new(names: Vec<String>) -> Self {
        let current = names.iter().map(|name| ArcSwapOption::from(name.parse().ok().map(Arc::new))).collect();
        Self { names, current }
    }

    /// The last address that was found for the slot at `index`.
    #[must_use]
    pub fn at(&self, index: usize) -> Option<SocketAddr> {
        self.current.get(index)?.load().as_deref().copied()
    }

    /// Looks the names up until `shutdown`. An answer that doesn't come leaves the last one standing.
    pub async fn resolve(self: Arc<Self>, shutdown: CancellationToken) {
        let mut failing = vec![false; self.names.len()];
        loop {
            for (index, name) in self.names.iter().enumerate().filter(|(_, name)| name.parse::<SocketAddr>().is_err()) {
                match lookup(name).await {
                    Ok(found) => {
                        if self.at(index) != Some(found) {
                            info!("{name} is at {found}");
                            self.current[index].store(Some(Arc::new(found)));
                        }
                        failing[index] = false;
                    }
                    Err(error) if !failing[index] => {
                        failing[index] = true;
                        warn!("{name} doesn't resolve ({error}); trying again every {RESOLVE_EVERY:?}");
                    }
                    Err(_) => {}
                }
            }
            if shutdown.run_until_cancelled(tokio::time::sleep(RESOLVE_EVERY)).await.is_none() {
                return;
            }
        }
    }
}

async fn lookup(name: &str) -> io::Result<SocketAddr> {
    tokio::net::lookup_host(name).await?.next().ok_or_else(|| io::Error::other("no address"))
}
