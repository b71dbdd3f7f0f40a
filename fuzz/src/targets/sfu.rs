//! The SFU's core, step by step: clients with real DTLS and SRTP who publish, subscribe, send what no client would, and
//! strangers; commands in any order; time.
//!
//! `media`'s own test clients are the world: what the core sends must open with their keys, once, and every command gets
//! one answer. Here, too: a subscriber's sequence numbers never repeat, and nothing is left when all have gone.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use common::control::{Action, Done, StatsOf, TransportDirection};
use common::ids::{ConsumerId, ProducerId};
use common::rtp_parameters::{MediaKind, SctpStreamParameters};
use media::rtp::RtpHeader;

use crate::bytes::Bytes;

#[allow(dead_code, missing_docs)] // written for tests
#[path = "../../../media/tests/it/client/mod.rs"]
mod client;

use client::{World, opus, packet, simulcast, vp8, vp8_packet, with_mid_and_rid};

const STEPS_MAX: usize = 150;

struct Scene {
    world: World,
    alice: usize,
    bob: usize,
    producers: Vec<ProducerId>,
    consumers: Vec<ConsumerId>,
    sequence: u16,
    /// What Alice sent and what Bob got: SSRC and sequence number.
    sealed: BTreeSet<(u32, u16)>,
    seen: BTreeSet<(u32, u16)>,
}

impl Scene {
    fn new() -> Self {
        let mut world = World::new();
        let (alice, bob) = world.connected_pair();
        let (producers, consumers) = (Vec::new(), Vec::new());
        let (sealed, seen) = Default::default();
        Self { world, alice, bob, producers, consumers, sequence: 0, sealed, seen }
    }

    fn step(&mut self, bytes: &mut Bytes<'_>) {
        let what = bytes.byte();
        match what % 16 {
            0 => self.produce(bytes),
            1 => self.consume(bytes),
            2 => self.control_consumer(bytes),
            3 => self.control_producer(bytes),
            4 | 5 => self.send_video(bytes),
            6 => {
                let timestamp = bytes.u32();
                self.sequence = self.sequence.wrapping_add(1);
                self.send(packet(111, self.sequence, timestamp, 5555, bytes.short()));
            }
            7 => self.send_extended(bytes),
            8 => self.retransmit(bytes),
            9 | 10 => self.send_rtcp(bytes),
            11 => self.world.pass(Duration::from_millis(u64::from(bytes.byte()) * 4)),
            12 => self.data(bytes),
            13 => {
                let from = [
                    SocketAddr::from(([203, 0, 113, 9], 1)),
                    self.world.address(self.alice),
                    self.world.address(self.bob),
                ];
                let from = bytes.pick(&from);
                let data = bytes.short();
                // What their own keys would not open again is thrown as it is.
                self.world.throw(from, data.to_vec());
            }
            14 => {
                let of = if what < 128 { "alice" } else { "bob" };
                self.world.done(of, Action::Stats(StatsOf::Peer));
            }
            _ => self.other_transports(bytes),
        }
        self.look();
    }

    /// What Bob got is new each time; retransmissions are in a stream of their own.
    fn look(&mut self) {
        for packet in self.world.received(self.bob) {
            let header = RtpHeader::parse(&packet).expect("it was sealed as RTP");
            assert!(self.seen.insert((header.ssrc, header.sequence_number)), "{header:?} again");
        }
        self.world.received_rtcp(self.alice);
        self.world.received_rtcp(self.bob);
        assert!(self.world.transport_count() <= 2 + 8);
    }

    fn produce(&mut self, bytes: &mut Bytes<'_>) {
        let (kind, rtp) = match bytes.byte() % 3 {
            0 => (MediaKind::Audio, opus()),
            1 => (MediaKind::Video, vp8()),
            _ => (MediaKind::Video, simulcast()),
        };
        let transport = self.world.transport_id(self.alice);
        let action = Action::Produce { transport, kind, rtp, paused: bytes.byte() & 3 == 0 };
        // Twice the same one is refused.
        if let Ok(Done::Producer { id }) = self.world.command("alice", action) {
            self.producers.push(id);
        }
    }

    fn consume(&mut self, bytes: &mut Bytes<'_>) {
        if self.producers.is_empty() || self.consumers.len() > 20 {
            return;
        }
        let producer = self.producers[usize::from(bytes.byte()) % self.producers.len()].clone();
        let transport = self.world.transport_id(self.bob);
        let Done::Room { capabilities } = self.world.done("bob", Action::OpenRoom { codecs: None }) else {
            panic!("the room is there")
        };
        let action = Action::Consume { transport, producer, capabilities };
        if let Ok(Done::Consumer(info)) = self.world.command("bob", action) {
            let _ = self.world.command("bob", Action::ResumeConsumer { consumer: info.id.clone() });
            self.consumers.push(info.id);
        }
    }

    fn control_consumer(&mut self, bytes: &mut Bytes<'_>) {
        if self.consumers.is_empty() {
            return;
        }
        let consumer = self.consumers[usize::from(bytes.byte()) % self.consumers.len()].clone();
        let action = match bytes.byte() % 6 {
            0 => Action::PauseConsumer { consumer },
            1 => Action::ResumeConsumer { consumer },
            2 => Action::CloseConsumer { consumer },
            3 => Action::RequestKeyFrame { consumer },
            4 => Action::SetPriority { consumer, priority: bytes.byte() },
            _ => Action::SetPreferredLayers {
                consumer,
                spatial: bytes.byte() % 4,
                temporal: Some(bytes.byte() % 4),
            },
        };
        let _ = self.world.command("bob", action);
    }

    fn control_producer(&mut self, bytes: &mut Bytes<'_>) {
        if self.producers.is_empty() {
            return;
        }
        let producer = self.producers[usize::from(bytes.byte()) % self.producers.len()].clone();
        let action = match bytes.byte() % 3 {
            0 => Action::PauseProducer { producer },
            1 => Action::ResumeProducer { producer },
            _ => Action::CloseProducer { producer },
        };
        let foreign = self.world.command("bob", action.clone());
        assert!(foreign.is_err(), "Bob has no producer");
        let _ = self.world.command("alice", action);
    }

    fn send_video(&mut self, bytes: &mut Bytes<'_>) {
        let (which, ahead) = (bytes.byte(), bytes.byte());
        self.sequence = self.sequence.wrapping_add(u16::from(ahead % 32));
        let keyframe = which & 1 == 1;
        let plain = |ssrc| vp8_packet(self.sequence, ssrc, keyframe);
        let packet = match which >> 1 & 3 {
            0 | 1 => plain(7000),
            2 => with_mid_and_rid(plain(100), "1", "r0"),
            _ => with_mid_and_rid(plain(200), "1", "r1"),
        };
        self.send(packet);
    }

    /// A packet with any descriptor and any header extension.
    fn send_extended(&mut self, bytes: &mut Bytes<'_>) {
        let (payload_type, sequence, ssrc) =
            (bytes.pick(&[96, 97, 111, 0]), bytes.u16(), bytes.pick(&[7000, 7001, 5555, 100, 200]));
        let profile = bytes.pick(&[0xbedeu16, 0x1000, 0x1234]);
        let elements = bytes.short();
        let words = elements.len().div_ceil(4);
        let mut body = profile.to_be_bytes().to_vec();
        body.extend_from_slice(&(words as u16).to_be_bytes());
        body.extend_from_slice(elements);
        body.resize(4 + 4 * words, 0);
        let timestamp = bytes.u32();
        body.extend_from_slice(bytes.short());
        let mut packet = packet(payload_type, sequence, timestamp, ssrc, &body);
        packet[0] |= 0x10 | bytes.byte() & 0x20;
        self.send(packet);
    }

    fn retransmit(&mut self, bytes: &mut Bytes<'_>) {
        let original = self.sequence.wrapping_sub(u16::from(bytes.byte()));
        let payload =
            [&original.to_be_bytes()[..], &vp8_packet(original, 7000, bytes.byte() % 2 == 1)[12..]].concat();
        let rtx = bytes.u16();
        self.send(packet(97, rtx, 0, 7001, &payload));
    }

    /// Under its sequence number; who seals one twice, as a broken client might, is not what is tested.
    fn send(&mut self, packet: Vec<u8>) {
        let ssrc = u32::from_be_bytes([packet[8], packet[9], packet[10], packet[11]]);
        let sequence = u16::from_be_bytes([packet[2], packet[3]]);
        if self.sealed.insert((ssrc, sequence)) {
            self.world.send_rtp(self.alice, &packet);
        }
    }

    fn send_rtcp(&mut self, bytes: &mut Bytes<'_>) {
        let from = bytes.pick(&[self.alice, self.bob]);
        let (kind, count) = (bytes.pick(&[200, 201, 202, 205, 206, 207]), bytes.byte() & 0x1f);
        let sources: Vec<u32> = self.seen.iter().map(|(ssrc, _)| *ssrc).chain([7000, 5555]).collect();
        let source = sources[usize::from(bytes.byte()) % sources.len()];
        let content = bytes.short();
        let mut compound = vec![0x80 | count, kind, 0, 0, 0, 0, 0, 1];
        compound.extend_from_slice(&source.to_be_bytes());
        compound.extend_from_slice(content);
        compound.resize(compound.len().next_multiple_of(4), 0);
        compound[3] = (compound.len() / 4 - 1) as u8;
        self.world.send_rtcp(from, &compound);
    }

    fn data(&mut self, bytes: &mut Bytes<'_>) {
        let stream = u16::from(bytes.byte() % 4);
        let sctp = SctpStreamParameters {
            stream_id: stream,
            ordered: None,
            max_packet_life_time: None,
            max_retransmits: bytes.pick(&[None, Some(0), Some(3)]),
        };
        let transport = self.world.transport_id(self.alice);
        let action =
            Action::ProduceData { transport, sctp: sctp.clone(), label: "l".into(), protocol: String::new() };
        if let Ok(Done::DataProducer { id }) = self.world.command("alice", action) {
            self.world.open_stream(self.alice, &sctp);
            let transport = self.world.transport_id(self.bob);
            let action = Action::ConsumeData { transport, data_producer: id };
            if let Ok(Done::DataConsumer(info)) = self.world.command("bob", action) {
                self.world.open_stream(self.bob, &info.sctp);
            }
        }
        self.world.send_message(self.alice, stream, false, bytes.short());
        self.world.pass(Duration::from_millis(5));
    }

    fn other_transports(&mut self, bytes: &mut Bytes<'_>) {
        match bytes.byte() % 5 {
            0 => {
                let action =
                    Action::CreateTransport { direction: TransportDirection::Send, force_tcp: false };
                let _ = self.world.command("bob", action);
            }
            1 => self.world.restart_ice(self.bob),
            2 => self.world.move_to_new_address(self.bob),
            3 => {
                let transport = self.world.transport_id(self.alice);
                assert!(self.world.command("bob", Action::CloseTransport { transport }).is_err());
            }
            _ => {
                let dtls = self.world.client_dtls();
                let transport = self.world.transport_id(self.bob);
                assert!(self.world.command("bob", Action::ConnectTransport { transport, dtls }).is_err());
            }
        }
    }
}

/// A list of steps.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    if data.len() < 2 {
        return;
    }
    let mut scene = Scene::new();
    for _ in 0..STEPS_MAX {
        if bytes.is_empty() {
            break;
        }
        scene.step(&mut bytes);
    }
    for who in ["alice", "bob"] {
        scene.world.done(who, Action::RemovePeer);
    }
    assert_eq!(scene.world.transport_count(), 0);
    scene.world.done("alice", Action::CloseRoom);
    assert!(scene.world.command("alice", Action::AddPeer).is_err(), "the room is gone");
}

/// Audio, video with a loss and its retransmission, simulcast with a change of layers, data.
pub fn seeds() -> Vec<Vec<u8>> {
    let audio =
        [&[0, 0, 1, 1, 0][..], &[6, 0, 0, 0, 1, 2, 1, 2], &[6, 0, 0, 0, 2, 2, 1, 2], &[11, 50]].concat();
    let video = [
        &[0, 1, 1, 1, 0][..],
        &[4, 1, 1],
        &[4, 0, 1],
        &[4, 0, 2],
        &[11, 20],
        &[8, 1, 0, 0, 1],
        &[9, 1, 3, 1, 0, 4, 0, 1, 0, 0],
        &[2, 0, 3],
        &[9, 1, 4, 1, 0, 0],
        &[9, 0, 0, 0, 0, 16],
        &[1; 16],
        &[11, 255],
        &[14],
    ]
    .concat();
    let layers = [
        &[0, 2, 1][..],
        &[4, 5, 1],
        &[4, 7, 1],
        &[1, 0],
        &[4, 5, 1],
        &[4, 7, 1],
        &[2, 0, 5, 1, 1],
        &[4, 7, 1],
        &[4, 6, 1],
        &[11, 100],
        &[3, 0, 0],
        &[3, 0, 1],
        &[7, 0, 0, 9, 3, 0, 4, 0x30, b'1', 0x91, b'r', 0, 0, 0, 1, 3, 0x10, 0, 0, 0],
        &[15, 1],
        &[15, 2],
        &[3, 0, 2],
    ]
    .concat();
    let data = vec![12, 1, 0, 2, b'h', b'i', 12, 1, 1, 3, 1, 2, 3, 11, 30, 13, 0, 4, 0, 1, 0, 0];
    vec![audio, video, layers, data]
}
