//! Entity tags, preconditions and ranges (RFC 9110, sections 8.8.3, 13 and 14).
//!
//! A value's entity tag is its version in quotes, always strong: the same version is the same bytes. A tag that isn't
//! one of ours is legal and simply matches nothing; text that is no tag at all is an error, because a client whose guard
//! is misspelt must not believe that it is guarded.

use std::ops::Range;

use warp::http::HeaderMap;
use warp::http::header::{HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE};

use super::problem::Problem;
use crate::api::{Match, Precondition};
use crate::base::Version;
use crate::files::{Conditions, Tags};

/// Tags in one header; far more than any client has a reason to send.
const TAGS_MAX: usize = 100;

/// The entity tag of a value of this version.
pub(super) fn entity_tag(version: Version) -> HeaderValue {
    let mut digits = [0_u8; 22];
    let mut at = digits.len() - 1;
    digits[at] = b'"';
    let mut rest = version.0;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    at -= 1;
    digits[at] = b'"';
    HeaderValue::from_bytes(&digits[at..]).expect("digits in quotes are a header value")
}

/// How a weak tag compares.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weak {
    /// It matches what its strong form would (If-None-Match).
    Matches,
    /// It never matches (If-Match, If-Range).
    Never,
}

/// The preconditions that a request's headers state.
pub(super) fn preconditions(headers: &HeaderMap) -> Result<Precondition, Problem> {
    Ok(Precondition {
        if_match: condition(headers, &IF_MATCH, Weak::Never)?,
        if_none_match: condition(headers, &IF_NONE_MATCH, Weak::Matches)?,
    })
}

/// The same for files, whose tags are hashes.
pub(super) fn tag_conditions(headers: &HeaderMap) -> Result<Conditions, Problem> {
    let tags = |name, weak| -> Result<Option<Tags>, Problem> {
        let listed = listed(headers, name, |tag| tag.text(weak))?;
        Ok(listed.map(|listed| listed.map_or(Tags::Any, Tags::These)))
    };
    Ok(Conditions { if_match: tags(&IF_MATCH, Weak::Never)?, if_none_match: tags(&IF_NONE_MATCH, Weak::Matches)? })
}

/// The entity tag of a file: its hash.
pub(super) fn tag_value(etag: &str) -> HeaderValue {
    HeaderValue::try_from(format!("\"{etag}\"")).expect("hexadecimal digits in quotes are a header value")
}

/// What one header asks to be compared with; `None` where it isn't there.
fn condition(headers: &HeaderMap, name: &HeaderName, weak: Weak) -> Result<Option<Match>, Problem> {
    let listed = listed(headers, name, |tag| tag.version(weak))?;
    Ok(listed.map(|listed| listed.map_or(Match::Any, Match::Versions)))
}

/// What `read` makes of the tags that one header lists, or `None` for `*`.
fn listed<T>(
    headers: &HeaderMap,
    name: &HeaderName,
    read: impl Fn(&Tag<'_>) -> Option<T>,
) -> Result<Option<Option<Vec<T>>>, Problem> {
    let mut lines = headers.get_all(name).iter().peekable();
    if lines.peek().is_none() {
        return Ok(None);
    }
    let malformed = || {
        Problem::bad_request(format!(
            "{name} is neither * nor a list of at most {TAGS_MAX} entity tags in quotes, as ETag gives them"
        ))
    };
    let mut found = Vec::new();
    let mut any = false;
    let mut tags = 0;
    for line in lines {
        let mut rest = line.as_bytes().trim_ascii();
        if rest == b"*" {
            any = true;
            tags += 1;
            continue;
        }
        while !rest.is_empty() {
            let (tag, after) = next_tag(rest).ok_or_else(malformed)?;
            tags += 1;
            found.extend(read(&tag));
            rest = after;
        }
    }
    // `*` stands alone: together with tags it would make them meaningless, so it is a mistake.
    if tags == 0 || tags > TAGS_MAX || (any && tags > 1) {
        return Err(malformed());
    }
    Ok(Some(if any { None } else { Some(found) }))
}

/// One entity tag as it stands in a header.
struct Tag<'a> {
    is_weak: bool,
    opaque: &'a [u8],
}

impl Tag<'_> {
    /// The version that it names, if it is one of ours: digits without a leading zero.
    fn version(&self, weak: Weak) -> Option<Version> {
        if self.is_weak && weak == Weak::Never {
            return None;
        }
        let is_ours =
            self.opaque.iter().all(u8::is_ascii_digit) && (self.opaque.len() == 1 || !self.opaque.starts_with(b"0"));
        let text = std::str::from_utf8(self.opaque).ok().filter(|_| is_ours)?;
        text.parse().ok().map(Version)
    }

    /// Its text, as it stands.
    fn text(&self, weak: Weak) -> Option<String> {
        let counts = !self.is_weak || weak == Weak::Matches;
        std::str::from_utf8(self.opaque).ok().filter(|_| counts).map(str::to_owned)
    }
}

/// The first tag of a list, and the list after it and its comma.
fn next_tag(list: &[u8]) -> Option<(Tag<'_>, &[u8])> {
    let (is_weak, quoted) = match list.strip_prefix(b"W/") {
        Some(quoted) => (true, quoted),
        None => (false, list),
    };
    let inside = quoted.strip_prefix(b"\"")?;
    let end = inside.iter().position(|&byte| byte == b'"')?;
    let (opaque, after) = (&inside[..end], inside[end + 1..].trim_ascii_start());
    let after = match after.strip_prefix(b",") {
        // Empty elements are legal in lists (RFC 9110, section 5.6.1).
        Some(after) => {
            let start = after.iter().position(|byte| !matches!(byte, b',' | b' ' | b'\t'));
            &after[start.unwrap_or(after.len())..]
        }
        None if after.is_empty() => after,
        None => return None,
    };
    Some((Tag { is_weak, opaque }, after))
}

/// What to send of a value.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Selection {
    /// All of it.
    Whole,
    /// These bytes of it.
    Part(Range<usize>),
    /// The range lies outside.
    Outside,
}

/// What the `Range` and `If-Range` headers select of a value of `length` bytes. What isn't understood selects the whole
/// value, as the RFC wants: other units, several ranges, bad syntax. So does any range of an empty value, because there
/// are clients that ask for `bytes=0-` always.
pub(super) fn selection(headers: &HeaderMap, version: Version, length: usize) -> Selection {
    select(headers, |tag| tag.version(Weak::Never) == Some(version), length)
}

/// The same for a file.
pub(super) fn tag_selection(headers: &HeaderMap, etag: &str, length: u64) -> Selection {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    select(headers, |tag| tag.text(Weak::Never).as_deref() == Some(etag), length)
}

fn select(headers: &HeaderMap, is_current: impl Fn(&Tag<'_>) -> bool, length: usize) -> Selection {
    let Some(range) = headers.get(RANGE) else {
        return Selection::Whole;
    };
    if let Some(if_range) = headers.get(IF_RANGE) {
        let tag = next_tag(if_range.as_bytes().trim_ascii()).filter(|(_, rest)| rest.is_empty());
        if !tag.is_some_and(|(tag, _)| is_current(&tag)) {
            return Selection::Whole;
        }
    }
    range.to_str().ok().and_then(|range| byte_range(range, length)).unwrap_or(Selection::Whole)
}

fn byte_range(range: &str, length: usize) -> Option<Selection> {
    let (unit, range) = range.split_once('=')?;
    let (first, last) = range.trim().split_once('-')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") || length == 0 {
        return None;
    }
    let number = |digits: &str| -> Option<usize> {
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        // A number too large for the machine is certainly past the end.
        is_number.then(|| digits.parse().unwrap_or(usize::MAX))
    };
    if first.is_empty() {
        let count = number(last)?;
        return Some(if count == 0 {
            Selection::Outside
        } else {
            Selection::Part(length.saturating_sub(count)..length)
        });
    }
    let first = number(first)?;
    let last = if last.is_empty() { usize::MAX } else { number(last)? };
    if last < first {
        return None;
    }
    Some(if first >= length { Selection::Outside } else { Selection::Part(first..last.saturating_add(1).min(length)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_version_in_quotes_is_the_tag() {
        for version in [0, 7, 10, 1_784_000_000_000_000, u64::MAX] {
            assert_eq!(entity_tag(Version(version)), format!("\"{version}\""));
        }
    }

    #[test]
    fn tags_are_read_from_lists_and_foreign_ones_match_nothing() {
        let versions = |numbers: &[u64]| Some(Match::Versions(numbers.iter().copied().map(Version).collect()));
        let cases = [
            ("*", Some(Match::Any), Some(Match::Any)),
            ("\"5\"", versions(&[5]), versions(&[5])),
            ("\"5\" , W/\"6\",,\"7\"", versions(&[5, 7]), versions(&[5, 6, 7])),
            ("\"abc\",\"a,b\", \"+5\", \"05\", \"\", \"99999999999999999999\"", versions(&[]), versions(&[])),
        ];
        for (text, strong, weak) in cases {
            let conditions = |name| preconditions(&header(name, text)).expect("a list of tags");
            assert_eq!(conditions(IF_MATCH).if_match, strong, "{text}");
            assert_eq!(conditions(IF_NONE_MATCH).if_none_match, weak, "{text}");
        }
        for bad in ["5", "\"5", "5\"", "\"5\" \"6\"", "*, \"5\"", "w/\"5\"", "", "nonsense"] {
            assert!(preconditions(&header(IF_MATCH, bad)).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn one_range_of_bytes_is_understood_and_everything_else_is_the_whole() {
        let cases = [
            ("bytes=0-3", Selection::Part(0..4)),
            ("bytes=4-", Selection::Part(4..10)),
            ("bytes=-3", Selection::Part(7..10)),
            ("bytes=-30", Selection::Part(0..10)),
            ("bytes=9-99999999999999999999999", Selection::Part(9..10)),
            ("bytes=10-", Selection::Outside),
            ("bytes=-0", Selection::Outside),
            ("bytes=3-2", Selection::Whole),
            ("bytes=0-1,3-4", Selection::Whole),
            ("lines=0-3", Selection::Whole),
            ("bytes=+1-3", Selection::Whole),
            ("bytes=-", Selection::Whole),
        ];
        for (text, expected) in cases {
            assert_eq!(selection(&header(RANGE, text), Version(1), 10), expected, "{text}");
        }
        assert_eq!(selection(&header(RANGE, "bytes=0-"), Version(1), 0), Selection::Whole);
        let mut headers = header(RANGE, "bytes=0-3");
        headers.insert(IF_RANGE, HeaderValue::from_static("\"1\""));
        assert_eq!(selection(&headers, Version(1), 10), Selection::Part(0..4));
        assert_eq!(selection(&headers, Version(2), 10), Selection::Whole, "another version was cut");
    }
}
