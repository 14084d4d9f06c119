//! `jumpgate get`, `put` and `delete`.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Read};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;

use super::output::{Output, note, printable};
use super::target::duration;
use super::{Failure, Target};
use crate::api::json::{ItemJson, to_base64};
use crate::api::{Consistency, ContentType, Key, Match, Precondition, PutMode, Value};
use crate::base::{Version, limits};
use crate::client::{ClientError, PutOptions};

/// The arguments of `get`.
#[derive(Debug, Args)]
#[command(after_help = "\
The value comes out byte for byte, without a line break of its own. A key that begins with a dash goes behind `--`.

Examples:
  jumpgate get greeting
  jumpgate get pictures/cat.png --output cat.png
  jumpgate get greeting --json                     with its version, content type and expiry
  jumpgate get lock || echo \"exit code $?\"         3 means: no such key")]
pub struct Get {
    /// The key
    pub key: Key,
    /// Write the value to a file instead of stdout
    #[arg(long, short, value_name = "FILE", conflicts_with = "json")]
    pub output: Option<PathBuf>,
    /// Show the value, in base64, and what is known of it as one line of JSON
    #[arg(long)]
    pub json: bool,
    /// Let any in-sync copy answer, although it may be a little behind
    #[arg(long)]
    pub stale: bool,
    /// The cluster.
    #[command(flatten)]
    pub target: Target,
}

impl Get {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let consistency = if self.stale { Consistency::Stale } else { Consistency::Linearizable };
        let value = self.target.client()?.get(&self.key, consistency).await?;
        let Some(value) = value else {
            return Err(ClientError::NotFound { key: self.key.as_str().to_owned() }.into());
        };
        if value.degraded {
            note("the cluster has no quorum: this is the newest value that the surviving nodes know");
        }
        if let Some(path) = &self.output {
            return std::fs::write(path, &value.bytes[..])
                .map_err(|error| Failure::Failed(format!("cannot write {}: {error}", path.display())));
        }
        let mut output = Output::new();
        if self.json {
            output.line(described(&self.key, &value))?;
        } else {
            output.bytes(&value.bytes)?;
        }
        output.flush()
    }
}

/// A value and what is known of it, in the form that listings have.
fn described(key: &Key, value: &Value) -> String {
    let item = ItemJson {
        key: key.as_str().to_owned(),
        version: value.version.0,
        size: value.bytes.len() as u64,
        content_type: value.content_type.as_ref().map(|content_type| content_type.as_str().to_owned()),
        expires_in_ms: value.expires_in_ms,
        value: Some(to_base64(&value.bytes)),
    };
    serde_json::to_string(&item).expect("a listing's item has a JSON form")
}

/// The arguments of `put`.
#[derive(Debug, Args)]
#[command(after_help = "\
Without VALUE and --file the value is read from stdin. The command ends when every in-sync copy has the value.

Examples:
  jumpgate put greeting hello
  jumpgate put pictures/cat.png --file cat.png --content-type image/png
  date | jumpgate put now
  jumpgate put session/42 token --ttl 30s                gone after half a minute
  jumpgate put lock mine --create                        fails where the key exists
  jumpgate put counter 8 --if-match 116204518401         only if that is still its version")]
pub struct Put {
    /// The key
    pub key: Key,
    /// The value; `-` reads stdin
    #[arg(allow_negative_numbers = true)]
    pub value: Option<OsString>,
    /// Read the value from a file; `-` reads stdin
    #[arg(long, short, value_name = "FILE", conflicts_with = "value")]
    pub file: Option<PathBuf>,
    /// Forget the value after this time, such as 30s or 2h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub ttl: Option<Duration>,
    /// The content type that readers are told
    #[arg(long, value_name = "TYPE", value_parser = content_type)]
    pub content_type: Option<ContentType>,
    /// Only if there is no value yet
    #[arg(long, conflicts_with = "if_match")]
    pub create: bool,
    /// Only if the current value has this version; `*` means any value
    #[arg(long, value_name = "VERSION", value_parser = version_match)]
    pub if_match: Option<Match>,
    /// The cluster.
    #[command(flatten)]
    pub target: Target,
}

impl Put {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let client = self.target.client()?;
        let options = PutOptions {
            content_type: self.content_type,
            ttl: self.ttl,
            mode: if self.create { PutMode::Create } else { PutMode::Upsert },
            precondition: Precondition { if_match: self.if_match, if_none_match: None },
            ..PutOptions::default()
        };
        let value = value_to_put(self.value, self.file)?;
        let written = client.put(&self.key, value, &options).await?;
        let verb = if written.created { "created" } else { "replaced" };
        let copies = match written.copies {
            0 => String::new(),
            1 => ", 1 copy".to_owned(),
            copies => format!(", {copies} copies"),
        };
        let mut output = Output::new();
        output.line(format!("{verb} {}: version {}{copies}", printable(self.key.as_str()), written.version))?;
        output.flush()
    }
}

/// The bytes that the arguments mean.
fn value_to_put(value: Option<OsString>, file: Option<PathBuf>) -> Result<Bytes, Failure> {
    match (value, file) {
        (Some(value), _) if value != "-" => Ok(Bytes::from(value.into_encoded_bytes())),
        (None, Some(path)) if path.as_os_str() != "-" => {
            let name = path.display().to_string();
            let file =
                std::fs::File::open(&path).map_err(|error| Failure::Failed(format!("cannot read {name}: {error}")))?;
            read_value(file, &name)
        }
        (None, None) if io::stdin().is_terminal() => Err(Failure::Usage(
            "no value: give one as an argument, with --file FILE, or on stdin (`-` reads the terminal)".to_owned(),
        )),
        _ => read_value(io::stdin().lock(), "stdin"),
    }
}

/// All bytes of `source`, as long as they could be a value.
fn read_value(source: impl Read, name: &str) -> Result<Bytes, Failure> {
    let mut bytes = Vec::new();
    source
        .take(limits::VALUE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::Failed(format!("cannot read {name}: {error}")))?;
    if bytes.len() > limits::VALUE_BYTES_MAX {
        let most = indicatif::BinaryBytes(limits::VALUE_BYTES_MAX as u64);
        return Err(Failure::Failed(format!("{name} is larger than any value may be ({most})")));
    }
    Ok(Bytes::from(bytes))
}

/// The arguments of `delete`.
#[derive(Debug, Args)]
#[command(after_help = "\
The command ends when the value is gone from every in-sync copy.

Examples:
  jumpgate delete greeting
  jumpgate delete lock --if-match 116204518401      only if that is still its version")]
pub struct Delete {
    /// The key
    pub key: Key,
    /// Only if the current value has this version
    #[arg(long, value_name = "VERSION", value_parser = version_match)]
    pub if_match: Option<Match>,
    /// The cluster.
    #[command(flatten)]
    pub target: Target,
}

impl Delete {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let precondition = Precondition { if_match: self.if_match, if_none_match: None };
        self.target.client()?.delete(&self.key, &precondition).await?;
        let mut output = Output::new();
        output.line(format!("deleted {}", printable(self.key.as_str())))?;
        output.flush()
    }
}

fn content_type(text: &str) -> Result<ContentType, String> {
    ContentType::new(text).ok_or_else(|| "a content type has 1 to 255 visible ASCII characters".to_owned())
}

/// A version as commands show it, or as the ETag that HTTP shows; `*` for any.
fn version_match(text: &str) -> Result<Match, String> {
    if text == "*" {
        return Ok(Match::Any);
    }
    let digits = text.trim_matches('"');
    let version = digits.parse().map_err(|_| "a version is a number, or * for any".to_owned())?;
    Ok(Match::Versions(vec![Version(version)]))
}
