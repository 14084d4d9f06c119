//! What is asked of nodes, by clients, by tests and by operators, and what they answer.

use std::time::Duration;

use super::world::{Answer, World};
use crate::api::{AdminAction, AdminReport, AdminRequest, Error, FeedEvent, Request, Response};
use crate::base::{PartitionId, RequestId, ShardId, Slot};
use crate::node::Submitted;

impl World {
    pub(super) fn client_step(&mut self, client: usize) {
        assert!(self.clients.is_idle(client), "client {client} asks twice at once");
        let running = self.running();
        let slot = self.clients.gateway(client, self.nodes.len(), &running);
        let awake = slot.filter(|slot| self.nodes[slot.index()].paused_until <= self.now);
        let Some(slot) = awake.filter(|_| !self.clients.is_stopped()) else { return self.client_next(client) };
        let request: Request = self.clients.next_request(self.now, client);
        self.note(|| format!("client {client} asks {slot}: {:?}", request.operation));
        let process = &mut self.nodes[slot.index()];
        let local = process.clock.show(self.now);
        let Some(node) = &mut process.node else { return };
        let (shard, submitted) = node.handle_request(local, request);
        match submitted {
            Submitted::Now(result) => {
                self.note(|| format!("client {client} is told at once: {result:?}"));
                self.clients.handle_result(self.now, client, &result);
                self.client_next(client);
            }
            Submitted::Later(request) => self.clients.handle_pending(client, slot, shard, request),
        }
        self.settle(slot);
    }

    pub(super) fn on_reply(&mut self, slot: Slot, shard: ShardId, request: RequestId, result: Answer) {
        if let Some(answer) = self.answers.get_mut(&(slot, shard, request)) {
            *answer = Some(result);
            return;
        }
        let Some(client) = self.clients.pending(slot, shard, request) else {
            return self.complain(format!("{slot} answers a request that nobody waits for: {result:?}"));
        };
        if let Some(since) = self.clients.overdue_since(self.now, client)
            && self.nodes[slot.index()].paused_until < since
        {
            self.complain(format!("{slot} answers client {client} only now, who waits since {since}"));
        }
        self.note(|| format!("client {client} is told by {slot}: {result:?}"));
        self.clients.handle_result(self.now, client, &result);
        self.client_next(client);
    }

    /// Hands `request` to a node, outside of the clients' history.
    pub fn submit(&mut self, slot: Slot, request: Request) -> Option<(ShardId, Submitted)> {
        let process = &mut self.nodes[slot.index()];
        let local = process.clock.show(self.now);
        let (shard, submitted) = process.node.as_mut()?.handle_request(local, request);
        if let Submitted::Later(id) = submitted {
            self.answers.insert((slot, shard, id), None);
        }
        self.settle(slot);
        Some((shard, submitted))
    }

    /// Whether what was handed in has been answered.
    #[must_use]
    pub fn has_answer(&self, slot: Slot, shard: ShardId, request: RequestId) -> bool {
        self.answers.get(&(slot, shard, request)).is_some_and(Option::is_some)
    }

    /// Takes the answer to what was handed in.
    pub fn take_answer(&mut self, slot: Slot, shard: ShardId, request: RequestId) -> Option<Answer> {
        self.answers.remove(&(slot, shard, request)).flatten()
    }

    /// Asks a node one thing and lets time pass until it answers, two seconds at most.
    pub fn ask(&mut self, slot: Slot, request: Request) -> Option<Result<Response, Error>> {
        match self.submit(slot, request)? {
            (_, Submitted::Now(result)) => Some(result),
            (shard, Submitted::Later(id)) => {
                self.run_until(Duration::from_secs(2), |world| world.has_answer(slot, shard, id));
                self.take_answer(slot, shard, id)
            }
        }
    }

    /// Gives `slot` a viewer of the feed.
    pub fn watch(&mut self, slot: Slot) {
        self.is_live[slot.index()] = false;
        let process = &mut self.nodes[slot.index()];
        let local = process.clock.show(self.now);
        if let Some(node) = &mut process.node {
            node.handle_feed_wanted(local, true);
        }
        self.settle(slot);
    }

    /// What the viewer of `slot` has seen; none before it is told that it misses nothing.
    #[must_use]
    pub fn seen(&self, slot: Slot) -> Option<&[FeedEvent]> {
        self.is_live[slot.index()].then(|| &self.seen[slot.index()][..])
    }

    /// A fault took the last copy of `partition`: nothing is promised about it any more.
    pub(super) fn forgive(&mut self, partition: PartitionId) {
        self.clients.forgive(partition);
        self.data.forgive(partition);
    }

    /// Hands an operator's wish to a node. Whether it is granted, and when, is the node's affair.
    pub fn wish(&mut self, slot: Slot, action: AdminAction) {
        let process = &mut self.nodes[slot.index()];
        let local = process.clock.show(self.now);
        let Some(node) = &mut process.node else { return };
        let ticket = self.counts.get("wish").copied().unwrap_or_default();
        let request = AdminRequest { action: action.clone(), dry_run: false };
        node.handle_admin(local, ticket, &request);
        self.count("wish");
        self.note(|| format!("an operator asks {slot}: {action:?}"));
        self.wishes.insert(ticket, action);
        self.settle(slot);
    }

    /// Hands an operator's request to a node, and lets time pass until it is answered; none where that takes longer than
    /// `most`.
    pub fn request(
        &mut self,
        slot: Slot,
        request: &AdminRequest,
        most: Duration,
    ) -> Option<Result<AdminReport, Error>> {
        // Far from the numbers of other wishes.
        let ticket = u64::MAX - self.rng.below(1 << 32);
        self.awaited.insert(ticket, None);
        let process = &mut self.nodes[slot.index()];
        let local = process.clock.show(self.now);
        process.node.as_mut()?.handle_admin(local, ticket, request);
        self.settle(slot);
        self.run_until(most, |world| world.awaited.get(&ticket).is_some_and(Option::is_some));
        self.awaited.remove(&ticket).flatten()
    }

    /// Tells the process of `slot` to stop, as a signal would; the number under which [`World::stop_answer`] says what came of
    /// it. None where it doesn't run.
    pub fn tell_to_stop(&mut self, slot: Slot) -> Option<u64> {
        let ticket = u64::MAX - self.rng.below(1 << 32);
        let process = &mut self.nodes[slot.index()];
        let local = process.clock.show(self.now);
        process.node.as_mut()?.handle_stop(local, ticket);
        self.note(|| format!("{slot} is told to stop"));
        self.awaited.insert(ticket, None);
        self.settle(slot);
        Some(ticket)
    }

    /// Whether who was told to stop was let go; none while that isn't decided.
    #[must_use]
    pub fn stop_answer(&self, ticket: u64) -> Option<bool> {
        self.awaited.get(&ticket)?.as_ref().map(Result::is_ok)
    }

    pub(super) fn on_wish_answered(&mut self, slot: Slot, ticket: u64, result: Result<AdminReport, Error>) {
        if let Some(awaited) = self.awaited.get_mut(&ticket) {
            *awaited = Some(result);
            return;
        }
        let is_granted = result.is_ok();
        self.note(|| format!("{slot} answers wish {ticket}: {}", if is_granted { "granted" } else { "refused" }));
        let Some(action) = self.wishes.remove(&ticket).filter(|_| is_granted) else { return };
        self.count("wish granted");
        let named =
            |name: &String| (0..self.nodes.len()).map(|slot| Slot(slot as u8)).find(|slot| *name == node_name(*slot));
        match &action {
            AdminAction::RemoveNode { node } | AdminAction::Drain { node } => {
                let slot = named(node).filter(|slot| !self.set_aside.contains(slot));
                self.set_aside.extend(slot);
            }
            AdminAction::AddNode { node } => {
                let slot = named(node);
                self.set_aside.retain(|other| Some(*other) != slot);
            }
            AdminAction::Transfer { .. } | AdminAction::InitForce { .. } | AdminAction::UnsafeRecover => {}
        }
    }
}

/// How the configuration of a world calls the node in `slot`.
pub(super) fn node_name(slot: Slot) -> String {
    format!("n{}", u16::from(slot.0) + 1)
}
