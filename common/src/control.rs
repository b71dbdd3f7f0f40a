//! The values that signaling and media exchange: commands one way, replies and events the other.
//!
//! `signaling::hub` sends [`Command`]s into a worker's bounded queue and receives [`FromMedia`]. Every [`Command`] that is
//! accepted gets exactly one [`Reply`] with its token, in order per room. Objects belong to the peer that made them: an id
//! is looked up under (`room`, `peer`), so naming another's object answers "not found".

use serde_json::Value;

use crate::ids::{ConsumerId, DataConsumerId, DataProducerId, PeerId, ProducerId, RoomId, TransportId};
use crate::rtp_parameters::{
    DtlsParameters, IceCandidate, IceParameters, MediaKind, RtpCapabilities, RtpParameters, SctpParameters,
    SctpStreamParameters,
};

/// Correlates a [`Command`] with its [`Reply`]; chosen by the hub, opaque to media.
pub type Token = u64;

/// Which way media flows on a transport, seen from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransportDirection {
    /// The client publishes.
    Send,
    /// The client subscribes.
    Recv,
}

/// From the hub to the worker on which the peer is, or on which something of it is imported.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Returned with the reply.
    pub token: Token,
    /// The room.
    pub room: RoomId,
    /// Who asks. For [`Action::OpenRoom`] and [`Action::CloseRoom`] it is ignored.
    pub peer: PeerId,
    /// What is asked.
    pub action: Action,
}

/// What a [`Command`] asks. The comment names the variant of [`Done`] that answers it when it succeeds.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Makes the room if it does not exist; `codecs` restricts and orders the router's codecs by MIME subtype
    /// (`"opus"`, `"VP8"` …), `None` takes the configured ones. → [`Done::Room`]
    OpenRoom {
        /// Codec names, in order of preference.
        codecs: Option<Vec<String>>,
    },
    /// Closes everything in the room; no events are sent for what is closed. → [`Done::Ok`]
    CloseRoom,
    /// Adds a peer without transports. → [`Done::Ok`]
    AddPeer,
    /// Closes all that a peer has. Other peers' consumers of it are closed with [`EventKind::ConsumerClosed`]. → [`Done::Ok`]
    RemovePeer,
    /// → [`Done::Transport`]
    CreateTransport {
        /// Seen from the client.
        direction: TransportDirection,
        /// Offer only TCP candidates.
        force_tcp: bool,
    },
    /// → [`Done::Ok`]. A second connect is `already-connected`.
    ConnectTransport {
        /// The transport.
        transport: TransportId,
        /// The client's role and certificate hashes.
        dtls: DtlsParameters,
    },
    /// → [`Done::Ice`]
    RestartIce {
        /// The transport.
        transport: TransportId,
    },
    /// → [`Done::Ok`]; producers on it are closed with [`EventKind::ProducerClosed`].
    CloseTransport {
        /// The transport.
        transport: TransportId,
    },
    /// → [`Done::Producer`]
    Produce {
        /// The send transport.
        transport: TransportId,
        /// Audio or video.
        kind: MediaKind,
        /// What will be on the wire from the client.
        rtp: RtpParameters,
        /// Start paused.
        paused: bool,
    },
    /// → [`Done::Ok`]
    PauseProducer {
        /// The producer.
        producer: ProducerId,
    },
    /// → [`Done::Ok`]
    ResumeProducer {
        /// The producer.
        producer: ProducerId,
    },
    /// → [`Done::Ok`]; its consumers are closed with [`EventKind::ConsumerClosed`].
    CloseProducer {
        /// The producer.
        producer: ProducerId,
    },
    /// → [`Done::Consumer`], created paused. The producer may be anybody's in the room.
    Consume {
        /// The receive transport.
        transport: TransportId,
        /// Any producer in the room.
        producer: ProducerId,
        /// The device's.
        capabilities: RtpCapabilities,
    },
    /// → [`Done::Ok`]
    PauseConsumer {
        /// The consumer.
        consumer: ConsumerId,
    },
    /// → [`Done::Ok`]; asks the producer for a keyframe.
    ResumeConsumer {
        /// The consumer.
        consumer: ConsumerId,
    },
    /// → [`Done::Ok`]
    CloseConsumer {
        /// The consumer.
        consumer: ConsumerId,
    },
    /// → [`Done::Ok`]
    SetPreferredLayers {
        /// The consumer.
        consumer: ConsumerId,
        /// 0 is the lowest.
        spatial: u8,
        /// 0 is the lowest; `None` is the highest there is.
        temporal: Option<u8>,
    },
    /// → [`Done::Ok`]
    SetPriority {
        /// The consumer.
        consumer: ConsumerId,
        /// 1–255, larger is more important.
        priority: u8,
    },
    /// → [`Done::Ok`]
    RequestKeyFrame {
        /// The consumer.
        consumer: ConsumerId,
    },
    /// → [`Done::DataProducer`]
    ProduceData {
        /// The send transport.
        transport: TransportId,
        /// The stream that the client chose.
        sctp: SctpStreamParameters,
        /// Carried in signaling only.
        label: String,
        /// Carried in signaling only.
        protocol: String,
    },
    /// → [`Done::DataConsumer`]
    ConsumeData {
        /// The receive transport.
        transport: TransportId,
        /// Any data producer in the room.
        data_producer: DataProducerId,
    },
    /// → [`Done::Ok`]; its consumers are closed with [`EventKind::DataConsumerClosed`].
    CloseDataProducer {
        /// The data producer.
        data_producer: DataProducerId,
    },
    /// → [`Done::Ok`]
    CloseDataConsumer {
        /// The data consumer.
        data_consumer: DataConsumerId,
    },
    /// → [`Done::Stats`]
    Stats(StatsOf),
    /// Sends what a producer of this peer publishes to another worker of the room as well. → [`Done::Ok`]
    Export {
        /// Producer or data producer.
        published: PublishedId,
        /// What both workers call it; never used for another.
        pipe: u64,
        /// The other worker.
        to: usize,
    },
    /// No more of it. → [`Done::Ok`]
    EndExport {
        /// Producer or data producer.
        published: PublishedId,
        /// The other worker.
        to: usize,
    },
    /// Adds to the room what a peer publishes on another worker; the peer has no more than that here, and
    /// [`Action::RemovePeer`] takes all of it away. → [`Done::Ok`]
    Import {
        /// As there.
        pipe: u64,
        /// The worker on which it is published.
        from: usize,
        /// What it is.
        published: Box<Imported>,
    },
    /// It has been paused there, or resumed. → [`Done::Ok`]
    PauseImport {
        /// The producer.
        producer: ProducerId,
        /// Or resumed.
        paused: bool,
    },
    /// It is no longer published; its consumers are closed with [`EventKind::ConsumerClosed`] or
    /// [`EventKind::DataConsumerClosed`]. → [`Done::Ok`]
    CloseImport {
        /// Producer or data producer.
        published: PublishedId,
    },
}

/// What a peer publishes, by id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PublishedId {
    /// Audio or video.
    Media(ProducerId),
    /// A data channel.
    Data(DataProducerId),
}

/// What another worker needs to know of what is published.
#[derive(Debug, Clone, PartialEq)]
pub enum Imported {
    /// Audio or video.
    Media {
        /// The producer.
        id: ProducerId,
        /// Audio or video.
        kind: MediaKind,
        /// As the publisher described it.
        rtp: RtpParameters,
        /// Whether it is paused now.
        paused: bool,
    },
    /// A data channel.
    Data {
        /// The data producer.
        id: DataProducerId,
        /// The publisher's stream; consumers get streams of their own that are like it.
        sctp: SctpStreamParameters,
        /// Carried in signaling only.
        label: String,
        /// Carried in signaling only.
        protocol: String,
    },
}

/// Whose statistics are asked for; all of them belong to the asking peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatsOf {
    /// All of the peer's transports.
    Peer,
    /// One transport.
    Transport(TransportId),
    /// One producer.
    Producer(ProducerId),
    /// One consumer.
    Consumer(ConsumerId),
}

/// What a successful command did.
#[derive(Debug, Clone, PartialEq)]
pub enum Done {
    /// Nothing to tell.
    Ok,
    /// The room is there.
    Room {
        /// For `Device.load`.
        capabilities: RtpCapabilities,
    },
    /// A transport was made.
    Transport(Box<TransportInfo>),
    /// New ICE credentials; the old ones stay valid until the first request with the new ones.
    Ice(IceParameters),
    /// A producer was made.
    Producer {
        /// Its id.
        id: ProducerId,
    },
    /// A consumer was made.
    Consumer(Box<ConsumerInfo>),
    /// A data producer was made.
    DataProducer {
        /// Its id.
        id: DataProducerId,
    },
    /// A data consumer was made.
    DataConsumer(Box<DataConsumerInfo>),
    /// W3C-webrtc-stats-shaped records.
    Stats(Vec<Value>),
}

/// What a client needs to connect a transport.
#[derive(Debug, Clone, PartialEq)]
pub struct TransportInfo {
    /// Its id.
    pub id: TransportId,
    /// Our credentials.
    pub ice_parameters: IceParameters,
    /// Our addresses.
    pub ice_candidates: Vec<IceCandidate>,
    /// Our certificate.
    pub dtls_parameters: DtlsParameters,
    /// Our SCTP.
    pub sctp_parameters: SctpParameters,
}

/// `simple`, `simulcast` or `svc`, as `consume` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConsumerType {
    /// One encoding.
    Simple,
    /// Several encodings, one is forwarded.
    Simulcast,
    /// One encoding with layers.
    Svc,
}

/// A consumer, as the subscriber needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct ConsumerInfo {
    /// Its id.
    pub id: ConsumerId,
    /// Its producer.
    pub producer: ProducerId,
    /// Audio or video.
    pub kind: MediaKind,
    /// What we will send.
    pub rtp: RtpParameters,
    /// Its type.
    pub consumer_type: ConsumerType,
    /// Whether the publisher has paused.
    pub producer_paused: bool,
}

/// A data consumer, as the subscriber needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct DataConsumerInfo {
    /// Its id.
    pub id: DataConsumerId,
    /// Its data producer.
    pub data_producer: DataProducerId,
    /// The stream that we chose.
    pub sctp: SctpStreamParameters,
    /// From the data producer.
    pub label: String,
    /// From the data producer.
    pub protocol: String,
}

/// Why a command failed. [`MediaError::code`] is the stable word for programs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MediaError {
    /// No such room on this worker.
    #[error("Room not found")]
    RoomNotFound,
    /// No such peer in the room.
    #[error("Peer not found")]
    PeerNotFound,
    /// Not a transport of this peer.
    #[error("Transport not found")]
    TransportNotFound,
    /// Not a producer of this peer (or, for consume, of this room).
    #[error("Producer not found")]
    ProducerNotFound,
    /// Not a consumer of this peer.
    #[error("Consumer not found")]
    ConsumerNotFound,
    /// Not a data producer of this peer (or, for consume, of this room).
    #[error("Data producer not found")]
    DataProducerNotFound,
    /// Not a data consumer of this peer.
    #[error("Data consumer not found")]
    DataConsumerNotFound,
    /// No codec fits the device.
    #[error("No codec that this device can receive")]
    CannotConsume,
    /// `connect-transport` was sent twice.
    #[error("Transport is already connected")]
    AlreadyConnected,
    /// Parameters that no client of the contract sends; the text says which.
    #[error("Invalid parameters: {0}")]
    InvalidParameters(String),
    /// The peer or the worker holds as many objects as it may.
    #[error("Too many {0}")]
    LimitReached(&'static str),
    /// The worker's queue is full.
    #[error("The media worker is overloaded")]
    Overloaded,
}

impl MediaError {
    /// The stable word for programs (`docs/protocol.md` §3).
    pub fn code(&self) -> &'static str {
        match self {
            Self::RoomNotFound => "room-not-found",
            Self::PeerNotFound => "peer-not-found",
            Self::TransportNotFound => "transport-not-found",
            Self::ProducerNotFound => "producer-not-found",
            Self::ConsumerNotFound => "consumer-not-found",
            Self::DataProducerNotFound => "data-producer-not-found",
            Self::DataConsumerNotFound => "data-consumer-not-found",
            Self::CannotConsume => "cannot-consume",
            Self::AlreadyConnected => "already-connected",
            Self::InvalidParameters(_) => "invalid-parameters",
            Self::LimitReached(_) => "limit-reached",
            Self::Overloaded => "overloaded",
        }
    }
}

/// The answer to one [`Command`].
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The command's.
    pub token: Token,
    /// What came of it.
    pub result: Result<Done, MediaError>,
}

/// Something that happened in media and concerns one peer.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The room.
    pub room: RoomId,
    /// Who is told (for producer events: whose producer it is; the hub tells the others).
    pub peer: PeerId,
    /// What happened.
    pub kind: EventKind,
}

/// How one encoding arrives at us.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EncodingScore {
    /// Its place among the producer's encodings.
    pub encoding_idx: u8,
    /// Where it is known.
    pub ssrc: Option<u32>,
    /// Where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rid: Option<String>,
    /// 0–10; 0 when nothing comes.
    pub score: u8,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum EventKind {
    /// Its producer has gone, or its transport.
    ConsumerClosed(ConsumerId),
    /// Its data producer has gone.
    DataConsumerClosed(DataConsumerId),
    /// A producer of this peer ended without being asked (its transport closed); the hub tells the room.
    ProducerClosed(ProducerId),
    /// A data producer of this peer ended without being asked.
    DataProducerClosed(DataProducerId),
    /// The layers that a consumer now receives; `None` when nothing can be forwarded.
    ConsumerLayers {
        /// The consumer.
        consumer: ConsumerId,
        /// Spatial and temporal layer.
        layers: Option<(u8, u8)>,
    },
    /// A transport was lost: `reason` is `"ice-timeout"`, `"dtls-failed"` or `"dtls-closed"`.
    TransportClosed {
        /// The transport.
        transport: TransportId,
        /// Why.
        reason: &'static str,
    },
    /// The highest layer of a simulcast producer that its publisher is to send, when that has changed: nobody watches the
    /// ones above.
    LayersWanted {
        /// The producer.
        producer: ProducerId,
        /// 0 is the lowest, which is always sent.
        spatial: u8,
    },
    /// How a publisher's encodings arrive at us, when a score has changed.
    ProducerScore {
        /// The producer.
        producer: ProducerId,
        /// One per encoding.
        scores: Vec<EncodingScore>,
    },
    /// How a consumer is received, when a score has changed. Scores are 0–10.
    ConsumerScore {
        /// The consumer.
        consumer: ConsumerId,
        /// By what the subscriber reports.
        score: u8,
        /// Of the encoding that is forwarded, as it arrives at us.
        producer_score: u8,
        /// Of all encodings.
        producer_scores: Vec<u8>,
    },
    /// Who speaks in the room now; the event's peer is whoever was looked at last.
    ActiveSpeaker(Option<PeerId>),
    /// What the link towards a subscriber is taken to carry, when that has changed by a tenth.
    Downlink {
        /// Bits per second.
        available_bitrate: u64,
        /// Packets lost over packets sent lately, 0–1.
        loss: f32,
        /// From sending to feedback.
        round_trip: std::time::Duration,
    },
    /// Our own view of a peer's reception, from RTCP, over the last interval.
    Reception {
        /// Packets lost over packets expected, 0–1.
        loss: f32,
        /// Round-trip time.
        round_trip: std::time::Duration,
    },
}

/// From a worker to the hub.
#[derive(Debug, Clone, PartialEq)]
pub enum FromMedia {
    /// An answer.
    Reply(Reply),
    /// News.
    Event(Event),
    /// How busy the worker was in the last second, when that has changed.
    Load {
        /// Thousandths of its core.
        busy_permille: u16,
    },
    /// The worker has failed and begins again without any of its rooms. What it had not answered stays without an answer.
    Lost,
}
