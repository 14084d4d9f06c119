//! What clients were told of one key, and whether all of it can be true.
//!
//! Every write that took effect has a version, and the versions of a key rise strictly in the order of its effects. So a
//! history can be judged as it grows, without a search: an operation that begins after another has ended must not see, or
//! be given, an older version; a version never has two values, nor a value two versions; nothing takes effect between a
//! version and the write that was to replace just that one; what was refused never appears. All of it is necessary for
//! linearizability, and found at the very operation that breaks it. In the end the same operations are given to the search
//! of `linear`, which is sufficient too.

use std::collections::{BTreeMap, BTreeSet};

use super::linear::{self, Act, Call, Verdict};
use crate::api::{Done, Error, Outcome, Response};
use crate::base::{Blob, Instant, Version};

/// What a client asked of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// What it holds.
    Read,
    /// What it holds, or held.
    ReadStale,
    /// To hold this, whatever it held.
    Put(Blob),
    /// To hold this, if it held nothing.
    Create(Blob),
    /// To hold this, if it held what has this version.
    Replace(Blob, Version),
    /// To hold nothing.
    Delete,
    /// To hold nothing, if it held what has this version.
    Remove(Version),
}

/// A question, and what was known when it was asked.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) asked: Asked,
    /// The newest version that an ended operation had shown to be in effect.
    pub(super) floor: Version,
    pub(super) began_at: Instant,
    /// The place of its beginning in the order of all beginnings and ends.
    moment: u32,
}

impl Question {
    /// A read before anything was known.
    pub(super) const fn about_nothing() -> Self {
        Self { asked: Asked::Read, floor: Version::ZERO, began_at: Instant::ZERO, moment: 0 }
    }
}

/// An operation that ended, or whose client was told nothing.
#[derive(Debug)]
struct Told {
    asked: Asked,
    began: u32,
    ended: u32,
    what: What,
}

#[derive(Debug)]
enum What {
    Found(Option<Blob>),
    /// A condition failed because of this version; none: because there was nothing.
    RefusedBy(Option<Version>),
    Done,
    Nothing,
}

/// What is known of one key.
#[derive(Debug, Default)]
pub(super) struct History {
    newest: Version,
    /// Which value each version has; none is a delete.
    values: BTreeMap<Version, Option<Blob>>,
    versions: BTreeMap<Blob, Version>,
    /// Values that somebody tried to write, and those of them that were refused for certain.
    tried: BTreeSet<Blob>,
    refused: BTreeSet<Blob>,
    /// A version, and that of the write that replaced it and no other.
    replaced: Vec<(Version, Version)>,
    /// A delete ended without a word: it may take effect at any time.
    has_unknown_delete: bool,
    /// Deletes under way, and when the last one ended.
    deletes_open: usize,
    delete_ended_at: Instant,
    /// Values go away by themselves.
    expires: bool,
    told: Vec<Told>,
}

impl Asked {
    /// The value that it would leave, and whether it would leave none; neither for a read.
    const fn leaves(&self) -> (Option<&Blob>, bool) {
        match self {
            Self::Put(value) | Self::Create(value) | Self::Replace(value, _) => (Some(value), false),
            Self::Delete | Self::Remove(_) => (None, true),
            Self::Read | Self::ReadStale => (None, false),
        }
    }
}

impl History {
    /// Of a key whose values expire, or don't.
    pub(super) fn new(expires: bool) -> Self {
        Self { expires, ..Self::default() }
    }

    /// The newest version that is known to be in effect.
    pub(super) const fn newest(&self) -> Version {
        self.newest
    }

    /// Whether that version is a value, not a delete.
    pub(super) fn newest_is_value(&self) -> bool {
        self.values.get(&self.newest).is_some_and(Option::is_some)
    }

    /// Somebody asks this.
    pub(super) fn begin(&mut self, asked: Asked, now: Instant, moment: u32) -> Question {
        let (value, deletes) = asked.leaves();
        self.tried.extend(value.cloned());
        self.deletes_open += usize::from(deletes);
        Question { asked, floor: self.newest, began_at: now, moment }
    }

    /// And is answered. In words, where that can't be.
    pub(super) fn end(
        &mut self,
        (now, moment): (Instant, u32),
        question: &Question,
        result: &Result<Response, Error>,
    ) -> Result<(), String> {
        self.keep(question, moment, result);
        let (value, deletes) = question.asked.leaves();
        if deletes {
            self.deletes_open -= 1;
            self.delete_ended_at = now;
        }
        match result {
            Ok(response) => self.judge(question, response),
            Err(error) => {
                match error.outcome() {
                    Outcome::Unknown => self.has_unknown_delete |= deletes,
                    Outcome::Definite => self.refuse(value)?,
                }
                self.judge_refusal(question, error)
            }
        }
    }

    fn judge(&mut self, question: &Question, response: &Response) -> Result<(), String> {
        let floor = question.floor;
        match (&question.asked, response) {
            // Without a quorum: what somebody wrote at some time, and was not refused.
            (Asked::Read | Asked::ReadStale, Response::Value(value)) if value.degraded => {
                let is_written = self.tried.contains(&value.bytes) && !self.refused.contains(&value.bytes);
                is_written.then_some(()).ok_or_else(|| format!("a degraded read shows {:?}", value.bytes))
            }
            (Asked::Read | Asked::ReadStale, Response::NotFoundDegraded) => Ok(()),
            (Asked::Read, Response::Value(value)) if value.stale => {
                Err("a read that must be fresh was answered by a stale one".to_owned())
            }
            (Asked::Read, Response::Value(value)) => self.judge_seen(question, value.version, &value.bytes),
            // Any version that was ever in effect.
            (Asked::ReadStale, Response::Value(value)) => self.note(value.version, Some(&value.bytes)),
            (Asked::ReadStale, Response::NotFound) => Ok(()),
            (Asked::Read | Asked::Delete, Response::NotFound) => self.judge_absent(question),
            (
                Asked::Put(value) | Asked::Create(value) | Asked::Replace(value, _),
                Response::Written { version, .. }
                | Response::Replayed { version, done: Done::Created | Done::Replaced, .. },
            ) => {
                if *version <= floor {
                    return Err(format!("written as {version}, though {floor} was known"));
                }
                match &question.asked {
                    Asked::Replace(_, expected) => self.replace(*expected, *version)?,
                    Asked::Create(_) => self.judge_created(question, *version)?,
                    _ => {}
                }
                self.note(*version, Some(value))
            }
            (
                Asked::Delete | Asked::Remove(_),
                Response::Deleted { version, .. } | Response::Replayed { version, done: Done::Deleted, .. },
            ) => {
                if *version <= floor {
                    return Err(format!("deleted as {version}, though {floor} was known"));
                }
                if let Asked::Remove(expected) = question.asked {
                    self.replace(expected, *version)?;
                }
                self.note(*version, None)
            }
            (asked, response) => Err(format!("{asked:?} was answered by {response:?}")),
        }
    }

    /// A refusal tells what the key holds, as a read does.
    fn judge_refusal(&mut self, question: &Question, error: &Error) -> Result<(), String> {
        let current = match error {
            Error::Exists { current } => Some(*current),
            Error::PreconditionFailed { current } => *current,
            _ => return Ok(()),
        };
        let Some(current) = current else { return self.judge_absent(question) };
        let expected = match question.asked {
            Asked::Replace(_, expected) | Asked::Remove(expected) => Some(expected),
            _ => None,
        };
        if expected == Some(current) {
            return Err(format!("{:?} was refused because of {current}", question.asked));
        }
        if current < question.floor {
            return Err(format!("refused because of {current}, though {} was known", question.floor));
        }
        match self.values.get(&current) {
            Some(None) => Err(format!("refused because of {current}, which is a delete")),
            _ => Ok(()),
        }
    }

    /// Somebody who asked then was shown this.
    pub(super) fn judge_seen(&mut self, question: &Question, version: Version, value: &Blob) -> Result<(), String> {
        if version < question.floor {
            return Err(format!("read version {version} after {} was known", question.floor));
        }
        self.note(version, Some(value))
    }

    /// Somebody who asked then was told that there is nothing: there must be a delete that may have come after what was
    /// known.
    pub(super) fn judge_absent(&self, question: &Question) -> Result<(), String> {
        let stands = self.values.get(&question.floor).is_some_and(Option::is_some);
        if stands && !self.may_be_deleted_after(question.floor, question.began_at) {
            return Err(format!("nothing found, though version {} was acknowledged", question.floor));
        }
        Ok(())
    }

    /// A create took effect, so there was nothing before it.
    fn judge_created(&self, question: &Question, version: Version) -> Result<(), String> {
        let before = self.values.range(..version).next_back();
        match before {
            Some((before, Some(_))) if !self.may_be_deleted_after(*before, question.began_at) => {
                Err(format!("created as {version}, though {before} was there"))
            }
            _ => Ok(()),
        }
    }

    fn may_be_deleted_after(&self, version: Version, began_at: Instant) -> bool {
        self.expires
            || self.has_unknown_delete
            || self.deletes_open > 0
            || self.delete_ended_at >= began_at
            || self.values.range(version..).any(|(_, value)| value.is_none())
    }

    /// Nothing takes effect between these two.
    fn replace(&mut self, expected: Version, version: Version) -> Result<(), String> {
        self.replaced.push((expected, version));
        match self.values.keys().find(|between| expected < **between && **between < version) {
            Some(between) => Err(format!("{version} replaced {expected}, though {between} came between")),
            None => Ok(()),
        }
    }

    /// Keeps what the search for an order needs.
    fn keep(&mut self, question: &Question, moment: u32, result: &Result<Response, Error>) {
        let what = match result {
            Ok(Response::Value(value)) if value.degraded => return,
            Ok(Response::Value(value)) => What::Found(Some(value.bytes.clone())),
            Ok(Response::NotFound) => What::Found(None),
            Ok(Response::Written { .. } | Response::Deleted { .. } | Response::Replayed { .. }) => What::Done,
            Err(Error::Exists { current }) => What::RefusedBy(Some(*current)),
            Err(Error::PreconditionFailed { current }) => What::RefusedBy(*current),
            Err(error) if error.outcome() == Outcome::Unknown => What::Nothing,
            Ok(Response::Page(_) | Response::NotFoundDegraded) | Err(_) => return,
        };
        let is_read = matches!(question.asked, Asked::Read | Asked::ReadStale);
        let is_judged = question.asked != Asked::ReadStale && !(is_read && matches!(what, What::Nothing));
        if !self.expires && is_judged {
            self.told.push(Told { asked: question.asked.clone(), began: question.moment, ended: moment, what });
        }
    }

    /// Whether there is an order of the operations that explains all that was told, and how many they are.
    pub(super) fn judge_order(&self) -> (Verdict, usize) {
        let mut values: BTreeMap<&Blob, linear::Value> = BTreeMap::new();
        for value in &self.tried {
            let next = linear::Value(values.len() as u32);
            values.entry(value).or_insert(next);
        }
        let value = |blob: &Blob| values.get(blob).copied().unwrap_or(linear::Value(u32::MAX));
        let of_version = |version: &Version| self.values.get(version).and_then(Option::as_ref).map(value);
        let calls: Vec<Call> = self
            .told
            .iter()
            .map(|told| {
                let act = match (&told.what, &told.asked) {
                    (What::Found(found), _) => Act::Found(found.as_ref().map(value)),
                    (What::RefusedBy(None), _) => Act::Found(None),
                    (What::RefusedBy(Some(version)), _) => {
                        of_version(version).map_or(Act::FoundSome, |found| Act::Found(Some(found)))
                    }
                    (_, Asked::Put(blob)) => Act::Write(value(blob)),
                    (_, Asked::Create(blob)) => Act::Create(value(blob)),
                    (_, Asked::Replace(blob, expected)) => Act::Replace {
                        expected: of_version(expected).unwrap_or(linear::Value(u32::MAX)),
                        value: value(blob),
                    },
                    (_, Asked::Remove(expected)) => {
                        Act::Remove(of_version(expected).unwrap_or(linear::Value(u32::MAX)))
                    }
                    (_, Asked::Delete) => Act::Delete,
                    (_, Asked::Read | Asked::ReadStale) => unreachable!("a read finds something, or isn't kept"),
                };
                let ended = (!matches!(told.what, What::Nothing)).then_some(told.ended);
                Call { began: told.began, ended, act }
            })
            .collect();
        (linear::judge(&calls), calls.len())
    }

    fn refuse(&mut self, value: Option<&Blob>) -> Result<(), String> {
        let Some(value) = value else { return Ok(()) };
        self.refused.insert(value.clone());
        match self.versions.get(value) {
            Some(version) => Err(format!("{value:?} took effect as {version}, and was refused")),
            None => Ok(()),
        }
    }

    /// This version is in effect, or was.
    fn note(&mut self, version: Version, value: Option<&Blob>) -> Result<(), String> {
        self.newest = self.newest.max(version);
        if let Some((expected, by)) = self.replaced.iter().find(|(expected, by)| *expected < version && version < *by) {
            return Err(format!("{version} came between {expected} and {by}, which replaced it"));
        }
        let known = self.values.entry(version).or_insert_with(|| value.cloned());
        if known.as_ref() != value {
            return Err(format!("version {version} is {known:?} and {value:?}"));
        }
        let Some(value) = value else { return Ok(()) };
        if !self.tried.contains(value) || self.refused.contains(value) {
            return Err(format!("{value:?} took effect as {version}, and nobody wrote it, or it was refused"));
        }
        match *self.versions.entry(value.clone()).or_insert(version) {
            first if first != version => Err(format!("{value:?} took effect twice, as {first} and as {version}")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Value;

    fn blob(text: &str) -> Blob {
        Blob::from(text.as_bytes())
    }

    fn written(version: u64) -> Result<Response, Error> {
        Ok(Response::Written { version: Version(version), created: true, copies: 2 })
    }

    fn value(version: u64, text: &str) -> Result<Response, Error> {
        let (bytes, version) = (blob(text), Version(version));
        let value = Value { bytes, version, content_type: None, expires_in_ms: None, stale: false, degraded: false };
        Ok(Response::Value(value))
    }

    fn run(history: &mut History, asked: Asked, result: Result<Response, Error>) -> Result<(), String> {
        let question = history.begin(asked, Instant(1), 1);
        history.end((Instant(2), 2), &question, &result)
    }

    /// A history with these two writes behind it.
    fn history() -> History {
        let mut history = History::new(false);
        assert_eq!(run(&mut history, Asked::Put(blob("a")), written(10)), Ok(()));
        assert_eq!(run(&mut history, Asked::Put(blob("b")), written(20)), Ok(()));
        history
    }

    #[test]
    fn what_can_be_true_is_believed() {
        let mut history = history();
        assert_eq!(run(&mut history, Asked::Read, value(20, "b")), Ok(()));
        assert_eq!(run(&mut history, Asked::Replace(blob("c"), Version(20)), written(30)), Ok(()));
        let exists = Err(Error::Exists { current: Version(30) });
        assert_eq!(run(&mut history, Asked::Create(blob("d")), exists), Ok(()));
        assert_eq!(run(&mut history, Asked::Delete, Err(Error::OutcomeUnknown(String::new()))), Ok(()));
        assert_eq!(run(&mut history, Asked::Read, Ok(Response::NotFound)), Ok(()));
        assert_eq!(run(&mut history, Asked::Create(blob("e")), written(50)), Ok(()));
    }

    #[test]
    fn each_lie_is_found() {
        let busy = || Err(Error::Busy(String::new()));
        let lies: [(Asked, Result<Response, Error>); 9] = [
            (Asked::Read, value(10, "a")),
            (Asked::Read, value(20, "a")),
            (Asked::Read, value(30, "b")),
            (Asked::Read, value(30, "never written")),
            (Asked::Read, Ok(Response::NotFound)),
            (Asked::Put(blob("c")), written(15)),
            (Asked::Create(blob("c")), written(30)),
            (Asked::Create(blob("c")), Err(Error::Exists { current: Version(10) })),
            (Asked::Replace(blob("c"), Version(20)), Err(Error::PreconditionFailed { current: Some(Version(20)) })),
        ];
        for (asked, result) in lies {
            let said = run(&mut history(), asked.clone(), result.clone());
            assert!(said.is_err(), "{asked:?} → {result:?} was believed");
        }
        let mut history = history();
        assert_eq!(run(&mut history, Asked::Put(blob("refused")), busy()), Ok(()));
        assert!(run(&mut history, Asked::Read, value(40, "refused")).is_err());
    }

    #[test]
    fn nothing_comes_between_a_version_and_what_replaced_it() {
        let mut early = history();
        assert!(run(&mut early, Asked::Replace(blob("c"), Version(10)), written(30)).is_err());
        let mut late = history();
        let between = late.begin(Asked::Put(blob("d")), Instant(1), 3);
        assert_eq!(run(&mut late, Asked::Replace(blob("c"), Version(20)), written(30)), Ok(()));
        assert!(late.end((Instant(3), 4), &between, &written(25)).is_err());
    }
}
