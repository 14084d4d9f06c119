//! The byte stream under the HTTP parser: who is too slow, and what is ambiguous, is stopped here.
//!
//! Three times are kept, each with a timer that is touched only when the socket has nothing to give or take: how long a
//! head may take from its first byte, how long a connection may rest between requests (on a new one: as long as a head),
//! and how long an answer may stay unread. A body's time is kept where it is read (`body`), a viewer's where it is served
//! (`feed`). HTTP/2 keeps its connections alive with pings of its own, so that only the last of the three applies to it.
//!
//! An ambiguous stream (`scan`) is cut at the line that is at fault: the parser gets a NUL byte instead, which is legal
//! nowhere in a head, and the end of a head, without which it would wait for more. It answers 400 by itself, and closes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::listen::Connection;
use super::scan::{Phase, Scanner};

/// What no parser takes for a request.
const ILLEGAL: &[u8] = b"\0\r\n\r\n";

/// A connection's stream.
pub(super) struct Wire<S> {
    stream: S,
    connection: Arc<Connection>,
    scanner: Scanner,
    /// The stream was cut: what the parser still gets of [`ILLEGAL`] before the stream ends.
    cut: Option<&'static [u8]>,
    /// By when the head must be complete, or the next one must begin.
    read_deadline: Option<Instant>,
    read_timer: Timer,
    /// By when the client must have read something.
    write_deadline: Option<Instant>,
    write_timer: Timer,
}

impl<S> Wire<S> {
    /// The stream of a connection that has just been accepted.
    pub(super) fn new(stream: S, connection: Arc<Connection>) -> Self {
        let options = &connection.shared.options;
        Self {
            stream,
            // Twice the parser's limit: a head that is too long is the parser's to refuse, with 431.
            scanner: Scanner::new(2 * options.head_bytes_max),
            cut: None,
            read_deadline: Some(Instant::now() + options.header_timeout),
            read_timer: Timer::default(),
            write_deadline: None,
            write_timer: Timer::default(),
            connection,
        }
    }

    /// Takes note of what was read; cuts the stream where it is ambiguous.
    fn on_read(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        let phase_before = self.scanner.phase();
        if let Err(ambiguous) = self.scanner.observe(&buffer.filled()[before..]) {
            buffer.set_filled(before + ambiguous.clean_bytes);
            self.cut = Some(give(ILLEGAL, buffer));
            return;
        }
        // A head's deadline stands from its first byte on, however often more of it comes.
        if self.scanner.phase() != Phase::Head {
            self.read_deadline = None;
        } else if phase_before != Phase::Head && self.read_deadline.is_none() {
            self.read_deadline = Some(Instant::now() + self.connection.shared.options.header_timeout);
        }
    }

    /// Nothing can be read: it is time to look at the time.
    fn poll_read_timer(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let options = &self.connection.shared.options;
        let allowance = match self.scanner.phase() {
            Phase::Idle => options.idle_timeout,
            Phase::Head => options.header_timeout,
            Phase::Beyond => return Poll::Pending,
        };
        let deadline = *self.read_deadline.get_or_insert_with(|| Instant::now() + allowance);
        ready!(self.read_timer.poll(deadline, context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no request came in time")))
    }

    /// After an attempt to write.
    fn on_write<T>(&mut self, result: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.write_deadline = None;
            // A connection that is being answered is not resting.
            if self.scanner.phase() == Phase::Idle {
                self.read_deadline = None;
            }
            return result;
        }
        self.poll_write_timer(context)
    }

    /// Nothing can be written: it is time to look at the time.
    fn poll_write_timer<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        let allowance: Duration = self.connection.shared.options.write_timeout;
        let deadline = *self.write_deadline.get_or_insert_with(|| Instant::now() + allowance);
        ready!(self.write_timer.poll(deadline, context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the answer was not read in time")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(rest) = self.cut {
            self.cut = Some(give(rest, buffer));
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        if self.connection.is_upgraded() {
            return result;
        }
        match result {
            Poll::Ready(Ok(())) => {
                self.on_read(buffer, before);
                Poll::Ready(Ok(()))
            }
            // A stream of events lasts as long as somebody reads it.
            Poll::Pending if self.connection.is_streaming() => Poll::Pending,
            Poll::Pending => self.poll_read_timer(context),
            failed => failed,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.on_write(result, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.on_write(result, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Under TLS an answer is written once it is encrypted, and leaves when it is flushed.
        let result = Pin::new(&mut self.stream).poll_flush(context);
        if result.is_pending() {
            return self.poll_write_timer(context);
        }
        self.write_deadline = None;
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Puts as much of `bytes` into `buffer` as fits; gives the rest.
fn give<'a>(bytes: &'a [u8], buffer: &mut ReadBuf<'_>) -> &'a [u8] {
    let (now, later) = bytes.split_at(bytes.len().min(buffer.remaining()));
    buffer.put_slice(now);
    later
}

/// A timer whose deadline moves often and is reached seldom: it is armed for a deadline that it was once given, and looks
/// at the current one only when it fires.
#[derive(Default)]
struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Ready when `deadline` has passed.
    fn poll(&mut self, deadline: Instant, context: &mut Context<'_>) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(context));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}
