//! Who speaks: the loudest of a room, by the level that publishers write into each packet (RFC 6464), with enough patience
//! that a cough takes nobody's place.
//!
//! `sfu::rtp` feeds [`Voice`]s, `sfu::scores` holds an [`Election`] per room and asks it from its timers. In a room where only so
//! many voices are forwarded at once, its [`Floor`] says packet by packet whose they are.

use std::time::{Duration, Instant};

use common::ids::PeerId;

/// Between two elections.
pub const INTERVAL: Duration = Duration::from_millis(300);
/// Quieter than that is not speech: 127 − 50 dB below overload, the threshold of mediasoup's audio-level observer.
const SPEECH: u32 = 127 - 50;
/// As much louder a challenger must be, in dB.
const MARGIN: u32 = 6;
/// For so many elections in a row; also how long a silent speaker keeps its place against a challenger.
const PATIENCE: u32 = 2;
/// After so many silent elections nobody speaks: about two seconds.
const SILENCE: u32 = 7;

/// What was heard of one microphone since the last election.
#[derive(Debug, Default, Clone, Copy)]
pub struct Voice {
    sum: u32,
    packets: u32,
    loudness: u32,
}

impl Voice {
    /// A packet's level: the extension's byte, 0 dB loudest to −127 dB below it, the highest bit aside.
    pub fn hear(&mut self, level: u8) {
        self.sum = self.sum.saturating_add(127 - u32::from(level & 0x7f));
        self.packets = self.packets.saturating_add(1);
    }

    /// An interval is over: its loudness, 0–127, half of it from the time before.
    pub fn turn(&mut self) -> u32 {
        let now = self.sum.checked_div(self.packets).unwrap_or(0);
        *self = Self { sum: 0, packets: 0, loudness: (self.loudness + now) / 2 };
        self.loudness
    }
}

/// One room's.
#[derive(Debug, Default)]
pub struct Election {
    next: Option<Instant>,
    speaker: Option<PeerId>,
    challenger: Option<(PeerId, u32)>,
    silent: u32,
}

impl Election {
    /// Whether it is time; the next one is then an interval away.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let due = self.next.is_none_or(|at| at <= now);
        if due {
            self.next = Some(now + INTERVAL);
        }
        due
    }

    /// Decides by everybody's loudness. `Some` when another speaks now, or nobody does.
    pub fn decide(&mut self, voices: &[(PeerId, u32)]) -> Option<Option<PeerId>> {
        let of_speaker = voices.iter().filter(|(peer, _)| Some(peer) == self.speaker.as_ref());
        let held = of_speaker.map(|(_, loudness)| *loudness).max().unwrap_or(0);
        let others = voices.iter().filter(|(peer, _)| Some(peer) != self.speaker.as_ref());
        let best = others.max_by_key(|(_, loudness)| *loudness).filter(|(_, loudness)| *loudness >= SPEECH);
        self.silent = if held >= SPEECH { 0 } else { self.silent + 1 };
        let better = best.filter(|(_, loudness)| held < SPEECH || *loudness >= held + MARGIN);
        if let Some((peer, _)) = better {
            let rounds = match self.challenger.take() {
                Some((known, rounds)) if known == *peer => rounds + 1,
                _ => 1,
            };
            if self.speaker.is_none() || rounds >= PATIENCE {
                return self.elect(Some(peer.clone()));
            }
            self.challenger = Some((peer.clone(), rounds));
            return None;
        }
        self.challenger = None;
        if self.speaker.is_some() && self.silent >= SILENCE { self.elect(None) } else { None }
    }

    fn elect(&mut self, speaker: Option<PeerId>) -> Option<Option<PeerId>> {
        self.silent = 0;
        self.speaker.clone_from(&speaker);
        Some(speaker)
    }
}

/// A holder of a place that was silent for so long gives it to whoever speaks.
const HOLD: Duration = Duration::from_millis(800);
/// A place is held so long against somebody who is louder.
const TENURE: Duration = Duration::from_secs(2);
/// So many packets in a row are louder than silence before a louder voice takes a place from one that speaks: 200 ms.
const RUN: u32 = 10;

/// Whose voices are forwarded, in a room where not all are.
#[derive(Debug, Default)]
pub struct Floor {
    holders: Vec<Holder>,
}

#[derive(Debug)]
struct Holder {
    producer: usize,
    since: Instant,
    /// When speech was last heard of it.
    spoke: Instant,
    /// 0–127, smoothed.
    loudness: u32,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It is forwarded.
    Holds,
    /// It is, from this packet on; that of the named producer no longer is.
    Enters(Option<usize>),
    /// It is not.
    Waits,
}

impl Floor {
    /// A packet of `producer` has come with this level (see [`Voice::hear`]), when there are `places`; `run` counts its packets
    /// with speech in a row and belongs to the producer.
    pub fn hear(&mut self, now: Instant, places: usize, producer: usize, level: u8, run: &mut u32) -> Turn {
        let loudness = 127 - u32::from(level & 0x7f);
        let speaks = loudness >= SPEECH;
        *run = if speaks { run.saturating_add(1) } else { 0 };
        if let Some(holder) = self.holders.iter_mut().find(|holder| holder.producer == producer) {
            holder.loudness = (3 * holder.loudness + loudness) / 4;
            if speaks {
                holder.spoke = now;
            }
            return Turn::Holds;
        }
        let entering = Holder { producer, since: now, spoke: now, loudness };
        if self.holders.len() < places {
            self.holders.push(entering);
            return Turn::Enters(None);
        }
        if !speaks {
            return Turn::Waits;
        }
        let since = |then: Instant| now.saturating_duration_since(then);
        let silent = self.holders.iter_mut().max_by_key(|holder| since(holder.spoke));
        if let Some(silent) = silent.filter(|holder| since(holder.spoke) >= HOLD) {
            return Turn::Enters(Some(std::mem::replace(silent, entering).producer));
        }
        let settled = self.holders.iter_mut().filter(|holder| since(holder.since) >= TENURE);
        match settled.min_by_key(|holder| holder.loudness) {
            Some(quiet) if *run >= RUN && loudness >= quiet.loudness + MARGIN => {
                Turn::Enters(Some(std::mem::replace(quiet, entering).producer))
            }
            _ => Turn::Waits,
        }
    }

    /// It is muted or gone.
    pub fn leave(&mut self, producer: usize) {
        self.holders.retain(|holder| holder.producer != producer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str) -> PeerId {
        PeerId::new(name).expect("an id")
    }

    fn round(election: &mut Election, alice: u32, bob: u32) -> Option<Option<PeerId>> {
        election.decide(&[(peer("alice"), alice), (peer("bob"), bob)])
    }

    #[test]
    fn a_cough_takes_nobodys_place_and_a_speech_does() {
        let mut election = Election::default();
        assert_eq!(round(&mut election, 90, 20), Some(Some(peer("alice"))), "the first to speak");
        assert_eq!(round(&mut election, 90, 110), None, "a cough");
        assert_eq!(round(&mut election, 90, 20), None);
        assert_eq!(round(&mut election, 90, 94), None, "hardly louder");
        assert_eq!(round(&mut election, 90, 94), None);
        assert_eq!(round(&mut election, 90, 100), None);
        assert_eq!(round(&mut election, 90, 100), Some(Some(peer("bob"))));
    }

    #[test]
    fn after_two_seconds_of_silence_nobody_speaks() {
        let mut election = Election::default();
        round(&mut election, 90, 0);
        let told: Vec<_> = (0..SILENCE).map(|_| round(&mut election, 10, 10)).collect();
        assert_eq!(told.iter().position(Option::is_some), Some(SILENCE as usize - 1));
        assert_eq!(told.last(), Some(&Some(None)));
        assert_eq!(round(&mut election, 10, 10), None, "told once");
    }

    #[test]
    fn loudness_follows_and_fades() {
        let mut voice = Voice::default();
        voice.hear(0x80 | 27);
        voice.hear(47);
        assert_eq!(voice.turn(), 45, "half of the average of 100 and 80");
        assert_eq!((voice.turn(), voice.turn()), (22, 11), "nothing was heard");
    }

    /// Everybody says 20 ms at these loudnesses, so many times; who was forwarded how often.
    fn said(
        floor: &mut Floor,
        now: &mut Instant,
        runs: &mut [u32],
        loudness: &[u32],
        times: usize,
    ) -> Vec<usize> {
        let mut heard = vec![0; loudness.len()];
        for _ in 0..times {
            for (who, loudness) in loudness.iter().enumerate() {
                let turn = floor.hear(*now, 2, who, 127 - *loudness as u8, &mut runs[who]);
                heard[who] += usize::from(turn != Turn::Waits);
            }
            *now += Duration::from_millis(20);
        }
        heard
    }

    #[test]
    fn the_floor_belongs_to_who_speaks() {
        #[allow(clippy::disallowed_methods)] // an origin to count from
        let mut now = Instant::now();
        let (mut floor, mut runs) = (Floor::default(), [0; 4]);
        let mut say = |loudness: &[u32], times| said(&mut floor, &mut now, &mut runs, loudness, times);
        assert_eq!(say(&[100, 0, 0, 0], 100), [100, 100, 0, 0], "a free place is anybody's");
        assert_eq!(say(&[100, 0, 100, 0], 10), [10, 1, 10, 0], "a silent one gives way at once");
        assert_eq!(say(&[100, 0, 100, 102], 100), [100, 0, 100, 0], "hardly louder");
        assert_eq!(say(&[100, 0, 90, 104], 9), [9, 0, 1, 9], "louder, and for long");
    }

    #[test]
    fn pauses_between_words_keep_a_place_and_a_cough_takes_none() {
        #[allow(clippy::disallowed_methods)] // an origin to count from
        let mut now = Instant::now();
        let (mut floor, mut runs) = (Floor::default(), [0; 3]);
        let mut say = |loudness: &[u32], times| said(&mut floor, &mut now, &mut runs, loudness, times);
        say(&[100, 100, 0], 150);
        assert_eq!(say(&[0, 100, 0], 30), [30, 30, 0]);
        assert_eq!(say(&[0, 100, 100], 5), [5, 5, 0], "within the pause");
        assert_eq!(say(&[100, 100, 125], 4), [4, 4, 0], "not even a fifth of a second in all");
        assert_eq!(say(&[100, 100, 125], 1), [1, 1, 1]);
    }

    #[test]
    fn elections_keep_their_distance() {
        #[allow(clippy::disallowed_methods)] // an origin to count from
        let now = Instant::now();
        let mut election = Election::default();
        assert!(
            election.is_due(now) && !election.is_due(now + INTERVAL / 2) && election.is_due(now + INTERVAL)
        );
    }
}
