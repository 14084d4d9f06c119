//! Three control cores in one thread, and what a peer could tell them: a million votes, and entries that are none.

use std::time::Duration;

use jumpgate::base::mutant::{Mutant, with_broken};
use jumpgate::base::{Blob, FollowerMode, Incarnation, Instant, LogIndex, NodeId, Options, Rng, Slot, Term, Timing};
use jumpgate::codec::{Envelope, Keyring, NameHash, datagram};
use jumpgate::node::message::{ControlMessage, PulseMessage};
use jumpgate::node::{ControlCore, ControlOutput};
use jumpgate::raft::{self, Entry, LogPosition, Membership, Payload, RaftRole, Snapshot, StreamMessage};

const NAME: &str = "cores";
const SECRET: &[u8] = b"correct horse battery staple";
const STRANGERS: &[u8] = b"a secret of somebody else";
/// The highest term that is believed of anybody.
const TERM: Term = Term(1 << 61);

struct Cores {
    cores: Vec<ControlCore>,
    /// Who hears and says nothing any more.
    silent: Option<usize>,
    now: Instant,
    /// By core: how far the log is applied in the last view that it gave out.
    shown: Vec<LogIndex>,
    /// How often a leader told somebody of a decision before it gave out the view with it.
    told_too_early: usize,
}

impl Cores {
    /// Three cores that have founded a cluster and have a leader.
    fn formed() -> Self {
        let now = Instant(1_000_000_000);
        let keyring = std::sync::Arc::new(Keyring::parse(SECRET).expect("it is long enough"));
        let core = |slot: u8| {
            let mut core = ControlCore::new(options(Slot(slot)), now);
            core.handle_keyring(std::sync::Arc::clone(&keyring));
            core
        };
        let (shown, told_too_early) = (vec![LogIndex::ZERO; 3], 0);
        let mut cores = Self { cores: (0..3).map(core).collect(), silent: None, now, shown, told_too_early };
        for _ in 0..5000 {
            cores.run(Duration::from_millis(1));
            if cores.cores.iter().all(|core| core.view().settings.is_some() && core.view().leader.is_some()) {
                return cores;
            }
        }
        panic!("the cores did not form a cluster in five seconds");
    }

    /// Lets time pass; everything arrives at once.
    fn run(&mut self, time: Duration) {
        self.now = self.now + time;
        for at in 0..self.cores.len() {
            self.cores[at].handle_timeout(self.now);
        }
        while let Some((from, output)) =
            (0..self.cores.len()).find_map(|at| self.cores[at].poll_output().map(|output| (at, output)))
        {
            self.note(from, &output);
            let to = match &output {
                ControlOutput::Datagram { to, .. } => Some(to.index()),
                ControlOutput::Stream { to, .. } => Some(to.slot.index()),
                _ => None,
            };
            if self.silent.is_some_and(|silent| from == silent || to == Some(silent)) {
                continue;
            }
            match output {
                ControlOutput::Datagram { to, bytes } => self.cores[to.index()].handle_datagram(self.now, &bytes),
                ControlOutput::Stream { to, message } => {
                    let envelope = Envelope { to, ..self.envelope(from, to.slot.index()) };
                    self.cores[to.slot.index()].handle_message(self.now, &envelope, message);
                }
                _ => {}
            }
        }
    }

    /// Compares what a core tells others is decided with what it has shown to its own shards.
    fn note(&mut self, from: usize, output: &ControlOutput) {
        let told = match output {
            ControlOutput::View(view) => {
                self.shown[from] = view.applied;
                return;
            }
            ControlOutput::Stream { message: ControlMessage::Raft(StreamMessage::Append { commit, .. }), .. } => {
                *commit
            }
            ControlOutput::Datagram { bytes, .. } => {
                let keyring = Keyring::parse(SECRET).expect("it is long enough");
                let decoded = datagram::decode::<Vec<PulseMessage>>(bytes, NameHash::of(NAME), &keyring);
                let commits = decoded.expect("it is sound").payload.into_iter().map(|message| match message {
                    PulseMessage::Raft(raft::PulseMessage::Heartbeat { commit, .. }) => commit,
                    _ => LogIndex::ZERO,
                });
                commits.max().unwrap_or(LogIndex::ZERO)
            }
            _ => return,
        };
        self.told_too_early += usize::from(told > self.shown[from]);
    }

    /// The envelope of what core `from` says to core `to`.
    fn envelope(&self, from: usize, to: usize) -> Envelope {
        let view = self.cores[from].view();
        let (cluster, generation) = (view.cluster, view.generation);
        Envelope { cluster, generation, from: self.cores[from].me(), to: self.cores[to].me() }
    }

    fn applied(&self, at: usize) -> LogIndex {
        self.cores[at].state().expect("it is a member").applied()
    }

    fn leader(&self) -> usize {
        let leads = |core: &ControlCore| core.raft().is_some_and(|raft| raft.role() == RaftRole::Leader);
        self.cores.iter().position(leads).expect("one leads")
    }
}

fn options(slot: Slot) -> Options {
    Options {
        cluster_name: NAME.to_owned(),
        me: NodeId::new(slot, Incarnation(1000 + u128::from(slot.0))),
        slots: 3,
        names: ["n1", "n2", "n3"].map(str::to_owned).to_vec(),
        advertised: vec![String::new(); 3],
        partitions: 1,
        replicas: 2,
        min_copies: 2,
        replicas_auto: true,
        sync_interval: Duration::from_secs(10),
        replace_after: Duration::from_secs(10),
        demote_after: Duration::from_secs(30),
        timing: Timing::default(),
        timing_adapts: true,
        followers: FollowerMode::default(),
        shards: 1,
        value_bytes_max: 1 << 20,
        key_bytes_max: 1024,
        memory_bytes_max: 1 << 30,
        requests_max: 64,
        tail_effects_max: 64,
        filling_bytes_max: 1 << 20,
        moving_bytes_per_second: 16 << 20,
        feed_effects_max: 1024,
        unix_micros_at_zero: 0,
        seed: u64::from(slot.0),
    }
}

/// A leader answers reads by the view that its shards know. Whoever could act on a decision before must not have heard of it.
#[test]
fn a_leader_shows_a_decision_to_its_own_shards_before_it_tells_anybody() {
    let told_too_early = || {
        let mut cores = Cores::formed();
        for _ in 0..2000 {
            cores.run(Duration::from_millis(1));
        }
        assert!(cores.shown.iter().all(|shown| *shown > LogIndex(4)), "nothing was decided: {:?}", cores.shown);
        cores.told_too_early
    };
    assert_eq!(told_too_early(), 0);
    assert!(with_broken(Mutant::ToldBeforeShown, told_too_early) > 0);
}

#[test]
fn a_million_forged_or_mutated_votes_raise_no_term_and_draw_no_byte() {
    let mut cores = Cores::formed();
    let at = cores.leader();
    let envelope = cores.envelope((at + 1) % 3, at);
    let last = LogPosition::new(LogIndex(1 << 40), TERM);
    let votes = [true, false].map(|transfer| raft::PulseMessage::Vote { term: TERM, last, transfer });
    let words = votes.into_iter().chain([raft::PulseMessage::PreVote { proposed: TERM, last }]);
    let keyrings = [Keyring::default(), Keyring::parse(STRANGERS).expect("it is long enough")];
    // What a stranger can make; and real ones, which a mutation must make worthless.
    let real = Keyring::parse(SECRET).expect("it is long enough");
    let mut models = Vec::new();
    for word in words.map(|word| vec![PulseMessage::Raft(word)]) {
        for (keyring, is_real) in [(&keyrings[0], false), (&keyrings[1], false), (&real, true)] {
            let mut bytes = Vec::new();
            datagram::encode(&envelope, NameHash::of(NAME), 1 << 40, &word, keyring, &mut bytes).expect("it fits");
            models.push((bytes, is_real));
        }
    }
    let (mut rng, now) = (Rng::new(1), cores.now);
    let core = &mut cores.cores[at];
    let state = |core: &ControlCore| format!("{:?} {:?}", core.raft(), core.view());
    let before = state(core);
    let counted = core.rejected().values().sum::<u64>();
    for nth in 0..1_000_000 {
        let (model, is_real) = &models[nth % models.len()];
        let mut bytes = model.clone();
        if *is_real || rng.below(4) == 0 {
            // One byte only: two changes could cancel each other out.
            let position = rng.below(bytes.len() as u64) as usize;
            bytes[position] ^= 1 + rng.below(255) as u8;
            // Attackers know how to write a checksum, unless that is what they have changed.
            let said = bytes.len() - 4;
            if position < said {
                let (checked, checksum) = bytes.split_at_mut(said);
                checksum.copy_from_slice(&crc32fast::hash(checked).to_le_bytes());
            }
        }
        core.handle_datagram(now, &bytes);
        assert!(core.poll_output().is_none(), "datagram {nth} was answered");
    }
    assert_eq!(state(core), before);
    assert_eq!(core.rejected().values().sum::<u64>() - counted, 1_000_000);
    assert!(core.rejected()["bad_code"] > 300_000 && core.rejected()["unauthenticated"] > 200_000);
    assert!(!core.rejected().contains_key("malformed"), "something was decoded: {:?}", core.rejected());
    // The test could fail: the same word, whole and by a member, is acted on.
    core.handle_datagram(now, &models[2].0);
    assert_ne!(state(core), before);
}

#[test]
fn entries_and_snapshots_whose_bytes_mean_nothing_are_refused_and_the_cluster_goes_on() {
    let mut cores = Cores::formed();
    let leader = cores.leader();
    let follower = (leader + 1) % 3;
    let envelope = cores.envelope(leader, follower);
    let raft = cores.cores[follower].raft().expect("it is a member");
    let (term, previous) = (raft.term(), LogPosition::new(raft.last_index(), raft.last_term()));
    let at = LogPosition::new(LogIndex(previous.index.0 + 1), term);
    // The leader itself says so, and says that it is committed.
    let append = |bytes: &'static [u8]| {
        let payload = Payload::Command(Blob::from_static(bytes));
        let entries = vec![Entry { index: at.index, term, payload }];
        StreamMessage::Append { term, previous, entries, commit: at.index }
    };
    let snapshot = |bytes: &'static [u8]| {
        let membership = Membership::of_voters(cores.cores.iter().map(ControlCore::me).collect());
        let (timing, state) = (Timing::default(), Blob::from_static(bytes));
        let snapshot = Snapshot { index: at.index, term, membership, timing, state };
        StreamMessage::InstallSnapshot { term, snapshot }
    };
    // Not a command at all; a node beyond every slot comes up; and a state that stands for no entry.
    let (junk, beyond, nowhere) = (&b"\xff\xff"[..], &b"\x01\x40\x01"[..], &[0, 0, 0, 0][..]);
    let words = [append(junk), append(b""), append(beyond), snapshot(junk), snapshot(b""), snapshot(nowhere)];
    for message in words {
        let core = &mut cores.cores[follower];
        let before = format!("{:?} {:?}", core.raft(), core.state());
        core.handle_message(cores.now, &envelope, ControlMessage::Raft(message));
        assert_eq!(before, format!("{:?} {:?}", core.raft(), core.state()));
    }
    let rejected = cores.cores[follower].rejected_messages();
    assert_eq!((rejected["unsound_entry"], rejected["unsound_snapshot"]), (3, 3));
    // What the leader really decides comes through as before: a death, here.
    let (silent, applied) = ((leader + 2) % 3, cores.applied(follower));
    cores.silent = Some(silent);
    for _ in 0..2000 {
        cores.run(Duration::from_millis(1));
    }
    let state = cores.cores[follower].state().expect("it is a member");
    assert!(cores.applied(follower) > applied && !state.up().contains(Slot(silent as u8)));
    assert_eq!(cores.leader(), leader);
}
