//! Rooms in which only the loudest voices are forwarded.

use std::collections::BTreeMap;
use std::time::Duration;

use common::control::{Action, TransportDirection};
use common::ids::ProducerId;
use common::rtp_parameters::{MediaKind, RtpHeaderExtensionParameters, RtpParameters};
use media::rtp::RtpHeader;

use crate::client::{self, World, opus};
use crate::scores::LEVEL;

const LOUD: u8 = 20;
const SILENT: u8 = 127;

struct Room {
    world: World,
    speakers: Vec<(usize, u32, ProducerId)>,
    listener: usize,
    /// Of each consumer's stream, by the speaker.
    streams: BTreeMap<u32, usize>,
    sequence: u16,
}

fn voice(ssrc: u32, has_level: bool) -> RtpParameters {
    let mut rtp = opus();
    rtp.encodings[0].ssrc = Some(ssrc);
    if has_level {
        rtp.header_extensions.push(RtpHeaderExtensionParameters {
            uri: LEVEL.into(),
            id: 6,
            encrypt: false,
            parameters: Default::default(),
        });
    }
    rtp
}

impl Room {
    /// `levels` says of each speaker whether its client tells levels.
    fn new(max_speakers: usize, levels: &[bool]) -> Self {
        let mut world = World::with_speakers(max_speakers);
        let join = |world: &mut World, (at, has_level): (usize, &bool)| {
            let client = world.client(&format!("speaker{at}"), TransportDirection::Send, None);
            world.pass(Duration::from_millis(200));
            let ssrc = 5000 + at as u32;
            let producer = world.produce(client, MediaKind::Audio, voice(ssrc, *has_level), false);
            (client, ssrc, producer)
        };
        let speakers: Vec<_> = levels.iter().enumerate().map(|it| join(&mut world, it)).collect();
        let listener = world.client("listener", TransportDirection::Recv, None);
        world.pass(Duration::from_secs(1));
        let mut streams = BTreeMap::new();
        for (at, (_, _, producer)) in speakers.iter().enumerate() {
            let consumer = world.consume(listener, producer);
            streams.insert(consumer.rtp.encodings[0].ssrc.expect("an SSRC"), at);
            world.done("listener", Action::ResumeConsumer { consumer: consumer.id });
        }
        Self { world, speakers, listener, streams, sequence: 0 }
    }

    /// Everybody says 20 ms at these levels, so many times. What the listener got of each: sequence numbers and timestamps.
    fn say(&mut self, levels: &[u8], times: usize) -> Vec<Vec<(u16, u32)>> {
        for _ in 0..times {
            self.sequence += 1;
            for ((client, ssrc, _), level) in self.speakers.iter().zip(levels) {
                let timestamp = 960 * u32::from(self.sequence);
                let plain = client::packet(111, self.sequence, timestamp, *ssrc, b"opus");
                self.world.send_rtp(*client, &client::with_extensions(plain, &[(6, &[*level])]));
            }
            self.world.pass(Duration::from_millis(20));
        }
        let mut heard = vec![Vec::new(); self.speakers.len()];
        for packet in self.world.received(self.listener) {
            let header = RtpHeader::parse(&packet).expect("RTP");
            heard[self.streams[&header.ssrc]].push((header.sequence_number, header.timestamp));
        }
        heard
    }
}

fn counts(heard: &[Vec<(u16, u32)>]) -> Vec<usize> {
    heard.iter().map(Vec::len).collect()
}

#[test]
fn the_loudest_are_forwarded_and_who_comes_back_goes_on_in_its_numbering() {
    let mut room = Room::new(2, &[true; 4]);
    let first = room.say(&[LOUD, LOUD, SILENT, SILENT], 100);
    assert_eq!(counts(&first), [100, 100, 0, 0]);
    let second = room.say(&[LOUD, SILENT, SILENT, SILENT], 100);
    assert_eq!(counts(&second), [100, 100, 0, 0], "nobody else wants the place");
    let third = room.say(&[LOUD, SILENT, LOUD, SILENT], 100);
    assert_eq!(counts(&third), [100, 1, 100, 0], "the new voice is not cut at its start");
    let back = room.say(&[SILENT, LOUD, LOUD, SILENT], 100);
    assert_eq!(back[2].len(), 100);
    assert_eq!(back[1].len(), 91, "after a fifth of a second of speech");
    let (last, next) = (third[1].last().expect("heard"), back[1].first().expect("heard"));
    assert_eq!(next.0, last.0.wrapping_add(1), "nothing is asked for that never came");
    let left_out = 99 + 100 - back[1].len() as u32;
    assert_eq!(next.1.wrapping_sub(last.1), 960 * (left_out + 1), "and the pause has its length");
    let total: usize = [first, second, third, back].iter().flat_map(|heard| counts(heard)).sum();
    assert_eq!(room.world.counters().voices_left_out, 4 * 400 - total as u64);
}

#[test]
fn who_is_muted_or_gone_frees_a_place_at_once() {
    let mut room = Room::new(1, &[true; 3]);
    room.say(&[LOUD, LOUD, LOUD], 10);
    let producer = room.speakers[0].2.clone();
    room.world.done("speaker0", Action::PauseProducer { producer: producer.clone() });
    assert_eq!(counts(&room.say(&[LOUD, LOUD, LOUD], 10)), [0, 10, 0]);
    room.world.done("speaker0", Action::ResumeProducer { producer });
    let producer = room.speakers[1].2.clone();
    room.world.done("speaker1", Action::CloseProducer { producer });
    assert_eq!(counts(&room.say(&[LOUD, LOUD, LOUD], 10)), [10, 0, 0]);
}

#[test]
fn voices_without_levels_are_forwarded_and_all_are_when_nothing_is_set() {
    let mut room = Room::new(1, &[true, true, false]);
    assert_eq!(counts(&room.say(&[LOUD, LOUD, LOUD], 10)), [10, 0, 10]);
    let mut room = Room::new(0, &[true; 3]);
    assert_eq!(counts(&room.say(&[LOUD, SILENT, LOUD], 10)), [10, 10, 10]);
}
