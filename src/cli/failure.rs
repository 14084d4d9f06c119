//! How a command fails: the line on stderr and the exit code.

use std::io;
use std::process::ExitCode;

use super::output::{note, one_line};
use crate::client::ClientError;

/// Why a command did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It failed (exit code 1).
    Failed(String),
    /// It was asked for something that makes no sense, or its configuration is wrong (exit code 2).
    Usage(String),
    /// There is no such key (exit code 3).
    NotFound(String),
    /// Whoever read stdout had enough, as `head` does: nothing is said, and that is no failure (exit code 0).
    StdoutClosed,
}

impl Failure {
    /// Says it on stderr, and gives the exit code.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        let (message, code) = match self {
            Self::Failed(message) => (message, 1),
            Self::Usage(message) => (message, 2),
            Self::NotFound(message) => (message, 3),
            Self::StdoutClosed => return ExitCode::SUCCESS,
        };
        note(&one_line(message));
        ExitCode::from(code)
    }

    /// What a failed write to stdout means.
    pub(super) fn of_stdout(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::StdoutClosed,
            _ => Self::Failed(format!("cannot write to stdout: {error}")),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        if error.is_not_found() {
            Self::NotFound(message)
        } else if error.is_usage() {
            Self::Usage(message)
        } else if error.is_unreachable() {
            Self::Failed(format!("{message}; is the cluster running there? --url or JUMPGATE_URL says where it is"))
        } else {
            Self::Failed(message)
        }
    }
}
