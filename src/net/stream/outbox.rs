//! Messages to one peer that wait for its writer.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use bincode::Encode;
use thiserror::Error;
use tokio::sync::Notify;

use crate::codec::{CodecError, Envelope, Payload, frame};
use crate::net::Counters;

/// A chunk that has reached this length is closed and the next message begins another one. A frame of this length costs
/// little for its header and is sent before much more is waited for.
const CHUNK_BYTES: usize = 128 << 10;
/// Buffers kept for reuse; what a busy link has in flight.
const SPARES_MAX: usize = 16;
/// A buffer that has grown beyond this is given back to the system: a rare large message shouldn't be paid for ever.
const SPARE_BYTES_MAX: usize = 2 * CHUNK_BYTES;

/// In which of two lines a message waits. Each keeps its order; nothing is said about the order of messages of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Short ones for which somebody waits: replication, requests, answers.
    Live,
    /// Long ones for which nobody is in a hurry: parts of tables. They never hold up the others for longer than one of them
    /// takes, and where the carrier has streams, as QUIC has, not even for that.
    Bulk,
}

/// Which lanes a writer takes messages from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::net) enum Lanes {
    /// Both, by one connection: all that is live, then one chunk that isn't.
    Both,
    /// One of them.
    Only(Lane),
}

/// Why a message was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PushError {
    /// Too many bytes wait for this peer already.
    #[error("more than {bytes_max} bytes wait for this peer")]
    Full {
        /// How many may.
        bytes_max: usize,
    },
    /// The message can't be sent at all.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// Messages for one addressee, ready to be the payload of one frame.
#[derive(Debug)]
pub struct Chunk {
    /// Who says them to whom.
    pub envelope: Envelope,
    /// The messages, each with its length.
    pub payload: Payload,
    /// How many they are.
    pub messages: u64,
}

/// The queue between the cores, which push from any thread without waiting, and one peer's writer.
///
/// Messages with the same envelope are collected in a chunk until the writer takes it or it is long enough; a busy
/// writer thus finds large frames and an idle one sends a message alone.
///
/// It is bounded in bytes, both lanes together, those that are being written included. A full one refuses
/// ([`PushError::Full`]): whoever pushes sends again later, as for a message that was lost.
///
/// Invariant: `bytes` is the sum over the chunks of both lanes and over what was taken and not yet released.
#[derive(Debug)]
pub struct Outbox {
    queue: Mutex<Queue>,
    /// For each lane.
    filled: [Notify; 2],
    reachable: Notify,
    bytes_max: usize,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Queue {
    /// For each lane.
    chunks: [VecDeque<Chunk>; 2],
    bytes: usize,
    spares: Vec<Payload>,
}

impl Outbox {
    /// A queue for at most `bytes_max` bytes. A single message is always accepted by an empty one.
    #[must_use]
    pub fn new(bytes_max: usize, counters: Arc<Counters>) -> Self {
        Self { queue: Mutex::default(), filled: Default::default(), reachable: Notify::new(), bytes_max, counters }
    }

    /// Appends `message` to a lane, to be sent in a frame with `envelope`.
    ///
    /// # Errors
    /// Where the queue is full (counted), or where the message is too large for any frame.
    pub fn push<T: Encode>(&self, lane: Lane, envelope: &Envelope, message: &T) -> Result<(), PushError> {
        let was_empty = {
            let mut queue = self.lock();
            let was_empty = queue.chunks[lane as usize].is_empty();
            if let Err(error) = queue.append(lane, envelope, message, self.bytes_max) {
                if matches!(error, PushError::Full { .. }) {
                    self.counters.messages_refused.add(1);
                }
                return Err(error);
            }
            was_empty
        };
        // A writer that was not waiting on an empty queue looks again by itself.
        if was_empty {
            self.filled[lane as usize].notify_one();
        }
        Ok(())
    }

    /// Moves what is queued into `batch`, which must be empty: all of one lane; or all that is live, and one chunk that isn't.
    /// Its bytes count until [`Outbox::release`].
    pub(in crate::net) fn take(&self, lanes: Lanes, batch: &mut VecDeque<Chunk>) {
        assert!(batch.is_empty(), "{} chunks are still to be written", batch.len());
        let mut queue = self.lock();
        match lanes {
            Lanes::Only(lane) => std::mem::swap(&mut queue.chunks[lane as usize], batch),
            Lanes::Both => {
                let [live, bulk] = &mut queue.chunks;
                std::mem::swap(live, batch);
                batch.extend(bulk.pop_front());
            }
        }
    }

    /// Says that a chunk was written or given up, and gives its buffer back.
    pub fn release(&self, chunk: Chunk) {
        self.lock().release(chunk);
    }

    /// Throws away what is queued under an envelope that `keep` doesn't want: after a peer came back as another
    /// incarnation, say, what its predecessor was to be told. How many messages that were.
    pub fn discard(&self, keep: impl Fn(&Envelope) -> bool) -> u64 {
        let mut queue = self.lock();
        let mut messages = 0;
        for lane in [Lane::Live, Lane::Bulk] {
            let chunks = std::mem::take(&mut queue.chunks[lane as usize]);
            let (kept, dropped): (VecDeque<_>, VecDeque<_>) =
                chunks.into_iter().partition(|chunk| keep(&chunk.envelope));
            queue.chunks[lane as usize] = kept;
            messages += dropped.iter().map(|chunk| chunk.messages).sum::<u64>();
            dropped.into_iter().for_each(|chunk| queue.release(chunk));
        }
        self.counters.messages_discarded.add(messages);
        messages
    }

    /// Bytes that are queued or being written.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Whether what is live is a single message, or none.
    pub(in crate::net) fn is_single(&self) -> bool {
        let live = &self.lock().chunks[Lane::Live as usize];
        live.len() <= 1 && live.front().is_none_or(|chunk| chunk.messages == 1)
    }

    /// Says that the peer was just heard, so that a writer that waits before it dials again doesn't wait longer. For
    /// when a peer comes back; not for each of its datagrams.
    pub fn hint_reachable(&self) {
        self.reachable.notify_one();
    }

    /// Waits until something was pushed into an empty lane since the last wait.
    pub(in crate::net) async fn filled(&self, lanes: Lanes) {
        let [live, bulk] = &self.filled;
        match lanes {
            Lanes::Only(lane) => self.filled[lane as usize].notified().await,
            Lanes::Both => {
                tokio::select! {
                    () = live.notified() => {}
                    () = bulk.notified() => {}
                }
            }
        }
    }

    /// Waits until the peer was hinted to be reachable.
    pub(in crate::net) async fn reachable(&self) {
        self.reachable.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("an encoder panicked and left half a message in the queue")
    }
}

impl Queue {
    fn append<T: Encode>(
        &mut self,
        lane: Lane,
        envelope: &Envelope,
        message: &T,
        bytes_max: usize,
    ) -> Result<(), PushError> {
        if self.bytes >= bytes_max {
            return Err(PushError::Full { bytes_max });
        }
        let tail = self.chunks[lane as usize].back();
        let open = tail.is_some_and(|tail| tail.envelope == *envelope && tail.payload.len() < CHUNK_BYTES);
        if !open {
            self.open_chunk(lane, envelope);
        }
        let result = self.append_to_tail(lane, message, bytes_max);
        if self.chunks[lane as usize].back().is_some_and(|tail| tail.messages == 0) {
            // The message was refused, and the chunk was opened for it.
            self.close_empty_tail(lane);
        }
        result
    }

    /// Appends to the last chunk of a lane, or leaves it as it was.
    fn append_to_tail<T: Encode>(&mut self, lane: Lane, message: &T, bytes_max: usize) -> Result<(), PushError> {
        let chunks = &mut self.chunks[lane as usize];
        let tail = chunks.back_mut().expect("a chunk was opened");
        let (mark, start) = (tail.payload.mark(), tail.payload.len());
        tail.payload.append(message)?;
        let added = tail.payload.len() - start;
        // One message is accepted by an empty queue whatever its size, or it could never be sent.
        if self.bytes > 0 && self.bytes + added > bytes_max {
            tail.payload.truncate(mark);
            return Err(PushError::Full { bytes_max });
        }
        self.bytes += added;
        if start > 0 && tail.payload.len() > frame::PAYLOAD_BYTES_MAX {
            // Together they are more than a frame: the message gets one of its own.
            let chunk = Chunk { envelope: tail.envelope, payload: tail.payload.split_off(mark), messages: 1 };
            chunks.push_back(chunk);
        } else {
            tail.messages += 1;
        }
        Ok(())
    }

    fn open_chunk(&mut self, lane: Lane, envelope: &Envelope) {
        let payload = self.spares.pop().unwrap_or_default();
        self.chunks[lane as usize].push_back(Chunk { envelope: *envelope, payload, messages: 0 });
    }

    fn close_empty_tail(&mut self, lane: Lane) {
        if let Some(tail) = self.chunks[lane as usize].pop_back() {
            self.release(tail);
        }
    }

    fn release(&mut self, chunk: Chunk) {
        let mut payload = chunk.payload;
        self.bytes = self.bytes.checked_sub(payload.len()).expect("a chunk was released that was never counted");
        payload.clear();
        if self.spares.len() < SPARES_MAX && (1..=SPARE_BYTES_MAX).contains(&payload.capacity()) {
            self.spares.push(payload);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{ClusterId, Generation, Incarnation, NodeId, Slot};

    fn envelope(incarnation: u128) -> Envelope {
        Envelope {
            cluster: ClusterId(1),
            generation: Generation(0),
            from: NodeId::new(Slot(0), Incarnation(10)),
            to: NodeId::new(Slot(1), Incarnation(incarnation)),
        }
    }

    fn outbox(bytes_max: usize) -> Outbox {
        Outbox::new(bytes_max, Arc::new(Counters::default()))
    }

    fn take(outbox: &Outbox) -> VecDeque<Chunk> {
        let mut batch = VecDeque::new();
        outbox.take(Lanes::Both, &mut batch);
        batch
    }

    fn push<T: Encode>(outbox: &Outbox, incarnation: u128, message: &T) -> Result<(), PushError> {
        outbox.push(Lane::Live, &envelope(incarnation), message)
    }

    /// For each chunk: whom it is for, and how many messages are really in it.
    fn shape(batch: &VecDeque<Chunk>) -> Vec<(u128, usize)> {
        let messages = |chunk: &Chunk| frame::messages(&chunk.payload.to_vec()).filter(Result::is_ok).count();
        for chunk in batch {
            assert_eq!(chunk.messages as usize, messages(chunk), "the count is wrong");
        }
        batch.iter().map(|chunk| (chunk.envelope.to.incarnation.0, messages(chunk))).collect()
    }

    #[test]
    fn messages_to_one_addressee_share_a_chunk_until_it_is_long() {
        let outbox = outbox(64 << 20);
        for _ in 0..3 {
            push(&outbox, 1, &7_u8).expect("there is room");
        }
        push(&outbox, 1, &vec![0_u8; CHUNK_BYTES]).expect("there is room");
        push(&outbox, 1, &7_u8).expect("there is room");
        push(&outbox, 2, &7_u8).expect("there is room");
        push(&outbox, 1, &7_u8).expect("there is room");
        assert_eq!(shape(&take(&outbox)), [(1, 4), (1, 1), (2, 1), (1, 1)]);
    }

    #[test]
    fn a_message_that_would_burst_the_frame_gets_its_own() {
        let outbox = outbox(64 << 20);
        push(&outbox, 1, &7_u8).expect("there is room");
        let large = vec![1_u8; frame::MESSAGE_BYTES_MAX - 5];
        push(&outbox, 1, &large).expect("it fits a frame alone");
        push(&outbox, 1, &7_u8).expect("there is room");
        let batch = take(&outbox);
        assert_eq!(shape(&batch), [(1, 1), (1, 1), (1, 1)]);
        assert_eq!(batch[1].payload.len(), frame::PAYLOAD_BYTES_MAX);
        let larger = vec![1_u8; frame::MESSAGE_BYTES_MAX - 4];
        let refused = push(&outbox, 1, &larger);
        assert_eq!(refused, Err(PushError::Codec(CodecError::TooLarge { bytes_max: frame::MESSAGE_BYTES_MAX })));
        assert!(take(&outbox).is_empty());
    }

    #[test]
    fn a_full_queue_refuses_until_what_was_taken_is_released() {
        let outbox = outbox(100);
        push(&outbox, 1, &[0_u8; 60]).expect("there is room");
        let full = Err(PushError::Full { bytes_max: 100 });
        assert_eq!(push(&outbox, 1, &[0_u8; 60]), full);
        assert_eq!(push(&outbox, 2, &[0_u8; 60]), full);
        assert_eq!(outbox.counters.messages_refused.value(), 2);
        let mut batch = take(&outbox);
        assert_eq!((shape(&batch), outbox.bytes()), (vec![(1, 1)], 64));
        assert_eq!(push(&outbox, 1, &[0_u8; 60]), full, "it is still being written");
        batch.drain(..).for_each(|chunk| outbox.release(chunk));
        assert_eq!(outbox.bytes(), 0);
        push(&outbox, 1, &[0_u8; 200]).expect("an empty queue takes any one message");
    }

    #[test]
    fn what_an_earlier_life_was_to_be_told_is_discarded() {
        let outbox = outbox(1 << 20);
        for incarnation in [1, 1, 2, 1] {
            push(&outbox, incarnation, &7_u32).expect("there is room");
        }
        assert_eq!(outbox.discard(|envelope| envelope.to.incarnation == Incarnation(2)), 3);
        assert_eq!(outbox.counters.messages_discarded.value(), 3);
        let batch = take(&outbox);
        assert_eq!(shape(&batch), [(2, 1)]);
        assert_eq!(outbox.bytes(), batch[0].payload.len());
    }

    #[test]
    fn buffers_are_used_again_unless_they_have_grown_large() {
        let outbox = outbox(64 << 20);
        let start = |chunk: &Chunk| chunk.payload.pieces().next().map(<[u8]>::as_ptr);
        push(&outbox, 1, &[0_u8; 1000]).expect("there is room");
        let chunk = take(&outbox).pop_front().expect("one was pushed");
        let buffer = start(&chunk);
        outbox.release(chunk);
        push(&outbox, 1, &7_u8).expect("there is room");
        let chunk = take(&outbox).pop_front().expect("one was pushed");
        assert_eq!(start(&chunk), buffer);
        outbox.release(chunk);
        push(&outbox, 1, &vec![0_u8; SPARE_BYTES_MAX]).expect("there is room");
        outbox.release(take(&outbox).pop_front().expect("one was pushed"));
        assert_eq!(outbox.lock().spares.len(), 0);
    }

    #[test]
    fn what_is_live_goes_first_and_the_rest_goes_too() {
        let outbox = outbox(64 << 20);
        let long = vec![0_u8; CHUNK_BYTES];
        for number in 0..3_u8 {
            outbox.push(Lane::Bulk, &envelope(1), &long).expect("there is room");
            push(&outbox, 1, &number).expect("there is room");
        }
        let lengths = |batch: &VecDeque<Chunk>| -> Vec<bool> {
            batch.iter().map(|chunk| chunk.payload.len() > CHUNK_BYTES).collect()
        };
        assert_eq!(lengths(&take(&outbox)), [false, true], "all that is live, and one that isn't");
        push(&outbox, 1, &3_u8).expect("there is room");
        assert_eq!(lengths(&take(&outbox)), [false, true]);
        let mut batch = VecDeque::new();
        outbox.take(Lanes::Only(Lane::Live), &mut batch);
        assert!(batch.is_empty());
        outbox.take(Lanes::Only(Lane::Bulk), &mut batch);
        assert_eq!(lengths(&batch), [true]);
        outbox.push(Lane::Bulk, &envelope(1), &long).expect("there is room");
        assert_eq!(outbox.discard(|_| false), 1, "of either lane");
    }
}
