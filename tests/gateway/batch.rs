//! Batches: what is asked and answered, what is refused, and in which order things are done.

use jumpgate::api::batch::{BatchOpJson, BatchResultJson};
use jumpgate::api::{Consistency, Error, Key, Operation, Precondition};
use jumpgate::base::{FollowerMode, Version};
use jumpgate::client::{BatchOptions, Client};
use jumpgate::gateway::GatewayOptions;
use jumpgate::port::Leadership;
use serde_json::{Value, json};

use super::raw_http::{Answer, Served};

const HEAD: &str = "POST /v1/batch\r\nContent-Type: application/json";

async fn ask(served: &Served, ops: &Value) -> Answer {
    served.ask(HEAD, json!({"ops": ops}).to_string().as_bytes()).await
}

async fn results(served: &Served, ops: &Value) -> Vec<Value> {
    let answer = ask(served, ops).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"), "{answer:?}");
    answer.json()["results"].as_array().expect("results").clone()
}

fn key(text: &str) -> Key {
    text.parse().expect("a key")
}

#[tokio::test]
async fn each_operation_has_its_own_outcome_in_order() {
    let served = Served::new().await;
    let ops = json!([
        {"op": "put", "key": "a", "value": "b25l", "content_type": "text/plain", "ttl_ms": 5000},
        {"op": "create", "key": "b", "value": ""},
        {"op": "get", "key": "a"},
        {"op": "get", "key": "nothing"},
        {"op": "create", "key": "a", "value": "eA=="},
        {"op": "put", "key": "b", "value": "eA==", "if_match": 77},
        {"op": "put", "key": "b", "value": "eA==", "if_match": "\"2\""},
        {"op": "delete", "key": "a"},
        {"op": "delete", "key": "a"},
    ]);
    let found = results(&served, &ops).await;
    let detail = |nth: usize| found[nth]["detail"].clone();
    let kind = |name: &str| format!("urn:jumpgate:problem:{name}");
    let expected = [
        json!({"status": 201, "version": 1, "copies": 2}),
        json!({"status": 201, "version": 2, "copies": 2}),
        json!({"status": 200, "version": 1, "value": "b25l", "content_type": "text/plain", "expires_in_ms": 5000}),
        json!({"status": 404, "type": kind("not-found"), "detail": detail(3)}),
        json!({"status": 409, "version": 1, "type": kind("exists"), "detail": detail(4), "outcome": "definite"}),
        json!({"status": 412, "version": 2, "type": kind("precondition-failed"), "detail": detail(5), "outcome": "definite"}),
        json!({"status": 204, "version": 3, "copies": 2}),
        json!({"status": 204, "copies": 2}),
        json!({"status": 404, "type": kind("not-found"), "detail": detail(8), "outcome": "definite"}),
    ];
    assert_eq!(found, expected);
    assert!(results(&served, &json!([])).await.is_empty());
}

#[tokio::test]
async fn one_operation_that_is_wrong_refuses_all_of_them_by_its_index() {
    let options = GatewayOptions { value_bytes_max: 100, ..GatewayOptions::default() };
    let served = Served::start(options).await;
    let good = json!({"op": "put", "key": "a", "value": "eA=="});
    let large = "A".repeat(136);
    let cases = [
        (json!({"op": "peek", "key": "a"}), 400, "bad-request"),
        (json!({"op": "put", "key": "a", "value": "eA==", "ttl": 1}), 400, "bad-request"),
        (json!({"op": "put", "key": "a"}), 400, "bad-request"),
        (json!({"op": "put", "key": "a", "value": "?"}), 400, "bad-request"),
        (json!({"op": "put", "key": "a", "value": "", "ttl_ms": 0}), 400, "bad-request"),
        (json!({"op": "put", "key": "a", "value": "", "if_match": "*"}), 400, "bad-request"),
        (json!({"op": "put", "key": "a", "value": "", "content_type": "\n"}), 400, "bad-request"),
        (json!({"op": "create", "key": "a", "value": "", "if_match": 1}), 400, "bad-request"),
        (json!({"op": "get", "key": "a", "if_match": 1}), 400, "bad-request"),
        (json!({"op": "get", "key": "a", "value": ""}), 400, "bad-request"),
        (json!({"op": "delete", "key": "a", "ttl_ms": 1}), 400, "bad-request"),
        (json!({"op": "get", "key": ""}), 400, "bad-key"),
        (json!({"op": "get", "key": "k".repeat(1025)}), 400, "bad-key"),
        (json!({"op": "put", "key": "a", "value": large}), 413, "value-too-large"),
    ];
    for (bad, status, name) in cases {
        let answer = ask(&served, &json!([good, bad])).await;
        assert_eq!((answer.status, answer.problem()), (status, name.to_owned()), "{bad}");
        let json = answer.json();
        assert!(json["detail"].as_str().is_some_and(|detail| detail.contains("ops[1]: ")), "{bad}: {json}");
        assert_eq!(json["outcome"], "definite", "{bad}");
    }
    let many = vec![good.clone(); 1001];
    let answer = ask(&served, &json!(many)).await;
    assert!(answer.status == 400 && answer.json()["detail"].as_str().is_some_and(|said| said.contains("ops[1000]")));
    let huge = "x".repeat(2 << 20);
    let answer = served.ask(HEAD, huge.as_bytes()).await;
    assert_eq!((answer.status, answer.problem()), (413, "batch-too-large".to_owned()));
    assert!(served.core.state().requests.is_empty(), "nothing was done");
}

#[tokio::test]
async fn a_batch_says_that_it_is_json_and_goes_where_writes_go() {
    let served = Served::new().await;
    assert_eq!(served.ask("POST /v1/batch", b"{\"ops\":[]}").await.status, 415);
    assert_eq!(served.ask("POST /v1/batch\r\nContent-Type: text/plain", b"{\"ops\":[]}").await.status, 415);
    assert_eq!(served.get("/v1/batch").await.header("allow"), "POST, OPTIONS");
    assert_eq!(served.ask("OPTIONS /v1/batch", b"").await.status, 204);
    let leader_url = Some("http://n2:7401".into());
    let redirecting = Leadership { followers: FollowerMode::Redirect, is_leader: false, leader_url };
    served.core.state().leadership = redirecting;
    let answer = served.ask(&HEAD.replace("/batch", "/batch?timeout=1s"), b"{\"ops\":[]}").await;
    assert_eq!((answer.status, answer.header("location")), (307, "http://n2:7401/v1/batch?timeout=1s"));
}

#[tokio::test]
async fn what_comes_after_an_unknown_write_to_the_same_key_is_not_begun() {
    let served = Served::new().await;
    let unknown = || Error::OutcomeUnknown("x".to_owned());
    served.core.state().failures = vec![unknown(), Error::Busy("x".to_owned())];
    let ops = json!([
        {"op": "put", "key": "a", "value": "MQ=="},
        {"op": "put", "key": "b", "value": "MQ=="},
        {"op": "put", "key": "a", "value": "Mg=="},
        {"op": "put", "key": "b", "value": "Mg=="},
        {"op": "get", "key": "a"},
    ]);
    let found = results(&served, &ops).await;
    let told: Vec<_> = found.iter().map(|result| (result["status"].as_u64(), result["outcome"].as_str())).collect();
    let expected = [
        (Some(504), Some("unknown")),
        (Some(429), Some("definite")),
        (Some(503), Some("definite")),
        (Some(201), None),
        (Some(503), None),
    ];
    assert_eq!(told, expected);
    let asked: Vec<String> =
        served.core.state().requests.iter().filter_map(|request| Some(request.operation.key()?.to_string())).collect();
    assert_eq!(asked, ["a", "b", "b"]);
}

#[tokio::test]
async fn an_answer_is_no_larger_than_a_request_may_be() {
    let options = GatewayOptions { value_bytes_max: 1 << 20, ..GatewayOptions::default() };
    let served = Served::start(options).await;
    let value = vec![b'v'; 900 << 10];
    for name in ["a", "b", "c"] {
        assert_eq!(served.ask(&format!("PUT /v1/kv/{name}"), &value).await.status, 201);
    }
    let ops: Vec<Value> = ["a", "b", "c", "d"].iter().map(|name| json!({"op": "get", "key": name})).collect();
    let statuses: Vec<_> = results(&served, &json!(ops)).await.iter().map(|result| result["status"].as_u64()).collect();
    assert_eq!(statuses, [Some(200), Some(200), Some(413), Some(404)]);
}

#[tokio::test]
async fn the_client_tries_again_what_did_not_happen() {
    let served = Served::new().await;
    let client = Client::new(vec![format!("http://{}", served.address)]).expect("a URL");
    let busy = || Error::NoQuorum("x".to_owned());
    served.core.state().failures = vec![busy(), busy(), Error::OutcomeUnknown("x".to_owned()), busy()];
    let ops = [
        BatchOpJson::put(&key("a"), b"1"),
        BatchOpJson::get(&key("b")),
        BatchOpJson::put(&key("c"), b"1"),
        BatchOpJson::delete(&key("d")),
    ];
    let done = client.batch(&ops, &BatchOptions::default()).await.expect("an answer");
    let statuses = |results: &[BatchResultJson]| results.iter().map(|result| result.status).collect::<Vec<_>>();
    assert_eq!(statuses(&done), [201, 404, 201, 404]);
    served.core.state().failures = vec![Error::OutcomeUnknown("x".to_owned()), busy()];
    let options = BatchOptions { timeout: Some(std::time::Duration::from_secs(2)) };
    let twice = [ops[2].clone(), ops[0].clone(), BatchOpJson::put(&key("a"), b"2").if_match(Version(9))];
    let done = client.batch(&twice, &options).await.expect("an answer");
    assert_eq!(statuses(&done), [204, 503, 412], "one of two operations on a key would come after the other");
    let wanted = Operation::Get { key: key("b"), consistency: Consistency::Linearizable };
    assert!(served.core.state().requests.iter().any(|request| request.operation == wanted));
    let deleted = Operation::Delete { key: key("d"), precondition: Precondition::NONE };
    assert_eq!(served.core.state().requests.iter().filter(|request| request.operation == deleted).count(), 2);
}
