//! The command line: what `jumpgate` understands, and how its client commands are carried out.
//!
//! Results go to stdout, everything said about them to stderr, one line each that begins with `jumpgate: `. A pipe gets
//! plain lines, a terminal gets tables and progress bars. Control characters of keys and values never reach a terminal
//! as they are.
//!
//! | exit code | means |
//! |---|---|
//! | 0 | done; also when the reader of stdout had enough, and after Ctrl-C where a command goes on for ever |
//! | 1 | failed |
//! | 2 | wrong usage or configuration |
//! | 3 | there is no such key |
//!
//! | file | commands |
//! |---|---|
//! | `serve`, `dev` | the server: one node, or a whole cluster on loopback |
//! | `values` | `get`, `put`, `delete` |
//! | `list`, `watch` | `list`; `watch` |
//! | `status` | `status`, `health` |
//! | `admin`, `plan` | `node`, `transfer`, `init`, `unsafe-recover`; `plan` |
//! | `export`, `import` | all values as lines of JSON |
//! | `secret` | `secret`: a new secret for a cluster |
//! | `token` | `token`: a token for a client |
//! | `cert` | `cert`: certificates for a cluster's nodes and gateways |
//! | `completions` | `completions`: what shells need to complete commands |
//! | `bench` | `bench`: load on a running cluster, and how long its answers took |
//! | `drill` | `drill`: load on a cluster of containers, of which half dies |
//! | `target` | the options that all client commands share |
//! | `operation` | how an operation is planned, asked about, done and told |
//! | `pairs` | the part of `status` that shows who hears whom |
//! | `failure`, `output` | exit codes; stdout and stderr |

mod admin;
mod bench;
mod cert;
mod completions;
mod dev;
mod drill;
mod export;
mod failure;
mod import;
mod list;
mod locate;
mod operation;
mod output;
mod pairs;
mod plan;
mod secret;
mod serve;
mod status;
mod target;
mod token;
mod values;
mod watch;

use clap::{Parser, Subcommand};

pub use admin::{Init, Node, NodeCommand, Transfer, UnsafeRecover};
pub use bench::Bench;
pub use cert::Cert;
pub use completions::Completions;
pub use dev::Dev;
pub use drill::Drill;
pub use export::Export;
pub use failure::Failure;
pub use import::Import;
pub use list::List;
pub use locate::Locate;
pub use operation::Operating;
pub use plan::Plan;
pub use secret::Secret;
pub use serve::Serve;
pub use status::{Health, Status};
pub use target::Target;
pub use token::Token;
pub use values::{Delete, Get, Put};
pub use watch::Watch;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "jumpgate",
    version,
    about = "A distributed in-memory key-value datastore that survives losing half of its servers",
    after_help = "\
Examples:
  jumpgate dev                         a cluster of three nodes on this machine, nothing to configure
  jumpgate put greeting hello          store a value
  jumpgate get greeting                read it back
  jumpgate watch                       see every change as it happens
  jumpgate status                      see the nodes and what they hold
  jumpgate node drain n2               move a node's copies elsewhere, before it is stopped for long

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 no such key.
`jumpgate help COMMAND` shows a command's options and examples."
)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one node of a cluster
    Serve(Serve),
    /// Run a whole cluster on this machine, with nothing to configure
    Dev(Dev),
    /// Make a secret for the nodes of a cluster
    Secret(Secret),
    /// Make a token for a client
    Token(Token),
    /// Make certificates for the nodes and gateways of a cluster
    Cert(Cert),
    /// Write what a shell needs to complete commands and options
    Completions(Completions),
    /// A command that talks to a running cluster.
    #[command(flatten)]
    Client(ClientCommand),
}

/// The commands that talk to a running cluster.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Write a key's value to stdout
    Get(Get),
    /// Store a value
    Put(Put),
    /// Remove a key and its value
    Delete(Delete),
    /// List keys
    List(List),
    /// Show where a key lives
    Locate(Locate),
    /// Print changes as they happen
    Watch(Watch),
    /// Show the nodes, their roles and what they hold
    Status(Status),
    /// Show what adding or removing a node would move
    Plan(Plan),
    /// Give a node its copies and its vote, take them away, or move its copies elsewhere
    Node(Node),
    /// Give leadership to another node
    Transfer(Transfer),
    /// Found a cluster although some of its nodes will never come
    Init(Init),
    /// Go on with the survivors after most nodes are lost for good
    UnsafeRecover(UnsafeRecover),
    /// Store the values of an export
    Import(Import),
    /// Write all values as lines of JSON
    Export(Export),
    /// Check that a node is ready, for health checks of containers
    Health(Health),
    /// Put load on a cluster and tell how long its answers take
    Bench(Bench),
    /// Kill half of a cluster of containers and compare every key
    Drill(Drill),
}

impl ClientCommand {
    /// Carries it out.
    ///
    /// # Errors
    /// What the user is told, with the exit code.
    pub async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Get(get) => get.run().await,
            Self::Put(put) => put.run().await,
            Self::Delete(delete) => delete.run().await,
            Self::List(list) => list.run().await,
            Self::Locate(locate) => locate.run().await,
            Self::Watch(watch) => watch.run().await,
            Self::Status(status) => status.run().await,
            Self::Plan(plan) => plan.run().await,
            Self::Node(node) => node.run().await,
            Self::Transfer(transfer) => transfer.run().await,
            Self::Init(init) => init.run().await,
            Self::UnsafeRecover(recover) => recover.run().await,
            Self::Import(import) => import.run().await,
            Self::Export(export) => export.run().await,
            Self::Health(health) => health.run().await,
            Self::Bench(bench) => bench.run().await,
            Self::Drill(drill) => drill.run().await,
        }
    }
}

/// Doors for the fuzz targets in `fuzz/`.
#[cfg(fuzzing)]
pub mod fuzzing {
    /// Reads a line of an import.
    pub fn import_line(line: &[u8]) {
        let _ = super::import::parse(line);
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_teaches_with_examples() {
        teaches("jumpgate", &Arguments::command());
    }

    /// Each command below `command` has an example of itself.
    fn teaches(path: &str, command: &clap::Command) {
        for command in command.get_subcommands() {
            let path = format!("{path} {}", command.get_name());
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&path), "{path} has no example");
            teaches(&path, command);
        }
    }
}
