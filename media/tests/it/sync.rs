//! Sound and picture stay together: through switches of layers, with a publisher whose clock is not ours, and through every wrap
//! of numbers and timestamps.

use std::collections::BTreeMap;
use std::time::Duration;

use common::control::Action;
use common::rtp_parameters::MediaKind;
use media::feedback::{self, Item};
use media::rtp::RtpHeader;

use crate::client::{self, World, legacy_simulcast, opus};

/// The publisher's clock runs so many times as fast as ours: 300 millionths, worse than any real one.
const FAST: f64 = 1.0003;
const STEP: Duration = Duration::from_millis(20);
/// Steps between switches, and so many of them: a minute.
const HELD_STEPS: u64 = 125;
const SWITCHES: u64 = 24;
/// What a receiver may be wrong by in playing the two together. Lips are noticed from 45 ms on (ITU-R BT.1359).
const ERROR_SECONDS: f64 = 0.005;

/// One of the publisher's sources.
struct Source {
    ssrc: u32,
    payload_type: u8,
    clock_rate: f64,
    /// Where its numbers begin: shortly before they wrap.
    first_sequence: u64,
    first_timestamp: u32,
    /// Packets sent.
    sent: u64,
}

/// The publisher's clock after so many steps, in seconds.
fn seconds(step: u64) -> f64 {
    step as f64 * STEP.as_secs_f64() * FAST
}

impl Source {
    fn new(ssrc: u32, payload_type: u8, clock_rate: f64, first_timestamp: u32) -> Self {
        Self { ssrc, payload_type, clock_rate, first_sequence: 65_400, first_timestamp, sent: 0 }
    }

    fn timestamp(&self, step: u64) -> u32 {
        self.first_timestamp.wrapping_add((seconds(step) * self.clock_rate).round() as u64 as u32)
    }

    /// What was captured at this step; the payload ends with the step.
    fn send(&mut self, world: &mut World, from: usize, step: u64, keyframe: bool) {
        let sequence = self.first_sequence + self.sent;
        self.sent += 1;
        let id = self.sent as u16;
        let mut payload = match self.payload_type {
            96 => vec![0x90, 0x80, 0x80 | (id >> 8) as u8, id as u8, u8::from(!keyframe)],
            _ => Vec::new(),
        };
        payload.extend((step as u32).to_be_bytes());
        let packet =
            client::packet(self.payload_type, sequence as u16, self.timestamp(step), self.ssrc, &payload);
        let sealed = world.seal_rtp(from, &packet, sequence);
        world.throw(world.address(from), sealed);
    }

    fn report(&self, world: &mut World, from: usize, step: u64) {
        let ntp = ((1000.0 + seconds(step)) * 4_294_967_296.0) as u64;
        let mut report = Vec::new();
        feedback::write_sender_report(&mut report, self.ssrc, ntp, self.timestamp(step), 1, 1);
        world.send_rtcp(from, &report);
    }
}

/// What the subscriber knows of one stream.
#[derive(Default)]
struct Heard {
    /// NTP time and media time.
    report: Option<(u64, u32)>,
    last: Option<(u16, u32)>,
    packets: u64,
    /// Packets whose time could be told.
    told: u64,
}

impl Heard {
    /// Takes a packet; by how much the time that it would be played at differs from the time of its capture.
    fn take(&mut self, header: &RtpHeader<'_>, step: u64, clock_rate: f64) -> Option<f64> {
        let number = (header.sequence_number, header.timestamp);
        if let Some((sequence, timestamp)) = self.last.replace(number) {
            assert_eq!(number.0, sequence.wrapping_add(1), "a seam in the numbers at step {step}");
            let forward = number.1.wrapping_sub(timestamp) as i32;
            assert!(forward > 0, "timestamps run back by {forward} at step {step}");
        }
        self.packets += 1;
        let (ntp, timestamp) = self.report?;
        self.told += 1;
        let since = f64::from(header.timestamp.wrapping_sub(timestamp) as i32) / clock_rate;
        Some(ntp as f64 / 4_294_967_296.0 + since - (1000.0 + seconds(step)))
    }
}

#[test]
fn sound_and_picture_stay_together_through_switches_drift_and_wraps() {
    let mut world = World::new();
    let (alice, bob) = world.connected_pair();
    let audio = world.produce(alice, MediaKind::Audio, opus(), false);
    let video = world.produce(alice, MediaKind::Video, legacy_simulcast(), false);
    let mut heard = BTreeMap::new();
    let mut camera = None;
    for (producer, clock_rate) in [(&audio, 48_000.0), (&video, 90_000.0)] {
        let consumer = world.consume(bob, producer);
        let ssrc = consumer.rtp.encodings[0].ssrc.expect("an SSRC");
        heard.insert(ssrc, (Heard::default(), clock_rate));
        world.done("bob", Action::ResumeConsumer { consumer: consumer.id.clone() });
        camera = Some(consumer.id);
    }
    let camera = camera.expect("the camera");
    // All of them wrap within seconds; the two layers began at other times.
    let mut voice = Source::new(5555, 111, 48_000.0, u32::MAX - 200_000);
    let mut layers = [(100, u32::MAX - 90_000), (200, 0x1234_5678)]
        .map(|(ssrc, timestamp)| Source::new(ssrc, 96, 90_000.0, timestamp));
    for step in 0..HELD_STEPS * SWITCHES {
        if step % HELD_STEPS == 0 {
            let spatial = (step / HELD_STEPS % 2) as u8;
            let consumer = camera.clone();
            world.done("bob", Action::SetPreferredLayers { consumer, spatial, temporal: None });
        }
        voice.send(&mut world, alice, step, false);
        if step % 2 == 0 {
            layers.iter_mut().for_each(|layer| layer.send(&mut world, alice, step, step % 30 == 0));
        }
        if step % 50 == 7 {
            [&voice, &layers[0], &layers[1]].into_iter().for_each(|it| it.report(&mut world, alice, step));
        }
        world.pass(STEP);
        for packet in world.received(bob) {
            let header = RtpHeader::parse(&packet).expect("RTP");
            let (stream, clock_rate) = heard.get_mut(&header.ssrc).expect("a consumer's");
            let captured = packet.last_chunk::<4>().map(|step| u32::from_be_bytes(*step)).expect("a step");
            if let Some(error) = stream.take(&header, captured.into(), *clock_rate) {
                assert!(error.abs() < ERROR_SECONDS, "{error} s at step {step}, SSRC {}", header.ssrc);
            }
        }
        for compound in world.received_rtcp(bob) {
            feedback::parse(&compound, |item| {
                if let Item::SenderReport { ssrc, ntp, timestamp, .. } = item
                    && let Some((stream, _)) = heard.get_mut(&ssrc)
                {
                    stream.report = Some((ntp, timestamp));
                }
            });
        }
    }
    let steps = HELD_STEPS * SWITCHES;
    for (stream, clock_rate) in heard.values() {
        let sent = if *clock_rate == 48_000.0 { steps } else { steps / 2 };
        assert!(
            stream.packets > sent * 95 / 100 && stream.told > sent * 9 / 10,
            "{} of {sent}",
            stream.packets
        );
    }
    let entered = layers.iter().all(|layer| layer.first_sequence + layer.sent > 65_536);
    assert!(entered, "the numbers wrap");
}
