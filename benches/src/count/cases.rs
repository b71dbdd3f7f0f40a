//! What is counted. Everything has been done before once or more often when it is counted, so that tables and buffers have
//! the size that they keep.

use media::reception::KEPT_MAX;
use media::srtp::Profile;
use turn::relay::Input;

use crate::relay::{PAYLOAD_BYTES, WAYS, World as RelayWorld};
use crate::sfu::churn::Room;
use crate::sfu::forward::{sealed, world};
use crate::sfu::parts::{self, BATCH, Sealer, Trace};

const PACKETS: u64 = 256;
/// Packets that a forwarding case sends before it is counted: a producer's ring is full.
const WARM_UP: u64 = KEPT_MAX as u64 + 1;
const VISITS: usize = 8;
/// Allocations of the relay, of which each has one packet in turn.
const ALLOCATIONS: usize = 50;
/// Of [`Trace`].
const TRACE_PACKETS: usize = 1250;

/// A piece of work.
pub struct Case {
    /// What the baseline calls it.
    pub name: &'static str,
    /// What the instructions are divided by.
    pub operations: usize,
    /// Makes it ready.
    pub prepare: fn() -> Box<dyn FnMut()>,
}

const fn case(name: &'static str, operations: usize, prepare: fn() -> Box<dyn FnMut()>) -> Case {
    Case { name, operations, prepare }
}

/// All of them.
pub const CASES: &[Case] = &[
    case("forward, 1 subscriber", PACKETS as usize, || forward(1, 1)),
    case("forward, 10 subscribers", PACKETS as usize, || forward(10, 1)),
    case("forward, 50 subscribers", PACKETS as usize, || forward(50, 1)),
    case("forward, 1 subscriber with 10 streams", PACKETS as usize, || forward(1, 10)),
    case("demux", BATCH, || repeated(parts::demux())),
    case("rewrite", BATCH, || repeated(parts::rewrite())),
    case("srtp seal, GCM", BATCH, || seal(Profile::AeadAes256Gcm)),
    case("srtp open, GCM", BATCH, || open(Profile::AeadAes256Gcm)),
    case("srtp seal, CM", BATCH, || seal(Profile::Aes128CmSha1_80)),
    case("srtp open, CM", BATCH, || open(Profile::Aes128CmSha1_80)),
    case("estimate, a packet with its feedback", TRACE_PACKETS, estimate),
    case("room churn, a visit", VISITS, churn),
    case("relay, ChannelData from a client", BATCH, || relay("up-channel")),
    case("relay, Send indication", BATCH, || relay("up-send")),
    case("relay, ChannelData to a client", BATCH, || relay("down-channel")),
    case("relay, Data indication", BATCH, || relay("down-data")),
];

fn repeated(mut work: impl FnMut() + 'static) -> Box<dyn FnMut()> {
    work();
    Box::new(work)
}

fn forward(transports: usize, streams: usize) -> Box<dyn FnMut()> {
    let (mut world, alice) = world(transports, streams);
    let warm_up = sealed(&mut world, alice, 1..1 + WARM_UP);
    world.time_forwarding(alice, warm_up);
    let mut packets = sealed(&mut world, alice, 1 + WARM_UP..1 + WARM_UP + PACKETS);
    Box::new(move || {
        let before = world.counters().forwarded;
        world.time_forwarding(alice, std::mem::take(&mut packets));
        assert_eq!(world.counters().forwarded - before, PACKETS * (transports * streams) as u64);
    })
}

fn seal(profile: Profile) -> Box<dyn FnMut()> {
    let mut sealer = Sealer::new(profile);
    repeated(move || (0..BATCH).for_each(|_| assert!(!sealer.seal().is_empty())))
}

fn open(profile: Profile) -> Box<dyn FnMut()> {
    let (mut sealer, mut context) = (Sealer::new(profile), parts::context(profile));
    context.open_rtp(&mut sealer.seal().to_vec()).expect("opens");
    let mut packets: Vec<Vec<u8>> = (0..BATCH).map(|_| sealer.seal().to_vec()).collect();
    Box::new(move || {
        for packet in &mut packets {
            context.open_rtp(packet).expect("opens");
        }
    })
}

fn estimate() -> Box<dyn FnMut()> {
    let trace = Trace::new();
    assert_eq!(trace.packets, TRACE_PACKETS);
    repeated(move || assert!(trace.play() > 0))
}

fn churn() -> Box<dyn FnMut()> {
    let mut room = Room::new();
    repeated(move || (0..VISITS).for_each(|_| room.visit()))
}

fn relay(way: &str) -> Box<dyn FnMut()> {
    let (_, input) = WAYS.iter().find(|(name, _)| *name == way).expect("a way of the relay's");
    let mut world = RelayWorld::new(ALLOCATIONS);
    let inputs: Vec<Input<'static>> = (0..ALLOCATIONS).map(|index| input(&world, index)).collect();
    repeated(move || {
        let bytes: usize = inputs.iter().cycle().take(BATCH).map(|input| world.carry(*input)).sum();
        assert_eq!(bytes, BATCH * PAYLOAD_BYTES);
    })
}
