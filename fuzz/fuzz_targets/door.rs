//! The door to bincode, for everything that goes through it. What it allocates is bounded by what its page says.

#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use jumpgate::api::{Request, Response};
use jumpgate::codec;
use jumpgate::control::{Command, ControlState};
use jumpgate::node::message::{PeerMessage, PulseMessage};
use libfuzzer_sys::fuzz_target;

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: it is the system's allocator; the numbers are beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// 64 times the input and 16 KiB; a list that grows holds its old and its new room for a moment.
fn bound(bytes: usize) -> usize {
    3 * (64 * bytes + (16 << 10))
}

fn decode<T: bincode_decode::Decodes>(bytes: &[u8]) {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    T::decode_and_drop(bytes);
    let peak = PEAK.load(Ordering::Relaxed) - before;
    assert!(peak <= bound(bytes.len()), "{peak} bytes for {} of {}", bytes.len(), std::any::type_name::<T>());
}

mod bincode_decode {
    /// Something that goes through the door.
    pub trait Decodes {
        /// Decodes one, and forgets it.
        fn decode_and_drop(bytes: &[u8]);
    }
}

macro_rules! decodes {
    ($($type:ty),*) => {
        $(impl bincode_decode::Decodes for $type {
            fn decode_and_drop(bytes: &[u8]) {
                if let Ok(value) = codec::decode::<$type>(bytes) {
                    let mut again = Vec::new();
                    codec::encode_into(&value, &mut again).expect("what was decoded can be encoded");
                    drop(again);
                }
            }
        })*
    };
}

decodes!(Vec<PulseMessage>, PeerMessage, Command, ControlState, Request, Response);

fuzz_target!(|bytes: &[u8]| {
    let Some((&which, bytes)) = bytes.split_first() else { return };
    match which % 6 {
        0 => decode::<Vec<PulseMessage>>(bytes),
        1 => decode::<PeerMessage>(bytes),
        2 => decode::<Command>(bytes),
        3 => decode::<ControlState>(bytes),
        4 => decode::<Request>(bytes),
        _ => decode::<Response>(bytes),
    }
});
