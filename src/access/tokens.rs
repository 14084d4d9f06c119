//! The tokens in force, and the lines of the tokens file.
//!
//! ```text
//! # name  role   hash of the token      prefixes of keys, if it is limited to some
//! app     write  blake3:5f2b…e1         app/  shared/app%20one/
//! watcher read   blake3:09ac…77
//! ```
//!
//! Words are separated by spaces or tabs; blank lines and those that begin with `#` are skipped. In a prefix a space, a `%`
//! and control characters are percent-encoded, as in URLs.

use std::fmt::Write as _;
use std::sync::Arc;

use thiserror::Error;

use super::grant::{Grant, Held, Role, Token};

/// What stands before a hash: which function it is of.
const HASH: &str = "blake3:";
/// What tokens begin with, so that people and scanners of leaked secrets know one when they see it.
const TOKEN: &str = "jgt_";
/// The longest name.
const NAME_BYTES_MAX: usize = 64;
/// The longest token that is looked at: longer than any that is made here, so that nobody has a megabyte hashed.
const TOKEN_BYTES_MAX: usize = 1024;
/// Prefixes of one token.
const PREFIXES_MAX: usize = 64;

/// Who may do what: the tokens in force, or everybody everything.
///
/// Invariant: tokens are ordered by the first bytes of their hashes, and no two have the same hash.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Access(Option<Vec<Arc<Token>>>);

/// Why somebody is nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// No token was shown, and one is needed.
    #[error("this takes a token, as in \"Authorization: Bearer …\"")]
    Missing,
    /// A token was shown that isn't, or isn't any more, in the file.
    #[error("this token is not known here")]
    Unknown,
}

/// Why bytes are no tokens file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}: {problem}")]
pub struct TokensError {
    /// Which line, from 1.
    pub line: usize,
    /// What is wrong there, and what would be right. It repeats nothing of what the line holds but its name and role.
    pub problem: String,
}

impl Access {
    /// Everybody may do everything.
    #[must_use]
    pub const fn open() -> Self {
        Self(None)
    }

    /// The tokens in the file that holds `text`.
    ///
    /// # Errors
    /// The first line that isn't as it should be.
    pub fn parse(text: &[u8]) -> Result<Self, TokensError> {
        let mut tokens: Vec<(usize, Arc<Token>)> = Vec::new();
        for (nth, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let at = |problem: String| TokensError { line: nth + 1, problem };
            let line = std::str::from_utf8(line).map_err(|_| at("it is not UTF-8".to_owned()))?.trim();
            if !line.is_empty() && !line.starts_with('#') {
                tokens.push((nth + 1, Arc::new(token(line).map_err(at)?)));
            }
        }
        tokens.sort_by(|(_, one), (_, other)| one.hash.as_bytes().cmp(other.hash.as_bytes()));
        for pair in tokens.windows(2) {
            if let [(one, first), (other, second)] = pair
                && first.hash == second.hash
            {
                let (line, earlier) = ((*one).max(*other), (*one).min(*other));
                let problem = format!("it has the token of line {earlier}; each line needs one of its own");
                return Err(TokensError { line, problem });
            }
        }
        let access = Self(Some(tokens.into_iter().map(|(_, token)| token).collect()));
        if cfg!(debug_assertions) {
            access.check_invariants();
        }
        Ok(access)
    }

    /// Whether no tokens are asked for.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// How many tokens there are.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.0.as_ref().map_or(0, Vec::len)
    }

    /// What whoever shows `token` may do.
    ///
    /// # Errors
    /// Where one is needed, and none was shown or it is not one of these.
    pub fn judge(&self, token: Option<&[u8]>) -> Result<Grant, Refusal> {
        let Some(tokens) = &self.0 else { return Ok(Grant(Held::Everything)) };
        let token = token.ok_or(Refusal::Missing)?;
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refusal::Unknown);
        }
        find(tokens, &blake3::hash(token)).map(|found| Grant(Held::Token(Arc::clone(found)))).ok_or(Refusal::Unknown)
    }

    /// Whether `grant`, which was given earlier, would be given now: its token is still there, with the same role and the
    /// same prefixes.
    #[must_use]
    pub fn confirms(&self, grant: &Grant) -> bool {
        match (&self.0, &grant.0) {
            (None, _) => true,
            (Some(_), Held::Nothing | Held::Everything) => false,
            (Some(tokens), Held::Token(held)) => {
                find(tokens, &held.hash).is_some_and(|now| now.role == held.role && now.prefixes == held.prefixes)
            }
        }
    }

    /// What is said of the type.
    ///
    /// # Panics
    /// Where it doesn't hold.
    pub fn check_invariants(&self) {
        for pair in self.0.as_deref().unwrap_or_default().windows(2) {
            let [one, other] = [&pair[0], &pair[1]].map(|token| token.hash.as_bytes());
            assert!(one < other, "the tokens {:?} and {:?} are out of order", pair[0], pair[1]);
        }
    }
}

/// The token with this hash. The first eight bytes of hashes are compared as they are, to find it fast; who could measure
/// that would learn these of a hash, which leads to no token. The whole is compared in constant time.
fn find<'a>(tokens: &'a [Arc<Token>], hash: &blake3::Hash) -> Option<&'a Arc<Token>> {
    let start = |hash: &blake3::Hash| hash.as_bytes().first_chunk::<8>().copied().unwrap_or_default();
    let wanted = start(hash);
    let from = tokens.partition_point(|token| start(&token.hash) < wanted);
    tokens[from..].iter().take_while(|token| start(&token.hash) == wanted).find(|token| token.hash == *hash)
}

/// A line of the file.
fn token(line: &str) -> Result<Token, String> {
    const FORM: &str = "write `name role blake3:… prefix …`, as `jumpgate token` prints it";
    let mut words = line.split_ascii_whitespace();
    let (Some(name), Some(role), Some(hash)) = (words.next(), words.next(), words.next()) else {
        return Err(format!("it has less than three words; {FORM}"));
    };
    if !is_name(name) {
        return Err("its name is none; write 1 to 64 letters, digits, dots, hyphens or underscores".to_owned());
    }
    let role: Role = role.parse()?;
    let hash = hash.strip_prefix(HASH).and_then(|digits| blake3::Hash::from_hex(digits).ok());
    let hash =
        hash.ok_or_else(|| format!("its third word is no hash, which is {HASH} and 64 hexadecimal digits; {FORM}"))?;
    let prefixes: Vec<Vec<u8>> = words
        .map(|word| {
            decode(word).ok_or_else(|| {
                format!("the prefix {word:?} has a % without two hexadecimal digits; write %25 for the sign itself")
            })
        })
        .collect::<Result<_, _>>()?;
    if prefixes.len() > PREFIXES_MAX {
        return Err(format!("it has {} prefixes; at most {PREFIXES_MAX} are allowed", prefixes.len()));
    }
    if role == Role::Admin && !prefixes.is_empty() {
        return Err("it is an admin's and has prefixes; an admin reaches everything, so leave them out".to_owned());
    }
    Ok(Token { name: name.to_owned(), role, prefixes, hash })
}

/// Whether this can be a token's name: names appear in logs.
fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain)
}

/// The token that these random bytes make.
#[must_use]
pub fn token_of(random: [u8; 32]) -> String {
    let mut token = TOKEN.to_owned();
    for byte in random {
        write!(token, "{byte:02x}").expect("writing into a String never fails");
    }
    token
}

/// The line of the tokens file for `token`, without the end of the line.
///
/// # Errors
/// Where the file can't hold it: the name is none, or an admin is to be limited.
pub fn line(name: &str, role: Role, prefixes: &[String], token: &str) -> Result<String, String> {
    let mut line = format!("{name} {role} {HASH}{}", blake3::hash(token.as_bytes()).to_hex());
    for prefix in prefixes {
        if prefix.is_empty() {
            return Err("a prefix is empty; leave it out, and the token reaches every key".to_owned());
        }
        line.push(' ');
        encode(prefix, &mut line);
    }
    let read = self::token(&line)?;
    let wanted: Vec<&[u8]> = prefixes.iter().map(String::as_bytes).collect();
    if read.name == name && read.prefixes == wanted {
        Ok(line)
    } else {
        Err(format!("{name:?} is no name for a token"))
    }
}

fn encode(prefix: &str, into: &mut String) {
    for character in prefix.chars() {
        if character.is_whitespace() || character.is_control() || character == '%' {
            let mut bytes = [0; 4];
            for byte in character.encode_utf8(&mut bytes).bytes() {
                write!(into, "%{byte:02X}").expect("writing into a String never fails");
            }
        } else {
            into.push(character);
        }
    }
}

fn decode(word: &str) -> Option<Vec<u8>> {
    let mut bytes = word.bytes();
    let mut decoded = Vec::with_capacity(word.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        decoded.push((high << 4 | low) as u8);
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::super::Denied;
    use super::*;

    fn file() -> (Access, [String; 3]) {
        let tokens = [1, 2, 3].map(|seed| token_of([seed; 32]));
        let line = |nth: usize, name, role, prefixes: &[&str]| {
            let prefixes: Vec<String> = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
            line(name, role, &prefixes, &tokens[nth]).expect("it can be written")
        };
        let text = format!(
            "# ours\n\n{}\n  {}\r\n{}",
            line(0, "watcher", Role::Read, &[]),
            line(1, "app", Role::Write, &["app/", "100% of a b/", "ключ/"]),
            line(2, "operator", Role::Admin, &[])
        );
        (Access::parse(text.as_bytes()).expect("a good file"), tokens)
    }

    #[test]
    fn a_token_gives_its_role_and_nothing_else_does() {
        let (access, tokens) = file();
        assert_eq!((access.tokens(), access.is_open()), (3, false));
        let roles = tokens.each_ref().map(|token| {
            let grant = access.judge(Some(token.as_bytes())).expect("it is in the file");
            Role::ALL.map(|role| grant.may(role).is_ok())
        });
        assert_eq!(roles, [[true, false, false], [true, true, false], [true, true, true]]);
        assert_eq!(access.judge(None).err(), Some(Refusal::Missing));
        let mut near = tokens[0].clone();
        near.pop();
        let hash = blake3::hash(tokens[0].as_bytes()).to_hex();
        for wrong in ["", "x", &near, &format!("{}0", tokens[0]), hash.as_str(), &"x".repeat(5000)] {
            assert_eq!(access.judge(Some(wrong.as_bytes())).err(), Some(Refusal::Unknown), "{wrong}");
        }
    }

    #[test]
    fn prefixes_limit_keys_and_listings() {
        let (access, tokens) = file();
        let app = access.judge(Some(tokens[1].as_bytes())).expect("it is in the file");
        for (key, within) in [
            ("app/", true),
            ("app/x", true),
            ("100% of a b/c", true),
            ("ключ/a", true),
            ("app", false),
            ("", false),
            ("apple", false),
            ("xapp/", false),
            ("100%25 of a b/", false),
        ] {
            let expected = if within { Ok(()) } else { Err(Denied::Prefix) };
            assert_eq!(app.may_key(Role::Write, key.as_bytes()), expected, "{key:?}");
            assert_eq!(app.may_below(Role::Read, key.as_bytes()), expected, "{key:?}");
        }
        let denied = Err(Denied::Role { needed: Role::Admin, held: Role::Write });
        assert_eq!(app.may_key(Role::Admin, b"app/x"), denied);
        let everywhere = access.judge(Some(tokens[0].as_bytes())).expect("it is in the file");
        assert_eq!(everywhere.may_below(Role::Read, b""), Ok(()));
    }

    #[test]
    fn a_grant_lasts_as_long_as_its_line() {
        let (access, tokens) = file();
        let grant = access.judge(Some(tokens[1].as_bytes())).expect("it is in the file");
        assert!(access.confirms(&grant) && Access::open().confirms(&grant));
        let with = |role, prefixes: &[&str], name: &str| {
            let prefixes: Vec<String> = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
            let line = line(name, role, &prefixes, &tokens[1]).expect("it can be written");
            Access::parse(line.as_bytes()).expect("a good file").confirms(&grant)
        };
        let prefixes = ["app/", "100% of a b/", "ключ/"];
        assert!(with(Role::Write, &prefixes, "app"));
        assert!(with(Role::Write, &prefixes, "renamed"));
        assert!(!with(Role::Read, &prefixes, "app"), "a smaller role");
        assert!(!with(Role::Write, &["app/"], "app"), "fewer prefixes");
        assert!(!Access::parse(b"").expect("an empty file is one").confirms(&grant));
        let open = Access::open().judge(None).expect("everybody");
        assert!(open.may_key(Role::Admin, b"x").is_ok() && !access.confirms(&open));
    }

    #[test]
    fn an_empty_file_lets_nobody_in() {
        let access = Access::parse(b"# nobody\n").expect("it is a file of tokens");
        assert_eq!(access.judge(None).err(), Some(Refusal::Missing));
        assert_eq!(access.judge(Some(b"")).err(), Some(Refusal::Unknown));
    }

    #[test]
    fn a_line_that_is_wrong_is_named_and_no_hash_is_repeated() {
        let hash = format!("{HASH}{}", blake3::hash(b"x").to_hex());
        for (text, line, problem) in [
            ("a read".to_owned(), 1, "less than three words"),
            (format!("\n\na/b read {hash}"), 3, "its name is none"),
            (format!("a reader {hash}"), 1, "\"reader\" is no role"),
            ("a read hunter2".to_owned(), 1, "no hash"),
            (format!("a read {}", &hash[7..]), 1, "no hash"),
            (format!("a read {hash}0"), 1, "no hash"),
            (format!("a read {hash} 100%"), 1, "%25"),
            (format!("a admin {hash} x/"), 1, "leave them out"),
            (format!("a read {hash}\nb write {hash}"), 2, "the token of line 1"),
            (format!("a read {hash}{}", " p".repeat(65)), 1, "65 prefixes"),
        ] {
            let error = Access::parse(text.as_bytes()).expect_err(&text);
            assert_eq!(error.line, line, "{text}");
            assert!(error.problem.contains(problem) && !error.problem.contains("hunter2"), "{error}");
        }
        assert!(Access::parse(b"\xff").is_err());
        let (access, tokens) = file();
        let grant = access.judge(Some(tokens[1].as_bytes())).expect("it is in the file");
        let printed = format!("{access:?} {grant:?}");
        assert!(printed.contains("app") && !printed.contains(blake3::hash(tokens[1].as_bytes()).to_hex().as_str()));
    }

    #[test]
    fn a_line_that_would_be_read_otherwise_is_not_written() {
        let token = token_of([7; 32]);
        for name in ["", "a b", "#a", "a\nb"] {
            assert!(line(name, Role::Read, &[], &token).is_err(), "{name:?}");
        }
        assert!(line("a", Role::Admin, &["x".to_owned()], &token).is_err());
        assert!(line("a", Role::Read, &[String::new()], &token).is_err());
        assert!(line("a", Role::Read, &["\u{a0}\n".to_owned()], &token).is_ok());
    }
}
