//! What clients are told of quality: a score per encoding and consumer, and who speaks. Only changes are told.

use std::time::Instant;

use common::control::{EncodingScore, EventKind};
use common::ids::PeerId;
use common::rtp_parameters::MediaKind;

use super::Sfu;
use crate::parcel::Saying;
use crate::speaker::Turn;

/// 10 is everything, 0 nothing; `fraction_lost` is of 256 (RFC 3550 §6.4.1). Any loss costs a point.
fn score(fraction_lost: u8) -> u8 {
    10 - (u32::from(fraction_lost) * 10).div_ceil(256) as u8
}

impl Sfu {
    /// The publisher's side of a report interval. `fraction_lost` of each encoding was noted by the report.
    pub(super) fn tell_producer_scores(&mut self, now: Instant, slot: usize) {
        for key in self.transports[slot].producers.clone() {
            let producer = &mut self.producers[key];
            if producer.paused || producer.encodings.iter().all(|it| it.reception.last_heard.is_none()) {
                continue;
            }
            for (index, encoding) in producer.encodings.iter_mut().enumerate() {
                if encoding.flows(now) {
                    encoding.score = score(encoding.fraction_lost);
                } else if !producer.wanted.excuses(now, index) {
                    encoding.score = 0;
                }
            }
            for encoding in 0..self.producers[key].encodings.len() {
                let score = self.producers[key].encodings[encoding].score;
                self.export(key, &Saying::Score { encoding, score });
            }
            let producer = &mut self.producers[key];
            if producer.encodings.iter().all(|encoding| encoding.told_score == Some(encoding.score)) {
                continue;
            }
            let each = producer.encodings.iter_mut().enumerate().map(|(index, encoding)| {
                encoding.told_score = Some(encoding.score);
                EncodingScore {
                    encoding_idx: index as u8,
                    ssrc: encoding.ssrc,
                    rid: encoding.rid.clone(),
                    score: encoding.score,
                }
            });
            let scores = each.collect();
            let (room, peer, id) = (producer.room.clone(), producer.peer.clone(), producer.id.clone());
            self.tell(&room, &peer, EventKind::ProducerScore { producer: id, scores });
        }
    }

    /// The subscriber's.
    pub(super) fn tell_consumer_scores(&mut self, slot: usize) {
        for key in self.transports[slot].consumers.clone() {
            let consumer = &mut self.consumers[key];
            let encodings = &self.producers[consumer.producer].encodings;
            let current = consumer.selector.current().and_then(|current| encodings.get(current));
            let (Some(current), false) = (current, consumer.paused) else { continue };
            let scores = (score(consumer.fraction_lost), current.score);
            if current.told_score.is_none() || consumer.told_scores == Some(scores) {
                continue;
            }
            consumer.told_scores = Some(scores);
            let producer_scores = encodings.iter().map(|encoding| encoding.score).collect();
            let (room, peer, id) = (consumer.room.clone(), consumer.peer.clone(), consumer.id.clone());
            let (score, producer_score) = scores;
            let kind = EventKind::ConsumerScore { consumer: id, score, producer_score, producer_scores };
            self.tell(&room, &peer, kind);
        }
    }

    /// Whether this packet of a voice is forwarded where only some are. Who loses its place begins anew, in its subscribers'
    /// numbering, when it comes back.
    pub(super) fn has_floor(&mut self, now: Instant, key: usize, level: u8) -> bool {
        let producer = &mut self.producers[key];
        let Some(room) = self.rooms.get_mut(&producer.room) else { return true };
        match room.floor.hear(now, self.config.max_speakers, key, level, &mut producer.speech_run) {
            Turn::Holds => true,
            Turn::Waits => false,
            Turn::Enters(former) => {
                if let Some(former) = former.and_then(|former| self.producers.get(former)) {
                    for consumer in &former.consumers {
                        self.consumers[*consumer].selector.restart();
                    }
                }
                true
            }
        }
    }

    /// A voice is muted or gone: its place is free.
    pub(super) fn leave_floor(&mut self, key: usize) {
        if let Some(producer) = self.producers.get(key)
            && let Some(room) = self.rooms.get_mut(&producer.room)
        {
            room.floor.leave(key);
        }
    }

    /// An election in the room of this publisher, when one is due.
    pub(super) fn elect_speaker(&mut self, now: Instant, slot: usize) {
        let id = self.transports[slot].room.clone();
        let Some(room) = self.rooms.get_mut(&id) else { return };
        if !room.election.is_due(now) {
            return;
        }
        let mut voices: Vec<(PeerId, u32)> = Vec::new();
        for (peer, member) in &room.peers {
            for key in member.producers.values() {
                let producer = &mut self.producers[*key];
                if producer.kind == MediaKind::Audio {
                    voices.push((peer.clone(), producer.voice.turn()));
                }
            }
        }
        if let Some(speaker) = room.election.decide(&voices) {
            let peer = self.transports[slot].peer.clone();
            self.tell(&id, &peer, EventKind::ActiveSpeaker(speaker));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_loss_costs_a_point_and_total_loss_all() {
        assert_eq!([0, 1, 25, 26, 128, 255].map(score), [10, 9, 9, 8, 5, 0]);
    }
}
