//! Who an FTP client is: the password is the token, the user's name is anything.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use unftp_core::auth::{
    AuthenticationError, Authenticator, Credentials, Principal, UserDetail, UserDetailError, UserDetailProvider,
};

use crate::access::Grant;
use crate::gateway::Guard;

/// The login of one session. It is asked twice, for a principal and for what is known of that, and carries the grant from the
/// first to the second.
pub(super) struct Login {
    guard: Arc<Guard>,
    /// Where the client is; libunftp knows only where the relay is.
    peer: IpAddr,
    granted: Mutex<Option<Grant>>,
}

/// Who has logged in.
#[derive(Debug)]
pub(super) struct Visitor {
    pub(super) grant: Grant,
}

impl Login {
    pub(super) const fn new(guard: Arc<Guard>, peer: IpAddr) -> Self {
        Self { guard, peer, granted: Mutex::new(None) }
    }
}

#[async_trait]
impl Authenticator for Login {
    async fn authenticate(&self, _: &str, credentials: &Credentials) -> Result<Principal, AuthenticationError> {
        let token = credentials.password.as_deref().filter(|password| !password.is_empty());
        let grant = self.guard.judge(self.peer, token.map(str::as_bytes), false);
        let grant = grant.map_err(|_| AuthenticationError::BadPassword)?;
        let username = grant.name().unwrap_or("anonymous").to_owned();
        *self.granted.lock().unwrap_or_else(PoisonError::into_inner) = Some(grant);
        Ok(Principal { username })
    }
}

#[async_trait]
impl UserDetailProvider for Login {
    type User = Visitor;

    async fn provide_user_detail(&self, _: &Principal) -> Result<Visitor, UserDetailError> {
        let granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner).take();
        granted
            .map(|grant| Visitor { grant })
            .ok_or_else(|| UserDetailError::Generic("nobody has logged in".to_owned()))
    }
}

impl UserDetail for Visitor {}

impl fmt::Display for Visitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.grant.name().unwrap_or("anonymous"))
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}
