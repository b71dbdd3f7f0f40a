//! The shell of [`crate::hub::Hub`]: one task that owns it, and the handle through which everybody else talks to it.
//!
//! In: a bounded queue from the connections (they wait when it is full, so a busy hub is felt as TCP back pressure by
//! whoever sends), the media workers' news, the clock. Out: each connection's bounded [`Outlet`], the workers' bounded
//! command queues, the call log. The task never waits for any of its outputs.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::control::{Command, FromMedia};
use common::ids::SessionId;
use common::token::Claims;
use common::wall_clock::WallClock;
use tokio::sync::{mpsc, oneshot};

use super::metrics::Metrics;
use super::outlet::Outlet;
use crate::hub::{AdminRequest, AdminResult, ConnId, Hub, HubConfig, Input, Output, Refusals};
use crate::store::CallLog;

/// Inputs that wait for the hub; a connection that finds it full stops reading until there is room.
const INPUTS_MAX: usize = 1024;

/// Why an [`AdminRequest`] was not answered.
#[derive(Debug, thiserror::Error)]
#[error("the server is stopping")]
pub(super) struct Stopped;

/// Talks to the hub's task. When the task has ended, everything is [`Stopped`].
#[derive(Debug, Clone)]
pub(super) struct HubHandle(mpsc::Sender<ToHub>);

#[derive(Debug)]
enum ToHub {
    Input(Input),
    /// What a client has sent; `taken` lets its next message into the queue.
    Message {
        input: Input,
        taken: oneshot::Sender<()>,
    },
    Connect {
        conn: ConnId,
        claims: Box<Claims>,
        resume: Option<SessionId>,
        outlet: Outlet,
    },
    Admin {
        request: AdminRequest,
        answer: oneshot::Sender<AdminResult>,
    },
    Flush {
        done: oneshot::Sender<()>,
    },
}

impl HubHandle {
    /// From here on the hub may write to `outlet`.
    pub(super) async fn connect(
        &self,
        conn: ConnId,
        claims: Claims,
        resume: Option<SessionId>,
        outlet: Outlet,
    ) -> Result<(), Stopped> {
        self.send(ToHub::Connect { conn, claims: Box::new(claims), resume, outlet }).await
    }

    pub(super) async fn input(&self, input: Input) -> Result<(), Stopped> {
        self.send(ToHub::Input(input)).await
    }

    /// A client's message. Returns when the hub has taken it: each connection has one in the queue at most, so that who sends
    /// much waits for itself and not everybody for it.
    pub(super) async fn message(&self, input: Input) -> Result<(), Stopped> {
        let (taken, was_taken) = oneshot::channel();
        self.send(ToHub::Message { input, taken }).await?;
        was_taken.await.map_err(|_| Stopped)
    }

    pub(super) async fn admin(&self, request: AdminRequest) -> Result<AdminResult, Stopped> {
        let (answer, answered) = oneshot::channel();
        self.send(ToHub::Admin { request, answer }).await?;
        answered.await.map_err(|_| Stopped)
    }

    /// Returns when everything that was sent before has been dealt with.
    pub(super) async fn flush(&self) -> Result<(), Stopped> {
        let (done, was_done) = oneshot::channel();
        self.send(ToHub::Flush { done }).await?;
        was_done.await.map_err(|_| Stopped)
    }

    async fn send(&self, message: ToHub) -> Result<(), Stopped> {
        self.0.send(message).await.map_err(|_| Stopped)
    }
}

/// What the hub's task is connected to.
pub(super) struct HubParts {
    pub(super) config: HubConfig,
    /// One per media worker, in the order of their numbers.
    pub(super) workers: Vec<mpsc::Sender<Command>>,
    pub(super) from_media: mpsc::Receiver<(usize, FromMedia)>,
    pub(super) call_log: CallLog,
    pub(super) metrics: Metrics,
}

/// Starts the task; it ends when every [`HubHandle`] is gone.
pub(super) fn start(parts: HubParts) -> Result<(HubHandle, tokio::task::JoinHandle<()>), getrandom::Error> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)?;
    let (to_hub, inputs) = mpsc::channel(INPUTS_MAX);
    let wall_told = WallClock::new(Instant::now(), unix_time());
    let task = HubTask {
        hub: Hub::new(parts.config, seed, Instant::now(), unix_time()),
        wall_told,
        workers: parts.workers,
        call_log: parts.call_log,
        metrics: parts.metrics,
        refusals: Refusals::default(),
        outlets: HashMap::new(),
        questions: HashMap::new(),
        next_question: 0,
        wake_at: None,
    };
    Ok((HubHandle(to_hub), tokio::spawn(task.run(inputs, parts.from_media))))
}

/// Time since the Unix epoch; a clock before 1970 counts as 1970.
pub(super) fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

struct HubTask {
    hub: Hub,
    workers: Vec<mpsc::Sender<Command>>,
    call_log: CallLog,
    metrics: Metrics,
    /// What the metrics have been told of already.
    refusals: Refusals,
    outlets: HashMap<ConnId, Outlet>,
    /// Administrators who wait for an answer.
    questions: HashMap<u64, oneshot::Sender<AdminResult>>,
    next_question: u64,
    wake_at: Option<Instant>,
    wall_told: WallClock,
}

impl HubTask {
    async fn run(mut self, mut inputs: mpsc::Receiver<ToHub>, mut media: mpsc::Receiver<(usize, FromMedia)>) {
        self.drain();
        loop {
            let wake_at = self.wake_at;
            let input = tokio::select! {
                message = inputs.recv() => match message {
                    Some(message) => self.accept(message),
                    None => return,
                },
                Some((worker, message)) = media.recv() => Some(Input::Media { worker, message }),
                () = sleep_until(wake_at) => Some(Input::Timeout),
            };
            if let Some(input) = input {
                let now = Instant::now();
                self.tell_wall_clock(now);
                self.hub.handle_input(now, input);
                self.drain();
            }
        }
    }

    /// Credentials and call records follow the system's clock.
    fn tell_wall_clock(&mut self, now: Instant) {
        if self.wall_told.is_old(now) {
            self.wall_told = WallClock::new(now, unix_time());
            self.hub.handle_input(now, Input::WallClock { unix_time: self.wall_told.at(now) });
        }
    }

    fn accept(&mut self, message: ToHub) -> Option<Input> {
        Some(match message {
            ToHub::Flush { done } => {
                let _ = done.send(()); // who asked may have gone
                return None;
            }
            ToHub::Input(input) => {
                if let Input::Closed { conn, .. } | Input::CutOff { conn, .. } = &input {
                    self.outlets.remove(conn);
                }
                input
            }
            ToHub::Message { input, taken } => {
                let _ = taken.send(()); // who sent it may have gone
                input
            }
            ToHub::Connect { conn, claims, resume, outlet } => {
                self.outlets.insert(conn, outlet);
                Input::Connect { conn, claims: *claims, resume }
            }
            ToHub::Admin { request, answer } => {
                let id = self.next_question;
                self.next_question += 1;
                self.questions.insert(id, answer);
                Input::Admin { id, request }
            }
        })
    }

    /// Carries out everything that the hub wants, until it only wants to be woken.
    fn drain(&mut self) {
        self.metrics.observe(self.hub.stats()); // before anybody hears of the change
        if *self.hub.refusals() != self.refusals {
            self.refusals = self.hub.refusals().clone();
            self.metrics.observe_refusals(&self.refusals);
        }
        loop {
            match self.hub.poll_output() {
                Output::Send { conn, text } => self.put_into(conn, |outlet| outlet.text(text)),
                Output::Ping { conn } => self.put_into(conn, Outlet::ping),
                Output::Close { conn, code, reason } => {
                    self.put_into(conn, |outlet| outlet.close(code, reason));
                    self.outlets.remove(&conn);
                }
                Output::Media { worker, command } => self.command_worker(worker, command),
                Output::Log(record) => self.call_log.record(record),
                Output::Admin { id, result } => {
                    if let Some(answer) = self.questions.remove(&id) {
                        let _ = answer.send(result); // who asked may have gone
                    }
                }
                Output::Timeout(wake_at) => {
                    self.wake_at = wake_at;
                    return;
                }
            }
        }
    }

    /// A connection whose outlet is full closes itself; the hub hears of it as of any lost connection.
    fn put_into(&self, conn: ConnId, act: impl FnOnce(&Outlet)) {
        if let Some(outlet) = self.outlets.get(&conn) {
            act(outlet);
        }
    }

    fn command_worker(&mut self, worker: usize, command: Command) {
        let Some(queue) = self.workers.get(worker) else { return };
        if let Err(refused) = queue.try_send(command) {
            self.metrics.worker_queue_full.inc();
            let command = refused.into_inner();
            self.hub.handle_input(Instant::now(), Input::WorkerQueueFull { worker, command });
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
