//! Every vector: parameters recorded from Chromium and Firefox with mediasoup-client 3.18 and 3.24, and what mediasoup
//! made of them. We omit its private packet-id extension (id 12).

use common::rtp_parameters::{
    MediaKind, ParameterValue, RtcpFeedback, RtpCapabilities, RtpCodecParameters,
    RtpHeaderExtensionParameters, RtpParameters,
};
use serde_json::{Value, json};

use super::*;

const CLIENTS: [(&str, &str); 3] = [
    (
        include_str!("../../tests/vectors/chromium-mediasoup-client-3.18.7.client.json"),
        include_str!("../../tests/vectors/chromium-mediasoup-client-3.18.7.consume.json"),
    ),
    (
        include_str!("../../tests/vectors/chromium-mediasoup-client-3.24.1.client.json"),
        include_str!("../../tests/vectors/chromium-mediasoup-client-3.24.1.consume.json"),
    ),
    (
        include_str!("../../tests/vectors/firefox-mediasoup-client-3.24.1.client.json"),
        include_str!("../../tests/vectors/firefox-mediasoup-client-3.24.1.consume.json"),
    ),
];

fn router() -> RtpCapabilities {
    router_capabilities(&capabilities::CODECS).expect("all codecs are known")
}

/// Fields that are passed through by mediasoup but are none of ours, removed from what the vector expects.
fn expected(mut rtp: Value) -> Value {
    if let Some(extensions) = rtp["headerExtensions"].as_array_mut() {
        extensions.retain(|e| e["uri"] != "urn:mediasoup:params:rtp-hdrext:packet-id");
    }
    for encoding in rtp["encodings"].as_array_mut().into_iter().flatten() {
        let encoding = encoding.as_object_mut().expect("an encoding is an object");
        encoding.remove("active");
        encoding.remove("scaleResolutionDownBy");
    }
    rtp
}

fn producers(client: &Value) -> Vec<(MediaKind, RtpParameters)> {
    client["events"]
        .as_array()
        .expect("events")
        .iter()
        .filter(|event| event["event"] == "produce")
        .map(|event| {
            let kind = serde_json::from_value(event["data"]["kind"].clone()).expect("kind");
            (kind, serde_json::from_value(event["data"]["rtpParameters"].clone()).expect("rtpParameters"))
        })
        .collect()
}

#[test]
fn router_capabilities_are_those_of_the_vector() {
    let vector: Value =
        serde_json::from_str(include_str!("../../tests/vectors/router-rtp-capabilities.json")).expect("JSON");
    let ours = serde_json::to_value(router()).expect("JSON");
    let sorted = |value: &Value, private: bool| {
        let mut list: Vec<String> = value
            .as_array()
            .expect("list")
            .iter()
            .filter(|e| private || e["uri"] != "urn:mediasoup:params:rtp-hdrext:packet-id")
            .map(Value::to_string)
            .collect();
        list.sort();
        list
    };
    assert_eq!(sorted(&ours["headerExtensions"], false), sorted(&vector["headerExtensions"], false));
    let without_start_bitrate = |mut codecs: Value| {
        for codec in codecs.as_array_mut().expect("list") {
            codec["parameters"].as_object_mut().expect("object").remove("x-google-start-bitrate");
        }
        codecs
    };
    assert_eq!(
        without_start_bitrate(ours["codecs"].clone()),
        without_start_bitrate(vector["codecs"].clone())
    );
}

#[test]
fn every_recorded_producer_maps_as_mediasoup_maps_it() {
    for (client, consume) in CLIENTS {
        let client: Value = serde_json::from_str(client).expect("JSON");
        let consume: Value = serde_json::from_str(consume).expect("JSON");
        let producers = producers(&client);
        let vectors = consume.as_array().expect("list");
        assert!(producers.len() >= vectors.len() && !vectors.is_empty());
        let mut at = 0;
        for vector in vectors {
            // A client whose produce failed has an event and no vector: match by the mapped wire payload types.
            let wire: Vec<u64> = vector["mapping"]["codecs"]
                .as_array()
                .expect("list")
                .iter()
                .map(|c| c["payloadType"].as_u64().expect("number"))
                .collect();
            let encodings = vector["mapping"]["encodings"].as_array().expect("list").len();
            let (kind, rtp) = loop {
                let (kind, rtp) = &producers[at];
                at += 1;
                let theirs: Vec<u64> = rtp.codecs.iter().map(|c| c.payload_type.into()).collect();
                if theirs == wire && rtp.encodings.len() == encodings {
                    break (*kind, rtp);
                }
            };
            check(kind, rtp, vector, &client);
        }
    }
}

fn check(kind: MediaKind, rtp: &RtpParameters, vector: &Value, client: &Value) {
    let name = &vector["producer"];
    validate(kind, rtp).unwrap_or_else(|e| panic!("{name}: {e}"));
    let first = vector["mapping"]["encodings"][0]["mappedSsrc"].as_u64().expect("ssrc") as u32;
    let cname = vector["consumable"]["rtcp"]["cname"].as_str().expect("cname");
    let mapping = map_producer(kind, rtp, &router(), cname, first).unwrap_or_else(|e| panic!("{name}: {e}"));
    let pairs: Vec<Value> = mapping
        .payload_types
        .iter()
        .map(|(from, to)| json!({"payloadType": from, "mappedPayloadType": to}))
        .collect();
    assert_eq!(json!(pairs), vector["mapping"]["codecs"], "{name}: payload types");
    let consumable = serde_json::to_value(&mapping.consumable).expect("JSON");
    assert_eq!(consumable, expected(vector["consumable"].clone()), "{name}: consumable");

    let device: RtpCapabilities =
        serde_json::from_value(client["recvRtpCapabilities"].clone()).expect("capabilities");
    let want = expected(vector["consumer"].clone());
    // Recorded only for Chromium; whoever has consumer parameters can consume.
    assert_ne!(vector.get("canConsume"), Some(&json!(false)));
    assert!(can_consume(&mapping.consumable, &device), "{name}");
    let identity = ConsumerIdentity {
        mid: want["mid"].as_str().unwrap_or("0"),
        ssrc: want["encodings"][0]["ssrc"].as_u64().expect("ssrc") as u32,
    };
    let consumer = consumer_parameters(kind, &mapping.consumable, &device, identity).expect("can consume");
    assert_eq!(serde_json::to_value(consumer).expect("JSON"), want, "{name}: consumer");
}

fn codec(mime_type: &str, parameters: Value) -> RtpCodecParameters {
    serde_json::from_value(json!({
        "mimeType": mime_type, "payloadType": 96, "clockRate": 90000, "parameters": parameters,
    }))
    .expect("a codec")
}

#[test]
fn codecs_match_strictly() {
    let same = |mime: &str, a: Value, b: Value| matching::same_codec(&codec(mime, a), &codec(mime, b));
    assert!(same("video/VP8", json!({}), json!({"max-fs": 1})));
    assert!(same("video/VP9", json!({}), json!({"profile-id": 0})));
    assert!(!same("video/VP9", json!({"profile-id": 2}), json!({})));
    assert!(
        !same("video/VP9", json!({"profile-id": "0"}), json!({"profile-id": 0})),
        "a string is no number"
    );
    let h264 = |id: &str, mode: i64| json!({"profile-level-id": id, "packetization-mode": mode});
    assert!(
        !same("video/H264", h264("42e01f", 1), h264("42001f", 1)),
        "constrained baseline is not baseline"
    );
    assert!(same("video/H264", h264("42e01f", 1), h264("42e034", 1)), "the level does not matter");
    assert!(!same("video/H264", h264("42e01f", 1), h264("42e01f", 0)), "the packetization mode does");
    assert!(!same("video/H264", h264("4d001f", 1), h264("42e01f", 1)));
    assert!(!same("video/H264", h264("zz", 1), h264("zz", 1)), "no profile, no match");
}

#[test]
fn the_lower_level_is_answered_without_asymmetry() {
    let parameters = |id: &str, asymmetry: i64| {
        codec("video/H264", json!({"profile-level-id": id, "level-asymmetry-allowed": asymmetry})).parameters
    };
    let answer = |a, b| matching::answer_profile_level(&a, &b);
    assert_eq!(answer(parameters("42e01f", 1), parameters("42e00a", 1)).as_deref(), Some("42e01f"));
    assert_eq!(answer(parameters("42e01f", 0), parameters("42e00a", 1)).as_deref(), Some("42e00a"));
}

fn vp8(encodings: Value) -> RtpParameters {
    serde_json::from_value(json!({
        "mid": "0",
        "codecs": [{"mimeType": "video/VP8", "payloadType": 96, "clockRate": 90000}],
        "encodings": encodings,
    }))
    .expect("parameters")
}

#[test]
fn what_no_client_sends_is_refused() {
    let refused = |rtp: &RtpParameters| validate(MediaKind::Video, rtp).is_err();
    assert!(!refused(&vp8(json!([{"ssrc": 1}]))));
    assert!(refused(&vp8(json!([{"ssrc": 1}, {"ssrc": 1}]))), "an SSRC twice");
    assert!(refused(&vp8(json!([{"ssrc": 1, "rtx": {"ssrc": 1}}]))), "RTX with the same SSRC");
    assert!(refused(&vp8(json!([{"rid": "a"}, {"rid": "a"}]))), "a RID twice");
    assert!(refused(&vp8(json!([{"rid": "a b"}]))), "no token");
    assert!(refused(&vp8(json!([{"rid": "a"}, {}]))), "nothing to tell the second by");
    assert!(refused(&vp8(json!(vec![json!({}); 9]))), "too many");
    let mut rtp = vp8(json!([]));
    rtp.mid = Some("x".repeat(17));
    assert!(refused(&rtp), "a long mid");
    let mut rtp = vp8(json!([]));
    rtp.codecs[0].payload_type = 200;
    assert!(refused(&rtp), "no payload type");
    assert!(validate(MediaKind::Audio, &vp8(json!([]))).is_err(), "video is not audio");
    let mut rtp = vp8(json!([]));
    rtp.codecs[0].parameters = (0..33).map(|n| (n.to_string(), ParameterValue::Integer(n))).collect();
    assert!(refused(&rtp), "parameters without end");
    let mut rtp = vp8(json!([]));
    rtp.codecs[0].rtcp_feedback = vec![RtcpFeedback { kind: "x".repeat(33), parameter: String::new() }];
    assert!(refused(&rtp), "a long kind of feedback");
    let parameters = [("a".into(), ParameterValue::Text("x".repeat(257)))].into();
    let extension = RtpHeaderExtensionParameters { uri: "u".into(), id: 1, encrypt: false, parameters };
    let rtp = RtpParameters { header_extensions: vec![extension], ..vp8(json!([])) };
    assert!(refused(&rtp), "a long parameter of an extension");
    for more in ["video/VP8", "video/H264"] {
        let mut rtp = vp8(json!([]));
        rtp.codecs.push(RtpCodecParameters { payload_type: 98, ..codec(more, json!({})) });
        assert!(refused(&rtp), "{more} beside VP8");
    }
    for (key, value) in [
        ("a", json!("1\r\na=candidate:1 1 udp 1 198.51.100.1 9 typ host")),
        ("a\nb", json!(1)),
        ("a", json!("x".repeat(257))),
        (&"x".repeat(257), json!(1)),
    ] {
        let mut rtp = vp8(json!([]));
        rtp.codecs[0].parameters = codec("video/VP8", json!({ key: value })).parameters;
        assert!(refused(&rtp), "subscribers' clients write {key:?} into one line of their SDP");
    }
}

#[test]
fn types_follow_codec_and_encodings() {
    let of = |mime: &str, encodings: Value| {
        let mut rtp = vp8(encodings);
        rtp.codecs[0].mime_type = mime.into();
        map_producer(MediaKind::Video, &rtp, &router(), "c", 1)
            .map(|m| (m.producer_type, m.spatial_layers, m.temporal_layers))
    };
    assert_eq!(of("video/vp8", json!([])), Ok((ProducerType::Simple, 1, 1)));
    assert_eq!(of("video/VP8", json!([{"scalabilityMode": "L1T3"}])), Ok((ProducerType::Simulcast, 1, 3)));
    assert_eq!(of("video/VP9", json!([{"scalabilityMode": "L3T2_KEY"}])), Ok((ProducerType::Svc, 3, 2)));
    assert_eq!(of("video/AV1", json!([{"scalabilityMode": "L1T1"}])), Ok((ProducerType::Simple, 1, 1)));
    assert!(of("video/VP9", json!([{"rid": "a"}, {"rid": "b"}])).is_err(), "no simulcast of VP9");
    assert_eq!(of("video/H263", json!([])), Err(OrtcError::UnsupportedCodec("video/H263".into())));
}

#[test]
fn routers_refuse_unknown_and_repeated_codecs() {
    assert!(router_capabilities(&["opus", "vp8"]).is_ok());
    assert!(router_capabilities(&["VP8", "vp8"]).is_err());
    assert!(router_capabilities(&["H263"]).is_err());
    assert!(router_capabilities::<&str>(&[]).is_err());
}
