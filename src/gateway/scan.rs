//! What is checked on an HTTP/1.1 byte stream before the parser sees it: that nobody could frame it differently.
//!
//! Request smuggling lives on messages that two programs cut apart in two ways. The parser behind this is lenient where
//! the standard lets it be: it takes a bare line feed for a line's end, and Transfer-Encoding over Content-Length. A
//! gateway that may stand behind somebody's proxy is better off refusing. So this follows the stream, head by head and
//! body by body, and stops it at:
//!
//! - a line of a head that ends in a bare line feed;
//! - Content-Length and Transfer-Encoding in one head, or either of them twice;
//! - a Transfer-Encoding other than `chunked`, or a Content-Length that isn't plain digits;
//! - a chunk whose framing isn't exact.
//!
//! It allocates only for a line that is split over two reads, and passes over bodies without looking at them. HTTP/2 is
//! recognised by its preface and left alone: it has lengths of its own.

/// Follows one connection.
#[derive(Debug)]
pub(super) struct Scanner {
    state: State,
    /// The beginning of a line whose end hasn't come yet.
    partial: Vec<u8>,
    line_bytes_max: usize,
    /// What the current head has said about its body.
    framing: Framing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a request line; `first` on a fresh connection, where HTTP/2 may begin.
    Start { first: bool },
    /// Between a request line and the blank line.
    Headers,
    /// So many bytes of a body are left.
    Body(u64),
    /// Before a chunk's size.
    ChunkSize,
    /// So many bytes of a chunk are left, the line's end after it included.
    Chunk(u64),
    /// After the last chunk.
    Trailers,
    /// Not HTTP/1.1 any more.
    Through,
}

#[derive(Clone, Copy, Debug, Default)]
struct Framing {
    length: Option<u64>,
    chunked: bool,
}

/// The stream is ambiguous, from the line that begins at this offset of the bytes that were just seen (0 where it began
/// earlier).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ambiguous {
    /// How many of the bytes are beyond doubt.
    pub(super) clean_bytes: usize,
}

/// Where a connection is between and within requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Between two requests.
    Idle,
    /// Within a head.
    Head,
    /// Within a body, or in another protocol.
    Beyond,
}

impl Scanner {
    /// A scanner for a connection whose heads have lines of at most `line_bytes_max`.
    pub(super) const fn new(line_bytes_max: usize) -> Self {
        let framing = Framing { length: None, chunked: false };
        Self { state: State::Start { first: true }, partial: Vec::new(), line_bytes_max, framing }
    }

    /// Where the stream is after what was seen.
    pub(super) fn phase(&self) -> Phase {
        match self.state {
            State::Start { .. } if self.partial.is_empty() => Phase::Idle,
            State::Start { .. } | State::Headers => Phase::Head,
            _ => Phase::Beyond,
        }
    }

    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// Where they are ambiguous. The stream must not go on then.
    pub(super) fn observe(&mut self, bytes: &[u8]) -> Result<(), Ambiguous> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            at += match self.state {
                State::Through => rest.len(),
                State::Body(left) => {
                    let taken = take(left, rest.len());
                    self.state = if taken as u64 == left {
                        State::Start { first: false }
                    } else {
                        State::Body(left - taken as u64)
                    };
                    taken
                }
                State::Chunk(left) if left > 2 => {
                    let taken = take(left - 2, rest.len());
                    self.state = State::Chunk(left - taken as u64);
                    taken
                }
                _ => self.take_line(rest).ok_or(Ambiguous { clean_bytes: at })?,
            };
        }
        Ok(())
    }

    /// Takes one line, or the part of it that is there; gives how many bytes that were, or `None` where it is ambiguous.
    fn take_line(&mut self, rest: &[u8]) -> Option<usize> {
        let end = rest.iter().position(|&byte| byte == b'\n');
        // However it is cut into pieces: what a stream may hold can't depend on that.
        if self.partial.len() + end.unwrap_or(rest.len()) > self.line_bytes_max {
            return None;
        }
        let Some(end) = end else {
            self.partial.extend_from_slice(rest);
            return Some(rest.len());
        };
        let taken = end + 1;
        if self.partial.is_empty() {
            self.on_line(&rest[..end])?;
        } else {
            let mut line = std::mem::take(&mut self.partial);
            line.extend_from_slice(&rest[..end]);
            self.on_line(&line)?;
        }
        Some(taken)
    }

    /// One line without its line feed.
    fn on_line(&mut self, line: &[u8]) -> Option<()> {
        let line = line.strip_suffix(b"\r")?;
        self.state = match self.state {
            State::Start { first: true } if line == b"PRI * HTTP/2.0" => State::Through,
            // Blank lines before a request are legal (RFC 9112, section 2.2).
            State::Start { .. } if line.is_empty() => State::Start { first: false },
            State::Start { .. } => {
                self.framing = Framing::default();
                State::Headers
            }
            State::Headers if line.is_empty() => match self.framing {
                Framing { chunked: true, .. } => State::ChunkSize,
                Framing { length: Some(length @ 1..), .. } => State::Body(length),
                _ => State::Start { first: false },
            },
            State::Headers => {
                self.framing.on_header(line)?;
                State::Headers
            }
            State::ChunkSize => match chunk_bytes(line)? {
                0 => State::Trailers,
                bytes => State::Chunk(bytes.checked_add(2)?),
            },
            State::Chunk(_) if line.is_empty() => State::ChunkSize,
            State::Trailers if line.is_empty() => State::Start { first: false },
            State::Trailers => State::Trailers,
            State::Chunk(_) | State::Body(_) | State::Through => return None,
        };
        Some(())
    }
}

impl Framing {
    /// One header line; `None` where it makes the body's end ambiguous.
    fn on_header(&mut self, line: &[u8]) -> Option<()> {
        // Most headers are told apart by their first letter.
        if !matches!(line.first(), Some(b'c' | b'C' | b't' | b'T')) {
            return Some(());
        }
        let Some(colon) = line.iter().position(|&byte| byte == b':') else {
            return Some(());
        };
        let (name, value) = (line[..colon].trim_ascii_end(), line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            if self.length.is_some() || self.chunked || !value.iter().all(u8::is_ascii_digit) {
                return None;
            }
            self.length = Some(std::str::from_utf8(value).ok()?.parse().ok()?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.length.is_some() || self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return None;
            }
            self.chunked = true;
        }
        Some(())
    }
}

/// As much of `left` as there is.
fn take(left: u64, available: usize) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(available)
}

/// The size in a chunk's first line; extensions after a semicolon are passed over.
fn chunk_bytes(line: &[u8]) -> Option<u64> {
    let digits = line.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii_end();
    let is_size = (1..=15).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    is_size.then(|| std::str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `stream` whole and cut at every place; all must agree. Gives the phase at the end, or `None` where it is
    /// ambiguous.
    fn scan(stream: &str) -> Option<Phase> {
        let whole = {
            let mut scanner = Scanner::new(1000);
            scanner.observe(stream.as_bytes()).ok().map(|()| scanner.phase())
        };
        for cut in 1..stream.len() {
            let mut scanner = Scanner::new(1000);
            let (one, two) = stream.as_bytes().split_at(cut);
            let in_two = scanner.observe(one).and_then(|()| scanner.observe(two)).ok().map(|()| scanner.phase());
            assert_eq!(in_two, whole, "{stream:?} cut at {cut}");
        }
        whole
    }

    #[test]
    fn plain_requests_pass_in_any_pieces() {
        let get = "GET /v1/kv/a HTTP/1.1\r\nHost: x\r\nCookie: a\r\nTE: y\r\n\r\n";
        let put = "PUT /a HTTP/1.1\r\nContent-Length: 5\r\n\r\na\nb\n\n";
        let chunked = "PUT /a HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\na\nb\r\nA\r\n0123456789\r\n0\r\nT: u\r\n\r\n";
        assert_eq!(scan(get), Some(Phase::Idle));
        assert_eq!(scan(&format!("\r\n{get}{put}{chunked}{get}")), Some(Phase::Idle));
        assert_eq!(scan("GET /v1/kv/a HTTP/1.1\r\nHo"), Some(Phase::Head));
        assert_eq!(scan("GET /v"), Some(Phase::Head));
        assert_eq!(scan("PUT /a HTTP/1.1\r\nContent-Length: 5\r\n\r\na\n"), Some(Phase::Beyond));
        assert_eq!(scan("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\n\n\n"), Some(Phase::Beyond));
    }

    #[test]
    fn ambiguous_framing_is_stopped() {
        let heads = [
            "GET / HTTP/1.1\nHost: x\r\n",
            "GET / HTTP/1.1\r\nHost: x\n",
            "GET / HTTP/1.1\r\nHost: x\r\n\n",
            "PUT / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\ncontent-length: 5\r\n",
            "PUT / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n",
            "PUT / HTTP/1.1\r\nContent-Length: 5, 5\r\n",
            "PUT / HTTP/1.1\r\nContent-Length: +5\r\n",
            "PUT / HTTP/1.1\r\nContent-Length: 0x5\r\n",
            "PUT / HTTP/1.1\r\nContent-Length:\r\n",
            "PUT / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n",
            "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "PUT / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n",
            "PUT / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n",
            "PUT / HTTP/1.1\r\nTransfer-Encoding: identity\r\n",
            "PUT / HTTP/1.1\r\nTransfer-Encoding : chunked\r\nContent-Length : 5\r\n",
            "GET /x HTTP/1.1\r\n\r\nPRI * HTTP/2.0\n",
            &format!("GET /{} HTTP/1.1\r\n", "x".repeat(1000)),
        ];
        for head in heads {
            assert_eq!(scan(head), None, "{head:?} was let through");
        }
        for chunks in ["3\r\nabcd\r\n", "3\nabc\r\n", "3\r\nabc\n", "-3\r\n", "\r\n", "0x3\r\n", "1111111111111111\r\n"]
        {
            let stream = format!("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
            assert_eq!(scan(&stream), None, "{chunks:?} was let through");
        }
    }

    #[test]
    fn what_came_before_the_doubt_is_clean() {
        let clean = "GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n";
        let mut scanner = Scanner::new(1000);
        let seen = scanner.observe(format!("{clean}Host: x\nmore").as_bytes());
        assert_eq!(seen, Err(Ambiguous { clean_bytes: clean.len() }));
        let mut scanner = Scanner::new(10);
        assert_eq!(scanner.observe(b"0123456789"), Ok(()));
        assert_eq!(scanner.observe(b"0"), Err(Ambiguous { clean_bytes: 0 }), "an endless line was kept");
    }
}
