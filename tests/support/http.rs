//! A blocking HTTP client that shows what came back, header by header.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// Longer than any answer takes; reaching it is an error like a broken connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// One client of one gateway on loopback: a connection that is opened when it is needed and kept.
pub struct Http {
    port: u16,
    connection: Option<BufReader<TcpStream>>,
}

/// One answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Http {
    pub fn new(port: u16) -> Self {
        Self { port, connection: None }
    }

    /// Sends one request. `head` is `METHOD target` and further header lines; Host and the length are added.
    ///
    /// An error leaves it open whether the request was executed.
    pub fn ask(&mut self, head: &str, body: &[u8]) -> io::Result<Answer> {
        let answer = self.try_ask(head, body);
        let is_last = |answer: &Answer| answer.header("connection").eq_ignore_ascii_case("close");
        if answer.as_ref().map_or(true, is_last) {
            self.connection = None;
        }
        answer
    }

    fn try_ask(&mut self, head: &str, body: &[u8]) -> io::Result<Answer> {
        let (first, rest) = head.split_once("\r\n").unwrap_or((head, ""));
        let end = if rest.is_empty() { "" } else { "\r\n" };
        let length = body.len();
        let mut request =
            format!("{first} HTTP/1.1\r\nHost: localhost\r\n{rest}{end}Content-Length: {length}\r\n\r\n").into_bytes();
        request.extend_from_slice(body);
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => {
                let stream = TcpStream::connect(("127.0.0.1", self.port))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                none.insert(BufReader::new(stream))
            }
        };
        connection.get_mut().write_all(&request)?;
        Answer::read(connection, first.starts_with("HEAD "))
    }
}

impl Answer {
    fn read(connection: &mut BufReader<TcpStream>, is_head: bool) -> io::Result<Self> {
        let status = line(connection)?.split(' ').nth(1).and_then(|status| status.parse().ok());
        let mut headers = Vec::new();
        loop {
            let line = line(connection)?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ").unwrap_or((&line, ""));
            headers.push((name.to_owned(), value.to_owned()));
        }
        let status = status.ok_or_else(|| io::Error::other("the answer has no status"))?;
        let mut answer = Self { status, headers, body: Vec::new() };
        if !is_head && !matches!(status, 204 | 304) {
            let length = answer.header("content-length").parse().map_err(io::Error::other)?;
            answer.body = vec![0; length];
            connection.read_exact(&mut answer.body)?;
        }
        Ok(answer)
    }

    /// A header's value, `""` where there is none.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(candidate, _)| candidate.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The version in the entity tag.
    pub fn version(&self) -> u64 {
        let version = self.header("etag").trim_matches('"').parse();
        version.unwrap_or_else(|error| panic!("no version ({error}): {self:?}"))
    }

    /// Whether the same request may be sent again and go better: nothing is broken, the cluster is just busy electing a
    /// leader or moving a partition.
    pub fn is_for_a_moment(&self) -> bool {
        matches!(self.status, 429 | 503 | 504)
    }
}

fn line(connection: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    if connection.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    line.truncate(line.trim_end().len());
    Ok(line)
}
