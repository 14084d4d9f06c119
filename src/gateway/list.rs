//! `/v1/kv`: keys in order, a page at a time.

use warp::http::Method;

use super::kv::{DEGRADED, TRUE, unexpected};
use super::problem::Problem;
use super::routes::{Call, Reply, Shared, json, options};
use crate::access::Role;
use crate::api::json::{PageJson, from_base64};
use crate::api::{self, Key, Operation, RESERVED};
use crate::base::{Blob, limits};

const ALLOWED: &str = "GET, HEAD, OPTIONS";

/// Keys on a page where the client doesn't say.
const LIMIT_DEFAULT: u32 = 1000;

/// Answers one request.
pub(super) async fn handle(shared: &Shared, call: &Call) -> Reply {
    match call.method {
        Method::GET | Method::HEAD => {}
        Method::OPTIONS => return Ok(options(ALLOWED)),
        _ => return Err(Problem::method_not_allowed(ALLOWED)),
    }
    let query = call.query();
    let prefix = query.bytes("prefix")?.unwrap_or_default();
    if prefix.len() > limits::KEY_BYTES_MAX {
        let bytes_max = limits::KEY_BYTES_MAX;
        return Err(Problem::bad_request(format!("the prefix is longer than any key can be ({bytes_max} bytes)")));
    }
    call.may_below(shared, Role::Read, &prefix)?;
    let limit = match query.text("limit")? {
        None => LIMIT_DEFAULT,
        Some(text) => limit_of(&text)?,
    };
    let after = query.text("cursor")?.map(|cursor| key_of_cursor(&cursor)).transpose()?;
    let values = query.switch("values")?;
    let timeout = call.timeout(&shared.options)?;
    let is_reserved_wanted = prefix.starts_with(RESERVED.as_bytes());
    let prefix = Blob::from(prefix.as_ref());
    call.redirect(shared)?;
    let answer = shared.submit(Operation::List { prefix, after, limit, values }, timeout).await?;
    call.confirm(shared)?;
    match answer {
        api::Response::Page(mut page) => {
            if !is_reserved_wanted {
                // They sort behind all others: nothing comes after the first of them.
                let end = page.items.iter().position(|item| item.key.is_reserved());
                if let Some(end) = end {
                    page.items.truncate(end);
                    page.next_after = None;
                }
            }
            let mut response = json(&PageJson::from(&page))?;
            if page.degraded {
                response.headers_mut().insert(DEGRADED, TRUE);
            }
            Ok(response)
        }
        other => Err(unexpected(&other)),
    }
}

fn limit_of(text: &str) -> Result<u32, Problem> {
    let limit = text.parse().ok().filter(|&limit| (1..=limits::PAGE_ITEMS_MAX as u32).contains(&limit));
    limit.ok_or_else(|| {
        let limit_max = limits::PAGE_ITEMS_MAX;
        Problem::bad_request(format!("limit={text} is not a number from 1 to {limit_max}"))
    })
}

/// The key that a page ended with. A cursor is base64, in which a space can only be a `+` that was not encoded.
fn key_of_cursor(cursor: &str) -> Result<Key, Problem> {
    let bytes = from_base64(&cursor.replace(' ', "+")).ok();
    let key = bytes.and_then(|bytes| Key::new(bytes).ok());
    key.ok_or_else(|| Problem::bad_request("cursor is none that a listing gave; leave it out to begin at the start"))
}
