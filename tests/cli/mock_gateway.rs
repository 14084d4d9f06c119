//! A gateway that is just enough of one: the key-value, listing and admin part of the HTTP contract over a map, one
//! thread, any free port of loopback. It can be told to answer with failures first, and it remembers what it was asked.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use jumpgate::api::batch::{BatchJson, BatchOpKind, BatchResultJson, BatchResultsJson};
use jumpgate::base::limits;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// Pages are this short whatever limit was asked for, so that a few keys are many pages.
const PAGE_ITEMS_MAX: usize = 3;

/// A stored value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub value: Vec<u8>,
    pub content_type: Option<String>,
    pub ttl_ms: Option<u64>,
    pub version: u64,
}

/// An answer that is given instead of the real one.
#[derive(Clone, Debug)]
pub struct Canned {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

impl Canned {
    /// A problem document.
    pub fn problem(status: u16, outcome: Option<&str>) -> Self {
        let outcome = outcome.map(|outcome| format!(",\"outcome\":\"{outcome}\"")).unwrap_or_default();
        let body = format!(
            "{{\"type\":\"urn:jumpgate:problem:test\",\"title\":\"Test\",\"status\":{status},\
             \"detail\":\"the mock was told to say {status}\"{outcome}}}"
        );
        Self { status, headers: vec![("content-type", "application/problem+json".to_owned())], body }
    }

    /// A redirect.
    pub fn redirect(location: String) -> Self {
        Self { status: 307, headers: vec![("location", location)], body: String::new() }
    }
}

/// An operator's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What comes behind `/v1/admin/`.
    pub path: String,
    pub body: String,
    pub dry_run: bool,
}

#[derive(Debug, Default)]
struct State {
    admin: Vec<Asked>,
    recovered: Option<serde_json::Value>,
    entries: BTreeMap<String, Entry>,
    last_version: u64,
    canned: VecDeque<Canned>,
    asked: Vec<String>,
    cluster: String,
    ready: bool,
}

/// The running gateway; dropping it ends it.
#[derive(Debug)]
pub struct MockGateway {
    pub url: String,
    state: Arc<Mutex<State>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl MockGateway {
    pub fn start() -> Self {
        let state = Arc::new(Mutex::new(State { ready: true, ..State::default() }));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket can be made non-blocking");
        let url = format!("http://{}", listener.local_addr().expect("a bound socket has an address"));
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                tokio::select! {
                    () = serve(listener, shared) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { url, state, stop: Some(stop), thread: Some(thread) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the mock did not panic")
    }

    pub fn entry(&self, key: &str) -> Option<Entry> {
        self.state().entries.get(key).cloned()
    }

    pub fn store(&self, key: &str, value: &[u8]) {
        let mut state = self.state();
        state.last_version += 1;
        let entry = Entry { value: value.to_vec(), version: state.last_version, ..Entry::default() };
        state.entries.insert(key.to_owned(), entry);
    }

    /// Everything stored, without the versions.
    pub fn contents(&self) -> BTreeMap<String, Entry> {
        let state = self.state();
        state.entries.iter().map(|(key, entry)| (key.clone(), Entry { version: 0, ..entry.clone() })).collect()
    }

    /// Answers the next request so.
    pub fn answer_next(&self, canned: Canned) {
        self.state().canned.push_back(canned);
    }

    /// The requests so far, `METHOD target`.
    pub fn asked(&self) -> Vec<String> {
        self.state().asked.clone()
    }

    pub fn set_cluster(&self, json: &str) {
        json.clone_into(&mut self.state().cluster);
    }

    /// Operators' requests so far.
    pub fn admin(&self) -> Vec<Asked> {
        self.state().admin.clone()
    }

    /// What reports say of the partitions.
    pub fn set_recovered(&self, recovered: serde_json::Value) {
        self.state().recovered = Some(recovered);
    }

    pub fn set_ready(&self, ready: bool) {
        self.state().ready = ready;
    }
}

impl Drop for MockGateway {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let state = Arc::clone(&state);
                async move { Ok::<_, Infallible>(answer(request, &state).await) }
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, state: &Mutex<State>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let target = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let mut state = state.lock().expect("the mock did not panic");
    state.asked.push(format!("{} {target}", head.method));
    let canned = match state.canned.pop_front() {
        Some(canned) => canned,
        None => state.answer(&head, &body),
    };
    let mut response = Response::builder().status(canned.status);
    for (name, value) in &canned.headers {
        response = response.header(*name, value);
    }
    // Values travel through strings of base64 inside the mock, so that one type does for all answers.
    let body = match canned.body.strip_prefix("base64:") {
        Some(encoded) => STANDARD.decode(encoded).expect("the mock's own base64"),
        None => canned.body.into_bytes(),
    };
    response.body(Full::new(Bytes::from(body))).expect("a response")
}

fn ok(status: u16, headers: Vec<(&'static str, String)>, body: String) -> Canned {
    Canned { status, headers, body }
}

impl State {
    fn answer(&mut self, head: &hyper::http::request::Parts, body: &[u8]) -> Canned {
        let query: BTreeMap<String, String> = head
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), decoded(value)))
            .collect();
        let path = head.uri.path();
        if let Some(path) = path.strip_prefix("/v1/admin/") {
            return self.operate(head, path, body, &query);
        }
        if let Some(key) = path.strip_prefix("/v1/kv/") {
            let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
            return self.value(&head.method, decoded(key), body, &query, &header);
        }
        match path {
            "/v1/kv" => self.page(&query),
            "/v1/batch" => self.batch(body),
            "/v1/cluster" => ok(200, Vec::new(), self.cluster.clone()),
            "/readyz" if self.ready => ok(200, Vec::new(), "ready".to_owned()),
            "/readyz" => Canned::problem(503, None),
            _ => Canned::problem(404, None),
        }
    }

    /// Says that it did what it was asked to, or would do it.
    fn operate(
        &mut self,
        head: &hyper::http::request::Parts,
        path: &str,
        body: &[u8],
        query: &BTreeMap<String, String>,
    ) -> Canned {
        let is_json = head.headers.get("content-type").is_some_and(|kind| kind == "application/json");
        if head.method != Method::POST || is_json == body.is_empty() || !query.contains_key("timeout") {
            return Canned::problem(415, Some("definite"));
        }
        let dry_run = query.get("dry_run").is_some_and(|dry_run| dry_run == "true");
        let body = String::from_utf8(body.to_vec()).expect("JSON is text");
        self.admin.push(Asked { path: path.to_owned(), body, dry_run });
        let steps = if dry_run { ["first this", "then that"] } else { ["did this", "did that"] };
        ok(200, Vec::new(), serde_json::json!({ "steps": steps, "recovered": self.recovered }).to_string())
    }

    fn value(
        &mut self,
        method: &Method,
        key: String,
        body: &[u8],
        query: &BTreeMap<String, String>,
        header: &dyn Fn(&str) -> Option<String>,
    ) -> Canned {
        let current = self.entries.get(&key).cloned();
        if method == Method::GET {
            let Some(entry) = current else { return Canned::problem(404, None) };
            let mut headers = vec![("etag", format!("\"{}\"", entry.version))];
            headers.extend(entry.content_type.map(|content_type| ("content-type", content_type)));
            headers.extend(entry.ttl_ms.map(|milliseconds| ("jumpgate-expires-in", milliseconds.to_string())));
            return ok(200, headers, format!("base64:{}", STANDARD.encode(entry.value)));
        }
        let version = current.as_ref().map(|entry| format!("\"{}\"", entry.version));
        if header("if-match").is_some_and(|wanted| wanted != "*" && Some(wanted) != version) {
            return Canned::problem(412, Some("definite"));
        }
        if method == Method::POST && current.is_some() {
            return Canned::problem(409, Some("definite"));
        }
        if method == Method::DELETE {
            return match self.entries.remove(&key) {
                Some(_) => ok(204, Vec::new(), String::new()),
                None => Canned::problem(404, Some("definite")),
            };
        }
        self.last_version += 1;
        let ttl_ms = query.get("ttl").map(|ttl| ttl.trim_end_matches("ms").parse().expect("a time in milliseconds"));
        let entry =
            Entry { value: body.to_vec(), content_type: header("content-type"), ttl_ms, version: self.last_version };
        self.entries.insert(key, entry);
        let headers = vec![("etag", format!("\"{}\"", self.last_version)), ("jumpgate-copies", "2".to_owned())];
        ok(if current.is_some() { 204 } else { 201 }, headers, String::new())
    }

    /// Puts only, which is what an import asks for.
    fn batch(&mut self, body: &[u8]) -> Canned {
        let BatchJson { ops } = serde_json::from_slice(body).expect("a batch");
        assert!(body.len() <= limits::BATCH_BYTES_MIN, "a batch of {} bytes", body.len());
        let mut results = BatchResultsJson::default();
        for op in ops {
            assert!(op.op == BatchOpKind::Put && op.idempotency_key.is_some(), "{op:?}");
            self.last_version += 1;
            let value = STANDARD.decode(op.value.expect("a put has a value")).expect("base64");
            let (content_type, ttl_ms, version) = (op.content_type, op.ttl_ms, self.last_version);
            let before = self.entries.insert(op.key, Entry { value, content_type, ttl_ms, version });
            let status = if before.is_some() { 204 } else { 201 };
            results.results.push(BatchResultJson { status, version: Some(version), ..BatchResultJson::default() });
        }
        ok(200, Vec::new(), serde_json::to_string(&results).expect("results are JSON"))
    }

    fn page(&self, query: &BTreeMap<String, String>) -> Canned {
        let text = |name: &str| query.get(name).map_or("", String::as_str);
        let limit: usize = text("limit").parse().expect("a limit");
        let after = String::from_utf8(STANDARD.decode(text("cursor")).expect("a cursor")).expect("a key");
        let matching = self.entries.iter().filter(|(key, _)| key.starts_with(text("prefix")) && **key > after);
        let mut items: Vec<_> = matching.take(limit.min(PAGE_ITEMS_MAX) + 1).collect();
        let more = items.len() > limit.min(PAGE_ITEMS_MAX);
        items.truncate(limit.min(PAGE_ITEMS_MAX));
        let cursor = items.last().filter(|_| more).map(|(key, _)| STANDARD.encode(key));
        let items: Vec<serde_json::Value> = items
            .into_iter()
            .map(|(key, entry)| {
                let mut item = serde_json::json!({
                    "key": key, "version": entry.version, "size": entry.value.len(), "content_type": entry.content_type,
                });
                if let Some(ttl_ms) = entry.ttl_ms {
                    item["expires_in_ms"] = ttl_ms.into();
                }
                if text("values") == "true" {
                    item["value"] = STANDARD.encode(&entry.value).into();
                }
                item
            })
            .collect();
        ok(200, Vec::new(), serde_json::json!({ "items": items, "cursor": cursor }).to_string())
    }
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8().expect("UTF-8").into_owned()
}
