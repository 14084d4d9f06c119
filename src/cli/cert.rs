//! `jumpgate cert`: an authority for development, and certificates for a cluster's nodes and gateways.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use super::output::{Output, note};
use super::{Failure, serve};
use crate::base::Slot;
use crate::config::{Config, Transport};
use crate::server;

/// How long an authority that is made here is valid: it outlives what it makes.
const AUTHORITY_DAYS: u32 = 3650;
/// The longest validity that can be asked for: less than the authority's, by more than the authority may be older.
const DAYS_MAX: u32 = 1825;
/// Validity begins this long before now: the clocks of a cluster's machines may differ.
const CLOCK_SLACK_DAYS: u32 = 1;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// What the authority calls itself. The same for each, so that one that was made before can be used again.
const AUTHORITY_NAME: &str = "jumpgate development authority";

/// The arguments of `cert`.
#[derive(Debug, Args)]
#[command(after_help = "\
Over QUIC nodes prove who they are: each has a certificate of one authority that names it. Over HTTPS gateways do so to
clients. This makes an authority for development, a certificate for each node of cluster.toml, and one for all gateways, and
writes to stdout what cluster.toml needs: [stream] for QUIC, [security] for HTTPS; take what you want. A node needs
authority.pem, its own certificate and key, and those of gateways; clients need authority.pem (--cacert). The authority's key is needed by no
node: who has it can make nodes.

What is there already stays as it is, so a node that was added to cluster.toml gets its certificate by running this again.
With --force nodes and gateways get new certificates and new keys, which running nodes take over by themselves; the
authority stays in any case. Another authority needs another DIR; put the certificates of both into one file for as long as
both are in use.

Examples:
  jumpgate cert --config cluster.toml --out certificates
  jumpgate cert --out certificates --days 90 --force     renew them")]
pub struct Cert {
    /// The cluster's configuration
    #[arg(long, value_name = "FILE", default_value = "cluster.toml")]
    pub config: PathBuf,
    /// Where to put the files; made if it isn't there
    #[arg(long, value_name = "DIR", default_value = "certificates")]
    pub out: PathBuf,
    /// How long new certificates are valid
    #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=i64::from(DAYS_MAX)))]
    pub days: u32,
    /// Replace certificates and keys of nodes and gateways that are there already
    #[arg(long)]
    pub force: bool,
}

impl Cert {
    /// Makes what is missing, and says what to write into the configuration.
    ///
    /// # Errors
    /// Where the configuration is wrong, a file can't be written, or one that was there isn't usable.
    pub fn run(self) -> Result<(), Failure> {
        let mut config = serve::read(&self.config)?;
        make_folder(&self.out).map_err(|error| failed(&self.out, &error))?;
        let out = fs::canonicalize(&self.out).map_err(|error| failed(&self.out, &error))?;
        let authority = authority(&out)?;
        for (node, name) in config.nodes.iter().zip(config.certificate_names()) {
            let uses = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let wanted = Wanted { file: format!("node-{}", node.id), names: vec![name], uses: uses.into() };
            self.make(&out, &wanted, &authority)?;
        }
        let uses = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let wanted = Wanted { file: "gateway".to_owned(), names: gateway_names(&config), uses };
        self.make(&out, &wanted, &authority)?;

        config.stream.transport = Transport::Quic;
        config.stream.certificate = Some(out.join("node-{node}.pem"));
        config.stream.key = Some(out.join("node-{node}.key"));
        config.stream.authority = Some(out.join("authority.pem"));
        config.security.tls_cert = Some(out.join("gateway.pem"));
        config.security.tls_key = Some(out.join("gateway.key"));
        config.security.tls_authority = Some(out.join("authority.pem"));
        for slot in 0..config.nodes.len() {
            let slot = Slot(slot as u8);
            let checked = server::check_certificates(&config, slot).and_then(|()| server::check_gateway(&config, slot));
            checked.map_err(|error| {
                Failure::Failed(format!("{error}; --force makes new certificates, another --out a new authority"))
            })?;
        }
        let mut output = Output::new();
        output.bytes(settings(&config).as_bytes())?;
        output.flush()
    }

    /// Makes one key and its certificate, unless the key is there.
    fn make(&self, out: &Path, wanted: &Wanted, authority: &Issuer<'_, KeyPair>) -> Result<(), Failure> {
        let (certificate, key) = (out.join(format!("{}.pem", wanted.file)), out.join(format!("{}.key", wanted.file)));
        let is_there = key.try_exists().map_err(|error| failed(&key, &error))?;
        if is_there && !self.force {
            note(&format!("{} is there already and stays as it is", key.display()));
            return Ok(());
        }
        let pair = KeyPair::generate().map_err(|error| unmakeable(&error))?;
        let params = wanted.params(self.days).map_err(|error| unmakeable(&error))?;
        let made = params.signed_by(&pair, authority).map_err(|error| unmakeable(&error))?;
        write(&key, &pair.serialize_pem(), 0o600, self.force)?;
        write(&certificate, &made.pem(), 0o644, true)?;
        let names = wanted.names.join(", ");
        note(&format!("{} and its key: {names}; valid for {} days", certificate.display(), self.days));
        Ok(())
    }
}

/// A certificate that there should be.
struct Wanted {
    /// The name of its files, without their ends.
    file: String,
    names: Vec<String>,
    uses: Vec<ExtendedKeyUsagePurpose>,
}

impl Wanted {
    fn params(&self, days: u32) -> Result<CertificateParams, rcgen::Error> {
        let mut params = CertificateParams::new(self.names.clone())?;
        let called = self.names.first().map_or(self.file.as_str(), String::as_str);
        params.distinguished_name = named(called);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = self.uses.clone();
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, days);
        Ok(params)
    }
}

fn named(name: &str) -> rcgen::DistinguishedName {
    let mut named = rcgen::DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

fn set_validity(params: &mut CertificateParams, days: u32) {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(since_epoch.as_secs());
    params.not_before = now - DAY * CLOCK_SLACK_DAYS;
    params.not_after = now + DAY * days;
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(AUTHORITY_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, AUTHORITY_DAYS);
    params
}

/// The authority in `out`, made where there is none.
fn authority(out: &Path) -> Result<Issuer<'static, KeyPair>, Failure> {
    let (certificate, key) = (out.join("authority.pem"), out.join("authority.key"));
    let is_there = |path: &Path| path.try_exists().map_err(|error| failed(path, &error));
    let params = authority_params();
    match (is_there(&certificate)?, is_there(&key)?) {
        (true, true) => {
            let text = fs::read_to_string(&key).map_err(|error| failed(&key, &error))?;
            let pair = KeyPair::from_pem(&text)
                .map_err(|error| Failure::Failed(format!("{} holds no usable key: {error}", key.display())))?;
            note(&format!("{} is there already and stays as it is", certificate.display()));
            Ok(Issuer::new(params, pair))
        }
        (false, false) => {
            let pair = KeyPair::generate().map_err(|error| unmakeable(&error))?;
            let made = params.self_signed(&pair).map_err(|error| unmakeable(&error))?;
            write(&key, &pair.serialize_pem(), 0o600, false)?;
            write(&certificate, &made.pem(), 0o644, false)?;
            note(&format!("{} and its key: an authority, valid for {AUTHORITY_DAYS} days", certificate.display()));
            Ok(Issuer::new(params, pair))
        }
        (true, false) => Err(lonely(&certificate, &key)),
        (false, true) => Err(lonely(&key, &certificate)),
    }
}

fn lonely(there: &Path, missing: &Path) -> Failure {
    Failure::Failed(format!("{} is there without {}; choose another --out", there.display(), missing.display()))
}

/// What clients may call the gateways: the hosts that they are told to go to, and those that gateways answer to.
fn gateway_names(config: &Config) -> Vec<String> {
    let host = |url: &str| {
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let without_port = match rest.strip_prefix('[') {
            Some(inner) => inner.split_once(']').map_or(inner, |(host, _)| host),
            None => rest.rsplit_once(':').map_or(rest, |(host, _)| host),
        };
        without_port.to_owned()
    };
    let advertised = config.nodes.iter().map(|node| host(&node.advertise));
    let listening = config.nodes.iter().map(|node| node.gateway.host.clone());
    let further = config.gateway.hosts.iter().cloned();
    let local = ["localhost", "127.0.0.1"].map(str::to_owned);
    let all: BTreeSet<String> = advertised.chain(listening).chain(further).chain(local).collect();
    all.into_iter().collect()
}

/// What cluster.toml needs: for streams over QUIC, and for gateways over HTTPS. Each can be had without the other.
fn settings(config: &Config) -> String {
    let (stream, security) = (&config.stream, &config.security);
    let lines = |files: [(&str, &Option<PathBuf>); 3]| -> String {
        let line = |(key, path): (&str, &Option<PathBuf>)| {
            let path = toml::Value::String(path.as_ref()?.display().to_string());
            Some(format!("{key} = {path}\n"))
        };
        files.into_iter().filter_map(line).collect()
    };
    let nodes = [("certificate", &stream.certificate), ("key", &stream.key), ("authority", &stream.authority)];
    let gateways =
        [("tls_cert", &security.tls_cert), ("tls_key", &security.tls_key), ("tls_authority", &security.tls_authority)];
    format!("[stream]\ntransport = \"quic\"\n{}\n[security]\n{}", lines(nodes), lines(gateways))
}

/// A folder that others have no business in.
fn make_folder(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o755);
    builder.create(path)
}

/// Writes a file that appears whole or not at all. One that is there is replaced only where that `may_replace`.
fn write(path: &Path, text: &str, mode: u32, may_replace: bool) -> Result<(), Failure> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".new-{}", std::process::id()));
    let draft = PathBuf::from(draft);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let written =
        options.open(&draft).and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    // A link never replaces a file, as renaming does.
    let placed =
        written.and_then(|()| if may_replace { fs::rename(&draft, path) } else { fs::hard_link(&draft, path) });
    let _ = fs::remove_file(&draft);
    placed.map_err(|error| failed(path, &error))
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::Failed(format!("cannot make {}: {error}", path.display()))
}

fn unmakeable(error: &rcgen::Error) -> Failure {
    Failure::Failed(format!("cannot make a certificate: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of one test, gone at the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("jumpgate-cert-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).expect("a folder");
            let ports = |nth: u16| crate::config::Ports { pulse: 8500 + nth, stream: 9500 + nth, gateway: 7400 + nth };
            let mut config = Config::loopback("store", &[ports(1), ports(2)]);
            config.nodes[1].id = "Node.2".to_owned();
            config.nodes[1].advertise = "https://two.example.org:7402".to_owned();
            config.gateway.hosts = vec!["store.example.org".to_owned()];
            let scratch = Self(folder);
            fs::write(scratch.file("cluster.toml"), config.to_toml()).expect("a file");
            scratch
        }

        fn file(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        fn run(&self, force: bool) -> Result<(), Failure> {
            Cert { config: self.file("cluster.toml"), out: self.file("out"), days: 30, force }.run()
        }

        fn text(&self, name: &str) -> String {
            fs::read_to_string(self.file("out").join(name)).expect(name)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const KEYS: [&str; 4] = ["authority.key", "node-n1.key", "node-Node.2.key", "gateway.key"];

    #[test]
    fn nodes_would_start_with_what_is_made_and_keys_are_private() {
        // That each node would start is what `run` itself makes sure of.
        let scratch = Scratch::new("made");
        scratch.run(false).expect("all is made");
        for name in KEYS {
            assert!(scratch.text(name).contains("PRIVATE KEY"), "{name}");
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt as _;
                let mode = fs::metadata(scratch.file("out").join(name)).expect(name).permissions().mode();
                assert_eq!(mode & 0o777, 0o600, "{name}");
            }
        }
        let left = fs::read_dir(scratch.file("out")).expect("a folder").count();
        assert_eq!(left, 2 * KEYS.len(), "drafts were left behind");
    }

    #[test]
    fn a_key_is_replaced_only_by_force_and_the_authority_never() {
        let scratch = Scratch::new("force");
        scratch.run(false).expect("all is made");
        let keys = |scratch: &Scratch| KEYS.map(|name| scratch.text(name));
        let first = keys(&scratch);
        scratch.run(false).expect("nothing is to be done");
        assert_eq!(keys(&scratch), first);
        scratch.run(true).expect("all is made again");
        let second = keys(&scratch);
        assert_eq!(second[0], first[0], "the authority");
        assert!((1..KEYS.len()).all(|nth| second[nth] != first[nth]), "a key was kept");
        // A certificate of which the key is gone is made again with it.
        fs::remove_file(scratch.file("out/node-n1.key")).expect("it was there");
        scratch.run(false).expect("one is made");
        assert_ne!(scratch.text("node-n1.key"), second[1]);
        // An authority of which half is gone isn't replaced behind anybody's back.
        fs::remove_file(scratch.file("out/authority.key")).expect("it was there");
        let error = scratch.run(true).expect_err("half of it is gone");
        assert!(matches!(&error, Failure::Failed(words) if words.contains("without")), "{error:?}");
    }

    #[test]
    fn what_was_there_and_is_no_good_is_named() {
        let scratch = Scratch::new("stale");
        scratch.run(false).expect("all is made");
        fs::rename(scratch.file("out/node-n1.pem"), scratch.file("out/node-Node.2.pem")).expect("both are there");
        fs::rename(scratch.file("out/node-n1.key"), scratch.file("out/node-Node.2.key")).expect("both are there");
        let error = scratch.run(false).expect_err("the second has the name of the first");
        let Failure::Failed(words) = error else { panic!("{error:?}") };
        assert!(words.contains("[stream] certificate: ") && words.contains("--force"), "{words}");
        scratch.run(true).expect("all is made again");
    }

    #[test]
    fn gateways_are_called_what_clients_call_them() {
        let scratch = Scratch::new("names");
        let config = serve::read(&scratch.file("cluster.toml")).expect("a configuration");
        assert_eq!(gateway_names(&config), ["127.0.0.1", "localhost", "store.example.org", "two.example.org"]);
    }

    #[test]
    fn the_settings_are_ones_that_serve_reads() {
        let scratch = Scratch::new("settings");
        let mut config = serve::read(&scratch.file("cluster.toml")).expect("a configuration");
        config.stream.certificate = Some(PathBuf::from("/a \"quoted\" folder/node-{node}.pem"));
        config.stream.key = Some(PathBuf::from("/keys/node-{node}.key"));
        config.stream.authority = Some(PathBuf::from("/authority.pem"));
        config.stream.transport = Transport::Quic;
        config.security.tls_cert = Some(PathBuf::from("/gateway.pem"));
        config.security.tls_key = Some(PathBuf::from("/gateway.key"));
        config.security.tls_authority = Some(PathBuf::from("/authority.pem"));
        let before = config.to_toml();
        let (start, rest) = before.split_once("[stream]").expect("it has the table");
        let (_, end) = rest.split_once("[limits]").expect("it has the table");
        let (end, nodes) = end.split_once("[security]").expect("it has the table");
        let (_, nodes) = nodes.split_once("[[node]]").expect("it has nodes");
        let made = settings(&config);
        let (stream, security) = made.split_once("[security]").expect("it has both tables");
        let text = format!("{start}{stream}[limits]{end}[security]{security}[[node]]{nodes}");
        let (read, _) = Config::parse("cluster.toml", &text, std::iter::empty()).expect("a configuration");
        assert_eq!(read, config);
    }
}
