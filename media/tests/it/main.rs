//! Scripts on the core: two clients made of the same parts as the server, and a wire in between that is a function call.

#[allow(dead_code)] // the bench uses the rest
mod client;
#[cfg(feature = "net")]
mod crowd;
mod floods;
mod floor;
mod hostile;
mod layers;
mod liars;
mod links;
#[cfg(feature = "net")]
mod net;
mod packet_path;
mod scores;
mod span;
mod svc;
mod sync;
mod wanted;

use std::time::Duration;

use client::{World, opus, vp8, vp8_packet};
use common::control::{Action, Done, EventKind, MediaError, TransportDirection};
use common::rtp_parameters::{DtlsFingerprint, DtlsParameters, DtlsRole, MediaKind, SctpStreamParameters};
use media::connection::ConnectionEvent;
use media::feedback;
use media::rtp::RtpHeader;

#[test]
fn a_published_opus_packet_reaches_the_subscriber() {
    let mut world = World::new();
    let (alice, bob) = world.connected_pair();
    let producer = world.produce(alice, MediaKind::Audio, opus(), false);
    let consumer = world.consume(bob, &producer);
    assert_eq!((consumer.rtp.codecs[0].payload_type, consumer.rtp.mid.as_deref()), (100, Some("0")));
    for sequence in 1..=3u16 {
        world.send_rtp(alice, &client::packet(111, sequence, 960 * u32::from(sequence), 5555, b"opus"));
    }
    assert!(world.received(bob).is_empty(), "a new consumer is paused");
    world.done("bob", Action::ResumeConsumer { consumer: consumer.id.clone() });
    for sequence in 4..=6u16 {
        world.send_rtp(alice, &client::packet(111, sequence, 960 * u32::from(sequence), 5555, b"opus"));
    }
    let received = world.received(bob);
    assert_eq!(received.len(), 3);
    let headers: Vec<_> = received.iter().map(|packet| RtpHeader::parse(packet).expect("RTP")).collect();
    for (header, packet) in headers.iter().zip(&received) {
        assert_eq!(Some(header.ssrc), consumer.rtp.encodings[0].ssrc);
        assert_eq!((header.payload_type, header.payload(packet)), (100, &b"opus"[..]));
        assert_eq!(header.extensions.find(1), Some(&b"0"[..]), "MID");
    }
    assert_eq!(headers[1].sequence_number, headers[0].sequence_number + 1);
    assert_eq!(headers[1].timestamp, headers[0].timestamp.wrapping_add(960));
}

#[test]
fn video_starts_at_a_keyframe_that_was_asked_for_once() {
    let mut world = World::new();
    let (alice, bob) = world.connected_pair();
    let producer = world.produce(alice, MediaKind::Video, vp8(), false);
    let consumer = world.consume(bob, &producer);
    world.done("bob", Action::ResumeConsumer { consumer: consumer.id.clone() });
    for _ in 0..5 {
        world.done("bob", Action::RequestKeyFrame { consumer: consumer.id.clone() });
    }
    assert_eq!(world.keyframe_requests(alice, 7000), 1, "requests within a second are one");
    world.send_rtp(alice, &vp8_packet(10, 7000, false));
    assert!(world.received(bob).is_empty());
    world.send_rtp(alice, &vp8_packet(11, 7000, true));
    world.send_rtp(alice, &vp8_packet(12, 7000, false));
    assert_eq!(world.received(bob).len(), 2);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.keyframe_requests(alice, 7000), 0, "the keyframe came");
}

#[test]
fn a_keyframe_whose_first_packet_was_lost_is_used_when_it_is_repeated() {
    let mut world = World::new();
    let (alice, bob) = world.connected_pair();
    let producer = world.produce(alice, MediaKind::Video, vp8(), false);
    let consumer = world.consume(bob, &producer);
    world.done("bob", Action::ResumeConsumer { consumer: consumer.id });
    assert_eq!(world.keyframe_requests(alice, 7000), 1);
    world.send_rtp(alice, &vp8_packet(10, 7000, false));
    // 11 begins the keyframe, 12 continues it, 13 is the next frame.
    let rest = client::packet(96, 12, 3000 * 11, 7000, &[0x80, 0x80, 0x80, 11, 1, 2, 3]);
    world.send_rtp(alice, &rest);
    world.send_rtp(alice, &vp8_packet(13, 7000, false));
    assert!(world.received(bob).is_empty());
    let first = vp8_packet(11, 7000, true);
    world.send_rtp(alice, &client::packet(97, 1, 3000 * 11, 7001, &[&[0, 11], &first[12..]].concat()));
    let received = world.received(bob);
    let headers: Vec<_> = received.iter().map(|packet| RtpHeader::parse(packet).expect("RTP")).collect();
    let of = |at: usize| (headers[at].sequence_number, headers[at].timestamp);
    let (number, timestamp) = of(0);
    assert_eq!(received.len(), 3);
    assert_eq!([of(1), of(2)], [(number + 1, timestamp), (number + 2, timestamp.wrapping_add(6000))]);
    assert_eq!(headers[1].payload(&received[1])[4..], [1, 2, 3]);
    world.pass(Duration::from_secs(3));
    assert_eq!(world.keyframe_requests(alice, 7000), 0, "the keyframe came");
}

#[test]
fn h264_starts_at_parameter_sets() {
    let mut world = World::new();
    let (alice, bob) = world.connected_pair();
    let producer = world.produce(alice, MediaKind::Video, client::h264(), false);
    let consumer = world.consume(bob, &producer);
    world.done("bob", Action::ResumeConsumer { consumer: consumer.id });
    assert_eq!(world.keyframe_requests(alice, 8000), 1);
    let nal = |sequence: u16, payload: &[u8]| client::packet(102, sequence, 3000, 8000, payload);
    // The parameter sets of the first IDR picture were lost.
    world.send_rtp(alice, &nal(2, &[0x7c, 0x85, 1]));
    world.send_rtp(alice, &nal(3, &[0x7c, 0x45, 2]));
    assert!(world.received(bob).is_empty());
    world.pass(Duration::from_millis(1100));
    assert_eq!(world.keyframe_requests(alice, 8000), 1, "what nobody can decode is no keyframe");
    world.send_rtp(alice, &nal(9, &[0x78, 0, 2, 0x67, 0x42, 0, 1, 0x68]));
    world.send_rtp(alice, &nal(10, &[0x65, 1]));
    assert_eq!(world.received(bob).len(), 2);
}

#[test]
fn a_lost_packet_is_asked_for_and_sent_again() {
    let mut world = World::new();
    let (alice, bob) = world.connected_pair();
    let producer = world.produce(alice, MediaKind::Video, vp8(), false);
    let consumer = world.consume(bob, &producer);
    world.done("bob", Action::ResumeConsumer { consumer: consumer.id.clone() });
    world.send_rtp(alice, &vp8_packet(100, 7000, true));
    world.send_rtp(alice, &vp8_packet(103, 7000, false));
    world.pass(Duration::from_millis(60));
    let mut asked = Vec::new();
    for compound in world.received_rtcp(alice) {
        feedback::parse(&compound, |item| {
            if let feedback::Item::Nack { ssrc: 7000, entries } = item {
                asked.extend(feedback::nacked(entries));
            }
        });
    }
    assert_eq!(asked, [101, 102]);

    // The publisher repeats 101 in its retransmission stream.
    let original = vp8_packet(101, 7000, false);
    let mut payload = 101u16.to_be_bytes().to_vec();
    payload.extend_from_slice(&original[12..]);
    world.send_rtp(alice, &client::packet(97, 1, 90, 7001, &payload));
    let received = world.received(bob);
    assert_eq!(received.len(), 3);
    let sequences: Vec<u16> =
        received.iter().map(|packet| RtpHeader::parse(packet).expect("RTP").sequence_number).collect();
    assert_eq!((sequences[1], sequences[2]), (sequences[0] + 3, sequences[0] + 1));

    // The subscriber misses one of ours.
    let ssrc = consumer.rtp.encodings[0].ssrc.expect("an SSRC");
    let mut nack = Vec::new();
    feedback::write_nack(&mut nack, 1, ssrc, &[sequences[1]]);
    world.send_rtcp(bob, &nack);
    let again = world.received(bob);
    assert_eq!(again.len(), 1);
    let header = RtpHeader::parse(&again[0]).expect("RTP");
    assert_eq!((header.ssrc, header.payload_type), (ssrc + 1, consumer.rtp.codecs[1].payload_type));
    assert_eq!(header.payload(&again[0])[..2], sequences[1].to_be_bytes());
}

#[test]
fn a_paused_producer_sends_nothing() {
    let mut world = World::new();
    let (alice, bob) = world.connected_pair();
    let producer = world.produce(alice, MediaKind::Audio, opus(), false);
    let consumer = world.consume(bob, &producer);
    world.done("bob", Action::ResumeConsumer { consumer: consumer.id });
    world.done("alice", Action::PauseProducer { producer: producer.clone() });
    world.send_rtp(alice, &client::packet(111, 1, 960, 5555, b"opus"));
    assert!(world.received(bob).is_empty());
    world.done("alice", Action::ResumeProducer { producer: producer.clone() });
    world.send_rtp(alice, &client::packet(111, 2, 1920, 5555, b"opus"));
    assert_eq!(world.received(bob).len(), 1);
    world.done("alice", Action::CloseProducer { producer });
    assert!(matches!(world.events().last(), Some(EventKind::ConsumerClosed(_))));
}

#[test]
fn nobody_can_name_what_is_not_theirs() {
    let mut world = World::new();
    let (alice, bob) = world.connected_pair();
    let producer = world.produce(alice, MediaKind::Audio, opus(), false);
    let consumer = world.consume(bob, &producer);
    let transport = world.transport_id(alice);
    let check = |world: &mut World, who: &str, action: Action, error: MediaError| {
        assert_eq!(world.command(who, action), Err(error));
    };
    check(
        &mut world,
        "bob",
        Action::PauseProducer { producer: producer.clone() },
        MediaError::ProducerNotFound,
    );
    check(&mut world, "alice", Action::CloseConsumer { consumer: consumer.id }, MediaError::ConsumerNotFound);
    check(
        &mut world,
        "bob",
        Action::RestartIce { transport: transport.clone() },
        MediaError::TransportNotFound,
    );
    check(&mut world, "mallory", Action::CloseTransport { transport }, MediaError::PeerNotFound);
    let dtls = world.client_dtls();
    let transport = world.transport_id(bob);
    check(&mut world, "bob", Action::ConnectTransport { transport, dtls }, MediaError::AlreadyConnected);
}

#[test]
fn an_ice_restart_keeps_media_flowing() {
    let mut world = World::new();
    let (alice, bob) = world.connected_pair();
    let producer = world.produce(alice, MediaKind::Audio, opus(), false);
    let consumer = world.consume(bob, &producer);
    world.done("bob", Action::ResumeConsumer { consumer: consumer.id });
    world.restart_ice(alice);
    world.send_rtp(alice, &client::packet(111, 1, 960, 5555, b"before"));
    world.move_to_new_address(alice);
    world.send_rtp(alice, &client::packet(111, 2, 1920, 5555, b"after"));
    assert_eq!(world.received(bob).len(), 2);
}

#[test]
fn a_silent_client_is_given_up() {
    let mut world = World::new();
    let (alice, _) = world.connected_pair();
    let transport = world.transport_id(alice);
    world.pass_without_consent(Duration::from_secs(31));
    assert!(world.events().contains(&EventKind::TransportClosed { transport, reason: "ice-timeout" }));
}

#[test]
fn random_bytes_change_nothing() {
    let mut world = World::new();
    let (alice, bob) = world.connected_pair();
    let producer = world.produce(alice, MediaKind::Audio, opus(), false);
    let consumer = world.consume(bob, &producer);
    world.done("bob", Action::ResumeConsumer { consumer: consumer.id });
    world.throw_random_bytes(2000);
    assert!(world.received(bob).is_empty());
    world.send_rtp(alice, &client::packet(111, 1, 960, 5555, b"opus"));
    assert_eq!(world.received(bob).len(), 1);
}

#[test]
fn a_wrong_fingerprint_never_passes_media() {
    let mut world = World::new();
    let other = DtlsFingerprint { algorithm: "sha-256".into(), value: ["AB"; 32].join(":") };
    let dtls = DtlsParameters { role: DtlsRole::Client, fingerprints: vec![other] };
    let mallory = world.client("mallory", TransportDirection::Send, Some(dtls));
    world.pass(Duration::from_secs(1));
    let lost = world
        .events()
        .iter()
        .any(|event| matches!(event, EventKind::TransportClosed { reason: "dtls-failed", .. }));
    assert!(lost && !world.is_connected(mallory));
}

#[test]
fn reception_is_told_once_a_second_while_the_client_reports() {
    let mut world = World::new();
    let (alice, bob) = world.connected_pair();
    let producer = world.produce(alice, MediaKind::Audio, opus(), false);
    let consumer = world.consume(bob, &producer);
    world.done("bob", Action::ResumeConsumer { consumer: consumer.id });
    let mut report = Vec::new();
    feedback::write_sender_report(&mut report, 5555, 9 << 32, 960, 1, 4);
    world.send_rtcp(alice, &report);
    world.send_rtp(alice, &client::packet(111, 1, 960, 5555, b"opus"));
    world.pass(Duration::from_millis(1100));
    let mut last = None;
    for compound in world.received_rtcp(bob) {
        feedback::parse(&compound, |item| {
            if let feedback::Item::SenderReport { ssrc, ntp, .. } = item {
                last = Some((ssrc, (ntp >> 16) as u32));
            }
        });
    }
    let (ssrc, last_sr) = last.expect("a sender report");
    let block = feedback::ReportBlock { ssrc, fraction_lost: 64, last_sr, ..Default::default() };
    let strange = feedback::ReportBlock { ssrc: 1234, fraction_lost: 255, ..block };
    let mut report = Vec::new();
    feedback::write_receiver_report(&mut report, 1, &[block, strange]);
    for _ in 0..10 {
        world.send_rtcp(bob, &report);
    }
    world.pass(Duration::from_secs(5));
    let told: Vec<f32> = world
        .events()
        .iter()
        .filter_map(|event| match event {
            EventKind::Reception { loss, round_trip } if *round_trip < Duration::from_secs(2) => Some(*loss),
            _ => None,
        })
        .collect();
    assert_eq!(told, [0.25]);
}

#[test]
fn data_goes_from_a_producer_to_its_consumer() {
    let mut world = World::new();
    let (alice, bob) = world.connected_pair();
    let sctp = SctpStreamParameters {
        stream_id: 3,
        ordered: None,
        max_packet_life_time: None,
        max_retransmits: None,
    };
    let transport = world.transport_id(alice);
    let action =
        Action::ProduceData { transport, sctp: sctp.clone(), label: "chat".into(), protocol: String::new() };
    let Done::DataProducer { id } = world.done("alice", action) else { panic!("a data producer") };
    let action = Action::ConsumeData { transport: world.transport_id(bob), data_producer: id };
    let Done::DataConsumer(info) = world.done("bob", action) else { panic!("a data consumer") };
    assert_eq!((info.sctp.stream_id, info.label.as_str()), (0, "chat"));
    world.open_stream(alice, &sctp);
    world.open_stream(bob, &info.sctp);
    // Longer than str0m's own ICE agent, which is shown one request only, believes in its path.
    world.pass(Duration::from_secs(60));
    assert!(world.send_message(alice, 3, false, b"hello"));
    assert!(world.send_message(alice, 3, true, &vec![1; 200_000]));
    world.pass(Duration::from_secs(2));
    let messages: Vec<(bool, usize)> = world
        .connection_events(bob)
        .iter()
        .filter_map(|event| match event {
            ConnectionEvent::Message { stream_id: 0, binary, data } => Some((*binary, data.len())),
            _ => None,
        })
        .collect();
    assert_eq!(messages, [(false, 5), (true, 200_000)]);
}

#[test]
fn data_is_consumed_and_closed_again_and_again_while_resets_are_under_way() {
    let mut world = World::new();
    let (alice, bob) = world.connected_pair();
    let sctp = SctpStreamParameters {
        stream_id: 3,
        ordered: None,
        max_packet_life_time: None,
        max_retransmits: None,
    };
    let transport = world.transport_id(alice);
    let action = Action::ProduceData { transport, sctp, label: "chat".into(), protocol: String::new() };
    let Done::DataProducer { id } = world.done("alice", action) else { panic!("a data producer") };
    // People come and go faster than bob's browser answers the resets of what they closed.
    for _ in 0..10 {
        let action = Action::ConsumeData { transport: world.transport_id(bob), data_producer: id.clone() };
        let Done::DataConsumer(info) = world.done("bob", action) else { panic!("a data consumer") };
        world.done("bob", Action::CloseDataConsumer { data_consumer: info.id });
    }
}

#[test]
fn nothing_is_left_of_a_closed_room() {
    let mut world = World::new();
    let (alice, bob) = world.connected_pair();
    let producer = world.produce(alice, MediaKind::Video, vp8(), false);
    world.consume(bob, &producer);
    world.done("alice", Action::CloseRoom);
    let action = Action::AddPeer;
    assert_eq!(world.command("alice", action), Err(MediaError::RoomNotFound));
    assert!(world.events().iter().all(|event| !matches!(event, EventKind::ConsumerClosed(_))));
}
