//! What a primary knows of one other replica, and how it streams to it.

use std::time::Duration;

use super::message::{AttachId, Message, ScannedRecord};
use super::tail::Tail;
use super::verify::Verifying;
use super::{Output, ReplicaOptions};
use crate::api::Key;
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{ChangeNumber, Epoch, Instant, NodeId, PartitionRecord, Position, Seq, Version};
use crate::store::Table;

/// What a chunk of a scan counts for beside its records: those of small partitions are many.
pub const CHUNK_COSTS: u64 = 4 << 10;
/// A scan that waits for room looks by itself after this, should nobody tell.
const WAITS_AT_MOST: Duration = Duration::from_secs(1);

/// One other replica, as the primary of an epoch sees it.
///
/// Invariants: `matched <= sent` once streaming, and both are never past the primary's last effect.
#[derive(Clone, Debug)]
pub struct Member {
    /// Who. Answers of anybody else in this slot are dropped.
    pub node: NodeId,
    /// The number of its filling; 0 for a member that was in sync when it was greeted.
    pub attach: AttachId,
    /// How far the stream to it is.
    pub stream: Stream,
    /// It holds everything up to here, as acked in this epoch.
    pub matched: Seq,
    /// The last effect that was sent to it.
    pub sent: Seq,
    /// The commit point that it was told last.
    pub told: Seq,
    /// When something is sent again, unless an answer comes before.
    pub resend_at: Instant,
    /// Its scan, while it is a learner; none for an in-sync member.
    pub filling: Option<Filling>,
    /// Since when it is what it is: an in-sync member, or a learner.
    pub since: Instant,
}

/// The state of the stream to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// It was greeted (`NewEpoch`, `AttachLearner`) and has not answered: nothing is sent but the greeting.
    Greeting,
    /// Something was lost: one message at a time, until it acks something new.
    Probing,
    /// Every effect is sent as it is ordered.
    Flowing,
}

/// How far the scan of a learner is.
#[derive(Clone, Debug, Default)]
pub struct Filling {
    /// The last effect before its live stream.
    pub previous: Position,
    /// The last key that it has acked.
    pub acked: Option<Key>,
    /// When its chunk, or the question whether it stands, is sent again. It has a timer of its own: the acks of a busy live stream say nothing of the scan.
    pub resend_at: Option<Instant>,
    /// It waits until there is room for the next chunk, or, before it was greeted, for all of it.
    pub waits: bool,
    /// A chunk is under way, or the greeting for which there was room.
    pub is_under_way: bool,
    /// Bytes of the chunk that was sent last, and of those before, which it has acked.
    pub chunk_bytes: u64,
    pub acked_bytes: u64,
    /// It has seen the end of the table.
    pub done: bool,
    /// Under this change of the record it still stood.
    pub confirmed: ChangeNumber,
    /// A record that stands in the way of its scan, because it is rotten; and its version.
    pub met_rotten: Option<(Key, Version)>,
    /// It fell so far behind that effects it needs are gone: it has to begin anew.
    pub lapsed: bool,
}

/// What streaming needs of its primary.
#[derive(Clone, Copy)]
pub struct StreamContext<'a> {
    /// The present moment.
    pub now: Instant,
    /// The configuration.
    pub options: &'a ReplicaOptions,
    /// The primary's epoch.
    pub epoch: Epoch,
    /// Its commit point.
    pub committed: Seq,
    /// Its effects.
    pub tail: &'a Tail,
    /// Its records that are rotten.
    pub verifying: &'a Verifying,
    /// Whether another chunk of a scan may be sent now.
    pub scan_room: ScanRoom,
}

/// Whether a primary may send more to those whom it fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanRoom {
    /// There is room for another chunk.
    pub has_room: bool,
    /// A copy is missing that was there before. Otherwise a learner isn't even greeted before there is room: from then on it
    /// takes the live stream, too.
    pub is_hurried: bool,
}

/// What waits until a primary may send more to those whom it fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanWaits {
    /// A scan that has begun.
    ToGoOn,
    /// One before its learner was greeted.
    ToBegin,
}

impl Member {
    /// A member that is to be greeted.
    pub const fn new(node: NodeId, attach: AttachId, filling: Option<Filling>, since: Instant) -> Self {
        Self {
            node,
            attach,
            stream: Stream::Greeting,
            matched: Seq::ZERO,
            sent: Seq::ZERO,
            told: Seq::ZERO,
            resend_at: Instant::FAR,
            filling,
            since,
        }
    }

    /// Whether it is a learner.
    pub const fn is_learner(&self) -> bool {
        self.filling.is_some()
    }

    /// Whether it is a learner whose filling goes on, or is done.
    pub fn is_filled(&self) -> bool {
        self.filling.as_ref().is_some_and(|filling| !filling.lapsed) && !self.waits_to_be_greeted()
    }

    /// Whether it still holds what it has acked, under the record of this change: a learner has to say so.
    pub fn stands_under(&self, change: ChangeNumber) -> bool {
        self.filling.as_ref().is_none_or(|filling| filling.confirmed >= change)
    }

    /// Whether it has left something of its live stream unanswered for too long.
    pub fn is_late(&self, context: StreamContext<'_>) -> bool {
        let waits_since = match self.stream {
            Stream::Greeting if self.waits_to_be_greeted() => None,
            Stream::Greeting => Some(self.since),
            Stream::Probing | Stream::Flowing => {
                context.tail.entry(self.matched.next()).map(|entry| entry.received.max(self.since))
            }
        };
        waits_since.is_some_and(|since| context.now.since(since) > context.options.evict_after)
    }

    /// A learner needs every effect after this one, applied or not, to be kept for it. `None`: nothing is kept.
    pub fn retained_from(&self) -> Option<Seq> {
        let filling = self.filling.as_ref().filter(|filling| !filling.lapsed && !self.waits_to_be_greeted())?;
        Some(if self.stream == Stream::Greeting { filling.previous.seq } else { self.matched })
    }

    /// A learner is so far behind that nothing is kept for it any longer. It is attached anew when its timer rings: not at
    /// once, because whatever made it slow is still there.
    pub fn lapse(&mut self, context: StreamContext<'_>) {
        self.reset();
        self.filling = Some(Filling { lapsed: true, ..Filling::default() });
        self.resend_at = context.now + context.options.resend_after;
    }

    /// A learner's filling begins, from the primary's present table.
    pub fn attach_anew(&mut self, attach: AttachId, previous: Position) {
        self.reset();
        self.attach = attach;
        self.filling = Some(Filling { previous, ..Filling::default() });
    }

    /// A learner that was never greeted begins its filling: at once where it `is_urgent` or there is room for it. Otherwise
    /// nothing is sent and nothing is kept for it. Whether it is to be greeted now.
    pub fn begin_filling(
        &mut self,
        context: StreamContext<'_>,
        is_urgent: bool,
        (attach, previous): (AttachId, Position),
    ) -> bool {
        self.attach_anew(attach, previous);
        self.since = context.now;
        let ScanRoom { has_room, is_hurried } = context.scan_room;
        let is_unhurried = !is_urgent && !is_hurried;
        let Some(filling) = &mut self.filling else { return true };
        filling.waits = is_unhurried && !has_room;
        filling.is_under_way = is_unhurried && has_room;
        !filling.waits
    }

    /// Whether it is a learner that was not greeted yet, because there is no room.
    pub fn waits_to_be_greeted(&self) -> bool {
        self.stream == Stream::Greeting && self.waits_to_scan()
    }

    fn reset(&mut self) {
        self.stream = Stream::Greeting;
        (self.matched, self.sent, self.told) = (Seq::ZERO, Seq::ZERO, Seq::ZERO);
    }

    /// Sends the greeting.
    pub fn greet(
        &mut self,
        context: StreamContext<'_>,
        change: ChangeNumber,
        version_max: Version,
        out: &mut Vec<Output>,
    ) {
        let message = match &self.filling {
            None => Message::NewEpoch { epoch: context.epoch, change },
            Some(filling) => Message::AttachLearner {
                epoch: context.epoch,
                change,
                attach: self.attach,
                previous: filling.previous,
                version_max,
            },
        };
        out.push(Output::Send { to: self.node, message });
        let again_at = context.now + context.options.resend_after;
        match &mut self.filling {
            Some(filling) if self.stream != Stream::Greeting => filling.resend_at = Some(again_at),
            _ => self.resend_at = again_at,
        }
    }

    /// The member shares the primary's history up to `matched`: streaming begins behind it.
    pub fn begin_streaming(&mut self, context: StreamContext<'_>, matched: Seq, out: &mut Vec<Output>) {
        self.stream = Stream::Flowing;
        self.matched = matched;
        self.sent = matched;
        self.told = Seq::ZERO;
        self.advance(context, out);
    }

    /// Sends what was ordered since the last time. On a settled partition that is the one new effect.
    pub fn advance(&mut self, context: StreamContext<'_>, out: &mut Vec<Output>) {
        while self.stream == Stream::Flowing && self.sent < context.tail.last().seq {
            self.send_batch(context, out);
        }
        self.rest(context, false);
    }

    /// The member says that it holds everything up to `seq`. True when that is news.
    pub fn on_matched(&mut self, context: StreamContext<'_>, seq: Seq, out: &mut Vec<Output>) -> bool {
        if seq <= self.matched || seq > context.tail.last().seq {
            return false;
        }
        self.matched = seq;
        self.sent = self.sent.max(seq);
        if self.stream == Stream::Probing {
            self.stream = Stream::Flowing;
        }
        self.rest(context, true);
        self.advance(context, out);
        true
    }

    /// The member holds everything up to `seq` and misses what was sent behind it.
    pub fn on_gap(&mut self, context: StreamContext<'_>, seq: Seq, out: &mut Vec<Output>) {
        if seq > context.tail.last().seq {
            return;
        }
        let is_news = seq > self.matched;
        self.matched = self.matched.max(seq);
        // A lost message makes every one behind it be rejected. The first answer rewinds; the rest say nothing new.
        if is_news || self.stream == Stream::Flowing {
            self.resend(context, out);
        }
    }

    /// Sends one batch from what was acked last, and nothing more until it is acked.
    fn resend(&mut self, context: StreamContext<'_>, out: &mut Vec<Output>) {
        self.sent = self.matched;
        if self.sent < context.tail.last().seq {
            self.stream = Stream::Probing;
            self.send_batch(context, out);
        }
        self.resend_at = context.now + context.options.resend_after;
    }

    /// Sends the part of the scan that comes after what was acked.
    pub fn send_chunk(&mut self, context: StreamContext<'_>, table: &Table, out: &mut Vec<Output>) {
        let Some(filling) = &mut self.filling else { return };
        filling.waits = !context.scan_room.has_room && !filling.is_under_way;
        if filling.waits {
            filling.resend_at = Some(context.now + WAITS_AT_MOST);
            return;
        }
        let (mut records, mut bytes, mut last) = (Vec::new(), 0, true);
        for stored in table.scan(&[], filling.acked.as_ref()) {
            if bytes >= context.options.scan_chunk_bytes {
                last = false;
                break;
            }
            // What is rotten here is sound elsewhere, mostly: with a hash made of what it is now nobody would know any more.
            let is_sound = stored.is_sound() || is_broken(Mutant::ScanUnverified);
            if !is_sound && context.verifying.is_awaited(&stored.key(), stored.version()) {
                filling.met_rotten = Some((stored.key(), stored.version()));
                last = false;
                break;
            }
            bytes += stored.key_bytes().len() + stored.value().len() + size_of::<ScannedRecord>();
            records.push(ScannedRecord::of(context.now, stored));
        }
        if records.is_empty() && !last {
            filling.resend_at = Some(context.now + context.options.resend_after);
            return;
        }
        let recent = table.recent().filter(|_| last).map(|recent| recent.iter(context.now).collect());
        let recent = recent.unwrap_or_default();
        filling.chunk_bytes = bytes as u64;
        filling.is_under_way = true;
        let message = Message::ScanChunk {
            epoch: context.epoch,
            attach: self.attach,
            after: filling.acked.clone(),
            records,
            last,
            recent,
        };
        out.push(Output::Send { to: self.node, message });
        filling.resend_at = Some(context.now + context.options.resend_after);
    }

    /// The learner tells how far it is. What it has `heard` of can't undo its filling any more.
    pub fn on_scanned(
        &mut self,
        context: StreamContext<'_>,
        table: &Table,
        (record, heard): (&PartitionRecord, ChangeNumber),
        (after, done): (Option<Key>, bool),
        out: &mut Vec<Output>,
    ) {
        let Some(filling) = self.filling.as_mut().filter(|filling| !filling.lapsed) else { return };
        filling.confirmed = filling.confirmed.max(heard);
        if self.stream == Stream::Greeting {
            let previous = filling.previous.seq;
            self.begin_streaming(context, previous, out);
            self.send_chunk(context, table, out);
            return;
        }
        filling.done |= done;
        if filling.done {
            filling.is_under_way = false;
            if filling.confirmed >= record.change {
                filling.resend_at = None;
            }
        } else if after > filling.acked {
            // An answer that says nothing new is one to a duplicate: another chunk for it would double the stream.
            filling.acked = after;
            filling.acked_bytes += filling.chunk_bytes;
            filling.is_under_way = false;
            self.send_chunk(context, table, out);
        }
    }

    /// When something has to be sent again.
    pub fn deadline(&self) -> Instant {
        self.resend_at.min(self.scan_deadline())
    }

    /// The clock has reached the deadline, and it isn't a first greeting that is outstanding.
    pub fn on_deadline(
        &mut self,
        context: StreamContext<'_>,
        table: &Table,
        (record, version_max): (&PartitionRecord, Version),
        out: &mut Vec<Output>,
    ) {
        if self.resend_at <= context.now {
            self.resend(context, out);
            self.rest(context, true);
        }
        if self.scan_deadline() > context.now {
            return;
        }
        let is_confirmed = |filling: &Filling| filling.confirmed >= record.change;
        match &mut self.filling {
            // The learner had heard of the record before its primary did: the question was answered before it was asked.
            Some(filling) if filling.done && is_confirmed(filling) => filling.resend_at = None,
            _ => {}
        }
        if self.filling.as_ref().is_some_and(|filling| !is_confirmed(filling)) {
            self.greet(context, record.change, version_max, out);
        }
        if self.filling.as_ref().is_some_and(|filling| !filling.done) {
            self.send_chunk(context, table, out);
        }
    }

    /// Whether it is a learner that may be proposed under `record`: filled, up to date, and not made to leave meanwhile.
    pub fn is_caught_up(&self, record: &PartitionRecord, committed: Seq) -> bool {
        self.stream != Stream::Greeting
            && self.matched >= committed
            && self.filling.as_ref().is_some_and(|filling| {
                (filling.done || is_broken(Mutant::ProposeBeforeScanned)) && filling.confirmed >= record.change
            })
    }

    /// What its scan has under way.
    pub fn scan_under_way(&self) -> u64 {
        let filling = self.filling.as_ref().filter(|filling| filling.is_under_way);
        filling.map_or(0, |filling| filling.chunk_bytes + CHUNK_COSTS)
    }

    /// Whether its scan waits for room.
    pub fn waits_to_scan(&self) -> bool {
        self.filling.as_ref().is_some_and(|filling| filling.waits)
    }

    fn scan_deadline(&self) -> Instant {
        self.filling.as_ref().and_then(|filling| filling.resend_at).unwrap_or(Instant::FAR)
    }

    /// Tells the commit point, unless it was told.
    pub fn maybe_tell_commit(&mut self, context: StreamContext<'_>, out: &mut Vec<Output>) {
        if self.stream != Stream::Greeting && self.told < context.committed {
            self.told = context.committed;
            let message = Message::Commit { epoch: context.epoch, seq: context.committed };
            out.push(Output::Send { to: self.node, message });
        }
    }

    fn send_batch(&mut self, context: StreamContext<'_>, out: &mut Vec<Output>) {
        let previous = context.tail.position(self.sent);
        let (mut effects, mut bytes) = (Vec::new(), 0);
        for (seq, entry) in context.tail.range(self.sent.next()..=context.tail.last().seq) {
            if bytes >= context.options.prepare_bytes {
                break;
            }
            bytes += entry.effect.bytes();
            effects.push((entry.epoch, entry.effect.aged(context.now.since(entry.received))));
            self.sent = seq;
        }
        self.told = self.told.max(context.committed);
        let message = Message::Prepare { epoch: context.epoch, previous, commit: context.committed, effects };
        out.push(Output::Send { to: self.node, message });
    }

    /// Sets the resend timer by what is outstanding; `anew` where an answer has just come.
    fn rest(&mut self, context: StreamContext<'_>, anew: bool) {
        if self.matched >= context.tail.last().seq || self.waits_to_be_greeted() {
            self.resend_at = Instant::FAR;
        } else if anew || self.resend_at == Instant::FAR {
            self.resend_at = context.now + context.options.resend_after;
        }
    }
}
