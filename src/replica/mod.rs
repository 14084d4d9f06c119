//! One partition's replication protocol, at one node.
//!
//! A [`Replica`] holds one copy of one partition: its [`Table`] of committed records and the tail of
//! effects that are not committed yet. It is a pure machine: `handle_*` takes a record of the control log, a message of
//! another replica, a client's write, or the passing of time, and pushes what it causes onto a list of [`Output`]s. The
//! shard that owns it (and some thousands like it) drains that list. An idle replica has no timer and no large buffer.
//!
//! The protocol is PacificA's shape (Lin et al., "PacificA: Replication in Log-Based Distributed Storage Systems", 2008):
//! the control log says who the primary is and who is in sync; the primary orders effects; an effect is committed when
//! *every* in-sync member holds it. The tail is kept as Raft keeps a log: each effect has a [`Position`] of epoch and
//! sequence number, and two replicas that agree on a position agree on everything before it.
//!
//! ```text
//!  client      primary                      backup                     (learner)
//!    │ write      │                            │
//!    │──────────▶ │ judge, append to tail      │
//!    │            │ Prepare ─────────────────▶ │ append, if what is before matches
//!    │            │ ◀───────────────────── Ack │
//!    │ ◀───────── │ all of max-in-sync: apply, reply
//!    │            │ next Prepare, or Commit ─▶ │ apply
//!
//!  new epoch:       NewEpoch ────────────────▶ │ fence every lower epoch
//!                   ◀──── NewEpochAck(tail) ── │
//!                   Prepare(from the last match, own tail, EpochStart) ─▶ truncate what differs, append, Ack
//!
//!  learner:         AttachLearner ───────────────────────────────────▶ │ empty the table
//!                   Prepare, Prepare, … (live)                         │
//!                   ScanChunk ⇄ ScanAck, one at a time                 │ keep what is newer; tombstones
//!                   caught up, and the filling stands under the newest record:
//!                   propose it to the control log; from then on its acks are required
//! ```
//!
//! | role | it is | its tail |
//! |---|---|---|
//! | none | no member: holds nothing | empty |
//! | primary | named by the record of its epoch | its whole order; serves once EpochStart is committed |
//! | backup | in sync | what is not known to be committed |
//! | learner | being filled | the same; its table is incomplete until the scan has ended |
//!
//! # Invariants
//!
//! - Only committed effects are applied, so nothing is ever undone. What is applied at one replica is in the history of
//!   every member of every later in-sync set.
//! - A member acks only what the primary of its epoch has, and nothing of a lower epoch once it has fenced it.
//! - *max-in-sync* is the record's in-sync set and every learner that this primary has proposed. Commit waits for all of
//!   it, and a new write for the learners that *count* besides, while fewer than `min_copies` are in sync. A proposal is
//!   forgotten only when a later change number shows that it came to nothing: it may still be applied
//!   any time before.
//! - Versions rise strictly with sequence numbers, across epochs too.
//! - Whatever a client is told, an answer to a write, a refusal included, rests on committed effects alone.
//!
//! # Left out
//!
//! Leases (whoever asks for a read holds one; a refusal of a write that is answered from applied state is a read, too), the
//! read barrier, and when copies are compared and hashed again (the shard's affair).
//!
//! | file | what it holds |
//! |---|---|
//! | `message` | [`Message`] |
//! | `tail` | the tail: positions, matching, truncation |
//! | `primary` | taking office, writes, commit, in-sync proposals, timers |
//! | `reads` | what is read from a replica, by whom it may be read |
//! | `once` | writes with an idempotency key, which are executed once |
//! | `members` | what a primary knows of one other replica; streaming to it |
//! | `backup` | fencing, appending, following the commit point |
//! | `answers` | what a primary makes of its members' answers |
//! | `give_back` | a primary that gives its partition back to the target primary |
//! | `wishes` | whom a primary proposes for its in-sync set, and whom it wishes to leave |
//! | `catch_up` | the learner's side of its filling |
//! | `verify` | anti-entropy: copies are compared, and what has gone bad is replaced |
//! | `ring` | the last committed effects, for the feed |

mod answers;
mod backup;
mod catch_up;
mod give_back;
mod members;
mod message;
mod once;
mod primary;
mod reads;
mod ring;
mod tail;
mod verify;
mod wishes;

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

pub use members::{CHUNK_COSTS, ScanRoom, ScanWaits};
pub use message::{AttachId, Check, Finding, Fingerprint, Message, ScannedRecord};
pub use ring::{Ring, RingEntry, Stamp};
pub use verify::{Damage, Fault};

use crate::api::{Error, Once, Operation, Response};
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{
    ChangeNumber, Epoch, InSyncChange, Instant, NodeId, PartitionId, PartitionRecord, Position, RequestId, Seq,
    SlotSet, Version,
};
use crate::store::Table;
use backup::Following;
use primary::Primary;
use tail::Tail;
use verify::Verifying;

/// Sequence numbers, versions and filling numbers of peers that are not below this are nonsense: counting on from them
/// could overflow.
const COUNTER_SANE_MAX: u64 = 1 << 62;

/// What all replicas of one process are built with.
#[derive(Clone, Debug)]
pub struct ReplicaOptions {
    /// Who this process is.
    pub me: NodeId,
    /// Copies, in sync or counting, below which a write is refused.
    pub min_copies: u8,
    /// Effects that one partition may have uncommitted; one more write is refused as busy. A learner that is further
    /// behind than this begins anew.
    pub tail_effects_max: usize,
    /// The same in bytes.
    pub tail_bytes_max: usize,
    /// What was not answered for this long is sent again. Longer than a round trip under load; messages are lost only
    /// where a connection breaks.
    pub resend_after: Duration,
    /// How long a commit may go untold while no write carries the news.
    pub commit_notice_after: Duration,
    /// How often an undecided proposal for the in-sync set is made again.
    pub propose_after: Duration,
    /// A member in sync that leaves something unanswered for so long is to leave the set.
    pub evict_after: Duration,
    /// Bytes of one chunk of a scan, but for the last record in it.
    pub scan_chunk_bytes: usize,
    /// Bytes of one Prepare, but for the last effect in it.
    pub prepare_bytes: usize,
    /// Expired records that are turned into deletes at once.
    pub expire_max: usize,
}

impl ReplicaOptions {
    /// Sound values for a process that is `me`.
    #[must_use]
    pub const fn new(me: NodeId) -> Self {
        Self {
            me,
            min_copies: 1,
            tail_effects_max: 4096,
            tail_bytes_max: 64 << 20,
            resend_after: Duration::from_millis(150),
            commit_notice_after: Duration::from_millis(5),
            propose_after: Duration::from_millis(300),
            evict_after: Duration::from_millis(500),
            scan_chunk_bytes: 256 << 10,
            prepare_bytes: 1 << 20,
            expire_max: 128,
        }
    }
}

/// What an input caused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this to that node, beside the partition's number.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// A write is answered.
    Reply {
        /// Which.
        request: RequestId,
        /// How.
        result: Result<Response, Error>,
    },
    /// The control log should judge this change. It comes again until a record of a higher change number is handled.
    Propose(InSyncChange),
    /// This backup's table is what the primary's is.
    Verified,
    /// Something bad was found in this copy, or put right.
    Damage(Damage),
}

/// What this replica is, by the last record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplicaRole {
    /// No member.
    #[default]
    None,
    /// It orders the partition's writes.
    Primary,
    /// In sync.
    Backup,
    /// Being filled.
    Learner,
}

/// This replica may not answer: it isn't the primary, or hasn't taken office yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("this node doesn't serve the partition at the moment")]
pub struct NotServing;

/// What a replica says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// Its role.
    pub role: ReplicaRole,
    /// Whether it may answer reads (given a lease) and take writes.
    pub serving: bool,
    /// The epoch that it acts in.
    pub epoch: Epoch,
    /// The last effect that it applied.
    pub applied: Position,
    /// The last effect that it knows.
    pub last: Position,
    /// Records that it holds.
    pub records: usize,
    /// Bytes that its table and its tail take.
    pub bytes: usize,
    /// Records that are known to be rotten, and aren't shown.
    pub rotten: usize,
}

/// One copy of one partition.
///
/// Invariants ([`Replica::check_invariants`]): `base ≤ applied ≤ last` of the tail; a replica that isn't primary retains
/// nothing that is applied; no effect is of a higher epoch than the replica's; `version_max` is at least every version
/// that it knows.
#[derive(Clone, Debug)]
pub struct Replica {
    partition: PartitionId,
    options: Arc<ReplicaOptions>,
    /// The last record that was handled.
    record: PartitionRecord,
    /// The highest change number that was heard of, by a record or by a message that came before its record.
    heard: ChangeNumber,
    /// The epoch that this replica acts in: every lower one is fenced.
    epoch: Epoch,
    role: ReplicaRole,
    table: Table,
    /// The last effect that is applied: committed for sure.
    applied: Position,
    tail: Tail,
    ring: Ring,
    version_max: Version,
    /// Exactly while the role is primary.
    primary: Option<Box<Primary>>,
    following: Following,
    verifying: Verifying,
    /// Whether more may be sent to those who are filled.
    scan_room: ScanRoom,
}

impl Replica {
    /// A replica that holds nothing and knows no record.
    #[must_use]
    pub fn new(partition: PartitionId, options: &Arc<ReplicaOptions>) -> Self {
        Self {
            partition,
            options: Arc::clone(options),
            record: PartitionRecord::default(),
            heard: ChangeNumber::ZERO,
            epoch: Epoch::ZERO,
            role: ReplicaRole::None,
            table: Table::default(),
            applied: Position::ZERO,
            tail: Tail::default(),
            ring: Ring::default(),
            version_max: Version::ZERO,
            primary: None,
            following: Following::default(),
            verifying: Verifying::default(),
            scan_room: ScanRoom { has_room: true, is_hurried: true },
        }
    }

    /// The control log says this of the partition, or says it again. `nodes` is who is registered in each slot.
    pub fn handle_record(
        &mut self,
        now: Instant,
        record: &PartitionRecord,
        nodes: &[Option<NodeId>],
        out: &mut Vec<Output>,
    ) {
        // A message of a newer primary may have come before its record. Records in between are history.
        if record.change < self.heard || record.epoch < self.epoch {
            return;
        }
        if record.epoch > self.epoch {
            self.fence(record.epoch, out);
        }
        self.heard = record.change;
        self.record = *record;
        let registered = |slot: crate::base::Slot| nodes.get(slot.index()).copied().flatten();
        let me = self.options.me;
        self.following.primary = record.primary.and_then(registered);
        let role = if registered(me.slot) != Some(me) {
            ReplicaRole::None
        } else if record.primary == Some(me.slot) {
            ReplicaRole::Primary
        } else if record.in_sync.contains(me.slot) {
            ReplicaRole::Backup
        } else if record.learners.contains(me.slot) {
            ReplicaRole::Learner
        } else {
            ReplicaRole::None
        };
        if role != ReplicaRole::Primary {
            self.leave_office(out);
        }
        match role {
            ReplicaRole::None => self.become_none(),
            ReplicaRole::Primary if self.primary.is_some() => self.on_members_changed(now, &registered, out),
            ReplicaRole::Primary => self.become_primary(now, &registered, out),
            ReplicaRole::Backup => self.become_backup(),
            ReplicaRole::Learner => self.become_learner(),
        }
    }

    /// Another replica of this partition says this. `from` is its proven identity.
    pub fn handle_message(&mut self, now: Instant, from: NodeId, message: Message, out: &mut Vec<Output>) {
        match message {
            Message::NewEpoch { epoch, change } => self.on_new_epoch(from, epoch, change, out),
            Message::Prepare { epoch, previous, commit, effects } => {
                self.on_prepare(now, from, (epoch, previous, commit), effects, out);
            }
            Message::Commit { epoch, seq } => self.on_commit(now, from, epoch, seq, out),
            Message::AttachLearner { epoch, change, attach, previous, version_max } => {
                self.on_attach_learner(from, (epoch, change, attach), previous, version_max, out);
            }
            Message::ScanChunk { epoch, attach, after, records, last, recent } => {
                self.on_scan_chunk(now, from, (epoch, attach), (after, records, last), recent, out);
            }
            Message::NewEpochAck { epoch, applied, runs } => {
                self.on_new_epoch_ack(now, from, epoch, applied, &runs, out);
            }
            Message::Ack { epoch, attach, seq, commit } => self.on_ack(now, from, (epoch, attach), seq, commit, out),
            Message::Reject { epoch, attach, seq } => self.on_reject(now, from, (epoch, attach), seq, out),
            Message::ScanAck { epoch, attach, heard, after, done } => {
                self.on_scan_ack(now, from, (epoch, attach), heard, (after, done), out);
            }
            Message::Detached { epoch, attach } => self.on_detached(now, from, (epoch, attach), out),
            Message::Check { epoch, seq, check } => self.on_check(now, from, (epoch, seq), *check, out),
            Message::Finding { epoch, finding } => self.on_finding(now, from, epoch, *finding, out),
            Message::Fetch { epoch, key, version } => self.on_fetch(now, from, (epoch, key, version), out),
            Message::Fetched { epoch, record } => self.on_fetched(now, from, epoch, *record, out),
        }
    }

    /// A client's put or delete. The answer is an [`Output::Reply`], at once where it is refused on committed grounds,
    /// otherwise once everything that it rests on is committed. `unix_micros` is the reading of the hybrid clock.
    ///
    /// A refusal that is given at once is a read of applied state: as for [`Replica::read`], the caller holds the lease.
    pub fn handle_write(
        &mut self,
        now: Instant,
        unix_micros: u64,
        request: RequestId,
        operation: Operation,
        out: &mut Vec<Output>,
    ) {
        self.on_write(now, unix_micros, (request, None), operation, out);
    }

    /// The same with an idempotency key, where there is one: a write that was done before is not done again, but answered
    /// as it was then ([`Response::Replayed`]).
    pub fn handle_write_once(
        &mut self,
        now: Instant,
        unix_micros: u64,
        (request, once): (RequestId, Option<Once>),
        operation: Operation,
        out: &mut Vec<Output>,
    ) {
        self.on_write(now, unix_micros, (request, once), operation, out);
    }

    /// The moment that [`Replica::next_deadline`] named has come.
    pub fn handle_timeout(&mut self, now: Instant, unix_micros: u64, out: &mut Vec<Output>) {
        if self.primary.is_some() {
            self.on_primary_timeout(now, unix_micros, out);
        } else {
            self.maybe_nudge(now, out);
        }
    }

    /// The members in `mute` have left something of another partition unanswered for too long, and nothing was heard of
    /// them since.
    pub fn handle_mute(&mut self, now: Instant, mute: SlotSet, out: &mut Vec<Output>) {
        self.evict_mute(now, mute, out);
    }

    /// When [`Replica::handle_timeout`] wants to be called; [`Instant::FAR`] while there is nothing to wait for.
    #[must_use]
    pub fn next_deadline(&self) -> Instant {
        self.primary_deadline().unwrap_or(self.following.nudge_at)
    }

    /// Whether this replica is the primary of its epoch and has committed the start of it.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.primary
            .as_ref()
            .is_some_and(|primary| primary.epoch_start <= self.applied.seq || is_broken(Mutant::ServeBeforeStart))
    }

    /// Whether this replica wishes for no change of its in-sync set.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.primary.as_ref().is_none_or(|primary| primary.wishes_nothing())
    }

    /// The first effect of the epoch that this replica is primary of.
    #[must_use]
    pub fn epoch_start(&self) -> Option<Seq> {
        self.primary.as_ref().map(|primary| primary.epoch_start)
    }

    /// Whether every acknowledged write is here: an in-sync member, by the last record.
    #[must_use]
    pub const fn holds_all(&self) -> bool {
        matches!(self.role, ReplicaRole::Primary | ReplicaRole::Backup) && self.following.filling.is_none()
    }

    /// Which partition it is a copy of.
    #[must_use]
    pub const fn partition(&self) -> PartitionId {
        self.partition
    }

    /// The last record that was handled.
    #[must_use]
    pub const fn record(&self) -> &PartitionRecord {
        &self.record
    }

    /// Whether the effect at `position` is in its history, as far as it remembers: of what is applied it knows the last.
    #[must_use]
    pub fn holds(&self, position: Position) -> bool {
        let is_settled = position.seq < self.applied.seq || position == self.applied;
        is_settled || self.tail.epoch_at(position.seq) == Some(position.epoch)
    }

    /// Its last committed effects.
    #[must_use]
    pub const fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Lets the oldest effect of its ring go.
    pub fn evict_from_ring(&mut self) {
        self.ring.evict();
    }

    /// Every version that this replica gives from now on is above `floor`. (Whoever it follows has its own.)
    pub fn raise_version(&mut self, floor: Version) {
        self.version_max = self.version_max.max(floor);
    }

    /// Whether it is the primary of its epoch, serving or not yet.
    #[must_use]
    pub const fn is_in_office(&self) -> bool {
        self.primary.is_some()
    }

    /// When it came into office, where it is in one.
    #[must_use]
    pub fn in_office_since(&self) -> Option<Instant> {
        self.primary.as_ref().map(|primary| primary.since)
    }

    /// As primary, the first version of its own epoch that it has given and not committed: everything that it gave below
    /// is committed. None where nothing is outstanding.
    #[must_use]
    pub fn first_uncommitted(&self) -> Option<Version> {
        let primary = self.primary.as_ref()?;
        let first = primary.epoch_start.max(self.applied.seq.next());
        self.tail.entry(first).map(|entry| entry.effect.version())
    }

    /// What it is and how much it holds.
    #[must_use]
    pub fn status(&self) -> ReplicaStatus {
        ReplicaStatus {
            role: self.role,
            serving: self.is_serving(),
            epoch: self.epoch,
            applied: self.applied,
            last: self.tail.last(),
            records: self.table.len(),
            bytes: self.table.bytes() + self.tail.bytes(),
            rotten: self.verifying.rotten(),
        }
    }

    /// Panics where the replica contradicts itself. Costs a pass over its records.
    pub fn check_invariants(&self) {
        self.table.check_invariants();
        self.tail.check_invariants();
        self.ring.check_invariants();
        assert_eq!(self.ring.last(), self.applied.seq, "the ring doesn't end with what is applied");
        let (base, applied, last) = (self.tail.base(), self.applied, self.tail.last());
        assert!(base.seq <= applied.seq && applied.seq <= last.seq, "{base} ≤ {applied} ≤ {last} doesn't hold");
        assert_eq!(self.tail.epoch_at(applied.seq), Some(applied.epoch), "what is applied is not in the tail");
        assert!(last.epoch <= self.epoch, "an effect of {last} in epoch {}", self.epoch);
        assert_eq!(self.role == ReplicaRole::Primary, self.primary.is_some(), "{:?} and its office differ", self.role);
        let newest = self.tail.range(Seq::ZERO..=last.seq).map(|(_, entry)| entry.effect.version()).max();
        assert!(newest.unwrap_or_default() <= self.version_max, "{newest:?} is above {}", self.version_max);
        for stored in self.table.scan(&[], None) {
            assert!(stored.version() <= self.version_max, "{stored:?} has a version above {}", self.version_max);
        }
        match &self.primary {
            Some(primary) => primary.check_invariants(&self.tail, applied.seq),
            None => assert_eq!(base, applied, "a replica that isn't primary retains what is applied"),
        }
    }

    /// From now on nothing of an epoch below `epoch` is acked or ordered.
    fn fence(&mut self, epoch: Epoch, out: &mut Vec<Output>) {
        assert!(epoch > self.epoch, "epoch {epoch} doesn't fence {}", self.epoch);
        self.leave_office(out);
        if epoch.is_forced_after(self.epoch) && self.following.filling.take().is_some() {
            // Where no copy in sync has survived, a learner leads with what it has: nobody fills it any more.
            self.table.end_scan();
        }
        self.epoch = epoch;
        self.following.fence(self.applied.seq);
        self.verifying.end_round();
    }

    /// No longer a member: nothing is kept.
    fn become_none(&mut self) {
        self.role = ReplicaRole::None;
        self.table.clear();
        self.verifying.clear();
        self.applied = Position::ZERO;
        self.version_max = Version::ZERO;
        self.tail.reset(Position::ZERO);
        self.ring.reset(Seq::ZERO, None);
        self.following.filling = None;
        // Who leads is known all the same: its greeting may come before the record that makes this replica a member.
        self.following.detach(Seq::ZERO);
    }
}
