//! Which gateway is asked next, and when to give up.
//!
//! A call goes through the known gateways in rounds, beginning with the one that answered last. Within a round it goes
//! from one to the next at once; between rounds it waits, twice as long each time and jittered, so that many clients of
//! a cluster that comes back don't come back all at the same moment. It ends at the call's deadline, or, where nobody
//! listened anywhere, after [`CONNECT_PATIENCE`].

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::{ClientError, GatewayUrl, Inner, Safety};
use crate::base::Rng;

/// The first wait between rounds; a fail-over takes a few of them.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
/// The longest wait between rounds.
const PAUSE_LONGEST: Duration = Duration::from_secs(1);
/// How long a call goes on while every gateway refuses the connection. A process that is being restarted comes back
/// within that time; whoever mistyped a URL doesn't want to wait longer to be told.
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);

/// Why one attempt did not answer the call.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another attempt may be made, and the call certainly did not happen.
    Definite(ClientError),
    /// Another attempt may be made because doing it twice is harmless; this one may have happened.
    Unknown(ClientError),
    /// Another attempt would not help, or must not be made.
    Final(ClientError),
}

/// The attempts of one call.
pub(super) struct Rounds<'a> {
    inner: &'a Inner,
    deadline: Instant,
    patience_ends: Instant,
    /// The index of the gateway that this round began with.
    begin: usize,
    /// How many gateways this round has been through.
    tried: usize,
    pause: Duration,
    rng: Rng,
    /// Whether any attempt got further than connecting.
    reached_any: bool,
    /// The most telling failure that certainly did not happen.
    definite: Option<ClientError>,
    /// The first failure that may have happened: it outweighs all that follow.
    unknown: Option<ClientError>,
}

/// How much a failure tells: what a gateway said more than that one was silent, and that more than that one is down.
const fn telling(error: &ClientError) -> u8 {
    match error {
        ClientError::Unreachable { .. } => 0,
        ClientError::NoAnswer { .. } => 1,
        _ => 2,
    }
}

impl<'a> Rounds<'a> {
    /// A call that may take `timeout`.
    pub(super) fn new(inner: &'a Inner, timeout: Duration) -> Self {
        let now = Instant::now();
        Self {
            inner,
            deadline: now + timeout,
            patience_ends: now + timeout.min(CONNECT_PATIENCE),
            begin: inner.preferred.load(Ordering::Relaxed),
            tried: 0,
            pause: PAUSE_FIRST,
            rng: Rng::new(rand::random()),
            reached_any: false,
            definite: None,
            unknown: None,
        }
    }

    /// Whether every gateway was asked in this round.
    pub(super) fn is_round_over(&self) -> bool {
        self.tried == self.inner.gateways.len()
    }

    /// When the attempt that begins now is given up. What could go elsewhere gets half of the time that is left, so that a
    /// gateway that hangs doesn't take it all; a write that must not be made twice gets all of it, because giving up early
    /// would only leave it unknown.
    pub(super) fn attempt_ends(&self, safety: Safety) -> Instant {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match safety {
            Safety::Read | Safety::OnceWrite if self.inner.gateways.len() > 1 => self.deadline - left / 2,
            _ => self.deadline,
        }
    }

    /// The gateway to ask now; waits where a round is over.
    pub(super) async fn next(&mut self) -> Result<&'a GatewayUrl, ClientError> {
        let count = self.inner.gateways.len();
        if self.tried == count {
            let ends = if self.reached_any { self.deadline } else { self.patience_ends };
            let pause = self.pause / 2 + self.rng.duration(self.pause);
            if Instant::now() + pause >= ends {
                return Err(self.give_up());
            }
            tokio::time::sleep(pause).await;
            self.pause = (self.pause * 2).min(PAUSE_LONGEST);
            self.begin = self.inner.preferred.load(Ordering::Relaxed);
            self.tried = 0;
        } else if self.tried > 0 && Instant::now() >= self.deadline {
            return Err(self.give_up());
        }
        let index = (self.begin + self.tried) % count;
        self.tried += 1;
        Ok(&self.inner.gateways[index])
    }

    /// An attempt failed. An error means that the call has.
    pub(super) fn failed(&mut self, failure: Failure) -> Result<(), ClientError> {
        match failure {
            Failure::Definite(error) => {
                self.reached_any |= !error.is_unreachable();
                if self.definite.as_ref().is_none_or(|known| telling(&error) >= telling(known)) {
                    self.definite = Some(error);
                }
                Ok(())
            }
            Failure::Unknown(error) => {
                self.reached_any = true;
                self.unknown.get_or_insert(error);
                Ok(())
            }
            // After an attempt that may have happened, the last word isn't that it did not.
            Failure::Final(error) => Err(self.unknown.take().unwrap_or(error)),
        }
    }

    /// An attempt was answered for good. An error means that the answer doesn't decide: it is a refusal, and an attempt
    /// before it may have happened, or may happen still. (Had it happened before this one, this one would have been told.)
    pub(super) fn judged(&mut self, is_refused: bool) -> Result<(), ClientError> {
        if is_refused && let Some(error) = self.unknown.take() { Err(error) } else { Ok(()) }
    }

    fn give_up(&mut self) -> ClientError {
        let error = self.unknown.take().or_else(|| self.definite.take());
        match error {
            Some(ClientError::Unreachable { reason, .. }) => {
                let urls: Vec<String> = self.inner.gateways.iter().map(ToString::to_string).collect();
                ClientError::Unreachable { urls: urls.join(", "), reason }
            }
            Some(error) => error,
            None => ClientError::Unreachable {
                urls: self.inner.gateways[0].to_string(),
                reason: "the deadline passed first".to_owned(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::json::ProblemJson;
    use crate::client::Client;

    #[tokio::test]
    async fn what_a_gateway_said_outweighs_silence_and_refused_connections() {
        let client = Client::new(vec!["http://127.0.0.1:7401".to_owned()]).expect("a URL");
        let mut rounds = Rounds::new(&client.inner, Duration::from_secs(1));
        let text = String::new;
        let problem = ProblemJson { kind: text(), title: text(), status: 503, detail: text(), outcome: None };
        let failures = [
            ClientError::Unreachable { urls: text(), reason: text() },
            ClientError::NoAnswer { url: text(), reason: text() },
            ClientError::Refused { url: text(), problem: Box::new(problem) },
            ClientError::NoAnswer { url: text(), reason: text() },
            ClientError::Unreachable { urls: text(), reason: text() },
        ];
        for failure in failures {
            assert_eq!(rounds.failed(Failure::Definite(failure)), Ok(()));
        }
        let last_word = rounds.give_up();
        assert!(matches!(last_word, ClientError::Refused { .. }), "{last_word}");
    }
}
