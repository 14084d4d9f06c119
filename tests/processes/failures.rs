//! What is left when processes are killed and come back.

use jumpgate::api::{ClusterStatus, Role};

use super::processes::{Cluster, Contents, contents, program, read, until};

/// Keys of a test: several in every partition that matters, and few enough to read them all often.
const KEYS: usize = 300;

/// One node dies, all is there; it comes back, all is there; another dies, all is there.
fn survive(chooses_leader: bool) {
    let mut cluster = Cluster::start(3);
    let mut stored = contents("before/", KEYS);
    cluster.put_all(&[0, 1, 2], &stored);
    let leader = cluster.leader();
    let victim = if chooses_leader { leader } else { (leader + 1) % 3 };
    let before = cluster.incarnation(leader, victim);

    cluster.kill(&[victim]);
    let survivors = cluster.running();
    cluster.expect(&survivors, &stored);
    let meanwhile = contents("meanwhile/", KEYS / 3);
    cluster.put_all(&survivors, &meanwhile);
    stored.extend(meanwhile);
    cluster.put(survivors[0], "before/00000", b"changed while one was away");
    stored.insert("before/00000".to_owned(), b"changed while one was away".to_vec());
    expect_dead_in_status_command(&cluster, victim);

    cluster.spawn(victim);
    cluster.wait_until_whole();
    for observer in 0..3 {
        assert_ne!(cluster.incarnation(observer, victim), before, "n{} was not noticed to be new", victim + 1);
    }
    let status = cluster.status(victim);
    assert!(status.nodes[victim].voter && status.nodes[victim].in_sync > 0, "{status:?}");
    cluster.expect(&[victim], &stored);

    let next = (victim + 1) % 3;
    cluster.kill(&[next]);
    cluster.expect(&cluster.running(), &stored);
    cluster.put(victim, "after", b"written to the one that came back");
    expect_nothing_lost(&cluster);
}

/// `jumpgate status --json` shows that a node is dead.
fn expect_dead_in_status_command(cluster: &Cluster, dead: usize) {
    until("the status command shows the dead node", || {
        let output = program(&["status", "--json", "--url", &cluster.urls()]).output().expect("it starts");
        let status: ClusterStatus = serde_json::from_slice(&output.stdout).ok()?;
        assert_ne!(status.node, cluster.config.nodes[dead].id, "a dead node answered");
        let others_live = status.nodes.iter().enumerate().all(|(at, node)| at == dead || node.role != Role::Dead);
        (status.nodes[dead].role == Role::Dead && others_live && status.quorum).then_some(())
    });
}

fn expect_nothing_lost(cluster: &Cluster) {
    for node in cluster.running() {
        let partitions = cluster.status(node).partitions;
        assert_eq!(partitions.lost, 0, "n{} says {partitions:?}", node + 1);
    }
}

#[test]
fn the_death_of_the_leader_costs_nothing_that_was_stored() {
    survive(true);
}

#[test]
fn the_death_of_a_follower_costs_nothing_that_was_stored() {
    survive(false);
}

#[test]
fn one_after_the_other_may_be_restarted() {
    let mut cluster = Cluster::start(3);
    let mut stored = contents("round/", KEYS);
    cluster.put_all(&[0, 1, 2], &stored);
    let cluster_id = cluster.status(0).cluster_id;
    for node in 0..3 {
        assert_eq!(cluster.stop(node).code(), Some(0));
        let key = format!("round/{node:05}");
        cluster.put((node + 1) % 3, &key, b"replaced");
        stored.insert(key, b"replaced".to_vec());
        cluster.spawn(node);
        cluster.wait_until_whole();
    }
    cluster.expect(&[0, 1, 2], &stored);
    assert_eq!(cluster.status(0).cluster_id, cluster_id, "it is another cluster");
}

#[test]
fn when_all_are_restarted_a_new_and_empty_cluster_is_founded() {
    let mut cluster = Cluster::start(3);
    let stored = contents("forgotten/", 20);
    cluster.put_all(&[0, 1, 2], &stored);
    let before = cluster.status(0).cluster_id;
    cluster.kill(&[0, 1, 2]);
    (0..3).for_each(|node| cluster.spawn(node));
    cluster.wait_until_whole();
    let after = cluster.status(0).cluster_id;
    assert_ne!(after, before);
    let said = format!("founded cluster {after} with 3 nodes");
    for node in 0..3 {
        assert!(cluster.process(node).log().contains(&said), "{}", cluster.process(node).log());
        let mut client = cluster.http(node);
        for key in stored.keys() {
            assert_eq!(read(&mut client, key), None, "{key} came from nowhere");
        }
    }
    cluster.put(0, "new", b"life");
    cluster.expect(&[0, 1, 2], &Contents::from([("new".to_owned(), b"life".to_vec())]));
}

#[test]
fn two_of_five_may_die_at_once() {
    let mut cluster = Cluster::start(5);
    assert_eq!(cluster.status(0).replicas, 3);
    let mut stored = contents("five/", KEYS);
    cluster.put_all(&[0, 1, 2, 3, 4], &stored);
    let leader = cluster.leader();
    cluster.kill(&[leader, (leader + 2) % 5]);
    let survivors = cluster.running();
    cluster.expect(&survivors, &stored);
    let meanwhile = contents("three/", KEYS / 3);
    cluster.put_all(&survivors, &meanwhile);
    stored.extend(meanwhile);
    cluster.expect(&survivors, &stored);
    expect_nothing_lost(&cluster);
}

#[test]
fn a_minority_refuses_writes_instead_of_pretending() {
    let mut cluster = Cluster::start(3);
    cluster.put(0, "a", b"kept");
    let survivor = 2;
    cluster.kill(&[0, 1]);
    until("the survivor notices", || cluster.try_status(survivor).filter(|status| !status.quorum));
    let answer = cluster.http(survivor).ask("PUT /v1/kv/b?timeout=300ms", b"x").expect("an answer");
    assert!(matches!(answer.status, 503 | 504), "{answer:?}");
    let ready = cluster.http(survivor).ask("GET /leaderz", b"").expect("an answer");
    assert_eq!(ready.status, 503, "it takes itself for a leader");
    // A process that has forgotten everything doesn't make a majority of those who remember: two of them could otherwise
    // agree on an empty cluster.
    cluster.spawn(0);
    until("the new process is there", || cluster.try_status(0));
    let answer = cluster.http(0).ask("PUT /v1/kv/b?timeout=300ms", b"x").expect("an answer");
    assert!(matches!(answer.status, 503 | 504), "{answer:?}");
    assert!(!cluster.status(0).quorum);
}

#[test]
fn two_of_four_may_die_at_once_and_every_value_is_still_read() {
    let mut cluster = Cluster::start(4);
    assert_eq!(cluster.status(0).replicas, 3);
    let stored = contents("four/", KEYS);
    cluster.put_all(&[0, 1, 2, 3], &stored);
    let leader = cluster.leader();
    cluster.kill(&[leader, (leader + 1) % 4]);
    let survivors = cluster.running();
    cluster.expect(&survivors, &stored);
    cluster.wait_until("the survivors notice", |status| !status.quorum);
    for &survivor in &survivors {
        let mut client = cluster.http(survivor);
        for (key, value) in &stored {
            let answer = client.ask(&format!("GET /v1/kv/{key}"), b"").expect("an answer");
            assert_eq!((answer.status, answer.header("jumpgate-degraded")), (200, "true"), "{answer:?}");
            assert_eq!(&answer.body, value, "{key}");
        }
        let page = client.ask("GET /v1/kv?limit=10000", b"").expect("an answer");
        let keys = page.json()["items"].as_array().map_or(0, Vec::len);
        assert_eq!((page.status, page.header("jumpgate-degraded"), keys), (200, "true", stored.len()));
        let nothing = client.ask("GET /v1/kv/never-written", b"").expect("an answer");
        assert_eq!((nothing.status, nothing.header("jumpgate-degraded")), (404, "true"), "{nothing:?}");
        let refused = client.ask("PUT /v1/kv/four/00000", b"x").expect("an answer");
        let problem = refused.json();
        let said = (refused.status, problem["type"].as_str(), problem["outcome"].as_str());
        assert_eq!(said, (503, Some("urn:jumpgate:problem:no-quorum"), Some("definite")), "{refused:?}");
    }
    // One more than the copies bear: what is gone is said by name.
    cluster.kill(&[survivors[0]]);
    let mut client = cluster.http(survivors[1]);
    let page = client.ask("GET /v1/kv?limit=10000", b"").expect("an answer");
    assert_eq!((page.status, page.json()["type"].as_str()), (503, Some("urn:jumpgate:problem:unavailable")));
    let mut lost = 0;
    for (key, value) in stored.iter().take(12) {
        let answer = client.ask(&format!("GET /v1/kv/{key}"), b"").expect("an answer");
        if answer.status == 200 {
            assert_eq!((&answer.body, answer.header("jumpgate-degraded")), (value, "true"), "{key}");
        } else {
            let problem = answer.json();
            let name = problem["type"].as_str().unwrap_or_default();
            assert!(name.ends_with(":unavailable") || name.ends_with(":partition-lost"), "{key}: {answer:?}");
            lost += 1;
        }
    }
    assert!(lost < 12, "the last node holds three quarters");
}
