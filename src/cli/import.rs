//! `jumpgate import`: stores the records of an export.
//!
//! A thread reads lines and hands them over in chunks. The command parses them, gathers the records of different keys into
//! batches, and keeps a bounded number of requests on their way, bounded in bytes too. A record that a batch has no room for
//! goes alone. A batch is sent when it is full, when its next record's key is in it already, or when no more lines are there
//! and a request may be begun; so a slow source waits for nothing, and a fast one makes large batches.
//!
//! ```text
//! lines ─▶ record ─┬─ its key is on its way, or there is no room ─▶ waits for an answer
//!                  ├─ larger than a batch ─▶ PUT
//!                  └─▶ gathered ─▶ POST /v1/batch ─┬─ each has its own outcome
//!                                                  └─ refused as a whole: nothing was done ─▶ each of them by PUT
//! ```
//!
//! A line whose key is on its way waits for it, so that of two lines with the same key the later one wins. The client tries
//! again what is unknown; each write is executed once.
//!
//! At the first error no further request is begun, those on their way are waited for, and the count of what is stored is
//! exact but for writes whose outcome is unknown, which count as failed. (A line that can't be read is such an error only
//! once those before it are on their way.) With `--continue-on-error` only the end of the input or the loss of the whole
//! cluster ends it.

mod lines;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use futures_util::{StreamExt as _, stream};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::output::{Output, note, one_line};
use super::{Failure, Target};
use crate::api::batch::{BatchOpJson, BatchResultJson};
use crate::api::json::{RecordJson, from_base64};
use crate::api::{ContentType, Key};
use crate::base::limits;
use crate::client::{BatchOptions, Client, ClientError, PutOptions};
use lines::{Line, Source};

/// Records of one batch, in bytes of JSON: what every gateway takes, less the frame around them.
const BATCH_BYTES_MAX: usize = limits::BATCH_BYTES_MIN - 1024;
/// What an operation's JSON has beside its key, value and content type, at most: names, quotes, a number, an idempotency key.
const OP_BYTES: usize = 192;
/// Values on their way together, in bytes: enough to keep any network busy, little enough for any machine.
const IN_FLIGHT_BYTES_MAX: usize = 64 << 20;
/// Of a batch that was refused as a whole, so many records are put side by side.
const PUTS_AT_ONCE: usize = 16;
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
    /// How many requests are on their way at once, each with up to 1000 values
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=4096))]
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
        let source = Source::open(self.file)?;
        let mut importer = Importer {
            client,
            name: source.name.clone(),
            concurrency: usize::from(self.concurrency),
            continue_on_error: self.continue_on_error,
            started: Instant::now(),
            bar: progress_bar(source.bytes_total),
            gathered: Gathered::default(),
            in_flight: JoinSet::new(),
            keys_in_flight: BTreeSet::new(),
            bytes_in_flight: 0,
            stored: 0,
            failed: 0,
            stopped: false,
        };
        importer.store_all(&mut source.read()).await;
        importer.finish()
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

/// A record that can be put.
#[derive(Clone)]
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

impl Record {
    /// Bytes that it takes in the body of a batch, at most: JSON writes a byte of a key as up to six.
    fn batch_bytes(&self) -> usize {
        let content_type = self.options.content_type.as_ref().map_or(0, |kind| kind.as_str().len());
        self.value.len().div_ceil(3) * 4 + self.key.as_bytes().len() * 6 + content_type * 6 + OP_BYTES
    }

    fn to_op(&self) -> BatchOpJson {
        let mut op = BatchOpJson::put(&self.key, &self.value);
        if let Some(content_type) = &self.options.content_type {
            op = op.content_type(content_type);
        }
        if let Some(ttl) = self.options.ttl {
            op = op.ttl(ttl);
        }
        op
    }

    async fn put(self, client: &Client) -> Result<(), NotStored> {
        client.put(&self.key, self.value, &self.options).await.map(|_| ()).map_err(|error| NotStored::of(&error))
    }
}

/// Records of different keys that are to be sent together, each with its line.
#[derive(Default)]
struct Gathered {
    records: Vec<(u64, Record)>,
    keys: BTreeSet<Key>,
    batch_bytes: usize,
}

impl Gathered {
    fn has_room_for(&self, record: &Record) -> bool {
        self.records.len() < limits::BATCH_OPS_MAX
            && self.batch_bytes + record.batch_bytes() <= BATCH_BYTES_MAX
            && !self.keys.contains(&record.key)
    }

    fn add(&mut self, number: u64, record: Record) {
        self.batch_bytes += record.batch_bytes();
        self.keys.insert(record.key.clone());
        self.records.push((number, record));
    }
}

/// Why a record is not known to be stored.
struct NotStored {
    reason: String,
    /// Nobody is there any more.
    is_unreachable: bool,
}

impl NotStored {
    fn of(error: &ClientError) -> Self {
        Self { reason: error.to_string(), is_unreachable: error.is_unreachable() }
    }

    fn of_result(result: BatchResultJson) -> Self {
        let detail = result.detail.unwrap_or_else(|| "it was not stored".to_owned());
        Self { reason: format!("{detail} (HTTP {})", result.status), is_unreachable: false }
    }
}

/// Stores records of different keys: what became of each.
async fn store(client: &Client, records: Vec<Record>) -> Vec<Result<(), NotStored>> {
    if records.len() > 1 {
        let ops: Vec<BatchOpJson> = records.iter().map(Record::to_op).collect();
        match client.batch(&ops, &BatchOptions::default()).await {
            Ok(results) => {
                let judge =
                    |result: BatchResultJson| if result.is_done() { Ok(()) } else { Err(NotStored::of_result(result)) };
                return results.into_iter().map(judge).collect();
            }
            // One of them can't be stored, or the gateway knows no batches: nothing was done, and each is told for itself.
            Err(ClientError::Refused { problem, .. }) if (400..500).contains(&problem.status) => {}
            Err(error) => return records.iter().map(|_| Err(NotStored::of(&error))).collect(),
        }
    }
    stream::iter(records).map(|record| record.put(client)).buffered(PUTS_AT_ONCE).collect().await
}

/// The end of one request.
struct Done {
    /// The line and the key of each record, and what became of it.
    records: Vec<(u64, Key, Result<(), NotStored>)>,
    value_bytes: usize,
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
    gathered: Gathered,
    in_flight: JoinSet<Done>,
    keys_in_flight: BTreeSet<Key>,
    bytes_in_flight: usize,
    stored: u64,
    failed: u64,
    /// No further request is begun.
    stopped: bool,
}

impl Importer {
    async fn store_all(&mut self, chunks: &mut mpsc::Receiver<Vec<Line>>) {
        while !self.stopped
            && let Some(chunk) = self.next_chunk(chunks).await
        {
            for line in chunk {
                if self.stopped {
                    break;
                }
                let bytes = line.bytes;
                self.take(line).await;
                self.bar.inc(bytes);
            }
        }
        self.send_gathered().await;
        while self.wait_for_one().await {}
    }

    /// The next lines. What is gathered doesn't wait for them: it is sent as soon as there is a request to spare.
    async fn next_chunk(&mut self, chunks: &mut mpsc::Receiver<Vec<Line>>) -> Option<Vec<Line>> {
        while !self.gathered.records.is_empty() {
            if let Ok(chunk) = chunks.try_recv() {
                return Some(chunk);
            }
            if self.in_flight.len() < self.concurrency {
                self.send_gathered().await;
                continue;
            }
            tokio::select! {
                chunk = chunks.recv() => return chunk,
                done = self.in_flight.join_next() => self.note_done(done),
            }
        }
        chunks.recv().await
    }

    async fn take(&mut self, line: Line) {
        match line.content.and_then(|content| parse(&content)) {
            Ok(None) => {}
            Ok(Some(record)) if record.batch_bytes() > BATCH_BYTES_MAX => {
                if self.gathered.keys.contains(&record.key) {
                    self.send_gathered().await;
                }
                self.send(vec![(line.number, record)]).await;
            }
            Ok(Some(record)) => {
                if !self.gathered.has_room_for(&record) {
                    self.send_gathered().await;
                }
                self.gathered.add(line.number, record);
            }
            Err(reason) => {
                // What comes before it in the source is stored, whatever comes of it.
                self.send_gathered().await;
                self.fail(line.number, &reason);
            }
        }
    }

    async fn send_gathered(&mut self) {
        let gathered = std::mem::take(&mut self.gathered);
        if !gathered.records.is_empty() {
            self.send(gathered.records).await;
        }
    }

    /// Sends these in one request, once there is room for it and none of their keys is on its way; unless the import has
    /// stopped by then.
    async fn send(&mut self, records: Vec<(u64, Record)>) {
        let value_bytes = records.iter().map(|(_, record)| record.value.len()).sum();
        while self.in_flight.len() >= self.concurrency
            || self.bytes_in_flight + value_bytes > IN_FLIGHT_BYTES_MAX
            || records.iter().any(|(_, record)| self.keys_in_flight.contains(&record.key))
        {
            if !self.wait_for_one().await {
                break;
            }
        }
        if self.stopped {
            return;
        }
        self.keys_in_flight.extend(records.iter().map(|(_, record)| record.key.clone()));
        self.bytes_in_flight += value_bytes;
        let client = self.client.clone();
        self.in_flight.spawn(async move {
            let names: Vec<(u64, Key)> = records.iter().map(|(number, record)| (*number, record.key.clone())).collect();
            let results = store(&client, records.into_iter().map(|(_, record)| record).collect()).await;
            let records = names.into_iter().zip(results).map(|((number, key), result)| (number, key, result));
            Done { records: records.collect(), value_bytes }
        });
    }

    /// Waits until one request has ended; false where none is on its way.
    async fn wait_for_one(&mut self) -> bool {
        let done = self.in_flight.join_next().await;
        let is_one = done.is_some();
        self.note_done(done);
        is_one
    }

    fn note_done(&mut self, done: Option<Result<Done, tokio::task::JoinError>>) {
        let Some(done) = done else { return };
        let Done { records, value_bytes } = done.expect("storing doesn't panic");
        self.bytes_in_flight -= value_bytes;
        // Those that one answer refuses together are one message.
        let mut alike: Option<(u64, usize, NotStored)> = None;
        for (number, key, result) in records {
            self.keys_in_flight.remove(&key);
            match (result, &mut alike) {
                (Ok(()), _) => self.stored += 1,
                (Err(error), Some((_, more, known))) if error.reason == known.reason => *more += 1,
                (Err(error), _) => {
                    let known = alike.replace((number, 0, error));
                    self.note_failed(known);
                }
            }
        }
        self.note_failed(alike);
        let rate = self.stored as f64 / self.started.elapsed().as_secs_f64().max(0.001);
        self.bar.set_message(format!("{} keys, {rate:.0} keys/s", self.stored));
    }

    /// Reports lines of one batch that failed alike: the first of them, and how many more.
    fn note_failed(&mut self, alike: Option<(u64, usize, NotStored)>) {
        let Some((number, more, NotStored { reason, is_unreachable })) = alike else { return };
        // Where nobody is there any more, all that follows would fail the same way, slowly.
        self.stopped |= is_unreachable;
        self.failed += more as u64;
        match more {
            0 => self.fail(number, &reason),
            1 => self.fail(number, &format!("{reason}; one more line of its batch failed so")),
            _ => self.fail(number, &format!("{reason}; {more} more lines of its batch failed so")),
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
}
