//! What a member makes of its measurements: it waits longer by itself, and a leader has wider times agreed upon or steps down.

use super::Member;
use crate::base::Instant;
use crate::base::{NodeId, Options};
use crate::node::timing::Cause;
use crate::node::{ControlEvent, ControlOutput};

impl Member {
    /// Measures, waits as long as what was measured asks for, and, where it leads, has everybody do so.
    pub(super) fn keep_pace(&mut self, now: Instant, options: &Options, out: &mut Vec<ControlOutput>) {
        if !self.pace.handle_input(now) {
            return;
        }
        let patience = self.pace.weigh(now, &options.timing, &self.raft.membership().voters);
        if options.timing_adapts {
            self.raft.be_patient(patience);
        }
        self.maybe_change_timing(now, options, out);
        self.maybe_resign(now, out);
    }

    /// One change of the times is on its way at a time.
    fn maybe_change_timing(&mut self, now: Instant, options: &Options, out: &mut Vec<ControlOutput>) {
        let (agreed, is_committed) = self.raft.agreed_timing();
        if !self.raft.is_ready_leader() {
            return self.pace.forget_wish();
        }
        if !is_committed {
            return;
        }
        let (timing, because_of) = match options.timing_adapts {
            true => match self.pace.wish(now, &options.timing, &agreed) {
                Some(wish) => (wish.timing, (wish.cause != Cause::None).then_some((wish.of, wish.cause))),
                None => return,
            },
            // What a leader with other settings has left.
            false => (options.timing, None),
        };
        if timing != agreed && self.raft.propose_timing(now, timing).is_ok() {
            let (before, now) = (agreed.election, timing.election);
            out.push(ControlOutput::Event(ControlEvent::TimingChanges { because_of, before, now }));
        }
    }

    /// A leader whose workers hang can't be reached by clients and hands on nothing, and one that starves does everything
    /// late: somebody else should lead, if there is somebody who is well.
    fn maybe_resign(&mut self, now: Instant, out: &mut Vec<ControlOutput>) {
        let timing = self.raft.timing();
        let starves = self.pace.starves(self.me);
        if !self.is_leader() || !starves && !self.pace.hangs(now, self.me, &timing) {
            return;
        }
        let could_lead = |node: &NodeId| {
            let acked_at = self.raft.peer_acked_at(*node);
            acked_at.is_some_and(|at| now.since(at) <= timing.down) && !self.pace.falters(now, *node, &timing)
        };
        if self.raft.membership().voters.iter().any(could_lead) {
            self.raft.resign(now);
            out.push(ControlOutput::Event(match self.pace.late_percent(now, self.me).filter(|_| starves) {
                Some(late_percent) => ControlEvent::LeaderStarves { late_percent },
                None => ControlEvent::LeaderHangs { stalled_for: self.pace.stalled(now) },
            }));
        }
    }
}
