//! Commands that a media worker's full queue must not swallow: what has left here must leave the SFU too.
//!
//! A request that finds the queue full is answered `overloaded`, and its client may ask again. Nobody would ask again for
//! the removal of a peer that is gone, so it waits here and is offered again, in order; so does what keeps a room together that
//! spans workers. Meanwhile nothing else goes to that worker: a peer that joins again would overtake its own removal. That bounds
//! what waits, too: each entry is of a peer, a room or something published that was there before the queue was full.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use common::control::{Action, Command, MediaError};

use super::{Hub, Output, Timer};

/// How long a worker gets to make room. Its queue holds some thousand commands, which are a few milliseconds of work.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// Per worker, oldest first; a worker without any has no entry.
#[derive(Debug, Default)]
pub(super) struct Backlog(BTreeMap<usize, VecDeque<Command>>);

impl Backlog {
    /// Whether this worker has to make room first.
    pub(super) fn holds_back(&self, worker: usize) -> bool {
        self.0.contains_key(&worker)
    }

    /// How many commands wait.
    pub(super) fn len(&self) -> usize {
        self.0.values().map(VecDeque::len).sum()
    }
}

/// Whether nobody would ask for it again.
fn must_arrive(action: &Action) -> bool {
    matches!(
        action,
        Action::CloseRoom
            | Action::RemovePeer
            | Action::Export { .. }
            | Action::EndExport { .. }
            | Action::Import { .. }
            | Action::PauseImport { .. }
            | Action::CloseImport { .. }
    )
}

impl Hub {
    /// The worker had no room for this command, or is held back.
    pub(super) fn queue_full(&mut self, worker: usize, command: Command) {
        if !must_arrive(&command.action) {
            return self.reply(command.token, Err(MediaError::Overloaded));
        }
        if !self.backlog.holds_back(worker) {
            self.timers.insert((self.now + RETRY_AFTER, Timer::Retry(worker)));
        }
        let waiting = self.backlog.0.entry(worker).or_default();
        if let Action::PauseImport { producer, .. } = &command.action {
            // Only the last word counts, and publishers may change their minds often.
            let same = |earlier: &Command| matches!(&earlier.action, Action::PauseImport { producer: of, .. } if of == producer);
            for earlier in waiting.iter().filter(|earlier| same(earlier)) {
                self.pending.remove(&earlier.token);
            }
            waiting.retain(|earlier| !same(earlier));
        }
        if command.action == Action::CloseRoom {
            // It takes the room's peers along.
            for removal in waiting.iter().filter(|earlier| earlier.room == command.room) {
                self.pending.remove(&removal.token);
            }
            waiting.retain(|earlier| earlier.room != command.room);
        }
        waiting.push_back(command);
    }

    /// Offers everything again, before whatever else has come up; the first that finds no room holds back the rest.
    pub(super) fn retry(&mut self, worker: usize) {
        for command in self.backlog.0.remove(&worker).into_iter().flatten().rev() {
            self.outputs.push_front(Output::Media { worker, command });
        }
    }
}
