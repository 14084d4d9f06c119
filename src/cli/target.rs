//! The options that all client commands share: which cluster, and how patiently.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::Failure;
use crate::client::{Client, Credentials};

/// Where `jumpgate dev` puts the gateways of its first three nodes.
const DEFAULT_URLS: [&str; 3] = ["http://127.0.0.1:7401", "http://127.0.0.1:7402", "http://127.0.0.1:7403"];

/// Where a token may come from, where no option says.
const TOKEN: &str = "JUMPGATE_TOKEN";
const TOKEN_FILE: &str = "JUMPGATE_TOKEN_FILE";

/// Which cluster is meant, and who asks.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// A gateway of the cluster; several, separated by commas, are tried in turn
    #[arg(
        long = "url",
        value_name = "URL",
        env = "JUMPGATE_URL",
        value_delimiter = ',',
        default_values = DEFAULT_URLS,
        help_heading = "Cluster"
    )]
    pub urls: Vec<String>,
    /// The certificate of the authority of gateways at https://
    #[arg(long, value_name = "FILE", env = "JUMPGATE_CACERT", help_heading = "Cluster")]
    pub cacert: Option<PathBuf>,
    /// The token to show; others on this machine see it in the list of processes, so rather --token-file [env: JUMPGATE_TOKEN]
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file", help_heading = "Cluster")]
    pub token: Option<Secret>,
    /// A file that holds the token [env: JUMPGATE_TOKEN_FILE]
    #[arg(long, value_name = "FILE", help_heading = "Cluster")]
    pub token_file: Option<PathBuf>,
    /// How long to try before giving up
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration, help_heading = "Cluster")]
    pub timeout: Duration,
}

impl Target {
    /// What the client shows, and whom it believes.
    pub(super) fn credentials(&self) -> Result<Credentials, Failure> {
        let is_set = |path: &&PathBuf| !path.as_os_str().is_empty();
        let authority = self.cacert.as_ref().filter(is_set).map(|path| read(path, "--cacert")).transpose()?;
        Ok(Credentials { token: self.token()?, authority })
    }

    /// An option counts more than the environment. A variable that is set to nothing means the same as none.
    fn token(&self) -> Result<Option<String>, Failure> {
        let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        if let Some(Secret(token)) = &self.token {
            return Ok(Some(token.clone()));
        }
        if let Some(path) = &self.token_file {
            return token_in(path, "--token-file").map(Some);
        }
        if let Some(token) = variable(TOKEN) {
            let token = token.into_string().map_err(|_| Failure::Usage(format!("{TOKEN} is not text")))?;
            return Ok(Some(token.trim().to_owned()));
        }
        variable(TOKEN_FILE).map(|path| token_in(Path::new(&path), TOKEN_FILE)).transpose()
    }

    /// A client of that cluster.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        let mut urls: Vec<String> = self.urls.iter().filter(|url| !url.trim().is_empty()).cloned().collect();
        if urls.is_empty() {
            // A variable that is set to nothing, as compose files do, means the same as none.
            urls = DEFAULT_URLS.map(str::to_owned).to_vec();
        }
        self.client_of(urls)
    }

    /// A client of these gateways, with the same credentials.
    pub(super) fn client_of(&self, urls: Vec<String>) -> Result<Client, Failure> {
        Ok(Client::with_credentials(urls, &self.credentials()?)?.with_timeout(self.timeout))
    }
}

/// What isn't printed.
#[derive(Clone)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl std::str::FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.trim().to_owned()))
    }
}

fn read(path: &Path, option: &str) -> Result<Vec<u8>, Failure> {
    fs::read(path)
        .map_err(|error| Failure::Usage(format!("cannot read {}, which {option} names: {error}", path.display())))
}

/// The token in a file: its first word, so that the end of the line doesn't matter.
fn token_in(path: &Path, option: &str) -> Result<String, Failure> {
    let text = String::from_utf8_lossy(&read(path, option)?).into_owned();
    let token = text.split_whitespace().next();
    token.map(str::to_owned).ok_or_else(|| Failure::Usage(format!("{} holds no token", path.display())))
}

/// A positive time as people write it.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("it must be more than nothing".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; write it like 250ms, 30s or 2h")),
    }
}
