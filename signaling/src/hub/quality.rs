//! What clients report about their connection: the rating that others see, the summary in the call log (protocol §5).

use std::time::Instant;

use common::call_record::QualitySummary;
use common::ids::{CallId, SessionId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Hub, Refusal};

/// Reports carry losses without the number of packets: 50/s of audio and about 100/s of video are assumed.
const PACKETS_PER_SECOND: f64 = 150.0;

/// From the best to the worst: loss ratio and round-trip time below which a rating holds (protocol §5).
const RATINGS: [(&str, f64, f64); 3] = [("excellent", 0.01, 0.1), ("good", 0.03, 0.2), ("fair", 0.08, 0.3)];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    call_id: Option<CallId>,
    metrics: Metrics,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Metrics {
    audio_packets_lost: f64,
    video_packets_lost: f64,
    round_trip_time: f64,
}

/// The last report of a session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Last {
    at: Instant,
    lost: f64,
    rating: &'static str,
}

fn rating(loss: f64, round_trip_secs: f64) -> &'static str {
    let holds = |(_, loss_max, rtt_max): &&(&str, f64, f64)| loss < *loss_max && round_trip_secs < *rtt_max;
    RATINGS.iter().find(holds).map_or("poor", |(rating, ..)| rating)
}

impl Hub {
    pub(super) fn quality_report(&mut self, id: &SessionId, message: &Value) {
        let Ok(report) = serde_json::from_value::<Report>(message.clone()) else {
            return self.refuse(id, Refusal::new("invalid-message", "Invalid message format"), message);
        };
        let lost = report.metrics.audio_packets_lost.max(0.0) + report.metrics.video_packets_lost.max(0.0);
        let round_trip = report.metrics.round_trip_time.max(0.0);
        let now = self.now;
        let Some(session) = self.sessions.get_mut(id) else { return };
        let (loss, before) = match session.quality {
            Some(last) => {
                let sent = now.duration_since(last.at).as_secs_f64().max(1.0) * PACKETS_PER_SECOND;
                ((lost - last.lost).max(0.0) / sent, Some(last.rating))
            }
            None => (0.0, None),
        };
        let rating = rating(loss, round_trip);
        session.quality = Some(Last { at: now, lost, rating });
        let user = session.claims.sub.clone();
        if before != Some(rating) {
            self.tell_rating(id, rating);
        }
        let call = report.call_id.and_then(|call| self.calls.get_mut(&call));
        if let Some(summary) = call.and_then(|call| call.quality_of(&user, id)) {
            add(summary, rating, round_trip, lost);
        }
    }

    fn tell_rating(&mut self, session: &SessionId, rating: &str) {
        if let Ok((room, peer)) = self.place(session) {
            self.notify(&room, None, &json!({ "type": "quality", "peerId": peer, "rating": rating }));
        }
    }
}

fn add(summary: &mut Option<QualitySummary>, rating: &'static str, round_trip: f64, lost: f64) {
    let rank = |name: &str| RATINGS.iter().position(|(rating, ..)| *rating == name).unwrap_or(RATINGS.len());
    let summary = summary.get_or_insert_with(|| QualitySummary {
        reports: 0,
        worst: rating.to_owned(),
        round_trip_time: 0.0,
        packets_lost: 0,
    });
    summary.reports = summary.reports.saturating_add(1);
    summary.round_trip_time += (round_trip - summary.round_trip_time) / f64::from(summary.reports);
    summary.packets_lost = lost as u64; // a total since the start; saturates
    if rank(rating) > rank(&summary.worst) {
        summary.worst = rating.to_owned();
    }
}
