//! Values as people write them. Each function takes what was written and gives the value, or a sentence that says what
//! is wrong with it and what is allowed.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::read::Raw;
use crate::base::limits;

/// A host and a port. The host may be a name, an IPv4 address, or an IPv6 address (here without its brackets).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// A name or an address.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
}

impl Address {
    /// Whether it can only be reached from its own machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let in_127 = || {
            let octets: Vec<_> = self.host.split('.').collect();
            octets.len() == 4 && octets[0] == "127" && octets.iter().all(|octet| octet.parse::<u8>().is_ok())
        };
        self.host.eq_ignore_ascii_case("localhost") || self.host == "::1" || in_127()
    }

    /// Whether whoever listens on one of them may be in the way of whoever listens on the other, on the same machine.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let is_any = |address: &Self| matches!(address.host.as_str(), "0.0.0.0" | "::");
        self.port == other.port && (self.host == other.host || is_any(self) || is_any(other))
    }

    fn read(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').filter(|inner| is_ipv6(inner))?,
            None => Some(host).filter(|host| is_host(host))?,
        };
        // `parse` alone would take "+80".
        let port = Some(port).filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))?;
        let port = port.parse().ok().filter(|port| *port > 0)?;
        Some(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Good enough to tell an address from a slip; whoever resolves it tells the rest.
fn is_ipv6(text: &str) -> bool {
    text.contains(':') && text.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'))
}

pub(super) fn is_host(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

pub(super) fn address(raw: &Raw<'_>) -> Result<Address, String> {
    raw.as_text()
        .and_then(Address::read)
        .ok_or_else(|| format!(r#"{raw} is not an address; write host:port, such as "127.0.0.1:8501" or "n1:8501""#))
}

/// Where the first node of a machine serves FTP: the others follow, so there have to be ports behind it.
pub(super) fn ftp_address(raw: &Raw<'_>) -> Result<Address, String> {
    let address = address(raw)?;
    let highest = u16::MAX - limits::NODES_MAX as u16;
    if address.port <= highest {
        return Ok(address);
    }
    Err(format!("{raw} leaves no ports for further nodes of one machine; write one of at most {highest}"))
}

/// A range of ports, its ends included.
pub(super) fn ports(raw: &Raw<'_>) -> Result<RangeInclusive<u16>, String> {
    let read = |text: &str| {
        let (first, last) = text.split_once('-')?;
        let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?;
        let (first, last) = (number(first)?, number(last)?);
        (0 < first && first <= last).then_some(first..=last)
    };
    let refused =
        || format!("{raw} is not a range of ports; write the first and the last one, such as \"30000-30099\"");
    raw.as_text().and_then(read).ok_or_else(refused)
}

/// Names of nodes and clusters: they appear in logs, file names and URLs.
pub(super) fn name(raw: &Raw<'_>) -> Result<String, String> {
    let is_name = |text: &&str| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
    };
    raw.as_text()
        .filter(is_name)
        .map(str::to_owned)
        .ok_or_else(|| format!("{raw} is not a name; write 1 to 64 letters, digits, dots, hyphens or underscores"))
}

/// A URL that others append paths to, so without a slash at its end.
pub(super) fn base_url(raw: &Raw<'_>) -> Result<String, String> {
    let read = |text: &str| {
        let text = text.strip_suffix('/').unwrap_or(text);
        let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"))?;
        (is_host(rest) || Address::read(rest).is_some()).then(|| text.to_owned())
    };
    raw.as_text().and_then(read).ok_or_else(|| {
        format!(r#"{raw} is not a base URL; write http://host:port or https://host:port, without a path"#)
    })
}

pub(super) fn hosts(raw: &Raw<'_>) -> Result<Vec<String>, String> {
    let hosts = raw.as_list().filter(|hosts| hosts.iter().all(|host| is_host(host)));
    hosts.map(|hosts| hosts.into_iter().map(str::to_owned).collect()).ok_or_else(|| {
        format!(r#"{raw} is not a list of host names; write them without ports, such as ["store.example.org"]"#)
    })
}

pub(super) fn path(raw: &Raw<'_>) -> Result<PathBuf, String> {
    raw.as_text()
        .filter(|text| !text.is_empty())
        .map(PathBuf::from)
        .ok_or_else(|| format!("{raw} is not a file name; write a path in quotes"))
}

/// A whole number in `range`.
pub(super) fn number(raw: &Raw<'_>, range: RangeInclusive<u64>) -> Result<u64, String> {
    raw.as_number()
        .filter(|number| range.contains(number))
        .ok_or_else(|| format!("{raw} is not allowed; write a whole number from {} to {}", range.start(), range.end()))
}

/// A duration of 1 ms to a day.
pub(super) fn duration(raw: &Raw<'_>) -> Result<Duration, String> {
    const SHORTEST: Duration = Duration::from_millis(1);
    const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
    let written = raw.as_text().and_then(|text| humantime::parse_duration(text).ok());
    let duration = written.ok_or_else(|| {
        format!(r#"{raw} is not a duration; write a number with ms, s, m or h, such as "250ms" or "10s""#)
    })?;
    if (SHORTEST..=LONGEST).contains(&duration) {
        Ok(duration)
    } else {
        Err(format!("{raw} is out of range; write a duration from 1ms to 24h"))
    }
}

const UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];

/// A size in bytes, in `range`.
pub(super) fn size(raw: &Raw<'_>, range: RangeInclusive<u64>) -> Result<u64, String> {
    let written = raw.as_number().or_else(|| {
        let text = raw.as_text()?.trim();
        let (digits, shift) = UNITS.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))?;
        let number: u64 = digits.trim_end().parse().ok()?;
        number.checked_mul(1 << shift)
    });
    let size = written.ok_or_else(|| {
        format!(r#"{raw} is not a size; write a number of bytes or one with KiB, MiB or GiB, such as "8MiB""#)
    })?;
    if range.contains(&size) {
        Ok(size)
    } else {
        Err(format!(
            "{raw} is out of range; write a size from {} to {}",
            show_size(*range.start()),
            show_size(*range.end())
        ))
    }
}

/// A size in the largest unit that divides it.
pub(super) fn show_size(bytes: u64) -> String {
    let unit = UNITS.iter().find(|(_, shift)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    unit.map_or_else(|| bytes.to_string(), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}

/// One of a few words, each with its meaning.
pub(super) fn choice<T: Copy>(raw: &Raw<'_>, choices: &[(&str, T)]) -> Result<T, String> {
    let chosen = choices.iter().find(|(word, _)| raw.as_text() == Some(word));
    chosen.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
        format!("{raw} is not allowed; write {}", words.join(" or "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown() {
        for text in ["127.0.0.1:8501", "n1:1", "a_b.example.org:65535", "[::1]:80", "[fe80::1]:7501"] {
            let address = address(&Raw::Text(text)).expect(text);
            assert_eq!(address.to_string(), text);
        }
        let bad = [
            "",
            "n1",
            ":80",
            "n1:",
            "n1:0",
            "n1:65536",
            "n1:+80",
            "n1:http",
            "::1:80",
            "[n1]:80",
            "a b:80",
            "http://n1:80",
        ];
        for text in bad {
            assert!(address(&Raw::Text(text)).is_err(), "{text:?} was read as an address");
        }
        assert!(address(&Raw::Number(80)).is_err());
    }

    #[test]
    fn loopback_is_what_no_other_machine_reaches() {
        let table = [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("localhost:1", true),
            ("[::1]:1", true),
            ("0.0.0.0:1", false),
            ("127.example.org:1", false),
            ("127.0.0.evil:1", false),
            ("n1:1", false),
        ];
        for (text, expected) in table {
            assert_eq!(address(&Raw::Text(text)).expect(text).is_loopback(), expected, "{text}");
        }
    }

    #[test]
    fn sizes_are_read_and_shown() {
        let table = [("1KiB", 1024), ("8MiB", 8 << 20), ("2 GiB", 2 << 30), ("1000", 1000), ("1536KiB", 3 << 19)];
        for (text, bytes) in table {
            assert_eq!(size(&Raw::Text(text), 1..=u64::MAX), Ok(bytes), "{text}");
            assert_eq!(size(&Raw::Text(&show_size(bytes)), 1..=u64::MAX), Ok(bytes), "{text}");
        }
        assert_eq!(show_size(3 << 19), "1536KiB");
        for text in ["", "KiB", "8MB", "8mib", "-1KiB", "1.5GiB", "99999999999999GiB", "8MiB8"] {
            assert!(size(&Raw::Text(text), 0..=u64::MAX).is_err(), "{text:?} was read as a size");
        }
    }
}
