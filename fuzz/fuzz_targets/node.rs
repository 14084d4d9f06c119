//! A whole node that believes whatever a peer with the secret says: words that decode, from members and strangers, over
//! both planes, between steps of time. Nothing panics, and no invariant breaks.

#![no_main]

use std::time::Duration;

use jumpgate::base::{ClusterId, FollowerMode, Generation, Incarnation, Instant, NodeId, Options, Slot, Timing};
use jumpgate::codec::{self, Envelope, Keyring, NameHash, datagram};
use jumpgate::node::message::{PeerMessage, PulseMessage};
use jumpgate::node::{ControlCore, ControlOutput};
use libfuzzer_sys::fuzz_target;

const NAME: &str = "store";

/// The next bytes, with their length before them.
fn take<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&[kind, length], after) = rest.split_first_chunk()?;
    let (taken, after) = after.split_at(after.len().min(usize::from(length)));
    *rest = after;
    Some((kind, taken))
}

fn options() -> Options {
    Options {
        cluster_name: NAME.to_owned(),
        me: NodeId::new(Slot(0), Incarnation(1)),
        slots: 3,
        names: ["n1", "n2", "n3"].map(str::to_owned).to_vec(),
        advertised: vec![String::new(); 3],
        partitions: 16,
        replicas: 2,
        min_copies: 2,
        replicas_auto: true,
        sync_interval: Duration::from_secs(10),
        replace_after: Duration::from_secs(10),
        demote_after: Duration::from_secs(30),
        timing: Timing::default(),
        timing_adapts: true,
        followers: FollowerMode::default(),
        shards: 1,
        value_bytes_max: 1 << 20,
        key_bytes_max: 1024,
        memory_bytes_max: 1 << 30,
        requests_max: 64,
        tail_effects_max: 64,
        filling_bytes_max: 1 << 20,
        moving_bytes_per_second: 16 << 20,
        feed_effects_max: 1024,
        unix_micros_at_zero: 0,
        seed: 7,
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut now = Instant(1_000_000_000);
    let mut core = ControlCore::new(options(), now);
    let mut rest = bytes;
    let mut sequence = 0;
    while let Some((kind, bytes)) = take(&mut rest) {
        let me = core.me();
        let from = NodeId::new(Slot(1 + (kind >> 2 & 1)), Incarnation(1));
        let cluster = if kind & 8 == 0 { ClusterId::NONE } else { ClusterId(1) };
        let to = if kind & 16 == 0 { me } else { NodeId::new(me.slot, Incarnation::default()) };
        let envelope = Envelope { cluster, generation: Generation::ZERO, from, to };
        match kind & 3 {
            0 => {
                now = now + Duration::from_millis(u64::from(kind));
                core.handle_timeout(now);
            }
            1 => {
                let Ok(words) = codec::decode::<Vec<PulseMessage>>(bytes) else { continue };
                let mut sealed = Vec::new();
                sequence += 1;
                let none = Keyring::default();
                if datagram::encode(&envelope, NameHash::of(NAME), sequence, &words, &none, &mut sealed).is_ok() {
                    core.handle_datagram(now, &sealed);
                }
            }
            2 => {
                if let Ok(PeerMessage::Control(message)) = codec::decode::<PeerMessage>(bytes) {
                    core.handle_message(now, &envelope, message);
                }
            }
            _ => core.handle_datagram(now, bytes),
        }
        while let Some(output) = core.poll_output() {
            drop::<ControlOutput>(output);
        }
        core.check_invariants();
    }
});
