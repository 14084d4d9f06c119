//! What nodes are made of: containers of a Compose project, or processes of the drill's own.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::cli::Failure;
use crate::config::{Config, Ports};

/// The nodes of the cluster, by name.
pub(super) enum Nodes {
    Containers { docker: String, project: String, networks: Vec<(String, String)> },
    Processes { folder: PathBuf, children: Vec<Child> },
}

impl Nodes {
    pub(super) const fn containers(docker: String, project: String) -> Self {
        Self::Containers { docker, project, networks: Vec::new() }
    }

    /// Starts `count` nodes on loopback; also gives their gateways.
    pub(super) fn processes(count: u16) -> Result<(Self, Vec<String>), Failure> {
        let failed = |error: std::io::Error| Failure::Failed(format!("cannot start a cluster of processes: {error}"));
        // All sockets are held until every port is chosen, so that none is chosen twice.
        let mut held = Vec::new();
        let mut ports = Vec::new();
        for _ in 0..count {
            let pulse = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
            let stream = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
            let gateway = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
            ports.push(Ports {
                pulse: pulse.local_addr().map_err(failed)?.port(),
                stream: stream.local_addr().map_err(failed)?.port(),
                gateway: gateway.local_addr().map_err(failed)?.port(),
            });
            held.push((pulse, stream, gateway));
        }
        drop(held);
        let config = Config::loopback("drill", &ports);
        let folder = std::env::temp_dir().join(format!("jumpgate-drill-{}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(failed)?;
        std::fs::write(folder.join("cluster.toml"), config.to_toml()).map_err(failed)?;
        let mut nodes = Self::Processes { folder, children: Vec::new() };
        let names: Vec<String> = config.nodes.iter().map(|node| node.id.clone()).collect();
        nodes.start(&names)?;
        Ok((nodes, config.nodes.into_iter().map(|node| node.advertise).collect()))
    }

    pub(super) const fn can_cut_off(&self) -> bool {
        matches!(self, Self::Containers { .. })
    }

    /// All at once, without a warning.
    pub(super) fn kill(&mut self, names: &[String]) -> Result<(), Failure> {
        self.act("kill", "-KILL", names)
    }

    pub(super) fn pause(&mut self, names: &[String]) -> Result<(), Failure> {
        self.act("pause", "-STOP", names)
    }

    pub(super) fn resume(&mut self, names: &[String]) -> Result<(), Failure> {
        self.act("unpause", "-CONT", names)
    }

    pub(super) fn start(&mut self, names: &[String]) -> Result<(), Failure> {
        let Self::Processes { folder, children } = self else { return self.act("start", "", names) };
        for name in names {
            let failed = |error: std::io::Error| Failure::Failed(format!("cannot start {name}: {error}"));
            let log = std::fs::File::options().create(true).append(true).open(folder.join(format!("{name}.log")));
            let log = log.map_err(failed)?;
            let child = Command::new(std::env::current_exe().map_err(failed)?)
                .args(["serve", "--node", name, "--config"])
                .arg(folder.join("cluster.toml"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .map_err(failed)?;
            let place = place(name)?;
            if place < children.len() {
                children[place] = child;
            } else {
                children.push(child);
            }
        }
        Ok(())
    }

    /// Takes containers off their network.
    pub(super) fn cut_off(&mut self, names: &[String]) -> Result<(), Failure> {
        for name in names {
            let Self::Containers { docker, project, networks } = self else { return Ok(()) };
            let id = container(docker, project, name)?;
            let format = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}";
            let network = output(Command::new(&*docker).args(["inspect", "--format", format, &id]))?;
            output(Command::new(&*docker).args(["network", "disconnect", &network, &id]))?;
            networks.push((name.clone(), network));
        }
        Ok(())
    }

    /// Brings them back to it, under the same name, perhaps with another address.
    pub(super) fn join(&mut self, names: &[String]) -> Result<(), Failure> {
        let Self::Containers { docker, project, networks } = self else { return Ok(()) };
        for (name, network) in networks.extract_if(.., |(name, _)| names.contains(name)) {
            let id = container(docker, project, &name)?;
            output(Command::new(&*docker).args(["network", "connect", "--alias", &name, &network, &id]))?;
        }
        Ok(())
    }

    /// Ends the drill's own processes; containers go on.
    pub(super) fn end(&mut self) {
        if let Self::Processes { folder, children } = self {
            for child in children.iter_mut() {
                let _ = child.kill();
                let _ = child.wait();
            }
            children.clear();
            let _ = std::fs::remove_dir_all(folder);
        }
    }

    fn act(&mut self, verb: &str, signal: &str, names: &[String]) -> Result<(), Failure> {
        match self {
            Self::Containers { docker, project, .. } => {
                let ids: Result<Vec<String>, Failure> =
                    names.iter().map(|name| container(docker, project, name)).collect();
                output(Command::new(&*docker).arg(verb).args(ids?)).map(drop)
            }
            Self::Processes { children, .. } => {
                let mut ids = Vec::new();
                for name in names {
                    let child = children.get(place(name)?);
                    let child = child.ok_or_else(|| Failure::Failed(format!("there is no process {name}")))?;
                    ids.push(child.id().to_string());
                }
                output(Command::new("kill").arg(signal).args(ids))?;
                if verb == "kill" {
                    for name in names {
                        // Its port is free only once it is gone.
                        let _ = children[place(name)?].wait();
                    }
                }
                Ok(())
            }
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.end();
    }
}

/// n1 is the first.
fn place(name: &str) -> Result<usize, Failure> {
    let number = name.strip_prefix('n').and_then(|number| number.parse::<usize>().ok());
    number
        .and_then(|number| number.checked_sub(1))
        .ok_or_else(|| Failure::Failed(format!("{name} is no process's name")))
}

/// The container that is the node: the service of the same name.
fn container(docker: &str, project: &str, name: &str) -> Result<String, Failure> {
    let project = format!("label=com.docker.compose.project={project}");
    let service = format!("label=com.docker.compose.service={name}");
    let id = output(Command::new(docker).args(["ps", "-aq", "--filter", &project, "--filter", &service]))?;
    match id.lines().count() {
        1 => Ok(id),
        0 => Err(Failure::Failed(format!("no container is the node {name}; is --project right? ({project})"))),
        many => Err(Failure::Failed(format!("{many} containers claim to be the node {name}"))),
    }
}

/// Runs a command to its end; what it printed.
fn output(command: &mut Command) -> Result<String, Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    let done = command.stdin(Stdio::null()).output();
    let done = done.map_err(|error| Failure::Failed(format!("cannot run {program}: {error}")))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(Failure::Failed(format!("{program} failed: {}", said.trim())));
    }
    Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
}
