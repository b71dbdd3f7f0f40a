//! When which trouble happens, and what it does to the world. A new scenario is a variant of [`Deed`], the moment at which
//! it happens in [`schedule`] and its effect in [`perform`].

use std::time::Duration;

use serde_json::json;

use crate::dice::Dice;
use crate::node::TURN;
use crate::plan::{Kind, Plan};
use crate::relay_user;
use crate::world::{HEALED, JUDGED, PARTING, TROUBLE, World};

/// Something that happens to somebody.
#[derive(Debug, Clone)]
pub enum Deed {
    /// A path gets worse; which kind of worse is the kind.
    Weather { kind: Kind, link: usize, up: bool },
    /// And better.
    Clear { link: usize, up: bool },
    /// Signaling breaks for a while.
    Cut { person: u16, away: Duration },
    /// The NAT forgets.
    Rebind { person: u16 },
    /// A worker stands still.
    Stall { worker: usize, time: Duration },
    /// A worker stands still, and all its queues are full.
    StallFull { worker: usize, time: Duration },
    /// The wall clock is set, so many seconds from what is right.
    SetClock { by: i64 },
    /// The relay's people allocate anew.
    AllocateAgain,
    /// A worker takes no commands.
    Full { worker: usize, time: Duration },
    /// Strangers send so many datagrams.
    Attack { datagrams: u32 },
    /// Somebody leaves the room.
    Leave { person: u16 },
    /// And comes back.
    Join { person: u16 },
    /// A producer or consumer is paused, or resumed.
    Pause { person: u16, producer: bool, on: bool },
    /// Other layers are wanted.
    Prefer { person: u16, spatial: u8, temporal: u8 },
    /// Keyframes are asked for.
    Flood { person: u16 },
    /// The NAT before a user of the relay forgets.
    RebindRelay { user: usize },
    /// Somebody's connections break.
    Break { which: usize },
    /// Two begin to chat, one of whom is away.
    Chatter,
    /// They go on.
    ChatOn { which: usize },
    /// So many users want an allocation each.
    Greed { users: u16 },
    /// Others' objects are named.
    Foreign { person: u16, other: u16 },
    /// New ICE credentials under media.
    RestartIce { person: u16 },
    /// A worker begins again without its rooms.
    Crash { worker: usize },
    /// A worker says how busy it is, in thousandths.
    Busy { worker: usize, permille: u16 },
    /// Nothing new from now on; what runs goes on.
    Drain,
    /// The relay forgets everything.
    RestartRelay,
    /// Somebody rings somebody.
    Ring { call: String, from: u16, to: u16 },
    /// A call is hung up by its initiator.
    HangUp { which: usize },
    /// A connection is closed for good.
    Goodbye { person: u16 },
    /// A user of the relay gives its allocation up.
    ReleaseRelay { user: usize },
}

const PATHS: [Kind; 9] = [
    Kind::Loss,
    Kind::Burst,
    Kind::Jitter,
    Kind::Reorder,
    Kind::Duplicate,
    Kind::Corrupt,
    Kind::Rate,
    Kind::Mtu,
    Kind::CutMedia,
];

/// All that will happen in a run.
pub fn schedule(plan: &Plan, dice: &mut Dice) -> Vec<(Duration, Deed)> {
    let mut deeds = Vec::new();
    let links = usize::from(plan.people) + 1;
    let person = |dice: &mut Dice| dice.below(usize::from(plan.people)) as u16;
    let moment = |dice: &mut Dice| dice.between(TROUBLE, HEALED - Duration::from_secs(1));
    for kind in PATHS.into_iter().filter(|kind| plan.has(*kind)) {
        for link in 0..links {
            for up in [true, false] {
                if dice.chance(0.6) {
                    let at = moment(dice);
                    deeds.push((at, Deed::Weather { kind, link, up }));
                    let lasts = dice.between(Duration::from_millis(200), Duration::from_secs(6));
                    deeds.push((at + lasts, Deed::Clear { link, up }));
                }
            }
        }
    }
    let mut some = |kind: Kind, most: usize, dice: &mut Dice, make: &dyn Fn(&mut Dice) -> Deed| {
        let count = if plan.has(kind) { 1 + dice.below(most) } else { 0 };
        for _ in 0..count {
            let at = moment(dice);
            deeds.push((at, make(dice)));
        }
    };
    let seconds = |low: f64, high: f64, dice: &mut Dice| {
        dice.between(Duration::from_secs_f64(low), Duration::from_secs_f64(high))
    };
    some(Kind::CutSignaling, 6, dice, &|dice| Deed::Cut {
        person: person(dice),
        away: seconds(0.05, 3.0, dice),
    });
    some(Kind::LongCut, 2, dice, &|dice| Deed::Cut { person: person(dice), away: seconds(10.5, 12.0, dice) });
    some(Kind::Rebind, 4, dice, &|dice| Deed::Rebind { person: person(dice) });
    some(Kind::Stall, 3, dice, &|dice| Deed::Stall { worker: dice.below(8), time: seconds(0.05, 2.5, dice) });
    some(Kind::QueueFull, 4, dice, &|dice| Deed::Full {
        worker: dice.below(8),
        time: seconds(0.05, 2.0, dice),
    });
    some(Kind::Hostile, 20, dice, &|dice| Deed::Attack { datagrams: 1 + dice.below(200) as u32 });
    some(Kind::Storm, 12, dice, &|dice| Deed::Leave { person: person(dice) });
    some(Kind::Storm, 12, dice, &|dice| Deed::Join { person: person(dice) });
    some(Kind::Pause, 12, dice, &|dice| Deed::Pause {
        person: person(dice),
        producer: dice.chance(0.5),
        on: dice.chance(0.5),
    });
    some(Kind::Layers, 40, dice, &|dice| Deed::Prefer {
        person: person(dice),
        spatial: *dice.pick(&[2, 2, 2, 1, 0]),
        temporal: *dice.pick(&[2, 2, 1, 0, 0]),
    });
    some(Kind::PliFlood, 30, dice, &|dice| Deed::Flood { person: person(dice) });
    some(Kind::Foreign, 10, dice, &|dice| Deed::Foreign { person: person(dice), other: person(dice) });
    some(Kind::IceRestart, 6, dice, &|dice| Deed::RestartIce { person: person(dice) });
    some(Kind::Crash, 2, dice, &|dice| Deed::Crash { worker: dice.below(8) });
    some(Kind::RelayRestart, 2, dice, &|_| Deed::RestartRelay);
    some(Kind::StallFull, 2, dice, &|dice| Deed::StallFull {
        worker: dice.below(8),
        time: seconds(2.0, 6.0, dice),
    });
    some(Kind::SetClock, 4, dice, &|dice| Deed::SetClock {
        by: *dice.pick(&[-1_000_000_000, -86_400, -30, 30, 7200, 86_400, 1_000_000_000]),
    });
    some(Kind::SetClock, 6, dice, &|_| Deed::AllocateAgain);
    // Kinds that came later draw from their own dice.
    let mut own = Dice::new(plan.seed, "relay's trouble");
    some(Kind::RelayNat, 4, &mut own, &|dice| Deed::RebindRelay { user: dice.below(8) });
    some(Kind::Tcp, 5, &mut own, &|dice| Deed::Break { which: dice.below(64) });
    some(Kind::Chatter, 2, &mut own, &|_| Deed::Chatter);
    some(Kind::Exhausted, 3, &mut own, &|dice| Deed::Greed { users: 10 + dice.below(50) as u16 });
    if plan.has(Kind::Span) {
        let mut own = Dice::new(plan.seed, "busy workers");
        for _ in 0..30 {
            // From the first moment, so that those who come first are spread, too.
            let at = own.between(Duration::ZERO, PARTING);
            let permille = *own.pick(&[0, 300, 750, 950, 1000]);
            deeds.push((at, Deed::Busy { worker: own.below(8), permille }));
        }
    }
    if plan.has(Kind::Drain) {
        // What was mended before must go on: rooms and calls that run are not touched by a drain.
        deeds.push((dice.between(JUDGED - Duration::from_secs(1), PARTING), Deed::Drain));
    }
    for number in 0..plan.calls {
        let (from, to) = (person(dice), person(dice));
        if from != to {
            let at = dice.between(Duration::from_secs(2), HEALED);
            deeds.push((at, Deed::Ring { call: format!("call-{number}"), from, to }));
            let which = dice.below(8);
            deeds.push((at + seconds(0.01, 6.0, dice), Deed::HangUp { which }));
        }
    }
    deeds
}

/// Does it.
pub fn perform(world: &mut World, deed: Deed) {
    let now = world.now;
    match deed {
        Deed::Weather { kind, link, up } => worsen(world, kind, link, up),
        Deed::Clear { link, up } => world.weather(link, up, |weather| *weather = Default::default()),
        Deed::Cut { person, away } => world.disconnect(person, None, Some(away)),
        Deed::Rebind { person } => {
            if let Some(nat) = &mut world.people[usize::from(person)].nat {
                nat.rebind();
                world.break_connections_of(person);
            }
        }
        Deed::Stall { worker, time } => world.stall(worker, time),
        Deed::StallFull { worker, time } => world.stall_and_flood(worker, time),
        Deed::RebindRelay { user } => world.rebind_relay_user(user),
        Deed::Break { which } => world.break_somebody(which),
        Deed::Chatter => world.chatter(),
        Deed::ChatOn { which } => world.chat_on(which),
        Deed::Greed { users } => world.greed(users),
        Deed::SetClock { by } => world.set_wall_clock(by),
        Deed::AllocateAgain => world.allocate_again(),
        Deed::Full { worker, time } => world.fill_queue(worker, time),
        Deed::Attack { datagrams } => attack(world, datagrams),
        Deed::Leave { person } => {
            let person = &mut world.people[usize::from(person)];
            if person.conn.is_some() && person.joined {
                person.leave(now);
            }
        }
        Deed::Join { person } => rejoin(world, person),
        Deed::Pause { person, producer, on } => pause(world, person, producer, on),
        Deed::Prefer { person, spatial, temporal } => {
            world.people[usize::from(person)].prefer(now, spatial, temporal);
        }
        Deed::Flood { person } => {
            let person = &mut world.people[usize::from(person)];
            for consumer in person.consumers.keys().cloned().collect::<Vec<_>>() {
                for _ in 0..5 {
                    let request = json!({ "type": "request-key-frame", "consumerId": consumer });
                    person.ask_other(now, request);
                }
            }
        }
        Deed::Foreign { person, other } => foreign(world, person, other),
        Deed::RestartIce { person } => world.people[usize::from(person)].restart_ice(now),
        Deed::Crash { worker } => world.crash(worker),
        Deed::Busy { worker, permille } => world.busy(worker, permille),
        Deed::Drain => world.drain(),
        Deed::RestartRelay => world.restart_relay(),
        Deed::Ring { call, from, to } => world.ring(&call, from, to),
        Deed::HangUp { which } => {
            let calls = world.calls();
            if let Some((call, from)) = calls.get(which % calls.len().max(1)) {
                let message = json!({ "type": "call-end", "callId": call, "forAll": true });
                world.people[usize::from(*from)].said.push(message);
            }
        }
        Deed::Goodbye { person } => world.disconnect(person, Some(1000), None),
        Deed::ReleaseRelay { user } => world.release_relay(user),
    }
}

/// Ends what lasts until it is ended.
pub fn undo(world: &mut World) {
    for person in 0..world.people.len() {
        for producer in [true, false] {
            pause(world, person as u16, producer, false);
        }
        let now = world.now;
        world.people[person].prefer_largest(now);
        rejoin(world, person as u16);
    }
}

fn rejoin(world: &mut World, person: u16) {
    let now = world.now;
    let person = &mut world.people[usize::from(person)];
    if !person.wants_room {
        person.wants_room = true;
        if person.conn.is_some() {
            person.join(now);
        }
    }
}

fn worsen(world: &mut World, kind: Kind, link: usize, up: bool) {
    let part = 0.02 + 0.2 * (world.dice.below(100) as f64) / 100.0;
    world.weather(link, up, |weather| match kind {
        Kind::Loss => weather.loss = part,
        Kind::Burst => weather.burst = part / 4.0,
        Kind::Jitter => weather.jitter = Duration::from_secs_f64(part / 2.0),
        Kind::Reorder => weather.reorder = part,
        Kind::Duplicate => weather.duplicate = part,
        Kind::Corrupt => weather.corrupt = part,
        Kind::Rate => weather.rate = Some(20_000),
        Kind::Mtu => weather.mtu = 600,
        _ => weather.cut = true,
    });
}

fn pause(world: &mut World, id: u16, producer: bool, on: bool) {
    let now = world.now;
    let person = &world.people[usize::from(id)];
    if producer {
        // Whoever subscribes may notice the gap before being told of it.
        let theirs = person.producers.clone();
        for other in &mut world.people {
            let here = other.consumers.iter().filter(|(_, of)| theirs.values().any(|id| id == *of));
            let consumers: Vec<String> = here.map(|(consumer, _)| consumer.clone()).collect();
            other.expect_jumps(now, consumers);
        }
    }
    let person = &mut world.people[usize::from(id)];
    let verb = if on { "pause" } else { "resume" };
    let (ids, noun): (Vec<String>, _) = if producer {
        (person.producers.values().cloned().collect(), "producer")
    } else {
        person.expect_jumps(now, person.consumers.keys().cloned().collect());
        (person.consumers.keys().cloned().collect(), "consumer")
    };
    for id in ids {
        let mut request = json!({ "type": format!("{verb}-{noun}") });
        request[format!("{noun}Id")] = json!(id);
        person.ask_other(now, request);
    }
}

/// Somebody tries what only another may do.
fn foreign(world: &mut World, person: u16, other: u16) {
    let now = world.now;
    let victim = &world.people[usize::from(other)];
    let (producers, consumers): (Vec<_>, Vec<_>) =
        (victim.producers.values().cloned().collect(), victim.consumers.keys().cloned().collect());
    if person == other {
        return;
    }
    let elsewhere = victim.room != world.people[usize::from(person)].room;
    let thief = &mut world.people[usize::from(person)];
    for id in producers {
        if elsewhere {
            thief.steal(now, &id);
        }
        for kind in ["pause-producer", "close-producer"] {
            thief.ask_foreign(now, json!({ "type": kind, "producerId": id }));
        }
    }
    for id in consumers {
        for kind in ["pause-consumer", "resume-consumer", "close-consumer", "request-key-frame"] {
            thief.ask_foreign(now, json!({ "type": kind, "consumerId": id }));
        }
    }
}

/// Replayed, damaged, cut, spoofed and invented datagrams.
fn attack(world: &mut World, datagrams: u32) {
    let targets = world.media_addresses();
    for _ in 0..datagrams {
        let stranger =
            ([45, 0, 0, 1 + world.dice.below(200) as u8], 1 + world.dice.below(60_000) as u16).into();
        if world.captured.is_empty() || world.dice.chance(0.4) {
            let known = world.strangers.pop_front().filter(|_| world.dice.chance(0.8));
            if let Some((from, nonce)) = known {
                let guess = relay_user::stranger(&mut world.dice, Some(&nonce));
                world.send_up(from, TURN, guess);
                continue;
            }
            let (to, data) = if world.dice.chance(0.5) {
                (TURN, relay_user::stranger(&mut world.dice, None))
            } else {
                let length = 1 + world.dice.below(300);
                let mut data = world.dice.bytes(length);
                data[0] = *world.dice.pick(&[0, 1, 22, 64, 128, 144, 200]);
                (*world.dice.pick(&targets), data)
            };
            world.send_up(stranger, to, data);
            continue;
        }
        let at = world.dice.below(world.captured.len());
        let seen = world.captured[at].clone();
        let to = if targets.contains(&seen.to) { seen.to } else { *world.dice.pick(&targets) };
        // Spoofed: from the address that it came from. Otherwise from elsewhere.
        let from = if targets.contains(&seen.to) && world.dice.chance(0.7) { seen.from } else { stranger };
        let mut data = seen.data;
        match world.dice.below(4) {
            0 => {}
            1 => data.truncate(world.dice.below(data.len().max(1))),
            2 if !data.is_empty() => {
                let byte = world.dice.below(data.len());
                data[byte] ^= 1 << world.dice.below(8);
            }
            _ => {
                let tail = 1 + world.dice.below(64);
                data.extend(world.dice.bytes(tail));
            }
        }
        world.send_up(from, to, data);
    }
}
