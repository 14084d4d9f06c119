//! The shards behind their locks; in `door`, what gateways ask of them, and in `frames`, what other nodes say to them.

mod door;
mod frames;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::links::Links;
use super::pulse::{ControlCounts, ControlInput};
use crate::api::{Error, FeedPart, Response};
use crate::base::{InSyncChange, Instant, Options, RequestId, ShardId, Slot};
use crate::codec::Envelope;
use crate::node::message::{AnswerMessage, NodeMessage, PeerMessage};
use crate::node::{ControlEvent, Load, ShardCore, ShardOutput, View};
use crate::port::{FeedItem, FeedSender};
use crate::telemetry::metrics::Rejections;

/// The shard that says for its node whether there are viewers.
const FEED_SHARD: ShardId = ShardId(0);
/// A shard's timers that are due within one tick are looked at together: under load each write sets one, and waking up for
/// every single one would cost more than they do. The shortest that a shard waits for is the 5 ms until a commit is told.
const TIMER_TICK: Duration = Duration::from_millis(4);
/// How often a worker thread shows that it runs: a good part of what a node at rest wakes up for, and often enough for those
/// who take more than 135 ms without it for a sign.
const PROGRESS_EVERY: Duration = Duration::from_millis(40);
const POISONED: &str = "a thread panicked while it held this shard: its state is broken";

/// Who hears what the core has to say to people.
pub type EventSink = Arc<dyn Fn(&ControlEvent, &Options) + Send + Sync>;

/// One node's shards, shared by all threads.
pub struct Engine {
    options: Arc<Options>,
    /// Where clients reach each node's gateway, by slot.
    advertised: Vec<Arc<str>>,
    clock: Clock,
    shards: Vec<Seat>,
    view: ArcSwap<View>,
    /// In nanoseconds of the clock: until when reads may be served.
    lease_until: AtomicU64,
    has_quorum: AtomicBool,
    pulse_at: AtomicU64,
    /// In nanoseconds of the clock: when a worker thread last looked after the shards; 0 where none does.
    workers_at: AtomicU64,
    links: Arc<dyn Links>,
    control: mpsc::Sender<ControlInput>,
    feed: FeedSender,
    feed_live: watch::Sender<bool>,
    viewers: Arc<AtomicUsize>,
    dropped: AtomicU64,
    /// Changes of in-sync sets that this node's primaries asked for.
    in_sync_changes: AtomicU64,
    /// Messages of the stream plane that reached no core.
    rejections: Rejections,
    events: EventSink,
}

type Outcome = Result<Response, Error>;
type Waiter = oneshot::Sender<Outcome>;

/// One shard and what goes with it.
struct Seat {
    core: Mutex<Occupant>,
    /// Wakes the shard's timer: a view, a lease, or an earlier time.
    wake: Notify,
    /// In nanoseconds of the clock: when somebody last got the lock.
    progress_at: AtomicU64,
    /// What the shard held when it was last asked.
    load: Mutex<Load>,
}

struct Occupant {
    shard: ShardCore,
    /// The view that the shard has been told, to see whether there is a newer one.
    told: Arc<View>,
    waiters: HashMap<RequestId, Waiter>,
    /// Viewers that came back and wait for a part of what they missed.
    resuming: HashMap<RequestId, oneshot::Sender<Result<FeedPart, Error>>>,
    /// The time that the shard's timer waits for.
    wake_at: Instant,
    /// Until then the shard does nothing of what is due: a tick after it did the last time.
    rests_until: Instant,
}

/// What has to be done after a shard's lock is given back.
#[derive(Default)]
struct Afterwards {
    replies: Vec<(Waiter, Outcome)>,
    every_shard: Vec<NodeMessage>,
    answers: Vec<(RequestId, AnswerMessage)>,
    proposals: Vec<InSyncChange>,
}

impl Engine {
    /// The shards of a node that knows no cluster yet.
    #[must_use]
    pub fn new(
        options: Options,
        clock: Clock,
        links: Arc<dyn Links>,
        control: mpsc::Sender<ControlInput>,
        events: EventSink,
    ) -> Arc<Self> {
        let options = Arc::new(options);
        let view = Arc::new(View { me: options.me, ..View::default() });
        let seat = |shard| Seat {
            core: Mutex::new(Occupant {
                shard: ShardCore::new(ShardId(shard), Arc::clone(&options)),
                told: Arc::clone(&view),
                waiters: HashMap::new(),
                resuming: HashMap::new(),
                wake_at: Instant::FAR,
                rests_until: Instant::ZERO,
            }),
            wake: Notify::new(),
            progress_at: AtomicU64::new(clock.now().0),
            load: Mutex::default(),
        };
        Arc::new(Self {
            shards: (0..options.shards).map(seat).collect(),
            advertised: options.advertised.iter().map(|url| Arc::from(url.as_str())).collect(),
            view: ArcSwap::new(view),
            lease_until: AtomicU64::new(0),
            has_quorum: AtomicBool::new(false),
            pulse_at: AtomicU64::new(clock.now().0),
            workers_at: AtomicU64::new(0),
            links,
            control,
            feed: FeedSender::default(),
            feed_live: watch::channel(false).0,
            viewers: Arc::new(AtomicUsize::new(0)),
            dropped: AtomicU64::new(0),
            in_sync_changes: AtomicU64::new(0),
            rejections: Rejections::default(),
            events,
            clock,
            options,
        })
    }

    /// What the node's clock shows.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// What this node's cores have counted: refusals of the pulse plane and of the stream plane, by reason, and elections.
    pub async fn counts(&self) -> ControlCounts {
        let (sender, receiver) = oneshot::channel();
        let asked = self.control.send(ControlInput::Counts(sender)).await;
        let mut all = if asked.is_ok() { receiver.await.unwrap_or_default() } else { ControlCounts::default() };
        let of_shards = self.shards.iter().map(|seat| seat.lock().shard.rejected().clone());
        for (reason, count) in std::iter::once(self.rejections.counts()).chain(of_shards).flatten() {
            *all.stream.entry(reason).or_default() += count;
        }
        all
    }

    /// Messages that were dropped because a queue was full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Changes of in-sync sets that this node's primaries asked for.
    #[must_use]
    pub fn in_sync_changes(&self) -> u64 {
        self.in_sync_changes.load(Ordering::Relaxed)
    }

    /// How many bytes all tables may take.
    #[must_use]
    pub fn memory_bytes_max(&self) -> u64 {
        self.options.memory_bytes_max
    }

    /// What all tables hold. A shard that is busy counts with what it held before: the pulse asks, and waits for nobody.
    #[must_use]
    pub fn load(&self) -> Load {
        self.shards.iter().map(Seat::load).reduce(Load::and).unwrap_or_default()
    }

    /// Shows, until `shutdown`, that worker threads get to run and that every shard's lock comes free.
    pub async fn drive_progress(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            self.look_after_shards();
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(PROGRESS_EVERY) => {}
            }
        }
    }

    /// A lock that somebody else holds is no standstill as long as it changes hands: who gets it says so.
    fn look_after_shards(&self) {
        for seat in &self.shards {
            if let Some(occupant) = seat.try_lock() {
                seat.progress_at.store(self.now().0, Ordering::Relaxed);
                drop(occupant);
            }
        }
        self.workers_at.store(self.now().0.max(1), Ordering::Release);
    }

    /// When the slowest of the workers last made progress: the threads together, or a shard. None where nobody looks.
    pub(super) fn progress_at(&self) -> Option<Instant> {
        let workers_at = self.workers_at.load(Ordering::Acquire);
        let shards = self.shards.iter().map(|seat| seat.progress_at.load(Ordering::Relaxed));
        (workers_at > 0).then(|| Instant(shards.fold(workers_at, u64::min)))
    }

    /// Runs one shard's timer until `shutdown`.
    pub async fn drive_shard(self: Arc<Self>, shard: ShardId, shutdown: CancellationToken) {
        let seat = &self.shards[shard.index()];
        loop {
            self.maybe_end_feed(shard);
            let (wake_at, now) = self.with_shard(shard, |occupant, now| (occupant.handle_timeout(now), now));
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = seat.wake.notified() => {}
                // A moment that never comes is a sleep that something else ends.
                () = tokio::time::sleep(wake_at.since(now).min(Duration::from_secs(3600))) => {}
            }
        }
    }

    /// Takes a new view of the cluster from the control core. The shards' own threads tell the shards: a table of
    /// thousands of partitions takes milliseconds, and the pulse must not wait for that.
    pub(super) fn handle_view(&self, view: Arc<View>) {
        let before = self.view.swap(Arc::clone(&view));
        for slot in (0..self.options.slots).map(|slot| Slot(slot as u8)) {
            let is_same_sender = before.me == view.me && before.cluster == view.cluster;
            if before.peer(slot) != view.peer(slot) || !is_same_sender {
                self.links.peer_changed(slot, view.envelope(slot).as_ref());
            }
        }
        self.shards.iter().for_each(|seat| seat.wake.notify_one());
    }

    /// Takes a longer lease, or none any more.
    pub(super) fn handle_lease(&self, until: Instant) {
        let before = self.lease_until.swap(until.0, Ordering::AcqRel);
        if before <= self.now().0 {
            self.shards.iter().for_each(|seat| seat.wake.notify_one());
        }
    }

    /// Hears that the control core turns.
    pub(super) fn handle_pulse(&self, now: Instant, has_quorum: bool) {
        self.pulse_at.store(now.0, Ordering::Release);
        self.has_quorum.store(has_quorum, Ordering::Release);
    }

    pub(super) fn handle_event(&self, event: &ControlEvent) {
        (self.events)(event, &self.options);
    }

    /// Queues `message`. False where that can't be: it is dropped.
    pub(super) fn send(&self, envelope: &Envelope, message: &PeerMessage) -> bool {
        let is_queued = self.links.send(envelope, message);
        if !is_queued {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        is_queued
    }

    fn tell_control(&self, input: ControlInput) {
        if self.control.try_send(input).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lets `act` act on a shard under its lock, and draws the consequences, on other shards too.
    fn with_shard<T>(&self, shard: ShardId, act: impl FnOnce(&mut Occupant, Instant) -> T) -> T {
        let (result, mut afterwards) = self.act_on(shard, act);
        while !afterwards.is_empty() {
            let now_due = std::mem::take(&mut afterwards);
            now_due.replies.into_iter().for_each(|(waiter, result)| drop(waiter.send(result)));
            if !now_due.proposals.is_empty() {
                self.tell_control(ControlInput::Proposals(now_due.proposals));
            }
            let me = self.view.load().me;
            for message in now_due.every_shard {
                for other in (0..self.shards.len()).map(|other| ShardId(other as u16)) {
                    let message = message.clone();
                    let (_, more) =
                        self.act_on(other, |occupant, now| occupant.shard.handle_node_message(now, me, message));
                    afterwards.add(more);
                }
            }
            for (id, answer) in now_due.answers {
                let to = ShardCore::of_request(id, self.options.shards);
                let (_, more) = self.act_on(to, |occupant, now| occupant.shard.handle_answer(now, me, id, answer));
                afterwards.add(more);
            }
        }
        result
    }

    fn act_on<T>(&self, shard: ShardId, act: impl FnOnce(&mut Occupant, Instant) -> T) -> (T, Afterwards) {
        let seat = &self.shards[shard.index()];
        let mut occupant = seat.lock();
        let now = self.now();
        seat.progress_at.store(now.0, Ordering::Relaxed);
        // The lease is looked at before the view. The control core gives out a view before a lease that counts only with it:
        // looked at the other way round, both may be replaced in between, and this shard would serve under the new lease
        // what it leads by the old view alone.
        let lease_until = Instant(self.lease_until.load(Ordering::Acquire));
        let view = self.view.load();
        if !Arc::ptr_eq(&occupant.told, &view) {
            occupant.told = Arc::clone(&view);
            occupant.shard.handle_view(now, &view);
        }
        occupant.shard.handle_lease(now, lease_until);
        let result = act(&mut occupant, now);
        let afterwards = self.carry(&mut occupant, &view);
        // Decided under the lock, or the timer could go to sleep on what it saw before.
        let is_earlier = occupant.next_wake() < occupant.wake_at;
        if is_earlier {
            occupant.wake_at = occupant.next_wake();
        }
        drop(occupant);
        if is_earlier {
            seat.wake.notify_one();
        }
        (result, afterwards)
    }

    /// Carries away what a shard has put out. Messages to peers are queued here, under the shard's lock, so that they
    /// leave in order.
    fn carry(&self, occupant: &mut Occupant, view: &View) -> Afterwards {
        let mut afterwards = Afterwards::default();
        while let Some(output) = occupant.shard.poll_output() {
            match output {
                ShardOutput::Peer { to, message } => {
                    let envelope = Envelope { cluster: view.cluster, generation: view.generation, from: view.me, to };
                    if !self.send(&envelope, &message) {
                        occupant.shard.handle_unsent(&message);
                    }
                }
                ShardOutput::Reply { request, result } => {
                    if let Some(waiter) = occupant.waiters.remove(&request) {
                        afterwards.replies.push((waiter, result));
                    }
                }
                ShardOutput::EveryShard(message) => afterwards.every_shard.push(message),
                ShardOutput::Answer(id, answer) => afterwards.answers.push((id, answer)),
                ShardOutput::Event { event, cursor } => {
                    self.feed.send(FeedItem { event, cursor });
                }
                ShardOutput::FeedCut => {
                    self.feed_live.send_replace(false);
                    self.feed.interrupt();
                }
                ShardOutput::FeedPart { request, result } => {
                    if let Some(resuming) = occupant.resuming.remove(&request) {
                        let _ = resuming.send(result);
                    }
                }
                ShardOutput::FeedLive => {
                    self.feed_live.send_replace(true);
                }
                ShardOutput::Propose(change) => {
                    self.in_sync_changes.fetch_add(1, Ordering::Relaxed);
                    afterwards.proposals.push(change);
                }
                ShardOutput::Notice(event) => self.handle_event(&event),
            }
        }
        afterwards
    }

    /// The last viewer is gone: nobody has to send changes here any more. Looked at when the wish would be renewed, so a
    /// viewer that comes back within a second finds it standing.
    fn maybe_end_feed(&self, shard: ShardId) {
        if shard == FEED_SHARD && *self.feed_live.borrow() && self.viewers.load(Ordering::Acquire) == 0 {
            self.feed_live.send_replace(false);
            self.with_shard(shard, |occupant, now| occupant.shard.handle_feed_wanted(now, false));
        }
    }

    fn is_ready(&self) -> bool {
        let view = self.view.load();
        let registered = view.registered(view.me.slot) == Some(view.me);
        let serves = view.up.difference(view.stopping).contains(view.me.slot);
        view.settings.is_some() && view.leader.is_some() && registered && serves
    }
}

impl Seat {
    /// A thread that panicked under the lock has left broken state behind: whoever comes next must not go on with it.
    fn lock(&self) -> MutexGuard<'_, Occupant> {
        self.core.lock().expect(POISONED)
    }

    /// The same, where nobody else has it.
    fn try_lock(&self) -> Option<MutexGuard<'_, Occupant>> {
        match self.core.try_lock() {
            Ok(occupant) => Some(occupant),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(_)) => panic!("{POISONED}"),
        }
    }

    fn load(&self) -> Load {
        let load = self.try_lock().map(|occupant| occupant.shard.load());
        // Held for this copy only.
        let mut known = self.load.lock().expect(POISONED);
        *known = load.unwrap_or(*known);
        *known
    }
}

impl Occupant {
    /// Does what is due; when to look again.
    fn handle_timeout(&mut self, now: Instant) -> Instant {
        if self.shard.poll_timeout() <= now {
            self.shard.handle_timeout(now);
            self.rests_until = now + TIMER_TICK;
        }
        self.wake_at = self.next_wake();
        self.wake_at
    }

    /// When something is due, and the shard doesn't rest any more.
    fn next_wake(&self) -> Instant {
        self.shard.poll_timeout().max(self.rests_until)
    }
}

impl Afterwards {
    fn is_empty(&self) -> bool {
        self.replies.is_empty() && self.every_shard.is_empty() && self.answers.is_empty() && self.proposals.is_empty()
    }

    fn add(&mut self, more: Self) {
        self.replies.extend(more.replies);
        self.every_shard.extend(more.every_shard);
        self.answers.extend(more.answers);
        self.proposals.extend(more.proposals);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Operation, Precondition, PutMode, Request};
    use crate::base::{FollowerMode, NodeId, Timing};
    use crate::port::Core as _;

    struct NoLinks;

    impl Links for NoLinks {
        fn send(&self, _: &Envelope, _: &PeerMessage) -> bool {
            true
        }

        fn peer_changed(&self, _: Slot, _: Option<&Envelope>) {}
    }

    fn engine() -> Arc<Engine> {
        let options = Options {
            cluster_name: "engine".to_owned(),
            me: NodeId::default(),
            slots: 1,
            names: vec!["n1".to_owned()],
            advertised: vec![String::new()],
            partitions: 4,
            replicas: 1,
            min_copies: 1,
            replicas_auto: true,
            replace_after: Duration::from_secs(10),
            demote_after: Duration::from_secs(30),
            sync_interval: Duration::from_secs(10),
            timing: Timing::default(),
            timing_adapts: true,
            followers: FollowerMode::Relay,
            shards: 2,
            value_bytes_max: 1 << 20,
            key_bytes_max: 1024,
            memory_bytes_max: 1 << 20,
            requests_max: 10,
            tail_effects_max: 10,
            filling_bytes_max: 1 << 20,
            moving_bytes_per_second: 16 << 20,
            feed_effects_max: 10,
            unix_micros_at_zero: 0,
            seed: 1,
        };
        Engine::new(options, Clock::start(), Arc::new(NoLinks), mpsc::channel(1).0, Arc::new(|_, _| {}))
    }

    #[tokio::test]
    async fn what_is_overdue_and_was_never_begun_is_refused_when_somebody_asks() {
        let engine = engine();
        let operation = Operation::Put {
            key: "a".parse().expect("a key"),
            value: b"x"[..].into(),
            content_type: None,
            ttl_ms: None,
            mode: PutMode::Upsert,
            precondition: Precondition::NONE,
        };
        let answer = engine.submit(Request::new(operation, 1));
        // Nobody drives the shards here.
        let late = engine.now() + Duration::from_millis(2);
        while engine.now() < late {
            std::thread::yield_now();
        }
        engine.answer_overdue();
        assert!(matches!(answer.wait().await, Err(Error::DeadlineBefore(_))));
    }

    #[test]
    fn a_shard_whose_lock_is_held_holds_the_progress_back_and_not_the_load() {
        let engine = engine();
        assert_eq!(engine.progress_at(), None, "nobody looks after the shards yet");
        engine.look_after_shards();
        let before = engine.progress_at().expect("somebody does");
        let held = engine.shards[1].lock();
        engine.look_after_shards();
        assert!(
            engine.progress_at() <= Some(engine.now())
                && engine.shards[0].progress_at.load(Ordering::Relaxed) >= before.0
        );
        let held_at = engine.shards[1].progress_at.load(Ordering::Relaxed);
        engine.look_after_shards();
        assert_eq!(engine.progress_at(), Some(Instant(held_at)), "the slowest counts");
        assert_eq!(engine.load(), Load::default(), "asked without waiting");
        drop(held);
        engine.look_after_shards();
        assert!(engine.progress_at() > Some(Instant(held_at)));
        // A lock that is never free when looked at, but goes from hand to hand, is no standstill.
        let moved_at = engine.shards[1].progress_at.load(Ordering::Relaxed);
        engine.with_shard(ShardId(1), |_, _| ());
        assert!(engine.shards[1].progress_at.load(Ordering::Relaxed) > moved_at);
    }
}
