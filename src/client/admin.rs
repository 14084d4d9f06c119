//! What operators ask, as requests.

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, StatusCode};

use super::address::encode_segment;
use super::exchange::{Call, Safety};
use super::{Client, ClientError};
use crate::api::{AdminAction, AdminReport, AdminRequest};

impl Client {
    /// Does what an operator wishes, or says what it would do. A plan may be asked of several gateways; the real thing is
    /// sent again only where it certainly did not happen.
    ///
    /// # Errors
    /// Where it was refused, no gateway answered in time, or it may or may not have happened.
    pub async fn admin(&self, request: &AdminRequest) -> Result<AdminReport, ClientError> {
        let reply = self.call(&call_of(request), self.timeout).await?;
        if reply.status != StatusCode::OK {
            return Err(reply.refusal());
        }
        serde_json::from_slice(&reply.body)
            .map_err(|error| reply.unexpected(&format!("the JSON is not as agreed: {error}")))
    }
}

fn call_of(request: &AdminRequest) -> Call {
    let node = |name: &str, verb| format!("nodes/{}/{verb}", encode_segment(name));
    let (path, body) = match &request.action {
        AdminAction::Transfer { to } => ("transfer".to_owned(), to.as_ref().map(|to| serde_json::json!({ "to": to }))),
        AdminAction::AddNode { node: name } => (node(name, "add"), None),
        AdminAction::RemoveNode { node: name } => (node(name, "remove"), None),
        AdminAction::Drain { node: name } => (node(name, "drain"), None),
        AdminAction::InitForce { without } => ("init".to_owned(), Some(serde_json::json!({ "without": without }))),
        AdminAction::UnsafeRecover => ("unsafe-recover".to_owned(), None),
    };
    let query = if request.dry_run { "?dry_run=true" } else { "" };
    let json = body.as_ref().map(|_| (CONTENT_TYPE, HeaderValue::from_static("application/json")));
    Call {
        method: Method::POST,
        target: format!("/v1/admin/{path}{query}"),
        headers: json.into_iter().collect(),
        body: body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string())),
        safety: if request.dry_run { Safety::Read } else { Safety::Write },
    }
}
