//! `jumpgate bench` against a cluster: what it did is what it reports.

use std::process::Output;

use serde_json::Value;

use super::processes::{PortBlock, Process, Scratch, program, until};

/// A cluster of `dev`, and its gateways.
fn cluster(ports: &PortBlock, scratch: &Scratch) -> (Process, String) {
    let first = ports.first();
    let dev = Process::start(program(&["dev", "--port", &first.to_string()]), scratch, "dev");
    until("dev says what to try", || dev.output().contains("     curl ").then_some(()));
    let urls: Vec<String> = (1..=3).map(|node| format!("http://127.0.0.1:{}", first + node)).collect();
    (dev, urls.join(","))
}

fn bench(urls: &str, arguments: &[&str]) -> Output {
    program(&[&["bench", "--url", urls, "--keys", "50"], arguments].concat()).output().expect("the program starts")
}

fn report(urls: &str, arguments: &[&str]) -> Value {
    let output = bench(urls, &[arguments, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("a report is JSON")
}

#[test]
fn a_bench_reports_what_it_did_and_exits_as_all_commands_do() {
    let (ports, scratch) = (PortBlock::claim(), Scratch::new());
    let (mut dev, urls) = cluster(&ports, &scratch);

    let closed = report(&urls, &["--count", "300", "--connections", "4", "--spread", "--read", "0.5"]);
    let done = |row: &str| closed[row]["done"].as_u64().expect("a count");
    assert_eq!((done("all"), done("reads") + done("writes")), (300, 300));
    assert!(done("reads") > 0 && done("writes") > 0, "half of each: {closed}");
    assert_eq!(
        (&closed["loop"], &closed["missing"], &closed["all"]["failed"]),
        (&"closed".into(), &0.into(), &0.into())
    );
    let bars = closed["histogram"].as_array().expect("bars").iter();
    assert_eq!(bars.map(|bar| bar["requests"].as_u64().expect("a count")).sum::<u64>(), 300);

    // Nobody has stored these: reads miss, which is no failure.
    let missing = report(&urls, &["--count", "20", "--read", "1", "--unprepared", "--prefix", "nobody/"]);
    assert_eq!((&missing["missing"], &missing["reads"]["done"]), (&20.into(), &20.into()));

    let batches =
        report(&urls, &["--count", "128", "--batch", "64", "--read", "0", "--viewers", "2", "--connections", "1"]);
    assert_eq!((&batches["batches"]["done"], &batches["writes"]["done"]), (&2.into(), &128.into()));
    assert!(batches["viewers"]["fewest"].as_u64() >= Some(128), "each viewer is sent each write: {batches}");

    let open = report(&urls, &["--rate", "500", "--count", "100"]);
    let (sent, owed) = (open["all"]["done"].as_u64().expect("a count"), open["not_sent"].as_u64().expect("a count"));
    assert_eq!((&open["loop"], sent + owed), (&"open".into(), 100));

    let people = bench(&urls, &["--count", "10"]);
    let text = String::from_utf8(people.stdout).expect("text");
    assert!(text.contains("| all ") && text.contains("closed loop, 32 connections, values of 128 bytes"), "{text}");

    dev.stop("TERM");
    let nobody = bench(&urls, &["--count", "1", "--timeout", "1s"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("is the cluster running there?"), "{nobody:?}");
    assert_eq!(bench(&urls, &["--read", "2"]).status.code(), Some(2));
}
