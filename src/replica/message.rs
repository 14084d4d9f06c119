//! What replicas of one partition tell each other.

use std::time::Duration;

use bincode::{Decode, Encode};

use crate::api::{ContentType, Key};
use crate::base::{Blob, ChangeNumber, Epoch, Instant, Position, Seq, Version};
use crate::store::{Aged, BucketSet, Buckets, Digest, Effect, Record, RecordHash, Stored};

/// Which filling of a learner is meant. A primary counts them up, so an answer to an earlier attempt can't be taken for
/// one to the present attempt. 0 is a member that was in sync when the epoch began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct AttachId(pub u64);

/// A message between the replicas of one partition. The partition's number travels beside it, and the carrier drops what
/// was meant for another incarnation.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Message {
    /// Primary to an in-sync member: my epoch has begun; fence all earlier ones.
    NewEpoch {
        /// Which.
        epoch: Epoch,
        /// The record that the primary acts on.
        change: ChangeNumber,
    },
    /// The member has fenced, and this is what it has.
    NewEpochAck {
        /// The new epoch.
        epoch: Epoch,
        /// Its last applied effect.
        applied: Position,
        /// Its tail after that: each epoch with the last sequence number that it ordered, rising.
        runs: Vec<Position>,
    },
    /// Primary to a member: append these.
    Prepare {
        /// The primary's epoch.
        epoch: Epoch,
        /// The effect before the first of these. A receiver that has another one there accepts nothing.
        previous: Position,
        /// Everything up to here is committed.
        commit: Seq,
        /// The effects, each with the epoch that ordered it.
        effects: Vec<(Epoch, Effect)>,
    },
    /// The member holds everything up to `seq`, as the primary of this epoch has it.
    Ack {
        /// The primary's epoch.
        epoch: Epoch,
        /// Under which filling.
        attach: AttachId,
        /// Up to here.
        seq: Seq,
        /// What the member knows to be committed.
        commit: Seq,
    },
    /// The member can't append: it has fenced the sender's epoch, or effects before these are missing.
    Reject {
        /// The member's epoch. Higher than the sender's: the sender is no longer primary.
        epoch: Epoch,
        /// Under which filling.
        attach: AttachId,
        /// It holds everything up to here; the primary goes on behind.
        seq: Seq,
    },
    /// Primary to a member: everything up to `seq` is committed. Sent only where no Prepare follows soon.
    Commit {
        /// The primary's epoch.
        epoch: Epoch,
        /// Up to here.
        seq: Seq,
    },
    /// Primary to a learner: forget what you have; the live stream and a scan of the table begin here. Sent again under the
    /// same number where the record has changed: does the filling still stand?
    AttachLearner {
        /// The primary's epoch.
        epoch: Epoch,
        /// The record that the primary acts on.
        change: ChangeNumber,
        /// The number of this filling.
        attach: AttachId,
        /// The live stream begins after this, the last effect that the scanned table surely contains.
        previous: Position,
        /// The highest version so far. Scanned records alone wouldn't tell it, as deletes have versions too.
        version_max: Version,
    },
    /// Primary to a learner: the records after `after`, in the order of their keys.
    ScanChunk {
        /// The primary's epoch.
        epoch: Epoch,
        /// The number of this filling.
        attach: AttachId,
        /// The key before the first of these: what the learner has reached.
        after: Option<Key>,
        /// The records.
        records: Vec<ScannedRecord>,
        /// Nothing comes after these.
        last: bool,
        /// With the last ones: which writes with an idempotency key were done lately.
        recent: Vec<Aged>,
    },
    /// The filling stands, and so far the learner has come with the scan.
    ScanAck {
        /// The primary's epoch.
        epoch: Epoch,
        /// The number of this filling.
        attach: AttachId,
        /// The newest change of the record that the learner has heard of. No record up to this one can make it drop the
        /// filling any more.
        heard: ChangeNumber,
        /// The last key that it has reached.
        after: Option<Key>,
        /// It has seen the end.
        done: bool,
    },
    /// The learner holds nothing of this filling any more: a record that the primary hasn't seen had it leave meanwhile.
    Detached {
        /// The primary's epoch.
        epoch: Epoch,
        /// The number of the filling that came to nothing.
        attach: AttachId,
    },
    /// Primary to a backup: this is what my table was once `seq` was applied.
    Check {
        /// The primary's epoch.
        epoch: Epoch,
        /// To be looked at when exactly this is applied.
        seq: Seq,
        /// What it is.
        check: Box<Check>,
    },
    /// The backup has looked.
    Finding {
        /// The primary's epoch.
        epoch: Epoch,
        /// What it has found.
        finding: Box<Finding>,
    },
    /// My record of this key and version is rotten: send me yours.
    Fetch {
        /// The epoch that both act in.
        epoch: Epoch,
        /// Whose record.
        key: Key,
        /// Which one.
        version: Version,
    },
    /// Here it is.
    Fetched {
        /// The epoch that both act in.
        epoch: Epoch,
        /// The record.
        record: Box<ScannedRecord>,
    },
}

/// What a primary says of its table, so that a backup can compare it with its own.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Check {
    /// What all of it comes to.
    Digest(Digest),
    /// What its buckets come to.
    Buckets(Box<Buckets>),
    /// Its keys.
    Keys {
        /// Only of these buckets.
        buckets: BucketSet,
        /// Only those after this one.
        after: Option<Key>,
        /// And up to this one; to the end without.
        through: Option<Key>,
        /// All of these, in order.
        entries: Vec<Fingerprint>,
    },
    /// Records that the backup is to have.
    Records {
        /// From these buckets.
        buckets: BucketSet,
        /// What comes after this key is still to be compared; nothing without.
        reached: Option<Key>,
        /// Keys that differed, each with its record if it has one.
        records: Vec<(Key, Option<ScannedRecord>)>,
    },
}

/// What a backup has found.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Finding {
    /// The tables differ.
    Differs,
    /// They differ in these buckets.
    Buckets(BucketSet),
    /// They differ in the records of these keys.
    Keys {
        /// From these buckets.
        buckets: BucketSet,
        /// The keys, in order.
        keys: Vec<Key>,
        /// What comes after this key is still to be compared; nothing without.
        reached: Option<Key>,
    },
    /// There is no difference any more up to this key.
    Done {
        /// In these buckets.
        buckets: BucketSet,
        /// What comes after this key is still to be compared; nothing without.
        reached: Option<Key>,
    },
}

impl Finding {
    /// Whether nothing is left to be asked.
    #[must_use]
    pub const fn is_end(&self) -> bool {
        matches!(self, Self::Buckets(BucketSet(0)) | Self::Done { reached: None, .. })
    }
}

/// What is compared of a record.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Fingerprint {
    /// Its key.
    pub key: Key,
    /// Its version.
    pub version: Version,
    /// The hash that it is stored with.
    pub hash: RecordHash,
}

impl Message {
    /// Whether whoever is well answers it at once.
    #[must_use]
    pub const fn asks(&self) -> bool {
        matches!(
            self,
            Self::NewEpoch { .. } | Self::Prepare { .. } | Self::AttachLearner { .. } | Self::ScanChunk { .. }
        )
    }

    /// Whether it is said by a member to its primary, as an answer to what that has sent.
    #[must_use]
    pub const fn is_answer(&self) -> bool {
        matches!(
            self,
            Self::NewEpochAck { .. }
                | Self::Ack { .. }
                | Self::Reject { .. }
                | Self::ScanAck { .. }
                | Self::Detached { .. }
                | Self::Finding { .. }
        )
    }

    /// How much of a table it brings to a learner, in bytes.
    #[must_use]
    pub fn filling_bytes(&self) -> u64 {
        let Self::ScanChunk { records, .. } = self else { return 0 };
        let bytes = |record: &ScannedRecord| record.key.as_bytes().len() + record.value.len();
        records.iter().map(|record| (bytes(record) + size_of::<ScannedRecord>()) as u64).sum()
    }

    /// The epoch that the sender acts in.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        match self {
            Self::NewEpoch { epoch, .. }
            | Self::NewEpochAck { epoch, .. }
            | Self::Prepare { epoch, .. }
            | Self::Ack { epoch, .. }
            | Self::Reject { epoch, .. }
            | Self::Commit { epoch, .. }
            | Self::AttachLearner { epoch, .. }
            | Self::ScanChunk { epoch, .. }
            | Self::ScanAck { epoch, .. }
            | Self::Detached { epoch, .. }
            | Self::Check { epoch, .. }
            | Self::Finding { epoch, .. }
            | Self::Fetch { epoch, .. }
            | Self::Fetched { epoch, .. } => *epoch,
        }
    }
}

/// One record of a scan.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ScannedRecord {
    /// Its key.
    pub key: Key,
    /// Its bytes.
    pub value: Blob,
    /// Its content type.
    pub content_type: Option<ContentType>,
    /// Its version.
    pub version: Version,
    /// Milliseconds that it had left when it was read; for ever without.
    pub ttl_ms: Option<u64>,
    /// The hash that it was stored with.
    pub hash: RecordHash,
}

impl ScannedRecord {
    /// A stored record, with the hash that it was put in with, as it is sent `now`.
    #[must_use]
    pub fn of(now: Instant, stored: &Stored) -> Self {
        Self {
            key: stored.key(),
            value: stored.to_blob(),
            content_type: stored.content_type(),
            version: stored.version(),
            ttl_ms: stored.ttl_ms(now),
            hash: stored.hash(),
        }
    }

    /// What it is for whoever takes it `now`.
    #[must_use]
    pub fn to_record(&self, now: Instant) -> Record {
        Record {
            value: self.value.clone(),
            content_type: self.content_type.clone(),
            version: self.version,
            expires_at: self.ttl_ms.map(|left| now + Duration::from_millis(left)),
        }
    }
}
