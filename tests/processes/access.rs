//! HTTPS and tokens from files, as an operator sets them up with the program's own commands: served, asked for, replaced and
//! taken back while three processes run.

use std::path::{Path, PathBuf};
use std::process::Output;

use super::processes::{Cluster, Scratch, program, until};

/// What the commands of one client need.
struct Access {
    urls: Vec<String>,
    cacert: PathBuf,
}

impl Access {
    /// Runs a command of the program with a token's file, or without.
    fn run(&self, urls: &str, token: Option<&Path>, arguments: &[&str]) -> Output {
        let cacert = self.cacert.display().to_string();
        let token = token.map(|path| path.display().to_string());
        let mut all = arguments.to_vec();
        all.extend(["--url", urls, "--cacert", &cacert, "--timeout", "5s"]);
        if let Some(token) = &token {
            all.extend(["--token-file", token]);
        }
        program(&all).output().expect("the program runs")
    }

    fn all(&self) -> String {
        self.urls.join(",")
    }
}

fn run(arguments: &[&str]) -> String {
    let output = program(arguments).output().expect("the program runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Makes a token with its line in `tokens`; gives the file that holds it.
fn token(folder: &Scratch, tokens: &Path, name: &str, role: &str, more: &[&str]) -> PathBuf {
    let tokens = text(tokens);
    let mut arguments = vec!["token", "--name", name, "--role", role, "--file", &tokens];
    arguments.extend(more);
    let path = folder.file(&format!("{name}.token"));
    std::fs::write(&path, run(&arguments)).expect("a file");
    path
}

/// Takes back the tokens called `name`.
fn revoke(tokens: &Path, name: &str) {
    let lines = std::fs::read_to_string(tokens).expect("it is there");
    let left: Vec<&str> = lines.lines().filter(|line| line.split(' ').next() != Some(name)).collect();
    let fresh = tokens.with_extension("new");
    std::fs::write(&fresh, left.join("\n")).and_then(|()| std::fs::rename(&fresh, tokens)).expect("it is ours");
}

#[test]
fn an_operator_sets_up_https_and_tokens_and_takes_a_token_back() {
    let folder = Scratch::new();
    let (any, certificates, tokens) = (folder.file("any.toml"), folder.file("certificates"), folder.file("tokens"));
    std::fs::write(&any, run(&["dev", "--print-config"])).expect("a file");
    let made = run(&["cert", "--config", &text(&any), "--out", &text(&certificates)]);
    assert!(made.contains("[security]\ntls_cert = ") && made.contains("tls_authority = "), "{made}");
    let app = token(&folder, &tokens, "app", "write", &["--prefix", "app/"]);
    let reader = token(&folder, &tokens, "reader", "read", &[]);
    let operator = token(&folder, &tokens, "operator", "admin", &[]);
    let mut cluster = Cluster::prepare(3, |config| {
        config.security.tls_cert = Some(certificates.join("gateway.pem"));
        config.security.tls_key = Some(certificates.join("gateway.key"));
        config.security.tls_authority = Some(certificates.join("authority.pem"));
        config.security.tokens_file = Some(tokens.clone());
        for node in &mut config.nodes {
            node.advertise = node.advertise.replace("http://", "https://");
        }
    });
    let urls: Vec<String> = cluster.config.nodes.iter().map(|node| node.advertise.clone()).collect();
    let access = Access { urls, cacert: certificates.join("authority.pem") };
    (0..3).for_each(|node| cluster.spawn(node));

    let put = |key: &str, token| access.run(&access.all(), token, &["put", key, "value"]);
    until("a write over HTTPS", || put("app/1", Some(&*app)).status.success().then_some(()));
    let got = access.run(&access.urls[2], Some(&reader), &["get", "app/1"]);
    assert_eq!(String::from_utf8_lossy(&got.stdout), "value", "{}", stderr(&got));
    for (what, output) in [
        ("401", put("app/2", None)),
        ("403", put("app/2", Some(&*reader))),
        ("403", put("other/1", Some(&*app))),
        ("403", access.run(&access.all(), Some(&app), &["list"])),
        ("403", access.run(&access.all(), Some(&app), &["transfer", "--yes"])),
        ("https-required", plain(&cluster)),
    ] {
        let words = format!("{}{}", stderr(&output), String::from_utf8_lossy(&output.stdout));
        assert!(words.contains(what), "{what}: {words}");
    }
    // Two of the three have to pass that on to the leader's gateway, whose certificate they judge.
    for url in &access.urls {
        let drain = || access.run(url, Some(&operator), &["node", "drain", "n2", "--dry-run", "--yes"]);
        until(&format!("{url} says what a drain would do"), || drain().status.success().then_some(()));
    }

    revoke(&tokens, "app");
    let refused = until("the token is dead", || {
        let output = put("app/1", Some(&*app));
        (!output.status.success()).then(|| stderr(&output))
    });
    assert!(refused.contains("401"), "{refused}");
    assert!(access.run(&access.all(), Some(&reader), &["get", "app/1"]).status.success());

    run(&["cert", "--config", &text(&any), "--out", &text(&certificates), "--force"]);
    let changed = "the certificate that clients are shown has changed";
    until("the new certificate is shown", || {
        (0..3).all(|node| cluster.process(node).log().contains(changed)).then_some(())
    });
    assert!(access.run(&access.all(), Some(&reader), &["get", "app/1"]).status.success());
    for node in 0..3 {
        let log = cluster.process(node).log();
        assert!(log.contains("(HTTPS): whoever has a token may come in"), "{log}");
        for path in [&app, &reader, &operator] {
            let secret = std::fs::read_to_string(path).expect("it is there");
            assert!(!log.contains(secret.trim()), "a token is in the log of n{}", node + 1);
        }
    }
}

/// The answer to plain HTTP.
fn plain(cluster: &Cluster) -> Output {
    let answer = cluster.http(0).ask("GET /v1/kv/app/1", b"").expect("it answers");
    let mut output = program(&["--version"]).output().expect("the program runs");
    output.stdout = answer.body;
    output
}

#[test]
fn files_that_cannot_be_used_are_named_and_nothing_starts() {
    let folder = Scratch::new();
    let tokens = folder.file("tokens");
    for (content, says) in
        [(None, "No such file"), (Some("app write hunter2-is-my-token\n"), "line 1: its third word is no hash")]
    {
        if let Some(content) = content {
            std::fs::write(&tokens, content).expect("a file");
        }
        let cluster = Cluster::prepare(1, |config| config.security.tokens_file = Some(tokens.clone()));
        let output = cluster.command(0).output().expect("the program runs");
        let words = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{words}");
        assert!(words.contains("[security] tokens_file: ") && words.contains(says), "{words}");
        assert!(!words.contains("hunter2"), "what may be a token was printed: {words}");
    }
    let cluster = Cluster::prepare(1, |config| {
        config.security.tls_cert = Some(tokens.clone());
        config.security.tls_key = Some(tokens.clone());
    });
    let output = cluster.command(0).output().expect("the program runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("[security] tls_"), "{}", stderr(&output));
}
