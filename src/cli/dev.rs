//! `jumpgate dev`: a whole cluster on loopback in one process.

use clap::Args;

use super::Failure;
use super::output::Output;
use crate::config::{Config, Ports};
use crate::server::{self, LogFormat};

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
    /// Serve files over FTP too, node i at PORT + 20 + i
    #[arg(long)]
    pub ftp: bool,
    /// Write the cluster.toml of such a cluster to stdout instead of running it
    #[arg(long)]
    pub print_config: bool,
    /// How log lines are written: text, or one JSON object a line
    #[arg(long, value_name = "text|json", default_value = "text", env = "JUMPGATE_LOG_FORMAT")]
    pub log_format: LogFormat,
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
            output.bytes(configuration(self.nodes, self.port, self.ftp).to_toml().as_bytes())?;
            return output.flush();
        }
        server::dev(self.nodes, self.port, self.ftp, self.log_format).map_err(Failure::from)
    }
}

/// The configuration of a loopback cluster. Unlike that of a cluster that `dev` runs, its ports of the pulse and the
/// stream plane must be known beforehand.
fn configuration(nodes: u16, port: u16, ftp: bool) -> Config {
    let ports: Vec<Ports> = (1..=nodes)
        .map(|number| {
            let gateway = port + number;
            Ports { pulse: gateway + PULSE_ABOVE, stream: gateway + STREAM_ABOVE, gateway }
        })
        .collect();
    let mut config = Config::loopback("dev", &ports);
    if ftp {
        server::add_ftp(&mut config, port);
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Slot;

    #[test]
    fn the_printed_configuration_is_one_that_serve_reads() {
        let printed = configuration(5, 9000, true);
        let (read, warnings) =
            Config::parse("cluster.toml", &printed.to_toml(), std::iter::empty()).expect("a configuration");
        assert_eq!((&read, warnings.len()), (&printed, 0));
        assert_eq!(read.nodes.len(), 5);
        assert_eq!(read.nodes[0].advertise, "http://127.0.0.1:9001");
        let ftp = |slot| read.ftp_address(Slot(slot)).map(|address| address.to_string());
        assert_eq!((ftp(0), ftp(4)), (Some("127.0.0.1:9021".to_owned()), Some("127.0.0.1:9025".to_owned())));
    }
}
