//! The primary: taking office, writes, commit, and what the clock asks of it.

use std::collections::{BTreeMap, VecDeque};

use super::give_back::Giving;
use super::members::{Filling, Member, Stream, StreamContext};
use super::message::AttachId;
use super::ring::{RingEntry, Stamp, feed_event};
use super::tail::{Entry, Tail};
use super::{Output, Replica, ReplicaRole};
use crate::api::{Done, Error, Key, Once, Operation, PutMode, Response};
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{ChangeNumber, Instant, NodeId, PartitionRecord, Position, RequestId, Seq, Slot, SlotSet, Version};
use crate::store::{Effect, Marked, Stored, Table};

/// What only the primary of an epoch has.
///
/// Invariants ([`Primary::check_invariants`]): members are other slots in rising order; answers wait in the order of what
/// they wait for; the index of pending keys names their last uncommitted effects.
#[derive(Clone, Debug)]
pub struct Primary {
    /// When it came into office.
    pub(super) since: Instant,
    /// The epoch's first effect.
    pub epoch_start: Seq,
    pub(super) members: Vec<(Slot, Member)>,
    /// Learners that were proposed for the in-sync set under `proposed_under`.
    pub(super) proposed: SlotSet,
    /// Members that are too late, and were proposed to leave it. Until that is decided their acks are required.
    pub(super) evicted: SlotSet,
    /// Who is known to be mute elsewhere is evicted at once, but not again before this.
    pub(super) may_evict_mute_at: Instant,
    /// Whether it has proposed that the former primary be let go.
    pub(super) dismisses: bool,
    pub(super) giving: Giving,
    pub(super) proposed_under: ChangeNumber,
    /// The last uncommitted effect of each key that has one.
    pending: BTreeMap<Key, Seq>,
    waiting: VecDeque<Waiting>,
    attach_last: AttachId,
    notice_at: Instant,
    pub(super) propose_at: Instant,
}

/// A client's answer that rests on an effect which isn't committed yet.
#[derive(Clone, Debug)]
struct Waiting {
    seq: Seq,
    request: RequestId,
    answer: Answer,
}

#[derive(Clone, Debug)]
enum Answer {
    Written { version: Version, created: bool },
    Deleted { version: Version },
    Refused(Result<Response, Error>),
}

/// The primary's parts, borrowed side by side.
pub struct Office<'a> {
    pub primary: &'a mut Primary,
    pub context: StreamContext<'a>,
    pub table: &'a Table,
    pub record: &'a PartitionRecord,
    pub applied: Position,
    pub version_max: Version,
}

/// What a key is, for a write that is judged now.
struct Found {
    version: Option<Version>,
    /// Known from an effect that isn't committed.
    is_pending: bool,
}

impl Primary {
    /// The member that is `node`, under the filling `attach`.
    pub fn member_mut(&mut self, node: NodeId, attach: AttachId) -> Option<&mut Member> {
        let member = self.members.iter_mut().map(|(_, member)| member).find(|member| member.node == node)?;
        (member.attach == attach).then_some(member)
    }

    /// A number that no filling of this epoch has had.
    pub fn next_attach(&mut self) -> AttachId {
        self.attach_last.0 += 1;
        self.attach_last
    }

    /// Whether this learner's acks are required already.
    pub fn has_proposed(&self, slot: Slot) -> bool {
        self.proposed.contains(slot)
    }

    pub(super) fn member(&self, slot: Slot) -> Option<&Member> {
        self.members.iter().find(|(other, _)| *other == slot).map(|(_, member)| member)
    }

    /// Soon every member is told the commit point, unless a Prepare does it before.
    pub fn notice_soon(&mut self, context: StreamContext<'_>) {
        if self.notice_at == Instant::FAR && !self.members.is_empty() {
            self.notice_at = context.now + context.options.commit_notice_after;
        }
    }

    /// Everybody whose ack a commit needs.
    fn max_in_sync(&self, record: &PartitionRecord) -> SlotSet {
        let remaining = if is_broken(Mutant::EvictedDontCount) { self.evicted } else { SlotSet::EMPTY };
        let proposed = if is_broken(Mutant::ProposedDontCount) { SlotSet::EMPTY } else { self.proposed };
        record.in_sync.difference(remaining).union(proposed)
    }

    /// How far everybody whose ack a commit needs has acked. What predecessors left is settled by those in sync alone, so
    /// that reads go on; what clients are waiting for needs those who count, too, and `min_copies` in all.
    ///
    /// What a learner has acked counts only once it has said that its filling stands under this record. Records come here
    /// with gaps: one in between may have let the learner go, and then it has forgotten what it acked.
    fn commit_point(&self, record: &PartitionRecord, me: Slot, min_copies: u8, last: Seq) -> Seq {
        let acked = |slot| self.member(slot).map_or(Seq::ZERO, |member| member.matched);
        let all_acked = |slots: SlotSet| slots.without(me).iter().map(acked).min().unwrap_or(last);
        let stands =
            |slot| self.member(slot).filter(|member| member.stands_under(record.change)).map(|member| member.matched);
        let all_stand = |slots: SlotSet| {
            slots.without(me).iter().map(|slot| stands(slot).unwrap_or_default()).min().unwrap_or(last)
        };
        let point = all_acked(self.max_in_sync(record));
        let point = if is_broken(Mutant::AckBeforeCopies) { last } else { point };
        let is_short = record.copies() < usize::from(min_copies) && !is_broken(Mutant::FewerCopies);
        let counted = match is_short {
            true => Seq::ZERO,
            false if is_broken(Mutant::CountingDontAck) => last,
            false => all_stand(record.counting),
        };
        point.min(counted.max(self.epoch_start))
    }

    /// Panics where this contradicts itself or the tail.
    pub fn check_invariants(&self, tail: &Tail, applied: Seq) {
        let last = tail.last().seq;
        assert!(self.members.is_sorted_by(|(left, _), (right, _)| left < right), "members are out of order");
        for (slot, member) in &self.members {
            let (matched, sent) = (member.matched, member.sent);
            assert!(matched <= sent && sent <= last, "{slot}: {matched} ≤ {sent} ≤ {last} doesn't hold");
            assert!(
                !self.proposed.contains(*slot) || matched >= applied,
                "{slot} was proposed and has acked only {matched} of {applied}"
            );
        }
        assert!(self.waiting.iter().is_sorted_by_key(|waiting| waiting.seq), "answers wait out of order");
        let uncommitted: BTreeMap<&Key, Seq> = tail
            .range(applied.next()..=last)
            .filter_map(|(seq, entry)| entry.effect.key().map(|key| (key, seq)))
            .collect();
        assert!(
            uncommitted.iter().map(|(key, seq)| (*key, seq)).eq(self.pending.iter()),
            "the index of pending keys is {:?}, the tail has {uncommitted:?}",
            self.pending
        );
    }
}

impl Replica {
    /// The primary's parts, while this replica is one.
    pub(super) fn office(&mut self, now: Instant) -> Option<Office<'_>> {
        Some(Office {
            primary: self.primary.as_deref_mut()?,
            context: StreamContext {
                now,
                options: &self.options,
                epoch: self.epoch,
                committed: self.applied.seq,
                tail: &self.tail,
                verifying: &self.verifying,
                scan_room: self.scan_room,
            },
            table: &self.table,
            record: &self.record,
            applied: self.applied,
            version_max: self.version_max,
        })
    }

    /// The record of a new epoch names this replica. It keeps its whole tail: any of it may have been acknowledged.
    pub(super) fn become_primary(
        &mut self,
        now: Instant,
        registered: &dyn Fn(Slot) -> Option<NodeId>,
        out: &mut Vec<Output>,
    ) {
        assert!(self.following.filling.is_none(), "{} is made primary in the middle of a scan", self.options.me);
        self.role = ReplicaRole::Primary;
        #[cfg(feature = "sim")]
        if is_broken(Mutant::ForgetOnce) {
            self.table.forget_recent();
        }
        self.following.nudge_at = Instant::FAR;
        let pending = self
            .tail
            .range(self.applied.seq.next()..=self.tail.last().seq)
            .filter_map(|(seq, entry)| entry.effect.key().map(|key| (key.clone(), seq)))
            .collect();
        self.version_max = self.version_max.next();
        let effect = Effect::EpochStart { version: self.version_max };
        let epoch_start = self.tail.push(Entry { epoch: self.epoch, received: now, effect });
        self.primary = Some(Box::new(Primary {
            since: now,
            epoch_start: epoch_start.seq,
            members: Vec::new(),
            proposed: SlotSet::EMPTY,
            evicted: SlotSet::EMPTY,
            may_evict_mute_at: now,
            dismisses: false,
            giving: Giving::new(now),
            proposed_under: self.record.change,
            pending,
            waiting: VecDeque::new(),
            attach_last: AttachId::default(),
            notice_at: Instant::FAR,
            propose_at: Instant::FAR,
        }));
        self.on_members_changed(now, registered, out);
    }

    /// The record's members differ from the ones that are streamed to, perhaps.
    pub(super) fn on_members_changed(
        &mut self,
        now: Instant,
        registered: &dyn Fn(Slot) -> Option<NodeId>,
        out: &mut Vec<Output>,
    ) {
        let me = self.options.me.slot;
        let Some(Office { primary, context, record, applied, version_max, .. }) = self.office(now) else { return };
        let is_changed = record.change > primary.proposed_under;
        if is_changed {
            // Whatever was proposed under an older change number is decided: in the record, or refused.
            primary.proposed = SlotSet::EMPTY;
            primary.evicted = SlotSet::EMPTY;
            primary.dismisses = false;
            primary.giving = Giving::new(now);
            primary.proposed_under = record.change;
            primary.propose_at = Instant::FAR;
        }
        let mut former = std::mem::take(&mut primary.members);
        for slot in record.members().without(me).iter() {
            let Some(node) = registered(slot) else { continue };
            let is_learner = record.learners.contains(slot);
            let known = former.iter().position(|(other, member)| *other == slot && member.node == node);
            let mut member = match known.map(|index| former.swap_remove(index).1) {
                Some(mut member) if !is_learner => {
                    // A learner that has caught up is a member like others from now on.
                    if member.filling.take().is_some() {
                        member.since = now;
                    }
                    member
                }
                Some(member) if member.is_learner() => member,
                _ => Member::new(node, AttachId::default(), is_learner.then(Filling::default), now),
            };
            let is_new = member.stream == Stream::Greeting && member.resend_at == Instant::FAR;
            let mut is_greeted = is_new;
            if is_new && is_learner {
                let filling = (primary.next_attach(), applied);
                is_greeted = member.begin_filling(context, record.counting.contains(slot), filling);
            }
            if is_greeted || (is_changed && member.is_filled()) {
                member.greet(context, record.change, version_max, out);
            }
            primary.members.push((slot, member));
        }
        self.advance_commit(now, out);
        self.release_retained();
        self.maybe_propose(now, out);
    }

    /// This replica is primary no more, if it was. What clients wait for is not known to happen, nor not to happen.
    pub(super) fn leave_office(&mut self, out: &mut Vec<Output>) {
        let Some(primary) = self.primary.take() else { return };
        for waiting in primary.waiting {
            let error = match waiting.answer {
                Answer::Written { .. } | Answer::Deleted { .. } => {
                    Error::OutcomeUnknown(format!("{} got another primary meanwhile", self.partition))
                }
                Answer::Refused(_) => self.unavailable("it got another primary meanwhile"),
            };
            out.push(Output::Reply { request: waiting.request, result: Err(error) });
        }
        self.role = ReplicaRole::Backup;
        self.tail.drop_through(self.applied.seq);
        self.table.rearm_expiry();
    }

    /// See [`Replica::handle_write`].
    pub(super) fn on_write(
        &mut self,
        now: Instant,
        unix_micros: u64,
        (request, once): (RequestId, Option<Once>),
        operation: Operation,
        out: &mut Vec<Output>,
    ) {
        if once.is_some_and(|once| self.maybe_replay(request, &once, out)) {
            return;
        }
        if let Err(error) = self.check_writable() {
            out.push(Output::Reply { request, result: Err(error) });
            return;
        }
        let Some(key) = operation.key().filter(|_| operation.is_write()) else {
            let error = Error::BadRequest("a read was handed to the writer".to_owned());
            out.push(Output::Reply { request, result: Err(error) });
            return;
        };
        let found = self.find(now, key);
        if let Some(refusal) = refusal(&operation, found.version) {
            self.refuse(request, refusal, found.is_pending, out);
            return;
        }
        let version = self.next_version(unix_micros);
        let mark = |done| once.map(|once| Marked { once, done });
        let (effect, answer) = match operation {
            Operation::Put { key, value, content_type, ttl_ms, .. } => {
                let created = found.version.is_none();
                let marked = mark(if created { Done::Created } else { Done::Replaced });
                (
                    Effect::Put { key, value, content_type, version, ttl_ms, marked },
                    Answer::Written { version, created },
                )
            }
            Operation::Delete { key, .. } => {
                let marked = mark(Done::Deleted);
                (Effect::Delete { key, version, expired: false, marked }, Answer::Deleted { version })
            }
            Operation::Get { .. } | Operation::List { .. } => unreachable!("reads were refused above"),
        };
        let seq = self.append(now, effect);
        if let Some(primary) = &mut self.primary {
            primary.waiting.push_back(Waiting { seq, request, answer });
        }
        self.stream_and_commit(now, out);
    }

    /// Commits what everybody needed has acked: applies it, answers, tells the feed.
    pub(super) fn advance_commit(&mut self, now: Instant, out: &mut Vec<Output>) {
        let (me, min_copies) = (self.options.me.slot, self.options.min_copies);
        let Some(primary) = self.primary.as_deref_mut() else { return };
        let point = primary.commit_point(&self.record, me, min_copies, self.tail.last().seq);
        if point <= self.applied.seq {
            return;
        }
        for (seq, entry) in self.tail.range(self.applied.seq.next()..=point) {
            self.table.apply(entry.received, &entry.effect);
            if let Some(key) = entry.effect.key()
                && primary.pending.get(key) == Some(&seq)
            {
                primary.pending.remove(key);
            }
            let event = feed_event(self.partition, entry.effect.clone());
            let stamp =
                (entry.epoch == self.epoch).then(|| Stamp { by: self.options.me, version: entry.effect.version() });
            self.ring.push(RingEntry { seq, stamp, event });
        }
        self.applied = self.tail.position(point);
        let copies = primary.max_in_sync(&self.record).union(self.record.counting).len() as u8;
        while primary.waiting.front().is_some_and(|waiting| waiting.seq <= point)
            && let Some(waiting) = primary.waiting.pop_front()
        {
            let result = match waiting.answer {
                Answer::Written { version, created } => Ok(Response::Written { version, created, copies }),
                Answer::Deleted { version } => Ok(Response::Deleted { version, copies }),
                Answer::Refused(result) => result,
            };
            out.push(Output::Reply { request: waiting.request, result });
        }
        if let Some(Office { primary, context, .. }) = self.office(now) {
            primary.notice_soon(context);
        }
        self.release_retained();
        self.maybe_propose_giving(now, out);
    }

    /// When the primary's clock rings next; `None` where this replica is none.
    pub(super) fn primary_deadline(&self) -> Option<Instant> {
        let primary = self.primary.as_ref()?;
        let resend = primary.members.iter().map(|(_, member)| member.deadline()).min().unwrap_or(Instant::FAR);
        let expiry = self.table.next_deadline();
        let expiry = if expiry != Instant::FAR && self.check_writable().is_ok() { expiry } else { Instant::FAR };
        Some(primary.notice_at.min(primary.propose_at).min(primary.giving.deadline()).min(resend).min(expiry))
    }

    /// What the clock asks of a primary.
    pub(super) fn on_primary_timeout(&mut self, now: Instant, unix_micros: u64, out: &mut Vec<Output>) {
        let Some(Office { primary, context, table, record, applied, version_max }) = self.office(now) else { return };
        if primary.giving.deadline() <= now {
            primary.giving.give_up(now);
        }
        if primary.notice_at <= now {
            primary.notice_at = Instant::FAR;
            for (_, member) in &mut primary.members {
                member.maybe_tell_commit(context, out);
            }
        }
        for (_, member) in primary.members.iter_mut().filter(|(_, member)| member.deadline() <= now) {
            if member.stream == Stream::Greeting {
                if member.filling.as_ref().is_some_and(|filling| filling.lapsed) {
                    // `members` is borrowed here, so that `next_attach` can't be called.
                    primary.attach_last.0 += 1;
                    member.attach_anew(primary.attach_last, applied);
                }
                member.greet(context, record.change, version_max, out);
                continue;
            }
            member.on_deadline(context, table, (record, version_max), out);
        }
        let needed = record.in_sync.union(record.counting);
        let late = primary.members.iter().filter(|(slot, member)| needed.contains(*slot) && member.is_late(context));
        let late: SlotSet = late.map(|(slot, _)| *slot).collect();
        let is_news = !late.is_subset(primary.evicted);
        if is_news || primary.propose_at <= now {
            primary.evicted = late;
            let is_done = primary.evicted.union(primary.proposed).is_empty() && !primary.dismisses;
            if is_news {
                primary.giving.give_up(now);
            }
            primary.propose_at = if is_done { Instant::FAR } else { now + context.options.propose_after };
            self.propose(out);
        }
        self.note_rotten_scans(out);
        self.expire(now, unix_micros, out);
    }

    /// Sends what was ordered to every member; alone, that commits it.
    fn stream_and_commit(&mut self, now: Instant, out: &mut Vec<Output>) {
        let Some(Office { primary, context, .. }) = self.office(now) else { return };
        for (_, member) in &mut primary.members {
            member.advance(context, out);
        }
        self.advance_commit(now, out);
        self.maybe_lapse(now);
    }

    /// Orders an effect of this epoch.
    fn append(&mut self, now: Instant, effect: Effect) -> Seq {
        self.version_max = self.version_max.max(effect.version());
        let key = effect.key().cloned();
        let seq = self.tail.push(Entry { epoch: self.epoch, received: now, effect }).seq;
        if let (Some(primary), Some(key)) = (&mut self.primary, key) {
            primary.pending.insert(key, seq);
        }
        seq
    }

    /// A refusal is an answer too: where it rests on an effect that isn't committed, it waits for the commit. It waits for
    /// everything that was ordered before it, which keeps answers in order and costs no more than a round trip.
    pub(super) fn refuse(
        &mut self,
        request: RequestId,
        result: Result<Response, Error>,
        is_pending: bool,
        out: &mut Vec<Output>,
    ) {
        let seq = self.tail.last().seq;
        match &mut self.primary {
            Some(primary) if is_pending => {
                primary.waiting.push_back(Waiting { seq, request, answer: Answer::Refused(result) });
            }
            _ => out.push(Output::Reply { request, result }),
        }
    }

    /// The version of `key` for a write that is judged now: of its last ordered effect, committed or not.
    fn find(&self, now: Instant, key: &Key) -> Found {
        let pending = self.primary.as_ref().and_then(|primary| self.tail.entry(*primary.pending.get(key)?));
        let Some(entry) = pending else {
            let record = self.table.read(key).filter(|record| !record.is_expired(now));
            return Found { version: record.map(Stored::version), is_pending: false };
        };
        let version = match entry.effect.aged(now.since(entry.received)) {
            Effect::Put { ttl_ms: Some(0), .. } | Effect::Delete { .. } | Effect::EpochStart { .. } => None,
            Effect::Put { version, .. } => Some(version),
        };
        Found { version, is_pending: true }
    }

    /// The version of the next effect (rule 13): of the clock, but always above all before it.
    fn next_version(&self, unix_micros: u64) -> Version {
        if is_broken(Mutant::VersionByClock) {
            return Version(unix_micros);
        }
        self.version_max.next().max(Version(unix_micros))
    }

    /// Whether a write can be ordered now.
    fn check_writable(&self) -> Result<(), Error> {
        let (copies, copies_min) = (self.record.copies(), self.options.min_copies);
        if !self.is_serving() {
            Err(self.unavailable("this node is not its primary"))
        } else if copies < usize::from(copies_min) && !is_broken(Mutant::FewerCopies) {
            Err(Error::TooFewCopies { copies: copies as u8, copies_min })
        } else if self.withholds_writes() {
            Err(self.unavailable("this node is giving it to another one"))
        } else if self.uncommitted() >= self.options.tail_effects_max
            || self.tail.bytes() >= self.options.tail_bytes_max
        {
            Err(Error::Busy(format!("{} has too many writes in flight", self.partition)))
        } else {
            Ok(())
        }
    }

    fn unavailable(&self, detail: &str) -> Error {
        Error::Unavailable { partition: self.partition, detail: detail.to_owned() }
    }

    pub(super) fn uncommitted(&self) -> usize {
        (self.tail.last().seq.0 - self.applied.seq.0) as usize
    }

    /// Orders the deletes of records whose time has run out.
    fn expire(&mut self, now: Instant, unix_micros: u64, out: &mut Vec<Output>) {
        if self.table.next_deadline() > now || self.check_writable().is_err() {
            return;
        }
        let room = self.options.tail_effects_max - self.uncommitted();
        for (key, _) in self.table.poll_expired(now, room.min(self.options.expire_max)) {
            // A pending effect replaces or deletes the record anyway.
            if self.primary.as_ref().is_some_and(|primary| !primary.pending.contains_key(&key)) {
                let version = self.next_version(unix_micros);
                self.append(now, Effect::Delete { key, version, expired: true, marked: None });
            }
        }
        self.stream_and_commit(now, out);
    }

    /// Lets go of applied effects that no learner needs.
    pub(super) fn release_retained(&mut self) {
        let Some(primary) = &self.primary else { return };
        let needed = primary.members.iter().filter_map(|(_, member)| member.retained_from()).min();
        self.tail.drop_through(needed.map_or(self.applied.seq, |seq| seq.min(self.applied.seq)));
    }

    /// A learner that keeps too much from being released begins anew, a little later.
    fn maybe_lapse(&mut self, now: Instant) {
        let retained = self.tail.len() - self.uncommitted();
        if retained == 0
            || (retained <= self.options.tail_effects_max && self.tail.bytes() < self.options.tail_bytes_max / 2)
        {
            return;
        }
        let Some(Office { primary, context, applied, .. }) = self.office(now) else { return };
        for (_, member) in &mut primary.members {
            if member.retained_from().is_some_and(|from| from < applied.seq) {
                member.lapse(context);
            }
        }
        self.release_retained();
    }
}

/// Why `operation` may not be done to a key whose version is `current`; `None` where it may.
fn refusal(operation: &Operation, current: Option<Version>) -> Option<Result<Response, Error>> {
    let (precondition, mode) = match operation {
        Operation::Put { precondition, mode, .. } => (precondition, *mode),
        Operation::Delete { precondition, .. } => (precondition, PutMode::Upsert),
        Operation::Get { .. } | Operation::List { .. } => return None,
    };
    match current {
        Some(current) if mode == PutMode::Create => Some(Err(Error::Exists { current })),
        _ if !precondition.holds(current) => Some(Err(Error::PreconditionFailed { current })),
        None if matches!(operation, Operation::Delete { .. }) => Some(Ok(Response::NotFound)),
        _ => None,
    }
}
