//! `jumpgate serve`: one node of a cluster.

use std::path::{Path, PathBuf};

use clap::Args;

use super::Failure;
use super::output::{note, one_line};
use crate::config::{Config, ConfigError};
use crate::server::{self, LogFormat, ServerError};

/// The arguments of `serve`.
#[derive(Debug, Args)]
#[command(after_help = "\
The node runs until SIGINT or SIGTERM, answers the requests that are under way, and ends with exit code 0. Nothing is
written to disk: a node that starts again is empty and is filled by the others. All nodes stopped at once have forgotten
everything.

Examples:
  jumpgate serve --config cluster.toml --node n1
  JUMPGATE_NODE=n1 jumpgate serve
  JUMPGATE_LIMITS_MEMORY=4GiB jumpgate serve --node n1     override a setting of the file")]
pub struct Serve {
    /// The cluster's configuration, the same file for every node
    #[arg(long, value_name = "FILE", default_value = "cluster.toml")]
    pub config: PathBuf,
    /// Which of the file's nodes this one is; must be given here or there
    #[arg(long, value_name = "NODE", env = "JUMPGATE_NODE")]
    pub node: Option<String>,
    /// Start without a secret although the node is reachable from other machines
    #[arg(long)]
    pub insecure: bool,
    /// How log lines are written: text, or one JSON object a line
    #[arg(long, value_name = "text|json", default_value = "text", env = "JUMPGATE_LOG_FORMAT")]
    pub log_format: LogFormat,
}

impl Serve {
    /// Runs the node until it is told to stop.
    ///
    /// # Errors
    /// Where the configuration is wrong or the node can't start.
    pub fn run(self) -> Result<(), Failure> {
        let config = read(&self.config)?;
        let node = self.node.ok_or_else(|| {
            let known: Vec<&str> = config.nodes.iter().map(|node| node.id.as_str()).collect();
            let known = known.join(", ");
            Failure::Usage(format!("--node or JUMPGATE_NODE must say which node this is; the nodes are {known}"))
        })?;
        let slot = config.node(&node).map_err(usage)?;
        server::serve(config, slot, self.insecure, self.log_format).map_err(Failure::from)
    }
}

/// The configuration in a file and in the environment. What is doubtful about it is said.
pub(super) fn read(file: &Path) -> Result<Config, Failure> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::Usage(format!("cannot read the configuration {name}: {error}")))?;
    // A variable that is no text can't be a setting, so it is none of ours.
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let (config, warnings) = Config::parse(&name, &text, environment).map_err(usage)?;
    for warning in warnings {
        note(&one_line(&warning.to_string()));
    }
    Ok(config)
}

fn usage(error: ConfigError) -> Failure {
    Failure::Usage(error.to_string())
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Self {
        if error.is_usage() { Self::Usage(error.to_string()) } else { Self::Failed(error.to_string()) }
    }
}
