//! The lines of what is imported, read ahead by a thread of its own.
//!
//! They are handed over in chunks, as many as are there without waiting, so that whoever types lines or pipes them slowly
//! sees each of them stored, and a file is read a thousand lines at a time.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::PathBuf;

use tokio::sync::mpsc;

use crate::base::limits;
use crate::cli::Failure;

/// The longest line: the largest value in base64, its key written in escapes, and the rest.
const LINE_BYTES_MAX: usize = 24 << 20;
const _: () = assert!(limits::VALUE_BYTES_MAX / 3 * 4 + limits::KEY_BYTES_MAX * 6 + 4096 < LINE_BYTES_MAX);
/// Chunks that are read ahead; a full queue makes the reader wait.
const CHUNKS_AHEAD: usize = 2;
/// Bytes of a chunk, but for the last line in it.
const CHUNK_BYTES: u64 = 1 << 20;
/// Bytes of a file that are read at once.
const READ_AHEAD_BYTES: usize = 1 << 20;

type Reader = BufReader<Box<dyn Read + Send>>;

/// What is imported.
pub(super) struct Source {
    reader: Reader,
    /// For messages.
    pub(super) name: String,
    /// Its size where that is known.
    pub(super) bytes_total: Option<u64>,
}

/// One line of the source.
pub(super) struct Line {
    /// Counted from 1.
    pub(super) number: u64,
    /// What is in it; an error where it is too long or can't be read.
    pub(super) content: Result<Vec<u8>, String>,
    /// How many bytes of the source it took.
    pub(super) bytes: u64,
}

impl Source {
    pub(super) fn open(path: Option<PathBuf>) -> Result<Self, Failure> {
        let Some(path) = path.filter(|path| path.as_os_str() != "-") else {
            return Ok(Self::of(Box::new(io::stdin()), "stdin".to_owned(), None));
        };
        let name = path.display().to_string();
        let cannot = |error: io::Error| Failure::Failed(format!("cannot read {name}: {error}"));
        let file = File::open(&path).map_err(cannot)?;
        let metadata = file.metadata().map_err(cannot)?;
        if metadata.is_dir() {
            return Err(Failure::Failed(format!("cannot read {name}: it is a directory")));
        }
        let bytes_total = metadata.is_file().then_some(metadata.len());
        Ok(Self::of(Box::new(file), name, bytes_total))
    }

    fn of(reader: Box<dyn Read + Send>, name: String, bytes_total: Option<u64>) -> Self {
        Self { reader: BufReader::with_capacity(READ_AHEAD_BYTES, reader), name, bytes_total }
    }

    /// Begins to read. The thread is never joined: it may be waiting for a terminal's next line when the import has stopped
    /// already.
    pub(super) fn read(self) -> mpsc::Receiver<Vec<Line>> {
        let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
        std::thread::spawn(move || read_chunks(self.reader, &sender));
        chunks
    }
}

/// Reads the source to its end, or until nobody wants to know any more.
fn read_chunks(mut source: Reader, chunks: &mpsc::Sender<Vec<Line>>) {
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    for number in 1.. {
        // The next line may take a while to come: what is there goes first.
        let must_wait = !source.buffer().contains(&b'\n');
        if !chunk.is_empty() && (must_wait || bytes >= CHUNK_BYTES || chunk.len() >= limits::BATCH_OPS_MAX) {
            if chunks.blocking_send(std::mem::take(&mut chunk)).is_err() {
                return;
            }
            bytes = 0;
        }
        let Some((line, is_last)) = read_line(&mut source, number) else { return };
        bytes += line.bytes;
        chunk.push(line);
        if is_last {
            let _ = chunks.blocking_send(chunk);
            return;
        }
    }
}

/// The next line, and whether nothing can be read after it; none at the end.
fn read_line(source: &mut Reader, number: u64) -> Option<(Line, bool)> {
    let mut content = Vec::new();
    Some(match source.by_ref().take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut content) {
        Ok(0) => return None,
        Ok(bytes) if bytes == LINE_BYTES_MAX && content.last() != Some(&b'\n') => {
            let skipped = skip_line(source);
            let reason = format!("the line is longer than any record ({LINE_BYTES_MAX} bytes)");
            let bytes = bytes as u64 + skipped.as_ref().copied().unwrap_or(0);
            (Line { number, content: Err(reason), bytes }, skipped.is_err())
        }
        Ok(bytes) => (Line { number, content: Ok(content), bytes: bytes as u64 }, false),
        Err(error) => (Line { number, content: Err(format!("cannot be read: {error}")), bytes: 0 }, true),
    })
}

/// Skips the rest of a line without keeping it; gives the bytes that were skipped.
fn skip_line(source: &mut Reader) -> io::Result<u64> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_numbered_and_one_that_is_too_long_is_skipped_whole() {
        let mut source = b"first\n".to_vec();
        source.extend(std::iter::repeat_n(b'x', LINE_BYTES_MAX + 10));
        source.extend(b"\nlast");
        let mut chunks = Source::of(Box::new(io::Cursor::new(source)), String::new(), None).read();
        let mut seen = Vec::new();
        while let Some(chunk) = chunks.blocking_recv() {
            let line = |line: Line| (line.number, line.content.map_err(|_| "too long"), line.bytes);
            seen.extend(chunk.into_iter().map(line));
        }
        let long = LINE_BYTES_MAX as u64 + 11;
        assert_eq!(seen, [(1, Ok(b"first\n".to_vec()), 6), (2, Err("too long"), long), (3, Ok(b"last".to_vec()), 4)]);
    }

    #[test]
    fn a_file_comes_in_chunks_and_what_is_typed_comes_at_once() {
        let many = b"a line\n".repeat(2 * limits::BATCH_OPS_MAX + 1);
        let mut chunks = Source::of(Box::new(io::Cursor::new(many)), String::new(), None).read();
        let sizes: Vec<usize> = std::iter::from_fn(|| Some(chunks.blocking_recv()?.len())).collect();
        assert_eq!(sizes, [limits::BATCH_OPS_MAX, limits::BATCH_OPS_MAX, 1]);
        let (typist, mut typed) = std::io::pipe().expect("a pipe");
        let mut chunks = Source::of(Box::new(typist), String::new(), None).read();
        for text in ["one\n", "two\nthr", "ee\n"] {
            io::Write::write_all(&mut typed, text.as_bytes()).expect("it is open");
            let chunk = chunks.blocking_recv().expect("a chunk before the next line is typed");
            assert_eq!(chunk.len(), 1, "{text}");
        }
        drop(typed);
        assert!(chunks.blocking_recv().is_none());
    }
}
