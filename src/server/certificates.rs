//! The certificates that nodes prove themselves with on streams over QUIC: read at the start, and again every second, so
//! that they can be renewed while the cluster runs.
//!
//! At the start everything that is wrong with them ends the start. Later it is only said: the node goes on with those that
//! it has, and peers judge whether these are still good.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::ServerError;
use super::files::{self, Complaint, FileError, Privacy, Twice};
use crate::base::Slot;
use crate::config::{CertificateFiles, Config};
use crate::net::Counters;
use crate::net::quic::{Identity, IdentityError, IdentityFile, Pems};

/// How often the files are read. What they say counts once it was read twice the same, so that files of which only some
/// are written yet aren't believed.
const READ_EVERY: Duration = Duration::from_secs(1);
/// How long before a certificate ends that is said.
const WARN_BEFORE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Why a node's files make no identity.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("{0}")]
    File(FileError),
    #[error("{0}")]
    Identity(IdentityError),
}

/// What is needed to read a node's certificate.
pub(super) struct Source {
    files: CertificateFiles,
    names: Vec<String>,
    me: Slot,
}

impl Source {
    /// Where the node in `slot` finds its certificate; none where the configuration names no files.
    pub(super) fn of(config: &Config, slot: Slot) -> Option<Self> {
        Some(Self { files: config.certificate_files(slot)?, names: config.certificate_names(), me: slot })
    }

    /// What the files hold now.
    ///
    /// # Errors
    /// Where one can't be used, saying which setting names it, why, and what to do.
    pub(super) fn load(&self) -> Result<Identity, ServerError> {
        let load = |file: IdentityFile| {
            files::load(self.path(file), privacy(file)).map_err(|error| self.refusal(file, Unusable::File(error)))
        };
        let pems = Pems {
            certificate: load(IdentityFile::Certificate)?,
            key: load(IdentityFile::Key)?,
            authority: load(IdentityFile::Authority)?,
        };
        let identity = self.parse(pems).map_err(|error| self.refusal(error.file, Unusable::Identity(error)))?;
        info!("nodes prove who they are with certificates; this one is {}", self.names[self.me.index()]);
        Ok(identity)
    }

    fn parse(&self, pems: Pems) -> Result<Identity, IdentityError> {
        Identity::parse(pems, &self.names, self.me, SystemTime::now())
    }

    async fn read(&self) -> Result<Pems, ServerError> {
        let read = async |file: IdentityFile| {
            let read = files::read(self.path(file), privacy(file)).await;
            read.map_err(|error| self.refusal(file, Unusable::File(error)))
        };
        Ok(Pems {
            certificate: read(IdentityFile::Certificate).await?,
            key: read(IdentityFile::Key).await?,
            authority: read(IdentityFile::Authority).await?,
        })
    }

    fn path(&self, file: IdentityFile) -> &Path {
        match file {
            IdentityFile::Certificate => &self.files.certificate,
            IdentityFile::Key => &self.files.key,
            IdentityFile::Authority => &self.files.authority,
        }
    }

    fn refusal(&self, file: IdentityFile, why: Unusable) -> ServerError {
        let setting = match file {
            IdentityFile::Certificate => "certificate",
            IdentityFile::Key => "key",
            IdentityFile::Authority => "authority",
        };
        let path = self.path(file).display();
        ServerError::Refused(format!("[stream] {setting}: {path} can't be used: {why}"))
    }
}

const fn privacy(file: IdentityFile) -> Privacy {
    match file {
        IdentityFile::Key => Privacy::Secret,
        IdentityFile::Certificate | IdentityFile::Authority => Privacy::Public,
    }
}

/// Who is told of other certificates.
pub(super) struct Watcher {
    /// Where they are.
    pub source: Source,
    /// The stream plane, and what is in force now.
    pub streams: watch::Sender<Arc<Identity>>,
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
    async fn look(&self, twice: &mut Twice<Pems>) -> Result<(), ServerError> {
        let found = self.source.read().await.inspect_err(|_| twice.forget())?;
        if self.streams.borrow().is_of(&found) {
            twice.forget();
            return Ok(());
        }
        // Half of them may be new: nothing is wrong until that has lasted.
        let Some(pems) = twice.confirm(found.clone()) else { return Ok(()) };
        let parsed = self.source.parse(pems);
        let identity = parsed.map_err(|error| {
            // So that the next look complains again, or finds them mended.
            twice.confirm(found);
            self.source.refusal(error.file, Unusable::Identity(error))
        })?;
        info!("the certificate, its key or its authority has changed");
        self.streams.send_replace(Arc::new(identity));
        self.counters.certificates_changed.add(1);
        Ok(())
    }

    fn warn_of_the_end(&self, ending: &mut Complaint) {
        let (identity, now) = (Arc::clone(&self.streams.borrow()), SystemTime::now());
        let path = self.source.path(IdentityFile::Certificate).display();
        let words = if identity.expires_within(now, Duration::ZERO) {
            format!("[stream] certificate: {path} has expired: peers refuse this node until there is a new one")
        } else if identity.expires_within(now, WARN_BEFORE) {
            format!("[stream] certificate: {path} expires within a week; put a new one in its place")
        } else {
            return ending.settle();
        };
        if ending.is_new(&words) {
            warn!("{words}");
        }
    }
}
