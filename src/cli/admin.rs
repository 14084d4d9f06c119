//! `jumpgate node`, `transfer`, `init` and `unsafe-recover`.

use clap::{Args, Subcommand};

use super::{Failure, Operating};
use crate::api::AdminAction;

/// The arguments of `node`.
#[derive(Debug, Args)]
#[command(after_help = "\
Nodes are those of cluster.toml. Each command says first what it will do, asks, does it, and says what it did.

Examples:
  jumpgate node drain n2             move its copies elsewhere; it keeps its vote
  jumpgate node remove n2            the same, and then it loses its vote
  jumpgate node add n2               give them back, or for the first time
  jumpgate plan --remove n2          how much that would move")]
pub struct Node {
    /// What.
    #[command(subcommand)]
    pub command: NodeCommand,
}

/// What can be done with a node.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Give a node its copies and its vote, back or for the first time
    #[command(after_help = "\
The node has to be in cluster.toml and running. It is filled with its copies, and then it takes part in every decision.

Examples:
  jumpgate node add n4
  jumpgate node add n4 --dry-run     only say what it would do")]
    Add(OneNode),
    /// Move a node's copies to others, then take its vote
    #[command(after_help = "\
For a node that goes for good. It needs enough other nodes to hold as many copies as the cluster aims at. Stop the node
afterwards.

Examples:
  jumpgate node remove n4
  jumpgate node remove n4 --yes --json")]
    Remove(OneNode),
    /// Move a node's copies to others; it keeps its vote
    #[command(after_help = "\
For a node that is stopped for a while longer than a restart takes: nothing is missing a copy meanwhile. `jumpgate node
add` gives the copies back.

Examples:
  jumpgate node drain n2
  jumpgate node drain n2 --yes       without being asked, as in a script")]
    Drain(OneNode),
}

/// Which node, and how.
#[derive(Clone, Debug, Args)]
pub struct OneNode {
    /// The node's name in cluster.toml
    #[arg(value_name = "NODE")]
    pub node: String,
    /// How it goes.
    #[command(flatten)]
    pub operating: Operating,
}

impl Node {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let (action, operating) = match self.command {
            NodeCommand::Add(OneNode { node, operating }) => (AdminAction::AddNode { node }, operating),
            NodeCommand::Remove(OneNode { node, operating }) => (AdminAction::RemoveNode { node }, operating),
            NodeCommand::Drain(OneNode { node, operating }) => (AdminAction::Drain { node }, operating),
        };
        operating.carry_out(action, false).await
    }
}

/// The arguments of `transfer`.
#[derive(Debug, Args)]
#[command(after_help = "\
Leadership goes over in a few milliseconds, without the wait of an election. A node that is told to stop (SIGTERM) does
this by itself.

Examples:
  jumpgate transfer                  to the node whose log is furthest
  jumpgate transfer --to n3 --yes")]
pub struct Transfer {
    /// To whom; to the node whose log is furthest otherwise
    #[arg(long, value_name = "NODE")]
    pub to: Option<String>,
    /// How it goes.
    #[command(flatten)]
    pub operating: Operating,
}

impl Transfer {
    pub(super) async fn run(self) -> Result<(), Failure> {
        self.operating.carry_out(AdminAction::Transfer { to: self.to }, false).await
    }
}

/// The arguments of `init`.
#[derive(Debug, Args)]
#[command(after_help = "\
A cluster founds itself once every node of cluster.toml is up and remembers none; nothing has to be done for that. Where
some of them will never come, `init --force` founds it without those that --without names; all others have to be up. The
node that answers at --url does it.

It is dangerous where a named node isn't gone but only cut off: it may be part of a cluster that goes on elsewhere, with
values of its own. Then there are two clusters.

Examples:
  jumpgate init --force --without n3 --url http://127.0.0.1:7501
  jumpgate init --force --without n4,n5 --dry-run --url http://127.0.0.1:7501")]
pub struct Init {
    /// I know that the named nodes are gone for good
    #[arg(long)]
    pub force: bool,
    /// Nodes that will never come; several separated by commas
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    pub without: Vec<String>,
    /// How it goes.
    #[command(flatten)]
    pub operating: Operating,
}

impl Init {
    pub(super) async fn run(self) -> Result<(), Failure> {
        if !self.force {
            return Err(Failure::Usage(
                "a cluster founds itself once every configured node is up, so `init` is only for one whose missing nodes \
                 are gone for good. If one of them lives on elsewhere, there will be two clusters, each with values that \
                 the other doesn't know. If you are sure, say so: jumpgate init --force --without NODE[,NODE]"
                    .to_owned(),
            ));
        }
        if self.without.iter().all(|name| name.trim().is_empty()) {
            let message = "say which nodes are gone for good: jumpgate init --force --without NODE[,NODE]; with all of \
                           them up, the cluster founds itself";
            return Err(Failure::Usage(message.to_owned()));
        }
        self.operating.carry_out(AdminAction::InitForce { without: self.without }, true).await
    }
}

/// The arguments of `unsafe-recover`.
#[derive(Debug, Args)]
#[command(after_help = "\
For the day on which a majority of the nodes is lost at once and doesn't come back. The survivors, as seen from the node
that answers at --url, go on without the others in a new generation of the cluster. Of each partition the report says
what became of it:

  CLEAN   a survivor was in sync: no acknowledged write is missing
  LOSSY   only a copy that wasn't in sync survives: acknowledged writes may be missing
  LOST    nothing survives

A lost node that comes back joins as a new one; what only it knew is gone. Wait for it first, if it can come back.

Examples:
  jumpgate unsafe-recover --dry-run --url http://127.0.0.1:7401      what would become of the partitions
  jumpgate unsafe-recover --url http://127.0.0.1:7401
  jumpgate unsafe-recover --yes --json | jq .recovered.lost")]
pub struct UnsafeRecover {
    /// How it goes.
    #[command(flatten)]
    pub operating: Operating,
}

impl UnsafeRecover {
    pub(super) async fn run(self) -> Result<(), Failure> {
        self.operating.carry_out(AdminAction::UnsafeRecover, true).await
    }
}
