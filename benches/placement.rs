//! What placement costs: the hash on every request's way, and the maps that a change of members derives.
//!
//! `cargo bench --bench placement`

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use jumpgate::base::{Options, PartitionId, SlotSet};
use jumpgate::placement::{PlacementMap, Plan, jump, owners, partition_of};

const PARTITIONS: u16 = 4096;
const NODES: [usize; 3] = [3, 5, 16];

/// On every request: key → partition.
fn key_to_partition(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("key to partition");
    for length in [8, 32, 128, 1024] {
        let keys: Vec<Vec<u8>> = (0..1024_usize).map(|nth| vec![nth as u8 ^ (nth >> 8) as u8; length]).collect();
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{length} bytes")), |bencher| {
            let mut keys = keys.iter().cycle();
            bencher.iter(|| partition_of(black_box(keys.next().expect("a cycle doesn't end")), PARTITIONS));
        });
    }
}

fn jump_hash(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("jump hash");
    for buckets in [3, 16, 64, 1024] {
        group.bench_function(BenchmarkId::from_parameter(format!("{buckets} buckets")), |bencher| {
            let mut key = 0_u64;
            bencher.iter(|| {
                // Another key each time, far from the last.
                key = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
                jump(black_box(key), buckets)
            });
        });
    }
}

fn owners_of_a_partition(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("owners of a partition");
    for nodes in NODES {
        let (members, replicas) = (SlotSet::first(nodes), Options::replicas_auto(nodes));
        group.bench_function(BenchmarkId::from_parameter(format!("{nodes} nodes, {replicas} copies")), |bencher| {
            let mut number = 0_u16;
            bencher.iter(|| {
                number = (number + 1) % PARTITIONS;
                owners(black_box(PartitionId(number)), members, replicas)
            });
        });
    }
}

fn map_of_all_partitions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("map of 4096 partitions");
    group.throughput(Throughput::Elements(u64::from(PARTITIONS)));
    for nodes in NODES {
        let (members, replicas) = (SlotSet::first(nodes), Options::replicas_auto(nodes));
        group.bench_function(BenchmarkId::from_parameter(format!("{nodes} nodes, {replicas} copies")), |bencher| {
            bencher.iter(|| PlacementMap::derive(PARTITIONS, black_box(members), replicas));
        });
    }
}

fn plan_for_one_node_more(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan for one node more");
    for nodes in NODES {
        let replicas = Options::replicas_auto(nodes);
        let [before, after] =
            [nodes, nodes + 1].map(|nodes| PlacementMap::derive(PARTITIONS, SlotSet::first(nodes), replicas));
        group.bench_function(BenchmarkId::from_parameter(format!("{nodes} nodes, {replicas} copies")), |bencher| {
            bencher.iter(|| Plan::between(black_box(&before), black_box(&after)));
        });
    }
}

criterion_group!(
    benches,
    key_to_partition,
    jump_hash,
    owners_of_a_partition,
    map_of_all_partitions,
    plan_for_one_node_more
);
criterion_main!(benches);
