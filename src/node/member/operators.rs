//! What operators wish of a process that belongs to a cluster: judged, said as a plan, done, and answered when it is done.
//!
//! | wish | who takes it | it is done when |
//! |---|---|---|
//! | transfer | the leader | another node leads |
//! | add, remove, drain | the leader | the roster with it is applied; the copies move afterwards |
//! | stop | the node itself | the leader has let it go |
//! | unsafe-recover | any survivor; the one with the longest log acts | the new generation's state is here |

use std::time::Duration;

use super::Member;
use crate::api::{AdminAction, AdminReport, AdminRequest, Error};
use crate::base::{Generation, Instant, LogIndex, Options, Slot, SlotSet, Term};
use crate::control::Roster;
use crate::node::ControlOutput;

/// How long a wish waits to come true before it is answered "unknown".
const DONE_WITHIN: Duration = Duration::from_secs(10);
/// Wishes that wait at a time.
const WISHES_MAX: usize = 64;

/// A wish that is being fulfilled.
#[derive(Clone, Debug)]
pub(in crate::node) struct Wish {
    ticket: u64,
    report: AdminReport,
    awaits: Awaited,
    until: Instant,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Awaited {
    /// Another leader than this node.
    Successor,
    /// The entry at this index, appended in this term, and by it this roster.
    Applied(LogIndex, Term, Roster),
    /// A generation after this one.
    Recovery(Generation),
    /// That this node may go, since then.
    LetGo(Instant),
}

impl Member {
    /// Takes an operator's wish. Where it takes time its answer comes with a later [`Member::answer_wishes`].
    pub(in crate::node) fn handle_admin(
        &mut self,
        now: Instant,
        options: &Options,
        ticket: u64,
        request: &AdminRequest,
        out: &mut Vec<ControlOutput>,
    ) {
        let begun = match &request.action {
            AdminAction::Transfer { to } => self.wish_transfer(now, options, to.as_deref(), request.dry_run),
            AdminAction::AddNode { node } => self.wish_roster(now, options, node, &Change::Add, request.dry_run),
            AdminAction::RemoveNode { node } => self.wish_roster(now, options, node, &Change::Remove, request.dry_run),
            AdminAction::Drain { node } => self.wish_roster(now, options, node, &Change::Drain, request.dry_run),
            AdminAction::InitForce { .. } => {
                Err(Error::Conflict("this process belongs to a cluster already: there is nothing to found".to_owned()))
            }
            AdminAction::UnsafeRecover => self.wish_recovery(now, options, request.dry_run, out),
        };
        match begun {
            Ok((report, Some(awaits))) if self.wishes.len() < WISHES_MAX => {
                self.wishes.push(Wish { ticket, report, awaits, until: now + DONE_WITHIN });
            }
            Ok((_, Some(_))) => {
                let result = Err(Error::Busy(format!("{WISHES_MAX} wishes of operators are waiting")));
                out.push(ControlOutput::Admin { ticket, result });
            }
            Ok((report, None)) => out.push(ControlOutput::Admin { ticket, result: Ok(report) }),
            Err(error) => out.push(ControlOutput::Admin { ticket, result: Err(error) }),
        }
    }

    /// Answers what has come true, and what has taken too long.
    pub(super) fn answer_wishes(&mut self, now: Instant, options: &Options, out: &mut Vec<ControlOutput>) {
        for mut wish in std::mem::take(&mut self.wishes) {
            let result = match wish.awaits {
                Awaited::Successor if !self.is_leader() => self.raft.leader().map(|leader| {
                    wish.report.steps.push(format!(
                        "{} leads, in term {}",
                        options.name(leader.slot),
                        self.raft.term()
                    ));
                    Ok(())
                }),
                Awaited::Successor if self.handover.is_none() => {
                    Some(Err(Error::Conflict("the other node didn't take over in time; this one leads on".to_owned())))
                }
                Awaited::Applied(index, term, after) if self.state.applied() >= index => {
                    let was_kept = self.raft.entry(index).is_none_or(|entry| entry.term == term);
                    let is_done = Roster { absent: after.absent, ..self.state.roster() } == after;
                    Some(match (was_kept, is_done) {
                        (true, true) => Ok(()),
                        (true, false) => Err(Error::Conflict("the members changed meanwhile: ask again".to_owned())),
                        (false, _) => {
                            Err(Error::OutcomeUnknown("another node took over the lead meanwhile".to_owned()))
                        }
                    })
                }
                Awaited::Recovery(before) if self.generation > before && self.state.recovery().is_some() => {
                    wish.report.steps.push(format!("generation {} has begun", self.generation));
                    wish.report.recovered = self.recovered();
                    Some(Ok(()))
                }
                Awaited::LetGo(since) if let Some(result) = self.let_go(now, since) => Some(result),
                _ if now >= wish.until => {
                    Some(Err(Error::OutcomeUnknown("it was begun and is not done yet: see the status".to_owned())))
                }
                _ => None,
            };
            match result {
                Some(result) => {
                    let result = result.map(|()| wish.report);
                    out.push(ControlOutput::Admin { ticket: wish.ticket, result });
                }
                None => self.wishes.push(wish),
            }
        }
    }

    /// This process is told to stop.
    pub(in crate::node) fn handle_stop(&mut self, now: Instant, ticket: u64) {
        self.begin_stopping(now);
        let report = report(["it led nothing any more, and the others had what it held".to_owned()]);
        self.wishes.push(Wish { ticket, report, awaits: Awaited::LetGo(now), until: now + DONE_WITHIN });
    }

    /// The wishes, for this process's membership in another generation.
    pub(in crate::node) fn take_wishes(&mut self) -> Vec<Wish> {
        std::mem::take(&mut self.wishes)
    }

    /// Goes on with wishes of before.
    pub(in crate::node) fn keep_wishes(&mut self, wishes: Vec<Wish>) {
        self.wishes = wishes;
    }

    /// The answers to all wishes of a process that belongs to no cluster any more.
    pub(in crate::node) fn give_up_wishes(&mut self) -> impl Iterator<Item = ControlOutput> + use<> {
        std::mem::take(&mut self.wishes).into_iter().map(|wish| {
            let result = match wish.awaits {
                // It holds nothing and leads nothing.
                Awaited::LetGo(_) => Ok(wish.report),
                _ => Err(Error::OutcomeUnknown("this process left its cluster meanwhile: ask another one".to_owned())),
            };
            ControlOutput::Admin { ticket: wish.ticket, result }
        })
    }

    pub(super) fn wishes_deadline(&self) -> Instant {
        self.wishes.iter().map(|wish| wish.until).min().unwrap_or(Instant::FAR)
    }

    fn require_leadership(&self, options: &Options) -> Result<(), Error> {
        match self.raft.leader() {
            _ if self.raft.is_ready_leader() => Ok(()),
            Some(leader) if leader != self.me => {
                Err(Error::Conflict(format!("{} leads; ask it", options.name(leader.slot))))
            }
            _ => Err(Error::NoQuorum("nobody leads at the moment".to_owned())),
        }
    }

    fn wish_transfer(&mut self, now: Instant, options: &Options, to: Option<&str>, dry_run: bool) -> Begun {
        self.require_leadership(options)?;
        let to = match to {
            Some(name) => {
                let slot = slot_of(options, name)?;
                let voter = self.raft.membership().voters.iter().find(|node| node.slot == slot).copied();
                voter.ok_or_else(|| Error::Conflict(format!("{name} has no vote at the moment")))?
            }
            None => self.heir(now).ok_or_else(|| Error::Conflict("no other voter has answered of late".to_owned()))?,
        };
        let (from, name) = (options.name(self.me.slot), options.name(to.slot));
        if to == self.me {
            return Ok((report([format!("{name} leads already: there is nothing to do")]), None));
        }
        let lease = self.raft.lease().as_millis();
        let steps = [
            format!("reads wait until all leases have ended, at most {lease} ms"),
            format!("{from} hands over to {name}"),
        ];
        if !dry_run {
            self.begin_handover(now, to).map_err(Error::Conflict)?;
        }
        Ok((report(steps), (!dry_run).then_some(Awaited::Successor)))
    }

    fn wish_roster(&mut self, now: Instant, options: &Options, name: &str, change: &Change, dry_run: bool) -> Begun {
        self.require_leadership(options)?;
        let slot = slot_of(options, name)?;
        let Some(settings) = self.state.settings() else {
            return Err(Error::Conflict("the cluster is being founded".to_owned()));
        };
        let before = self.state.roster();
        let after = change.apply(before, slot, options);
        let staying = after.staying().len();
        if after == before {
            return Ok((report([change.nothing_to_do(name)]), None));
        }
        if staying < usize::from(settings.min_copies.max(1)) {
            let copies = settings.min_copies;
            return Err(Error::Conflict(format!(
                "only {staying} nodes would stay, where each write needs {copies} copies"
            )));
        }
        let table = self.state.table();
        let holds = table.iter().filter(|record| record.members().contains(slot)).count();
        let leads = table.iter().filter(|record| record.primary == Some(slot)).count();
        let mut steps = change.steps(name, holds, leads);
        if after.replicas != before.replicas {
            steps.push(format!("each value gets {} copies instead of {}", after.replicas, before.replicas));
        }
        if dry_run {
            return Ok((report(steps), None));
        }
        let index = self.supervisor.propose_roster(now, &mut self.raft, &self.state, after);
        let index = index.ok_or_else(|| Error::Busy("another change is on its way".to_owned()))?;
        Ok((report(steps), Some(Awaited::Applied(index, self.raft.term(), after))))
    }
}

/// What a wish has come to: a report, and what is still awaited.
pub(super) type Begun = Result<(AdminReport, Option<Awaited>), Error>;

/// A change of the roster.
enum Change {
    Add,
    Remove,
    Drain,
}

impl Change {
    fn apply(&self, before: Roster, slot: Slot, options: &Options) -> Roster {
        let without = |set: SlotSet| set.without(slot);
        let (draining, leaving) = (without(before.draining), without(before.leaving));
        let known = before.slots.contains(slot);
        let mut after = match self {
            Self::Add => Roster { slots: before.slots.with(slot), draining, leaving, ..before },
            Self::Remove if known => Roster { draining, leaving: leaving.with(slot), ..before },
            Self::Drain if known && !before.leaving.contains(slot) => {
                Roster { draining: draining.with(slot), ..before }
            }
            Self::Remove | Self::Drain => before,
        };
        if options.replicas_auto {
            after.replicas = Options::replicas_auto(after.slots.difference(after.leaving).len());
        }
        after
    }

    fn nothing_to_do(&self, name: &str) -> String {
        match self {
            Self::Add => format!("{name} belongs to the cluster already: there is nothing to do"),
            Self::Remove => format!("{name} leaves already, or has left: there is nothing to do"),
            Self::Drain => format!("{name} is drained already, or is no part of the cluster: there is nothing to do"),
        }
    }

    fn steps(&self, name: &str, holds: usize, leads: usize) -> Vec<String> {
        let moves = format!("the {holds} partitions that {name} holds are copied to others; it leads {leads} of them");
        match self {
            Self::Add => vec![
                format!("{name} belongs to the cluster: its process is let in when it announces itself"),
                "its share of the partitions is copied to it".to_owned(),
            ],
            Self::Remove => {
                vec![moves, format!("when it holds nothing any more {name} loses its vote and leaves the cluster")]
            }
            Self::Drain => vec![
                moves,
                format!("when it holds nothing any more {name} can be stopped; it keeps its vote"),
                format!("a restart of {name}, or adding it again, gives it its share back"),
            ],
        }
    }
}

pub(super) fn report(steps: impl IntoIterator<Item = String>) -> AdminReport {
    AdminReport { steps: steps.into_iter().collect(), recovered: None }
}

/// The slot of the configured node `name`.
pub(in crate::node) fn slot_of(options: &Options, name: &str) -> Result<Slot, Error> {
    let position = options.names.iter().position(|known| known == name);
    position.map(|slot| Slot(slot as u8)).ok_or_else(|| {
        Error::BadRequest(format!("no node is called {name}; configured are {}", options.names.join(", ")))
    })
}
