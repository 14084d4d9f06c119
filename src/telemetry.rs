//! Logging for the parts that touch the outside. Pure modules write no log lines: they return events and counters, and
//! whoever drives them decides what is worth a line.
//!
//! Lines go to the error stream, so that a command's own output stays clean. `RUST_LOG` chooses what is shown, in the
//! notation of `tracing` (`RUST_LOG=jumpgate=debug,hyper=warn`); without it, whoever starts the logging does.
//!
//! Nobody waits for whoever reads them (`lines`).
//!
//! [`metrics`] writes down what adapters and cores have counted; [`traffic`] is what a gateway counts.

mod lines;
pub mod metrics;
pub mod traffic;

use std::io::IsTerminal as _;

use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

pub use lines::{Flush, Lines, lines_dropped};

/// What is left out unless `RUST_LOG` asks for it: the FTP library has a line for each command of each client.
const QUIET: &str = "libunftp=error";

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people: one line of text, in colour where the error stream is a terminal.
    #[default]
    Text,
    /// For machines: one JSON object a line.
    Json,
}

impl LogFormat {
    /// The formats, as people choose them.
    pub const WORDS: [(&str, Self); 2] = [("text", Self::Text), ("json", Self::Json)];
}

impl std::str::FromStr for LogFormat {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let found = Self::WORDS.iter().find(|(known, _)| *known == word);
        found.map(|(_, format)| *format).ok_or_else(|| "allowed are text and json".to_owned())
    }
}

/// Starts logging to the error stream: what `RUST_LOG` asks for, or else what is at least of `level`. When what it gives is dropped,
/// the last lines are written. None where the process logs already (a test that started several nodes, or a program that uses this
/// library and has its own subscriber), which changes nothing.
pub fn start_logging(format: LogFormat, level: Level) -> Option<Flush> {
    let otherwise = || EnvFilter::new(format!("{level},{QUIET}"));
    let (filter, complaint) = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(directives) if !directives.trim().is_empty() => match EnvFilter::try_new(&directives) {
            Ok(filter) => (filter, None),
            Err(error) => (otherwise(), Some(format!("RUST_LOG={directives:?} is ignored: {error}"))),
        },
        _ => (otherwise(), None),
    };
    let (Lines(errors), flush) = Lines::to(std::io::stderr());
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(errors);
    let started = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).finish().try_init().is_ok(),
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init().is_ok(),
    };
    if let Some(complaint) = complaint {
        tracing::warn!("{complaint}");
    }
    started.then_some(flush)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_start_changes_nothing_and_says_so() {
        let _first = start_logging(LogFormat::Text, Level::INFO);
        assert!(start_logging(LogFormat::Json, Level::INFO).is_none(), "logging was started twice");
    }
}
