//! The wire schema: the only place where a client's JSON becomes Rust (`docs/protocol.md` §2, §3, §5).

use common::call_record::CallType;
use common::control::TransportDirection;
use common::ids::{
    CallId, ConsumerId, DataConsumerId, DataProducerId, PeerId, ProducerId, RoomId, TransportId, UserId,
};
use common::rtp_parameters::{
    DtlsParameters, MediaKind, RtpCapabilities, RtpParameters, SctpStreamParameters,
};
use serde::Deserialize;
use serde_json::Value;

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
    JoinRoom { room_id: RoomId, name: Option<String>, create: Option<CreateRoom> },
    /// Leaves the room.
    LeaveRoom {},
    /// Makes a WebRTC transport.
    CreateTransport {
        direction: TransportDirection,
        #[serde(default)]
        force_tcp: bool,
    },
    /// Tells the client's DTLS.
    ConnectTransport { transport_id: TransportId, dtls_parameters: DtlsParameters },
    /// New ICE credentials.
    RestartIce { transport_id: TransportId },
    /// Closes a transport and what is on it.
    CloseTransport { transport_id: TransportId },
    /// Publishes a track.
    Produce {
        transport_id: TransportId,
        kind: MediaKind,
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
    Consume { transport_id: TransportId, producer_id: ProducerId, rtp_capabilities: RtpCapabilities },
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
