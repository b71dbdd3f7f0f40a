//! The parts of a forwarded packet's path, each alone.

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use media::arrivals::Arrivals;
use media::codec::{Codec, inspect};
use media::demux::{Class, Demux};
use media::estimate::Estimator;
use media::feedback::{self, Item};
use media::ice::{RemoteAddr, Via};
use media::rewrite::{Gap, Rewriter};
use media::srtp::{OVERHEAD_MAX, Profile, SrtpContext};

use super::client::vp8_layer_packet;
use super::forward::packet;

/// Operations in one call of what the functions here return.
pub const BATCH: usize = 512;
/// Transports of a worker that has much to do.
const ADDRESSES: usize = 1000;
/// Each so many packets is left out, as where a layer is not wanted.
const SKIPPED_EACH: u64 = 10;

/// Finds the transport of a datagram, another one each time.
pub fn demux() -> impl FnMut() {
    let addr = |index: usize| SocketAddr::from(([198, 51, 100, (index / 250) as u8], 5000 + index as u16));
    let remotes = (0..ADDRESSES).map(|index| RemoteAddr { via: Via::Udp, addr: addr(index) });
    let remotes: Vec<RemoteAddr> = remotes.collect();
    let mut demux = Demux::default();
    for (slot, remote) in remotes.iter().enumerate() {
        demux.learn(*remote, slot);
    }
    let datagram = packet(1, false);
    move || {
        for remote in &remotes[..BATCH] {
            assert_eq!(Class::of(black_box(&datagram)), Class::Rtp);
            assert!(demux.find(black_box(*remote)).is_some());
        }
    }
}

/// Reads a VP8 descriptor and gives the packet its numbers for one consumer; a tenth is left out.
pub fn rewrite() -> impl FnMut() {
    let packet = |sequence: usize| vp8_layer_packet(sequence as u16, 7000, false, sequence as u8 % 3);
    let packets: Vec<Vec<u8>> = (0..BATCH).map(packet).collect();
    let (mut rewriter, mut sequence) = (Rewriter::new(7), 0u64);
    rewriter.switch(0, 0, &inspect(Codec::Vp8, &packets[0][12..]), Gap::default());
    move || {
        for packet in &packets {
            sequence += 1;
            let frame = inspect(Codec::Vp8, black_box(&packet[12..]));
            if sequence.is_multiple_of(SKIPPED_EACH) {
                rewriter.skip(sequence, &frame);
            } else {
                assert!(rewriter.map(sequence, 3000 * sequence as u32, &frame).is_some());
            }
        }
    }
}

/// A direction's context; both ends have the same key.
pub fn context(profile: Profile) -> SrtpContext {
    SrtpContext::new(profile, &[1; 32][..profile.key_len()], &[2; 14][..profile.salt_len()]).expect("a key")
}

/// One packet sealed again and again under new numbers.
pub struct Sealer {
    context: SrtpContext,
    packet: Vec<u8>,
    slot: Vec<u8>,
    index: u64,
}

impl Sealer {
    pub fn new(profile: Profile) -> Self {
        let packet = packet(0, false);
        let slot = vec![0; packet.len() + OVERHEAD_MAX];
        Self { context: context(profile), packet, slot, index: 0 }
    }

    pub fn seal(&mut self) -> &[u8] {
        self.index += 1;
        self.slot[..self.packet.len()].copy_from_slice(&self.packet);
        self.slot[2..4].copy_from_slice(&(self.index as u16).to_be_bytes());
        let length = self.context.seal_rtp(&mut self.slot, self.packet.len(), self.index).expect("sealed");
        &self.slot[..length]
    }
}

enum Step {
    Sent { sequence: u16, bytes: usize },
    Feedback(Vec<u8>),
}

/// Ten seconds of a sender at 1.2 Mb/s, whose link carries 1 Mb/s in the middle third and loses each fiftieth packet.
pub struct Trace {
    start: Instant,
    steps: Vec<(Duration, Step)>,
    /// Packets sent in it.
    pub packets: usize,
}

impl Trace {
    pub fn new() -> Self {
        let start = Instant::now();
        let (mut arrivals, mut free) = (Arrivals::new(start), start);
        let (mut steps, mut packets) = (Vec::new(), 0u16);
        for ms in 1..=10_000 {
            let at = Duration::from_millis(ms);
            let now = start + at;
            if ms % 8 == 0 {
                packets += 1;
                steps.push((at, Step::Sent { sequence: packets, bytes: 1200 }));
                let bps = if (3_333..6_667).contains(&ms) { 1e6 } else { 3e6 };
                free = free.max(now) + Duration::from_secs_f64(1200.0 * 8.0 / bps);
                if !packets.is_multiple_of(50) {
                    arrivals.record(free + Duration::from_millis(20), packets, 1);
                }
            }
            if ms % 50 == 0 {
                let mut compound = Vec::new();
                arrivals.write(&mut compound, 1);
                steps.push((at, Step::Feedback(compound)));
            }
        }
        Self { start, steps, packets: packets.into() }
    }

    /// What an estimator makes of it.
    pub fn play(&self) -> u64 {
        let mut estimator = Estimator::new(self.start);
        for (at, step) in &self.steps {
            let now = self.start + *at;
            match step {
                Step::Sent { sequence, bytes } => estimator.on_sent(now, *sequence, *bytes),
                Step::Feedback(compound) => feedback::parse(compound, |item| {
                    if let Item::TransportFeedback(feedback) = item {
                        estimator.on_feedback(now, &feedback);
                    }
                }),
            }
        }
        estimator.bitrate().expect("something is known")
    }
}
