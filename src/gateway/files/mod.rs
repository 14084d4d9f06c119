//! `/v1/files/{path}`: files of any size, and folders.
//!
//! What a file is made of is the affair of [`crate::files`]; here HTTP is translated. Both directions are streams: a body is
//! cut into chunks while it comes, and given out while its chunks are fetched, so what one request takes of memory has a
//! bound that its size doesn't move. All that are under way share the bound of [`super::GatewayOptions::bodies_bytes_max`].
//!
//! ```text
//! GET, HEAD  a.txt     a file, or a part of it          PUT  a.txt    writes it
//! GET, HEAD  dir/      the entries of a folder          PUT  dir/     makes a folder
//! DELETE     a.txt     deletes it                       DELETE dir/   removes an empty folder
//! ```
//!
//! An answer that has begun can't become another one: where a chunk can't be read any more, the connection breaks before the
//! promised length, which no client takes for a whole file.

pub(super) mod collecting;
mod download;
mod store;
mod upload;

use std::sync::Arc;

use bytes::Buf;
use futures_util::Stream;
use serde::Serialize;
use warp::http::header::HeaderValue;
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use super::body::Body;
use super::conditional::tag_conditions;
use super::kv::{COPIES, DEGRADED, TRUE};
use super::problem::Problem;
use super::routes::{Call, Reply, Shared, json, options};
use super::target::{Plus, percent_decode};
use crate::access::Role;
use crate::api::json::{from_base64, to_base64};
use crate::base::limits;
use crate::files::{self, Asker, FolderPath, Found, TreePath};

pub(super) use store::{CoreStore, millis_now, now};
#[cfg(feature = "ftp")]
pub(super) use upload::Uploading;

const ALLOWED: &str = "GET, HEAD, PUT, DELETE, OPTIONS";
/// The root is always there.
const ALLOWED_AT_ROOT: &str = "GET, HEAD, OPTIONS";
/// Entries on a page where the client doesn't say.
const LIMIT_DEFAULT: usize = 1000;

/// Answers one request.
pub(super) async fn handle<S, B>(shared: &Arc<Shared>, call: &Call, body: &mut Body<S>) -> Reply
where
    S: Stream<Item = Result<B, warp::Error>> + Send + Unpin + 'static,
    B: Buf,
{
    let path = path_of(call.path(), shared.options.key_bytes_max)?;
    let is_root = matches!(&path, TreePath::Folder(folder) if folder.is_root());
    let allowed = if is_root { ALLOWED_AT_ROOT } else { ALLOWED };
    let needed = match call.method {
        Method::GET | Method::HEAD => Role::Read,
        Method::PUT | Method::DELETE if !is_root => Role::Write,
        Method::OPTIONS => return Ok(options(allowed)),
        _ => return Err(Problem::method_not_allowed(allowed)),
    };
    match &path {
        TreePath::File(file) => call.may_key(shared, needed, file.as_str().as_bytes())?,
        TreePath::Folder(folder) => call.may_below(shared, needed, folder.as_str().as_bytes())?,
    }
    let timeout = call.timeout(&shared.options)?;
    let store = CoreStore::new(Arc::clone(&shared.core), timeout);
    let mut asker = store.asker(&shared.options);
    match (path, &call.method) {
        (TreePath::File(path), &Method::PUT) => upload::put(shared, call, body, asker, path).await,
        (TreePath::File(path), &Method::DELETE) => {
            let conditions = tag_conditions(&call.headers)?;
            call.redirect(shared)?;
            Ok(done(StatusCode::NO_CONTENT, files::delete(&mut asker, &path, &conditions).await?))
        }
        (TreePath::File(path), _) => {
            call.redirect(shared)?;
            let entry = files::open(&mut asker, &path).await?;
            call.confirm(shared)?;
            download::answer(shared, call, store, entry)
        }
        (TreePath::Folder(folder), &Method::PUT) => {
            body.refuse_content("a folder has no content; a file's path doesn't end with a slash")?;
            call.redirect(shared)?;
            Ok(done(StatusCode::CREATED, files::create_folder(&mut asker, &folder, millis_now()).await?))
        }
        (TreePath::Folder(folder), &Method::DELETE) => {
            call.redirect(shared)?;
            Ok(done(StatusCode::NO_CONTENT, files::remove_folder(&mut asker, &folder).await?))
        }
        (TreePath::Folder(folder), _) => list(shared, call, &mut asker, &folder).await,
    }
}

/// The path that a raw target names: what follows `/v1/files/`, decoded once.
fn path_of(target: &str, key_bytes_max: usize) -> Result<TreePath, Problem> {
    let rest = target.strip_prefix("/v1/files").ok_or_else(Problem::no_such_path)?;
    let raw = match rest.strip_prefix('/') {
        Some(raw) => raw,
        None if rest.is_empty() => rest,
        None => return Err(Problem::no_such_path()),
    };
    let decoded = percent_decode(raw, Plus::Itself).map_err(|at| {
        Problem::bad_path(format!("the % at {at} of the path is not followed by two hexadecimal digits"))
    })?;
    TreePath::new(&decoded, key_bytes_max).map_err(|error| Problem::bad_path(error.to_string()))
}

/// The answer to a change that is done.
fn done(status: StatusCode, copies: u8) -> Response {
    let mut response = Response::default();
    *response.status_mut() = status;
    response.headers_mut().insert(COPIES, HeaderValue::from(u16::from(copies)));
    response
}

/// A page of a folder.
#[derive(Serialize)]
struct FolderJson<'a> {
    path: &'a str,
    items: Vec<ItemJson>,
    cursor: Option<String>,
}

#[derive(Serialize)]
struct ItemJson {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    modified_ms: Option<u64>,
}

async fn list(shared: &Shared, call: &Call, asker: &mut Asker<CoreStore>, folder: &FolderPath) -> Reply {
    let query = call.query();
    let limit = match query.text("limit")? {
        None => LIMIT_DEFAULT,
        Some(text) => {
            let limit = text.parse().ok().filter(|limit| (1..=limits::PAGE_ITEMS_MAX).contains(limit));
            limit.ok_or_else(|| {
                let limit_max = limits::PAGE_ITEMS_MAX;
                Problem::bad_request(format!("limit={text} is not a number from 1 to {limit_max}"))
            })?
        }
    };
    let after = query.text("cursor")?.map(|cursor| name_of_cursor(&cursor)).transpose()?;
    call.redirect(shared)?;
    let listing = files::list(asker, folder, after.as_deref(), limit).await?;
    call.confirm(shared)?;
    let items = listing.entries.into_iter().map(item).collect();
    let cursor = listing.next.map(|name| to_base64(name.as_bytes()));
    let mut response = json(&FolderJson { path: folder.as_str(), items, cursor })?;
    if listing.degraded {
        response.headers_mut().insert(DEGRADED, TRUE);
    }
    Ok(response)
}

fn item(found: Found) -> ItemJson {
    let Found { name, file } = found;
    let Some(file) = file else {
        return ItemJson { name, kind: "folder", size: None, etag: None, content_type: None, modified_ms: None };
    };
    let (size, etag, modified_ms) = (Some(file.size), Some(format!("\"{}\"", file.etag)), Some(file.modified_ms));
    ItemJson { name, kind: "file", size, etag, content_type: file.content_type, modified_ms }
}

/// The name that a page ended with. A cursor is base64, in which a space can only be a `+` that was not encoded.
fn name_of_cursor(cursor: &str) -> Result<String, Problem> {
    let bytes = from_base64(&cursor.replace(' ', "+")).ok();
    let name = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    let is_name = |name: &String| TreePath::new(name.as_bytes(), limits::KEY_BYTES_MAX).is_ok() && !name.is_empty();
    name.filter(is_name)
        .ok_or_else(|| Problem::bad_request("cursor is none that a listing gave; leave it out to begin at the start"))
}
