//! ORTC parameters: what a publisher may say becomes what subscribers get, and none of it is more than one line of SDP.

use common::rtp_parameters::{MediaKind, ParameterValue, RtpCapabilities, RtpCodecParameters, RtpParameters};
use media::ortc::capabilities::router_capabilities;
use media::ortc::consume::{ConsumerIdentity, can_consume, consumer_parameters};
use media::ortc::produce::{ENCODINGS_MAX, map_producer, scalability, validate};
use serde_json::Value;

/// First byte: audio or video. Then an array of JSON: the producer's parameters, and the subscriber's capabilities.
pub fn run(data: &[u8]) {
    let Some((&which, text)) = data.split_first() else { return };
    let kind = if which % 2 == 0 { MediaKind::Audio } else { MediaKind::Video };
    let Ok(Value::Array(values)) = serde_json::from_slice::<Value>(text) else { return };
    let mut values = values.into_iter();
    let Some(Ok(rtp)) = values.next().map(serde_json::from_value::<RtpParameters>) else { return };
    if validate(kind, &rtp).is_err() {
        return;
    }
    let router = router_capabilities(&["opus", "VP8", "VP9", "H264", "AV1"]).expect("our own codecs");
    let Ok(mapping) = map_producer(kind, &rtp, &router, "cname", 20_000) else { return };
    assert!((1..=ENCODINGS_MAX.max(9)).contains(&usize::from(mapping.spatial_layers)));
    assert!(mapping.temporal_layers >= 1);
    assert_eq!(mapping.payload_types.len(), rtp.codecs.len());
    assert!(!mapping.consumable.encodings.is_empty() && mapping.consumable.encodings.len() <= ENCODINGS_MAX);
    one_line(&mapping.consumable);

    let theirs = values.next().map(serde_json::from_value::<RtpCapabilities>);
    let device = theirs.and_then(Result::ok).unwrap_or_else(|| router.clone());
    let identity = ConsumerIdentity { mid: "0", ssrc: 30_000 };
    let consumer = consumer_parameters(kind, &mapping.consumable, &device, identity);
    assert_eq!(consumer.is_ok(), can_consume(&mapping.consumable, &device));
    let Ok(consumer) = consumer else { return };
    one_line(&consumer);
    assert!(consumer.codecs.len() <= mapping.consumable.codecs.len());
    for codec in &consumer.codecs {
        let ours = router.codecs.iter().find(|ours| ours.preferred_payload_type == Some(codec.payload_type));
        let ours = ours.expect("the router's payload types");
        assert_eq!((ours.kind, &ours.mime_type), (kind, &codec.mime_type));
        assert!(codec.rtcp_feedback.iter().all(|feedback| ours.rtcp_feedback.contains(feedback)));
    }
    let text = serde_json::to_string(&consumer).expect("JSON");
    let read = serde_json::from_str::<RtpParameters>(&text).expect("it is read back");
    assert_eq!(without_fractions(read.codecs), without_fractions(consumer.codecs));
}

/// serde_json reads fractions to within a unit in the last place.
fn without_fractions(mut codecs: Vec<RtpCodecParameters>) -> Vec<RtpCodecParameters> {
    for codec in &mut codecs {
        codec.parameters.retain(|_, value| !matches!(value, ParameterValue::Number(_)));
    }
    codecs
}

/// A subscriber's client writes these texts into its own SDP.
fn one_line(rtp: &RtpParameters) {
    let fine = |text: &str| assert!(!text.contains(['\r', '\n']), "{text:?}");
    rtp.mid.iter().chain(&rtp.msid).chain(&rtp.rtcp.cname).for_each(|text| fine(text));
    for codec in &rtp.codecs {
        fine(&codec.mime_type);
        for (name, value) in &codec.parameters {
            fine(name);
            fine(&format!("{value:?}").replace("\\\\", "").replace("\\n", "\n").replace("\\r", "\r"));
        }
    }
    rtp.header_extensions.iter().for_each(|extension| fine(&extension.uri));
    for encoding in &rtp.encodings {
        encoding.rid.iter().for_each(|rid| fine(rid));
        encoding.scalability_mode.iter().for_each(|mode| fine(mode));
        let (spatial, temporal) = scalability(encoding.scalability_mode.as_deref());
        assert!((1..=9).contains(&spatial) && (1..=9).contains(&temporal));
    }
}

/// What browsers send.
pub fn seeds() -> Vec<Vec<u8>> {
    let router = router_capabilities(&["opus", "VP8", "VP9", "H264", "AV1"]).expect("our own codecs");
    let device = serde_json::to_string(&router).expect("JSON");
    let opus = r#"{"mid":"0","codecs":[{"mimeType":"audio/opus","payloadType":111,"clockRate":48000,"channels":2,"parameters":{"useinbandfec":1},"rtcpFeedback":[{"type":"transport-cc"}]}],"headerExtensions":[{"uri":"urn:ietf:params:rtp-hdrext:sdes:mid","id":4}],"encodings":[{"ssrc":5555,"dtx":true}],"rtcp":{"cname":"alice"},"msid":"a b"}"#;
    let video = |codec: &str, parameters: &str, encodings: &str| {
        format!(
            r#"{{"mid":"1","codecs":[{{"mimeType":"video/{codec}","payloadType":96,"clockRate":90000,"parameters":{parameters},"rtcpFeedback":[{{"type":"nack"}}]}},{{"mimeType":"video/rtx","payloadType":97,"clockRate":90000,"parameters":{{"apt":96}}}}],"headerExtensions":[],"encodings":{encodings}}}"#
        )
    };
    vec![
        format!("\0[{opus},{device}]").into_bytes(),
        format!("\u{1}[{}]", video("VP8", "{}", r#"[{"rid":"r0","scalabilityMode":"L1T3"},{"rid":"r1"}]"#))
            .into_bytes(),
        format!(
            "\u{1}[{}]",
            video("VP9", r#"{"profile-id":0}"#, r#"[{"ssrc":7,"rtx":{"ssrc":8},"scalabilityMode":"L3T3"}]"#)
        )
        .into_bytes(),
        format!("\u{1}[{}]", video("H264", r#"{"packetization-mode":1,"profile-level-id":"42e01f"}"#, "[]"))
            .into_bytes(),
    ]
}
