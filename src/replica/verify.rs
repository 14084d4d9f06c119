//! Anti-entropy: copies that should be equal are compared, and what has gone bad in one is taken from another.
//!
//! Two things can go bad. Bits of a record may flip: then it doesn't fit its hash any more, whoever hashes it again sees
//! that, and any other copy of the same version has what is right. Or a record isn't what it should be and fits its hash,
//! because an effect was lost or something wrong was put in: then two copies differ, and nothing but the comparison shows
//! it.
//!
//! ```text
//!  primary                                     backup
//!    │ Check(s, digest) ─────────────────────▶ │ once it has applied exactly s: equal, almost always, and that was it
//!    │ ◀───────────────────── Finding(differs) │
//!    │ Check(s', sums of 64 buckets) ────────▶ │
//!    │ ◀────────────────────── Finding(buckets)│
//!    │ Check(s'', keys, versions, hashes) ───▶ │
//!    │ ◀───────────────────────── Finding(keys)│
//!    │ Check(s''', its records of these) ────▶ │ logged, counted, put right
//! ```
//!
//! Each `Check` says what the primary's table is after an effect of a number, and the backup does it when its own table is
//! at that very number: before, it waits; behind that, it drops it. So effects under way are never taken for differences,
//! and a repair never undoes a later effect. The primary remembers nothing of a round: every answer says how far it is. A
//! lost message ends the round, a change of primary does, and the next comparison begins another.
//!
//! A record that doesn't fit its hash is *rotten*: it isn't shown any more, nor handed to anybody as sound, and is asked for
//! at the primary, or, by the primary, at a member in sync. What has the same version is the same write, so that needs no
//! number.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::members::Stream;
use super::message::{Check, Finding, Fingerprint, Message, ScannedRecord};
use super::{COUNTER_SANE_MAX, Output, Replica, ReplicaRole};
use crate::api::Key;
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{Epoch, Instant, NodeId, Seq, Version};
use crate::store::{BucketSet, Digest, Record, RecordHash, Stored, Table};

/// Keys that a primary tells with one message.
const KEYS_MAX: usize = 512;
/// Keys that a backup asks for with one message.
const DIFFERENCES_MAX: usize = 256;
/// Checks that wait for an effect; of one more the oldest is dropped, and ends its round.
const CHECKS_MAX: usize = 8;
/// Rotten records of one partition that are looked after at once. The others are found again.
const ROTTEN_MAX: usize = 1024;
/// Rotten records that are asked for with one tick.
const ASKED_AT_ONCE_MAX: usize = 64;
/// A learner waits until so many questions about a rotten record came to nothing; then it gets it as it is, known to be
/// rotten, rather than nothing of the rest.
const ASKED_MAX: u32 = 5;
/// A round that wasn't heard of for so long has ended.
const ROUND_ENDS_AFTER: Duration = Duration::from_secs(2);

/// How a record was found to be bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It doesn't fit its hash.
    Rotten,
    /// The primary has it, and this copy doesn't.
    Missing,
    /// This copy has it, and the primary doesn't.
    Surplus,
    /// The primary has another one.
    Different,
    /// Not a record is bad, but the sums of the digest were.
    Sums,
}

/// Something bad that was found in this copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// What.
    pub fault: Fault,
    /// Whose record; none where it is the digest.
    pub key: Option<Key>,
    /// Whose copy was put in its place; none where that is still to be done.
    pub repaired_from: Option<NodeId>,
}

/// What of this is under way: nothing, almost always.
#[derive(Clone, Debug, Default)]
pub struct Verifying(Option<Box<Work>>);

#[derive(Clone, Debug, Default)]
struct Work {
    /// Rotten records, until they are replaced: of which version, and how often they were asked for.
    rotten: BTreeMap<Key, (Version, u32)>,
    /// What the primary wants looked at once this number is applied, in order.
    checks: VecDeque<(Seq, Check)>,
    /// When a round was last heard of.
    round_at: Option<Instant>,
}

impl Verifying {
    /// How many records are known to be rotten.
    pub fn rotten(&self) -> usize {
        self.0.as_ref().map_or(0, |work| work.rotten.len())
    }

    /// Whether a learner has to wait for this rotten record: somebody may still have it.
    pub fn is_awaited(&self, key: &Key, version: Version) -> bool {
        let known = self.0.as_ref().and_then(|work| work.rotten.get(key));
        known.is_none_or(|(of, asked)| *of != version || *asked < ASKED_MAX)
    }

    /// The table is another one: nothing is known of it.
    pub fn clear(&mut self) {
        self.0 = None;
    }

    /// Another primary: what was asked by the one before doesn't count. What is rotten stays so.
    pub fn end_round(&mut self) {
        if let Some(work) = &mut self.0 {
            work.checks.clear();
            work.round_at = None;
        }
        self.rest();
    }

    fn has(&self, key: &Key, version: Version) -> bool {
        self.0.as_ref().and_then(|work| work.rotten.get(key)).is_some_and(|(of, _)| *of == version)
    }

    fn rest(&mut self) {
        let is_idle = |work: &Work| work.rotten.is_empty() && work.checks.is_empty() && work.round_at.is_none();
        if self.0.as_deref().is_some_and(is_idle) {
            self.0 = None;
        }
    }

    /// The number that the first check waits for.
    pub(super) fn waits_for(&self) -> Option<Seq> {
        self.0.as_ref()?.checks.front().map(|(seq, _)| *seq)
    }
}

// ---- the primary ---------------------------------------------------------------------------------------------------

impl Replica {
    /// What a primary's backups should come to once they have applied what it has, and who they are. None where this isn't
    /// a primary that serves.
    #[must_use]
    pub fn to_compare(&self) -> Option<(Epoch, Seq, Digest, Vec<NodeId>)> {
        let primary = self.primary.as_ref().filter(|_| self.is_serving())?;
        let in_sync = primary.members.iter().filter(|(slot, member)| {
            self.record.in_sync.contains(*slot) && !member.is_learner() && member.stream != Stream::Greeting
        });
        let backups = in_sync.map(|(_, member)| member.node).collect();
        Some((self.epoch, self.applied.seq, self.table.digest(), backups))
    }

    /// A backup has looked at what was sent to it.
    pub(super) fn on_finding(
        &mut self,
        now: Instant,
        from: NodeId,
        epoch: Epoch,
        finding: Finding,
        out: &mut Vec<Output>,
    ) {
        if epoch != self.epoch || !self.to_compare().is_some_and(|(_, _, _, backups)| backups.contains(&from)) {
            return;
        }
        match finding {
            Finding::Differs => {
                self.recount(out);
                let buckets = self.table.buckets();
                self.check_at(from, Check::Buckets(Box::new(buckets)), out);
            }
            Finding::Buckets(buckets) => self.tell_keys(from, buckets, None, out),
            Finding::Keys { buckets, keys, reached } => self.tell_records(now, from, (buckets, keys, reached), out),
            Finding::Done { buckets, reached: Some(reached) } => self.tell_keys(from, buckets, Some(&reached), out),
            Finding::Done { reached: None, .. } => {}
        }
    }

    fn check_at(&self, to: NodeId, check: Check, out: &mut Vec<Output>) {
        let message = Message::Check { epoch: self.epoch, seq: self.applied.seq, check: Box::new(check) };
        out.push(Output::Send { to, message });
    }

    fn tell_keys(&self, to: NodeId, buckets: BucketSet, after: Option<&Key>, out: &mut Vec<Output>) {
        let known = self.table.in_buckets(buckets, after).take(KEYS_MAX);
        let of = |stored: &Stored| Fingerprint { key: stored.key(), version: stored.version(), hash: stored.hash() };
        let entries: Vec<Fingerprint> = known.map(of).collect();
        let through = entries.last().filter(|_| entries.len() == KEYS_MAX).map(|last| last.key.clone());
        self.check_at(to, Check::Keys { buckets, after: after.cloned(), through, entries }, out);
    }

    /// Hands a backup the records that differ; of those that are rotten here it may have the sound ones itself.
    fn tell_records(
        &mut self,
        now: Instant,
        to: NodeId,
        (buckets, keys, mut reached): (BucketSet, Vec<Key>, Option<Key>),
        out: &mut Vec<Output>,
    ) {
        let (mut records, mut bytes, mut rotten) = (Vec::new(), 0, Vec::new());
        for key in keys {
            if bytes >= self.options.scan_chunk_bytes {
                break;
            }
            let is_sound = self.table.is_sound(&key) || is_broken(Mutant::RepairUnverified);
            let record = self.table.read(&key);
            bytes +=
                key.as_bytes().len() + record.map_or(0, |record| record.value().len()) + size_of::<ScannedRecord>();
            match record {
                Some(record) if !is_sound => rotten.push((key.clone(), record.version())),
                Some(record) => records.push((key.clone(), Some(scanned(now, record)))),
                None => records.push((key.clone(), None)),
            }
            if bytes >= self.options.scan_chunk_bytes {
                // What comes after this one comes with the next keys.
                reached = Some(key);
            }
        }
        self.handle_rotten(rotten, out);
        self.check_at(to, Check::Records { buckets, reached, records }, out);
    }
}

// ---- the backup ----------------------------------------------------------------------------------------------------

impl Replica {
    /// The primary says what its table is once `seq` is applied.
    pub(super) fn on_check(
        &mut self,
        now: Instant,
        from: NodeId,
        (epoch, seq): (Epoch, Seq),
        check: Check,
        out: &mut Vec<Output>,
    ) {
        let follows = epoch == self.epoch && self.following.primary == Some(from);
        if !follows || !self.may_be_compared() {
            return;
        }
        let is_repair = matches!(check, Check::Records { .. });
        let is_at_once = is_broken(Mutant::CompareAnywhere) || is_repair && is_broken(Mutant::RepairOverNewer);
        if seq == self.applied.seq || is_at_once {
            self.look(now, from, check, out);
        } else if seq > self.applied.seq && seq.0 < COUNTER_SANE_MAX {
            let checks = &mut self.verifying.0.get_or_insert_default().checks;
            if checks.back().is_some_and(|(last, _)| *last > seq) {
                return;
            }
            checks.push_back((seq, check));
            if checks.len() > CHECKS_MAX {
                checks.pop_front();
            }
        }
    }

    /// The same of the digest, which travels with those of other partitions.
    pub fn handle_digest(
        &mut self,
        now: Instant,
        from: NodeId,
        (epoch, seq): (Epoch, Seq),
        digest: Digest,
        out: &mut Vec<Output>,
    ) {
        self.on_check(now, from, (epoch, seq), Check::Digest(digest), out);
    }

    /// Whether all that is committed up to what is applied here should be in the table.
    fn may_be_compared(&self) -> bool {
        self.role == ReplicaRole::Backup && self.following.filling.is_none()
    }

    /// Does what waits for the number that was just applied.
    pub(super) fn look_here(&mut self, now: Instant, out: &mut Vec<Output>) {
        let from = self.following.primary.filter(|_| self.may_be_compared());
        let Some(from) = from else { return self.verifying.end_round() };
        while self.verifying.waits_for().is_some_and(|seq| seq <= self.applied.seq)
            && let Some((_, check)) = self.verifying.0.as_mut().and_then(|work| work.checks.pop_front())
        {
            self.look(now, from, check, out);
        }
        self.verifying.rest();
    }

    /// Compares what the primary has with what is here, at the same number.
    fn look(&mut self, now: Instant, from: NodeId, check: Check, out: &mut Vec<Output>) {
        let finding = match check {
            Check::Digest(theirs) => {
                let is_equal = self.table.digest() == theirs || (self.recount(out) && self.table.digest() == theirs);
                if is_equal {
                    out.push(Output::Verified);
                    return self.note_round(None);
                }
                if self.is_in_round(now) {
                    return;
                }
                Finding::Differs
            }
            Check::Buckets(theirs) => Finding::Buckets(BucketSet::differing(&self.table.buckets(), &theirs)),
            Check::Keys { buckets, after, through, entries } => {
                let (keys, reached) = self.differing(buckets, after.as_ref(), through, &entries);
                if keys.is_empty() {
                    Finding::Done { buckets, reached }
                } else {
                    Finding::Keys { buckets, keys, reached }
                }
            }
            Check::Records { buckets, reached, records } => {
                records.into_iter().for_each(|(key, theirs)| self.put_right(now, from, key, theirs, out));
                Finding::Done { buckets, reached }
            }
        };
        if finding.is_end() {
            return self.note_round(None);
        }
        self.note_round(Some(now));
        out.push(Output::Send {
            to: from,
            message: Message::Finding { epoch: self.epoch, finding: Box::new(finding) },
        });
    }

    /// The keys of which the primary has another record than this copy, or only one of them has any; and up to which key
    /// all are known, where that isn't all.
    fn differing(
        &self,
        buckets: BucketSet,
        after: Option<&Key>,
        through: Option<Key>,
        theirs: &[Fingerprint],
    ) -> (Vec<Key>, Option<Key>) {
        let is_within =
            |stored: &&Stored| through.as_ref().is_none_or(|through| stored.key_bytes() <= through.as_bytes());
        let mut mine = self.table.in_buckets(buckets, after).take_while(is_within).peekable();
        let mut theirs = theirs.iter().peekable();
        let mut keys: Vec<Key> = Vec::new();
        while keys.len() < DIFFERENCES_MAX {
            let order = match (mine.peek(), theirs.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(my), Some(their)) => my.key_bytes().cmp(their.key.as_bytes()),
            };
            let my = if order.is_le() { mine.next() } else { None };
            let their = if order.is_ge() { theirs.next() } else { None };
            let is_same = my.map(|my| (my.version(), my.hash())) == their.map(|their| (their.version, their.hash));
            if let Some(key) = my.map(Stored::key).or_else(|| Some(their?.key.clone())).filter(|_| !is_same) {
                keys.push(key);
            }
        }
        let is_cut = mine.peek().is_some() || theirs.peek().is_some();
        let reached = if is_cut { keys.last().cloned() } else { through };
        (keys, reached)
    }

    /// Makes `key` what the primary has.
    fn put_right(
        &mut self,
        now: Instant,
        from: NodeId,
        key: Key,
        theirs: Option<ScannedRecord>,
        out: &mut Vec<Output>,
    ) {
        let theirs_known = theirs.as_ref().map(|record| (record.version, record.hash));
        let mine = self.table.read(&key).map(|stored| (stored.version(), stored.hash()));
        let fault = match (mine, theirs_known) {
            (mine, theirs) if mine == theirs => return,
            (None, _) => Fault::Missing,
            (_, None) => Fault::Surplus,
            _ => Fault::Different,
        };
        let record = match theirs {
            None => None,
            Some(theirs) => match received(now, &theirs) {
                Some(record) => Some(record),
                None => return,
            },
        };
        self.version_max = self.version_max.max(record.as_ref().map_or(Version::ZERO, |record| record.version));
        self.table.repair(&key, record);
        if let Some(work) = &mut self.verifying.0 {
            work.rotten.remove(&key);
        }
        out.push(Output::Damage(Damage { fault, key: Some(key), repaired_from: Some(from) }));
    }

    fn is_in_round(&self, now: Instant) -> bool {
        let heard = self.verifying.0.as_ref().and_then(|work| work.round_at);
        heard.is_some_and(|at| now.since(at) < ROUND_ENDS_AFTER)
    }

    fn note_round(&mut self, at: Option<Instant>) {
        if at.is_some() || self.verifying.0.is_some() {
            self.verifying.0.get_or_insert_default().round_at = at;
            self.verifying.rest();
        }
    }

    /// Sums up anew what may be summed up wrongly. True where it was.
    fn recount(&mut self, out: &mut Vec<Output>) -> bool {
        let was_wrong = self.table.recount();
        if was_wrong {
            let me = self.options.me;
            out.push(Output::Damage(Damage { fault: Fault::Sums, key: None, repaired_from: Some(me) }));
        }
        was_wrong
    }
}

// ---- rotten records, at whoever has them ---------------------------------------------------------------------------

impl Replica {
    /// Its table, for whoever hashes it again.
    #[must_use]
    pub const fn table(&self) -> &Table {
        &self.table
    }

    /// These records, of these versions, don't fit their hashes.
    pub fn handle_rotten(&mut self, rotten: Vec<(Key, Version)>, out: &mut Vec<Output>) {
        for (key, version) in rotten {
            let work = self.verifying.0.get_or_insert_default();
            let is_known = work.rotten.get(&key).is_some_and(|(of, _)| *of == version);
            if is_known || work.rotten.len() >= ROTTEN_MAX {
                continue;
            }
            work.rotten.insert(key.clone(), (version, 0));
            out.push(Output::Damage(Damage { fault: Fault::Rotten, key: Some(key.clone()), repaired_from: None }));
            self.ask_for(&key, out);
        }
        self.verifying.rest();
    }

    /// Asks again for what is rotten.
    pub fn chase_rotten(&mut self, out: &mut Vec<Output>) {
        let Some(work) = &mut self.verifying.0 else { return };
        let table = &self.table;
        // Whatever was written since then is another record.
        work.rotten.retain(|key, (version, _)| table.read(key).is_some_and(|record| record.version() == *version));
        let keys: Vec<Key> = work.rotten.keys().take(ASKED_AT_ONCE_MAX).cloned().collect();
        keys.iter().for_each(|key| self.ask_for(key, out));
        self.verifying.rest();
    }

    /// Whether the record of `key` is known to be rotten.
    pub(super) fn is_rotten(&self, key: &Key) -> bool {
        self.verifying.rotten() > 0
            && self.table.read(key).is_some_and(|stored| self.verifying.has(key, stored.version()))
            && !is_broken(Mutant::ShowRotten)
    }

    /// How many of its records are known to be rotten.
    #[must_use]
    pub fn rotten(&self) -> usize {
        self.verifying.rotten()
    }

    fn ask_for(&mut self, key: &Key, out: &mut Vec<Output>) {
        let members = self.primary.as_ref().map(|primary| &primary.members);
        let in_sync = members.map(|members| {
            let in_sync = members.iter().filter(|(slot, _)| self.record.in_sync.contains(*slot));
            in_sync.map(|(_, member)| member.node).collect::<Vec<_>>()
        });
        let others = in_sync.unwrap_or_else(|| self.following.primary.into_iter().collect());
        let Some((version, asked)) = self.verifying.0.as_mut().and_then(|work| work.rotten.get_mut(key)) else {
            return;
        };
        let nth = *asked as usize;
        *asked = asked.saturating_add(1);
        if !others.is_empty() {
            let message = Message::Fetch { epoch: self.epoch, key: key.clone(), version: *version };
            out.push(Output::Send { to: others[nth % others.len()], message });
        }
    }

    /// Somebody's record is rotten.
    pub(super) fn on_fetch(
        &mut self,
        now: Instant,
        from: NodeId,
        (epoch, key, version): (Epoch, Key, Version),
        out: &mut Vec<Output>,
    ) {
        if epoch != self.epoch || !self.is_partner(from) {
            return;
        }
        let Some(stored) = self.table.read(&key).filter(|stored| stored.version() == version) else { return };
        if stored.is_sound() {
            let record = scanned(now, stored);
            out.push(Output::Send { to: from, message: Message::Fetched { epoch, record: Box::new(record) } });
        } else {
            self.handle_rotten(vec![(key, version)], out);
        }
    }

    /// Somebody has what is rotten here. Of the same version there is only one write, so it goes in whatever was applied
    /// meanwhile, unless that replaced it.
    pub(super) fn on_fetched(
        &mut self,
        now: Instant,
        from: NodeId,
        epoch: Epoch,
        theirs: ScannedRecord,
        out: &mut Vec<Output>,
    ) {
        let is_asked_for =
            epoch == self.epoch && self.is_partner(from) && self.verifying.has(&theirs.key, theirs.version);
        let mine = self.table.read(&theirs.key).map(Stored::version);
        let is_same = mine == Some(theirs.version) || is_broken(Mutant::RepairOverNewer);
        let Some(record) = received(now, &theirs).filter(|_| is_asked_for && is_same) else { return };
        self.table.repair(&theirs.key, Some(record));
        if let Some(work) = &mut self.verifying.0 {
            work.rotten.remove(&theirs.key);
        }
        self.verifying.rest();
        let damage = Damage { fault: Fault::Rotten, key: Some(theirs.key), repaired_from: Some(from) };
        out.push(Output::Damage(damage));
    }

    /// Rotten records that stand in the way of a scan are asked for.
    pub(super) fn note_rotten_scans(&mut self, out: &mut Vec<Output>) {
        let Some(primary) = &mut self.primary else { return };
        let met = primary.members.iter_mut().filter_map(|(_, member)| member.filling.as_mut()?.met_rotten.take());
        let met: Vec<(Key, Version)> = met.collect();
        if !met.is_empty() {
            self.handle_rotten(met, out);
        }
    }

    /// Whether it is the primary, or one of its members.
    fn is_partner(&self, node: NodeId) -> bool {
        match &self.primary {
            Some(primary) => primary.members.iter().any(|(_, member)| member.node == node),
            None => self.following.primary == Some(node),
        }
    }
}

/// A record on its way to another copy, with the hash of what it is.
fn scanned(now: Instant, stored: &Stored) -> ScannedRecord {
    ScannedRecord { hash: stored.rehash(), ..ScannedRecord::of(now, stored) }
}

/// A record of another copy, if it is what it was there.
fn received(now: Instant, theirs: &ScannedRecord) -> Option<Record> {
    let record = theirs.to_record(now);
    let is_sound = RecordHash::of(&theirs.key, &record) == theirs.hash && theirs.version.0 < COUNTER_SANE_MAX;
    is_sound.then_some(record)
}

/// Faults, for tests.
#[cfg(feature = "sim")]
impl Replica {
    /// Flips a bit of what is stored under `key`. False where there is none.
    pub fn rot(&mut self, key: &Key) -> bool {
        self.table.rot(key)
    }

    /// Makes `key` something that no effect has made it, and that fits its hash.
    pub fn forge(&mut self, key: &Key, record: Option<Record>) {
        self.table.repair(key, record);
    }
}
