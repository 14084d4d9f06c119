//! The secret file: read at the start, and again every second, so that a secret can be replaced while the cluster runs.
//!
//! At the start everything that is wrong with the file ends the start. Later it is only said: the node goes on with the
//! secrets that it has, since one without any would be open to everybody, and one that stops would be missed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::ServerError;
use super::files::{self, Complaint, FileError, Privacy, Twice};
use crate::codec::{Keyring, KeyringError};
use crate::net::Counters;
use crate::runtime::ControlInput;

/// How often the file is read. What it says counts once it was read twice the same, so that a file that is just being
/// written isn't believed; a secret that was removed is dead within two of these times and a little.
const READ_EVERY: Duration = Duration::from_secs(1);
/// Why a secret file can't be used.
#[derive(Debug, thiserror::Error)]
enum SecretError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Keyring(#[from] KeyringError),
}

/// The secrets in the file at `path`; none where no file is set.
///
/// # Errors
/// Where the file can't be used, saying why and which setting names it.
pub(super) fn load(path: Option<&Path>) -> Result<Keyring, ServerError> {
    let Some(path) = path else { return Ok(Keyring::default()) };
    let read = || Ok(Keyring::parse(&files::load(path, Privacy::Secret)?)?);
    let keyring = read().map_err(|error: SecretError| {
        ServerError::Refused(format!("[security] secret_file: {} can't be used: {error}", path.display()))
    })?;
    info!("nodes prove to each other that they hold a secret; {} valid", keyring.len());
    Ok(keyring)
}

/// Who is told when other secrets are valid.
pub(super) struct Watcher {
    /// The file.
    pub path: PathBuf,
    /// The stream plane, and what is valid now.
    pub streams: watch::Sender<Arc<Keyring>>,
    /// The pulse plane.
    pub pulse: mpsc::Sender<ControlInput>,
    /// Where to count.
    pub counters: Arc<Counters>,
}

impl Watcher {
    /// Reads the file again and again until `shutdown`.
    pub(super) async fn run(self, shutdown: CancellationToken) {
        let (mut twice, mut complaint) = (Twice::new(), Complaint::default());
        while shutdown.run_until_cancelled(tokio::time::sleep(READ_EVERY)).await.is_some() {
            match read(&self.path).await {
                Ok(found) => {
                    complaint.settle();
                    if found == **self.streams.borrow() {
                        twice.forget();
                    } else if let Some(keyring) = twice.confirm(found) {
                        self.take_over(keyring).await;
                    }
                }
                Err(error) => {
                    twice.forget();
                    let words = error.to_string();
                    if complaint.is_new(&words) {
                        let path = self.path.display();
                        warn!(
                            "[security] secret_file: {path} can't be used: {words}; the secrets that it held stay valid"
                        );
                    }
                }
            }
        }
    }

    async fn take_over(&self, keyring: Keyring) {
        info!("the secrets have changed; {} valid", keyring.len());
        let keyring = Arc::new(keyring);
        // The pulse first: it is heard by all, while connections are dialed again one by one. It only fails when the node
        // is stopping.
        let _ = self.pulse.send(ControlInput::Keyring(Arc::clone(&keyring))).await;
        self.streams.send_replace(keyring);
        self.counters.secrets_changed.add(1);
    }
}

async fn read(path: &Path) -> Result<Keyring, SecretError> {
    Ok(Keyring::parse(&files::read(path, Privacy::Secret).await?)?)
}

#[cfg(test)]
mod tests {
    use super::super::files::FILE_BYTES_MAX;
    use super::*;

    /// A file of this test alone, removed with it.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str, text: &str) -> Self {
            let path = std::env::temp_dir().join(format!("jumpgate-{name}-{}", std::process::id()));
            std::fs::write(&path, text).expect("the temporary folder takes files");
            let file = Self(path);
            file.set_mode(0o600);
            file
        }
    }

    #[cfg(unix)]
    impl Scratch {
        fn set_mode(&self, mode: u32) {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(&self.0, std::fs::Permissions::from_mode(mode)).expect("it is ours");
        }
    }

    #[cfg(not(unix))]
    impl Scratch {
        fn set_mode(&self, _mode: u32) {}
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_with_its_setting_and_the_reason() {
        let refused = |path: &Path| {
            let error = load(Some(path)).expect_err("it can't be used");
            assert!(error.is_usage());
            let words = error.to_string();
            let start = format!("[security] secret_file: {} can't be used: ", path.display());
            words.strip_prefix(&start).expect(&words).to_owned()
        };
        assert!(refused(Path::new("/nowhere/secret")).starts_with("No such file or directory"));
        assert_eq!(refused(&std::env::temp_dir()), "it is not a file");
        let empty = Scratch::new("empty", "# to be filled in\n");
        assert!(refused(&empty.0).starts_with("it holds no secret; write one a line"));
        let short = Scratch::new("short", "\nhunter2\n");
        assert!(refused(&short.0).starts_with("line 2 holds a secret of 7 bytes; at least 16 are needed"));
        let large = Scratch::new("large", &"#".repeat(FILE_BYTES_MAX as usize + 1));
        assert_eq!(refused(&large.0), "it is larger than 65536 bytes");
    }

    #[test]
    fn a_good_file_gives_its_secrets_and_none_gives_none() {
        let good = Scratch::new("good", "correct horse battery staple\nand the one before it\n");
        assert_eq!(load(Some(&good.0)).expect("it is good").len(), 2);
        assert!(load(None).expect("nothing is read").is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_may_read_or_replace_is_refused_and_the_mode_is_named() {
        let file = Scratch::new("mode", "correct horse battery staple");
        let mut refusal = |mode| {
            file.set_mode(mode);
            load(Some(&file.0)).map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!([0o600, 0o400, 0o640, 0o440].map(&mut refusal), [(); 4].map(|()| Ok(())));
        for mode in [0o644, 0o604, 0o602, 0o660, 0o666] {
            let words = refusal(mode).expect_err("others may read or replace it");
            assert!(words.contains(&format!("its mode is {mode:03o}")) && words.contains("make it 600"), "{words}");
        }
    }
}
