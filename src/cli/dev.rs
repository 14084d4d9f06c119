//! `jumpgate dev`: a whole cluster on loopback in one process.

use std::fmt::Write as _;

use clap::Args;

use super::Failure;
use super::output::Output;

/// The most nodes that `dev` starts: more would measure the machine rather than the cluster.
const NODES_MAX: u16 = 16;
/// How far the ports of the pulse plane are above those of the gateways in a printed configuration.
const PULSE_ABOVE: u16 = 1000;
/// The same for the stream plane.
const STREAM_ABOVE: u16 = 2000;

/// The arguments of `dev`.
#[derive(Debug, Args)]
#[command(after_help = "\
Node i's gateway is http://127.0.0.1:PORT+i: n1 is at 7401, where the other commands look for it. Ctrl-C ends the cluster
and everything in it.

Examples:
  jumpgate dev
  jumpgate dev --nodes 5 --port 9000
  jumpgate dev --print-config > cluster.toml     the same cluster for `jumpgate serve`, a process per node")]
pub struct Dev {
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=i64::from(NODES_MAX)))]
    pub nodes: u16,
    /// The port below that of the first node's gateway
    #[arg(long, value_name = "PORT", default_value_t = 7400, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// Write the cluster.toml of such a cluster to stdout instead of running it
    #[arg(long)]
    pub print_config: bool,
}

impl Dev {
    /// Runs the cluster until it is told to stop, or prints its configuration.
    ///
    /// # Errors
    /// Where the ports don't fit, or the cluster can't start.
    pub fn run(self) -> Result<(), Failure> {
        let highest = u32::from(self.port) + u32::from(self.nodes) + u32::from(STREAM_ABOVE);
        if highest > u32::from(u16::MAX) {
            return Err(Failure::Usage(format!("--port {} leaves no room for the ports of the nodes", self.port)));
        }
        if self.print_config {
            let mut output = Output::new();
            output.bytes(configuration(self.nodes, self.port).as_bytes())?;
            return output.flush();
        }
        Err(Failure::Failed("dev is not wired yet".to_owned()))
    }
}

/// The cluster.toml of a loopback cluster.
fn configuration(nodes: u16, port: u16) -> String {
    // One node can't keep two copies.
    let min_copies = nodes.min(2);
    let mut text = format!("[cluster]\nname = \"dev\"\nreplicas = \"auto\"\nmin_copies = {min_copies}\n");
    for number in 1..=nodes {
        let gateway = port + number;
        let (pulse, stream) = (gateway + PULSE_ABOVE, gateway + STREAM_ABOVE);
        let written = write!(
            text,
            "\n[[node]]\nid = \"n{number}\"\npulse = \"127.0.0.1:{pulse}\"\nstream = \"127.0.0.1:{stream}\"\n\
             gateway = \"127.0.0.1:{gateway}\"\nadvertise = \"http://127.0.0.1:{gateway}\"\n"
        );
        written.expect("writing to a string can't fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_configuration_is_toml_with_every_node_on_ports_of_its_own() {
        let parsed: toml::Table = configuration(5, 9000).parse().expect("valid TOML");
        let nodes = parsed["node"].as_array().expect("an array of nodes");
        assert_eq!(nodes.len(), 5);
        assert_eq!(nodes[0]["gateway"].as_str(), Some("127.0.0.1:9001"));
        let mut addresses: Vec<&str> = Vec::new();
        for node in nodes {
            addresses.extend(["pulse", "stream", "gateway"].map(|field| node[field].as_str().expect("an address")));
        }
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), 15);
    }
}
