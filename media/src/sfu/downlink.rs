//! A subscriber's link: what its client says of it, and what the hub is told.

use std::time::Instant;

use common::control::EventKind;

use super::Sfu;
use crate::estimate::Estimator;
use crate::feedback::TransportFeedback;

/// Smaller changes are not told.
const TOLD_CHANGE: f64 = 0.1;

impl Sfu {
    pub(super) fn on_transport_feedback(
        &mut self,
        now: Instant,
        slot: usize,
        feedback: &TransportFeedback<'_>,
    ) {
        if let Some(estimator) = &mut self.transports[slot].estimator {
            estimator.on_feedback(now, feedback);
        }
    }

    pub(super) fn on_remb(&mut self, now: Instant, slot: usize, bitrate: u64) {
        let transport = &mut self.transports[slot];
        // Of a publisher it means nothing.
        if !transport.consumers.is_empty() {
            transport.estimator.get_or_insert_with(|| Estimator::new(now)).on_remb(bitrate);
        }
    }

    /// Once per report interval, and only news.
    pub(super) fn tell_downlink(&mut self, slot: usize) {
        let transport = &mut self.transports[slot];
        let Some(estimator) = &transport.estimator else { return };
        let Some(available_bitrate) = estimator.bitrate() else { return };
        let change = |told: u64| available_bitrate.abs_diff(told) as f64 > TOLD_CHANGE * told as f64;
        if !transport.told_bitrate.is_none_or(change) {
            return;
        }
        transport.told_bitrate = Some(available_bitrate);
        let (loss, by_feedback) = (estimator.loss() as f32, estimator.round_trip());
        // A report's round trip does not contain the wait for feedback.
        let round_trip = transport.round_trip.unwrap_or(by_feedback);
        let (room, peer) = (transport.room.clone(), transport.peer.clone());
        self.tell(&room, &peer, EventKind::Downlink { available_bitrate, loss, round_trip });
    }
}
