//! What bytes on the wire cost: frames of preparations, written and read.
//!
//! `cargo bench --bench codec`

#[path = "support/pieces.rs"]
#[allow(dead_code, reason = "each bench uses some of the pieces")]
mod pieces;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

use pieces::Frames;

fn frames(criterion: &mut Criterion) {
    for (name, count, bytes) in
        [("1 write of 128 bytes", 1, 128), ("64 writes of 128 bytes", 64, 128), ("1 write of 64 KiB", 1, 64 << 10)]
    {
        let mut frames = Frames::new(count, bytes);
        let mut group = criterion.benchmark_group("frame");
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("encode", name), |bencher| bencher.iter(|| frames.encode()));
        group.bench_function(BenchmarkId::new("decode", name), |bencher| bencher.iter(|| frames.decode()));
    }
}

criterion_group!(benches, frames);
criterion_main!(benches);
