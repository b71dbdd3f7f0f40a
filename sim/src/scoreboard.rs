//! How good the picture is on bad links: scenarios, and what a subscriber makes of each.
//!
//! Everybody but the last person has a camera with three encodings; the last one only watches, with str0m's engine at the far
//! end: its feedback, its requests for what was lost. `sim/scoreboard.txt` has the answers; a change of the estimator, the
//! allocator or the recovery of loss shows there what it is worth. The oracles watch as in every other run.

use std::fmt::Write;
use std::time::Duration;

use crate::link::Weather;
use crate::plan::Plan;
use crate::world::World;

/// Bytes of a picture of each encoding, 25 times a second: 120, 500 and 1800 kb/s.
const FRAME_BYTES: [usize; 3] = [600, 2500, 9000];
const FRAME_INTERVAL: Duration = Duration::from_millis(40);
/// The highest spatial layer.
const TOP: u8 = 2;
/// How often the watcher is looked at.
const GLANCE: Duration = Duration::from_millis(5);
/// Everybody is there, on clean paths.
const BEGIN: Duration = Duration::from_secs(4);
/// Of the table's first column.
const NAME_WIDTH: usize = 20;
/// All of a scenario's randomness.
const SEED: u64 = 5;

/// A link for some time.
struct Phase {
    seconds: u64,
    /// Of the watcher's downlink, in kb/s; 0 is no limit.
    kbps: u64,
    /// And what else is wrong with it.
    down: Weather,
}

/// A subscriber's evening.
struct Scenario {
    name: &'static str,
    cameras: u16,
    phases: Vec<Phase>,
}

/// What a phase came to.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// The scenario.
    pub scenario: &'static str,
    /// The watcher's downlink in kb/s; 0 is no limit.
    pub kbps: u64,
    /// How long it was so.
    pub seconds: u64,
    /// What went through the link, in kb/s.
    pub carried_kbps: u64,
    /// Longest time without a word.
    pub audio_gap: Duration,
    /// Longest time without a new picture of some camera.
    pub freeze: Duration,
    /// Changes of the spatial layer.
    pub switches: u32,
    /// Over time and cameras, 0–2.
    pub mean_layer: f64,
    /// From the beginning of the phase until all cameras are at the top.
    pub top_after: Option<Duration>,
}

fn phase(seconds: u64, kbps: u64) -> Phase {
    Phase { seconds, kbps, down: Weather::default() }
}

fn with(phase: Phase, change: impl FnOnce(&mut Weather)) -> Phase {
    let mut down = phase.down;
    change(&mut down);
    Phase { down, ..phase }
}

fn scenarios() -> Vec<Scenario> {
    let ms = Duration::from_millis;
    let scenario = |name, phases| Scenario { name, cameras: 1, phases };
    vec![
        scenario("no limit", vec![phase(15, 0)]),
        scenario("shrinks and widens", vec![phase(15, 3000), phase(20, 300), phase(20, 3000)]),
        scenario("shrinks by a third", vec![phase(15, 3000), phase(20, 2000), phase(15, 3000)]),
        scenario("thin all the time", vec![phase(30, 300)]),
        scenario("5 % lost", vec![with(phase(30, 3000), |it| it.loss = 0.05)]),
        scenario("lost in bursts of 5", vec![with(phase(30, 3000), |it| it.burst = 0.01)]),
        scenario("100 ms of jitter", vec![with(phase(30, 3000), |it| it.jitter = ms(100))]),
        scenario("overtaking", vec![with(phase(30, 3000), |it| it.reorder = 0.05)]),
        scenario("far away", vec![with(phase(30, 3000), |it| it.delay = ms(150))]),
        scenario(
            "cut for 2 s",
            vec![phase(15, 3000), with(phase(2, 3000), |it| it.cut = true), phase(15, 3000)],
        ),
        scenario(
            "thin, far and lossy",
            vec![with(phase(30, 500), |it| (it.delay, it.jitter, it.loss) = (ms(80), ms(30), 0.02))],
        ),
        Scenario {
            name: "four cameras",
            cameras: 4,
            phases: vec![phase(20, 8000), phase(20, 1500), phase(20, 8000)],
        },
    ]
}

/// Plays all scenarios, side by side.
///
/// # Errors
/// The first promise that an oracle saw broken, with the scenario's name.
pub fn play() -> Result<Vec<Outcome>, String> {
    let play =
        |scenario: Scenario| (scenario.name, crate::begin(scenario.name.into(), move || scenario.play()));
    let runs: Vec<_> = scenarios().into_iter().map(play).collect();
    let mut outcomes = Vec::new();
    for (name, run) in runs {
        let outcome = run.join().map_err(|_| format!("{name}: a core panicked"))?;
        let broken = |it: crate::Violation| format!("{name}: {}: {}", it.oracle, it.what);
        outcomes.extend(outcome.map_err(broken)?);
    }
    Ok(outcomes)
}

impl Scenario {
    fn play(&self) -> Result<Vec<Outcome>, crate::Violation> {
        let people = self.cameras + 1;
        let watcher = usize::from(self.cameras);
        let mut world = World::new(Plan {
            seed: SEED,
            people,
            rooms: 1,
            workers: 1,
            relay_users: 0,
            calls: 0,
            natted: 0.0,
            encodings: 3,
            kinds: Vec::new(),
        });
        for person in &mut world.people {
            let watches = usize::from(person.id) == watcher;
            (person.silent, person.blind) = (watches, !watches);
            (person.frame_bytes, person.frame_interval) = (FRAME_BYTES, FRAME_INTERVAL);
        }
        world.until(BEGIN)?;
        self.phases.iter().map(|phase| self.pass(&mut world, watcher, phase)).collect()
    }

    fn pass(&self, world: &mut World, watcher: usize, phase: &Phase) -> Result<Outcome, crate::Violation> {
        let begun = world.now;
        let path = world.path_down(watcher);
        path.weather = phase.down;
        path.weather.rate = (phase.kbps > 0).then_some(phase.kbps * 125);
        path.carried_bytes = 0;
        let mut outcome =
            Outcome { scenario: self.name, kbps: phase.kbps, seconds: phase.seconds, ..Outcome::default() };
        let mut before = layers(world, watcher);
        let (mut glances, mut sum) = (0, 0);
        while world.now < begun + Duration::from_secs(phase.seconds) {
            world.until(world.now + GLANCE)?;
            outcome.look(world, watcher);
            let now = layers(world, watcher);
            outcome.switches += now.iter().zip(&before).filter(|(now, before)| now != before).count() as u32;
            sum += now.iter().map(|layer| u64::from(*layer)).sum::<u64>();
            glances += now.len() as u64;
            if now.iter().all(|layer| *layer == TOP) {
                outcome.top_after.get_or_insert(world.now - begun);
            }
            before = now;
        }
        outcome.mean_layer = sum as f64 / glances.max(1) as f64;
        outcome.carried_kbps = world.path_down(watcher).carried_bytes * 8 / 1000 / phase.seconds;
        Ok(outcome)
    }
}

/// Of each camera.
fn layers(world: &World, watcher: usize) -> Vec<u8> {
    let leg = world.people[watcher].legs[1].iter();
    leg.flat_map(|leg| &leg.subscriptions).filter(|known| !known.audio).map(|known| known.layer).collect()
}

impl Outcome {
    fn look(&mut self, world: &World, watcher: usize) {
        for known in world.people[watcher].legs[1].iter().flat_map(|leg| &leg.subscriptions) {
            let still = world.now - known.decoded_at.unwrap_or(BEGIN);
            let worst = if known.audio { &mut self.audio_gap } else { &mut self.freeze };
            *worst = still.max(*worst);
        }
    }
}

/// The file's text.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "# What a subscriber gets on bad links: cargo run -p sim --release -- scoreboard --write sim/scoreboard.txt\n\
         # link and carried in kb/s; audio and freeze are the longest gaps in ms; layer is the mean, 0-2; top: s until there\n",
    );
    let header = ["scenario", "link", "s", "carried", "audio", "freeze", "switches", "layer", "top"];
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(outcomes.iter().map(Outcome::cells));
    for row in &rows {
        let _ = write!(text, "{:<NAME_WIDTH$}", row[0]);
        row[1..].iter().for_each(|cell| {
            let _ = write!(text, "{cell:>9}");
        });
        text.push('\n');
    }
    text
}

impl Outcome {
    fn cells(&self) -> [String; 9] {
        [
            self.scenario.to_owned(),
            if self.kbps == 0 { "-".into() } else { self.kbps.to_string() },
            self.seconds.to_string(),
            self.carried_kbps.to_string(),
            self.audio_gap.as_millis().to_string(),
            self.freeze.as_millis().to_string(),
            self.switches.to_string(),
            format!("{:.2}", self.mean_layer),
            self.top_after.map_or("-".into(), |after| format!("{:.1}", after.as_secs_f64())),
        ]
    }
}

/// How far a column may be from the committed one: a part of it, or so much, whichever is more. Other processors round
/// logarithms otherwise, and a moment later a packet more or less tells in everything that follows.
const TOLERANCES: [(&str, f64, f64); 6] = [
    ("carried", 0.1, 20.0),
    ("audio", 0.2, 60.0),
    ("freeze", 0.25, 200.0),
    ("switches", 0.3, 5.0),
    ("layer", 0.0, 0.15),
    ("top", 0.3, 1.5),
];

/// What is not as in the committed table, for people to read.
pub fn differences(outcomes: &[Outcome], committed: &str) -> Vec<String> {
    let mut lines = committed.lines().filter(|line| !line.starts_with('#'));
    let mut differences = Vec::new();
    lines.next(); // the header
    for outcome in outcomes {
        let cells = outcome.cells();
        let line = lines.next().unwrap_or_default();
        let name = format!("{}, {}", cells[0], cells[1]);
        let values: Vec<&str> = line.get(NAME_WIDTH..).unwrap_or_default().split_whitespace().collect();
        if !line.starts_with(&cells[0]) || values.get(..2) != Some(&[&*cells[1], &*cells[2]]) {
            differences.push(format!("{name}: not in the committed table at this place"));
            continue;
        }
        for (at, (column, part, absolute)) in TOLERANCES.into_iter().enumerate() {
            let (now, before) = (&*cells[3 + at], values.get(2 + at).copied().unwrap_or("none"));
            let is_near = match (now.parse::<f64>(), before.parse::<f64>()) {
                (Ok(now), Ok(before)) => (now - before).abs() <= absolute.max(before * part),
                _ => now == before,
            };
            if !is_near {
                differences.push(format!("{name}: {column} was {before}, is {now}"));
            }
        }
    }
    differences.extend(lines.map(|line| format!("no longer played: {line}")));
    differences
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(freeze_ms: u64) -> Outcome {
        let freeze = Duration::from_millis(freeze_ms);
        Outcome { scenario: "thin", kbps: 300, seconds: 10, freeze, ..Outcome::default() }
    }

    #[test]
    fn a_table_is_held_against_another_with_tolerance() {
        let committed = table(&[outcome(1000)]);
        assert_eq!(differences(&[outcome(1150)], &committed), Vec::<String>::new());
        assert_eq!(differences(&[outcome(1300)], &committed), ["thin, 300: freeze was 1000, is 1300"]);
        assert_eq!(differences(&[], &committed).len(), 1);
        assert_eq!(differences(&[outcome(1000), outcome(1000)], &committed).len(), 1);
        let top_after = Some(Duration::from_secs(3));
        let differs = differences(&[Outcome { top_after, ..outcome(1000) }], &committed);
        assert_eq!(differs, ["thin, 300: top was -, is 3.0"]);
    }
}
