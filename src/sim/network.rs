//! The simulated network.

use std::time::Duration;

use crate::base::{Instant, Rng, Slot};

/// What the network does to what is sent. Chances are per million.
#[derive(Clone, Debug)]
pub struct Network {
    /// Datagrams that vanish.
    pub loss: u32,
    /// Datagrams that arrive twice.
    pub duplication: u32,
    /// Frames whose connection breaks just then, with all that is under way on it.
    pub breaks: u32,
    /// The shortest delay.
    pub delay_min: Duration,
    /// What may be added to it.
    pub delay_jitter: Duration,
    /// How much later the second copy of a datagram may come than the first.
    pub lateness: Duration,
    /// Cut pairs (from, to): nothing passes. Both planes, or one.
    pub cuts: Vec<Cut>,
    connections: Vec<Vec<Connection>>,
}

/// One direction between two slots that lets nothing pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Whose messages.
    pub from: Slot,
    /// To whom.
    pub to: Slot,
    /// On the pulse plane.
    pub pulse: bool,
    /// On the stream plane.
    pub stream: bool,
}

/// The stream from one slot to another.
#[derive(Clone, Copy, Debug, Default)]
struct Connection {
    /// How often it broke: what was sent before a break does not arrive after it.
    life: u64,
    /// Frames arrive in order: none before this.
    busy_until: Instant,
}

impl Network {
    /// A quiet network between `slots` slots: a tenth of a millisecond, give or take.
    #[must_use]
    pub fn quiet(slots: usize) -> Self {
        Self {
            loss: 0,
            duplication: 0,
            breaks: 0,
            delay_min: Duration::from_micros(50),
            delay_jitter: Duration::from_micros(100),
            lateness: Duration::ZERO,
            cuts: Vec::new(),
            connections: vec![vec![Connection::default(); slots]; slots],
        }
    }

    /// When copies of a datagram arrive: none, one or two.
    pub fn datagram(&mut self, now: Instant, from: Slot, to: Slot, rng: &mut Rng) -> Vec<Instant> {
        if self.is_cut(from, to, |cut| cut.pulse) || rng.chance(self.loss) {
            return Vec::new();
        }
        let mut copies = vec![now + self.delay(rng)];
        if rng.chance(self.duplication) {
            copies.push(now + self.delay(rng) + rng.duration(self.lateness));
        }
        copies
    }

    /// When a frame arrives, and the life of the connection it travels on.
    pub fn frame(&mut self, now: Instant, from: Slot, to: Slot, rng: &mut Rng) -> Option<(Instant, u64)> {
        if self.is_cut(from, to, |cut| cut.stream) {
            // A cut connection is broken: what was under way is lost too.
            self.break_connection(from, to);
            return None;
        }
        if rng.chance(self.breaks) {
            self.break_connection(from, to);
        }
        let delay = self.delay(rng);
        let connection = &mut self.connections[from.index()][to.index()];
        let arrives_at = (now + delay).max(connection.busy_until);
        connection.busy_until = arrives_at;
        Some((arrives_at, connection.life))
    }

    /// Whether a frame that left on life `life` of the connection still arrives.
    #[must_use]
    pub fn arrives(&self, from: Slot, to: Slot, life: u64) -> bool {
        self.connections[from.index()][to.index()].life == life
    }

    /// Breaks the stream from one slot to another.
    pub fn break_connection(&mut self, from: Slot, to: Slot) {
        self.connections[from.index()][to.index()].life += 1;
    }

    /// Breaks every stream of a slot: its process died.
    pub fn break_all(&mut self, slot: Slot) {
        for other in 0..self.connections.len() {
            self.break_connection(slot, Slot(other as u8));
            self.break_connection(Slot(other as u8), slot);
        }
    }

    fn is_cut(&self, from: Slot, to: Slot, plane: impl Fn(&Cut) -> bool) -> bool {
        self.cuts.iter().any(|cut| cut.from == from && cut.to == to && plane(cut))
    }

    fn delay(&self, rng: &mut Rng) -> Duration {
        self.delay_min + rng.duration(self.delay_jitter)
    }
}
