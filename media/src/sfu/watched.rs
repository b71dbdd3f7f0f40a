//! Layers that nobody watches: counted over a producer's consumers, told to its publisher, and entered again with the first
//! packet when they come back. The patience is `wanted`'s.

use std::time::Instant;

use common::control::EventKind;

use super::Sfu;
use crate::keyframe::KeyframeRequests;

impl Sfu {
    /// Looks again at who watches what of a producer. Without anybody its lowest layer goes on, so that whoever comes has a
    /// picture at once; that a link has no room for a layer does not make it unwanted.
    pub(super) fn review_wanted(&mut self, now: Instant, key: usize) {
        let Some(producer) = self.producers.get_mut(key).filter(|it| !it.paused) else { return };
        let Some(top) = producer.encodings.len().checked_sub(1).filter(|top| *top > 0) else { return };
        let running = producer.consumers.iter().map(|key| &self.consumers[*key]).filter(|it| !it.paused);
        let wanted = running.map(|consumer| usize::from(consumer.preferred.0).min(top)).max();
        if producer.is_imported() {
            return self.tell_wanted_afar(key, wanted.unwrap_or(0));
        }
        let wanted = wanted.max(producer.span.wanted().map(|wanted| wanted.min(top)));
        if let Some(spatial) = producer.wanted.review(now, wanted.unwrap_or(0) as u8) {
            let (room, peer, id) = (producer.room.clone(), producer.peer.clone(), producer.id.clone());
            tracing::debug!(producer = %id, spatial, "layers wanted");
            self.tell(&room, &peer, EventKind::LayersWanted { producer: id, spatial });
        }
    }

    /// The first packet of an encoding that was silent: whoever waits for it enters with this packet if it begins a keyframe;
    /// else one is asked for, and no earlier request stands in the way.
    pub(super) fn encoding_returns(&mut self, now: Instant, key: usize, encoding: usize, is_keyframe: bool) {
        let producer = &mut self.producers[key];
        producer.encodings[encoding].keyframes = KeyframeRequests::default();
        producer.encodings[encoding].asked_afar = None;
        for consumer in producer.consumers.clone() {
            let flows = self.producers[key].encodings.iter().map(|it| it.flows(now));
            let chosen = &mut self.consumers[consumer].selector;
            chosen.choose(flows);
            if chosen.target() == Some(encoding) && !is_keyframe {
                self.request_keyframe_for(now, consumer);
            }
        }
    }
}
