//! The ORTC objects of the mediasoup-client contract, as they cross the wire in JSON (camelCase, absent fields omitted).
//!
//! Parsing here is structural only; `media::ortc` decides what is acceptable. Sizes are bounded by the message limit of
//! the WebSocket and by [`crate::rtp_parameters::LIST_MAX`], which `media::ortc` enforces.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// No list in an ORTC object may be longer: real clients stay below 40.
pub const LIST_MAX: usize = 128;

/// Audio or video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MediaKind {
    /// `"audio"`
    Audio,
    /// `"video"`
    Video,
}

/// A codec parameter (fmtp): matching is strict, so the number 1 is not the string "1".
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ParameterValue {
    /// A JSON integer.
    Integer(i64),
    /// A JSON number with a fraction.
    Number(f64),
    /// A JSON string.
    Text(String),
}

/// Codec parameters by name.
pub type Parameters = BTreeMap<String, ParameterValue>;

/// One kind of RTCP feedback, such as `nack` with parameter `pli`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RtcpFeedback {
    /// `nack`, `ccm`, `goog-remb`, `transport-cc`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Empty, or a refinement such as `pli` or `fir`.
    #[serde(default)]
    pub parameter: String,
}

/// A codec that a router or a device can use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RtpCodecCapability {
    /// Audio or video.
    pub kind: MediaKind,
    /// For example `video/VP8`.
    pub mime_type: String,
    /// The payload type to use on the wire; always present in what a router sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_payload_type: Option<u8>,
    /// RTP clock rate in Hz.
    pub clock_rate: u32,
    /// Audio channels; absent for video.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<u8>,
    /// Format parameters.
    #[serde(default)]
    pub parameters: Parameters,
    /// Supported feedback.
    #[serde(default)]
    pub rtcp_feedback: Vec<RtcpFeedback>,
}

/// Direction of a header extension, seen from whoever states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Both ways.
    #[default]
    Sendrecv,
    /// Only sent.
    Sendonly,
    /// Only received.
    Recvonly,
    /// Not used.
    Inactive,
}

/// A header extension that a router or a device can use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RtpHeaderExtensionCapability {
    /// Audio or video; devices merge both under `video`, so never match by it.
    pub kind: MediaKind,
    /// The URI that names the extension.
    pub uri: String,
    /// Extension id on the wire, 1–14 for the one-byte form (RFC 8285).
    pub preferred_id: u8,
    /// Encrypted extensions are not supported: always false.
    #[serde(default)]
    pub preferred_encrypt: bool,
    /// Seen from the router.
    #[serde(default)]
    pub direction: Direction,
}

/// What a router or a device can do.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RtpCapabilities {
    /// Codecs, in order of preference.
    #[serde(default)]
    pub codecs: Vec<RtpCodecCapability>,
    /// Header extensions.
    #[serde(default)]
    pub header_extensions: Vec<RtpHeaderExtensionCapability>,
}

/// A codec in use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RtpCodecParameters {
    /// For example `video/VP8`.
    pub mime_type: String,
    /// Payload type on the wire, 0–127.
    pub payload_type: u8,
    /// RTP clock rate in Hz.
    pub clock_rate: u32,
    /// Audio channels; absent for video.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<u8>,
    /// Format parameters.
    #[serde(default)]
    pub parameters: Parameters,
    /// Feedback in use.
    #[serde(default)]
    pub rtcp_feedback: Vec<RtcpFeedback>,
}

/// A header extension in use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RtpHeaderExtensionParameters {
    /// The URI that names the extension.
    pub uri: String,
    /// Extension id on the wire.
    pub id: u8,
    /// Always false.
    #[serde(default)]
    pub encrypt: bool,
    /// Unused by every known client; kept for the shape.
    #[serde(default)]
    pub parameters: Parameters,
}

/// The retransmission stream of an encoding (RFC 4588).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RtxParameters {
    /// SSRC of the retransmissions.
    pub ssrc: u32,
}

/// One encoding of a producer or a consumer. Unknown fields are ignored.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RtpEncodingParameters {
    /// SSRC, when it is known in advance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssrc: Option<u32>,
    /// RID (RFC 8851), for simulcast without SSRCs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rid: Option<String>,
    /// Retransmissions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtx: Option<RtxParameters>,
    /// Discontinuous transmission: silence is no sign of a dead stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtx: Option<bool>,
    /// For example `L1T3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scalability_mode: Option<String>,
    /// Bits per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bitrate: Option<u64>,
}

/// RTCP settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RtcpParameters {
    /// Canonical name (RFC 3550 §6.5.1); the same for all streams of a publisher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cname: Option<String>,
    /// Reduced-size RTCP (RFC 5506).
    #[serde(default = "yes")]
    pub reduced_size: bool,
}

impl Default for RtcpParameters {
    fn default() -> Self {
        Self { cname: None, reduced_size: true }
    }
}

fn yes() -> bool {
    true
}

/// Everything about the RTP of one producer or consumer.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RtpParameters {
    /// Media id: unique on its transport.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mid: Option<String>,
    /// Codecs; the first is the media codec.
    pub codecs: Vec<RtpCodecParameters>,
    /// Header extensions.
    #[serde(default)]
    pub header_extensions: Vec<RtpHeaderExtensionParameters>,
    /// Encodings, lowest quality first.
    #[serde(default)]
    pub encodings: Vec<RtpEncodingParameters>,
    /// RTCP settings.
    #[serde(default)]
    pub rtcp: RtcpParameters,
    /// MediaStream id and track id, passed through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub msid: Option<String>,
}

/// How we are reached: our ICE credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IceParameters {
    /// RFC 8445 ufrag.
    pub username_fragment: String,
    /// At least 22 characters.
    pub password: String,
    /// Always true: we answer checks and send none.
    pub ice_lite: bool,
}

/// Where we are reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IceCandidate {
    /// Groups candidates of one base.
    pub foundation: String,
    /// RFC 8445 §5.1.2.
    pub priority: u32,
    /// Address, for old clients.
    pub ip: String,
    /// Address, for new clients.
    pub address: String,
    /// `udp` or `tcp`.
    pub protocol: String,
    /// Port number.
    pub port: u16,
    /// Always `host`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `passive` for TCP (RFC 6544).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_type: Option<String>,
}

/// Who starts the DTLS handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DtlsRole {
    /// Whichever suits.
    Auto,
    /// Sends the ClientHello.
    Client,
    /// Waits for it.
    Server,
}

/// A certificate's hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DtlsFingerprint {
    /// For example `sha-256`.
    pub algorithm: String,
    /// Upper-case hex with colons.
    pub value: String,
}

/// DTLS of one end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DtlsParameters {
    /// Role of that end.
    #[serde(default = "auto")]
    pub role: DtlsRole,
    /// Its certificate's hashes.
    pub fingerprints: Vec<DtlsFingerprint>,
}

fn auto() -> DtlsRole {
    DtlsRole::Auto
}

/// SCTP of a transport: the union of what mediasoup-client 3.18 and 3.24 read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SctpParameters {
    /// Always 5000.
    pub port: u16,
    /// Bytes.
    pub max_send_message_size: u32,
    /// Bytes.
    pub max_receive_message_size: u32,
    /// Always true: data channels, not raw SCTP.
    pub is_data_channel: bool,
    /// Outgoing streams.
    #[serde(rename = "OS")]
    pub os: u16,
    /// Incoming streams.
    #[serde(rename = "MIS")]
    pub mis: u16,
    /// Bytes.
    pub max_message_size: u32,
}

/// One data channel's SCTP stream. `maxPacketLifeTime` and `maxRetransmits` exclude each other and imply unordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SctpStreamParameters {
    /// 0–65534.
    pub stream_id: u16,
    /// Defaults to true unless a reliability limit is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordered: Option<bool>,
    /// Milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_packet_life_time: Option<u16>,
    /// Retransmissions of one message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_retransmits: Option<u16>,
}
