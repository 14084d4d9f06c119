//! What somebody may do.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// What a token is for. Each role includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reading values, listings, the feed, and how the cluster is.
    Read,
    /// Changing values, too.
    Write,
    /// Operating the cluster, too.
    Admin,
}

impl Role {
    /// All of them, the least first.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Admin];

    /// How it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.name() == text);
        found.ok_or_else(|| format!("{text:?} is no role; write read, write or admin"))
    }
}

/// One token of the file. It prints without its hash.
#[derive(PartialEq, Eq)]
pub(super) struct Token {
    pub(super) name: String,
    pub(super) role: Role,
    /// Everything where there are none.
    pub(super) prefixes: Vec<Vec<u8>>,
    pub(super) hash: blake3::Hash,
}

impl Token {
    fn reaches(&self, key: &[u8]) -> bool {
        self.prefixes.is_empty() || self.prefixes.iter().any(|prefix| key.starts_with(prefix))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {} prefixes)", self.name, self.role, self.prefixes.len())
    }
}

/// What one client may do: what the token allows that it has shown, or everything where no tokens are asked for. A clone is
/// cheap.
#[derive(Clone, Debug)]
pub struct Grant(pub(super) Held);

#[derive(Clone, Debug)]
pub(super) enum Held {
    Nothing,
    Everything,
    Token(Arc<Token>),
}

/// Why a grant isn't enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Denied {
    /// Its role is too small.
    #[error("this takes a token with the role {needed}; this one has {held}")]
    Role {
        /// What it takes.
        needed: Role,
        /// What there is.
        held: Role,
    },
    /// Nobody was asked who they are, and this isn't for everybody.
    #[error("this takes a token")]
    Nobody,
    /// It is limited to other keys.
    #[error("this token is limited to keys with other prefixes")]
    Prefix,
}

impl Grant {
    /// What may be done without a token where tokens are asked for: nothing. It was given by no [`super::Access`], and none
    /// confirms it but an open one.
    #[must_use]
    pub fn nobody() -> Self {
        Self(Held::Nothing)
    }

    /// Whether anything may be done that takes `needed`, whatever it is done to. What concerns keys is asked with
    /// [`Grant::may_key`] or [`Grant::may_below`] instead.
    ///
    /// # Errors
    /// Where it may not.
    pub fn may(&self, needed: Role) -> Result<(), Denied> {
        match &self.0 {
            Held::Everything => Ok(()),
            Held::Token(token) if token.role >= needed => Ok(()),
            Held::Token(token) => Err(Denied::Role { needed, held: token.role }),
            Held::Nothing => Err(Denied::Nobody),
        }
    }

    /// Whether that may be done to one key (or one file, by its path).
    ///
    /// # Errors
    /// Where it may not.
    pub fn may_key(&self, needed: Role, key: &[u8]) -> Result<(), Denied> {
        self.may(needed)?;
        match &self.0 {
            Held::Token(token) if !token.reaches(key) => Err(Denied::Prefix),
            _ => Ok(()),
        }
    }

    /// Whether that may be done to every key that begins with `prefix`: all of them have to be within reach, so a listing of
    /// more than that is denied and not cut down.
    ///
    /// # Errors
    /// Where it may not.
    pub fn may_below(&self, needed: Role, prefix: &[u8]) -> Result<(), Denied> {
        // What a prefix begins with, every key below it begins with, and some key below a shorter one doesn't.
        self.may_key(needed, prefix)
    }

    /// The token's name in the file; none where none was asked for.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match &self.0 {
            Held::Token(token) => Some(&token.name),
            _ => None,
        }
    }
}
