//! What clients announce and send: ORTC parameters as browsers make them, and packets that fit.

use common::rtp_parameters::RtpParameters;
use serde_json::json;

/// A packet without extensions.
pub fn packet(payload_type: u8, sequence: u16, timestamp: u32, ssrc: u32, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x80, payload_type];
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend_from_slice(&timestamp.to_be_bytes());
    packet.extend_from_slice(&ssrc.to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

/// One frame with a picture id.
pub fn vp8_packet(sequence: u16, ssrc: u32, keyframe: bool) -> Vec<u8> {
    let payload = [0x90, 0x80, 0x80 | (sequence >> 8) as u8, sequence as u8, u8::from(!keyframe), 1, 2, 3];
    packet(96, sequence, 3000 * u32::from(sequence), ssrc, &payload)
}

/// Puts a MID (id 4) and a RID (id 10) into a packet.
pub fn with_mid_and_rid(packet: Vec<u8>, mid: &str, rid: &str) -> Vec<u8> {
    with_extensions(packet, &[(4, mid.as_bytes()), (10, rid.as_bytes())])
}

/// Puts one-byte header extensions (RFC 8285 §4.2) into a packet.
pub fn with_extensions(packet: Vec<u8>, extensions: &[(u8, &[u8])]) -> Vec<u8> {
    let mut elements = Vec::new();
    for (id, bytes) in extensions {
        elements.push(id << 4 | (bytes.len() - 1) as u8);
        elements.extend_from_slice(bytes);
    }
    elements.resize(elements.len().next_multiple_of(4), 0);
    let mut out = packet[..12].to_vec();
    out[0] |= 0x10;
    out.extend_from_slice(&[0xbe, 0xde, 0, (elements.len() / 4) as u8]);
    out.extend_from_slice(&elements);
    out.extend_from_slice(&packet[12..]);
    out
}

fn parameters(value: serde_json::Value) -> RtpParameters {
    serde_json::from_value(value).expect("ORTC parameters")
}

/// As Chromium sends it (contract §4).
pub fn opus() -> RtpParameters {
    parameters(json!({
        "mid": "0",
        "codecs": [{"mimeType": "audio/opus", "payloadType": 111, "clockRate": 48000, "channels": 2, "parameters": {},
                    "rtcpFeedback": [{"type": "transport-cc", "parameter": ""}]}],
        "headerExtensions": [{"uri": "urn:ietf:params:rtp-hdrext:sdes:mid", "id": 4}],
        "encodings": [{"ssrc": 5555}], "rtcp": {"cname": "alice"}
    }))
}

fn video(encodings: serde_json::Value) -> RtpParameters {
    parameters(json!({
        "mid": "1",
        "codecs": [
            {"mimeType": "video/VP8", "payloadType": 96, "clockRate": 90000, "parameters": {},
             "rtcpFeedback": [{"type": "nack", "parameter": ""}, {"type": "nack", "parameter": "pli"}]},
            {"mimeType": "video/rtx", "payloadType": 97, "clockRate": 90000, "parameters": {"apt": 96}}],
        "headerExtensions": [
            {"uri": "urn:ietf:params:rtp-hdrext:sdes:mid", "id": 4},
            {"uri": "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id", "id": 10}],
        "encodings": encodings, "rtcp": {"cname": ""}
    }))
}

pub fn vp8() -> RtpParameters {
    video(json!([{"ssrc": 7000, "rtx": {"ssrc": 7001}}]))
}

pub fn simulcast() -> RtpParameters {
    video(json!([{"rid": "r0", "scalabilityMode": "L1T1"}, {"rid": "r1", "scalabilityMode": "L1T1"}]))
}

/// As Safari 12 sends it (contract §4): SSRCs in place of RIDs.
pub fn legacy_simulcast() -> RtpParameters {
    video(json!([
        {"ssrc": 100, "rtx": {"ssrc": 101}, "scalabilityMode": "L1T1"},
        {"ssrc": 200, "rtx": {"ssrc": 201}, "scalabilityMode": "L1T1"}]))
}

/// Several layers in one encoding.
pub fn vp9_svc() -> RtpParameters {
    parameters(json!({
        "mid": "2",
        "codecs": [
            {"mimeType": "video/VP9", "payloadType": 98, "clockRate": 90000, "parameters": {"profile-id": 0},
             "rtcpFeedback": [{"type": "nack", "parameter": ""}, {"type": "nack", "parameter": "pli"}]},
            {"mimeType": "video/rtx", "payloadType": 99, "clockRate": 90000, "parameters": {"apt": 98}}],
        "headerExtensions": [], "encodings": [{"ssrc": 9000, "rtx": {"ssrc": 9001}, "scalabilityMode": "L2T2_KEY"}],
        "rtcp": {"cname": ""}
    }))
}

/// A whole frame of one VP9 layer in one packet, in the flexible mode.
pub fn vp9_packet(
    sequence: u16,
    picture: u16,
    (spatial, temporal): (u8, u8),
    keyframe: bool,
    last: bool,
) -> Vec<u8> {
    // I, L, F, B, E, and P unless it is a keyframe's; then a 15-bit picture id and TID, U, SID.
    let first = 0xbc | if keyframe { 0 } else { 0x40 };
    let id = 0x8000 | picture;
    let payload = [first, (id >> 8) as u8, id as u8, temporal << 5 | 0x10 | spatial << 1, 1, 2, 3];
    let mut packet = packet(98, sequence, 3000 * u32::from(picture), 9000, &payload);
    packet[1] |= u8::from(last) << 7;
    packet
}

/// One frame of a temporal layer, with Y.
pub fn vp8_layer_packet(sequence: u16, ssrc: u32, keyframe: bool, temporal: u8) -> Vec<u8> {
    let id = 0x8000 | sequence;
    let payload =
        [0x90, 0xe0, (id >> 8) as u8, id as u8, 9, temporal << 6 | 0x20, u8::from(!keyframe), 1, 2, 3];
    packet(96, sequence, 3000 * u32::from(sequence), ssrc, &payload)
}

/// As Chromium sends it, without parameter sets.
pub fn h264() -> RtpParameters {
    let codec = json!({"packetization-mode": 1, "profile-level-id": "42e01f", "level-asymmetry-allowed": 1});
    parameters(json!({
        "mid": "3",
        "codecs": [{"mimeType": "video/H264", "payloadType": 102, "clockRate": 90000, "parameters": codec,
                    "rtcpFeedback": [{"type": "nack", "parameter": ""}, {"type": "nack", "parameter": "pli"}]}],
        "headerExtensions": [], "encodings": [{"ssrc": 8000}], "rtcp": {"cname": ""}
    }))
}

/// As Chromium sends it, with dependency descriptors (id 12).
pub fn av1_svc() -> RtpParameters {
    parameters(json!({
        "mid": "4",
        "codecs": [
            {"mimeType": "video/AV1", "payloadType": 45, "clockRate": 90000, "parameters": {},
             "rtcpFeedback": [{"type": "nack", "parameter": ""}, {"type": "nack", "parameter": "pli"}]},
            {"mimeType": "video/rtx", "payloadType": 46, "clockRate": 90000, "parameters": {"apt": 45}}],
        "headerExtensions": [
            {"uri": "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension", "id": 12}],
        "encodings": [{"ssrc": 4500, "rtx": {"ssrc": 4501}, "scalabilityMode": "L3T3_KEY"}], "rtcp": {"cname": ""}
    }))
}
