//! What reaches stdout and stderr.

use std::borrow::Cow;
use std::io::{self, BufWriter, Stdout, Write as _};

use super::Failure;

/// Buffered stdout whose errors are failures: a closed pipe ends the command quietly.
pub(super) struct Output {
    writer: BufWriter<Stdout>,
}

impl Output {
    pub(super) fn new() -> Self {
        Self { writer: BufWriter::new(io::stdout()) }
    }

    /// Writes bytes as they are.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.writer.write_all(bytes).map_err(|error| Failure::of_stdout(&error))
    }

    /// Writes one line.
    pub(super) fn line(&mut self, line: impl AsRef<[u8]>) -> Result<(), Failure> {
        self.bytes(line.as_ref())?;
        self.bytes(b"\n")
    }

    /// Hands over what is buffered. Every command must do that at its end: a failure in a destructor would be lost.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        self.writer.flush().map_err(|error| Failure::of_stdout(&error))
    }
}

/// One line on stderr. Nobody may be listening there, which is no reason to fail.
pub(super) fn note(message: &str) {
    let _ = writeln!(io::stderr().lock(), "jumpgate: {message}");
}

/// Text without control characters, which could steer a terminal or break a line in two; each is written as an escape.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if character.is_control() {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

/// A value for people: its text where it is text, else its size.
pub(super) fn value_for_people(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => printable(text).into_owned(),
        Err(_) => format!("<{} bytes>", bytes.len()),
    }
}

/// A message on one line: line breaks become spaces, other control characters escapes.
pub(super) fn one_line(message: &str) -> String {
    let joined: Vec<&str> = message.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    printable(&joined.join(" ")).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_never_come_out_as_they_are() {
        assert_eq!(printable("ключ with spaces"), "ключ with spaces");
        assert_eq!(printable("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        assert_eq!(value_for_people(b"tab\there"), "tab\\there");
        assert_eq!(value_for_people(&[0xff, 0xfe]), "<2 bytes>");
    }

    #[test]
    fn a_message_is_one_line() {
        assert_eq!(one_line("first\n  second\r\n\nthird\u{7}"), "first second third\\u{7}");
    }
}
