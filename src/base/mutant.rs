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
    /// A leader out of contact with its quorum goes on granting leases.
    LeaseOutlivesContact,
    /// A node whose death is under way is granted a lease.
    LeaseWhileDying,
    /// A node that is to resign what it leads is granted a lease.
    LeaseWhileResigning,
    /// A leader that hears no majority declares nodes dead.
    DeathWithoutMajority,
    /// A node whose stream stands still keeps its partitions.
    StalledStreamLives,
    /// Leadership is handed over while leases run.
    TransferKeepsLeases,
    /// A lease counts for a node that hasn't applied the entry which gave it its roles.
    LeaseBeforeRoles,
    /// A node is declared dead while its lease runs.
    DeathBeforeLeaseEnds,
    /// A message for an earlier life of this process is acted on.
    AnswerForAnyLife,
    /// A majority of blank processes founds a cluster.
    FoundByMajority,
    /// A change of an in-sync set that was made for an older record is applied.
    ApplyStaleChange,
    /// A learner is made primary.
    PromoteLearner,
    /// A write that was handed to a dead node is handed to another.
    WriteTwice,
    /// A page of a listing goes out before every partition was heard.
    PageTooEarly,
    /// Whoever promised not to vote votes.
    VoteDespitePromise,
    /// A vote goes to a candidate whose log is behind.
    VoteForShorterLog,
    /// Half of the voters are a quorum.
    QuorumOfHalf,
    /// A write is acknowledged before the copies have it.
    AckBeforeCopies,
    /// A new primary serves before its epoch has begun.
    ServeBeforeStart,
    /// Learners that were proposed for the in-sync set don't count before it is decided.
    ProposedDontCount,
    /// A learner is proposed for the in-sync set before its scan has ended.
    ProposeBeforeScanned,
    /// A new primary takes a member's effects for its own by their numbers, whatever epoch they are of.
    MatchByNumber,
    /// A scanned record replaces a newer one, and what was deleted meanwhile comes back.
    ScanBringsBack,
    /// A member follows the primary of an epoch that is over.
    FollowOldEpoch,
}

#[cfg(feature = "sim")]
mod switch {
    use super::Mutant;
    use std::cell::Cell;

    thread_local! {
        static BROKEN: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    impl Mutant {
        /// Every one of them.
        pub const ALL: [Self; 26] = [
            Self::DeathWithoutMajority,
            Self::StalledStreamLives,
            Self::LeaseWhileResigning,
            Self::TransferKeepsLeases,
            Self::ReadWithoutLease,
            Self::RefuseWithoutLease,
            Self::LeaseOutlivesContact,
            Self::LeaseWhileDying,
            Self::LeaseBeforeRoles,
            Self::DeathBeforeLeaseEnds,
            Self::AnswerForAnyLife,
            Self::FoundByMajority,
            Self::ApplyStaleChange,
            Self::PromoteLearner,
            Self::WriteTwice,
            Self::PageTooEarly,
            Self::VoteDespitePromise,
            Self::VoteForShorterLog,
            Self::QuorumOfHalf,
            Self::AckBeforeCopies,
            Self::ServeBeforeStart,
            Self::ProposedDontCount,
            Self::ProposeBeforeScanned,
            Self::MatchByNumber,
            Self::ScanBringsBack,
            Self::FollowOldEpoch,
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
