//! What one run is made of: how many people, and which kinds of trouble exist (swarm testing: a run with few kinds goes
//! deeper into each than one with all).

use std::fmt;

use crate::dice::Dice;

/// Kinds of trouble. Adding one: a variant here, its weather or its moment in `trouble.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Single datagrams are lost.
    Loss,
    /// Datagrams are lost in bursts.
    Burst,
    /// Delays vary.
    Jitter,
    /// Datagrams overtake each other.
    Reorder,
    /// Datagrams arrive twice.
    Duplicate,
    /// Bytes are changed on the way.
    Corrupt,
    /// A slow path with a queue.
    Rate,
    /// Large datagrams vanish.
    Mtu,
    /// Media is cut for seconds, one way or both.
    CutMedia,
    /// Signaling is cut, and resumed.
    CutSignaling,
    /// Signaling is cut for longer than the grace.
    LongCut,
    /// NATs forget.
    Rebind,
    /// A worker stands still for a while.
    Stall,
    /// The path to a worker's queue is full at times.
    QueueFull,
    /// Strangers and spoofers send.
    Hostile,
    /// People leave and join all the time.
    Storm,
    /// Producers and consumers are paused and resumed.
    Pause,
    /// Keyframes are asked for without end.
    PliFlood,
    /// Sequence numbers and timestamps wrap.
    Wrap,
    /// Somebody names other people's objects.
    Foreign,
    /// The relay loses everything.
    RelayRestart,
    /// ICE restarts under media.
    IceRestart,
    /// A worker loses all its rooms.
    Crash,
    /// The server drains while everybody is still there.
    Drain,
    /// Subscribers want other layers all the time.
    Layers,
    /// Machines' clocks run fast or slow, and show a wrong time.
    Skew,
    /// The server's wall clock is set.
    SetClock,
    /// A worker stands still with full queues.
    StallFull,
    /// The relay's users are behind NATs, which forget.
    RelayNat,
    /// A user of the relay and its peer are behind one NAT, which hairpins or does not.
    Hairpin,
    /// UDP is blocked for some: media and the relay are reached over TCP, and connections break.
    Tcp,
    /// Somebody who is away is talked to without end.
    Chatter,
    /// The relay has few ports, and users who want them all.
    Exhausted,
    /// Workers are so busy that rooms span several of them.
    Span,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 34] = [
        Self::Loss,
        Self::Burst,
        Self::Jitter,
        Self::Reorder,
        Self::Duplicate,
        Self::Corrupt,
        Self::Rate,
        Self::Mtu,
        Self::CutMedia,
        Self::CutSignaling,
        Self::LongCut,
        Self::Rebind,
        Self::Stall,
        Self::QueueFull,
        Self::Hostile,
        Self::Storm,
        Self::Pause,
        Self::PliFlood,
        Self::Wrap,
        Self::Foreign,
        Self::RelayRestart,
        Self::IceRestart,
        Self::Crash,
        Self::Drain,
        Self::Skew,
        Self::SetClock,
        Self::StallFull,
        Self::Layers,
        Self::RelayNat,
        Self::Hairpin,
        Self::Tcp,
        Self::Chatter,
        Self::Exhausted,
        Self::Span,
    ];

    /// By its name, as printed.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| format!("{kind:?}").eq_ignore_ascii_case(name))
    }
}

/// So many kinds share one stream of chance; each that came later has its own, so that it changes no seed's others.
const FIRST_KINDS: usize = 24;

/// One run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Everything else follows from it.
    pub seed: u64,
    /// People with signaling and media.
    pub people: u16,
    /// Rooms that they are spread over.
    pub rooms: u16,
    /// Media workers.
    pub workers: usize,
    /// Pairs of a relay's client and its peer.
    pub relay_users: u16,
    /// Calls that ring.
    pub calls: u32,
    /// How many people are behind a NAT, 0–1.
    pub natted: f64,
    /// Encodings of everybody's video: one, or three with temporal layers.
    pub encodings: u8,
    /// The trouble there is.
    pub kinds: Vec<Kind>,
}

impl Plan {
    /// What a seed means.
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed, "plan");
        let people = 2 + dice.below(4) as u16;
        let mut kinds: Vec<Kind> =
            Kind::ALL[..FIRST_KINDS].iter().copied().filter(|_| dice.chance(0.25)).collect();
        kinds.extend(
            Kind::ALL[FIRST_KINDS..].iter().filter(|kind| Dice::new(seed, &format!("{kind:?}")).chance(0.25)),
        );
        let (rooms, workers) = (1 + dice.below(2) as u16, 1 + dice.below(2));
        Self {
            seed,
            people,
            rooms,
            workers: if kinds.contains(&Kind::Span) { 3 } else { workers },
            relay_users: dice.below(3) as u16,
            calls: dice.below(6) as u32,
            natted: *dice.pick(&[0.0, 0.5, 1.0]),
            // Without several there is nothing to choose from.
            encodings: if kinds.contains(&Kind::Layers) { 3 } else { *dice.pick(&[1, 1, 3]) },
            kinds,
        }
    }

    /// Whether somebody's UDP is blocked.
    pub fn is_over_tcp(&self, who: &str) -> bool {
        self.has(Kind::Tcp) && Dice::new(self.seed, &format!("tcp {who}")).chance(0.6)
    }

    /// Whether this kind exists.
    pub fn has(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed={} people={} rooms={} workers={} relay-users={} calls={} natted={} encodings={} trouble=",
            self.seed,
            self.people,
            self.rooms,
            self.workers,
            self.relay_users,
            self.calls,
            self.natted,
            self.encodings
        )?;
        let names: Vec<_> = self.kinds.iter().map(|kind| format!("{kind:?}")).collect();
        f.write_str(if names.is_empty() { "none" } else { "" })?;
        f.write_str(&names.join(","))
    }
}
