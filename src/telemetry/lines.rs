//! Lines for people, on their way out: nobody who has something to say waits for who reads it.
//!
//! A terminal that was stopped, a pipe that nobody empties, a disk that is busy: any of them makes whoever writes to it wait,
//! and a thread of the pulse that waits is a node that is declared dead. So lines are queued, a thread of each stream writes them, and
//! what doesn't fit the queue is dropped and counted.

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

/// Lines that wait at most, for each stream; a few hundred bytes each.
const LINES_WAITING_MAX: usize = 4096;

/// What has counted the lines that were dropped, for each stream.
static DROPPED: Mutex<Vec<ErrorCounter>> = Mutex::new(Vec::new());

/// The way to a stream. A clone leads to the same one.
#[derive(Clone, Debug)]
pub struct Lines(pub(super) NonBlocking);

/// Lets what waits be written, when it is dropped: for a second at most, if nobody reads it.
#[must_use]
#[derive(Debug)]
pub struct Flush(#[allow(dead_code, reason = "it acts when it is dropped")] WorkerGuard);

impl Lines {
    /// The way to `stream`, which a thread of its own writes to.
    pub fn to(stream: impl Write + Send + 'static) -> (Self, Flush) {
        let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES_WAITING_MAX);
        let (queue, guard) = builder.thread_name("lines").finish(stream);
        dropped().push(queue.error_counter());
        (Self(queue), Flush(guard))
    }

    /// The way to the output stream.
    pub fn to_stdout() -> (Self, Flush) {
        Self::to(io::stdout())
    }

    /// Writes `text`, which is one line or more; whoever closed the stream doesn't want to read it.
    pub fn print(&self, text: &str) {
        let _ = self.0.clone().write_all(text.as_bytes());
    }
}

/// Lines of this process that were dropped because nobody read them.
#[must_use]
pub fn lines_dropped() -> u64 {
    dropped().iter().map(|counter| counter.dropped_lines() as u64).sum()
}

fn dropped() -> MutexGuard<'static, Vec<ErrorCounter>> {
    DROPPED.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A stream that writes nothing before it is told to, and then shows what it has.
    struct Stuck {
        go: mpsc::Receiver<()>,
        shown: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.go.recv();
            let _ = self.shown.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_prints_waits_for_nobody_and_what_nobody_reads_is_counted() {
        let (go, stop) = mpsc::channel();
        let (shown, lines) = mpsc::channel();
        let (out, flush) = Lines::to(Stuck { go: stop, shown });
        let before = lines_dropped();
        let count = LINES_WAITING_MAX + 100;
        (0..count).for_each(|number| out.print(&format!("{number}\n")));
        // One is being written at most.
        let dropped = lines_dropped() - before;
        assert!((99..=100).contains(&dropped), "{dropped} were dropped");
        drop(go);
        let written: Vec<Vec<u8>> = lines.iter().take(count - dropped as usize).collect();
        assert_eq!((written[0].as_slice(), written[1].as_slice()), (&b"0\n"[..], &b"1\n"[..]));
        drop(flush);
    }
}
