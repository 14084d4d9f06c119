//! Whether a history of one key is linearizable: there is an order of its operations that respects which ended before
//! which began, and in which each was answered as a single register would have answered.
//!
//! Wing and Gong's search ("Testing and Verifying Concurrent Objects", 1993) with Lowe's memory of what was visited
//! ("Testing for linearizability", 2017): a set of operations done and the value that they leave decide everything that
//! can follow, so no such pair is tried twice. An operation whose outcome nobody was told may take effect at any time
//! after it began, or never.

use std::collections::BTreeSet;

/// Pairs that are looked at before the search gives up. A key with a hundred operations takes some hundreds.
const CONFIGURATIONS_MAX: usize = 200_000;

/// A value that somebody tried to write: each is written once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Value(pub(super) u32);

/// What an operation does to a register, and what that told its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// It found this, or nothing.
    Found(Option<Value>),
    /// It found something, of which nothing else is known.
    FoundSome,
    /// It writes this, whatever was there.
    Write(Value),
    /// It writes this where there was nothing.
    Create(Value),
    /// It writes this in the place of that.
    Replace {
        /// What must be there.
        expected: Value,
        /// What is there then.
        value: Value,
    },
    /// It deletes what is there; something was.
    Delete,
    /// It deletes this.
    Remove(Value),
}

/// One operation. Moments are places in the order of all beginnings and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// When it began.
    pub(super) began: u32,
    /// When it ended; none where its outcome is not known.
    pub(super) ended: Option<u32>,
    /// What it did, if it did.
    pub(super) act: Act,
}

/// What the search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// There is an order.
    Linearizable,
    /// There is none. So many operations could be put in order at most.
    Broken(usize),
    /// It would take too long to tell.
    Undecided,
}

impl Act {
    /// What a register that holds `state` holds afterwards; none where it would have answered otherwise.
    fn apply(self, state: Option<Value>) -> Option<Option<Value>> {
        match self {
            Self::Found(found) => (state == found).then_some(state),
            Self::FoundSome => state.is_some().then_some(state),
            Self::Write(value) => Some(Some(value)),
            Self::Create(value) => state.is_none().then_some(Some(value)),
            Self::Replace { expected, value } => (state == Some(expected)).then_some(Some(value)),
            Self::Delete => state.is_some().then_some(None),
            Self::Remove(value) => (state == Some(value)).then_some(None),
        }
    }
}

/// Judges the calls of one key, which held nothing before the first.
pub(super) fn judge(calls: &[Call]) -> Verdict {
    let mut calls = calls.to_vec();
    calls.sort_unstable_by_key(|call| call.began);
    let required = calls.iter().filter(|call| call.ended.is_some()).count();
    let mut search = Search { calls: &calls, seen: BTreeSet::new(), stack: Vec::new(), furthest: 0 };
    search.push(Configuration { done: vec![0; calls.len().div_ceil(64)], state: None, required_done: 0 });
    while let Some(configuration) = search.stack.pop() {
        if configuration.required_done == required {
            return Verdict::Linearizable;
        }
        if search.seen.len() > CONFIGURATIONS_MAX {
            return Verdict::Undecided;
        }
        search.expand(&configuration);
    }
    Verdict::Broken(search.furthest)
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Configuration {
    /// Which calls are done, a bit each.
    done: Vec<u64>,
    state: Option<Value>,
    required_done: usize,
}

struct Search<'a> {
    calls: &'a [Call],
    seen: BTreeSet<Configuration>,
    stack: Vec<Configuration>,
    furthest: usize,
}

impl Search<'_> {
    fn push(&mut self, configuration: Configuration) {
        self.furthest = self.furthest.max(configuration.required_done);
        if self.seen.insert(configuration.clone()) {
            self.stack.push(configuration);
        }
    }

    /// Tries every call that may come next: those that began before any that isn't done has ended.
    fn expand(&mut self, from: &Configuration) {
        let is_done = |call: usize| from.done[call / 64] & (1 << (call % 64)) != 0;
        let mut first_end = u32::MAX;
        let mut candidates = Vec::new();
        for (index, call) in self.calls.iter().enumerate().filter(|(index, _)| !is_done(*index)) {
            if call.began > first_end {
                break;
            }
            first_end = first_end.min(call.ended.unwrap_or(u32::MAX));
            candidates.push(index);
        }
        candidates.retain(|index| self.calls[*index].began < first_end);
        // The last one pushed is tried first: those of whose outcome nothing is known come last.
        candidates.sort_by_key(|index| (self.calls[*index].ended.is_some(), std::cmp::Reverse(*index)));
        for index in candidates {
            let call = self.calls[index];
            if let Some(state) = call.act.apply(from.state) {
                let mut next = Configuration { state, ..from.clone() };
                next.done[index / 64] |= 1 << (index % 64);
                next.required_done += usize::from(call.ended.is_some());
                self.push(next);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(began: u32, ended: u32, act: Act) -> Call {
        Call { began, ended: Some(ended), act }
    }

    const A: Value = Value(1);
    const B: Value = Value(2);

    #[test]
    fn operations_that_overlap_may_come_in_either_order() {
        let overlapping = [call(0, 5, Act::Write(A)), call(1, 4, Act::Write(B)), call(6, 7, Act::Found(Some(A)))];
        assert_eq!(judge(&overlapping), Verdict::Linearizable);
        let in_order = [call(0, 1, Act::Write(A)), call(2, 3, Act::Write(B)), call(4, 5, Act::Found(Some(A)))];
        assert_eq!(judge(&in_order), Verdict::Broken(2), "the later write was read over");
    }

    #[test]
    fn what_two_readers_saw_must_fit_one_order() {
        let base = [call(0, 1, Act::Write(A)), call(2, 9, Act::Write(B))];
        let with = |reads: [Call; 2]| judge(&[base.as_slice(), reads.as_slice()].concat());
        assert_eq!(with([call(3, 4, Act::Found(Some(A))), call(5, 6, Act::Found(Some(B)))]), Verdict::Linearizable);
        assert_ne!(with([call(3, 4, Act::Found(Some(B))), call(5, 6, Act::Found(Some(A)))]), Verdict::Linearizable);
    }

    #[test]
    fn an_unknown_outcome_may_have_happened_late_or_never() {
        let unknown = Call { began: 2, ended: None, act: Act::Write(B) };
        let base = [call(0, 1, Act::Write(A)), unknown];
        let with = |reads: &[Call]| judge(&[base.as_slice(), reads].concat());
        assert_eq!(with(&[call(5, 6, Act::Found(Some(A)))]), Verdict::Linearizable);
        assert_eq!(with(&[call(5, 6, Act::Found(Some(A))), call(7, 8, Act::Found(Some(B)))]), Verdict::Linearizable);
        let back = [call(5, 6, Act::Found(Some(B))), call(7, 8, Act::Found(Some(A)))];
        assert_eq!(with(&back), Verdict::Broken(2));
    }

    #[test]
    fn conditions_are_judged_by_what_was_there() {
        let base = [call(0, 1, Act::Create(A)), call(2, 3, Act::Replace { expected: A, value: B })];
        let with = |act| judge(&[base.as_slice(), &[call(4, 5, act)]].concat());
        for holds in [Act::FoundSome, Act::Delete, Act::Remove(B), Act::Found(Some(B))] {
            assert_eq!(with(holds), Verdict::Linearizable, "{holds:?}");
        }
        for fails in [Act::Create(Value(3)), Act::Remove(A), Act::Found(None), Act::Replace { expected: A, value: A }] {
            assert_eq!(with(fails), Verdict::Broken(2), "{fails:?}");
        }
    }

    #[test]
    fn two_writers_that_both_replaced_the_same_are_found() {
        let replace = |began, value| call(began, 9, Act::Replace { expected: A, value });
        assert_ne!(judge(&[call(0, 1, Act::Write(A)), replace(2, B), replace(3, Value(3))]), Verdict::Linearizable);
    }
}
