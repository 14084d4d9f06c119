//! How long writes stop when a node dies: kills (or pauses) the leader of a real cluster of three processes, again and
//! again, and prints the distribution of the time to the first acknowledged write.
//!
//! `cargo run --release --example failover -- [--trials 200] [--fault kill|pause|kill-primary] [--binary PATH]`
//!
//! Each trial founds a new cluster on free ports, writes to it, and then takes the leader away with SIGKILL (or SIGSTOP),
//! or another node with `kill-primary`. From that moment on a write is sent every 10 ms to each survivor, half of them to
//! keys whose primary died and half to others; each is a request of its own on a connection of its own. T is the time from
//! the fault to the first acknowledgement of a write that was sent after it. Every value that was acknowledged before the
//! fault is read again afterwards.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use jumpgate::base::{Slot, SlotSet};
use jumpgate::config::{Config, Ports};
use jumpgate::placement;

const NODES: usize = 3;
const PARTITIONS: u16 = 4096;
const PROBE_EVERY: Duration = Duration::from_millis(10);
const PROBE_FOR: Duration = Duration::from_secs(3);
const KEYS: usize = 64;

fn main() -> ExitCode {
    match Arguments::parse().and_then(|arguments| arguments.run()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("failover: {error}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    Pause,
    KillPrimary,
}

struct Arguments {
    trials: usize,
    fault: Fault,
    binary: PathBuf,
}

impl Arguments {
    fn parse() -> io::Result<Self> {
        let mut parsed = Self { trials: 20, fault: Fault::Kill, binary: binary_beside_this_one()? };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| io::Error::other(format!("{word} wants a value")))?;
            match (word.as_str(), value.as_str()) {
                ("--trials", number) => parsed.trials = number.parse().map_err(io::Error::other)?,
                ("--fault", "kill") => parsed.fault = Fault::Kill,
                ("--fault", "pause") => parsed.fault = Fault::Pause,
                ("--fault", "kill-primary") => parsed.fault = Fault::KillPrimary,
                ("--binary", path) => parsed.binary = PathBuf::from(path),
                _ => return Err(io::Error::other(format!("what is {word} {value}?"))),
            }
        }
        Ok(parsed)
    }

    fn run(&self) -> io::Result<bool> {
        let (mut affected, mut others, mut lost, mut written) = (Vec::new(), Vec::new(), 0, 0);
        for trial in 0..self.trials {
            let seen = Trial::start(&self.binary)?.run(self.fault)?;
            println!(
                "trial {trial}: keys of the dead {} ms, other keys {} ms, {} of {} values lost",
                millis(seen.affected),
                millis(seen.others),
                seen.lost,
                seen.written
            );
            affected.push(seen.affected);
            others.push(seen.others);
            lost += seen.lost;
            written += seen.written;
        }
        println!("\n| keys | trials | median ms | p90 | p99 | worst |\n|---|---|---|---|---|---|");
        println!("{}", row("whose primary died", &mut affected));
        println!("{}", row("others", &mut others));
        println!("\n{lost} of {written} acknowledged values lost");
        Ok(lost == 0)
    }
}

fn binary_beside_this_one() -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(Path::parent).ok_or_else(|| io::Error::other("this program is nowhere"))?;
    Ok(folder.join("jumpgate"))
}

fn millis(time: Duration) -> u128 {
    time.as_millis()
}

fn row(what: &str, times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_millis();
    format!("| {what} | {} | {} | {} | {} | {} |", times.len(), at(0.5), at(0.9), at(0.99), at(1.0))
}

/// What was seen in one trial.
struct Seen {
    affected: Duration,
    others: Duration,
    written: usize,
    lost: usize,
}

/// One cluster.
struct Trial {
    processes: Vec<Child>,
    gateways: Vec<SocketAddr>,
    leader: usize,
}

impl Trial {
    fn start(binary: &Path) -> io::Result<Self> {
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let mut ports = Vec::new();
        for _ in 0..NODES {
            let (pulse, stream, gateway) = (free()?.port(), free()?.port(), free()?.port());
            ports.push(Ports { pulse, stream, gateway });
        }
        let file = std::env::temp_dir().join(format!("jumpgate-failover-{}.toml", std::process::id()));
        std::fs::write(&file, Config::loopback("failover", &ports).to_toml())?;
        let (lines, leader_lines) = mpsc::channel();
        let mut processes = Vec::new();
        for node in 1..=NODES {
            let mut child = Command::new(binary)
                .args(["serve", "--node", &format!("n{node}"), "--config"])
                .arg(&file)
                .env("RUST_LOG", "error")
                .stdout(Stdio::piped())
                .spawn()?;
            let out = child.stdout.take().ok_or_else(|| io::Error::other("no stdout"))?;
            let lines = lines.clone();
            thread::spawn(move || {
                BufReader::new(out).lines().map_while(Result::ok).for_each(|line| drop(lines.send(line)))
            });
            processes.push(child);
        }
        let gateways = ports.iter().map(|ports| SocketAddr::from(([127, 0, 0, 1], ports.gateway))).collect();
        let mut trial = Self { processes, gateways, leader: 0 };
        // "n2 is the leader (term 1, 3 of 3 nodes)"
        let line = leader_lines.recv_timeout(Duration::from_secs(20)).map_err(io::Error::other)?;
        trial.leader = line
            .strip_prefix('n')
            .and_then(|rest| rest.split(' ').next())
            .and_then(|number| number.parse::<usize>().ok())
            .ok_or_else(|| io::Error::other(format!("this is no leader line: {line}")))?
            - 1;
        let settled = Instant::now() + Duration::from_secs(10);
        while !(0..NODES)
            .all(|node| request(trial.gateways[node], "GET", "/readyz", "").is_ok_and(|status| status == 200))
        {
            if Instant::now() > settled {
                return Err(io::Error::other("the cluster did not become ready"));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(trial)
    }

    fn run(mut self, fault: Fault) -> io::Result<Seen> {
        let victim = if fault == Fault::KillPrimary { (self.leader + 1) % NODES } else { self.leader };
        let keys = |is_victims: bool| {
            (0..).map(|nth| format!("key-{nth}")).filter(move |key| (primary(key) == victim) == is_victims)
        };
        let affected: Vec<String> = keys(true).take(KEYS).collect();
        let others: Vec<String> = keys(false).take(KEYS).collect();
        let mut written = Vec::new();
        for key in affected.iter().chain(&others) {
            let before = format!("before-{key}");
            if request(self.gateways[self.leader], "PUT", &format!("/v1/kv/{before}"), "before")? / 100 == 2 {
                written.push(before);
            }
        }
        let signal = if fault == Fault::Pause { "-STOP" } else { "-KILL" };
        let pid = self.processes[victim].id().to_string();
        let survivors: Vec<SocketAddr> =
            (0..NODES).filter(|&node| node != victim).map(|node| self.gateways[node]).collect();
        let at = Instant::now();
        Command::new("kill").args([signal, &pid]).status()?;
        let (seen, acknowledged) = mpsc::channel();
        let mut sent = 0;
        let (mut first_affected, mut first_other) = (None, None);
        while at.elapsed() < PROBE_FOR && (first_affected.is_none() || first_other.is_none()) {
            for &gateway in &survivors {
                for (is_affected, keys) in [(true, &affected), (false, &others)] {
                    let (path, seen) = (format!("/v1/kv/{}", keys[sent % KEYS]), seen.clone());
                    thread::spawn(move || {
                        if request(gateway, "PUT", &path, "after").is_ok_and(|status| status / 100 == 2) {
                            let _ = seen.send((is_affected, at.elapsed()));
                        }
                    });
                }
            }
            sent += 1;
            let next = at + PROBE_EVERY * sent as u32;
            while let Ok((is_affected, time)) =
                acknowledged.recv_timeout(next.saturating_duration_since(Instant::now()))
            {
                let first = if is_affected { &mut first_affected } else { &mut first_other };
                *first = Some(first.map_or(time, |first: Duration| first.min(time)));
            }
        }
        let lost = written
            .iter()
            .filter(|key| !request(survivors[0], "GET", &format!("/v1/kv/{key}"), "").is_ok_and(|status| status == 200))
            .count();
        self.stop();
        Ok(Seen {
            affected: first_affected.unwrap_or(PROBE_FOR),
            others: first_other.unwrap_or(PROBE_FOR),
            written: written.len(),
            lost,
        })
    }

    fn stop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Where a key's primary is while everybody has always been up.
fn primary(key: &str) -> usize {
    let partition = placement::partition_of(key.as_bytes(), PARTITIONS);
    let owners = placement::owners(partition, SlotSet::first(NODES), 2);
    owners.primary().map_or(0, Slot::index)
}

/// One request on a connection of its own; the status of its answer.
fn request(gateway: SocketAddr, method: &str, path: &str, body: &str) -> io::Result<u16> {
    let mut stream = TcpStream::connect_timeout(&gateway, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(4)))?;
    stream.set_nodelay(true)?;
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    let status = std::str::from_utf8(&answer[9..]).ok().and_then(|status| status.parse().ok());
    status.ok_or_else(|| io::Error::other("no status"))
}
