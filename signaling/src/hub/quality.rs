//! How good a peer's connection is: the rating that its room sees, the summary in the call log (protocol §5).
//!
//! Two views of it: what clients report, and what media reads from a peer's RTCP. The latter is ours and knows how many
//! packets there were, so in a room it goes first; a call between two people has only the former.

use std::time::{Duration, Instant};

use common::call_record::QualitySummary;
use common::ids::{PeerId, RoomId, SessionId};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Hub, Refusal};
use crate::message::QualityReport;

/// For reports without the number of packets: 50/s of audio and about 100/s of video are assumed.
const PACKETS_PER_SECOND: f64 = 150.0;

/// What RTCP says once a second is rated over so long. Half of the clients' interval: a room should see trouble early.
const INTERVAL: Duration = Duration::from_secs(5);

/// RTCP that has been silent for so long says nothing any more; what the client reports counts again.
const VIEW_MAX_AGE: Duration = Duration::from_secs(15);

/// Intervals in a row that must be better before a room is told: a connection on the brink of two ratings would otherwise
/// send one notification per peer and interval.
const BETTER_INTERVALS: u8 = 2;

/// From the best to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Rating {
    Excellent,
    Good,
    Fair,
    Poor,
}

/// Loss ratio and round-trip time in seconds below which a rating holds (protocol §5).
const BOUNDS: [(Rating, f64, f64); 3] =
    [(Rating::Excellent, 0.01, 0.1), (Rating::Good, 0.03, 0.2), (Rating::Fair, 0.08, 0.3)];

impl Rating {
    const ALL: [Self; 4] = [Self::Excellent, Self::Good, Self::Fair, Self::Poor];

    fn of(loss: f64, round_trip_secs: f64) -> Self {
        let holds =
            |&&(_, loss_max, rtt_max): &&(Self, f64, f64)| loss < loss_max && round_trip_secs < rtt_max;
        BOUNDS.iter().find(holds).map_or(Self::Poor, |(rating, ..)| *rating)
    }

    /// As in the call log.
    fn name(self) -> &'static str {
        match self {
            Self::Excellent => "excellent",
            Self::Good => "good",
            Self::Fair => "fair",
            Self::Poor => "poor",
        }
    }
}

/// The last report of a session: totals since the client's start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Last {
    at: Instant,
    lost: f64,
    received: Option<f64>,
}

impl Last {
    /// Packets lost over packets sent since the report before.
    fn loss_since(&self, before: Option<&Self>) -> f64 {
        let Some(before) = before else { return 0.0 };
        let lost = (self.lost - before.lost).max(0.0);
        let sent = match (self.received, before.received) {
            (Some(now), Some(then)) => lost + (now - then).max(0.0),
            _ => self.at.duration_since(before.at).as_secs_f64().max(1.0) * PACKETS_PER_SECOND,
        };
        if sent > 0.0 { lost / sent } else { 0.0 }
    }
}

/// What a room knows of one of its peers.
#[derive(Debug, Default)]
pub(super) struct PeerQuality {
    /// What RTCP has said in this interval.
    interval: Option<Interval>,
    heard_at: Option<Instant>,
    told: Option<Rating>,
    /// Intervals in a row that were better than what was told.
    better: u8,
}

#[derive(Debug)]
struct Interval {
    since: Instant,
    reports: u32,
    loss: f64,
    round_trip: Duration,
}

impl PeerQuality {
    /// Takes in one RTCP report; the rating when that ends an interval.
    fn received(&mut self, now: Instant, loss: f64, round_trip: Duration) -> Option<Rating> {
        if !self.is_seen(now) {
            self.interval = None;
        }
        self.heard_at = Some(now);
        let nothing = Interval { since: now, reports: 0, loss: 0.0, round_trip: Duration::ZERO };
        let interval = self.interval.get_or_insert(nothing);
        interval.reports += 1;
        interval.loss += loss;
        interval.round_trip += round_trip;
        if now.duration_since(interval.since) < INTERVAL {
            return None;
        }
        let Interval { reports, loss, round_trip, .. } = self.interval.take()?;
        Some(Rating::of(loss / f64::from(reports), (round_trip / reports).as_secs_f64()))
    }

    /// Whether RTCP speaks for this peer.
    fn is_seen(&self, now: Instant) -> bool {
        self.heard_at.is_some_and(|at| now.duration_since(at) < VIEW_MAX_AGE)
    }

    /// Whether the room is to be told. Worse is told at once, better when it has lasted.
    fn changes_to(&mut self, rating: Rating) -> bool {
        let changes = match self.told {
            None => true,
            Some(told) if rating > told => true,
            Some(told) if rating < told => {
                self.better += 1;
                self.better >= BETTER_INTERVALS
            }
            Some(_) => false,
        };
        if changes {
            self.told = Some(rating);
        }
        if changes || self.told == Some(rating) {
            self.better = 0;
        }
        changes
    }
}

impl Hub {
    /// From a client; there is no answer unless it is wrong.
    pub(super) fn quality_report(&mut self, id: &SessionId, message: &Value) {
        let Ok(report) = serde_json::from_value::<QualityReport>(message.clone()) else {
            return self.refuse(id, Refusal::new("invalid-message", "Invalid message format"), message);
        };
        let metrics = report.metrics;
        let lost = metrics.audio_packets_lost.max(0.0) + metrics.video_packets_lost.max(0.0);
        let round_trip = metrics.round_trip_time.max(0.0);
        let last = Last { at: self.now, lost, received: metrics.packets_received };
        let Some(session) = self.sessions.get_mut(id) else { return };
        let loss = last.loss_since(session.quality.replace(last).as_ref());
        let user = session.claims.sub.clone();
        let rating = Rating::of(loss, round_trip);
        if let Ok((room, peer)) = self.place(id) {
            let now = self.now;
            if self.quality_of(&room, &peer).is_some_and(|known| !known.is_seen(now)) {
                self.rated(&room, &peer, rating);
            }
        }
        let call = report.call_id.and_then(|call| self.calls.get_mut(&call));
        if let Some(summary) = call.and_then(|call| call.quality_of(&user, id)) {
            add(summary, rating, round_trip, lost);
        }
    }

    /// From media, once per RTCP report: how a peer receives what we send it.
    pub(super) fn reception(&mut self, room: &RoomId, peer: &PeerId, loss: f32, round_trip: Duration) {
        let now = self.now;
        let known = self.quality_of(room, peer);
        let rating = known.and_then(|known| known.received(now, f64::from(loss), round_trip));
        if let Some(rating) = rating {
            self.rated(room, peer, rating);
        }
    }

    fn rated(&mut self, room: &RoomId, peer: &PeerId, rating: Rating) {
        if self.quality_of(room, peer).is_some_and(|known| known.changes_to(rating)) {
            self.notify(room, None, &json!({ "type": "quality", "peerId": peer, "rating": rating }));
        }
    }
}

/// The notification about a subscriber's own link.
pub(super) fn downlink(available_bitrate: u64, loss: f32, round_trip: Duration) -> Value {
    let rating = Rating::of(f64::from(loss), round_trip.as_secs_f64());
    json!({ "type": "downlink", "availableBitrate": available_bitrate, "rating": rating })
}

fn add(summary: &mut Option<QualitySummary>, rating: Rating, round_trip: f64, lost: f64) {
    let summary = summary.get_or_insert_with(|| QualitySummary {
        reports: 0,
        worst: rating.name().to_owned(),
        round_trip_time: 0.0,
        packets_lost: 0,
    });
    summary.reports = summary.reports.saturating_add(1);
    summary.round_trip_time += (round_trip - summary.round_trip_time) / f64::from(summary.reports);
    summary.packets_lost = lost as u64; // a total since the start; saturates
    let worst = Rating::ALL.into_iter().find(|known| known.name() == summary.worst);
    if worst.is_none_or(|worst| rating > worst) {
        summary.worst = rating.name().to_owned();
    }
}
