//! `jumpgate secret`: a new secret for a cluster's nodes.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;

use super::Failure;
use super::output::note;

/// How many random bytes a secret is made of.
const SECRET_BYTES: usize = 32;

/// The arguments of `secret`.
#[derive(Debug, Args)]
#[command(after_help = "\
The file is made with mode 600. One that is there already is left as it is, which is no failure: so it can be the first
step of every start. The file appears whole or not at all.

Examples:
  jumpgate secret /run/jumpgate/secret")]
pub struct Secret {
    /// The file to make
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

impl Secret {
    /// Makes the file unless it is there.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn run(self) -> Result<(), Failure> {
        let path = self.file.display();
        match make(&self.file) {
            Ok(true) => note(&format!("{path} holds a new secret")),
            Ok(false) => note(&format!("{path} is there already and stays as it is")),
            Err(error) => return Err(Failure::Failed(format!("cannot make {path}: {error}"))),
        }
        Ok(())
    }
}

/// Whether it was made.
fn make(path: &Path) -> io::Result<bool> {
    if path.try_exists()? {
        return Ok(false);
    }
    let bytes: [u8; SECRET_BYTES] = rand::random();
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).chain(["\n".to_owned()]).collect();
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".new-{}", std::process::id()));
    let draft = PathBuf::from(draft);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written =
        options.open(&draft).and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    // A link never replaces a file that somebody else has made meanwhile, as renaming would.
    let linked = written.and_then(|()| fs::hard_link(&draft, path));
    let _ = fs::remove_file(&draft);
    match linked {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.exists() => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn a_secret_is_private_and_is_never_replaced() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = std::env::temp_dir().join(format!("jumpgate-secret-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let file = folder.join("secret");
        assert!(make(&file).expect("made"));
        let first = fs::read(&file).expect("readable");
        assert_eq!(first.len(), 2 * SECRET_BYTES + 1);
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        assert!(!make(&file).expect("left alone"));
        assert_eq!(fs::read(&file).expect("readable"), first);
        assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 1, "a draft was left behind");
        fs::remove_dir_all(&folder).expect("removed");
        assert!(make(&file).is_err(), "no such folder");
    }
}
