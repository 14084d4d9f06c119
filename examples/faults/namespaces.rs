//! Hosts of one's own: a network namespace for each node, joined by a bridge, with an address each. A cut is a rule of the
//! kernel's packet filter in the namespace that no longer hears.
//!
//! The bridge has a namespace, too, so that rules of this machine's own don't touch what crosses it. Clients stay where
//! they are and speak to ports of loopback, which are passed on. Everything goes when the value does.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::weather::Cut;

/// The namespaces of one cluster.
pub struct Namespaces {
    /// What all their names begin with.
    name: String,
    net: u8,
    nodes: usize,
    stop: Arc<AtomicBool>,
    ports: Vec<u16>,
}

impl Namespaces {
    /// Makes them, and passes on each of `ports` of loopback to the same port of the node of that number.
    ///
    /// # Errors
    /// Where this machine or this user may not: what was made by then is gone again.
    pub fn make(ports: &[u16]) -> Result<Self, String> {
        let id = std::process::id() % 10_000;
        let made = Self {
            name: format!("jg{id}"),
            net: (id % 250) as u8,
            nodes: ports.len(),
            stop: Arc::default(),
            ports: ports.to_vec(),
        };
        made.build()?;
        for (node, port) in ports.iter().enumerate() {
            let listener = TcpListener::bind(("127.0.0.1", *port)).map_err(|error| format!("port {port}: {error}"))?;
            pass_on(listener, SocketAddr::new(made.host(node).into(), *port), Arc::clone(&made.stop));
        }
        Ok(made)
    }

    /// The address of a node.
    pub fn host(&self, node: usize) -> std::net::Ipv4Addr {
        [10, 77, self.net, 11 + node as u8].into()
    }

    /// What starts a program in a node's namespace, without help of the environment.
    pub fn prefix(&self, node: usize) -> Vec<String> {
        ["/sbin/ip", "netns", "exec", &self.of(node)].map(str::to_owned).to_vec()
    }

    /// Cuts these ways and no others.
    pub fn cut(&self, cuts: &[(usize, usize, Cut)]) -> Result<(), String> {
        for to in 0..self.nodes {
            let mut rules =
                "flush ruleset\ntable inet cut {\nchain in {\ntype filter hook input priority 0;\n".to_owned();
            for (from, _, cut) in cuts.iter().filter(|(_, cut_to, _)| *cut_to == to) {
                for (protocol, is_cut) in [("udp", cut.pulse), ("tcp", cut.stream)] {
                    if is_cut {
                        let _ = writeln!(rules, "ip saddr {} meta l4proto {protocol} drop;", self.host(*from));
                    }
                }
            }
            rules += "}\n}\n";
            let mut nft = Command::new("ip");
            nft.args(["netns", "exec", &self.of(to), "nft", "-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
            let mut child = nft.spawn().map_err(|error| format!("nft: {error}"))?;
            let fed = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(rules.as_bytes()));
            let ended = child.wait_with_output().map_err(|error| format!("nft: {error}"))?;
            if fed.is_err() || !ended.status.success() {
                return Err(format!("nft: {}", String::from_utf8_lossy(&ended.stderr)));
            }
        }
        Ok(())
    }

    fn of(&self, node: usize) -> String {
        format!("{}n{}", self.name, node + 1)
    }

    fn build(&self) -> Result<(), String> {
        let (name, net) = (&self.name, self.net);
        let switch = format!("{name}sw");
        ip(&format!("netns add {switch}"))?;
        ip(&format!("-n {switch} link add name bridge type bridge"))?;
        ip(&format!("-n {switch} link set bridge up"))?;
        ip(&format!("link add name {name} type veth peer name host netns {switch}"))?;
        ip(&format!("addr add 10.77.{net}.1/24 dev {name}"))?;
        ip(&format!("link set {name} up"))?;
        ip(&format!("-n {switch} link set host master bridge up"))?;
        for node in 0..self.nodes {
            let (own, host) = (self.of(node), self.host(node));
            ip(&format!("netns add {own}"))?;
            ip(&format!("link add name v{node} netns {switch} type veth peer name eth0 netns {own}"))?;
            ip(&format!("-n {switch} link set v{node} master bridge up"))?;
            ip(&format!("-n {own} addr add {host}/24 dev eth0"))?;
            ip(&format!("-n {own} link set eth0 up"))?;
            ip(&format!("-n {own} link set lo up"))?;
        }
        self.cut(&[])
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Whoever passes on sees that it is to end when the next one comes.
        self.ports.iter().for_each(|port| drop(TcpStream::connect(("127.0.0.1", *port))));
        let _ = ip(&format!("link del {}", self.name));
        (0..self.nodes).for_each(|node| drop(ip(&format!("netns del {}", self.of(node)))));
        let _ = ip(&format!("netns del {}sw", self.name));
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let ended = Command::new("ip").args(arguments.split(' ')).output().map_err(|error| format!("ip: {error}"))?;
    let words = String::from_utf8_lossy(&ended.stderr);
    if ended.status.success() { Ok(()) } else { Err(format!("ip {arguments}: {}", words.trim())) }
}

/// Passes on what connects to `listener`.
fn pass_on(listener: TcpListener, to: SocketAddr, stop: Arc<AtomicBool>) {
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            thread::spawn(move || {
                let Ok(node) = TcpStream::connect_timeout(&to, std::time::Duration::from_secs(1)) else { return };
                let _ = (client.set_nodelay(true), node.set_nodelay(true));
                let (Ok(back_from), Ok(back_to)) = (node.try_clone(), client.try_clone()) else { return };
                let back = thread::spawn(move || copy(back_from, back_to));
                copy(client, node);
                let _ = back.join();
            });
        }
    });
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
