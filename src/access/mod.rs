//! Who may do what: tokens, their roles, and the prefixes of keys that they reach.
//!
//! A client shows a *token*, a random word that only it and the operator know. The tokens file holds one a line, hashed, so
//! that whoever reads the file can't use it. What a token allows is its [`Role`], and perhaps a few prefixes of keys that
//! it is limited to:
//!
//! | role | reads | writes | operates the cluster |
//! |---|---|---|---|
//! | `read` | yes | | |
//! | `write` | yes | yes | |
//! | `admin` | yes | yes | yes |
//!
//! ```text
//! token ─▶ Access::judge ─┬─▶ Grant ─▶ may(role), may_key(role, key), may_below(role, prefix) ─┬─▶ go on
//!                         │                                                                    └─▶ Denied
//!                         └─▶ Refusal: none was shown, or nobody has it ─▶ Throttle counts it
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `grant` | [`Role`], [`Grant`], [`Denied`]: what somebody may do |
//! | `tokens` | [`Access`]: the tokens in force; the lines of the tokens file |
//! | `throttle` | [`Throttle`]: addresses that guess |
//!
//! # Invariants
//!
//! - A token is compared by its hash, and hashes in constant time: how long a refusal takes says nothing about how close a
//!   guess was.
//! - A [`Grant`] is only as good as the [`Access`] that gave it. Whoever holds one for longer than one request asks
//!   [`Access::confirms`] again whenever the tokens have changed.
//! - Without a tokens file everybody may do everything; with one, an empty one included, nobody may do anything without a
//!   token.
//! - No token and no hash is in anything that these types print.
//!
//! # What is left out
//!
//! Reading the file, clocks and addresses: the server and the gateways bring them. Tokens that expire by themselves: remove
//! the line.

mod grant;
mod throttle;
mod tokens;

pub use grant::{Denied, Grant, Role};
pub use throttle::{Peer, Throttle};
pub use tokens::{Access, Refusal, TokensError, line, token_of};
