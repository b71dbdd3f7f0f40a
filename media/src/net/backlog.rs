//! What waits for the hub: replies and events of one worker, bounded while the hub is stuck.
//!
//! Commands are taken only while [`Backlog::has_room`], so replies are bounded, and so is the number of objects whose end
//! must be told, each once. Those are never dropped. Of what could go on for ever, loads, reception reports, scores and speakers
//! are dropped and counted when the queue is full (others come), and a consumer's newest layers take the place of its
//! older ones.

use std::collections::VecDeque;

use common::control::{Event, EventKind, FromMedia};

/// Messages that wait before no more commands are taken and statistics are dropped.
const QUEUED_MAX: usize = 8192;

/// The queue of one worker.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    messages: VecDeque<FromMedia>,
    /// Events that nobody will hear of.
    pub(super) dropped: u64,
}

impl Backlog {
    /// Whether another command may be taken.
    pub(super) fn has_room(&self) -> bool {
        self.messages.len() < QUEUED_MAX
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The oldest.
    pub(super) fn pop(&mut self) -> Option<FromMedia> {
        self.messages.pop_front()
    }

    /// Appends a message, or what stands for it when there is no room.
    pub(super) fn push(&mut self, message: FromMedia) {
        if !self.has_room() {
            if matches!(message, FromMedia::Load { .. }) {
                self.dropped += 1;
                return;
            }
            match kind(&message) {
                Some(
                    EventKind::Reception { .. }
                    | EventKind::ProducerScore { .. }
                    | EventKind::ConsumerScore { .. }
                    | EventKind::ActiveSpeaker(_),
                ) => {
                    self.dropped += 1;
                    return;
                }
                Some(EventKind::ConsumerLayers { consumer, .. }) => {
                    // Only what came after the queue was full is looked through: one entry per consumer at most.
                    let same = |it: &FromMedia| matches!(kind(it), Some(EventKind::ConsumerLayers { consumer: it, .. }) if it == consumer);
                    if let Some(older) = self.messages.iter().skip(QUEUED_MAX).position(same) {
                        self.messages.remove(QUEUED_MAX + older);
                        self.dropped += 1;
                    }
                }
                _ => {}
            }
        }
        self.messages.push_back(message);
    }
}

fn kind(message: &FromMedia) -> Option<&EventKind> {
    match message {
        FromMedia::Event(Event { kind, .. }) => Some(kind),
        FromMedia::Reply(_) | FromMedia::Load { .. } | FromMedia::Lost => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use common::control::{Done, Reply};
    use common::ids::{ConsumerId, PeerId, RoomId};

    use super::*;

    fn event(kind: EventKind) -> FromMedia {
        let (room, peer) = (RoomId::new("room").expect("an id"), PeerId::new("alice").expect("an id"));
        FromMedia::Event(Event { room, peer, kind })
    }

    fn reception() -> FromMedia {
        event(EventKind::Reception { loss: 0.0, round_trip: Duration::ZERO })
    }

    fn layers(consumer: usize, spatial: u8) -> FromMedia {
        let consumer = ConsumerId::new(&format!("c{consumer}")).expect("an id");
        event(EventKind::ConsumerLayers { consumer, layers: Some((spatial, 0)) })
    }

    #[test]
    fn a_stuck_hub_loses_statistics_and_nothing_else() {
        let mut backlog = Backlog::default();
        let closed = event(EventKind::ConsumerClosed(ConsumerId::new("c0").expect("an id")));
        let reply = FromMedia::Reply(Reply { token: 1, result: Ok(Done::Ok) });
        (0..QUEUED_MAX).for_each(|_| backlog.push(reception()));
        assert!(!backlog.has_room());
        for round in 0..100 {
            backlog.push(reception());
            (0..3).for_each(|consumer| backlog.push(layers(consumer, round)));
        }
        backlog.push(closed.clone());
        backlog.push(reply.clone());
        assert_eq!(backlog.dropped, 100 + 99 * 3);
        let kept: Vec<FromMedia> = std::iter::from_fn(|| backlog.pop()).skip(QUEUED_MAX).collect();
        assert_eq!(kept, [layers(0, 99), layers(1, 99), layers(2, 99), closed, reply]);
    }

    #[test]
    fn with_room_everything_is_told() {
        let mut backlog = Backlog::default();
        let told = [layers(0, 0), reception(), layers(0, 1)];
        told.iter().for_each(|message| backlog.push(message.clone()));
        assert_eq!(std::iter::from_fn(|| backlog.pop()).collect::<Vec<_>>(), told);
        assert!(backlog.is_empty() && backlog.has_room());
    }
}
