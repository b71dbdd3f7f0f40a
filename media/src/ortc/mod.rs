//! ORTC arithmetic: what a router offers, what a producer maps to, what a consumer receives.
//!
//! Pure functions over the JSON objects of `common::rtp_parameters`; the contract is that of mediasoup-client 3.x, tested
//! against parameters recorded from real browsers (`tests/vectors`). Random numbers are passed in; nothing is kept.
//! Files: [`capabilities`] (the router), [`matching`] (which codecs are the same), [`produce`], [`consume`].

pub mod capabilities;
pub mod consume;
pub mod matching;
pub mod produce;
#[cfg(test)]
mod tests;

pub use capabilities::router_capabilities;
pub use consume::{ConsumerIdentity, add_descriptor, can_consume, consumer_parameters};
pub use produce::{Mapping, ProducerType, map_producer, validate};

/// Header extension URIs.
pub mod uri {
    /// RFC 9143.
    pub const MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
    /// RFC 8852.
    pub const RID: &str = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id";
    /// RFC 8852.
    pub const REPAIRED_RID: &str = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id";
    /// 24 bits, 6.18 fixed-point seconds.
    pub const ABS_SEND_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time";
    /// draft-holmer-rmcat-transport-wide-cc-extensions-01.
    pub const TRANSPORT_CC: &str =
        "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
    /// RFC 6464.
    pub const AUDIO_LEVEL: &str = "urn:ietf:params:rtp-hdrext:ssrc-audio-level";
    /// AV1 RTP specification, appendix A.
    pub const DEPENDENCY_DESCRIPTOR: &str =
        "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension";
    /// 3GPP TS 26.114.
    pub const VIDEO_ORIENTATION: &str = "urn:3gpp:video-orientation";
    /// RFC 5450.
    pub const TOFFSET: &str = "urn:ietf:params:rtp-hdrext:toffset";
    /// Capture time of the frame.
    pub const ABS_CAPTURE_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time";
    /// Minimum and maximum playout delay.
    pub const PLAYOUT_DELAY: &str = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay";
}

/// Why parameters are refused; the text goes to the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrtcError {
    /// Something that no client of the contract sends.
    #[error("{0}")]
    Invalid(&'static str),
    /// The router does not have this codec.
    #[error("unsupported codec {0}")]
    UnsupportedCodec(String),
    /// Nothing that the device can receive.
    #[error("no codec that this device can receive")]
    CannotConsume,
}

/// The MIME type of a retransmission codec (RFC 4588), in any case.
pub fn is_rtx(mime_type: &str) -> bool {
    mime_type.len() > 4 && mime_type.as_bytes()[mime_type.len() - 4..].eq_ignore_ascii_case(b"/rtx")
}
