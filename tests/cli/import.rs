//! Exports and imports: what is carried over, in which requests, and what is said where it isn't.

use super::mock_gateway::{Canned, MockGateway};
use super::{ODD_KEYS, Scratch, binary, run, succeed};

#[test]
fn an_export_and_an_import_carry_everything_over() {
    let (old, new) = (MockGateway::start(), MockGateway::start());
    for (nth, key) in ODD_KEYS.iter().enumerate() {
        old.store(key, &binary(nth as u8));
    }
    succeed(&old, &["put", "typed", "v", "--ttl", "1h", "--content-type", "image/png"], b"");
    let scratch = Scratch::new();
    let file = scratch.file_name("store.ndjson");
    let export = succeed(&old, &["export"], b"");
    assert!(export.stderr.contains("exported 15 keys"), "{}", export.stderr);
    succeed(&old, &["export", "--output", &file], b"");
    assert_eq!(std::fs::read(&file).expect("the export"), export.stdout, "two exports are the same bytes");
    assert_eq!(std::fs::read_dir(scratch.folder()).expect("the directory").count(), 1, "no partial file is left");

    let import = succeed(&new, &["import", &file], b"");
    assert!(import.text().starts_with("imported 15 keys in "), "{import:?}");
    assert_eq!(new.contents(), old.contents());
    assert_eq!(succeed(&new, &["export"], b"").stdout, export.stdout);

    let from_stdin = MockGateway::start();
    succeed(&from_stdin, &["import", "--concurrency", "1"], &export.stdout);
    assert_eq!(from_stdin.contents(), old.contents());
    let some = succeed(&old, &["export", "--prefix", "a/"], b"");
    assert_eq!(some.text().lines().count(), 3);
}

#[test]
fn a_failed_export_leaves_no_file_that_looks_whole() {
    let gateway = MockGateway::start();
    (0..5).for_each(|nth| gateway.store(&format!("k{nth}"), b"v"));
    let scratch = Scratch::new();
    let file = scratch.file_name("store.ndjson");
    gateway.answer_next(Canned::problem(500, None));
    let export = run(&gateway, &["export", "--output", &file], b"");
    assert_eq!(export.code, 1);
    assert!(!std::path::Path::new(&file).exists());
}

#[test]
fn an_import_stops_at_the_first_bad_line_and_names_it() {
    let gateway = MockGateway::start();
    let scratch = Scratch::new();
    let file = scratch.file_name("bad.ndjson");
    let lines = "{\"key\":\"one\",\"value\":\"MQ==\"}\n\n{\"key\":\"two\",\"value\":\"?\"}\n\
                 {\"key\":\"three\",\"value\":\"Mw==\"}\nnonsense\n";
    std::fs::write(&file, lines).expect("a file");

    let stopped = run(&gateway, &["import", &file], b"");
    assert_eq!(stopped.code, 1);
    assert!(stopped.text().starts_with("imported 1 keys in "), "{stopped:?}");
    assert!(stopped.stderr.contains(&format!("{file}:3: the value of two is not base64")), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("after 1 stored keys"), "{}", stopped.stderr);
    assert!(gateway.entry("one").is_some() && gateway.entry("three").is_none());

    let went_on = run(&gateway, &["import", &file, "--continue-on-error"], b"");
    assert_eq!(went_on.code, 1);
    assert!(went_on.text().starts_with("imported 2 keys in "), "{went_on:?}");
    assert!(went_on.stderr.contains(":3: ") && went_on.stderr.contains(":5: not a record"), "{}", went_on.stderr);
    assert!(went_on.stderr.contains("2 lines of"), "{}", went_on.stderr);
    assert!(gateway.entry("three").is_some());

    let piped = run(&gateway, &["import"], b"nonsense\n");
    assert!(piped.stderr.contains("jumpgate: stdin:1: not a record"), "{}", piped.stderr);
    assert_eq!(run(&gateway, &["import", &scratch.file_name("missing")], b"").code, 1);
}

#[test]
fn of_two_lines_with_one_key_the_later_wins() {
    let gateway = MockGateway::start();
    let lines: String = (0..200).map(|nth| format!("{{\"key\":\"k\",\"value\":\"{:04}\"}}\n", nth)).collect();
    let import = succeed(&gateway, &["import"], lines.as_bytes());
    assert!(import.text().starts_with("imported 200 keys"), "{import:?}");
    let exported = succeed(&gateway, &["export"], b"");
    assert_eq!(exported.text(), "{\"key\":\"k\",\"value\":\"0199\"}\n");
}

/// A file of `count` records whose keys are numbers.
fn numbered(scratch: &Scratch, count: usize) -> String {
    let file = scratch.file_name("numbered.ndjson");
    let lines: String = (0..count).map(|nth| format!("{{\"key\":\"{nth:05}\",\"value\":\"dg==\"}}\n")).collect();
    std::fs::write(&file, lines).expect("a file");
    file
}

#[test]
fn an_import_sends_batches_and_what_is_too_large_for_one_alone() {
    let (gateway, scratch) = (MockGateway::start(), Scratch::new());
    let import = succeed(&gateway, &["import", &numbered(&scratch, 5_000)], b"");
    assert!(import.text().starts_with("imported 5000 keys in "), "{import:?}");
    assert_eq!(gateway.contents().len(), 5_000);
    let asked = gateway.asked();
    assert!(asked.len() < 50 && asked.iter().all(|asked| asked.starts_with("POST /v1/batch?")), "{asked:?}");

    let gateway = MockGateway::start();
    let large = |key: &str, bytes: usize| format!("{{\"key\":\"{key}\",\"value\":\"{}\"}}\n", "AAAA".repeat(bytes / 3));
    // Three of a third of a batch each don't fit in one, and the first of them is replaced by one that fits in none.
    let lines = [large("a", 300 << 10), large("b", 300 << 10), large("c", 300 << 10), large("a", 1 << 20)].concat();
    let import = succeed(&gateway, &["import"], lines.as_bytes());
    assert!(import.text().starts_with("imported 4 keys in "), "{import:?}");
    assert_eq!(gateway.entry("a").expect("it is stored").value.len(), (1 << 20) / 3 * 3);
    let asked = gateway.asked();
    // The value says that it came behind the one that it replaces; the other keys come whenever they like.
    assert!(asked.iter().any(|asked| asked.starts_with("PUT /v1/kv/a?")), "{asked:?}");
}

#[test]
fn a_batch_that_is_refused_as_a_whole_is_put_record_by_record() {
    let (gateway, scratch) = (MockGateway::start(), Scratch::new());
    gateway.answer_next(Canned::problem(413, Some("definite")));
    succeed(&gateway, &["import", &numbered(&scratch, 100)], b"");
    assert_eq!(gateway.contents().len(), 100);
    let puts = gateway.asked().iter().filter(|asked| asked.starts_with("PUT /v1/kv/")).count();
    assert_eq!(puts, 100);
    // An outcome that isn't known is no refusal, and nothing else is sent in its place.
    let gateway = MockGateway::start();
    (0..200).for_each(|_| gateway.answer_next(Canned::problem(504, Some("unknown"))));
    let import = run(&gateway, &["import", &numbered(&scratch, 100), "--timeout", "300ms"], b"");
    assert!(import.text().starts_with("imported 0 keys in "), "{import:?}");
    let words = ["numbered.ndjson:1: it is not known whether", "99 more lines of its batch failed so", "(100 lines of"];
    assert!(words.iter().all(|word| import.stderr.contains(word)), "{}", import.stderr);
    assert!(gateway.asked().iter().all(|asked| asked.starts_with("POST /v1/batch?")), "{:?}", gateway.asked());
}

#[test]
fn each_record_of_a_batch_has_an_outcome_of_its_own() {
    let (scratch, results) = (
        Scratch::new(),
        r#"{"results":[{"status":201,"version":1},
        {"status":504,"outcome":"unknown","detail":"it is not known whether it happened"},
        {"status":507,"outcome":"definite","detail":"the memory is full"}]}"#,
    );
    let first = Canned { status: 200, headers: Vec::new(), body: results.to_owned() };
    let file = numbered(&scratch, 3);
    let gateway = MockGateway::start();
    gateway.answer_next(first.clone());
    let import = run(&gateway, &["import", &file], b"");
    assert!(import.text().starts_with("imported 2 keys in "), "the second one was asked for again: {import:?}");
    assert!(import.stderr.contains(".ndjson:3: the memory is full (HTTP 507)"), "{}", import.stderr);
    assert_eq!(gateway.contents().len(), 1, "only what was unknown was sent again");

    let gateway = MockGateway::start();
    gateway.answer_next(first);
    (0..200).for_each(|_| gateway.answer_next(Canned::problem(503, Some("definite"))));
    let import = run(&gateway, &["import", &file, "--timeout", "300ms"], b"");
    assert!(import.text().starts_with("imported 1 keys in "), "{import:?}");
    let words = [".ndjson:2: it is not known whether it happened", "(2 lines of"];
    assert!(words.iter().all(|word| import.stderr.contains(word)), "{}", import.stderr);
}

#[test]
fn an_import_does_again_what_may_be_done_twice() {
    let gateway = MockGateway::start();
    gateway.answer_next(Canned::problem(504, Some("unknown")));
    succeed(&gateway, &["import"], b"{\"key\":\"k\",\"value\":\"dg==\"}\n");
    assert_eq!(gateway.entry("k").map(|entry| entry.value), Some(b"v".to_vec()));
}
