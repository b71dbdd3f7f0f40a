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

/// One call, from ringing to its end. Times are wall-clock, as durations since the Unix epoch; in JSON they are seconds
/// with six decimals at most.
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
    #[serde(with = "unix_seconds")]
    pub started_at: Duration,
    /// When the first recipient answered.
    #[serde(default, with = "unix_seconds::optional")]
    pub answered_at: Option<Duration>,
    /// When it ended.
    #[serde(with = "unix_seconds")]
    pub ended_at: Duration,
    /// `hangup`, `no-answer`, `rejected`, `disconnected`, `unavailable`, `server-stopping`.
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
    #[serde(default, with = "unix_seconds::optional")]
    pub joined_at: Option<Duration>,
    /// When they left.
    #[serde(default, with = "unix_seconds::optional")]
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

/// A wall-clock time as a JSON number of seconds since the Unix epoch. A double holds microseconds until the year 2255.
mod unix_seconds {
    use std::time::Duration;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(time.as_micros() as f64 / 1e6)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        time(f64::deserialize(deserializer)?)
    }

    fn time<E: Error>(seconds: f64) -> Result<Duration, E> {
        let time = Duration::try_from_secs_f64(seconds).map_err(E::custom)?;
        Ok(Duration::from_micros(((time.as_nanos() + 500) / 1000) as u64))
    }

    pub(super) mod optional {
        use super::{Deserialize, Deserializer, Duration, Serializer};

        pub(in super::super) fn serialize<S: Serializer>(
            time: &Option<Duration>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            match time {
                Some(time) => super::serialize(time, serializer),
                None => serializer.serialize_none(),
            }
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<Duration>, D::Error> {
            Option::<f64>::deserialize(deserializer)?.map(super::time).transpose()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn times_survive_json_to_the_microsecond(joined_micros in 0u64..4_000_000_000_000_000, left: bool) {
            let joined_at = Some(Duration::from_micros(joined_micros));
            let left_at = joined_at.filter(|_| left);
            let user = UserId::new("alice").expect("an id");
            let participant = Participant { user, joined_at, left_at, quality: None };
            let json = serde_json::to_string(&participant).expect("serializable");
            prop_assert_eq!(serde_json::from_str::<Participant>(&json).expect("its own output"), participant);
        }
    }
}
