//! Rules of the house that no compiler checks: who may name whom, what pure modules must not touch, and how files look.
//!
//! The rules read src/ as text. Comments and what is inside quotes are blanked out first, and so is everything under
//! `#[cfg(test)]`, except where a rule is about the file as a whole. Each rule is a function from sources to complaints,
//! and each has a test here that plants a breach and sees it found: a rule that can't fail protects nothing.

use std::fs;
use std::path::Path;

use source::Source;

#[path = "tidy/source.rs"]
mod source;

/// One row of the layout table in the architecture page: a module, whether it is pure, and what it may name.
struct Module {
    name: &'static str,
    pure: bool,
    may_name: &'static [&'static str],
}

const fn pure(name: &'static str, may_name: &'static [&'static str]) -> Module {
    Module { name, pure: true, may_name }
}

const fn adapter(name: &'static str, may_name: &'static [&'static str]) -> Module {
    Module { name, pure: false, may_name }
}

/// The layout. A module may name rows above it only, and of those only its own list.
const LAYOUT: &[Module] = &[
    pure("base", &[]),
    pure("codec", &["base"]),
    pure("config", &["base"]),
    pure("api", &["base", "codec"]),
    pure("access", &["base"]),
    pure("raft", &["base", "codec"]),
    pure("placement", &["base", "codec"]),
    pure("store", &["base", "codec", "api"]),
    pure("control", &["base", "codec", "placement"]),
    pure("replica", &["base", "codec", "api", "store"]),
    pure("node", &["base", "codec", "api", "raft", "placement", "store", "control", "replica"]),
    pure("sim", &["base", "codec", "api", "raft", "placement", "store", "control", "replica", "node"]),
    adapter("telemetry", &["base"]),
    adapter("port", &["base", "codec", "api"]),
    adapter("runtime", &["base", "codec", "api", "node", "port", "telemetry"]),
    adapter("net", &["base", "codec", "port", "telemetry"]),
    pure("files", &["base", "api"]),
    adapter("gateway", &["base", "api", "access", "port", "files", "telemetry"]),
    adapter("client", &["base", "api"]),
    adapter(
        "server",
        &[
            "base",
            "codec",
            "config",
            "api",
            "access",
            "raft",
            "placement",
            "store",
            "control",
            "replica",
            "node",
            "telemetry",
            "port",
            "runtime",
            "net",
            "files",
            "gateway",
            "client",
        ],
    ),
    adapter("cli", &["base", "api", "access", "placement", "server", "client", "config"]),
    adapter("main", &["base", "api", "server", "client", "config", "cli"]),
];

/// What a pure module must not name: sockets, clocks, threads, locks.
const IMPURE: [&str; 11] = [
    "tokio",
    "tokio_util",
    "std::net",
    "std::thread",
    "std::fs",
    "std::env",
    "std::time::Instant",
    "SystemTime",
    "Mutex",
    "RwLock",
    "Condvar",
];

/// (file, word, why it makes nothing depend on where and when it runs). An entry that isn't needed any more fails.
const IMPURE_ALLOWED: &[(&str, &str, &str)] = &[(
    "src/base/lending.rs",
    "std::thread",
    "a word of the thread that one call sets and takes back; without it bytes are copied",
)];

/// What has an order that differs from run to run; in a pure module only with a reason.
const UNORDERED: [&str; 5] = ["HashMap", "HashSet", "RandomState", "DefaultHasher", "hashbrown"];

/// (file, word, why its order reaches no output). An entry that isn't needed any more fails.
const UNORDERED_ALLOWED: &[(&str, &str, &str)] =
    &[("src/store/recent.rs", "HashMap", "looked up only; and its hasher has no seed")];

/// What of bincode may be named outside of codec: what deriving and implementing its traits takes. Its functions take a
/// configuration, and only codec's sets a byte limit.
const BINCODE_ANYWHERE: [&str; 6] = ["Encode", "Decode", "BorrowDecode", "de", "enc", "error"];

const FILE_LINES_MAX: usize = 600;

/// Files that are longer. This list may only get shorter.
const LONG_FILES: &[&str] = &[];

const FUNCTION_LINES_MAX: usize = 70;

/// Functions that are longer, as `file name`. This list may only get shorter.
const LONG_FUNCTIONS: &[&str] = &[];

/// Macros that mark unfinished work.
const UNFINISHED: [&str; 3] = ["todo!", "unimplemented!", "dbg!"];

#[test]
fn modules_name_only_what_the_layout_allows() {
    tidy(|sources| each(sources, check_layers));
}

#[test]
fn pure_modules_touch_no_socket_clock_thread_or_lock() {
    tidy(|sources| check_purity(sources, &IMPURE, IMPURE_ALLOWED));
}

#[test]
fn pure_modules_have_no_order_that_differs_from_run_to_run() {
    tidy(|sources| check_purity(sources, &UNORDERED, UNORDERED_ALLOWED));
}

#[test]
fn bincode_stays_behind_its_door() {
    tidy(|sources| each(sources, check_bincode));
}

#[test]
fn every_file_opens_with_a_page() {
    tidy(|sources| each(sources, check_opening));
}

#[test]
fn files_are_short_enough_to_read() {
    tidy(|sources| check_file_lengths(sources, LONG_FILES));
}

#[test]
fn functions_are_short_enough_to_read() {
    tidy(|sources| check_function_lengths(sources, LONG_FUNCTIONS));
}

#[test]
fn nothing_is_left_unfinished() {
    tidy(|sources| each(sources, check_finished));
}

#[test]
fn no_line_ends_in_space_or_holds_a_tab() {
    tidy(|sources| each(sources, check_white_space));
}

#[test]
fn every_claim_of_the_raft_paper_has_the_tests_that_its_table_names() {
    tidy(check_claims);
}

/// Runs a rule over src/ and fails with everything that it complains about.
fn tidy(rule: impl Fn(&[Source]) -> Vec<String>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    collect(root, &root.join("src"), &mut sources);
    assert!(sources.len() > LAYOUT.len(), "only {} files were found below src", sources.len());
    let complaints = rule(&sources);
    assert!(complaints.is_empty(), "\n  {}\n", complaints.join("\n  "));
}

fn collect(root: &Path, folder: &Path, sources: &mut Vec<Source>) {
    let mut entries: Vec<_> =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(root, &path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).expect("below the root").to_str().expect("a name in UTF-8");
            sources.push(Source::new(name, &fs::read_to_string(&path).expect("a file in UTF-8")));
        }
    }
}

fn each(sources: &[Source], rule: impl Fn(&Source) -> Vec<String>) -> Vec<String> {
    sources.iter().flat_map(rule).collect()
}

// ---------------------------------------------------------------------------------------------------------- the rules

fn is_pure(source: &Source) -> bool {
    LAYOUT.iter().any(|row| row.name == source.module() && row.pure)
}

fn check_layers(source: &Source) -> Vec<String> {
    let module = source.module();
    if module == "lib" {
        return Vec::new();
    }
    let Some(row) = LAYOUT.iter().find(|row| row.name == module) else {
        return vec![format!("{}: the module {module} isn't in the layout", source.path)];
    };
    let mut complaints = Vec::new();
    let rows: Vec<&str> = LAYOUT.iter().map(|row| row.name).collect();
    for (line, named) in source.names_of_modules(&rows) {
        if named != module && !row.may_name.contains(&named.as_str()) {
            complaints.push(format!("{}:{line}: {module} may not name {named}", source.path));
        }
    }
    complaints
}

/// Pure modules name none of `words`, or for a reason.
fn check_purity(sources: &[Source], words: &[&'static str], allowed: &[(&str, &str, &str)]) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut needed = Vec::new();
    for source in sources.iter().filter(|source| is_pure(source)) {
        for &word in words {
            for line in source.lines_that_name(word) {
                if allowed.iter().any(|(path, with, _)| *path == source.path && *with == word) {
                    needed.push((source.path.as_str(), word));
                } else {
                    complaints.push(format!("{}:{line}: {word} in a pure module, without a reason", source.path));
                }
            }
        }
    }
    for (path, word, _) in allowed.iter().filter(|(path, word, _)| !needed.contains(&(path, word))) {
        complaints.push(format!("{path}: {word} is allowed but not there; take it off the list"));
    }
    complaints
}

fn check_bincode(source: &Source) -> Vec<String> {
    if source.module() == "codec" {
        return Vec::new();
    }
    let named = source.paths_below("bincode").into_iter();
    let behind = named.filter(|(_, part)| !BINCODE_ANYWHERE.contains(&part.as_str()));
    behind.map(|(line, part)| format!("{}:{line}: bincode::{part} outside of codec", source.path)).collect()
}

fn check_opening(source: &Source) -> Vec<String> {
    let opens = source.text.lines().next().is_some_and(|line| line.starts_with("//! "));
    if opens { Vec::new() } else { vec![format!("{}:1: doesn't open with a //! page", source.path)] }
}

fn check_file_lengths(sources: &[Source], long: &[&str]) -> Vec<String> {
    let lengths = sources.iter().map(|source| (source.path.clone(), source.text.lines().count()));
    compare_lengths(lengths.collect(), FILE_LINES_MAX, long)
}

fn check_function_lengths(sources: &[Source], long: &[&str]) -> Vec<String> {
    let functions = sources.iter().flat_map(|source| {
        let functions = source.functions().into_iter();
        functions.map(|(name, lines)| (format!("{} {name}", source.path), lines))
    });
    compare_lengths(functions.collect(), FUNCTION_LINES_MAX, long)
}

/// Complains about what is too long and isn't on the list, and about what is on the list and isn't too long.
fn compare_lengths(lengths: Vec<(String, usize)>, most: usize, long: &[&str]) -> Vec<String> {
    let too_long: Vec<_> = lengths.into_iter().filter(|(_, lines)| *lines > most).collect();
    let unlisted = too_long.iter().filter(|(name, _)| !long.contains(&name.as_str()));
    let mut complaints: Vec<_> =
        unlisted.map(|(name, lines)| format!("{name}: {lines} lines, more than {most}")).collect();
    let needless = long.iter().filter(|name| too_long.iter().all(|(found, _)| found != *name));
    complaints.extend(needless.map(|name| format!("{name}: no longer past {most} lines; take it off the list")));
    complaints
}

fn check_finished(source: &Source) -> Vec<String> {
    let found = UNFINISHED.iter().flat_map(|word| source.lines_that_name(word).map(move |line| (line, word)));
    found.map(|(line, word)| format!("{}:{line}: {word}", source.path)).collect()
}

fn check_white_space(source: &Source) -> Vec<String> {
    let bad = |line: &&str| line.ends_with(char::is_whitespace) || line.contains('\t');
    // `split` rather than `lines`, which would hide a carriage return.
    let bad_lines = source.text.split('\n').enumerate().filter(|(_, line)| bad(line));
    bad_lines.map(|(nth, _)| format!("{}:{}: a tab, or space at the end", source.path, nth + 1)).collect()
}

/// The page that has the table of claims: `| section | claim | tests |`.
const CLAIMS: &str = "src/raft/tests/mod.rs";

/// Complains about rows of the table of claims that name no test, and about tests there that don't exist.
fn check_claims(sources: &[Source]) -> Vec<String> {
    let Some(page) = sources.iter().find(|source| source.path == CLAIMS) else {
        return vec![format!("{CLAIMS}: the table of claims is missing")];
    };
    let mut complaints = Vec::new();
    let rows =
        page.text.lines().enumerate().filter_map(|(nth, line)| line.strip_prefix("//! | ").map(|row| (nth, row)));
    for (nth, row) in rows.skip(1) {
        let cell = row.trim_end_matches([' ', '|']).rsplit(" | ").next().unwrap_or_default();
        let names: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
        if names.is_empty() {
            complaints.push(format!("{CLAIMS}:{}: a claim without a test", nth + 1));
        }
        let missing = names.iter().filter(|name| !sources.iter().any(|source| has_test(source, name)));
        complaints.extend(missing.map(|name| format!("{CLAIMS}:{}: there is no test {name}", nth + 1)));
    }
    complaints
}

/// Whether `source` has the test `file::function`, where the file is beside the table of claims, or `module::function`.
fn has_test(source: &Source, name: &str) -> bool {
    let Some((module, function)) = name.rsplit_once("::") else { return false };
    let module = module.replace("::", "/");
    let paths = [format!("src/raft/tests/{module}.rs"), format!("src/{module}.rs")];
    let Some((before, _)) = source.text.split_once(&format!("fn {function}()")) else { return false };
    let mut attributes = before.trim_end().lines().rev().map(str::trim).take_while(|line| line.starts_with("#["));
    paths.contains(&source.path) && attributes.any(|line| line == "#[test]")
}

// ------------------------------------------------------------------------------------ proof that each rule can fail

/// A breach planted in a file must be complained about with its line; the same file without it must not.
fn breach(rule: impl Fn(&Source) -> Vec<String>, path: &str, text: &str, complaint: &str) {
    assert_eq!(rule(&Source::new(path, text)), [format!("{path}:{complaint}")], "in {text}");
}

fn fine(rule: impl Fn(&Source) -> Vec<String>, path: &str, text: &str) {
    assert_eq!(rule(&Source::new(path, text)), Vec::<String>::new(), "in {text}");
}

#[test]
fn the_layout_names_rows_above_only() {
    for (nth, row) in LAYOUT.iter().enumerate() {
        for name in row.may_name {
            assert!(
                LAYOUT[..nth].iter().any(|above| above.name == *name),
                "{} names {name}, which isn't above",
                row.name
            );
        }
    }
    // A pure module that could name an adapter would be pure in name only.
    for row in LAYOUT.iter().filter(|row| row.pure) {
        let is_pure = |name: &&&str| LAYOUT.iter().any(|other| other.name == **name && other.pure);
        assert_eq!(row.may_name.iter().filter(is_pure).count(), row.may_name.len(), "{}", row.name);
    }
}

#[test]
fn a_name_beyond_the_layout_is_found() {
    let rule = check_layers;
    breach(rule, "src/raft/log.rs", "//! x\nuse crate::store::Table;", "2: raft may not name store");
    breach(rule, "src/raft/log.rs", "use crate::{base::Term, net};", "1: raft may not name net");
    breach(
        rule,
        "src/raft/log.rs",
        "use crate::{\n    base::{Term, Slot},\n    api::Key,\n};",
        "3: raft may not name api",
    );
    breach(rule, "src/raft/log.rs", "fn f() -> crate::net::Peer {}", "1: raft may not name net");
    breach(rule, "src/raft/log.rs", "use super::super::net::Peer;", "1: raft may not name net");
    breach(rule, "src/raft/mod.rs", "use super::net::Peer;", "1: raft may not name net");
    breach(rule, "src/raft/mod.rs", "use crate::*;", "1: raft may not name *");
    breach(rule, "src/base/mod.rs", "use crate::codec::Frame;", "1: base may not name codec");
    breach(rule, "src/main.rs", "fn main() { jumpgate::raft::start() }", "1: main may not name raft");
    let stranger = check_layers(&Source::new("src/misc/mod.rs", "//! x"));
    assert_eq!(stranger, ["src/misc/mod.rs: the module misc isn't in the layout"]);

    fine(
        rule,
        "src/raft/log.rs",
        "use crate::{base::{Term, Slot}, codec::Door};\nuse crate::raft::Message;\nuse super::Message;",
    );
    fine(
        rule,
        "src/raft/log.rs",
        "// crate::net\n/* use crate::net; */ /// [`crate::net`]\nconst S: &str = \"crate::net\";",
    );
    fine(rule, "src/raft/log.rs", "#[cfg(test)]\nmod tests { use crate::net::Peer; }");
    fine(rule, "src/raft/log/tests.rs", "use crate::net::Peer;");
    fine(rule, "src/raft/cluster_tests.rs", "use crate::net::Peer;");
    fine(rule, "src/main.rs", "fn main() { jumpgate::cli::run() }");
    breach(
        rule,
        "src/raft/log.rs",
        "#[cfg(test)]\nmod tests { fn f() {} }\nuse crate::net;",
        "3: raft may not name net",
    );
}

#[test]
fn an_impurity_is_found() {
    let rule = |source: &Source| check_purity(std::slice::from_ref(source), &IMPURE, &[]);
    breach(rule, "src/raft/log.rs", "use tokio::sync::mpsc;", "1: tokio in a pure module, without a reason");
    breach(
        rule,
        "src/raft/log.rs",
        "use std::time::{Duration, Instant};",
        "1: std::time::Instant in a pure module, without a reason",
    );
    breach(
        rule,
        "src/raft/log.rs",
        "use std::{fmt, time::Instant};",
        "1: std::time::Instant in a pure module, without a reason",
    );
    breach(
        rule,
        "src/raft/log.rs",
        "\nlet now = std::time::Instant::now();",
        "2: std::time::Instant in a pure module, without a reason",
    );
    breach(rule, "src/raft/log.rs", "use std::{net::IpAddr, fmt};", "1: std::net in a pure module, without a reason");
    breach(rule, "src/config.rs", "let lock = Mutex::new(());", "1: Mutex in a pure module, without a reason");
    breach(rule, "src/node/mod.rs", "fn f(at: SystemTime) {}", "1: SystemTime in a pure module, without a reason");

    fine(
        rule,
        "src/raft/log.rs",
        "use std::time::Duration;\nuse crate::base::Instant; // not tokio's\nstruct MutexLike;",
    );
    fine(rule, "src/net/tcp.rs", "use tokio::net::TcpStream;");
    fine(
        rule,
        "src/raft/log.rs",
        "const S: &str = r#\"tokio \"std::net\" \"#;\nconst Q: char = '\"'; // tokio\nfn f<'a>() {}",
    );
}

#[test]
fn an_order_without_a_reason_and_a_reason_without_an_order_are_found() {
    let sources = [Source::new("src/store/table.rs", "use std::collections::HashMap;")];
    let complaints = ["src/store/table.rs:1: HashMap in a pure module, without a reason"];
    assert_eq!(check_purity(&sources, &UNORDERED, &[]), complaints);
    assert_eq!(
        check_purity(&sources, &UNORDERED, &[("src/store/table.rs", "HashMap", "looked up only")]),
        Vec::<String>::new()
    );
    let stale = [("src/store/table.rs", "HashMap", "looked up only"), ("src/store/old.rs", "HashSet", "gone")];
    assert_eq!(
        check_purity(&sources, &UNORDERED, &stale),
        ["src/store/old.rs: HashSet is allowed but not there; take it off the list"]
    );
    assert_eq!(
        check_purity(&[Source::new("src/net/tcp.rs", "use std::collections::HashMap;")], &UNORDERED, &[]),
        Vec::<String>::new()
    );
}

#[test]
fn bincode_outside_of_its_door_is_found() {
    let rule = check_bincode;
    let outside = "1: bincode::decode_from_slice outside of codec";
    breach(rule, "src/raft/log.rs", "let x = bincode::decode_from_slice(bytes, c);", outside);
    breach(rule, "src/raft/log.rs", "use bincode::{Encode, config::standard};", "1: bincode::config outside of codec");
    fine(rule, "src/raft/log.rs", "use bincode::{Decode, Encode};\nuse bincode::de::Decoder;");
    fine(rule, "src/codec/door.rs", "let x = bincode::decode_from_slice(bytes, c);");
}

#[test]
fn a_missing_page_is_found() {
    breach(check_opening, "src/net/tcp.rs", "use std::fmt;\n//! x", "1: doesn't open with a //! page");
    breach(check_opening, "src/net/tcp.rs", "", "1: doesn't open with a //! page");
    fine(check_opening, "src/net/tcp.rs", "//! Frames over TCP.\n");
}

#[test]
fn long_files_and_functions_are_found_and_so_are_needless_exceptions() {
    let function = |lines: usize| {
        format!(
            "//! x\nimpl X {{\n    pub fn long(&self) -> [u8; 4] {{\n{}    }}\n}}\n",
            "        ();\n".repeat(lines - 2)
        )
    };
    let long = [Source::new("src/net/tcp.rs", &function(71))];
    assert_eq!(check_function_lengths(&long, &[]), ["src/net/tcp.rs long: 71 lines, more than 70"]);
    assert_eq!(check_function_lengths(&long, &["src/net/tcp.rs long"]), Vec::<String>::new());
    let short = [Source::new("src/net/tcp.rs", &function(70))];
    assert_eq!(check_function_lengths(&short, &[]), Vec::<String>::new());
    let needless = ["src/net/tcp.rs long: no longer past 70 lines; take it off the list"];
    assert_eq!(check_function_lengths(&short, &["src/net/tcp.rs long"]), needless);
    let table = format!("#[cfg(test)]\nmod tests {{ {} }}", function(200));
    assert_eq!(check_function_lengths(&[Source::new("src/net/tcp.rs", &table)], &[]), Vec::<String>::new());

    let files =
        [Source::new("src/net/tcp.rs", &"//\n".repeat(601)), Source::new("src/net/udp.rs", &"//\n".repeat(600))];
    assert_eq!(check_file_lengths(&files, &[]), ["src/net/tcp.rs: 601 lines, more than 600"]);
    assert_eq!(check_file_lengths(&files, &["src/net/tcp.rs"]), Vec::<String>::new());
    let needless = ["src/net/udp.rs: no longer past 600 lines; take it off the list"];
    assert_eq!(check_file_lengths(&files, &["src/net/tcp.rs", "src/net/udp.rs"]), needless);
}

#[test]
fn unfinished_work_is_found() {
    breach(check_finished, "src/net/tcp.rs", "fn f() {\n    todo!()\n}", "2: todo!");
    breach(check_finished, "src/net/tcp.rs", "let x = dbg!(y);", "1: dbg!");
    fine(check_finished, "src/net/tcp.rs", "// todo!() is refused\nmy_todo!();");
}

#[test]
fn untidy_white_space_is_found() {
    for text in ["a\nb \nc", "a\n\tb\n", "a\nb\r\n"] {
        breach(check_white_space, "src/net/tcp.rs", text, "2: a tab, or space at the end");
    }
    fine(check_white_space, "src/net/tcp.rs", "a\n    b\n");
}

#[test]
fn a_claim_without_its_test_is_found() {
    let table =
        "//! | section | claim | test |\n//! |---|---|---|\n//! | 5.1 | so | `paper::so` |\n//! | 6 | not | |\n";
    let complaints = |tests: &str| {
        let mut sources = vec![Source::new(CLAIMS, table)];
        sources.push(Source::new("src/raft/tests/paper.rs", tests));
        check_claims(&sources)
    };
    let untested = "src/raft/tests/mod.rs:4: a claim without a test";
    assert_eq!(complaints("#[test]\nfn so() {}\n"), [untested]);
    for tests in ["#[test]\nfn so_not() {}\n", "fn so() {}\n"] {
        assert_eq!(complaints(tests), ["src/raft/tests/mod.rs:3: there is no test paper::so", untested], "{tests}");
    }
    assert_eq!(check_claims(&[]), ["src/raft/tests/mod.rs: the table of claims is missing"]);
}
