//! What is written to the call log when a call has ended.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{CallId, RoomId, UserId};

/// Audio or video, as the caller asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallType {
    /// Voice.
    Audio,
    /// Voice and picture.
    Video,
}

/// One call, from ringing to its end. Times are wall-clock, as durations since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CallRecord {
    /// Unique per record, made by the hub: the key that keeps a record from being written twice. The call id of a client
    /// may be used again once its call has ended, so it is no key.
    pub record_id: String,
    /// As the initiator named it.
    pub call_id: CallId,
    /// Audio or video.
    pub call_type: CallType,
    /// Who rang.
    pub initiator: UserId,
    /// When the ringing began.
    pub started_at: Duration,
    /// When the first recipient answered.
    pub answered_at: Option<Duration>,
    /// When it ended.
    pub ended_at: Duration,
    /// `hangup`, `no-answer`, `rejected`, `disconnected`, `unavailable`.
    pub end_reason: String,
    /// Who ended it, when it was a person.
    pub ended_by: Option<UserId>,
    /// The room into which it was upgraded.
    pub upgraded_to: Option<RoomId>,
    /// Everybody who was in it or was rung.
    pub participants: Vec<Participant>,
}

/// One user's part in a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Participant {
    /// The user.
    pub user: UserId,
    /// When they joined; `None` for who was rung and never did.
    pub joined_at: Option<Duration>,
    /// When they left.
    pub left_at: Option<Duration>,
    /// What their client reported.
    pub quality: Option<QualitySummary>,
}

/// A participant's quality over a whole call, from its reports (`docs/protocol.md` §5).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QualitySummary {
    /// Reports received.
    pub reports: u32,
    /// Worst rating: `excellent`, `good`, `fair`, `poor`.
    pub worst: String,
    /// Mean round-trip time, seconds.
    pub round_trip_time: f64,
    /// Packets lost since the start, audio and video together.
    pub packets_lost: u64,
}
