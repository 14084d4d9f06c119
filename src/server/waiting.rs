//! What a node says while it finds no cluster: what it may be waiting for, and whether its own name leads to another machine.

use std::time::Duration;

use tracing::warn;

use super::Server;
use crate::config::NodeConfig;
use crate::net::listen;
use crate::port::Core as _;

/// How long a node may look for its cluster before it says that it does, and how often it says so again at the least.
const COMPLAIN_AFTER: Duration = Duration::from_secs(5);
const COMPLAIN_EVERY_MAX: Duration = Duration::from_secs(60);

/// A node that finds no cluster says what it may be waiting for: somebody who never comes, perhaps. It may also be one too
/// many under its name: then the others go by that name to the first one, and never answer the second.
pub(super) async fn complain_until_ready(server: &Server, node: &NodeConfig) {
    let (name, pulse) = (&node.id, node.pulse.to_string());
    let mut pause = COMPLAIN_AFTER;
    loop {
        tokio::time::sleep(pause).await;
        if server.engine.health().ready {
            return;
        }
        warn!(
            "{name} can't serve yet. A cluster is founded once every configured node is up and remembers none; one that \
             exists takes {name} in once a majority of it is up"
        );
        let asked = pulse.clone();
        // Names are looked up by a call that waits.
        if let Ok(Some(at)) = tokio::task::spawn_blocking(move || listen::elsewhere(&asked)).await {
            warn!(
                "others look for {name} at {pulse}, which is {at} and no address of this machine: unless addresses are \
                 translated on the way, a second process is {name}; stop one of them, or give it an id of its own"
            );
        }
        pause = (2 * pause).min(COMPLAIN_EVERY_MAX);
    }
}
