//! `jumpgate import`: stores the records of an export.
//!
//! A thread reads lines and hands them over through a short queue. The command parses them and keeps a bounded number of
//! puts in flight, bounded in bytes too. A line whose key is in flight waits for it, so that of two lines with the same
//! key the later one wins. The client tries a put again whose outcome is unknown; each is executed once.
//!
//! At the first error no further line is begun, those in flight are waited for, and the count of what is stored is
//! exact but for puts whose outcome is unknown, which count as failed. With `--continue-on-error` only the end of the
//! input or the loss of the whole cluster ends it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::output::{Output, note, one_line};
use super::{Failure, Target};
use crate::api::json::{RecordJson, from_base64};
use crate::api::{ContentType, Key};
use crate::base::limits;
use crate::client::{Client, ClientError, PutOptions};

/// The longest line: the largest value in base64, its key written in escapes, and the rest.
const LINE_BYTES_MAX: usize = 24 << 20;
const _: () = assert!(limits::VALUE_BYTES_MAX / 3 * 4 + limits::KEY_BYTES_MAX * 6 + 4096 < LINE_BYTES_MAX);
/// Lines that are read ahead; a full queue makes the reader wait.
const LINES_AHEAD: usize = 8;
/// Values in flight together, in bytes: enough to keep any network busy, little enough for any machine.
const IN_FLIGHT_BYTES_MAX: usize = 64 << 20;
/// Bytes of a file that are read at once.
const READ_AHEAD_BYTES: usize = 1 << 20;
/// How often the progress bar is drawn anew.
const TICK: Duration = Duration::from_millis(100);

/// The arguments of `import`.
#[derive(Debug, Args)]
#[command(after_help = "\
Each line is {\"key\":…,\"value\":… in base64} and may have \"content_type\" and \"ttl_ms\", which is counted from now. Existing
values are replaced; a later line wins over an earlier one with the same key. An import that stopped can simply be run again.

Examples:
  jumpgate import store.ndjson
  zcat store.ndjson.gz | jumpgate import
  jumpgate import store.ndjson --continue-on-error      report bad lines and go on")]
pub struct Import {
    /// The file to read; stdin without
    pub file: Option<PathBuf>,
    /// How many values are on their way at once
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub concurrency: u16,
    /// Report lines that fail and go on with the next
    #[arg(long)]
    pub continue_on_error: bool,
    /// The cluster.
    #[command(flatten)]
    pub target: Target,
}

impl Import {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let client = self.target.client()?;
        let Source { reader, name, bytes_total } = Source::open(self.file)?;
        let (sender, mut lines) = mpsc::channel(LINES_AHEAD);
        // Never joined: it may be waiting for a terminal's next line when the import has stopped already.
        std::thread::spawn(move || read_lines(reader, &sender));
        let mut importer = Importer {
            client,
            name,
            concurrency: usize::from(self.concurrency),
            continue_on_error: self.continue_on_error,
            started: Instant::now(),
            bar: progress_bar(bytes_total),
            in_flight: JoinSet::new(),
            keys_in_flight: BTreeSet::new(),
            bytes_in_flight: 0,
            stored: 0,
            failed: 0,
            stopped: false,
        };
        importer.store_all(&mut lines).await;
        importer.finish()
    }
}

/// What is imported.
struct Source {
    reader: Box<dyn BufRead + Send>,
    /// For messages.
    name: String,
    /// Its size where that is known.
    bytes_total: Option<u64>,
}

impl Source {
    fn open(path: Option<PathBuf>) -> Result<Self, Failure> {
        let Some(path) = path.filter(|path| path.as_os_str() != "-") else {
            let reader = Box::new(BufReader::new(io::stdin()));
            return Ok(Self { reader, name: "stdin".to_owned(), bytes_total: None });
        };
        let name = path.display().to_string();
        let cannot = |error: io::Error| Failure::Failed(format!("cannot read {name}: {error}"));
        let file = File::open(&path).map_err(cannot)?;
        let metadata = file.metadata().map_err(cannot)?;
        if metadata.is_dir() {
            return Err(Failure::Failed(format!("cannot read {name}: it is a directory")));
        }
        let bytes_total = metadata.is_file().then_some(metadata.len());
        Ok(Self { reader: Box::new(BufReader::with_capacity(READ_AHEAD_BYTES, file)), name, bytes_total })
    }
}

fn progress_bar(bytes_total: Option<u64>) -> ProgressBar {
    let (bar, template) = match bytes_total {
        Some(bytes) => (ProgressBar::new(bytes), "{bar:30} {bytes} of {total_bytes}, {msg}, {eta} left"),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes}, {msg}"),
    };
    bar.set_style(ProgressStyle::with_template(template).expect("the template is a constant"));
    bar.enable_steady_tick(TICK);
    bar
}

/// One line of the source.
struct Line {
    /// Counted from 1.
    number: u64,
    /// What is in it; an error where it is too long or can't be read.
    content: Result<Vec<u8>, String>,
    /// How many bytes of the source it took.
    bytes: u64,
}

/// Reads the source to its end, or until nobody wants to know any more.
fn read_lines(mut source: Box<dyn BufRead + Send>, lines: &mpsc::Sender<Line>) {
    for number in 1.. {
        let mut content = Vec::new();
        let result = source.by_ref().take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut content);
        let (line, last) = match result {
            Ok(0) => return,
            Ok(bytes) if bytes == LINE_BYTES_MAX && content.last() != Some(&b'\n') => {
                let skipped = skip_line(&mut source);
                let reason = format!("the line is longer than any record ({LINE_BYTES_MAX} bytes)");
                let bytes = bytes as u64 + skipped.as_ref().copied().unwrap_or(0);
                (Line { number, content: Err(reason), bytes }, skipped.is_err())
            }
            Ok(bytes) => (Line { number, content: Ok(content), bytes: bytes as u64 }, false),
            Err(error) => (Line { number, content: Err(format!("cannot be read: {error}")), bytes: 0 }, true),
        };
        if lines.blocking_send(line).is_err() || last {
            return;
        }
    }
}

/// Skips the rest of a line without keeping it; gives the bytes that were skipped.
fn skip_line(source: &mut impl BufRead) -> io::Result<u64> {
    let mut skipped = 0;
    loop {
        let buffer = source.fill_buf()?;
        let end = buffer.iter().position(|&byte| byte == b'\n');
        let count = end.map_or(buffer.len(), |end| end + 1);
        source.consume(count);
        skipped += count as u64;
        if end.is_some() || count == 0 {
            return Ok(skipped);
        }
    }
}

/// A record that can be put.
pub(super) struct Record {
    key: Key,
    value: Bytes,
    options: PutOptions,
}

/// The record of a line; none where the line is blank.
pub(super) fn parse(line: &[u8]) -> Result<Option<Record>, String> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let record: RecordJson = serde_json::from_slice(line).map_err(|error| {
        // The library counts lines itself and would always say 1.
        let (message, column) = (error.to_string(), error.column());
        let message = message.split(" at line ").next().unwrap_or_default();
        format!("not a record: {message} (column {column})")
    })?;
    let key = Key::new(record.key).map_err(|error| error.to_string())?;
    let value = from_base64(&record.value).map_err(|reason| format!("the value of {key} is {reason}"))?;
    let content_type = match record.content_type {
        Some(text) => Some(ContentType::new(&text).ok_or_else(|| format!("{text:?} is not a content type"))?),
        None => None,
    };
    if record.ttl_ms == Some(0) {
        return Err(format!("ttl_ms of {key} is 0; it is at least 1"));
    }
    let options = PutOptions { content_type, ttl: record.ttl_ms.map(Duration::from_millis), ..PutOptions::default() };
    Ok(Some(Record { key, value: value.into(), options }))
}

/// The end of one put.
struct Done {
    number: u64,
    key: Key,
    value_bytes: usize,
    result: Result<(), ClientError>,
}

/// An import under way.
///
/// `keys_in_flight` and `bytes_in_flight` are the keys and the sum of the values of `in_flight`.
struct Importer {
    client: Client,
    /// The source's.
    name: String,
    concurrency: usize,
    continue_on_error: bool,
    started: Instant,
    bar: ProgressBar,
    in_flight: JoinSet<Done>,
    keys_in_flight: BTreeSet<Key>,
    bytes_in_flight: usize,
    stored: u64,
    failed: u64,
    /// No further put is begun.
    stopped: bool,
}

impl Importer {
    async fn store_all(&mut self, lines: &mut mpsc::Receiver<Line>) {
        while !self.stopped
            && let Some(line) = lines.recv().await
        {
            match line.content.and_then(|content| parse(&content)) {
                Ok(None) => {}
                Ok(Some(record)) => {
                    self.make_room(&record).await;
                    if !self.stopped {
                        self.start(line.number, record);
                    }
                }
                Err(reason) => self.fail(line.number, &reason),
            }
            self.bar.inc(line.bytes);
        }
        while let Some(done) = self.in_flight.join_next().await {
            self.note_done(done.expect("a put doesn't panic"));
        }
    }

    /// Waits until `record` may be begun.
    async fn make_room(&mut self, record: &Record) {
        while self.in_flight.len() >= self.concurrency
            || self.bytes_in_flight + record.value.len() > IN_FLIGHT_BYTES_MAX
            || self.keys_in_flight.contains(&record.key)
        {
            match self.in_flight.join_next().await {
                Some(done) => self.note_done(done.expect("a put doesn't panic")),
                None => return,
            }
        }
    }

    fn start(&mut self, number: u64, record: Record) {
        let Record { key, value, options } = record;
        self.keys_in_flight.insert(key.clone());
        self.bytes_in_flight += value.len();
        let client = self.client.clone();
        self.in_flight.spawn(async move {
            let value_bytes = value.len();
            let result = client.put(&key, value, &options).await.map(|_| ());
            Done { number, key, value_bytes, result }
        });
    }

    fn note_done(&mut self, done: Done) {
        self.keys_in_flight.remove(&done.key);
        self.bytes_in_flight -= done.value_bytes;
        match done.result {
            Ok(()) => {
                self.stored += 1;
                // Composing the message for each key would cost as much as sending a small one.
                if self.stored.is_multiple_of(256) {
                    let rate = self.stored as f64 / self.started.elapsed().as_secs_f64().max(0.001);
                    self.bar.set_message(format!("{} keys, {rate:.0} keys/s", self.stored));
                }
            }
            Err(error) => {
                // Where nobody is there any more, all that follows would fail the same way, slowly.
                self.stopped |= error.is_unreachable();
                self.fail(done.number, &error.to_string());
            }
        }
    }

    /// Reports a line that was not stored.
    fn fail(&mut self, number: u64, reason: &str) {
        self.failed += 1;
        self.stopped |= !self.continue_on_error;
        let message = one_line(&format!("{}:{number}: {reason}", self.name));
        self.bar.suspend(|| note(&message));
    }

    fn finish(self) -> Result<(), Failure> {
        self.bar.finish_and_clear();
        let mut output = Output::new();
        output.line(format!("imported {} keys in {:.2?}", self.stored, self.started.elapsed()))?;
        output.flush()?;
        let lines = if self.failed == 1 { "1 line".to_owned() } else { format!("{} lines", self.failed) };
        match (self.failed, self.stopped) {
            (0, _) => Ok(()),
            (_, false) => Err(Failure::Failed(format!("{lines} of {} failed", self.name))),
            (_, true) if self.continue_on_error => Err(Failure::Failed(format!(
                "the import stopped: the cluster is gone ({lines} of {} failed)",
                self.name
            ))),
            (_, true) => Err(Failure::Failed(format!(
                "the import stopped after {} stored keys ({lines} of {} failed); --continue-on-error goes past bad lines",
                self.stored, self.name
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(line: &str) -> String {
        parse(line.as_bytes()).map(|_| ()).expect_err(line)
    }

    #[test]
    fn a_bad_line_is_told_what_is_wrong_with_it() {
        assert_eq!(reason("{\"key\":\"a\"}"), "not a record: missing field `value` (column 11)");
        assert!(reason("{\"key\":\"a\",\"value\":\"?\"}").starts_with("the value of a is not base64"));
        assert!(reason("{\"key\":\"\",\"value\":\"\"}").contains("the key is empty"));
        assert!(reason("{\"key\":\"a\",\"value\":\"\",\"ttl\":3}").contains("unknown field `ttl`"));
        assert!(reason("{\"key\":\"a\",\"value\":\"\",\"ttl_ms\":0}").contains("at least 1"));
        assert!(reason("{\"key\":\"a\",\"value\":\"\",\"content_type\":\"\\n\"}").contains("not a content type"));
        assert!(reason("nonsense").starts_with("not a record"));
    }

    #[test]
    fn a_record_keeps_everything_and_a_blank_line_is_none() {
        assert!(parse(b" \r\n").expect("no error").is_none());
        let record = parse(b"{\"key\":\"a/b\",\"value\":\"AP8=\",\"content_type\":\"x/y\",\"ttl_ms\":5}\r\n");
        let record = record.expect("a record").expect("not blank");
        assert_eq!((record.key.as_str(), &record.value[..]), ("a/b", &[0, 255][..]));
        assert_eq!(record.options.content_type, ContentType::new("x/y"));
        assert_eq!(record.options.ttl, Some(Duration::from_millis(5)));
    }

    #[test]
    fn lines_are_numbered_and_one_that_is_too_long_is_skipped_whole() {
        let mut source = b"first\n".to_vec();
        source.extend(std::iter::repeat_n(b'x', LINE_BYTES_MAX + 10));
        source.extend(b"\nlast");
        let (sender, mut lines) = mpsc::channel(8);
        read_lines(Box::new(io::Cursor::new(source)), &sender);
        drop(sender);
        let mut seen = Vec::new();
        while let Ok(line) = lines.try_recv() {
            seen.push((line.number, line.content.map_err(|_| "too long"), line.bytes));
        }
        let long = LINE_BYTES_MAX as u64 + 11;
        assert_eq!(seen, [(1, Ok(b"first\n".to_vec()), 6), (2, Err("too long"), long), (3, Ok(b"last".to_vec()), 4)]);
    }
}
