//! What a subscriber receives (contract §5).

use common::rtp_parameters::{
    LIST_MAX, MediaKind, RtcpParameters, RtpCapabilities, RtpCodecParameters, RtpEncodingParameters,
    RtpHeaderExtensionParameters, RtpParameters, RtxParameters,
};

use super::matching::{associated_payload_type, same_codec};
use super::produce::{ENCODINGS_MAX, scalability};
use super::{OrtcError, is_rtx, uri};

/// The SSRC of mediasoup-client's probator, which no stream may use.
pub const PROBATOR_SSRC: u32 = 1234;

/// What makes one consumer different from another of the same producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumerIdentity<'a> {
    /// Unique on the transport and never used again there.
    pub mid: &'a str,
    /// Random; not [`PROBATOR_SSRC`]. Retransmissions take the next one.
    pub ssrc: u32,
}

/// Whether the device can receive this producer.
pub fn can_consume(consumable: &RtpParameters, device: &RtpCapabilities) -> bool {
    consumable_codecs(consumable, device).first().is_some_and(|codec| !is_rtx(&codec.mime_type))
}

/// The parameters of a consumer of `consumable` (`Mapping::consumable`) for this device.
pub fn consumer_parameters(
    kind: MediaKind,
    consumable: &RtpParameters,
    device: &RtpCapabilities,
    identity: ConsumerIdentity<'_>,
) -> Result<RtpParameters, OrtcError> {
    let mut codecs = consumable_codecs(consumable, device);
    if codecs.first().is_none_or(|codec| is_rtx(&codec.mime_type)) {
        return Err(OrtcError::CannotConsume);
    }
    let header_extensions: Vec<_> = consumable
        .header_extensions
        .iter()
        .filter(|ours| {
            device.header_extensions.iter().any(|e| e.preferred_id == ours.id && e.uri == ours.uri)
        })
        .cloned()
        .collect();
    let has = |uri: &str| header_extensions.iter().any(|extension| extension.uri == uri);
    for codec in &mut codecs {
        codec.rtcp_feedback.retain(|feedback| {
            (kind == MediaKind::Video || !(feedback.kind == "nack" && feedback.parameter.is_empty()))
                && match feedback.kind.as_str() {
                    "transport-cc" => has(uri::TRANSPORT_CC),
                    "goog-remb" => !has(uri::TRANSPORT_CC) && has(uri::ABS_SEND_TIME),
                    _ => true,
                }
        });
    }
    let rtx = codecs.iter().any(|codec| is_rtx(&codec.mime_type));
    Ok(RtpParameters {
        mid: Some(identity.mid.to_string()),
        header_extensions,
        encodings: vec![RtpEncodingParameters {
            ssrc: Some(identity.ssrc),
            rtx: rtx.then(|| RtxParameters { ssrc: identity.ssrc + 1 }),
            scalability_mode: scalability_of(&consumable.encodings),
            max_bitrate: consumable.encodings.iter().filter_map(|e| e.max_bitrate).max(),
            ..Default::default()
        }],
        rtcp: RtcpParameters { cname: consumable.rtcp.cname.clone(), reduced_size: true },
        msid: consumable.msid.clone(),
        codecs,
    })
}

/// Adds the dependency descriptor, which a router offers in one direction only (contract §1.2): a device does not list it, and
/// libwebrtc decodes no more than one spatial layer of AV1 without. Who does not know it leaves it aside (RFC 8285 §5).
pub fn add_descriptor(consumer: &mut RtpParameters, router: &RtpCapabilities) {
    let ours = router.header_extensions.iter().find(|ours| ours.uri == uri::DEPENDENCY_DESCRIPTOR);
    let listed = |id| consumer.header_extensions.iter().any(|extension| extension.id == id);
    if let Some(ours) = ours.filter(|ours| !listed(ours.preferred_id)) {
        consumer.header_extensions.push(RtpHeaderExtensionParameters {
            uri: ours.uri.clone(),
            id: ours.preferred_id,
            encrypt: false,
            parameters: Default::default(),
        });
    }
}

/// Codecs that both have: router's payload types, the device's feedback, no orphaned rtx, no rtx for audio.
fn consumable_codecs(consumable: &RtpParameters, device: &RtpCapabilities) -> Vec<RtpCodecParameters> {
    let mut out: Vec<RtpCodecParameters> = Vec::new();
    for codec in &consumable.codecs {
        let Some(theirs) = device.codecs.iter().take(LIST_MAX).find(|theirs| {
            if is_rtx(&codec.mime_type) {
                theirs.preferred_payload_type == Some(codec.payload_type)
            } else {
                same_codec(*theirs, codec)
            }
        }) else {
            continue;
        };
        if is_rtx(&codec.mime_type) {
            let apt = associated_payload_type(&codec.parameters);
            if !is_rtx(&theirs.mime_type) || !out.iter().any(|media| Some(media.payload_type) == apt) {
                continue;
            }
        }
        // Only feedback that we offered: a device cannot make us promise more.
        let rtcp_feedback =
            theirs.rtcp_feedback.iter().filter(|f| codec.rtcp_feedback.contains(f)).cloned().collect();
        out.push(RtpCodecParameters { rtcp_feedback, ..codec.clone() });
    }
    out
}

/// The producer's mode, or `LnTm` over its encodings when there are several.
fn scalability_of(encodings: &[RtpEncodingParameters]) -> Option<String> {
    debug_assert!(encodings.len() <= ENCODINGS_MAX, "validate bounds the encodings");
    match encodings {
        [one] => one.scalability_mode.clone(),
        several => {
            let temporal =
                several.iter().map(|e| scalability(e.scalability_mode.as_deref()).1).max().unwrap_or(1);
            Some(format!("L{}T{temporal}", several.len()))
        }
    }
}
