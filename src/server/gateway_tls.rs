//! The certificate that clients are shown: read at the start, and again every second, so that it can be renewed while the
//! node runs.
//!
//! At the start everything that is wrong with it ends the start. Later it is only said: the node goes on with the one that it
//! has, and clients judge whether that is still good.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::ServerError;
use super::files::{self, Complaint, FileError, Privacy, Twice};
use crate::base::Slot;
use crate::config::{Config, GatewayFiles};
use crate::gateway::{Tls, TlsFile, TlsIdentity, TlsPems};
use crate::net::Counters;

/// How often the files are read. What they say counts once it was read twice the same, so that files of which only some
/// are written yet aren't believed.
const READ_EVERY: Duration = Duration::from_secs(1);
/// How long before a certificate ends that is said.
const WARN_BEFORE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What the gateway shows clients, where it speaks TLS; starts what keeps it up to date.
pub(super) fn start(
    config: &Config,
    slot: Slot,
    counters: &Arc<Counters>,
    shutdown: &CancellationToken,
    tasks: &TaskTracker,
) -> Result<Option<Arc<Tls>>, ServerError> {
    let Some(source) = Source::of(config, slot) else { return Ok(None) };
    let tls = Arc::new(Tls::new(source.load()?));
    let watcher = Watcher { source, tls: Arc::clone(&tls), counters: Arc::clone(counters) };
    tasks.spawn(watcher.run(shutdown.clone()));
    Ok(Some(tls))
}

/// Where a gateway's files are.
pub(super) struct Source(GatewayFiles);

impl Source {
    /// Those of the node in `slot`; none where its gateway speaks no TLS.
    pub(super) fn of(config: &Config, slot: Slot) -> Option<Self> {
        config.gateway_files(slot).map(Self)
    }

    /// What the files hold now.
    ///
    /// # Errors
    /// Where one can't be used, saying which setting names it, why, and what to do.
    pub(super) fn load(&self) -> Result<TlsIdentity, ServerError> {
        let load = |file: TlsFile, path: &Path| {
            files::load(path, privacy(file)).map_err(|error| self.unreadable(file, &error))
        };
        let authority = self.0.authority.as_deref().map(|path| load(TlsFile::Authority, path)).transpose()?;
        let pems = TlsPems {
            certificate: load(TlsFile::Certificate, &self.0.certificate)?,
            key: load(TlsFile::Key, &self.0.key)?,
            authority,
        };
        self.parse(pems)
    }

    async fn read(&self) -> Result<TlsPems, ServerError> {
        let read = async |file: TlsFile, path: &Path| {
            files::read(path, privacy(file)).await.map_err(|error| self.unreadable(file, &error))
        };
        let authority = match &self.0.authority {
            Some(path) => Some(read(TlsFile::Authority, path).await?),
            None => None,
        };
        Ok(TlsPems {
            certificate: read(TlsFile::Certificate, &self.0.certificate).await?,
            key: read(TlsFile::Key, &self.0.key).await?,
            authority,
        })
    }

    fn parse(&self, pems: TlsPems) -> Result<TlsIdentity, ServerError> {
        TlsIdentity::parse(pems, SystemTime::now()).map_err(|error| self.refusal(error.file, &error.problem))
    }

    fn unreadable(&self, file: TlsFile, error: &FileError) -> ServerError {
        self.refusal(file, &error.to_string())
    }

    fn refusal(&self, file: TlsFile, why: &str) -> ServerError {
        let (setting, path) = match file {
            TlsFile::Certificate => ("tls_cert", Some(&self.0.certificate)),
            TlsFile::Key => ("tls_key", Some(&self.0.key)),
            TlsFile::Authority => ("tls_authority", self.0.authority.as_ref()),
        };
        let path = path.map_or_else(String::new, |path| path.display().to_string());
        ServerError::Refused(format!("[security] {setting}: {path} can't be used: {why}"))
    }
}

const fn privacy(file: TlsFile) -> Privacy {
    match file {
        TlsFile::Key => Privacy::Secret,
        TlsFile::Certificate | TlsFile::Authority => Privacy::Public,
    }
}

/// Keeps the certificate in force as the files have it.
pub(super) struct Watcher {
    /// Where they are.
    pub source: Source,
    /// Who shows it.
    pub tls: Arc<Tls>,
    /// Where to count.
    pub counters: Arc<Counters>,
}

impl Watcher {
    /// Reads the files again and again until `shutdown`.
    pub(super) async fn run(self, shutdown: CancellationToken) {
        let (mut twice, mut complaint, mut ending) = (Twice::new(), Complaint::default(), Complaint::default());
        while shutdown.run_until_cancelled(tokio::time::sleep(READ_EVERY)).await.is_some() {
            match self.look(&mut twice).await {
                Ok(()) => complaint.settle(),
                Err(error) => {
                    let words = error.to_string();
                    if complaint.is_new(&words) {
                        warn!("{words}; what this node has read before stays in force");
                    }
                }
            }
            self.warn_of_the_end(&mut ending);
        }
    }

    /// Reads the files once.
    async fn look(&self, twice: &mut Twice<TlsPems>) -> Result<(), ServerError> {
        let found = self.source.read().await.inspect_err(|_| twice.forget())?;
        if self.tls.identity().is_of(&found) {
            twice.forget();
            return Ok(());
        }
        // Half of them may be new: nothing is wrong until that has lasted.
        let Some(pems) = twice.confirm(found.clone()) else { return Ok(()) };
        let identity = self.source.parse(pems).inspect_err(|_| {
            // So that the next look complains again, or finds them mended.
            twice.confirm(found);
        })?;
        info!("the certificate that clients are shown has changed");
        self.tls.replace(identity);
        self.counters.certificates_changed.add(1);
        Ok(())
    }

    fn warn_of_the_end(&self, ending: &mut Complaint) {
        let (identity, now) = (self.tls.identity(), SystemTime::now());
        let path = self.source.0.certificate.display();
        let words = if identity.expires_within(now, Duration::ZERO) {
            format!("[security] tls_cert: {path} has expired: clients refuse this gateway until there is a new one")
        } else if identity.expires_within(now, WARN_BEFORE) {
            format!("[security] tls_cert: {path} expires within a week; put a new one in its place")
        } else {
            return ending.settle();
        };
        if ending.is_new(&words) {
            warn!("{words}");
        }
    }
}
