//! What a leader knows of one peer.

use std::collections::VecDeque;
use std::time::Duration;

use super::log::Log;
use super::message::StreamMessage;
use super::{LogPosition, PulseSequence};
use crate::base::{Instant, LogIndex, Term, Timing};

/// Appends on the way to one peer. With one round trip of 100 ms and appends of 256 KiB that is 40 MB/s, far more than
/// a control log needs.
const IN_FLIGHT_APPENDS_MAX: usize = 16;
/// Heartbeats whose send time is remembered. An ack of an earlier one is of no use: no lease is that long.
const HEARTBEATS_REMEMBERED_MAX: usize = 64;

/// How a peer's log is brought up to the leader's.
///
/// ```text
///           ┌────────── conflict, or nothing heard for too long ─────────┐
///           ▼                                                            │
///   Probe: one append at a time ──── its log matches ───▶ Pipeline: appends without waiting for answers
///           │                                                            │
///           └──▶ Snapshot: what it needs next is compacted ◀─────────────┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Where the logs part is not known: one append at a time.
    Probe {
        /// When the append now under way was sent.
        sent_at: Option<Instant>,
        /// The next probe is a repetition: it carries no entries, lest a slow connection be filled with copies.
        again: bool,
    },
    /// The logs match through `matched`, and what follows is sent without waiting.
    Pipeline,
    /// A snapshot is under way.
    Snapshot {
        /// When it was sent.
        sent_at: Instant,
    },
}

/// An append with entries that is not answered yet.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    last: LogIndex,
    sent_at: Instant,
}

/// What a leader sends along with whatever goes to a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sending {
    pub(super) now: Instant,
    pub(super) term: Term,
    pub(super) commit: LogIndex,
    pub(super) append_bytes_max: usize,
}

/// What a leader knows of one peer.
///
/// Invariants ([`Progress::check_invariants`]):
/// - `matched` < `next` ≤ the leader's last index + 1;
/// - appends in flight are in rising order and end before `next`, and there are at most so many.
#[derive(Debug)]
pub(super) struct Progress {
    matched: LogPosition,
    next: LogIndex,
    mode: Mode,
    in_flight: VecDeque<InFlight>,
    commit_told: LogIndex,
    stream_heard_at: Option<Instant>,
    sequence: PulseSequence,
    heartbeats: VecDeque<(PulseSequence, Instant)>,
    acked_sequence: PulseSequence,
    contact: Option<Instant>,
    acked_at: Option<Instant>,
    promise: Duration,
    round_trip: Option<Duration>,
    /// It isn't in the membership any more, and is told so until then.
    pub(super) leaves_at: Option<Instant>,
}

impl Progress {
    /// A peer of which nothing is known, to whom entries from `next` on are offered first. Its heartbeats have numbers after
    /// `numbered`, and acks of earlier ones are no news.
    pub(super) const fn new(next: LogIndex, numbered: PulseSequence) -> Self {
        Self {
            matched: LogPosition::ZERO,
            next,
            mode: Mode::Probe { sent_at: None, again: false },
            in_flight: VecDeque::new(),
            commit_told: LogIndex::ZERO,
            stream_heard_at: None,
            sequence: numbered,
            heartbeats: VecDeque::new(),
            acked_sequence: numbered,
            contact: None,
            acked_at: None,
            promise: Duration::ZERO,
            round_trip: None,
            leaves_at: None,
        }
    }

    /// The last entry that its log is known to share with the leader's.
    pub(super) const fn matched(&self) -> LogPosition {
        self.matched
    }

    /// When something was heard on the stream plane, or progress there was seen.
    pub(super) const fn stream_heard_at(&self) -> Option<Instant> {
        self.stream_heard_at
    }

    /// The send time of the latest heartbeat that it acked.
    pub(super) const fn contact(&self) -> Option<Instant> {
        self.contact
    }

    pub(super) const fn acked_at(&self) -> Option<Instant> {
        self.acked_at
    }

    pub(super) const fn acked_sequence(&self) -> PulseSequence {
        self.acked_sequence
    }

    /// For how long it said it votes for nobody else, with its latest ack.
    pub(super) const fn promise(&self) -> Duration {
        self.promise
    }

    pub(super) const fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// The number of the latest heartbeat to it.
    pub(super) const fn sequence(&self) -> PulseSequence {
        self.sequence
    }

    /// The next heartbeat has a number after `sequence`.
    pub(super) fn skip_past(&mut self, sequence: PulseSequence) {
        self.sequence = self.sequence.max(sequence);
    }

    /// Numbers the heartbeat that is sent now.
    pub(super) fn next_heartbeat(&mut self, now: Instant) -> PulseSequence {
        self.sequence = self.sequence.advanced(1);
        if self.heartbeats.len() == HEARTBEATS_REMEMBERED_MAX {
            self.heartbeats.pop_front();
        }
        self.heartbeats.push_back((self.sequence, now));
        self.sequence
    }

    /// Whether an ack of heartbeat `sequence` is news: not an old or a doubled one, nor of a heartbeat never sent.
    pub(super) fn is_new_ack(&self, sequence: PulseSequence) -> bool {
        sequence > self.acked_sequence && sequence <= self.sequence
    }

    /// A new ack arrived.
    pub(super) fn on_ack(&mut self, now: Instant, sequence: PulseSequence, promise: Duration) {
        self.acked_sequence = sequence;
        self.acked_at = Some(now);
        self.promise = promise;
        while let Some((remembered, sent_at)) = self.heartbeats.front().copied() {
            if remembered > sequence {
                break;
            }
            self.heartbeats.pop_front();
            if remembered == sequence {
                self.contact = self.contact.max(Some(sent_at));
                let sample = now.since(sent_at);
                // An eighth of each new sample, as TCP does it (Jacobson, "Congestion Avoidance and Control", 1988).
                self.round_trip = Some(self.round_trip.map_or(sample, |smoothed| (smoothed * 7 + sample) / 8));
            }
        }
    }

    /// A stream answer says that its log equals the leader's through `position`. True where that is news.
    pub(super) fn on_stream_matched(&mut self, now: Instant, position: LogPosition) -> bool {
        self.stream_heard_at = Some(now);
        let is_news = self.note_matched(now, position);
        if matches!(self.mode, Mode::Probe { .. }) || self.matched.index >= self.next {
            self.pipeline();
        }
        is_news
    }

    /// An ack named `last` as the peer's last entry. True where that moves `matched` on.
    ///
    /// Where the leader's log has that entry, the logs are equal through it. Where it hasn't, or the peer lacks what was
    /// sent to it, what is under way may explain that; if that is overdue, or nothing is under way, a probe is due at
    /// once. The pulse plane alone never ends a probe that is under way, lest a dead stream be filled with the same
    /// entries again and again.
    pub(super) fn on_pulse(&mut self, now: Instant, timing: &Timing, log: &Log, last: LogPosition) -> bool {
        let shared = log.contains(last);
        let is_news = shared && self.note_matched(now, last);
        if shared && self.matched.index >= self.next {
            self.pipeline();
            return is_news;
        }
        match self.mode {
            Mode::Pipeline => match self.in_flight.front().copied() {
                Some(append) if self.is_overdue(timing, append.sent_at) => {
                    self.probe(self.matched.index.next(), true);
                }
                None if !shared => self.probe(parting(log, last, last.index).next(), false),
                Some(_) | None => {}
            },
            Mode::Probe { sent_at: Some(sent_at), .. } if self.is_overdue(timing, sent_at) => {
                self.probe(parting(log, last, last.index).next(), true);
            }
            Mode::Probe { .. } | Mode::Snapshot { .. } => {}
        }
        is_news
    }

    /// Whether an append that was sent at `sent_at` should have arrived: a heartbeat is acked that was sent so much
    /// later that the append, on a stream in order, would have come first.
    fn is_overdue(&self, timing: &Timing, sent_at: Instant) -> bool {
        let later = timing.heartbeat.max(self.round_trip.unwrap_or_default());
        self.contact.is_some_and(|contact| contact >= sent_at + later)
    }

    fn note_matched(&mut self, now: Instant, position: LogPosition) -> bool {
        while self.in_flight.front().is_some_and(|append| append.last <= position.index) {
            self.in_flight.pop_front();
        }
        let is_news = position.index > self.matched.index;
        if is_news {
            self.matched = position;
            self.stream_heard_at = Some(now);
        }
        is_news
    }

    fn pipeline(&mut self) {
        self.mode = Mode::Pipeline;
        self.next = self.matched.index.next();
        self.in_flight.clear();
    }

    fn probe(&mut self, next: LogIndex, again: bool) {
        self.mode = Mode::Probe { sent_at: None, again };
        self.next = next.max(self.matched.index.next());
        self.in_flight.clear();
    }

    /// It doesn't have the entry at `previous`, on which an append was built, but `found`, whose term begins at
    /// `first_of_term` in its log.
    pub(super) fn on_conflict(
        &mut self,
        now: Instant,
        log: &Log,
        previous: LogIndex,
        found: LogPosition,
        first_of_term: LogIndex,
    ) {
        self.stream_heard_at = Some(now);
        let expected = match self.mode {
            Mode::Probe { .. } => previous.0 == self.next.0 - 1,
            Mode::Pipeline => previous > self.matched.index && previous < self.next,
            Mode::Snapshot { .. } => false,
        };
        if expected {
            self.probe(parting(log, found, first_of_term).next(), false);
        }
    }

    /// Nothing was heard of the peer on the pulse plane for half of the time after which it counts as dead: an append
    /// without entries asks for a sign of life on the other plane. Datagrams get lost in bad weather.
    pub(super) fn maybe_ask_over_stream(&mut self, now: Instant, timing: &Timing) {
        let is_silent = self.acked_at.is_some_and(|at| now.since(at) > timing.down / 2);
        if is_silent && self.mode == Mode::Pipeline && self.in_flight.is_empty() {
            self.commit_told = LogIndex::ZERO;
        }
    }

    /// What has waited for an answer for too long is sent again.
    pub(super) fn maybe_resend(&mut self, now: Instant, timing: &Timing) {
        let patience = (timing.heartbeat * 5).max(self.round_trip.unwrap_or_default() * 4);
        match self.mode {
            Mode::Probe { sent_at: Some(sent_at), .. } if sent_at + patience <= now => self.probe(self.next, true),
            Mode::Pipeline if self.in_flight.front().is_some_and(|append| append.sent_at + patience <= now) => {
                self.probe(self.matched.index.next(), true);
            }
            // A snapshot is large: give it more time before it is sent twice.
            Mode::Snapshot { sent_at } if sent_at + patience * 4 <= now => self.probe(self.next, true),
            Mode::Probe { .. } | Mode::Pipeline | Mode::Snapshot { .. } => {}
        }
    }

    /// The next message that is due on the stream plane, if any. Call it until there is none.
    pub(super) fn next_message(&mut self, log: &Log, sending: Sending) -> Option<StreamMessage> {
        match self.mode {
            Mode::Snapshot { .. } | Mode::Probe { sent_at: Some(_), .. } => None,
            Mode::Probe { sent_at: None, again } => {
                let message = self.append(log, sending, if again { None } else { Some(sending.append_bytes_max) });
                if let Mode::Probe { sent_at, .. } = &mut self.mode {
                    *sent_at = Some(sending.now);
                }
                Some(message)
            }
            Mode::Pipeline if self.next <= log.last().index => {
                (self.in_flight.len() < IN_FLIGHT_APPENDS_MAX).then(|| {
                    let message = self.append(log, sending, Some(sending.append_bytes_max));
                    if let StreamMessage::Append { entries, .. } = &message
                        && let Some(entry) = entries.last()
                    {
                        self.next = entry.index.next();
                        self.in_flight.push_back(InFlight { last: entry.index, sent_at: sending.now });
                    }
                    message
                })
            }
            Mode::Pipeline if self.commit_told < sending.commit => Some(self.append(log, sending, None)),
            Mode::Pipeline => None,
        }
    }

    /// An append of the entries from `next` on, or the snapshot where the log doesn't reach back so far.
    fn append(&mut self, log: &Log, sending: Sending, bytes_max: Option<usize>) -> StreamMessage {
        let Sending { now, term, commit, .. } = sending;
        let previous = LogIndex(self.next.0 - 1);
        let Some(previous_term) = log.term_at(previous) else {
            self.mode = Mode::Snapshot { sent_at: now };
            self.in_flight.clear();
            return StreamMessage::InstallSnapshot { term, snapshot: log.snapshot().clone() };
        };
        let entries = bytes_max.map(|bytes_max| log.batch(self.next, bytes_max)).unwrap_or_default();
        self.commit_told = commit;
        StreamMessage::Append { term, previous: LogPosition::new(previous, previous_term), entries, commit }
    }

    /// Panics where what is known contradicts itself.
    pub(super) fn check_invariants(&self, last: LogIndex) {
        assert!(self.matched.index < self.next, "matched {} is not before next {}", self.matched, self.next);
        assert!(self.next.0 <= last.0 + 1, "next {} is past the log's end {last}", self.next);
        let in_flight = self.in_flight.len();
        assert!(in_flight <= IN_FLIGHT_APPENDS_MAX, "{in_flight} appends in flight, {IN_FLIGHT_APPENDS_MAX} allowed");
        let mut before = LogIndex::ZERO;
        for append in &self.in_flight {
            let rising = before < append.last && append.last < self.next;
            assert!(rising, "an append through {} in flight after {before}, next is {}", append.last, self.next);
            before = append.last;
        }
    }
}

/// The last place that a log may share with the leader's, when it has `found` and that term begins there at
/// `first_of_term`.
///
/// Where the leader has entries of that term too, both got them from the same leader of that term and agree as far as
/// both go. Where it has none, none of that term's entries survives, so the whole term is skipped: repair takes one
/// round trip for each term in which the logs differ, not for each entry.
fn parting(log: &Log, found: LogPosition, first_of_term: LogIndex) -> LogIndex {
    let place = log.last_not_after(found.index, found.term);
    if place.index > found.index {
        // The leader's log begins after `found`: a snapshot is needed, which asking for the entry after `found` brings.
        return found.index;
    }
    if place.term == found.term { place.index } else { place.index.min(LogIndex(first_of_term.0.saturating_sub(1))) }
}
