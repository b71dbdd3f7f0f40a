//! Which codecs are the same (contract §4.2-3).
//!
//! MIME type without case, clock rate and channels must be equal; H264 also needs the same packetization mode and profile
//! (RFC 6184 §8.1), VP9 the same `profile-id`. A missing parameter has its default. Numbers are numbers: `"1"` is not 1.

use common::rtp_parameters::{ParameterValue, Parameters, RtpCodecCapability, RtpCodecParameters};

/// The parts of a codec that decide whether two are the same.
#[derive(Clone, Copy)]
pub struct CodecView<'a> {
    mime_type: &'a str,
    clock_rate: u32,
    channels: Option<u8>,
    parameters: &'a Parameters,
}

impl<'a> From<&'a RtpCodecCapability> for CodecView<'a> {
    fn from(codec: &'a RtpCodecCapability) -> Self {
        Self {
            mime_type: &codec.mime_type,
            clock_rate: codec.clock_rate,
            channels: codec.channels,
            parameters: &codec.parameters,
        }
    }
}

impl<'a> From<&'a RtpCodecParameters> for CodecView<'a> {
    fn from(codec: &'a RtpCodecParameters) -> Self {
        Self {
            mime_type: &codec.mime_type,
            clock_rate: codec.clock_rate,
            channels: codec.channels,
            parameters: &codec.parameters,
        }
    }
}

/// Whether the two are the same codec.
pub fn same_codec<'a>(a: impl Into<CodecView<'a>>, b: impl Into<CodecView<'a>>) -> bool {
    let (a, b) = (a.into(), b.into());
    // RFC 7587 §7: opus is always 2; elsewhere absent means 1.
    let channels = |codec: &CodecView<'_>| codec.channels.unwrap_or(1);
    if !a.mime_type.eq_ignore_ascii_case(b.mime_type)
        || a.clock_rate != b.clock_rate
        || channels(&a) != channels(&b)
    {
        return false;
    }
    if a.mime_type.eq_ignore_ascii_case("video/h264") {
        integer(a.parameters, "packetization-mode") == integer(b.parameters, "packetization-mode")
            && matches!((H264Profile::of(a.parameters), H264Profile::of(b.parameters)), (Some(x), Some(y)) if x == y)
    } else if a.mime_type.eq_ignore_ascii_case("video/vp9") {
        integer(a.parameters, "profile-id") == integer(b.parameters, "profile-id")
    } else {
        true
    }
}

/// An integer parameter, 0 when it is missing, `None` when it is something else.
fn integer(parameters: &Parameters, key: &str) -> Option<i64> {
    match parameters.get(key) {
        None => Some(0),
        Some(ParameterValue::Integer(value)) => Some(*value),
        Some(_) => None,
    }
}

/// An H264 profile without its level (RFC 6184 §8.1, table 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum H264Profile {
    ConstrainedBaseline,
    Baseline,
    Main,
    ConstrainedHigh,
    High,
    PredictiveHigh444,
}

impl H264Profile {
    fn of(parameters: &Parameters) -> Option<Self> {
        Some(parse_profile_level(profile_level_id(parameters)?)?.0)
    }
}

/// The parameter as text. RFC 6184: without it, baseline level 1; libwebrtc (and so every client) takes 42e01f.
fn profile_level_id(parameters: &Parameters) -> Option<&str> {
    match parameters.get("profile-level-id") {
        None => Some("42e01f"),
        Some(ParameterValue::Text(text)) => Some(text),
        Some(_) => None,
    }
}

fn parse_profile_level(text: &str) -> Option<(H264Profile, u8)> {
    if text.len() != 6 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let bits = u32::from_str_radix(text, 16).ok()?;
    let (idc, iop, level) = ((bits >> 16) as u8, (bits >> 8) as u8, bits as u8);
    // A pattern is (mask, value) over profile-iop; table 5 of RFC 6184.
    let table: [(u8, u8, u8, H264Profile); 10] = [
        (0x42, 0x4f, 0x40, H264Profile::ConstrainedBaseline),
        (0x4d, 0x8f, 0x80, H264Profile::ConstrainedBaseline),
        (0x58, 0xcf, 0xc0, H264Profile::ConstrainedBaseline),
        (0x42, 0x4f, 0x00, H264Profile::Baseline),
        (0x58, 0xcf, 0x80, H264Profile::Baseline),
        (0x4d, 0xaf, 0x00, H264Profile::Main),
        (0x64, 0xff, 0x00, H264Profile::High),
        (0x64, 0xff, 0x0c, H264Profile::ConstrainedHigh),
        (0xf4, 0xff, 0x00, H264Profile::PredictiveHigh444),
        (0x64, 0xff, 0x08, H264Profile::High),
    ];
    let profile = table.iter().find(|(p, mask, value, _)| *p == idc && iop & mask == *value)?.3;
    Some((profile, level))
}

/// The `profile-level-id` to answer with: the local level when both sides allow asymmetry, else the lower one.
pub fn answer_profile_level(local: &Parameters, remote: &Parameters) -> Option<String> {
    let (local_text, remote_text) = (profile_level_id(local)?, profile_level_id(remote)?);
    let ((_, local_level), (_, remote_level)) =
        (parse_profile_level(local_text)?, parse_profile_level(remote_text)?);
    let asymmetry = |p: &Parameters| integer(p, "level-asymmetry-allowed") == Some(1);
    let level =
        if asymmetry(local) && asymmetry(remote) { local_level } else { local_level.min(remote_level) };
    Some(format!("{}{level:02x}", &local_text[..4]))
}

/// The payload type that a retransmission codec repairs.
pub fn associated_payload_type(parameters: &Parameters) -> Option<u8> {
    match parameters.get("apt") {
        Some(ParameterValue::Integer(apt)) => u8::try_from(*apt).ok(),
        _ => None,
    }
}
