//! What a router offers: payload types, feedback and header extensions (contract §1.2).
//!
//! Payload types are handed out in the order 100…127, 96…99, as mediasoup does; 127 stays free for the probator.

use common::rtp_parameters::{
    Direction, MediaKind, ParameterValue, Parameters, RtcpFeedback, RtpCapabilities, RtpCodecCapability,
    RtpHeaderExtensionCapability,
};

use super::{OrtcError, uri};

/// The codecs that a router can have, by the name that the configuration uses.
pub const CODECS: [&str; 5] = ["opus", "VP8", "VP9", "H264", "AV1"];

/// Extension, wire id, direction for audio, direction for video; seen from the router.
const EXTENSIONS: [(&str, u8, Option<Direction>, Option<Direction>); 11] = {
    use Direction::{Recvonly, Sendrecv};
    [
        (uri::MID, 1, Some(Sendrecv), Some(Sendrecv)),
        (uri::RID, 2, None, Some(Recvonly)),
        (uri::REPAIRED_RID, 3, None, Some(Recvonly)),
        (uri::ABS_SEND_TIME, 4, Some(Sendrecv), Some(Sendrecv)),
        (uri::TRANSPORT_CC, 5, Some(Recvonly), Some(Sendrecv)),
        (uri::AUDIO_LEVEL, 6, Some(Sendrecv), None),
        (uri::DEPENDENCY_DESCRIPTOR, 7, None, Some(Recvonly)),
        (uri::VIDEO_ORIENTATION, 8, None, Some(Sendrecv)),
        (uri::TOFFSET, 9, None, Some(Sendrecv)),
        (uri::ABS_CAPTURE_TIME, 10, Some(Sendrecv), Some(Sendrecv)),
        (uri::PLAYOUT_DELAY, 11, Some(Sendrecv), Some(Sendrecv)),
    ]
};

/// The capabilities of a router with these codecs, in this order of preference. Names are compared without case; an
/// unknown or repeated name is refused.
pub fn router_capabilities<S: AsRef<str>>(codecs: &[S]) -> Result<RtpCapabilities, OrtcError> {
    let mut payload_types = (100..127).chain(96..100);
    let mut out = Vec::new();
    for (index, name) in codecs.iter().map(AsRef::as_ref).enumerate() {
        if codecs[..index].iter().any(|earlier| earlier.as_ref().eq_ignore_ascii_case(name)) {
            return Err(OrtcError::Invalid("a codec is listed twice"));
        }
        let pt = payload_types.next().expect("five codecs need at most ten of 31 payload types");
        let codec = media_codec(name, pt).ok_or_else(|| OrtcError::UnsupportedCodec(name.to_string()))?;
        let rtx = (codec.kind == MediaKind::Video).then(|| {
            rtx_codec(pt, payload_types.next().expect("five codecs need at most ten of 31 payload types"))
        });
        out.push(codec);
        out.extend(rtx);
    }
    if out.is_empty() {
        return Err(OrtcError::Invalid("a router needs a codec"));
    }
    Ok(RtpCapabilities { codecs: out, header_extensions: header_extensions() })
}

fn media_codec(name: &str, pt: u8) -> Option<RtpCodecCapability> {
    let canonical = CODECS.iter().find(|codec| codec.eq_ignore_ascii_case(name))?;
    let integers: &[(&str, i64)] = match *canonical {
        "VP9" => &[("profile-id", 0)],
        "H264" => &[("packetization-mode", 1), ("level-asymmetry-allowed", 1)],
        _ => &[],
    };
    let mut parameters: Parameters =
        integers.iter().map(|(key, value)| ((*key).to_string(), ParameterValue::Integer(*value))).collect();
    if *canonical == "H264" {
        parameters.insert("profile-level-id".into(), ParameterValue::Text("42e01f".into()));
    }
    let audio = *canonical == "opus";
    Some(RtpCodecCapability {
        kind: if audio { MediaKind::Audio } else { MediaKind::Video },
        mime_type: format!("{}/{canonical}", if audio { "audio" } else { "video" }),
        preferred_payload_type: Some(pt),
        clock_rate: if audio { 48_000 } else { 90_000 },
        channels: audio.then_some(2),
        parameters,
        rtcp_feedback: if audio { feedback(&AUDIO_FEEDBACK) } else { feedback(&VIDEO_FEEDBACK) },
    })
}

const AUDIO_FEEDBACK: [(&str, &str); 2] = [("nack", ""), ("transport-cc", "")];
const VIDEO_FEEDBACK: [(&str, &str); 5] =
    [("nack", ""), ("nack", "pli"), ("ccm", "fir"), ("goog-remb", ""), ("transport-cc", "")];

fn feedback(list: &[(&str, &str)]) -> Vec<RtcpFeedback> {
    list.iter()
        .map(|(kind, parameter)| RtcpFeedback { kind: (*kind).into(), parameter: (*parameter).into() })
        .collect()
}

fn rtx_codec(apt: u8, pt: u8) -> RtpCodecCapability {
    RtpCodecCapability {
        kind: MediaKind::Video,
        mime_type: "video/rtx".into(),
        preferred_payload_type: Some(pt),
        clock_rate: 90_000,
        channels: None,
        parameters: Parameters::from([("apt".to_string(), ParameterValue::Integer(apt.into()))]),
        rtcp_feedback: Vec::new(),
    }
}

fn header_extensions() -> Vec<RtpHeaderExtensionCapability> {
    let entry = |kind, uri: &str, id, direction| RtpHeaderExtensionCapability {
        kind,
        uri: uri.into(),
        preferred_id: id,
        preferred_encrypt: false,
        direction,
    };
    EXTENSIONS
        .iter()
        .flat_map(|(uri, id, audio, video)| {
            [
                audio.map(|d| entry(MediaKind::Audio, uri, *id, d)),
                video.map(|d| entry(MediaKind::Video, uri, *id, d)),
            ]
        })
        .flatten()
        .collect()
}
