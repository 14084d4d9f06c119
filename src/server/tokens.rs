//! The tokens file: read at the start, and again four times a second, so that a token that was removed is dead within a
//! second, on open connections too.
//!
//! At the start everything that is wrong with the file ends the start. Later it is only said: the node goes on with the
//! tokens that it has, since one without any would be open to everybody, or closed to everybody.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::ServerError;
use super::files::{self, Complaint, FileError, Privacy, Twice};
use crate::access::{Access, TokensError};
use crate::gateway::Guard;

/// How often the file is read. What it says counts once it was read twice the same, so that a file that is just being
/// written isn't believed: twice this time and a little is what a removed token lives.
const READ_EVERY: Duration = Duration::from_millis(250);

/// Why a tokens file can't be used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Tokens(#[from] TokensError),
}

/// The tokens in the file at `path`; open access where no file is set.
///
/// # Errors
/// Where the file can't be used, saying why and which setting names it.
pub(super) fn load(path: Option<&Path>) -> Result<Access, ServerError> {
    let Some(path) = path else { return Ok(Access::open()) };
    // It holds hashes of what nobody can guess, so reading it gives nothing away; who writes it makes tokens.
    let read = || Ok(Access::parse(&files::load(path, Privacy::Public)?)?);
    let access = read().map_err(|error: Unusable| {
        ServerError::Refused(format!("[security] tokens_file: {} can't be used: {error}", path.display()))
    })?;
    tell(&access);
    Ok(access)
}

fn tell(access: &Access) {
    match access.tokens() {
        0 => warn!("clients need a token, and the tokens file holds none: nobody can do anything"),
        tokens => info!("clients need a token; {tokens} valid"),
    }
}

/// Keeps the tokens in force as the file has them.
pub(super) struct Watcher {
    /// The file.
    pub path: PathBuf,
    /// Who goes by them.
    pub guard: Arc<Guard>,
}

impl Watcher {
    /// Reads the file again and again until `shutdown`.
    pub(super) async fn run(self, shutdown: CancellationToken) {
        let (mut twice, mut complaint) = (Twice::new(), Complaint::default());
        while shutdown.run_until_cancelled(tokio::time::sleep(READ_EVERY)).await.is_some() {
            match read(&self.path).await {
                Ok(found) => {
                    complaint.settle();
                    if found == *self.guard.access() {
                        twice.forget();
                    } else if let Some(access) = twice.confirm(found) {
                        tell(&access);
                        self.guard.replace(access);
                    }
                }
                Err(error) => {
                    twice.forget();
                    let words = error.to_string();
                    if complaint.is_new(&words) {
                        let path = self.path.display();
                        warn!(
                            "[security] tokens_file: {path} can't be used: {words}; the tokens that it held stay valid"
                        );
                    }
                }
            }
        }
    }
}

async fn read(path: &Path) -> Result<Access, Unusable> {
    Ok(Access::parse(&files::read(path, Privacy::Public).await?)?)
}
