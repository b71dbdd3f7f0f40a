//! What a publisher sends, checked and mapped to the router (contract §4.2).

use common::rtp_parameters::{
    Direction, LIST_MAX, MediaKind, ParameterValue, Parameters, RtcpFeedback, RtpCapabilities,
    RtpCodecCapability, RtpCodecParameters, RtpEncodingParameters, RtpHeaderExtensionParameters,
    RtpParameters,
};

use super::matching::{answer_profile_level, associated_payload_type, same_codec};
use super::{OrtcError, is_rtx, uri};

/// Encodings of one producer: browsers send up to 3 (RFC 8853 sets no limit).
pub const ENCODINGS_MAX: usize = 8;
/// RFC 8285 one-byte extensions carry at most 16 bytes of MID or RID.
pub const MID_BYTES_MAX: usize = 16;
/// Name or text of a codec parameter: those of the recorded clients (`tests/vectors`) stay below 32.
const PARAMETER_BYTES_MAX: usize = 256;
/// Parameters of one codec or header extension: those of the recorded clients have at most five. They are kept with the
/// producer, and sent to each of its subscribers.
const PARAMETERS_MAX: usize = 32;
/// Name or detail of a kind of feedback; `transport-cc` is the longest there is.
const FEEDBACK_BYTES_MAX: usize = 32;

/// What `consume` and `new-producer` call the type of a producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProducerType {
    /// One encoding.
    Simple,
    /// Several encodings, or one with temporal layers of VP8 or H264.
    Simulcast,
    /// One encoding with layers of VP9 or AV1.
    Svc,
}

/// A producer as the router sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Mapping {
    /// Payload type on the wire from the publisher → router's payload type.
    pub payload_types: Vec<(u8, u8)>,
    /// The type.
    pub producer_type: ProducerType,
    /// Spatial layers (encodings, or the `n` of `LnTm`), at least 1.
    pub spatial_layers: u8,
    /// Temporal layers, at least 1.
    pub temporal_layers: u8,
    /// What consumers are made of: router's payload types and ids, the publisher's codec parameters.
    pub consumable: RtpParameters,
}

/// Checks what the wire's types cannot: lengths, alphabets, that payload types and ids exist and are used once.
pub fn validate(kind: MediaKind, rtp: &RtpParameters) -> Result<(), OrtcError> {
    let fail = |text| Err(OrtcError::Invalid(text));
    if rtp.codecs.is_empty() || rtp.codecs.len() > LIST_MAX {
        return fail("codecs: 1 to 128 are needed");
    }
    if rtp.header_extensions.len() > LIST_MAX || rtp.encodings.len() > ENCODINGS_MAX {
        return fail("headerExtensions or encodings: too many");
    }
    if rtp.mid.as_ref().is_some_and(|mid| !is_token(mid, MID_BYTES_MAX)) {
        return fail("mid: 1 to 16 characters of a token are needed");
    }
    if rtp.msid.as_ref().is_some_and(|msid| msid.len() > 256 || msid.contains(['\r', '\n'])) {
        return fail("msid: too long or not on one line");
    }
    if rtp.rtcp.cname.as_ref().is_some_and(|cname| cname.len() > 255 || cname.contains(['\r', '\n'])) {
        return fail("rtcp.cname: too long or not on one line");
    }
    validate_codecs(kind, &rtp.codecs)?;
    validate_extensions(&rtp.header_extensions)?;
    validate_encodings(&rtp.encodings)
}

fn validate_codecs(kind: MediaKind, codecs: &[RtpCodecParameters]) -> Result<(), OrtcError> {
    let prefix = if kind == MediaKind::Audio { "audio/" } else { "video/" };
    for (index, codec) in codecs.iter().enumerate() {
        let of_kind = codec.mime_type.get(..6).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
        if !of_kind || codec.mime_type.len() > 32 {
            return Err(OrtcError::Invalid("codecs: mimeType does not fit kind"));
        }
        if codec.payload_type > 127 || codecs[..index].iter().any(|c| c.payload_type == codec.payload_type) {
            return Err(OrtcError::Invalid("codecs: payloadType is out of range or used twice"));
        }
        let is_short = |text: &str| text.len() <= FEEDBACK_BYTES_MAX;
        let fits = |it: &RtcpFeedback| is_short(&it.kind) && is_short(&it.parameter);
        if codec.clock_rate == 0
            || codec.rtcp_feedback.len() > LIST_MAX
            || !codec.rtcp_feedback.iter().all(fits)
        {
            return Err(OrtcError::Invalid("codecs: clockRate or rtcpFeedback is out of range"));
        }
        if !are_parameters(&codec.parameters) {
            return Err(OrtcError::Invalid("codecs: a parameter too many, too long or not on one line"));
        }
    }
    if is_rtx(&codecs[0].mime_type) {
        return Err(OrtcError::Invalid("codecs: the first must be a media codec"));
    }
    // What is forwarded is of one codec, as clients send it (contract §4). More than one that are mapped to the same payload
    // type would stand in every subscriber's SDP, which no browser takes.
    if codecs.len() > 2 || codecs[1..].iter().any(|codec| !is_rtx(&codec.mime_type)) {
        return Err(OrtcError::Invalid("codecs: one media codec and its rtx"));
    }
    Ok(())
}

fn are_parameters(parameters: &Parameters) -> bool {
    parameters.len() <= PARAMETERS_MAX && parameters.iter().all(|(name, value)| is_parameter(name, value))
}

/// Subscribers' clients write parameters into a line of their SDP: a line break would let a publisher write more of them.
fn is_parameter(name: &str, value: &ParameterValue) -> bool {
    let fits = |text: &str| text.len() <= PARAMETER_BYTES_MAX && !text.contains(char::is_control);
    fits(name) && !matches!(value, ParameterValue::Text(text) if !fits(text))
}

fn validate_extensions(extensions: &[RtpHeaderExtensionParameters]) -> Result<(), OrtcError> {
    for (index, extension) in extensions.iter().enumerate() {
        if extension.id == 0 || extension.encrypt || extension.uri.is_empty() || extension.uri.len() > 256 {
            return Err(OrtcError::Invalid("headerExtensions: id, uri or encrypt is not acceptable"));
        }
        if !are_parameters(&extension.parameters) {
            return Err(OrtcError::Invalid("headerExtensions: a parameter too many or too long"));
        }
        if extensions[..index].iter().any(|e| e.id == extension.id || e.uri == extension.uri) {
            return Err(OrtcError::Invalid("headerExtensions: an id or uri is used twice"));
        }
    }
    Ok(())
}

fn validate_encodings(encodings: &[RtpEncodingParameters]) -> Result<(), OrtcError> {
    let mut ssrcs = Vec::with_capacity(2 * encodings.len());
    for (index, encoding) in encodings.iter().enumerate() {
        if encoding.rid.as_ref().is_some_and(|rid| !is_rid(rid)) {
            return Err(OrtcError::Invalid("encodings: rid has 1 to 16 letters, digits, - or _ (RFC 8851)"));
        }
        if encodings.len() > 1 && encoding.rid.is_none() && encoding.ssrc.is_none() {
            return Err(OrtcError::Invalid("encodings: each of several needs a rid or an ssrc"));
        }
        if encoding.rid.is_some() && encodings[..index].iter().any(|e| e.rid == encoding.rid) {
            return Err(OrtcError::Invalid("encodings: a rid is used twice"));
        }
        if encoding.scalability_mode.as_ref().is_some_and(|mode| mode.len() > 16) {
            return Err(OrtcError::Invalid("encodings: scalabilityMode is too long"));
        }
        for ssrc in encoding.ssrc.into_iter().chain(encoding.rtx.as_ref().map(|rtx| rtx.ssrc)) {
            if ssrcs.contains(&ssrc) {
                return Err(OrtcError::Invalid("encodings: an ssrc is used twice"));
            }
            ssrcs.push(ssrc);
        }
    }
    Ok(())
}

/// RFC 4566 token characters that MIDs of real clients are made of.
fn is_token(text: &str, bytes_max: usize) -> bool {
    (1..=bytes_max).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

fn is_rid(text: &str) -> bool {
    is_token(text, MID_BYTES_MAX) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// Maps a validated producer to the router. `cname` is the publishing transport's; `first_ssrc` is where the mapped SSRCs
/// begin (random, below `u32::MAX - 8`).
pub fn map_producer(
    kind: MediaKind,
    rtp: &RtpParameters,
    router: &RtpCapabilities,
    cname: &str,
    first_ssrc: u32,
) -> Result<Mapping, OrtcError> {
    let (payload_types, codecs) = map_codecs(rtp, router)?;
    let one = [RtpEncodingParameters::default()];
    let encodings = if rtp.encodings.is_empty() { &one[..] } else { &rtp.encodings[..] };
    let mime_type = &codecs[0].mime_type;
    let (producer_type, spatial_layers, temporal_layers) = layers(mime_type, encodings)?;
    let consumable = RtpParameters {
        mid: None,
        header_extensions: consumable_extensions(kind, rtp, router),
        encodings: encodings
            .iter()
            .zip(first_ssrc..)
            .map(|(encoding, ssrc)| RtpEncodingParameters {
                ssrc: Some(ssrc),
                rid: None,
                rtx: None,
                ..encoding.clone()
            })
            .collect(),
        rtcp: common::rtp_parameters::RtcpParameters { cname: Some(cname.to_string()), reduced_size: true },
        msid: rtp.msid.clone(),
        codecs,
    };
    Ok(Mapping { payload_types, producer_type, spatial_layers, temporal_layers, consumable })
}

type MappedCodecs = (Vec<(u8, u8)>, Vec<RtpCodecParameters>);

fn map_codecs(rtp: &RtpParameters, router: &RtpCapabilities) -> Result<MappedCodecs, OrtcError> {
    let mut payload_types = Vec::new();
    let mut codecs = Vec::new();
    for codec in rtp.codecs.iter().filter(|codec| !is_rtx(&codec.mime_type)) {
        let unsupported = || OrtcError::UnsupportedCodec(codec.mime_type.clone());
        let ours = router.codecs.iter().find(|ours| same_codec(*ours, codec)).ok_or_else(unsupported)?;
        let pt = ours.preferred_payload_type.ok_or_else(unsupported)?;
        payload_types.push((codec.payload_type, pt));
        codecs.push(mapped(ours, codec, pt));
        let Some(rtx) = rtp.codecs.iter().find(|rtx| {
            is_rtx(&rtx.mime_type) && associated_payload_type(&rtx.parameters) == Some(codec.payload_type)
        }) else {
            continue;
        };
        let ours = router
            .codecs
            .iter()
            .find(|ours| is_rtx(&ours.mime_type) && associated_payload_type(&ours.parameters) == Some(pt))
            .ok_or(OrtcError::Invalid("codecs: this router has no rtx for the codec"))?;
        let rtx_pt =
            ours.preferred_payload_type.ok_or(OrtcError::Invalid("codecs: rtx without payload type"))?;
        payload_types.push((rtx.payload_type, rtx_pt));
        codecs.push(RtpCodecParameters { parameters: ours.parameters.clone(), ..mapped(ours, rtx, rtx_pt) });
    }
    if payload_types.len() != rtp.codecs.len() {
        return Err(OrtcError::Invalid("codecs: an rtx codec names no media codec in apt"));
    }
    Ok((payload_types, codecs))
}

/// Router's name, payload type and feedback with the publisher's parameters.
fn mapped(ours: &RtpCodecCapability, theirs: &RtpCodecParameters, pt: u8) -> RtpCodecParameters {
    let mut parameters = theirs.parameters.clone();
    if ours.mime_type.eq_ignore_ascii_case("video/h264")
        && let Some(id) = answer_profile_level(&ours.parameters, &theirs.parameters)
    {
        parameters.insert("profile-level-id".into(), ParameterValue::Text(id));
    }
    RtpCodecParameters {
        mime_type: ours.mime_type.clone(),
        payload_type: pt,
        clock_rate: ours.clock_rate,
        channels: ours.channels,
        parameters,
        rtcp_feedback: ours.rtcp_feedback.clone(),
    }
}

fn consumable_extensions(
    kind: MediaKind,
    rtp: &RtpParameters,
    router: &RtpCapabilities,
) -> Vec<RtpHeaderExtensionParameters> {
    let negotiated = |uri: &str| rtp.header_extensions.iter().any(|extension| extension.uri == uri);
    router
        .header_extensions
        .iter()
        .filter(|e| e.kind == kind && matches!(e.direction, Direction::Sendrecv | Direction::Sendonly))
        .filter(|e| e.uri != uri::ABS_CAPTURE_TIME || negotiated(uri::ABS_CAPTURE_TIME))
        .map(|e| RtpHeaderExtensionParameters {
            uri: e.uri.clone(),
            id: e.preferred_id,
            encrypt: false,
            parameters: Default::default(),
        })
        .collect()
}

/// Type, spatial and temporal layers from the codec and the encodings.
fn layers(mime_type: &str, encodings: &[RtpEncodingParameters]) -> Result<(ProducerType, u8, u8), OrtcError> {
    let is = |list: &[&str]| list.iter().any(|name| mime_type.eq_ignore_ascii_case(name));
    let (spatial, temporal) = scalability(encodings[0].scalability_mode.as_deref());
    if encodings.len() > 1 {
        if !is(&["video/vp8", "video/h264"]) {
            return Err(OrtcError::Invalid("encodings: simulcast needs VP8 or H264"));
        }
        let temporal =
            encodings.iter().map(|e| scalability(e.scalability_mode.as_deref()).1).max().unwrap_or(1);
        return Ok((ProducerType::Simulcast, encodings.len() as u8, temporal));
    }
    if spatial > 1 || temporal > 1 {
        if is(&["video/vp9", "video/av1"]) {
            return Ok((ProducerType::Svc, spatial, temporal));
        }
        if is(&["video/vp8", "video/h264"]) {
            return Ok((ProducerType::Simulcast, 1, temporal));
        }
    }
    Ok((ProducerType::Simple, 1, 1))
}

/// `LnTm…` or `SnTm…` as (n, m), each 1–9; anything else is (1, 1), as mediasoup has it.
pub fn scalability(mode: Option<&str>) -> (u8, u8) {
    let digit = |b: u8| (b'1'..=b'9').contains(&b).then(|| b - b'0');
    match mode.map(str::as_bytes) {
        Some([b'L' | b'S', n, b'T', m, ..]) => match (digit(*n), digit(*m)) {
            (Some(n), Some(m)) => (n, m),
            _ => (1, 1),
        },
        _ => (1, 1),
    }
}
