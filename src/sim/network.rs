//! The simulated network.

use std::time::Duration;

use crate::base::{Instant, Rng, Slot};

/// How much later than the others a late datagram may be.
const LATENESS_MAX: Duration = Duration::from_millis(2500);
/// How much longer a frame of the bulk lane may take than another one: on a quiet network nothing else would bring the lanes out
/// of order.
const BULK_JITTER: Duration = Duration::from_millis(5);
/// Captured datagrams that may be sent again.
const CAPTURED_MAX: usize = 64;

/// What the network does to what is sent. Chances are per million.
#[derive(Clone, Debug)]
pub struct Network {
    /// Datagrams that vanish.
    pub loss: u32,
    /// Datagrams that arrive twice.
    pub duplication: u32,
    /// Datagrams that come seconds late.
    pub lateness: u32,
    /// Datagrams and frames that arrive with a few bits flipped.
    pub corruption: u32,
    /// Datagrams after which an old one is sent again: to whom it was for, or to somebody else.
    pub replays: u32,
    /// Frames whose connection breaks just then, with all that is under way on it.
    pub breaks: u32,
    /// The shortest delay.
    pub delay_min: Duration,
    /// What may be added to it.
    pub delay_jitter: Duration,
    /// Cut pairs (from, to): nothing passes. Both planes, or one.
    pub cuts: Vec<Cut>,
    connections: Vec<Vec<Connection>>,
    captured: Vec<(Slot, Vec<u8>)>,
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

/// A datagram on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parcel {
    pub(super) arrives_at: Instant,
    pub(super) to: Slot,
    pub(super) bytes: Vec<u8>,
    /// Bits of it were flipped: whoever acts on it is wrong.
    pub(super) is_damaged: bool,
}

/// The stream from one slot to another.
#[derive(Clone, Copy, Debug, Default)]
struct Connection {
    /// How often it broke: what was sent before a break does not arrive after it.
    life: u64,
    /// Frames of a lane arrive in order: none before this. (What is live, then bulk.)
    busy_until: [Instant; 2],
}

impl Network {
    /// A quiet network between `slots` slots: a tenth of a millisecond, give or take.
    #[must_use]
    pub fn quiet(slots: usize) -> Self {
        Self {
            loss: 0,
            duplication: 0,
            lateness: 0,
            corruption: 0,
            replays: 0,
            breaks: 0,
            delay_min: Duration::from_micros(50),
            delay_jitter: Duration::from_micros(100),
            cuts: Vec::new(),
            connections: vec![vec![Connection::default(); slots]; slots],
            captured: Vec::new(),
        }
    }

    /// It harms nobody from now on. Connections and what is under way stay as they are.
    pub fn calm(&mut self) {
        let quiet = Self::quiet(0);
        let connections = std::mem::take(&mut self.connections);
        let captured = std::mem::take(&mut self.captured);
        *self = Self { connections, captured, ..quiet };
    }

    /// The copies of a datagram that arrive, and what else comes because of it.
    pub(super) fn datagram(
        &mut self,
        now: Instant,
        (from, to): (Slot, Slot),
        bytes: Vec<u8>,
        rng: &mut Rng,
    ) -> Vec<Parcel> {
        let mut parcels = Vec::new();
        if self.replays > 0 {
            self.replay(now, (to, &bytes), rng, &mut parcels);
        }
        if self.is_cut(from, to, |cut| cut.pulse) || (self.loss > 0 && rng.chance(self.loss)) {
            return parcels;
        }
        let is_doubled = self.duplication > 0 && rng.chance(self.duplication);
        if is_doubled {
            parcels.push(self.parcel(now, to, bytes.clone(), rng));
        }
        parcels.push(self.parcel(now, to, bytes, rng));
        parcels
    }

    fn parcel(&mut self, now: Instant, to: Slot, mut bytes: Vec<u8>, rng: &mut Rng) -> Parcel {
        let late =
            if self.lateness > 0 && rng.chance(self.lateness) { rng.duration(LATENESS_MAX) } else { Duration::ZERO };
        let is_damaged = self.corruption > 0 && rng.chance(self.corruption);
        if is_damaged {
            flip_bits(&mut bytes, rng);
        }
        Parcel { arrives_at: now + self.delay(rng) + late, to, bytes, is_damaged }
    }

    /// Sends one of the captured datagrams again, now and then, and captures this one.
    fn replay(&mut self, now: Instant, (to, bytes): (Slot, &[u8]), rng: &mut Rng, parcels: &mut Vec<Parcel>) {
        if self.captured.len() < CAPTURED_MAX {
            self.captured.push((to, bytes.to_vec()));
        } else if rng.below(16) == 0 {
            self.captured[rng.below(CAPTURED_MAX as u64) as usize] = (to, bytes.to_vec());
        }
        if rng.chance(self.replays) {
            let (meant_for, bytes) = self.captured[rng.below(self.captured.len() as u64) as usize].clone();
            let anybody = Slot(rng.below(self.connections.len() as u64) as u8);
            let to = if rng.below(4) == 0 { anybody } else { meant_for };
            parcels.push(Parcel { arrives_at: now + self.delay(rng), to, bytes, is_damaged: false });
        }
    }

    /// When a frame of a lane arrives, the life of the connection it travels on, and whether its bits were flipped on the way.
    pub(super) fn frame(
        &mut self,
        now: Instant,
        (from, to): (Slot, Slot),
        is_bulk: bool,
        bytes: &mut [u8],
        rng: &mut Rng,
    ) -> Option<(Instant, u64, bool)> {
        if self.is_cut(from, to, |cut| cut.stream) {
            // A cut connection is broken: what was under way is lost too.
            self.break_connection(from, to);
            return None;
        }
        if self.breaks > 0 && rng.chance(self.breaks) {
            self.break_connection(from, to);
        }
        let is_damaged = self.corruption > 0 && rng.chance(self.corruption);
        if is_damaged {
            flip_bits(bytes, rng);
        }
        let mut delay = self.delay(rng);
        if is_bulk {
            delay += rng.duration(BULK_JITTER);
        }
        let connection = &mut self.connections[from.index()][to.index()];
        let busy_until = &mut connection.busy_until[usize::from(is_bulk)];
        let arrives_at = (now + delay).max(*busy_until);
        *busy_until = arrives_at;
        Some((arrives_at, connection.life, is_damaged))
    }

    /// Whether frames that were sent in worse times are still on their way: what follows them waits for them.
    #[must_use]
    pub fn is_behind(&self, now: Instant) -> bool {
        let late = |at: &Instant| *at > now + Duration::from_millis(2);
        self.connections.iter().flatten().any(|connection| connection.busy_until.iter().any(late))
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

    /// Cuts both directions between two slots, on the planes named.
    pub fn cut_both_ways(&mut self, one: Slot, other: Slot, pulse: bool, stream: bool) {
        self.cuts.push(Cut { from: one, to: other, pulse, stream });
        self.cuts.push(Cut { from: other, to: one, pulse, stream });
    }

    /// Nothing reaches `slot` from any other, or leaves it, on the planes named.
    pub fn isolate(&mut self, slot: Slot, pulse: bool, stream: bool) {
        for other in (0..self.connections.len()).map(|other| Slot(other as u8)).filter(|other| *other != slot) {
            self.cut_both_ways(slot, other, pulse, stream);
        }
    }

    fn is_cut(&self, from: Slot, to: Slot, plane: impl Fn(&Cut) -> bool) -> bool {
        self.cuts.iter().any(|cut| cut.from == from && cut.to == to && plane(cut))
    }

    fn delay(&self, rng: &mut Rng) -> Duration {
        self.delay_min + rng.duration(self.delay_jitter)
    }
}

/// Flips one to three bits: so few are always noticed by a CRC-32 of what is sent here.
fn flip_bits(bytes: &mut [u8], rng: &mut Rng) {
    let mut before = None;
    for _ in 0..=rng.below(3) {
        let bit = rng.below(bytes.len() as u64 * 8) as usize;
        // The same bit twice would be no damage at all.
        if before != Some(bit) {
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        before = before.or(Some(bit));
    }
}
