//! `jumpgate token`: a token for a client, and its line for the tokens file.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;

use super::Failure;
use super::output::{Output, note};
use crate::access::{self, Access, Role};

/// The arguments of `token`.
#[derive(Debug, Args)]
#[command(after_help = "\
The token goes to stdout, once and nowhere else: the tokens file holds its hash. With --file the line is added to that file
(made with mode 600 if it isn't there), and nodes whose [security] tokens_file it is know the token within a second. Without,
the line is printed to stderr, to be added by hand. To take a token back, remove its line on every node.

Roles: read; write, which reads too; admin, which also operates the cluster. --prefix limits a token to keys that begin so.

Examples:
  jumpgate token --name app --role write --file tokens > app.token
  jumpgate token --name dashboard --role read --prefix metrics/ --prefix jobs/
  jumpgate get greeting --token-file app.token")]
pub struct Token {
    /// What the token is called, in the file and in logs
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// What it is for: read, write or admin
    #[arg(long, value_name = "ROLE")]
    pub role: Role,
    /// Limits it to keys that begin so; may be given several times
    #[arg(long = "prefix", value_name = "PREFIX")]
    pub prefixes: Vec<String>,
    /// The tokens file to add its line to
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

impl Token {
    /// Makes a token, and prints it.
    ///
    /// # Errors
    /// Where the arguments make no line, or the file can't be written.
    pub fn run(self) -> Result<(), Failure> {
        let token = access::token_of(rand::random());
        let line = access::line(&self.name, self.role, &self.prefixes, &token).map_err(Failure::Usage)?;
        match &self.file {
            Some(path) => {
                add(path, &line)
                    .map_err(|error| Failure::Failed(format!("cannot add to {}: {error}", path.display())))?;
                note(&format!("{} has a line for {} ({})", path.display(), self.name, self.role));
            }
            None => note(&format!("the line for the tokens file: {line}")),
        }
        let mut output = Output::new();
        output.line(&token)?;
        output.flush()
    }
}

/// Adds a line to a tokens file that is good before and after.
fn add(path: &Path, line: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let start = if text.is_empty() || text.ends_with(b"\n") { "" } else { "\n" };
    let added = format!("{start}{line}\n");
    text.extend_from_slice(added.as_bytes());
    Access::parse(&text).map_err(io::Error::other)?;
    file.seek(SeekFrom::End(0))?;
    // In one write, so that whoever reads meanwhile sees all of the line or nothing.
    file.write_all(added.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_added_to_a_private_file_that_stays_good() {
        let path = std::env::temp_dir().join(format!("jumpgate-tokens-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let token = |seed| access::token_of([seed; 32]);
        let line = |name, seed| access::line(name, Role::Read, &[], &token(seed)).expect("it can be written");
        add(&path, &line("a", 1)).expect("a new file");
        std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(b"# no end"))
            .expect("ours");
        add(&path, &line("b", 2)).expect("another line");
        let access = Access::parse(&std::fs::read(&path).expect("readable")).expect("a good file");
        assert!([1, 2].iter().all(|seed| access.judge(Some(token(*seed).as_bytes())).is_ok()));
        assert!(add(&path, &line("c", 1)).is_err(), "the same token twice");
        std::fs::write(&path, "rubbish\n").expect("ours");
        assert!(add(&path, &line("d", 4)).is_err(), "a file that is none");
        assert_eq!(std::fs::read(&path).expect("readable"), b"rubbish\n");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        }
        std::fs::remove_file(&path).expect("removed");
    }
}
