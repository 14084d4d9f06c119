//! The control core's thread.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::engine::Engine;
use super::links::PulseLink;
use crate::api::{AdminReport, AdminRequest, ClusterStatus, Error};
use crate::base::{InSyncChange, Instant, Term, limits};
use crate::codec::{Envelope, Keyring};
use crate::node::message::{ControlMessage, PeerMessage};
use crate::node::{ControlCore, ControlOutput};

/// Inputs that wait for the control core. It handles one in microseconds, so a full inbox means that its thread hangs;
/// consensus messages are sent again, so those beyond are dropped.
const INBOX_MAX: usize = 4096;
/// Datagrams handled before timers and messages get their turn again.
const DATAGRAMS_PER_TURN: usize = 64;
/// How often the core is told what the tables hold.
const LOAD_EVERY: Duration = Duration::from_millis(200);

/// Something for the control core, from another thread.
#[derive(Debug)]
pub enum ControlInput {
    /// A message of the stream plane.
    Message(Box<(Envelope, ControlMessage)>),
    /// Wishes of this node's primaries.
    Proposals(Vec<InSyncChange>),
    /// Other secrets are valid from now on.
    Keyring(Arc<Keyring>),
    /// Somebody wants to know how the cluster is.
    Status(oneshot::Sender<ClusterStatus>),
    /// Somebody wants to know what was counted.
    Counts(oneshot::Sender<ControlCounts>),
    /// An operator wishes something.
    Admin(AdminRequest, oneshot::Sender<Result<AdminReport, Error>>),
    /// The node is to hand over what it leads, and to say when it may go.
    PrepareStop(oneshot::Sender<Result<AdminReport, Error>>),
    /// The node shuts down.
    Stop,
}

/// What the control core has counted.
#[derive(Clone, Debug, Default)]
pub struct ControlCounts {
    /// Elections in which this node asked for votes, since its process started.
    pub elections: u64,
    /// What was refused, by reason: datagrams, and messages in them.
    pub pulse: BTreeMap<&'static str, u64>,
    /// The same of control messages of the stream plane.
    pub stream: BTreeMap<&'static str, u64>,
}

/// The thread, while it runs.
#[derive(Debug)]
pub struct PulseThread {
    inbox: mpsc::Sender<ControlInput>,
    thread: Option<JoinHandle<()>>,
}

impl PulseThread {
    /// The inbox of a thread that is to be started.
    #[must_use]
    pub fn inbox() -> (mpsc::Sender<ControlInput>, mpsc::Receiver<ControlInput>) {
        mpsc::channel(INBOX_MAX)
    }

    /// Starts the thread. `link` is made in it, inside its runtime.
    ///
    /// # Errors
    /// Where the thread or its runtime can't be made, or the link can't.
    pub fn start<L: PulseLink>(
        core: ControlCore,
        engine: Arc<Engine>,
        inbox: (mpsc::Sender<ControlInput>, mpsc::Receiver<ControlInput>),
        link: impl FnOnce() -> io::Result<L> + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, receiver) = inbox;
        let (ready, is_ready) = std::sync::mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("pulse".to_owned()).spawn(move || {
            runtime.block_on(async move {
                match link() {
                    Ok(link) => {
                        let _ = ready.send(Ok(()));
                        Pulse::new(core, engine, link, receiver).drive().await;
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                    }
                }
            });
        })?;
        is_ready.recv().unwrap_or_else(|_| Err(io::Error::other("the pulse thread ended at once")))?;
        Ok(Self { inbox: sender, thread: Some(thread) })
    }

    /// Stops the thread and waits for it.
    pub async fn stop(mut self) {
        let _ = self.inbox.send(ControlInput::Stop).await;
        if let Some(thread) = self.thread.take() {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

/// What the thread works on.
struct Pulse<L> {
    core: ControlCore,
    engine: Arc<Engine>,
    link: L,
    inbox: mpsc::Receiver<ControlInput>,
    /// Operators who wait for an answer, and the number of the next one.
    admins: HashMap<u64, oneshot::Sender<Result<AdminReport, Error>>>,
    next_ticket: u64,
    /// Elections in which this node asked for votes, and the term of the last one.
    elections: (u64, Term),
}

impl<L: PulseLink> Pulse<L> {
    fn new(core: ControlCore, engine: Arc<Engine>, link: L, inbox: mpsc::Receiver<ControlInput>) -> Self {
        let elections = (0, Term::ZERO);
        Self { core, engine, link, inbox, admins: HashMap::new(), next_ticket: 0, elections }
    }

    async fn drive(mut self) {
        let mut buffer = [0; limits::DATAGRAM_BYTES_MAX + 1];
        let mut load_at = Instant::ZERO;
        self.carry();
        loop {
            let now = self.engine.now();
            if let Some(at) = self.engine.progress_at() {
                self.core.handle_progress(now, at);
            }
            if now >= load_at {
                load_at = now + LOAD_EVERY;
                self.core.handle_load(now, self.engine.load());
                self.carry();
            }
            let due = self.core.poll_timeout().min(load_at);
            tokio::select! {
                biased;
                received = self.link.recv(&mut buffer) => match received {
                    Ok(length) => self.on_datagrams(length, &mut buffer),
                    Err(error) => {
                        warn!("can't receive datagrams: {error}");
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                },
                input = self.inbox.recv() => match input {
                    None | Some(ControlInput::Stop) => return,
                    Some(input) => self.on_input(input),
                },
                () = tokio::time::sleep(due.since(now)) => {}
            }
            // Datagrams may come without a pause: what is due is done all the same.
            let now = self.engine.now();
            if self.core.poll_timeout() <= now {
                self.core.handle_timeout(now);
            }
            while let Ok(input) = self.inbox.try_recv() {
                if matches!(input, ControlInput::Stop) {
                    return;
                }
                self.on_input(input);
            }
            self.carry();
        }
    }

    fn on_datagrams(&mut self, length: usize, buffer: &mut [u8]) {
        self.core.handle_datagram(self.engine.now(), &buffer[..length]);
        for _ in 1..DATAGRAMS_PER_TURN {
            let Some(length) = self.link.try_recv(buffer) else { return };
            self.core.handle_datagram(self.engine.now(), &buffer[..length]);
        }
    }

    fn on_input(&mut self, input: ControlInput) {
        let now = self.engine.now();
        match input {
            ControlInput::Message(message) => self.core.handle_message(now, &message.0, message.1),
            ControlInput::Proposals(changes) => self.core.handle_proposals(now, changes),
            ControlInput::Keyring(keyring) => self.core.handle_keyring(keyring),
            ControlInput::Status(reply) => {
                let _ = reply.send(self.core.status(now));
            }
            ControlInput::Counts(reply) => {
                let (pulse, stream) = (self.core.rejected().clone(), self.core.rejected_messages().clone());
                let _ = reply.send(ControlCounts { elections: self.elections.0, pulse, stream });
            }
            ControlInput::Admin(request, reply) => {
                let ticket = self.ticket(reply);
                self.core.handle_admin(now, ticket, &request);
            }
            ControlInput::PrepareStop(reply) => {
                let ticket = self.ticket(reply);
                self.core.handle_stop(now, ticket);
            }
            ControlInput::Stop => {}
        }
    }

    /// A number for a wish whose answer goes to `reply`.
    fn ticket(&mut self, reply: oneshot::Sender<Result<AdminReport, Error>>) -> u64 {
        // Who has gone away waits no more.
        self.admins.retain(|_, waiter| !waiter.is_closed());
        self.next_ticket += 1;
        self.admins.insert(self.next_ticket, reply);
        self.next_ticket
    }

    /// Carries away what the core has put out.
    fn carry(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                ControlOutput::Datagram { to, bytes } => self.link.send(to, &bytes),
                ControlOutput::Stream { to, message } => {
                    let view = self.core.view();
                    let (cluster, generation) = (view.cluster, view.generation);
                    let envelope = Envelope { cluster, generation, from: self.core.me(), to };
                    self.engine.send(&envelope, &PeerMessage::Control(message));
                }
                ControlOutput::View(view) => self.engine.handle_view(view),
                ControlOutput::Lease(until) => self.engine.handle_lease(until),
                ControlOutput::Event(event) => self.engine.handle_event(&event),
                ControlOutput::Admin { ticket, result } => {
                    if let Some(waiter) = self.admins.remove(&ticket) {
                        let _ = waiter.send(result);
                    }
                }
            }
        }
        // Whoever leads has asked before, perhaps within one input: the term tells one election from the next.
        if let Some(term) = self.core.candidacy().filter(|term| *term != self.elections.1) {
            self.elections = (self.elections.0 + 1, term);
        }
        let now = self.engine.now();
        self.engine.handle_pulse(now, self.core.has_quorum(now));
    }
}
