//! Operations on files over a map: what they do, and what is left of them wherever they stop.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use proptest::prelude::*;

use super::map_store_tests::{MapStore, run, step};
use super::upload::RENEW_AFTER;
use super::*;
use crate::api::{ContentType, Error, Operation, RESERVED};
use crate::base::limits::KEY_BYTES_MAX;
use crate::base::{Instant, Rng};

/// Small, so that a few bytes are several chunks.
const CHUNK: usize = 4;

fn tree_path(text: &str) -> TreePath {
    TreePath::new(text.as_bytes(), KEY_BYTES_MAX).expect("a path")
}

fn path(text: &str) -> FilePath {
    tree_path(text).file().expect("a file's path")
}

fn folder(text: &str) -> FolderPath {
    tree_path(text).folder()
}

async fn put_as(
    store: &MapStore,
    name: &str,
    bytes: &[u8],
    placement: Placement,
    conditions: Conditions,
) -> Result<Written, FileError> {
    let (asker, id) = (store.asker(), store.id());
    let mut upload = Upload::begin(asker, id, path(name), placement, conditions, CHUNK, Instant::ZERO).await?;
    let written = async {
        upload.write(bytes, Instant::ZERO).await?;
        upload.finish(ContentType::new("text/x").as_ref(), 7, Instant::ZERO).await
    };
    match written.await {
        Ok(written) => Ok(written),
        Err(error) => {
            upload.abandon().await;
            Err(error)
        }
    }
}

async fn put(store: &MapStore, name: &str, bytes: &[u8]) -> Result<Written, FileError> {
    put_as(store, name, bytes, Placement::Replace, Conditions::default()).await
}

async fn read(store: &MapStore, name: &str) -> Result<Vec<u8>, FileError> {
    let entry = open(&mut store.asker(), &path(name)).await?;
    let mut download = Download::new(store.clone(), &entry.manifest, 0..entry.manifest.size);
    let mut bytes = Vec::new();
    while let Some(piece) = download.next().await {
        bytes.extend_from_slice(&piece?);
    }
    Ok(bytes)
}

fn names(store: &MapStore, name: &str) -> Vec<String> {
    let listing = run(list(&mut store.asker(), &folder(name), None, 100)).expect("a folder");
    let slash = |found: &Found| if found.file.is_some() { "" } else { "/" };
    listing.entries.iter().map(|found| format!("{}{}", found.name, slash(found))).collect()
}

/// What must hold when nothing is under way any more and a collector has had its time: every file is whole, every chunk
/// is of a file, every record is settled and names the file that it is of.
fn check_tidy(store: &MapStore) -> BTreeMap<String, Vec<u8>> {
    let mut collector = Collector::default();
    let mut now = Instant::ZERO;
    for _ in 0..6 {
        run(collector.round(&mut store.asker(), now)).expect("the map answers");
        now = now + Duration::from_secs(601);
    }
    let (mut files, mut chunks, mut records) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
    for key in store.keys("files/") {
        let Some(name) = key.strip_prefix("files/").filter(|name| !name.ends_with('/')) else { continue };
        let entry = run(open(&mut store.asker(), &path(name))).expect("it is there");
        let bytes = run(read(store, name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(bytes.len() as u64, entry.manifest.size, "{name}");
        chunks.extend(pieces(&entry.manifest, 0..u64::MAX).map(|it| it.upload.chunk_key(it.index).to_string()));
        records.extend(entry.manifest.segments.iter().map(|it| it.upload.key().to_string()));
        files.insert(name.to_owned(), bytes);
    }
    let stored: BTreeSet<String> = store.keys(&format!("{RESERVED}files/")).into_iter().collect();
    assert_eq!(stored, chunks, "chunks that no file is made of, or a file without its chunks");
    let stored: BTreeSet<String> = store.keys(&format!("{RESERVED}uploads/")).into_iter().collect();
    assert_eq!(stored, records, "records of nothing, or uploads without a record");
    for (key, (bytes, ..)) in store.map().values.iter().filter(|(key, _)| records.contains(key.as_str())) {
        let record = record::Record::read(bytes).expect("a record");
        assert_eq!(record.state, record::State::Settled, "{key}");
    }
    files
}

#[test]
fn a_file_is_written_read_replaced_and_deleted() {
    let store = MapStore::default();
    let written = run(put(&store, "docs/a.txt", b"hello world")).expect("it is stored");
    assert!(written.created);
    assert_eq!(written.manifest.etag, blake3::hash(b"hello world").to_hex().as_str());
    assert_eq!(store.keys(&format!("{RESERVED}files/")).len(), 3, "eleven bytes are three chunks of four");
    assert_eq!(run(read(&store, "docs/a.txt")).as_deref(), Ok(&b"hello world"[..]));
    let written = run(put(&store, "docs/a.txt", b"")).expect("an empty file is a file");
    assert!(!written.created && written.manifest.segments.is_empty());
    assert_eq!(run(read(&store, "docs/a.txt")).as_deref(), Ok(&b""[..]));
    assert_eq!(run(delete(&mut store.asker(), &path("docs/a.txt"), &Conditions::default())), Ok(2));
    let again = run(delete(&mut store.asker(), &path("docs/a.txt"), &Conditions::default()));
    assert_eq!(again, Err(FileError::NotFound));
    assert_eq!(check_tidy(&store), BTreeMap::new());
    assert!(store.map().values.is_empty(), "{:?}", store.keys(""));
}

#[test]
fn the_manifest_is_the_last_that_a_reader_can_see() {
    let store = MapStore::default();
    run(put(&store, "a", b"0123456789")).expect("it is stored");
    let asked = store.map().asked.clone();
    let writes: Vec<String> =
        asked.iter().filter(|it| it.is_write()).filter_map(|it| it.key()).map(ToString::to_string).collect();
    let manifest = writes.iter().position(|key| key == "files/a").expect("it was written");
    let chunks =
        writes.iter().rposition(|key| key.starts_with(&format!("{RESERVED}files/"))).expect("they were written");
    assert!(chunks < manifest, "{writes:?}");
    assert_eq!(writes.iter().filter(|key| *key == "files/a").count(), 1);
}

#[test]
fn a_reader_in_the_middle_goes_on_with_the_old_file_or_is_told() {
    let store = MapStore::default();
    let old = vec![b'o'; 100];
    run(put(&store, "a", &old)).expect("it is stored");
    let entry = run(open(&mut store.asker(), &path("a"))).expect("it is there");
    let mut patient = Download::new(store.clone(), &entry.manifest, 0..100);
    let mut slow = Download::new(store.clone(), &entry.manifest, 0..100);
    run(slow.next()).expect("a first piece").expect("as it was");
    run(put(&store, "a", b"new")).expect("it is replaced");
    let mut bytes = Vec::new();
    while let Some(piece) = run(patient.next()) {
        bytes.extend_from_slice(&piece.expect("the old chunks stay for a while"));
    }
    assert_eq!(bytes, old);
    assert_eq!(check_tidy(&store)["a"], b"new");
    let rest: Vec<_> = std::iter::from_fn(|| run(slow.next())).collect();
    assert!(rest.iter().any(|piece| *piece == Err(FileError::Changed)), "{rest:?}");
}

#[test]
fn what_is_kept_in_memory_is_bounded() {
    let store = MapStore::default();
    run(put(&store, "a", &[1; 400])).expect("it is stored");
    assert_eq!(run(read(&store, "a")).map(|bytes| bytes.len()), Ok(400));
    assert_eq!(store.map().in_flight_max, IN_FLIGHT_MAX, "of a hundred chunks");
}

#[test]
fn conditions_compare_tags_at_the_moment_of_the_change() {
    let store = MapStore::default();
    let only = |tag: &str| Conditions { if_match: Some(Tags::These(vec![tag.to_owned()])), if_none_match: None };
    let none = Conditions { if_match: None, if_none_match: Some(Tags::Any) };
    let put = |bytes: &'static [u8], conditions| run(put_as(&store, "a", bytes, Placement::Replace, conditions));
    assert_eq!(put(b"x", only("y")), Err(FileError::PreconditionFailed { etag: None }));
    let first = put(b"one", none.clone()).expect("there is none").manifest.etag;
    assert_eq!(put(b"two", none), Err(FileError::PreconditionFailed { etag: Some(first.clone()) }));
    let second = put(b"two", only(&first)).expect("it is the first").manifest.etag;
    assert!(matches!(put(b"three", only(&first)), Err(FileError::PreconditionFailed { .. })));
    let refused = run(delete(&mut store.asker(), &path("a"), &only(&first)));
    assert_eq!(refused, Err(FileError::PreconditionFailed { etag: Some(second.clone()) }));
    assert_eq!(run(delete(&mut store.asker(), &path("a"), &only(&second))), Ok(2));

    // A condition that held when the upload began and doesn't when it ends is judged in the end.
    let (asker, id) = (store.asker(), store.id());
    let conditions = Conditions { if_match: None, if_none_match: Some(Tags::Any) };
    let begun = Upload::begin(asker, id, path("a"), Placement::Replace, conditions, CHUNK, Instant::ZERO);
    let mut late = run(begun).expect("there is none");
    run(put_as(&store, "a", b"first", Placement::Replace, Conditions::default())).expect("it is stored");
    assert!(matches!(run(late.finish(None, 0, Instant::ZERO)), Err(FileError::PreconditionFailed { .. })));
    run(late.abandon());
    assert_eq!(check_tidy(&store)["a"], b"first");
}

#[test]
fn bytes_are_appended_where_the_file_ends() {
    let store = MapStore::default();
    let append = |at, bytes: &'static [u8]| {
        run(put_as(&store, "log", bytes, Placement::AppendAt(at), Conditions::default())).map(|it| it.manifest.size)
    };
    assert_eq!(append(0, b"one "), Ok(4));
    assert_eq!(append(4, b"two two "), Ok(12));
    assert!(matches!(append(4, b"x"), Err(FileError::Conflict(_))), "in the middle");
    assert!(matches!(append(13, b"x"), Err(FileError::Conflict(_))), "behind the end");
    assert_eq!(append(12, b""), Ok(12));
    assert_eq!(append(12, b"three"), Ok(17));
    assert_eq!(check_tidy(&store)["log"], b"one two two three");
    run(put(&store, "log", b"anew")).expect("it is replaced");
    assert_eq!(check_tidy(&store)["log"], b"anew");
}

#[test]
fn a_file_is_appended_to_a_bounded_number_of_times() {
    let store = MapStore::default();
    for at in 0..SEGMENTS_MAX as u64 {
        run(put_as(&store, "log", b"x", Placement::AppendAt(at), Conditions::default())).expect("it has room");
    }
    let one_more = Placement::AppendAt(SEGMENTS_MAX as u64);
    let refused = run(put_as(&store, "log", b"x", one_more, Conditions::default()));
    assert!(matches!(refused, Err(FileError::TooLarge(_))), "{refused:?}");
}

#[test]
fn names_are_files_or_folders_and_never_both() {
    let store = MapStore::default();
    let conflict = |result: Result<(), FileError>| assert!(matches!(result, Err(FileError::Conflict(_))), "{result:?}");
    run(put(&store, "a/b/c", b"x")).expect("folders on the way need not be made");
    conflict(run(put(&store, "a/b", b"x")).map(|_| ()));
    conflict(run(put(&store, "a", b"x")).map(|_| ()));
    conflict(run(put(&store, "a/b/c/d", b"x")).map(|_| ()));
    conflict(run(create_folder(&mut store.asker(), &folder("a/b"), 0)).map(|_| ()));
    conflict(run(create_folder(&mut store.asker(), &folder("a/b/c"), 0)).map(|_| ()));
    conflict(run(create_folder(&mut store.asker(), &folder("a/b/c/d/e"), 0)).map(|_| ()));
    assert_eq!(run(create_folder(&mut store.asker(), &folder("a/empty"), 0)), Ok(2));
    assert_eq!(names(&store, "a"), ["b/", "empty/"]);
    assert_eq!(names(&store, "a/empty"), [""; 0]);
    assert!(matches!(run(stat(&mut store.asker(), &tree_path("a/b"))), Ok(Stat::Folder)));
    assert!(matches!(run(stat(&mut store.asker(), &tree_path("a/b/c"))), Ok(Stat::File(_))));
    assert_eq!(run(stat(&mut store.asker(), &tree_path("a/x"))), Err(FileError::NotFound));
    assert_eq!(run(stat(&mut store.asker(), &tree_path("a/b/c/"))), Err(FileError::NotFound));
    let remove = |name| run(remove_folder(&mut store.asker(), &folder(name)));
    assert_eq!(remove("a"), Err(FileError::NotEmpty));
    assert_eq!(remove("a/b"), Err(FileError::NotEmpty));
    assert_eq!(remove("a/empty"), Ok(2));
    assert_eq!(remove("a/empty"), Err(FileError::NotFound));
    conflict(remove("").map(|_| ()));
    assert_eq!(run(list(&mut store.asker(), &folder("nowhere"), None, 5)), Err(FileError::NotFound));
}

#[test]
fn a_listing_comes_in_pages_and_passes_over_what_lies_deeper() {
    let store = MapStore::default();
    for name in ["b", "a/1", "a/2", "a/3/4", "a.txt", "a0", "c/d/e/f", "é", "z/1"] {
        run(put(&store, name, b"x")).expect("it is stored");
    }
    run(create_folder(&mut store.asker(), &folder("c"), 0)).expect_err("it is there by what is in it");
    run(create_folder(&mut store.asker(), &folder("m"), 0)).expect("it is made");
    let expected = ["a.txt", "a/", "a0", "b", "c/", "m/", "z/", "é"];
    assert_eq!(names(&store, ""), expected);
    for limit in 1..=expected.len() + 1 {
        let (mut all, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = run(list(&mut store.asker(), &FolderPath::root(), after.as_deref(), limit)).expect("the root");
            assert!(page.entries.len() <= limit && (page.next.is_none() || page.entries.len() == limit));
            all.extend(page.entries.iter().map(|it| it.name.clone() + if it.file.is_some() { "" } else { "/" }));
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        assert_eq!(all, expected, "{limit} at a time");
    }
    assert_eq!(names(&store, "a"), ["1", "2", "3/"]);
}

#[test]
fn what_is_no_manifest_is_refused_with_words() {
    let store = MapStore::default();
    let key = "files/a".parse().expect("a key");
    let (value, content_type, ttl_ms) = (crate::base::Blob::from_static(b"{}"), None, None);
    let (mode, precondition) = (crate::api::PutMode::Upsert, crate::api::Precondition::NONE);
    let operation = Operation::Put { key, value, content_type, ttl_ms, mode, precondition };
    run(store.ask(operation, None)).expect("anybody may");
    assert!(matches!(run(read(&store, "a")), Err(FileError::Foreign(_))));
    assert!(matches!(run(put(&store, "a", b"x")), Err(FileError::Foreign(_))));
    assert_eq!(names(&store, ""), [""; 0]);
}

#[test]
fn what_the_survivors_of_a_quorum_do_not_know_may_be_somewhere() {
    let store = MapStore::default();
    run(put(&store, "a/b", b"x")).expect("it is stored");
    store.map().is_degraded = true;
    assert_eq!(names(&store, "a"), ["b"]);
    assert_eq!(run(read(&store, "a/b")).as_deref(), Ok(&b"x"[..]));
    let refused = [
        run(stat(&mut store.asker(), &tree_path("c"))).map(|_| ()),
        run(stat(&mut store.asker(), &tree_path("c/"))).map(|_| ()),
        run(list(&mut store.asker(), &folder("c"), None, 5)).map(|_| ()),
        run(remove_folder(&mut store.asker(), &folder("c"))).map(|_| ()),
        run(delete(&mut store.asker(), &path("c"), &Conditions::default())).map(|_| ()),
        run(rename(&mut store.asker(), &path("c"), &path("d"))),
    ];
    for refused in refused {
        assert!(matches!(refused, Err(FileError::Store(Error::NoQuorum(_)))), "{refused:?}");
    }
}

#[test]
fn a_rename_moves_a_name_and_no_chunk() {
    let store = MapStore::default();
    run(put(&store, "a", b"0123456789")).expect("it is stored");
    run(put(&store, "b", b"old")).expect("it is stored");
    let chunks = store.keys(&format!("{RESERVED}files/"));
    store.map().asked.clear();
    run(rename(&mut store.asker(), &path("a"), &path("b"))).expect("it is renamed");
    let asked = store.map().asked.clone();
    let touched = |it: &&Operation| it.key().is_some_and(|key| chunks.contains(&key.to_string()));
    assert_eq!(asked.iter().find(touched), None);
    assert_eq!(run(rename(&mut store.asker(), &path("a"), &path("c"))), Err(FileError::NotFound));
    assert_eq!(check_tidy(&store), BTreeMap::from([("b".to_owned(), b"0123456789".to_vec())]));
    run(put(&store, "d/e/f", b"x")).expect("it is stored");
    run(create_folder(&mut store.asker(), &folder("d/m"), 0)).expect("it is made");
    assert!(matches!(run(rename(&mut store.asker(), &path("d"), &path("d/in"))), Err(FileError::Conflict(_))));
    assert!(matches!(run(rename(&mut store.asker(), &path("d"), &path("b"))), Err(FileError::Conflict(_))));
    assert!(matches!(run(rename(&mut store.asker(), &path("b"), &path("d"))), Err(FileError::Conflict(_))));
    run(rename(&mut store.asker(), &path("d"), &path("g/h"))).expect("a folder is moved");
    assert_eq!(names(&store, "g/h"), ["e/", "m/"]);
    assert_eq!(check_tidy(&store).keys().collect::<Vec<_>>(), ["b", "g/h/e/f"]);
}

#[test]
fn two_renames_of_one_file_leave_nobody_without_chunks() {
    let store = MapStore::default();
    run(put(&store, "b", b"0123456789")).expect("it is stored");
    let mut asker = store.asker();
    let (from, to) = (path("b"), path("c"));
    let mut slow = Box::pin(rename(&mut asker, &from, &to));
    while store.keys("files/c").is_empty() {
        assert!(step(slow.as_mut()).is_pending(), "it writes the new manifest and goes on from there");
    }
    run(rename(&mut store.asker(), &path("b"), &path("a"))).expect("the old name is still there");
    run(slow).expect("the old name went, and the new one is there");
    run(put(&store, "a", b"new")).expect("it is replaced");
    let files = check_tidy(&store);
    assert_eq!(files["a"], b"new");
    assert_eq!(files["c"], b"0123456789");
}

#[test]
fn a_refused_upload_takes_its_chunks_along_at_once() {
    let store = MapStore::default();
    run(put(&store, "a", b"stays")).expect("it is stored");
    let before = store.keys("");
    for fails_after in 4..9 {
        store.map().fails_after = Some((fails_after, false));
        store.map().failure = Some(Error::MemoryFull { bytes_max: 1 });
        let (asker, id) = (store.asker(), store.id());
        let (placement, conditions) = (Placement::Replace, Conditions::default());
        let upload = Upload::begin(asker, id, path("a"), placement, conditions, CHUNK, Instant::ZERO);
        let mut upload = run(upload).expect("it has begun");
        let written = run(upload.write(&[7; 40], Instant::ZERO));
        let finished = written.and_then(|()| run(upload.finish(None, 0, Instant::ZERO)).map(|_| ()));
        assert!(matches!(finished, Err(FileError::Store(Error::MemoryFull { .. }))), "{finished:?}");
        store.map().fails_after = None;
        run(upload.abandon());
        assert_eq!(store.keys(""), before, "after {fails_after} requests");
    }
}

#[test]
fn a_collector_takes_only_what_has_stood_still_while_it_watched() {
    let store = MapStore::default();
    let begun = Upload::begin(
        store.asker(),
        store.id(),
        path("slow"),
        Placement::Replace,
        Conditions::default(),
        CHUNK,
        Instant::ZERO,
    );
    let mut upload = run(begun).expect("it has begun");
    let mut collector = Collector::default();
    let mut now = Instant::ZERO;
    // An hour of an upload that sends a byte each two minutes.
    for _ in 0..30 {
        now = now + RENEW_AFTER;
        run(upload.write(b"x", now)).expect("it lives");
        assert_eq!(run(collector.round(&mut store.asker(), now)), Ok(0));
    }
    run(upload.finish(None, 0, now)).expect("it was never taken for dead");
    assert_eq!(run(read(&store, "slow")).map(|bytes| bytes.len()), Ok(30));

    // One that is dropped goes, but not before a collector has watched it for long enough, whatever the clocks say.
    let begun = Upload::begin(
        store.asker(),
        store.id(),
        path("dropped"),
        Placement::Replace,
        Conditions::default(),
        CHUNK,
        Instant::ZERO,
    );
    let mut upload = run(begun).expect("it has begun");
    run(upload.write(&[1; 20], Instant::ZERO)).expect("it is stored");
    let mut fresh = Collector::default();
    assert_eq!(run(fresh.round(&mut store.asker(), now + Duration::from_secs(1 << 30))), Ok(0));
    assert_eq!(run(collector.round(&mut store.asker(), now)), Ok(0));
    assert_eq!(run(collector.round(&mut store.asker(), now + Duration::from_secs(599))), Ok(0));
    assert_eq!(run(collector.round(&mut store.asker(), now + Duration::from_secs(600))), Ok(1));
    drop(upload);
    check_tidy(&store);
}

#[test]
fn an_upload_that_was_taken_for_dead_is_never_acknowledged() {
    for claimed_only in [false, true] {
        let store = MapStore::default();
        let (placement, conditions) = (Placement::Replace, Conditions::default());
        let begun = Upload::begin(store.asker(), store.id(), path("a"), placement, conditions, CHUNK, Instant::ZERO);
        let mut upload = run(begun).expect("it has begun");
        run(upload.write(&[1; 20], Instant::ZERO)).expect("it is stored");
        let mut collector = Collector::default();
        run(collector.round(&mut store.asker(), Instant::ZERO)).expect("the map answers");
        if claimed_only {
            store.map().fails_after = Some((3, false));
        }
        let late = Instant::ZERO + Duration::from_secs(700);
        assert_eq!(run(collector.round(&mut store.asker(), late)).is_err(), claimed_only);
        store.map().fails_after = None;
        let finished = if claimed_only {
            // Its process stood still, so it doesn't know how late it is.
            run(upload.finish(None, 0, Instant::ZERO))
        } else {
            run(upload.finish(None, 0, late))
        };
        assert!(matches!(finished, Err(FileError::Busy | FileError::Changed)), "{finished:?}");
    }
}

// ------------------------------------------------------------------------------------- wherever it stops, whoever else is there

/// One thing that somebody does.
#[derive(Clone, Debug)]
enum Act {
    Put(usize, u8),
    Append(usize, u8),
    Delete(usize),
    Rename(usize, usize),
}

const NAMES: [&str; 4] = ["a", "b", "d/e", "d/f"];

fn act() -> impl Strategy<Value = Act> {
    let name = || 0..NAMES.len();
    prop_oneof![
        4 => (name(), 0_u8..14).prop_map(|(name, size)| Act::Put(name, size)),
        1 => (name(), 0_u8..9).prop_map(|(name, size)| Act::Append(name, size)),
        1 => name().prop_map(Act::Delete),
        3 => (name(), name()).prop_map(|(from, to)| Act::Rename(from, to)),
    ]
}

async fn perform(store: MapStore, act: Act, fill: u8) -> Result<(), FileError> {
    match act {
        Act::Put(name, size) => put(&store, NAMES[name], &vec![fill; usize::from(size)]).await.map(|_| ()),
        Act::Append(name, size) => {
            let at = match stat(&mut store.asker(), &tree_path(NAMES[name])).await {
                Ok(Stat::File(entry)) => entry.manifest.size,
                _ => 0,
            };
            let (placement, bytes) = (Placement::AppendAt(at), vec![fill; usize::from(size)]);
            put_as(&store, NAMES[name], &bytes, placement, Conditions::default()).await.map(|_| ())
        }
        Act::Delete(name) => delete(&mut store.asker(), &path(NAMES[name]), &Conditions::default()).await.map(|_| ()),
        Act::Rename(from, to) => rename(&mut store.asker(), &path(NAMES[from]), &path(NAMES[to])).await,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    /// One after the other, each but the last whole: what was acknowledged is there, and what was cut off in the middle has
    /// happened or hasn't.
    #[test]
    fn a_crash_anywhere_loses_nothing_and_leaves_nothing(
        before in prop::collection::vec(act(), 0..5),
        last in act(),
        stops_after in 0_usize..40,
        is_done in any::<bool>(),
    ) {
        let store = MapStore::default();
        let mut fill = 0;
        for act in before {
            fill += 1;
            let _ = run(perform(store.clone(), act, fill));
        }
        let old = check_tidy(&store);
        store.map().fails_after = Some((stops_after, is_done));
        let done = run(perform(store.clone(), last.clone(), fill + 1));
        store.map().fails_after = None;
        let new = check_tidy(&store);
        let touched: Vec<&str> = match last {
            Act::Put(name, _) | Act::Append(name, _) | Act::Delete(name) => vec![NAMES[name]],
            Act::Rename(from, to) => vec![NAMES[from], NAMES[to]],
        };
        for name in NAMES.iter().filter(|name| !touched.contains(name)) {
            prop_assert_eq!(old.get(*name), new.get(*name), "{} was touched", name);
        }
        match (&last, done) {
            (Act::Put(name, size), Ok(())) => prop_assert_eq!(new[NAMES[*name]].clone(), vec![fill + 1; usize::from(*size)]),
            (Act::Put(name, size), Err(_)) => {
                let whole = vec![fill + 1; usize::from(*size)];
                let now = new.get(NAMES[*name]);
                prop_assert!(now == old.get(NAMES[*name]) || now == Some(&whole), "{:?}", now);
            }
            (Act::Rename(from, to), Ok(())) if from != to => {
                prop_assert_eq!(old.get(NAMES[*from]), new.get(NAMES[*to]));
                prop_assert_eq!(new.get(NAMES[*from]), None);
            }
            (Act::Rename(from, _), Err(_)) => {
                if let Some(bytes) = old.get(NAMES[*from]) {
                    prop_assert!(touched.iter().any(|name| new.get(*name) == Some(bytes)), "the file is gone");
                }
            }
            _ => {}
        }
    }

    /// Several at once, step by step in any order, some dropped in the middle, and a collector among them.
    #[test]
    fn whoever_comes_between_no_file_is_without_its_chunks(
        acts in prop::collection::vec((act(), prop::option::of(0_usize..60)), 1..8),
        seed in any::<u64>(),
    ) {
        let store = MapStore::default();
        let mut rng = Rng::new(seed);
        let mut collector = Collector::default();
        let mut waiting: Vec<_> = acts.into_iter().enumerate().collect();
        let mut now = Instant::ZERO;
        while !waiting.is_empty() {
            // Nobody is under way: time passes, as much as it likes. Then a few go on at once, and the collector with them.
            run(collector.round(&mut store.asker(), now)).expect("the map answers");
            now = now + Duration::from_secs(601);
            let together = waiting.len().min(1 + (rng.below(3)) as usize);
            type Act = Pin<Box<dyn Future<Output = ()>>>;
            let mut under_way: Vec<(Act, Option<usize>)> = Vec::new();
            for (fill, (act, steps)) in waiting.drain(..together) {
                let operation = perform(store.clone(), act, fill as u8 + 1);
                under_way.push((Box::pin(async move { drop(operation.await) }), steps));
            }
            {
                let mut asker = store.asker();
                let round = async { collector.round(&mut asker, now).await.map(drop).expect("the map answers") };
                let mut round = Box::pin(round);
                let mut is_collecting = true;
                while is_collecting || !under_way.is_empty() {
                    let at = rng.below(under_way.len() as u64 + 1) as usize;
                    let Some((operation, steps)) = under_way.get_mut(at) else {
                        is_collecting = is_collecting && step(round.as_mut()).is_pending();
                        continue;
                    };
                    let is_dropped = steps.as_mut().is_some_and(|steps| {
                        *steps = steps.saturating_sub(1);
                        *steps == 0
                    });
                    if is_dropped || step(operation.as_mut()) == Poll::Ready(()) {
                        drop(under_way.swap_remove(at));
                    }
                }
            }
        }
        check_tidy(&store);
    }
}
