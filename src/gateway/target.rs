//! What a request's target says: the percent-decoded key, and the query's parameters.
//!
//! Decoding happens once and is strict: a `%` that isn't followed by two hexadecimal digits is an error, because guessing
//! would give two spellings to one key or one spelling to two.

use std::borrow::Cow;
use std::time::Duration;

use super::problem::Problem;

/// Whether a `+` is itself (in a path) or a space (in a query, as HTML forms and most HTTP libraries write it).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Plus {
    Itself,
    Space,
}

/// The bytes that percent-encoded `raw` stands for.
///
/// # Errors
/// The offset of the first `%` that two hexadecimal digits don't follow.
pub(super) fn percent_decode(raw: &str, plus: Plus) -> Result<Cow<'_, [u8]>, usize> {
    let raw = raw.as_bytes();
    let is_special = |byte: u8| byte == b'%' || (plus == Plus::Space && byte == b'+');
    let Some(first) = raw.iter().position(|&byte| is_special(byte)) else {
        return Ok(Cow::Borrowed(raw));
    };
    let mut decoded = Vec::with_capacity(raw.len());
    decoded.extend_from_slice(&raw[..first]);
    let mut at = first;
    while let Some(&byte) = raw.get(at) {
        match byte {
            b'%' => {
                let digits = (raw.get(at + 1).and_then(hexadecimal), raw.get(at + 2).and_then(hexadecimal));
                let (Some(high), Some(low)) = digits else {
                    return Err(at);
                };
                decoded.push(high << 4 | low);
                at += 3;
            }
            b'+' if plus == Plus::Space => {
                decoded.push(b' ');
                at += 1;
            }
            _ => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    Ok(Cow::Owned(decoded))
}

fn hexadecimal(digit: &u8) -> Option<u8> {
    char::from(*digit).to_digit(16).map(|value| value as u8)
}

/// The parameters of a query. Unknown ones are ignored, as HTTP servers do; one that is given twice is an error, because
/// whichever were taken, somebody would be surprised.
#[derive(Clone, Copy)]
pub(super) struct Query<'a>(pub(super) &'a str);

impl<'a> Query<'a> {
    /// Refuses parameters that aren't `allowed`. For requests of which a misspelt parameter must not make another one.
    pub(super) fn only(self, allowed: &[&str]) -> Result<(), Problem> {
        for pair in self.0.split('&').filter(|pair| !pair.is_empty()) {
            let raw = pair.split_once('=').map_or(pair, |(name, _)| name);
            let name = decode(raw, raw)?;
            if !allowed.iter().any(|allowed| *allowed.as_bytes() == *name) {
                let name = String::from_utf8_lossy(&name);
                return Err(Problem::bad_request(format!(
                    "there is no parameter {name:?} here; there are {}",
                    allowed.join(", ")
                )));
            }
        }
        Ok(())
    }

    /// The decoded bytes of the parameter `name`.
    pub(super) fn bytes(self, name: &str) -> Result<Option<Cow<'a, [u8]>>, Problem> {
        let mut found = None;
        for pair in self.0.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if *decode(key, key)? != *name.as_bytes() {
                continue;
            }
            if found.is_some() {
                return Err(Problem::bad_request(format!("the parameter {name} is given twice")));
            }
            found = Some(decode(value, name)?);
        }
        Ok(found)
    }

    /// The text of the parameter `name`.
    pub(super) fn text(self, name: &str) -> Result<Option<Cow<'a, str>>, Problem> {
        let not_text = || Problem::bad_request(format!("the parameter {name} is not UTF-8"));
        match self.bytes(name)? {
            None => Ok(None),
            Some(Cow::Borrowed(bytes)) => {
                std::str::from_utf8(bytes).map(|text| Some(Cow::Borrowed(text))).map_err(|_| not_text())
            }
            Some(Cow::Owned(bytes)) => {
                String::from_utf8(bytes).map(|text| Some(Cow::Owned(text))).map_err(|_| not_text())
            }
        }
    }

    /// The parameter `name` as a switch; off where it isn't given.
    pub(super) fn switch(self, name: &str) -> Result<bool, Problem> {
        match self.text(name)?.as_deref() {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(other) => Err(Problem::bad_request(format!("{name}={other} is neither true nor false"))),
        }
    }

    /// The parameter `name` as a duration of at least one millisecond, written as people write it ("30s", "1h 30min").
    pub(super) fn duration(self, name: &str) -> Result<Option<Duration>, Problem> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        match humantime::parse_duration(&text) {
            Ok(duration) if duration.is_zero() => {
                Err(Problem::bad_request(format!("{name}={text} is no time at all; it must be at least 1ms")))
            }
            Ok(duration) => Ok(Some(duration.max(Duration::from_millis(1)))),
            Err(error) => Err(Problem::bad_request(format!(
                "{name}={text} is not a duration ({error}); write it like 250ms, 30s or 2h"
            ))),
        }
    }
}

fn decode<'a>(raw: &'a str, name: &str) -> Result<Cow<'a, [u8]>, Problem> {
    percent_decode(raw, Plus::Space).map_err(|at| {
        Problem::bad_request(format!(
            "in the query, at {name}: the % at {at} is not followed by two hexadecimal digits"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_is_decoded_once_and_strictly() {
        let decode = |raw| percent_decode(raw, Plus::Itself).map(Cow::into_owned);
        assert_eq!(decode("a//b/../c+d"), Ok(b"a//b/../c+d".to_vec()));
        assert_eq!(decode("a%2Fb%2fc%25%32%46"), Ok(b"a/b/c%2F".to_vec()), "decoded more or less than once");
        assert_eq!(decode("ab%"), Err(2));
        assert_eq!(decode("ab%4"), Err(2));
        assert_eq!(decode("%41%4g"), Err(3));
        assert_eq!(decode("%+1"), Err(0), "a sign is not a digit");
        assert_eq!(percent_decode("a+b%2B", Plus::Space).map(Cow::into_owned), Ok(b"a b+".to_vec()));
    }

    #[test]
    fn parameters_are_found_by_their_decoded_names() {
        let query = Query("&limit=5&pre%66ix=a%26b&values=true&empty");
        assert_eq!(query.text("prefix").ok().flatten().as_deref(), Some("a&b"));
        assert_eq!(query.text("empty").ok().flatten().as_deref(), Some(""));
        assert!(matches!(query.switch("values"), Ok(true)));
        assert!(matches!(query.text("absent"), Ok(None)));
        assert!(Query("a=1&a=2").text("a").is_err(), "a parameter given twice was taken");
        assert!(Query("a=%zz").text("a").is_err() && Query("a=%ff").text("a").is_err());
    }

    #[test]
    fn where_it_matters_a_misspelt_parameter_is_refused() {
        let allowed = ["dry_run", "timeout"];
        for good in ["", "&", "dry_run=true", "timeout=1s&dry%5Frun=1"] {
            assert!(Query(good).only(&allowed).is_ok(), "{good} was refused");
        }
        for bad in ["dryrun=true", "dry_run=true&x", "=", "dry_run%20=1", "%zz"] {
            assert!(Query(bad).only(&allowed).is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn durations_are_written_with_units_and_never_zero() {
        assert_eq!(Query("ttl=30s").duration("ttl").ok().flatten(), Some(Duration::from_secs(30)));
        assert_eq!(Query("ttl=5us").duration("ttl").ok().flatten(), Some(Duration::from_millis(1)));
        for bad in ["ttl=0s", "ttl=", "ttl=30", "ttl=-5s", "ttl=soon", "ttl=99999999999999999999s"] {
            assert!(Query(bad).duration("ttl").is_err(), "{bad} was accepted");
        }
    }
}
