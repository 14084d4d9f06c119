//! What one partition's records cost: replacing and reading them.
//!
//! `cargo bench --bench table`

#[path = "support/pieces.rs"]
#[allow(dead_code, reason = "each bench uses some of the pieces")]
mod pieces;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

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

criterion_group!(benches, records);
criterion_main!(benches);
