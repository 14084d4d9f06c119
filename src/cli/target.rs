//! The options that all client commands share: which cluster, and how patiently.

use std::time::Duration;

use clap::Args;

use super::Failure;
use crate::client::Client;

/// Where `jumpgate dev` puts the gateways of its first three nodes.
const DEFAULT_URLS: [&str; 3] = ["http://127.0.0.1:7401", "http://127.0.0.1:7402", "http://127.0.0.1:7403"];

/// Which cluster is meant.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// A gateway of the cluster; several, separated by commas, are tried in turn
    #[arg(
        long = "url",
        value_name = "URL",
        env = "JUMPGATE_URL",
        value_delimiter = ',',
        default_values = DEFAULT_URLS,
        help_heading = "Cluster"
    )]
    pub urls: Vec<String>,
    /// How long to try before giving up
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration, help_heading = "Cluster")]
    pub timeout: Duration,
}

impl Target {
    /// A client of that cluster.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        let mut urls: Vec<String> = self.urls.iter().filter(|url| !url.trim().is_empty()).cloned().collect();
        if urls.is_empty() {
            // A variable that is set to nothing, as compose files do, means the same as none.
            urls = DEFAULT_URLS.map(str::to_owned).to_vec();
        }
        Ok(Client::new(urls)?.with_timeout(self.timeout))
    }
}

/// A positive time as people write it.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("it must be more than nothing".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; write it like 250ms, 30s or 2h")),
    }
}
