//! Rules that a simulation breaks on purpose.
//!
//! A check that has never failed proves nothing. Each [`Mutant`] is a switch that breaks one rule of the protocol, where
//! the code keeps it; the simulator's tests turn each of them and must then find something wrong. In a build without the
//! feature `sim` no switch can be turned: [`is_broken`] is a constant, and the compiler leaves nothing of it.

/// A rule, by what happens when it is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Reads are answered without a lease.
    ReadWithoutLease,
    /// Conditional writes are refused without a lease.
    RefuseWithoutLease,
    /// A lease counts from the moment when its grant arrives, not from when it was asked for.
    LeaseFromArrival,
    /// A node whose death is under way is granted a lease.
    LeaseWhileDying,
    /// A leader that hears no majority declares nodes dead.
    DeathWithoutMajority,
    /// A node whose stream stands still keeps its partitions.
    StalledStreamLives,
    /// A node that gets hardly any processor time stays in the in-sync sets.
    StarvingStays,
    /// A node that falls out again and again comes back at once each time.
    ReturnsAtOnce,
    /// A primary counts without a member that it has proposed to evict.
    EvictedDontCount,
    /// A primary whose own stream may be dead evicts others.
    EvictWithoutProof,
    /// Members that are mute take each other's places without end.
    MuteTakeTurns,
    /// Leadership is handed over while leases run.
    TransferKeepsLeases,
    /// A node is declared dead while its lease runs.
    DeathBeforeLeaseEnds,
    /// A message for an earlier life of this process is acted on.
    AnswerForAnyLife,
    /// A process that restarts takes its old identity.
    OldIdentity,
    /// A majority of blank processes founds a cluster.
    FoundByMajority,
    /// A change of an in-sync set that was made for an older record is applied.
    ApplyStaleChange,
    /// A new life takes over the in-sync places of the one before.
    NewLifeKeepsPlace,
    /// A record stays the same where a learner's next life takes its place.
    NextLifeUnnoticed,
    /// A learner is made primary.
    PromoteLearner,
    /// A write that was handed to a dead node is handed to another.
    WriteTwice,
    /// A page of a listing goes out before every partition was heard.
    PageTooEarly,
    /// A node votes twice in a term.
    TwoVotes,
    /// Whoever promised not to vote votes.
    VoteDespitePromise,
    /// A vote goes to a candidate whose log is behind.
    VoteForShorterLog,
    /// A candidate raises its term without asking first.
    NoPreVote,
    /// A leader that has lost its quorum leads on.
    NoCheckQuorum,
    /// A leader whose stream plane is dead leads on.
    NoStallStepDown,
    /// Half of the voters are a quorum.
    QuorumOfHalf,
    /// Learners count when an entry is committed.
    LearnersCount,
    /// While two memberships hold, the new one decides alone.
    JointBypassed,
    /// A change of members begins before the one before is committed.
    TwoChanges,
    /// A leader changes members before it has committed an entry of its own term.
    ChangeTooEarly,
    /// An entry of an earlier term is committed by counting its copies.
    CommitOldTerm,
    /// A heartbeat's commit index counts past what the follower shares with the leader.
    CommitBeyondMatch,
    /// Entries are appended though the one before them is another one.
    AppendWithoutMatch,
    /// Entries that differ from the leader's are kept.
    KeepConflicting,
    /// A heartbeat that was heard before counts again.
    OldHeartbeatCounts,
    /// Heartbeats to a peer that is let in again in the same term are numbered from the start.
    NumbersRestart,
    /// A write is acknowledged before the copies have it.
    AckBeforeCopies,
    /// A write is acknowledged though fewer copies than configured would hold it.
    FewerCopies,
    /// A write is acknowledged before the learners that count for it have it.
    CountingDontAck,
    /// A new primary serves before its epoch has begun.
    ServeBeforeStart,
    /// Learners that were proposed for the in-sync set don't count before it is decided.
    ProposedDontCount,
    /// A learner is proposed for the in-sync set before its scan has ended.
    ProposeBeforeScanned,
    /// A new primary takes a member's effects for its own by their numbers, whatever epoch they are of.
    MatchByNumber,
    /// A backup appends what its primary sends, whatever it has before that.
    PrepareWithoutMatch,
    /// A member follows the primary of an epoch that is over.
    FollowOldEpoch,
    /// A version is what the clock says, though a higher one was given out.
    VersionByClock,
    /// A stale read shows what isn't committed.
    ReadUncommitted,
    /// Backups keep no ring of committed effects.
    RingAtPrimaryOnly,
    /// A node with viewers takes what comes for what comes next.
    HolesUnnoticed,
    /// A primary says that all below its clock is committed, whatever is under way.
    ClosedByClock,
    /// A new primary doesn't know which writes with an idempotency key were done.
    ForgetOnce,
    /// A learner isn't told which ones were done before.
    LearnerForgetsOnce,
    /// A scanned record replaces whatever the learner has, though the live stream brought something newer.
    ScannedReplacesNewer,
    /// What was deleted while a scan runs is forgotten at once.
    ScanWithoutTombstones,
    /// Who has given a partition back is evicted while a lease from before runs.
    FormerPrimaryEvictedAtOnce,
    /// Who has given a partition back, and doesn't know yet, gets leases that count.
    FormerPrimaryLeased,
    /// Who has given a partition back is dismissed before it is known to have stopped.
    FormerPrimaryDismissed,
    /// A primary that gives a partition back orders writes meanwhile.
    GivingKeepsWrites,
    /// A partition is given to a target primary that doesn't have all of it.
    GiveToLaggard,
    /// A node that stops gives nothing away, and is let go while it leads, though it may have the last copy.
    LetGoWhileLeading,
    /// A node that stops is let go though the others are no majority.
    LetGoWithoutMajority,
    /// A node that was let go gets its roles back as long as it lives.
    StoppingReturns,
    /// A node that is to stop takes it for leave that it was found silent.
    SilentIsLetGo,
    /// A vote is taken away that only those who are about to end could make up for.
    VotesLeftToWhoGoes,
    /// A digest keeps what was deleted.
    DigestKeepsDeleted,
    /// Copies are compared and repaired wherever they are, and not where both have applied the same.
    CompareAnywhere,
    /// A rotten record is handed to a learner as if it were sound.
    ScanUnverified,
    /// A primary doesn't look at its own record before it repairs a backup's.
    RepairUnverified,
    /// A repair goes in when it comes, and not where it belongs.
    RepairOverNewer,
    /// A rotten record is shown though it is known to be rotten.
    ShowRotten,
    /// A node that doesn't lead answers reads from its copy of a partition that another node leads.
    FollowerReads,
    /// A leader answers reads from a copy that isn't in sync.
    LeaderReadsLearner,
    /// A leader answers reads from its backup though an effect on the key isn't known to be committed.
    LeaderReadsPending,
    /// A leader answers from its backup whether a value has run out.
    LeaderReadsExpiring,
    /// A leader tells others what is decided before its own shards can know.
    ToldBeforeShown,
}

#[cfg(feature = "sim")]
mod switch {
    use super::Mutant;
    use std::cell::Cell;

    thread_local! {
        static BROKEN: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    impl Mutant {
        /// Every one of them but those below, with the rule of the protocol (section D of its design) that it breaks, and what it does.
        pub const ALL: [(Self, &'static str, &'static str); 62] = [
            (Self::EvictedDontCount, "D.8", "A primary counts without a member that it has proposed to evict."),
            (Self::EvictWithoutProof, "D.21", "A primary whose own stream may be dead evicts others."),
            (Self::MuteTakeTurns, "C.4", "Members that are mute take each other's places without end."),
            (Self::DeathWithoutMajority, "D.21", "A leader that hears no majority declares nodes dead."),
            (Self::StalledStreamLives, "D.20", "A node whose stream stands still keeps its partitions."),
            (Self::TransferKeepsLeases, "D.16", "Leadership is handed over while leases run."),
            (Self::ReadWithoutLease, "D.14", "Reads are answered without a lease."),
            (
                Self::FollowerReads,
                "D.17",
                "A node that doesn't lead answers reads from its copy of a partition that another node leads.",
            ),
            (Self::LeaderReadsLearner, "D.17", "A leader answers reads from a copy that isn't in sync."),
            (
                Self::LeaderReadsPending,
                "D.17",
                "A leader answers reads from its backup though an effect on the key isn't known to be committed.",
            ),
            (Self::RefuseWithoutLease, "D.17", "Conditional writes are refused without a lease."),
            (
                Self::LeaseFromArrival,
                "D.15",
                "A lease counts from the moment when its grant arrives, not from when it was asked for.",
            ),
            (Self::LeaseWhileDying, "D.14", "A node whose death is under way is granted a lease."),
            (Self::DeathBeforeLeaseEnds, "D.15", "A node is declared dead while its lease runs."),
            (Self::AnswerForAnyLife, "D.3", "A message for an earlier life of this process is acted on."),
            (Self::OldIdentity, "D.13", "A process that restarts takes its old identity."),
            (Self::FoundByMajority, "D.4, D.25", "A majority of blank processes founds a cluster."),
            (
                Self::ApplyStaleChange,
                "D.10",
                "A change of an in-sync set that was made for an older record is applied.",
            ),
            (Self::NewLifeKeepsPlace, "D.6", "A new life takes over the in-sync places of the one before."),
            (Self::PromoteLearner, "D.6", "A learner is made primary."),
            (Self::WriteTwice, "D.17", "A write that was handed to a dead node is handed to another."),
            (Self::PageTooEarly, "D.17", "A page of a listing goes out before every partition was heard."),
            (Self::TwoVotes, "D.1", "A node votes twice in a term."),
            (Self::VoteDespitePromise, "D.15", "Whoever promised not to vote votes."),
            (Self::VoteForShorterLog, "D.2", "A vote goes to a candidate whose log is behind."),
            (Self::NoPreVote, "D.1 (pre-vote)", "A candidate raises its term without asking first."),
            (Self::NoCheckQuorum, "D.1 (check-quorum)", "A leader that has lost its quorum leads on."),
            (Self::NoStallStepDown, "D.20", "A leader whose stream plane is dead leads on."),
            (Self::QuorumOfHalf, "D.1", "Half of the voters are a quorum."),
            (Self::LearnersCount, "D.4", "Learners count when an entry is committed."),
            (Self::JointBypassed, "D.5", "While two memberships hold, the new one decides alone."),
            (Self::TwoChanges, "D.5", "A change of members begins before the one before is committed."),
            (Self::ChangeTooEarly, "D.5", "A leader changes members before it has committed an entry of its own term."),
            (Self::CommitOldTerm, "D.2", "An entry of an earlier term is committed by counting its copies."),
            (
                Self::CommitBeyondMatch,
                "D.19",
                "A heartbeat's commit index counts past what the follower shares with the leader.",
            ),
            (
                Self::AppendWithoutMatch,
                "D.2 (log matching)",
                "Entries are appended though the one before them is another one.",
            ),
            (Self::KeepConflicting, "D.2 (log matching)", "Entries that differ from the leader's are kept."),
            (Self::OldHeartbeatCounts, "D.22", "A heartbeat that was heard before counts again."),
            (
                Self::NumbersRestart,
                "D.22",
                "Heartbeats to a peer that is let in again in the same term are numbered from the start.",
            ),
            (Self::AckBeforeCopies, "D.6", "A write is acknowledged before the copies have it."),
            (Self::FewerCopies, "D.6", "A write is acknowledged though fewer copies than configured would hold it."),
            (Self::CountingDontAck, "D.6", "A write is acknowledged before the learners that count for it have it."),
            (Self::ServeBeforeStart, "D.12", "A new primary serves before its epoch has begun."),
            (
                Self::ProposedDontCount,
                "D.9",
                "Learners that were proposed for the in-sync set don't count before it is decided.",
            ),
            (Self::ProposeBeforeScanned, "D.6", "A learner is proposed for the in-sync set before its scan has ended."),
            (
                Self::MatchByNumber,
                "D.11",
                "A new primary takes a member's effects for its own by their numbers, whatever epoch they are of.",
            ),
            (
                Self::PrepareWithoutMatch,
                "D.11",
                "A backup appends what its primary sends, whatever it has before that.",
            ),
            (Self::FollowOldEpoch, "D.7", "A member follows the primary of an epoch that is over."),
            (Self::VersionByClock, "D.17", "A version is what the clock says, though a higher one was given out."),
            (Self::ForgetOnce, "D.24", "A new primary doesn't know which writes with an idempotency key were done."),
            (Self::LearnerForgetsOnce, "D.24", "A learner isn't told which ones were done before."),
            (
                Self::ScannedReplacesNewer,
                "C.6",
                "A scanned record replaces whatever the learner has, though the live stream brought something newer.",
            ),
            (Self::ScanWithoutTombstones, "C.6", "What was deleted while a scan runs is forgotten at once."),
            (Self::ReadUncommitted, "D.18", "A stale read shows what isn't committed."),
            (
                Self::FormerPrimaryLeased,
                "D.14",
                "Who has given a partition back, and doesn't know yet, gets leases that count.",
            ),
            (Self::GiveToLaggard, "D.6", "A partition is given to a target primary that doesn't have all of it."),
            (
                Self::LetGoWhileLeading,
                "C.8",
                "A node that stops gives nothing away, and is let go while it leads, though it may have the last copy.",
            ),
            (Self::DigestKeepsDeleted, "C.12", "A digest keeps what was deleted."),
            (
                Self::CompareAnywhere,
                "C.12",
                "Copies are compared and repaired wherever they are, and not where both have applied the same.",
            ),
            (Self::RingAtPrimaryOnly, "C.16", "Backups keep no ring of committed effects."),
            (Self::HolesUnnoticed, "C.16", "A node with viewers takes what comes for what comes next."),
            (
                Self::ClosedByClock,
                "C.16",
                "A primary says that all below its clock is committed, whatever is under way.",
            ),
        ];

        /// Those that only `tests/targets.rs` notices: two take a lease that is longer than a member's patience, or a change of
        /// the roster at the right moment, and of the third clients are told `unknown`, as they are in most seeds.
        pub const OF_TARGETS: [(Self, &'static str); 3] = [
            (
                Self::FormerPrimaryEvictedAtOnce,
                "Who has given a partition back is evicted while a lease from before runs.",
            ),
            (
                Self::FormerPrimaryDismissed,
                "Who has given a partition back is dismissed before it is known to have stopped.",
            ),
            (Self::GivingKeepsWrites, "A primary that gives a partition back orders writes meanwhile."),
        ];

        /// Those of reads at the leader that the simulator can't see: one takes two clocks that are read in the same moment, and of
        /// the other nothing is left where a node's parts are told one after the other in no time. The first is noticed in
        /// `src/replica/tests/reads.rs`, the second in `tests/authentication/cores.rs`.
        pub const OF_LEADER_READS: [(Self, &'static str); 2] = [
            (Self::LeaderReadsExpiring, "A leader answers from its backup whether a value has run out."),
            (Self::ToldBeforeShown, "A leader tells others what is decided before its own shards can know."),
        ];

        /// Those that `tests/timing.rs` notices: nothing goes wrong, it is only slow.
        pub const OF_TIMING: [(Self, &'static str); 2] = [
            (Self::StarvingStays, "A node that gets hardly any processor time stays in the in-sync sets."),
            (Self::ReturnsAtOnce, "A node that falls out again and again comes back at once each time."),
        ];

        /// Those of nodes that stop which only `tests/stopping.rs` notices: nothing is wrong afterwards, but nobody leads, or a
        /// process that ends is missed once more.
        pub const OF_STOPPING: [(Self, &'static str); 4] = [
            (Self::LetGoWithoutMajority, "A node that stops is let go though the others are no majority."),
            (Self::StoppingReturns, "A node that was let go gets its roles back as long as it lives."),
            (Self::SilentIsLetGo, "A node that is to stop takes it for leave that it was found silent."),
            (Self::VotesLeftToWhoGoes, "A vote is taken away that only those who are about to end could make up for."),
        ];

        /// That which `src/control/state/tests.rs` notices: it takes a life that ends while the wish to count it is under way, and
        /// another that is registered before anybody declares the first one down.
        pub const OF_LIVES: [(Self, &'static str); 1] =
            [(Self::NextLifeUnnoticed, "A record stays the same where a learner's next life takes its place.")];

        /// Those of the feed (rule C.16), which `tests/feed.rs` breaks, too: all its clusters have viewers that resume.
        pub const OF_FEED: [Self; 3] = [Self::RingAtPrimaryOnly, Self::HolesUnnoticed, Self::ClosedByClock];

        /// More of anti-entropy (rule C.12), which `src/replica/tests/verify.rs` breaks: a copy has to go bad in a particular
        /// moment for them to be seen.
        pub const OF_ANTI_ENTROPY: [(Self, &'static str); 4] = [
            (Self::ScanUnverified, "A rotten record is handed to a learner as if it were sound."),
            (Self::RepairUnverified, "A primary doesn't look at its own record before it repairs a backup's."),
            (Self::RepairOverNewer, "A repair goes in when it comes, and not where it belongs."),
            (Self::ShowRotten, "A rotten record is shown though it is known to be rotten."),
        ];
    }

    /// Runs `act` with one rule broken, on this thread alone.
    pub fn with_broken<T>(mutant: Mutant, act: impl FnOnce() -> T) -> T {
        /// Mends the rule even where `act` panics.
        struct Mend;
        impl Drop for Mend {
            fn drop(&mut self) {
                BROKEN.set(None);
            }
        }
        let _mend = Mend;
        BROKEN.set(Some(mutant));
        act()
    }

    /// Whether this rule is to be broken.
    #[must_use]
    pub fn is_broken(mutant: Mutant) -> bool {
        BROKEN.get() == Some(mutant)
    }
}

#[cfg(feature = "sim")]
pub use switch::{is_broken, with_broken};

/// Whether this rule is to be broken: not in this build.
#[cfg(not(feature = "sim"))]
#[must_use]
pub const fn is_broken(_: Mutant) -> bool {
    false
}
