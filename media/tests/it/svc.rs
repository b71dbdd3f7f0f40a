//! AV1 with several spatial layers: who decodes it needs the dependency descriptor of every packet, repeated ones too.

use common::control::Action;
use common::rtp_parameters::{MediaKind, RtpParameters};
use media::feedback;
use media::rtp::RtpHeader;
use serde_json::json;

use crate::client::{self, World};

const DESCRIPTOR: &str =
    "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension";
const SSRC: u32 = 9500;
/// The publisher's id of the extension.
const ID: u8 = 12;

/// As Chromium publishes it.
fn av1(mode: &str) -> RtpParameters {
    let parameters = json!({
        "mid": "5",
        "codecs": [
            {"mimeType": "video/AV1", "payloadType": 45, "clockRate": 90000, "parameters": {},
             "rtcpFeedback": [{"type": "nack", "parameter": ""}, {"type": "nack", "parameter": "pli"}]},
            {"mimeType": "video/rtx", "payloadType": 46, "clockRate": 90000, "parameters": {"apt": 45}}],
        "headerExtensions": [{"uri": DESCRIPTOR, "id": ID}],
        "encodings": [{"ssrc": SSRC, "rtx": {"ssrc": SSRC + 1}, "scalabilityMode": mode}],
        "rtcp": {"cname": ""}
    });
    serde_json::from_value(parameters).expect("ORTC parameters")
}

/// Bits as text into bytes, the last one filled with zeros.
fn bytes(bits: &str) -> Vec<u8> {
    let bits: Vec<char> = bits.chars().filter(|bit| *bit != ' ').collect();
    let byte = |chunk: &[char]| (0..8).fold(0, |byte, at| byte << 1 | u8::from(chunk.get(at) == Some(&'1')));
    bits.chunks(8).map(byte).collect()
}

/// L2T1: two templates, one per spatial layer, two decode targets, no chains, sizes, and distances in the long form, so that it
/// is longer than the one-byte form of header extensions carries.
fn with_structure() -> Vec<u8> {
    let sizes = "0000000101000000 0000000010110100 0000001010000000 0000000101101000";
    let distances = "11 000000000001 11 000000000010 00";
    bytes(&format!("11 000000 0000000000000001 10010 000000 00001 10 11 1011 0010 0 0 0 1{sizes}{distances}"))
}

/// The frame of a layer behind it.
fn of_layer(spatial: u8, frame: u8) -> Vec<u8> {
    vec![0xc0 | spatial, 0, frame]
}

fn packet(sequence: u16, keyframe: bool, marker: bool, descriptor: &[u8]) -> Vec<u8> {
    let payload = [if keyframe { 0x18 } else { 0x10 }, 1, 2, 3];
    let mut packet = client::packet(45, sequence, 3000, SSRC, &payload);
    packet[1] |= u8::from(marker) << 7;
    let mut element = vec![ID, descriptor.len() as u8];
    element.extend_from_slice(descriptor);
    element.resize(element.len().next_multiple_of(4), 0);
    packet[0] |= 0x10;
    let head = [0x10, 0, 0, (element.len() / 4) as u8];
    packet.splice(12..12, head.into_iter().chain(element));
    packet
}

fn element(packet: &[u8], id: u8) -> Option<Vec<u8>> {
    RtpHeader::parse(packet).expect("RTP").extensions.find(id).map(<[u8]>::to_vec)
}

#[test]
fn subscribers_of_av1_layers_get_the_dependency_descriptor_again_and_again() {
    let mut world = World::with_av1();
    let (alice, bob) = world.connected_pair();
    let producer = world.produce(alice, MediaKind::Video, av1("L2T1"), false);
    let consumer = world.consume(bob, &producer);
    let extension = consumer.rtp.header_extensions.iter().find(|it| it.uri == DESCRIPTOR);
    let id = extension.expect("told of the extension").id;
    world.done("bob", Action::ResumeConsumer { consumer: consumer.id.clone() });
    let sent = [with_structure(), of_layer(1, 2), of_layer(0, 3), of_layer(1, 4)];
    assert!(sent[0].len() > 16, "{} bytes fit the one-byte form", sent[0].len());
    for (at, descriptor) in sent.iter().enumerate() {
        world.send_rtp(alice, &packet(100 + at as u16, at == 0, at % 2 == 1, descriptor));
    }
    let received = world.received(bob);
    let descriptors: Vec<_> = received.iter().map(|packet| element(packet, id).unwrap_or_default()).collect();
    assert_eq!(descriptors, sent);

    // What is repeated says it too.
    let ssrc = consumer.rtp.encodings[0].ssrc.expect("an SSRC");
    let first = RtpHeader::parse(&received[0]).expect("RTP").sequence_number;
    let mut nack = Vec::new();
    feedback::write_nack(&mut nack, 1, ssrc, &[first]);
    world.send_rtcp(bob, &nack);
    let again = world.received(bob);
    assert_eq!(again.len(), 1);
    assert_eq!(RtpHeader::parse(&again[0]).expect("RTP").ssrc, ssrc + 1);
    assert_eq!(element(&again[0], id), Some(sent[0].clone()));

    // The lower layer alone: its frame ends the picture.
    let lower = Action::SetPreferredLayers { consumer: consumer.id, spatial: 0, temporal: None };
    world.done("bob", lower);
    world.send_rtp(alice, &packet(104, false, false, &of_layer(0, 5)));
    world.send_rtp(alice, &packet(105, false, true, &of_layer(1, 6)));
    let received = world.received(bob);
    assert_eq!(received.len(), 1);
    assert!(RtpHeader::parse(&received[0]).expect("RTP").marker);
    assert_eq!(element(&received[0], id), Some(of_layer(0, 5)));
}

#[test]
fn a_single_layer_needs_none() {
    let mut world = World::with_av1();
    let (alice, bob) = world.connected_pair();
    let mut rtp = av1("L1T1");
    rtp.encodings[0].scalability_mode = None;
    let producer = world.produce(alice, MediaKind::Video, rtp, false);
    let consumer = world.consume(bob, &producer);
    assert!(consumer.rtp.header_extensions.iter().all(|it| it.uri != DESCRIPTOR));
    world.done("bob", Action::ResumeConsumer { consumer: consumer.id });
    world.send_rtp(alice, &packet(100, true, true, &with_structure()));
    assert_eq!(world.received(bob).iter().map(|packet| element(packet, 7)).collect::<Vec<_>>(), [None]);
}
