//! What one node measures of itself and of every other node on the pulse plane, and what it makes of that.
//!
//! Every message between members carries a [`Report`] beside it: a number, so that gaps are seen; the sender's clock, which
//! the receiver hands back with its own next report, so that both know the round trip without comparing clocks; how much
//! of the receiver's own got lost; how long the sender's workers have stood still; by how much it wakes up late (who does so all
//! the time starves: see `starving`); and how wide it needs the times to be.
//!
//! ```text
//! a ──Report{3, sent_at: t}──▶ b                  b notes when it came
//! a ◀──Report{…, echo: (t, held)}── b             round trip = a's now - t - held
//! ```
//!
//! Heartbeats and acks make 50 of them a second between the leader and each follower, gossip a few between the rest.

use std::collections::BTreeSet;
use std::time::Duration;

use bincode::{Decode, Encode};

use super::starving::{Tardiness, starving};
use super::timing::{Advisor, Cause, Link, Losses, Need, Peaks, STOPPED_AFTER, silence};
use crate::base::{Instant, NodeId, Slot, SlotSet, Timing};
use crate::control::PeerWord;

/// How often a node looks how late it wakes up, and weighs what it has measured.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(50);
/// After a stop the sockets are full of what came meanwhile: for so long nothing is measured.
const SETTLES_WITHIN: Duration = Duration::from_millis(100);
/// What was heard within this time tells of the present.
const FRESH: Duration = Duration::from_secs(2);
/// Workers may stand still so many times as long as a node may be silent: what shows that they move waits in line behind
/// their work, where the pulse has a thread of its own.
const STANDSTILL: u32 = 3;
/// How long wider times must have been needless to everybody before the leader narrows them: each node has waited for a
/// calm before it says so, but a new leader doesn't know yet what everybody needs.
const NARROW_AFTER: Duration = Duration::from_secs(5);

/// Beside every message from one member to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Report {
    /// Counts the sender's reports to this receiver.
    pub number: u64,
    /// The sender's clock, in nanoseconds.
    pub sent_at: u64,
    /// The `sent_at` of the receiver's latest report, and how many microseconds ago it came.
    pub echo: Option<(u64, u32)>,
    /// How many percent of the receiver's reports got lost.
    pub lost_percent: u8,
    /// For how many milliseconds the slowest of the sender's workers has made no progress.
    pub stalled_ms: u32,
    /// By how much the sender wakes up late, on average, in percent of the time after which it wanted to be woken.
    pub late_percent: u8,
    /// How wide the sender needs the times to be.
    pub need: Need,
}

/// What a leader makes of everybody's needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) timing: Timing,
    /// Who needs it, and why.
    pub(super) of: NodeId,
    pub(super) cause: Cause,
}

/// What is known of one other node.
#[derive(Clone, Debug)]
struct Pair {
    node: NodeId,
    heard_at: Option<Instant>,
    numbered: u64,
    /// The latest report's clock, and when it came.
    echo: Option<(u64, Instant)>,
    trips: Peaks,
    trip: Option<Duration>,
    losses: Losses,
    /// The latest report.
    told: Option<(Report, Instant)>,
}

/// One node's measurements.
#[derive(Debug)]
pub(super) struct Pace {
    me: NodeId,
    pairs: Vec<Option<Pair>>,
    look_at: Instant,
    /// Nothing is measured before.
    measures_from: Instant,
    late: Peaks,
    tardiness: Tardiness,
    /// Who gets hardly any processor time, though most of the voters do.
    starving: SlotSet,
    workers: Peaks,
    /// When the slowest of the workers last made progress; none where nobody tells.
    workers_at: Option<Instant>,
    advisor: Advisor,
    narrower_since: Option<Instant>,
}

impl Pace {
    pub(super) fn new(me: NodeId, slots: usize, now: Instant) -> Self {
        Self {
            me,
            pairs: vec![None; slots],
            look_at: now + LOOK_EVERY,
            measures_from: now,
            late: Peaks::default(),
            tardiness: Tardiness::default(),
            starving: SlotSet::EMPTY,
            workers: Peaks::default(),
            workers_at: None,
            advisor: Advisor::default(),
            narrower_since: None,
        }
    }

    // ---- what comes in -----------------------------------------------------------------------------------------

    /// The node is awake: how late is it? To be told of every input. True now and then: it is time to weigh anew.
    pub(super) fn handle_input(&mut self, now: Instant) -> bool {
        if now < self.look_at {
            return false;
        }
        let late = now.since(self.look_at);
        self.look_at = now + LOOK_EVERY;
        if late >= STOPPED_AFTER {
            self.measures_from = now + SETTLES_WITHIN;
        } else if self.measures(now) {
            self.late.note(now, late);
            self.tardiness.note(late);
        }
        true
    }

    /// The slowest of the workers made progress at `at`.
    pub(super) fn handle_progress(&mut self, now: Instant, at: Instant) {
        self.workers_at = self.workers_at.max(Some(at.min(now)));
    }

    /// Anything came from `from`.
    pub(super) fn handle_heard(&mut self, now: Instant, from: NodeId) {
        if let Some(pair) = self.pair_mut(from) {
            pair.heard_at = Some(now);
        }
    }

    /// Takes what came beside a message.
    pub(super) fn handle_report(&mut self, now: Instant, from: NodeId, report: Report) {
        let measures = self.measures(now);
        let Some(pair) = self.pair_mut(from) else { return };
        pair.heard_at = Some(now);
        if !pair.losses.note(now, report.number) {
            return;
        }
        pair.told = Some((report, now));
        if !measures {
            // How long it has waited in the socket nobody knows.
            pair.echo = None;
            return;
        }
        pair.echo = Some((report.sent_at, now));
        let held = |(_, held_us)| Duration::from_micros(u64::from(held_us));
        if let Some(echo) = report.echo
            && echo.0 <= now.0
            && now.since(Instant(echo.0)) >= held(echo)
        {
            let trip = now.since(Instant(echo.0)) - held(echo);
            pair.trips.note(now, trip);
            // An eighth of each new sample, as TCP does it (Jacobson, "Congestion Avoidance and Control", 1988).
            pair.trip = Some(pair.trip.map_or(trip, |smoothed| (smoothed * 7 + trip) / 8));
        }
    }

    /// When [`Pace::handle_input`] is due.
    pub(super) const fn poll_timeout(&self) -> Instant {
        self.look_at
    }

    // ---- what goes out -----------------------------------------------------------------------------------------

    /// What to say beside a message to `to`.
    pub(super) fn report(&mut self, now: Instant, to: NodeId) -> Report {
        let (stalled, need) = (self.stalled(now), self.advisor.need());
        let mut report = Report {
            number: 0,
            sent_at: now.0,
            echo: None,
            lost_percent: 0,
            stalled_ms: u32::try_from(stalled.as_millis()).unwrap_or(u32::MAX),
            late_percent: self.tardiness.percent(),
            need,
        };
        if let Some(pair) = self.pair_mut(to) {
            pair.numbered += 1;
            report.number = pair.numbered;
            report.echo = pair
                .echo
                .and_then(|(sent_at, came_at)| Some((sent_at, u32::try_from(now.since(came_at).as_micros()).ok()?)));
            report.lost_percent = (pair.losses.expected(now) * 100.0).round() as u8;
        }
        report
    }

    /// What to gossip of each other node.
    pub(super) fn words(&self, now: Instant) -> Vec<PeerWord> {
        let word = |pair: &Pair| {
            Some(PeerWord {
                slot: pair.node.slot,
                heard_ms: u16::try_from(now.since(pair.heard_at?).as_millis()).unwrap_or(u16::MAX),
                round_trip_us: pair.trip.map(|trip| u32::try_from(trip.as_micros()).unwrap_or(u32::MAX)),
                lost_percent: pair.losses.share(now).map(|share| (share * 100.0).round() as u8),
            })
        };
        self.pairs.iter().flatten().filter_map(word).collect()
    }

    // ---- what it makes of that ---------------------------------------------------------------------------------

    /// Weighs what was measured; the times that this node needs by itself, if they aren't those of `base`. Of those among
    /// `voters` that starve nothing counts.
    pub(super) fn weigh(&mut self, now: Instant, base: &Timing, voters: &BTreeSet<NodeId>) -> Option<Timing> {
        let late = |node: &NodeId| Some((node.slot, self.late_percent(now, *node)?));
        let late: Vec<(Slot, u8)> = voters.iter().filter_map(late).collect();
        self.starving = starving(self.starving, voters.len(), &late);
        let stalled = self.stalled(now);
        if self.measures(now) {
            self.workers.note(now, stalled);
        }
        let counts = |pair: &&Pair| {
            pair.heard_at.is_some_and(|at| now.since(at) < FRESH) && !self.starving.contains(pair.node.slot)
        };
        let links = self.pairs.iter().flatten().filter(counts).map(|pair| {
            let inbound = pair.losses.expected(now);
            let outbound = pair.told.map_or(0.0, |(report, _)| f64::from(report.lost_percent.min(100)) / 100.0);
            Link {
                peer: pair.node.slot,
                round_trip: pair.trips.expected(now),
                loss: 1.0 - (1.0 - inbound) * (1.0 - outbound),
            }
        });
        let (late, workers) = (self.late.expected(now), self.workers.expected(now));
        let (silence, cause) = silence(base.heartbeat, late, workers, links);
        self.advisor.note(now, base, silence, cause);
        let need = self.advisor.need();
        (need.step > 0).then(|| need.timing(base))
    }

    /// Leader: the times that all need together, where they are others than `agreed` and it is time to change those.
    pub(super) fn wish(&mut self, now: Instant, base: &Timing, agreed: &Timing) -> Option<Wish> {
        let told = self.pairs.iter().flatten().filter_map(|pair| {
            let (report, at) = pair.told?;
            let counts = now.since(at) < FRESH && !self.starving.contains(pair.node.slot);
            counts.then_some((pair.node, report.need))
        });
        let (of, need) =
            std::iter::once((self.me, self.advisor.need())).chain(told).max_by_key(|(_, need)| need.step)?;
        let wish = Wish { timing: need.timing(base), of, cause: need.cause };
        if wish.timing == *agreed {
            self.narrower_since = None;
            return None;
        }
        let is_wider = wish.timing.election > agreed.election;
        let since = *self.narrower_since.get_or_insert(now);
        if is_wider || now.since(since) >= NARROW_AFTER {
            self.narrower_since = None;
            return Some(wish);
        }
        None
    }

    /// This node doesn't lead: what it may have waited for as a leader begins anew with the next reign.
    pub(super) const fn forget_wish(&mut self) {
        self.narrower_since = None;
    }

    /// For how long the slowest of this node's workers has made no progress.
    pub(super) fn stalled(&self, now: Instant) -> Duration {
        self.workers_at.map_or(Duration::ZERO, |at| now.since(at))
    }

    /// For how long the slowest of `node`'s workers has made no progress, as far as it was heard.
    pub(super) fn stalled_at(&self, now: Instant, node: NodeId) -> Duration {
        if node == self.me {
            return self.stalled(now);
        }
        let told = self.pair(node).and_then(|pair| pair.told);
        told.map_or(Duration::ZERO, |(report, _)| Duration::from_millis(u64::from(report.stalled_ms)))
    }

    /// Whether `node`'s workers hang: it is as good as dead to those who want data of it.
    pub(super) fn hangs(&self, now: Instant, node: NodeId, timing: &Timing) -> bool {
        self.stalled_at(now, node) > timing.down * STANDSTILL
    }

    /// Whether `node`'s workers are on the way to hanging, or it starves: nothing is given to it that would outlast that.
    pub(super) fn falters(&self, now: Instant, node: NodeId, timing: &Timing) -> bool {
        self.lags(now, node, timing) || self.starves(node)
    }

    /// Whether `node`'s workers are on the way to hanging.
    pub(super) fn lags(&self, now: Instant, node: NodeId, timing: &Timing) -> bool {
        self.stalled_at(now, node) > timing.down * STANDSTILL / 2
    }

    /// Whether `node` gets hardly any processor time, though most of the voters do.
    pub(super) fn starves(&self, node: NodeId) -> bool {
        self.starving.contains(node.slot) && (node == self.me || self.pair(node).is_some())
    }

    /// By how much `node` wakes up late, on average, in percent of the time after which it wanted to be woken; none where it
    /// hasn't told lately.
    pub(super) fn late_percent(&self, now: Instant, node: NodeId) -> Option<u8> {
        if node == self.me {
            return Some(self.tardiness.percent());
        }
        let (report, at) = self.pair(node)?.told?;
        (now.since(at) < FRESH).then_some(report.late_percent)
    }

    // ---- for people --------------------------------------------------------------------------------------------

    /// By how much this node wakes up late.
    pub(super) fn lateness(&self, now: Instant) -> Duration {
        self.late.expected(now)
    }

    /// When the node in `slot` was last heard.
    pub(super) fn heard_at(&self, slot: Slot) -> Option<Instant> {
        self.pairs.get(slot.index())?.as_ref()?.heard_at
    }

    /// The smoothed round trip to the node in `slot`.
    pub(super) fn round_trip(&self, slot: Slot) -> Option<Duration> {
        self.pairs.get(slot.index())?.as_ref()?.trip
    }

    fn measures(&self, now: Instant) -> bool {
        now >= self.measures_from
    }

    fn pair(&self, node: NodeId) -> Option<&Pair> {
        self.pairs.get(node.slot.index())?.as_ref().filter(|pair| pair.node == node)
    }

    /// The books about `node`: new ones for a new life.
    fn pair_mut(&mut self, node: NodeId) -> Option<&mut Pair> {
        let pair = self.pairs.get_mut(node.slot.index()).filter(|_| node.slot != self.me.slot)?;
        if pair.as_ref().is_none_or(|pair| pair.node != node) {
            *pair = Some(Pair::new(node));
        }
        pair.as_mut()
    }
}

impl Pair {
    fn new(node: NodeId) -> Self {
        Self {
            node,
            heard_at: None,
            numbered: 0,
            echo: None,
            trips: Peaks::default(),
            trip: None,
            losses: Losses::default(),
            told: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Incarnation;

    const HOP: Duration = Duration::from_millis(10);

    fn node(slot: u8) -> NodeId {
        NodeId::new(Slot(slot), Incarnation(1))
    }

    fn at(ms: u64) -> Instant {
        Instant(1_000_000_000_000) + Duration::from_millis(ms)
    }

    /// Two nodes, whose clocks are far apart.
    fn two() -> (Pace, Pace, Duration) {
        let apart = Duration::from_secs(77);
        (Pace::new(node(0), 2, at(0)), Pace::new(node(1), 2, at(0) + apart), apart)
    }

    #[test]
    fn both_know_the_round_trip_though_their_clocks_are_far_apart() {
        let (mut here, mut there, apart) = two();
        for beat in 0..100 {
            let sent = at(beat * 30);
            let report = here.report(sent, node(1));
            there.handle_report(sent + HOP + apart, node(0), report);
            let back = there.report(sent + HOP + apart, node(0));
            here.handle_report(sent + HOP * 2, node(1), back);
        }
        assert_eq!(here.round_trip(Slot(1)), Some(HOP * 2));
        assert_eq!(there.round_trip(Slot(0)), Some(HOP * 2), "the time that the other held it is no part of the trip");
        let words = here.words(at(3020));
        let told = (words[0].slot, words[0].heard_ms, words[0].round_trip_us, words[0].lost_percent);
        assert_eq!(told, (Slot(1), 30, Some(20_000), Some(0)));
    }

    #[test]
    fn a_pause_of_two_seconds_is_neither_late_nor_slow() {
        let (mut here, mut there, apart) = two();
        for second in [0, 5, 10] {
            let waiting = here.report(at(second * 1000), node(1));
            there.handle_report(at(second * 1000) + apart, node(0), waiting);
            let answer = there.report(at(second * 1000 + 500) + apart, node(0));
            // It is taken out of the socket two seconds after it came.
            here.handle_input(at(second * 1000 + 2500));
            here.handle_report(at(second * 1000 + 2500), node(1), answer);
        }
        assert_eq!(here.weigh(at(13_000), &Timing::default(), &BTreeSet::new()), None);
        assert_eq!((here.lateness(at(13_000)), here.round_trip(Slot(1))), (Duration::ZERO, None));
    }

    #[test]
    fn lateness_makes_a_need_that_the_leader_hears_and_wishes_for_all() {
        let (mut leader, mut late, apart) = two();
        let base = Timing::default();
        for second in 0..3 {
            late.handle_input(at(second * 1000) + apart + Duration::from_millis(113));
            assert_eq!(late.weigh(at(second * 1000 + 113) + apart, &base, &BTreeSet::new()).is_some(), second > 0);
        }
        assert_eq!(leader.wish(at(3000), &base, &base), None);
        let report = late.report(at(3000) + apart, node(0));
        leader.handle_report(at(3000), node(1), report);
        let wish = leader.wish(at(3000), &base, &base).expect("it heard of a need");
        assert_eq!((wish.of, wish.timing.election), (node(1), base.election * 12));
        assert_eq!(leader.wish(at(3000), &base, &wish.timing), None, "it is agreed already");
        assert_eq!(leader.wish(at(6000), &base, &wish.timing), None, "nothing heard: it may be about to say it again");
        assert_eq!(leader.wish(at(10_900), &base, &wish.timing), None);
        assert_eq!(leader.wish(at(11_000), &base, &wish.timing).map(|wish| wish.timing), Some(base));
    }

    #[test]
    fn workers_that_stand_still_falter_then_hang_and_then_move_again() {
        let (mut leader, mut node_1, apart) = two();
        let timing = Timing::default();
        node_1.handle_progress(at(0) + apart, at(0) + apart);
        let mut seen = Vec::new();
        for ms in [50, 150, 290] {
            let report = node_1.report(at(ms) + apart, node(0));
            leader.handle_report(at(ms), node(1), report);
            seen.push((leader.falters(at(ms), node(1), &timing), leader.hangs(at(ms), node(1), &timing)));
        }
        assert_eq!(seen, [(false, false), (true, false), (true, true)]);
        node_1.handle_progress(at(300) + apart, at(299) + apart);
        let report = node_1.report(at(300) + apart, node(0));
        leader.handle_report(at(300), node(1), report);
        assert!(!leader.falters(at(300), node(1), &timing));
        assert!(!leader.hangs(at(99_000), node(0), &timing), "whose workers nobody tells of");
    }

    #[test]
    fn another_life_is_another_pair() {
        let (mut here, mut there, apart) = two();
        let report = there.report(at(0) + apart, node(0));
        here.handle_report(at(0), node(1), Report { stalled_ms: 5000, ..report });
        let reborn = NodeId::new(Slot(1), Incarnation(2));
        assert_eq!(here.stalled_at(at(0), reborn), Duration::ZERO);
        here.handle_heard(at(10), reborn);
        assert_eq!(here.stalled_at(at(10), node(1)), Duration::ZERO);
    }
}
