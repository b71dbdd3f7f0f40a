//! A room on two workers: Alice publishes on the first, Bob subscribes on the second, and what they say to each other is carried
//! by the test.

use std::time::Duration;

use common::control::{Action, Done, EventKind, Imported, PublishedId, TransportDirection};
use common::ids::{DataProducerId, ProducerId};
use common::rtp_parameters::{MediaKind, RtpParameters, SctpStreamParameters};
use media::connection::ConnectionEvent;
use media::feedback;
use media::parcel::{self, LENGTH_BYTES};
use media::rtp::RtpHeader;

use crate::client::{World, legacy_simulcast, opus, packet, vp8, vp8_packet};

/// Names in parcels.
const PIPE: u64 = 77;

struct Two {
    /// Worker 0, where Alice is.
    near: World,
    /// Worker 1, where Bob is.
    far: World,
    alice: usize,
    bob: usize,
    /// Parcels that are lost, of those that come next.
    lost: usize,
}

impl Two {
    fn new() -> Self {
        let (mut near, mut far) = (World::of_worker(0), World::of_worker(1));
        let alice = near.client("alice", TransportDirection::Send, None);
        let bob = far.client("bob", TransportDirection::Recv, None);
        near.pass(Duration::from_secs(1));
        far.pass(Duration::from_secs(1));
        Self { near, far, alice, bob, lost: 0 }
    }

    /// Alice publishes, and Bob's worker is told of it.
    fn share(&mut self, kind: MediaKind, rtp: RtpParameters, pipe: u64) -> ProducerId {
        let id = self.near.produce(self.alice, kind, rtp.clone(), false);
        let published = PublishedId::Media(id.clone());
        self.near.done("alice", Action::Export { published, pipe, to: 1 });
        let published = Box::new(Imported::Media { id: id.clone(), kind, rtp, paused: false });
        for _ in 0..2 {
            let published = published.clone();
            self.far.done("alice", Action::Import { pipe, from: 0, published }); // twice is once
        }
        id
    }

    /// Carries what they have said; how many parcels went each way.
    fn carry(&mut self) -> (usize, usize) {
        let there = carry(self.near.parcels(), 1, &mut self.lost, |parcel| self.far.hear(0, parcel));
        let back = carry(self.far.parcels(), 0, &mut 0, |parcel| self.near.hear(1, parcel));
        (there, back)
    }

    fn send(&mut self, packet: &[u8]) -> (usize, usize) {
        self.near.send_rtp(self.alice, packet);
        self.carry()
    }

    fn pass(&mut self, time: Duration) {
        for _ in 0..time.as_millis() / 10 {
            self.near.pass(Duration::from_millis(10));
            self.far.pass(Duration::from_millis(10));
            self.carry();
        }
    }

    /// Sequence number and payload.
    fn received(&mut self) -> Vec<(u16, Vec<u8>)> {
        let packets = self.far.received(self.bob);
        let read = packets.iter().map(|packet| {
            let header = RtpHeader::parse(packet).expect("RTP");
            (header.sequence_number, header.payload(packet).to_vec())
        });
        read.collect()
    }
}

fn carry(said: Vec<(usize, Vec<u8>)>, to: usize, lost: &mut usize, mut hear: impl FnMut(&[u8])) -> usize {
    let mut carried = 0;
    for (worker, parcels) in said {
        assert_eq!(worker, to);
        let mut rest = &parcels[..];
        while let Some((parcel, behind)) = parcel::first(rest) {
            if *lost > 0 {
                *lost -= 1;
            } else {
                hear(&parcel[LENGTH_BYTES..]);
                carried += 1;
            }
            rest = behind;
        }
    }
    carried
}

#[test]
fn sound_and_picture_reach_a_subscriber_on_another_worker() {
    let mut two = Two::new();
    let camera = two.share(MediaKind::Video, vp8(), PIPE);
    let microphone = two.share(MediaKind::Audio, opus(), PIPE + 1);
    let [picture, sound] = [&camera, &microphone].map(|id| two.far.consume(two.bob, id));
    assert_eq!(picture.rtp.rtcp.cname, sound.rtp.rtcp.cname, "they belong together");
    for consumer in [&picture, &sound] {
        two.far.done("bob", Action::ResumeConsumer { consumer: consumer.id.clone() });
    }
    assert_eq!(two.carry(), (0, 1), "a keyframe is asked for");
    assert_eq!(two.near.keyframe_requests(two.alice, 7000), 1);
    two.send(&vp8_packet(10, 7000, false));
    assert!(two.received().is_empty(), "no picture without one");
    two.send(&vp8_packet(11, 7000, true));
    two.send(&vp8_packet(12, 7000, false));
    two.send(&packet(111, 5, 960, 5555, b"opus"));
    let received = two.received();
    assert_eq!(received.len(), 3);
    assert_eq!(received[1].0, received[0].0 + 1);
    assert_eq!(received[2].1, b"opus");

    // The publisher's clock comes along.
    let mut report = Vec::new();
    feedback::write_sender_report(&mut report, 5555, 9 << 32, 960, 1, 4);
    two.near.send_rtcp(two.alice, &report);
    two.carry();
    two.pass(Duration::from_millis(1100));
    let mut clocks = Vec::new();
    for compound in two.far.received_rtcp(two.bob) {
        feedback::parse(&compound, |item| {
            if let feedback::Item::SenderReport { ssrc, ntp, .. } = item {
                clocks.push((Some(ssrc), ntp >> 32));
            }
        });
    }
    assert!(
        clocks.contains(&(sound.rtp.encodings[0].ssrc, 9))
            || clocks.contains(&(sound.rtp.encodings[0].ssrc, 10)),
        "{clocks:?}"
    );
}

#[test]
fn what_the_subscriber_misses_is_sent_again_by_its_own_worker() {
    let mut two = Two::new();
    let camera = two.share(MediaKind::Video, vp8(), PIPE);
    let consumer = two.far.consume(two.bob, &camera);
    two.far.done("bob", Action::ResumeConsumer { consumer: consumer.id.clone() });
    two.send(&vp8_packet(100, 7000, true));
    // Lost on the way to us and repeated: the other worker hears of it once, in its place.
    two.send(&vp8_packet(102, 7000, false));
    two.pass(Duration::from_millis(60));
    let original = vp8_packet(101, 7000, false);
    let repeated = packet(97, 1, 90, 7001, &[&[0, 101], &original[12..]].concat());
    assert_eq!(two.send(&repeated).0, 1);
    assert_eq!(two.send(&original).0, 0, "it is there already");
    let received = two.received();
    let first = received[0].0;
    assert_eq!(received.iter().map(|(number, _)| number - first).collect::<Vec<_>>(), [0, 2, 1]);

    let mut nack = Vec::new();
    feedback::write_nack(&mut nack, 1, consumer.rtp.encodings[0].ssrc.expect("an SSRC"), &[first + 1]);
    two.far.send_rtcp(two.bob, &nack);
    assert_eq!(two.carry(), (0, 0), "nobody else is asked");
    let again = two.received();
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].1[..2], (first + 1).to_be_bytes());
}

#[test]
fn what_is_lost_between_workers_is_lost_and_no_more() {
    let mut two = Two::new();
    let camera = two.share(MediaKind::Video, vp8(), PIPE);
    let consumer = two.far.consume(two.bob, &camera);
    two.far.done("bob", Action::ResumeConsumer { consumer: consumer.id });
    two.carry();
    let _ = two.near.keyframe_requests(two.alice, 7000);
    two.send(&vp8_packet(10, 7000, true));
    two.lost = 3;
    (11..=13).for_each(|number| _ = two.send(&vp8_packet(number, 7000, false)));
    two.send(&vp8_packet(14, 7000, false));
    let received = two.received();
    assert_eq!(received.iter().map(|(number, _)| number - received[0].0).collect::<Vec<_>>(), [0, 4]);
    two.pass(Duration::from_secs(2));
    assert_eq!(two.near.keyframe_requests(two.alice, 7000), 0, "nobody has asked");
    // The subscriber asks for a keyframe when it cannot go on.
    let mut pli = Vec::new();
    feedback::write_pli(&mut pli, 1, consumer.rtp.encodings[0].ssrc.expect("an SSRC"));
    for _ in 0..10 {
        two.far.send_rtcp(two.bob, &pli);
    }
    assert_eq!(two.carry().1, 1, "requests within a moment are one");
    assert_eq!(two.near.keyframe_requests(two.alice, 7000), 1);
}

#[test]
fn pauses_and_ends_are_the_same_there() {
    let mut two = Two::new();
    let camera = two.share(MediaKind::Video, vp8(), PIPE);
    let consumer = two.far.consume(two.bob, &camera);
    two.far.done("bob", Action::ResumeConsumer { consumer: consumer.id.clone() });
    two.send(&vp8_packet(10, 7000, true));
    two.near.done("alice", Action::PauseProducer { producer: camera.clone() });
    two.far.done("alice", Action::PauseImport { producer: camera.clone(), paused: true });
    assert_eq!(two.send(&vp8_packet(11, 7000, false)), (0, 0), "nothing is carried for nobody");
    assert!(two.far.consume(two.bob, &camera).producer_paused);
    two.pass(Duration::from_millis(100));
    two.near.done("alice", Action::ResumeProducer { producer: camera.clone() });
    two.far.done("alice", Action::PauseImport { producer: camera.clone(), paused: false });
    assert_eq!(two.carry().1, 1, "a keyframe is asked for");
    two.send(&vp8_packet(12, 7000, true));
    assert_eq!(two.received().len(), 2);

    let published = PublishedId::Media(camera.clone());
    two.near.done("alice", Action::EndExport { published: published.clone(), to: 1 });
    assert_eq!(two.send(&vp8_packet(13, 7000, false)), (0, 0));
    two.near.done("alice", Action::Export { published: published.clone(), pipe: PIPE, to: 1 });
    assert_eq!(two.send(&vp8_packet(14, 7000, false)).0, 1);
    two.near.done("alice", Action::CloseProducer { producer: camera });
    two.far.done("alice", Action::CloseImport { published });
    assert!(two.far.events().contains(&EventKind::ConsumerClosed(consumer.id)));
    assert_eq!([two.near.held()["pipes"], two.far.held()["pipes"]], [0, 0]);
}

#[test]
fn who_leaves_there_is_gone_here() {
    let mut two = Two::new();
    let camera = two.share(MediaKind::Video, vp8(), PIPE);
    let _ = two.share(MediaKind::Audio, opus(), PIPE + 1);
    let consumer = two.far.consume(two.bob, &camera);
    two.near.done("alice", Action::RemovePeer);
    two.far.done("alice", Action::RemovePeer);
    assert!(two.far.events().contains(&EventKind::ConsumerClosed(consumer.id)));
    for world in [&two.near, &two.far] {
        assert_eq!((world.held()["pipes"], world.held()["producers"]), (0, 0));
    }
    let camera = {
        two.alice = two.near.client("alice", TransportDirection::Send, None);
        two.near.pass(Duration::from_secs(1));
        two.share(MediaKind::Video, vp8(), PIPE + 2)
    };
    two.far.consume(two.bob, &camera);
    for world in [&mut two.near, &mut two.far] {
        world.done("alice", Action::CloseRoom);
        let held: usize = world.held().values().sum();
        assert_eq!(held, 0, "{:?}", world.held());
    }
}

#[test]
fn only_the_worker_that_has_it_is_believed() {
    let mut two = Two::new();
    let camera = two.share(MediaKind::Video, vp8(), PIPE);
    let consumer = two.far.consume(two.bob, &camera);
    two.far.done("bob", Action::ResumeConsumer { consumer: consumer.id });
    two.carry();
    two.near.send_rtp(two.alice, &vp8_packet(10, 7000, true));
    let said = two.near.parcels();
    let (parcel, _) = parcel::first(&said[0].1).expect("one");
    two.far.hear(5, &parcel[LENGTH_BYTES..]);
    two.near.hear(1, &parcel[LENGTH_BYTES..]); // it has that producer itself
    assert!(two.received().is_empty());
    two.far.hear(0, &parcel[LENGTH_BYTES..]);
    assert_eq!(two.received().len(), 1);
}

#[test]
fn messages_cross_too() {
    let mut two = Two::new();
    let sctp = SctpStreamParameters {
        stream_id: 3,
        ordered: Some(true),
        max_packet_life_time: None,
        max_retransmits: None,
    };
    let transport = two.near.transport_id(two.alice);
    let (label, protocol) = (String::from("chat"), String::new());
    let action = Action::ProduceData {
        transport,
        sctp: sctp.clone(),
        label: label.clone(),
        protocol: protocol.clone(),
    };
    let Done::DataProducer { id } = two.near.done("alice", action) else { panic!("a data producer") };
    let published = PublishedId::Data(id.clone());
    two.near.done("alice", Action::Export { published: published.clone(), pipe: PIPE, to: 1 });
    let imported = Imported::Data { id: id.clone(), sctp: sctp.clone(), label, protocol };
    two.far.done("alice", Action::Import { pipe: PIPE, from: 0, published: Box::new(imported) });
    let consume = |id: &DataProducerId, two: &mut Two| {
        let transport = two.far.transport_id(two.bob);
        match two.far.done("bob", Action::ConsumeData { transport, data_producer: id.clone() }) {
            Done::DataConsumer(info) => info,
            other => panic!("{other:?}"),
        }
    };
    let info = consume(&id, &mut two);
    assert_eq!(info.label, "chat");
    two.near.open_stream(two.alice, &sctp);
    two.far.open_stream(two.bob, &info.sctp);
    two.pass(Duration::from_secs(2));
    assert!(two.near.send_message(two.alice, 3, true, &vec![1; 100_000]));
    two.pass(Duration::from_secs(2));
    let messages = two.far.connection_events(two.bob).iter().filter_map(|event| match event {
        ConnectionEvent::Message { binary, data, .. } => Some((*binary, data.len())),
        _ => None,
    });
    assert_eq!(messages.collect::<Vec<_>>(), [(true, 100_000)]);
    two.far.done("alice", Action::CloseImport { published });
    assert!(two.far.events().contains(&EventKind::DataConsumerClosed(info.id)));
}

#[test]
fn layers_that_are_watched_only_there_go_on() {
    let mut two = Two::new();
    let camera = two.share(MediaKind::Video, legacy_simulcast(), PIPE);
    let consumer = two.far.consume(two.bob, &camera).id;
    two.far.done("bob", Action::ResumeConsumer { consumer: consumer.clone() });
    let mut sequence = 0;
    let mut seconds = |two: &mut Two, count: u32| {
        for _ in 0..count * 10 {
            sequence += 1;
            [100, 200]
                .into_iter()
                .for_each(|ssrc| _ = two.send(&vp8_packet(sequence, ssrc, sequence % 10 == 1)));
            two.pass(Duration::from_millis(100));
        }
        let told = two.near.events().iter().filter_map(|event| match event {
            EventKind::LayersWanted { spatial, .. } => Some(*spatial),
            _ => None,
        });
        told.collect::<Vec<_>>()
    };
    assert_eq!(seconds(&mut two, 8), Vec::<u8>::new(), "the highest is watched there");
    let prefer = |two: &mut Two, spatial| {
        let consumer = consumer.clone();
        two.far.done("bob", Action::SetPreferredLayers { consumer, spatial, temporal: None });
    };
    prefer(&mut two, 0);
    assert_eq!(seconds(&mut two, 8), [0]);
    prefer(&mut two, 1);
    two.carry();
    assert_eq!(seconds(&mut two, 1), [0, 1], "more is told at once");
    assert!(two.received().len() > 100);
}
