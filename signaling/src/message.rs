//! The wire schema: the only place where a client's JSON becomes Rust (`docs/protocol.md` §2, §3, §5).

use common::call_record::CallType;
use common::control::TransportDirection;
use common::ids::{
    CallId, ConsumerId, DataConsumerId, DataProducerId, PeerId, ProducerId, RoomId, TransportId, UserId,
};
use common::rtp_parameters::{
    DtlsParameters, MediaKind, RtpCapabilities, RtpParameters, SctpStreamParameters,
};
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// Messages about calls (protocol §2); a request of a room ([`ROOM_REQUESTS`], §3) gets a reply, the report (§5) nothing.
const CALL_MESSAGES: [&str; 10] = [
    "call-initiate",
    "call-answer",
    "call-reject",
    "call-end",
    "call-invite",
    "call-upgrade",
    "offer",
    "answer",
    "renegotiate",
    "ice-candidate",
];

const ROOM_REQUESTS: [&str; 25] = [
    "join-room",
    "leave-room",
    "create-transport",
    "connect-transport",
    "restart-ice",
    "close-transport",
    "produce",
    "pause-producer",
    "resume-producer",
    "close-producer",
    "consume",
    "pause-consumer",
    "resume-consumer",
    "close-consumer",
    "set-preferred-layers",
    "set-priority",
    "request-key-frame",
    "produce-data",
    "consume-data",
    "close-data-producer",
    "close-data-consumer",
    "get-stats",
    "mute-peer",
    "remove-peer",
    "close-room",
];

const QUALITY_REPORT: &str = "quality-report";

/// Every `type` that clients may send.
pub fn message_types() -> impl Iterator<Item = &'static str> {
    CALL_MESSAGES.into_iter().chain(ROOM_REQUESTS).chain([QUALITY_REPORT])
}

/// Which of the schemas below a `type` belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// [`ClientMessage`].
    Call,
    /// [`RoomRequest`].
    Room,
    /// [`QualityReport`].
    Quality,
}

impl Family {
    /// `None` when there is no such message.
    pub(crate) fn of(kind: &str) -> Option<Self> {
        match kind {
            QUALITY_REPORT => Some(Self::Quality),
            kind if ROOM_REQUESTS.contains(&kind) => Some(Self::Room),
            kind if CALL_MESSAGES.contains(&kind) => Some(Self::Call),
            _ => None,
        }
    }
}

/// An object where one is due: serde would take an array of the fields' values, too.
fn object<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<T, D::Error> {
    let object = Map::<String, Value>::deserialize(deserializer)?;
    T::deserialize(Value::Object(object)).map_err(D::Error::custom)
}

/// Likewise, where nothing will do, too.
fn maybe_object<'de, D: Deserializer<'de>, T: DeserializeOwned>(de: D) -> Result<Option<T>, D::Error> {
    let object = Option::<Map<String, Value>>::deserialize(de)?;
    object.map(|object| T::deserialize(Value::Object(object)).map_err(D::Error::custom)).transpose()
}

/// What a client may say about calls. Unknown fields are ignored.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub(crate) enum ClientMessage {
    /// Rings the recipients.
    CallInitiate { call_id: CallId, recipient_ids: Vec<UserId>, call_type: CallType },
    /// Joins a call that rings.
    CallAnswer { call_id: CallId },
    /// Declines a call that rings.
    CallReject { call_id: CallId, reason: Option<String> },
    /// Leaves a call, or ends it for all.
    CallEnd {
        call_id: CallId,
        #[serde(default)]
        for_all: bool,
    },
    /// Rings more people.
    CallInvite { call_id: CallId, recipient_ids: Vec<UserId> },
    /// Moves the call to a room.
    CallUpgrade { call_id: CallId },
    /// An SDP offer for one member.
    Offer { call_id: CallId, recipient_id: UserId, sdp: Value },
    /// An SDP answer for one member.
    Answer { call_id: CallId, recipient_id: UserId, sdp: Value },
    /// A later offer for one member.
    Renegotiate { call_id: CallId, recipient_id: UserId, sdp: Value },
    /// An ICE candidate for one member.
    IceCandidate { call_id: CallId, recipient_id: UserId, candidate: Value },
}

/// What a client may ask of a room. Every one carries a `requestId` beside what is here.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub(crate) enum RoomRequest {
    /// Enters a room, and leaves the one before.
    JoinRoom {
        room_id: RoomId,
        name: Option<String>,
        #[serde(default, deserialize_with = "maybe_object")]
        create: Option<CreateRoom>,
    },
    /// Leaves the room.
    LeaveRoom {},
    /// Makes a WebRTC transport.
    CreateTransport {
        direction: TransportDirection,
        #[serde(default)]
        force_tcp: bool,
    },
    /// Tells the client's DTLS.
    ConnectTransport {
        transport_id: TransportId,
        #[serde(deserialize_with = "object")]
        dtls_parameters: DtlsParameters,
    },
    /// New ICE credentials.
    RestartIce { transport_id: TransportId },
    /// Closes a transport and what is on it.
    CloseTransport { transport_id: TransportId },
    /// Publishes a track.
    Produce {
        transport_id: TransportId,
        kind: MediaKind,
        #[serde(deserialize_with = "object")]
        rtp_parameters: RtpParameters,
        source: String,
        #[serde(default)]
        paused: bool,
        #[serde(default)]
        app_data: Value,
    },
    /// Stops forwarding for a while.
    PauseProducer { producer_id: ProducerId },
    /// Goes on.
    ResumeProducer { producer_id: ProducerId },
    /// Unpublishes.
    CloseProducer { producer_id: ProducerId },
    /// Subscribes to a producer; paused at first.
    Consume {
        transport_id: TransportId,
        producer_id: ProducerId,
        #[serde(deserialize_with = "object")]
        rtp_capabilities: RtpCapabilities,
    },
    /// Stops for a while.
    PauseConsumer { consumer_id: ConsumerId },
    /// Begins, or goes on.
    ResumeConsumer { consumer_id: ConsumerId },
    /// Unsubscribes.
    CloseConsumer { consumer_id: ConsumerId },
    /// Which simulcast layer is wanted.
    SetPreferredLayers { consumer_id: ConsumerId, spatial_layer: u8, temporal_layer: Option<u8> },
    /// Which consumers matter more.
    SetPriority { consumer_id: ConsumerId, priority: u8 },
    /// Asks the publisher for a key frame.
    RequestKeyFrame { consumer_id: ConsumerId },
    /// Publishes a data channel.
    ProduceData {
        transport_id: TransportId,
        #[serde(deserialize_with = "object")]
        sctp_stream_parameters: SctpStreamParameters,
        #[serde(default)]
        label: String,
        #[serde(default)]
        protocol: String,
        #[serde(default)]
        app_data: Value,
    },
    /// Subscribes to a data channel.
    ConsumeData { transport_id: TransportId, data_producer_id: DataProducerId },
    /// Unpublishes.
    CloseDataProducer { data_producer_id: DataProducerId },
    /// Unsubscribes.
    CloseDataConsumer { data_consumer_id: DataConsumerId },
    /// Statistics of one's own.
    GetStats {
        transport_id: Option<TransportId>,
        producer_id: Option<ProducerId>,
        consumer_id: Option<ConsumerId>,
    },
    /// Pauses another's producer (admin).
    MutePeer { peer_id: PeerId, producer_id: ProducerId },
    /// Sends another away (admin).
    RemovePeer { peer_id: PeerId, reason: Option<String> },
    /// Ends the room (admin).
    CloseRoom {},
}

/// What the first to join may choose.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CreateRoom {
    /// Codec names, in order of preference.
    pub codecs: Option<Vec<String>>,
    /// Peers in it, at most what the server allows.
    pub max_peers: Option<usize>,
    /// The media is encrypted end to end: told to everybody who joins.
    #[serde(default)]
    pub e2ee: bool,
}

/// How well a client receives. Unknown metrics are ignored.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct QualityReport {
    /// Of which call; none in a room.
    pub call_id: Option<CallId>,
    /// The figures.
    #[serde(deserialize_with = "object")]
    pub metrics: QualityMetrics,
}

/// What is used of a report: totals since the client's start, seconds.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct QualityMetrics {
    pub audio_packets_lost: f64,
    pub video_packets_lost: f64,
    pub packets_received: Option<f64>,
    pub round_trip_time: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// serde names the variants that it knows when it is given another.
    fn variants<T: DeserializeOwned>() -> Vec<String> {
        let error = match serde_json::from_value::<T>(serde_json::json!({ "type": "?" })) {
            Ok(_) => panic!("there is no such variant"),
            Err(error) => error.to_string(),
        };
        error.split('`').skip(3).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn every_message_that_is_parsed_is_in_the_lists_and_no_other() {
        assert_eq!(variants::<ClientMessage>(), CALL_MESSAGES);
        assert_eq!(variants::<RoomRequest>(), ROOM_REQUESTS);
    }
}
