//! What one partition's records cost: replacing and reading them.
//!
//! `cargo bench --bench table`

#[path = "support/pieces.rs"]
#[allow(dead_code, reason = "each bench uses some of the pieces")]
mod pieces;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

use pieces::Shelf;

fn records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("table");
    // A partition of 100,000 keys in 4096, and one of forty million.
    for count in [25, 10_000] {
        for bytes in [128, 4096] {
            let name = format!("{count} records of {bytes} bytes");
            let mut shelf = Shelf::new(count, bytes);
            group.bench_function(BenchmarkId::new("put", &name), |bencher| bencher.iter(|| shelf.put()));
            group.bench_function(BenchmarkId::new("get", &name), |bencher| bencher.iter(|| shelf.get()));
        }
    }
}

/// What hashing records again takes where they are far more than any cache holds: each element is one of them.
fn scrub(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("table");
    let count = 1_000_000;
    let mut shelf = Shelf::new(count, 128);
    group.throughput(Throughput::Elements(SCRUBBED)).sample_size(20);
    group.bench_function(BenchmarkId::new("scrub", "a million records of 128 bytes"), |bencher| {
        bencher.iter(|| shelf.scrub(SCRUBBED));
    });
}

/// Records of one call: what a shard hashes at once.
const SCRUBBED: u64 = 1000;

criterion_group!(benches, records, scrub);
criterion_main!(benches);
