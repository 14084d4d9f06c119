//! `jumpgate export`: all values as lines of JSON, in the order of their keys.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{BinaryBytes, ProgressBar};

use super::output::{Output, note};
use super::{Failure, Target};
use crate::api::RESERVED;
use crate::api::json::{ItemJson, RecordJson};

/// Keys asked for at once, with their values: a page of ordinary values stays a small message.
const PAGE_ITEMS: u32 = 500;
/// How often the spinner turns.
const TICK: Duration = Duration::from_millis(100);

/// The arguments of `export`.
#[derive(Debug, Args)]
#[command(after_help = "\
Each line is one value: {\"key\":…,\"value\":… in base64,\"content_type\":…,\"ttl_ms\":…}, the last two where it has them.
Lines are in the order of the keys' bytes, so that two exports of the same values are the same bytes; only ttl_ms, the time
that an expiring value still had, differs. Without a prefix the chunks of files are among them. Values that change during
an export are in it as they were before or after.

Examples:
  jumpgate export --output store.ndjson
  jumpgate export --prefix users/ | gzip > users.ndjson.gz
  jumpgate export --url http://old:7501 | jumpgate import --url http://new:7501")]
pub struct Export {
    /// Only keys that begin with this
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    pub prefix: String,
    /// Write to a file instead of stdout; it appears when it is whole
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The cluster.
    #[command(flatten)]
    pub target: Target,
}

impl Export {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let started = Instant::now();
        let mut sink = Sink::open(self.output.as_deref())?;
        let bar = spinner(matches!(sink, Sink::Stdout(_)));
        let (mut keys, mut bytes) = (0_u64, 0_u64);
        // Listings leave out what files are made of, which an export of everything has to have. It sorts behind all else.
        let prefixes = [Some(self.prefix.as_str()), self.prefix.is_empty().then_some(RESERVED)];
        for prefix in prefixes.into_iter().flatten() {
            let mut pages = self.target.client()?.pages(prefix, PAGE_ITEMS, true);
            while let Some(items) = pages.next().await? {
                for item in items {
                    keys += 1;
                    bytes += item.size;
                    sink.line(&record_line(item)?)?;
                }
                let rate = keys as f64 / started.elapsed().as_secs_f64().max(0.001);
                bar.set_message(format!("{keys} keys, {}, {rate:.0} keys/s", BinaryBytes(bytes)));
            }
        }
        bar.finish_and_clear();
        sink.finish()?;
        note(&format!("exported {keys} keys ({}) in {:.2?}", BinaryBytes(bytes), started.elapsed()));
        Ok(())
    }
}

/// A progress line on stderr; none where the records themselves go to a terminal, or stderr is no terminal.
fn spinner(to_stdout: bool) -> ProgressBar {
    if to_stdout && io::stdout().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(TICK);
    bar
}

/// One line of the export, without its line break.
fn record_line(item: ItemJson) -> Result<String, Failure> {
    let Some(value) = item.value else {
        return Err(Failure::Failed(format!("the gateway listed {} without its value", item.key)));
    };
    let record = RecordJson {
        key: item.key,
        value,
        content_type: item.content_type,
        // Zero would be refused by an import; the value is there still, so it has a moment left.
        ttl_ms: item.expires_in_ms.map(|milliseconds| milliseconds.max(1)),
    };
    Ok(serde_json::to_string(&record).expect("a record has a JSON form"))
}

/// Where the records go.
enum Sink {
    Stdout(Output),
    /// A file that gets its name when it is whole, so that a failed export doesn't look like a small one.
    File {
        writer: BufWriter<File>,
        /// Where it is written.
        written: PathBuf,
        /// Its name in the end.
        wanted: PathBuf,
    },
}

impl Sink {
    fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else { return Ok(Self::Stdout(Output::new())) };
        let mut written = path.to_owned();
        // A device or a pipe is written to, never replaced.
        if std::fs::metadata(path).map_or(true, |metadata| metadata.is_file()) {
            written.as_mut_os_string().push(".partial");
        }
        let file = File::create(&written).map_err(|error| cannot_write(&written, &error))?;
        Ok(Self::File { writer: BufWriter::new(file), written, wanted: path.to_owned() })
    }

    fn line(&mut self, line: &str) -> Result<(), Failure> {
        match self {
            Self::Stdout(output) => output.line(line),
            Self::File { writer, written, .. } => {
                writeln!(writer, "{line}").map_err(|error| cannot_write(written, &error))
            }
        }
    }

    fn finish(self) -> Result<(), Failure> {
        match self {
            Self::Stdout(mut output) => output.flush(),
            Self::File { mut writer, written, wanted } => {
                writer.flush().map_err(|error| cannot_write(&written, &error))?;
                if written != wanted {
                    std::fs::rename(&written, &wanted).map_err(|error| cannot_write(&wanted, &error))?;
                }
                Ok(())
            }
        }
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::Failed(format!("cannot write {}: {error}", path.display()))
}
