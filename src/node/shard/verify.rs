//! When copies are looked at: a walk through all partitions of the shard, again and again, one within each
//! `sync_interval`.
//!
//! At each partition every record is hashed again; then, where this node is its primary, all backups in sync are told what
//! their tables should come to. What follows from that is the replicas' affair. The walk takes many small steps, and takes
//! them at such a pace that it ends with the interval: it never holds the shard for long, and a table twice as large takes
//! twice as much of each step, up to a bound. Beyond that (some 100 MB a second and shard) a walk takes longer than the
//! interval, and the status says so by the age of the last one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{ShardCore, ShardOutput};
use crate::api::Key;
use crate::base::{Instant, NodeId, PartitionId, Rng};
use crate::node::message::{NodeMessage, PartitionDigest, PeerMessage};
use crate::node::{ControlEvent, Load};
use crate::replica::{Damage, Fault, ReplicaRole, ReplicaStatus};

/// Steps of one walk, where there is little to do at each.
const STEPS: u32 = 32;
/// Never more often than that, nor less.
const STEP_EVERY_MIN: Duration = Duration::from_millis(10);
const STEP_EVERY_MAX: Duration = Duration::from_millis(500);
/// How soon the next step comes where one couldn't do all that was due.
const STEP_AGAIN_AFTER: Duration = Duration::from_millis(2);
/// How often rotten records are asked for.
const ASK_EVERY: Duration = Duration::from_millis(150);
/// What one step hashes at most, but for the last record: a few tenths of a millisecond, where records are small.
const STEP_BYTES_MAX: u64 = 512 << 10;
/// What a partition counts for beside its records.
const PARTITION_BYTES: u64 = 256;
/// Records that are named, of those found bad within a while. The others are counted.
const NOTICES_MAX: u32 = 10;
const NOTICES_EVERY: Duration = Duration::from_secs(10);

/// How far a shard is with looking at its copies.
#[derive(Debug)]
pub(super) struct Verifier {
    /// When the next step is due; never before there are partitions.
    pub(super) step_at: Instant,
    /// What was found; what the tables hold is left empty.
    pub(super) load: Load,
    rng: Rng,
    began_at: Instant,
    /// How long this walk takes: jittered, so that nodes don't all walk in step.
    length: Duration,
    /// What it has done, in bytes.
    done: u64,
    /// Where it is: the partition, by index, and the last key.
    index: usize,
    after: Option<Key>,
    /// By index: when a backup's table was last known to be what its primary's is; of no meaning for others.
    equal_at: Vec<Instant>,
    /// Those with rotten records.
    rotten: BTreeSet<usize>,
    notices_since: Instant,
    notices: u32,
    unsaid: u64,
}

impl Verifier {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            step_at: Instant::FAR,
            load: Load::default(),
            rng: Rng::new(seed ^ 0x7e51_f1e5),
            began_at: Instant::ZERO,
            length: Duration::ZERO,
            done: 0,
            index: 0,
            after: None,
            equal_at: Vec::new(),
            rotten: BTreeSet::new(),
            notices_since: Instant::ZERO,
            notices: 0,
            unsaid: 0,
        }
    }

    /// There are no partitions any more. What was counted stays: it was this process that found it.
    pub(super) fn stop(&mut self) {
        let load = Load { verified_at: None, ..self.load };
        *self = Self { load, ..Self::new(self.rng.bits()) };
    }

    /// A backup's table is what its primary's is.
    pub(super) fn verified(&mut self, now: Instant, index: usize) {
        self.equal_at[index] = now;
    }

    /// A replica was what `before` says, and is what `after` says.
    pub(super) fn note(&mut self, now: Instant, index: usize, before: &ReplicaStatus, after: &ReplicaStatus) {
        if after.role == ReplicaRole::Backup && before.role != ReplicaRole::Backup {
            // What it was filled with was hashed on the way, and what it had as a primary was the measure of others.
            self.equal_at[index] = now;
        }
        if after.rotten > 0 {
            self.rotten.insert(index);
        } else if before.rotten > 0 {
            self.rotten.remove(&index);
        }
    }

    fn begin_walk(&mut self, now: Instant, interval: Duration) {
        (self.index, self.after, self.done) = (0, None, 0);
        self.began_at = now;
        self.length = interval * 4 / 5 + self.rng.duration(interval / 5);
    }
}

impl ShardCore {
    /// The partitions are known: from now on they are looked at.
    pub(super) fn begin_verifying(&mut self, now: Instant) {
        if self.verifier.step_at == Instant::FAR && !self.replicas.is_empty() {
            let interval = self.options.sync_interval;
            self.verifier.equal_at = vec![now; self.replicas.len()];
            self.verifier.begin_walk(now, interval);
            self.verifier.step_at = now + self.verifier.rng.duration(interval / STEPS);
        }
    }

    /// The next step of the walk.
    pub(super) fn verify(&mut self, now: Instant) {
        for index in self.verifier.rotten.clone() {
            let partition = self.partition(index);
            self.with_replica(now, partition, |replica, out| replica.chase_rotten(out));
        }
        let mut digests = BTreeMap::new();
        let is_behind = self.walk(now, &mut digests);
        for (to, digests) in digests {
            let message = PeerMessage::EveryShard(NodeMessage::Digests(digests));
            self.outputs.push_back(ShardOutput::Peer { to, message });
        }
        if self.verifier.unsaid > 0 && now.since(self.verifier.notices_since) >= NOTICES_EVERY {
            let count = std::mem::take(&mut self.verifier.unsaid);
            self.outputs.push_back(ShardOutput::Notice(ControlEvent::MoreDamage { count }));
        }
        let usual = (self.options.sync_interval / STEPS).clamp(STEP_EVERY_MIN, STEP_EVERY_MAX);
        let usual = if self.verifier.rotten.is_empty() { usual } else { usual.min(ASK_EVERY) };
        self.verifier.step_at = now + if is_behind { STEP_AGAIN_AFTER } else { usual };
    }

    /// A primary says what copies here should come to.
    pub(super) fn on_digests(&mut self, now: Instant, from: NodeId, digests: Vec<PartitionDigest>) {
        if self.view.registered(from.slot) != Some(from) {
            return self.reject("unregistered_sender");
        }
        for PartitionDigest { partition, epoch, seq, digest } in digests {
            if self.owns(partition) {
                self.with_replica(now, partition, |replica, out| {
                    replica.handle_digest(now, from, (epoch, seq), digest, out);
                });
            }
        }
    }

    /// A replica has found something bad, or has put it right.
    pub(super) fn on_damage(&mut self, now: Instant, partition: PartitionId, damage: Damage) {
        let verifier = &mut self.verifier;
        // What is rotten is found first and put right later; everything else is found where it is put right.
        let is_found = damage.repaired_from.is_none() || damage.fault != Fault::Rotten;
        verifier.load.differences += u64::from(is_found);
        verifier.load.repairs += u64::from(damage.repaired_from.is_some());
        if now.since(verifier.notices_since) >= NOTICES_EVERY {
            (verifier.notices_since, verifier.notices) = (now, 0);
        }
        verifier.notices += 1;
        if verifier.notices > NOTICES_MAX {
            verifier.unsaid += 1;
        } else {
            self.outputs.push_back(ShardOutput::Notice(ControlEvent::Damage { partition, damage }));
        }
    }

    /// Does harm to the copy of `partition`, for tests.
    #[cfg(feature = "sim")]
    pub(crate) fn harm(
        &mut self,
        now: Instant,
        partition: PartitionId,
        act: impl FnOnce(&mut crate::replica::Replica),
    ) {
        self.with_replica(now, partition, |replica, _| act(replica));
    }

    /// Goes on with the walk as far as it should be by now. True where that was too much for one step.
    fn walk(&mut self, now: Instant, digests: &mut BTreeMap<NodeId, Vec<PartitionDigest>>) -> bool {
        let all = self.table_bytes + PARTITION_BYTES * self.replicas.len() as u64;
        let (length, elapsed) = (self.verifier.length, now.since(self.verifier.began_at));
        let due = if elapsed >= length {
            u64::MAX
        } else {
            (u128::from(all) * elapsed.as_nanos() / length.as_nanos().max(1)) as u64
        };
        let mut room = STEP_BYTES_MAX;
        while self.verifier.done < due && room > 0 {
            let index = self.verifier.index;
            let scrubbed = self.replicas[index].table().scrub(self.verifier.after.as_ref(), room);
            self.verifier.load.scrubbed_records += scrubbed.records;
            self.verifier.load.scrubbed_bytes += scrubbed.bytes;
            let is_end = scrubbed.reached.is_none();
            let cost = scrubbed.bytes + if is_end { PARTITION_BYTES } else { 0 };
            self.verifier.done += cost;
            room = room.saturating_sub(cost);
            self.verifier.after = scrubbed.reached;
            if !scrubbed.rotten.is_empty() {
                let partition = self.partition(index);
                self.with_replica(now, partition, |replica, out| replica.handle_rotten(scrubbed.rotten, out));
            }
            if !is_end {
                continue;
            }
            self.compare(index, digests);
            self.verifier.index += 1;
            if self.verifier.index == self.replicas.len() {
                self.end_walk(now);
                return false;
            }
        }
        self.verifier.done < due
    }

    /// Collects what backups of this partition should come to, where this node is its primary.
    fn compare(&self, index: usize, digests: &mut BTreeMap<NodeId, Vec<PartitionDigest>>) {
        let Some((epoch, seq, digest, backups)) = self.replicas[index].to_compare() else { return };
        for backup in backups {
            let partition = self.partition(index);
            digests.entry(backup).or_default().push(PartitionDigest { partition, epoch, seq, digest });
        }
    }

    fn end_walk(&mut self, now: Instant) {
        let backups = self.replicas.iter().zip(&self.verifier.equal_at);
        let backups = backups.filter(|(replica, _)| replica.status().role == ReplicaRole::Backup);
        let oldest = backups.map(|(_, at)| *at).min().unwrap_or(Instant::FAR);
        let is_sound = self.verifier.rotten.is_empty();
        if is_sound {
            self.verifier.load.verified_at = Some(oldest.min(self.verifier.began_at));
        }
        self.verifier.begin_walk(now, self.options.sync_interval);
    }
}
