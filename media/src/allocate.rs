//! A subscriber's estimate → the layer of each of its streams.
//!
//! Everybody gets its lowest layer first, in order of priority; what is left goes up one step each, round by round, to the
//! more important ones before the others. What is left of a step that does not fit is nobody's, so that a stream never gains
//! by being less important. Streams whose steps cannot be chosen (audio, one encoding without layers) are reserved before.
//! `sfu/downlink` fills in [`Stream`]s and does what is decided.

/// A step up has to fit with so much to spare, a step that is held only has to fit: an estimate that trembles changes nothing.
const UP_MARGIN: f64 = 1.15;

/// One more step of quality.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Spatial and temporal layer.
    pub layers: (u8, u8),
    /// Bits per second of all of it.
    pub bps: u64,
}

/// A stream with a choice.
#[derive(Debug, Clone, Default)]
pub struct Stream {
    /// Whose it is.
    pub key: usize,
    /// 1–255, larger is more important.
    pub priority: u8,
    /// Ascending in cost; the last is all that is wanted.
    pub steps: Vec<Step>,
    /// How many steps it has now.
    pub held: usize,
    /// How many it gets: 0 is nothing at all. The answer.
    pub given: usize,
}

impl Stream {
    fn bps(&self, steps: usize) -> u64 {
        steps.checked_sub(1).map_or(0, |last| self.steps[last].bps)
    }

    /// What the link must have free for `steps` of it.
    fn needs(&self, steps: usize) -> u64 {
        let bps = self.bps(steps);
        if steps > self.held { (bps as f64 * UP_MARGIN) as u64 } else { bps }
    }

    /// The layers that it gets.
    pub fn layers(&self) -> Option<(u8, u8)> {
        Some(self.steps[self.given.checked_sub(1)?].layers)
    }
}

/// Distributes `bps`, but the most important stream has its lowest layer whatever the link carries. Streams end up in order of
/// importance.
pub fn allocate(bps: u64, streams: &mut [Stream]) {
    streams.sort_by_key(|stream| (u8::MAX - stream.priority, stream.key));
    let mut used = 0;
    let try_step = |stream: &mut Stream, used: &mut u64| {
        let next = stream.given + 1;
        let before = stream.bps(stream.given);
        let fits = next <= stream.steps.len() && *used - before + stream.needs(next) <= bps;
        if fits {
            *used += stream.bps(next) - before;
            stream.given = next;
        }
        fits
    };
    for (at, stream) in streams.iter_mut().enumerate() {
        stream.given = 0;
        if !try_step(stream, &mut used) && at == 0 && !stream.steps.is_empty() {
            // Something has to flow, or nobody would ever learn that the link carries more.
            used += stream.bps(1);
            stream.given = 1;
        }
    }
    for class in streams.chunk_by_mut(|one, other| one.priority == other.priority) {
        let mut moved = true;
        while moved {
            moved = false;
            for stream in class.iter_mut().filter(|stream| stream.given > 0) {
                moved |= try_step(stream, &mut used);
            }
        }
    }
}

/// What is given costs.
pub fn given_bps(streams: &[Stream]) -> u64 {
    streams.iter().map(|stream| stream.bps(stream.given)).sum()
}

/// What all of it would cost, with the margin of a step up.
pub fn wanted_bps(streams: &[Stream]) -> u64 {
    streams.iter().map(|stream| stream.needs(stream.steps.len())).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream(key: usize, priority: u8, costs: &[u64]) -> Stream {
        let steps = costs.iter().enumerate();
        let steps = steps.map(|(at, bps)| Step { layers: (at as u8, 0), bps: *bps }).collect();
        Stream { key, priority, steps, held: 0, given: 0 }
    }

    fn given(bps: u64, mut streams: Vec<Stream>) -> Vec<usize> {
        allocate(bps, &mut streams);
        streams.sort_by_key(|stream| stream.key);
        streams.iter().map(|stream| stream.given).collect()
    }

    #[test]
    fn everybody_has_the_base_before_anybody_has_more() {
        let all = |bps| given(bps, vec![stream(0, 1, &[100, 500, 2000]), stream(1, 9, &[100, 500, 2000])]);
        assert_eq!(all(90), [0, 1], "something has to flow");
        assert_eq!(all(120), [0, 1], "the more important one");
        assert_eq!(all(250), [1, 1]);
        assert_eq!(all(700), [1, 2]);
        assert_eq!(all(2500), [1, 3]);
        assert_eq!(all(5000), [3, 3]);
    }

    #[test]
    fn equals_rise_together() {
        let three = (0..3).map(|key| stream(key, 1, &[100, 500, 2000])).collect();
        assert_eq!(given(1700, three), [2, 2, 2]);
    }

    fn streams() -> impl Strategy<Value = Vec<Stream>> {
        let one = (1u8..4, proptest::collection::vec(1u64..1000, 1..6), 0usize..6);
        proptest::collection::vec(one, 1..8).prop_map(|all| {
            let each = all.into_iter().enumerate().map(|(key, (priority, increments, held))| {
                let costs: Vec<u64> = increments
                    .iter()
                    .scan(0, |sum, it| {
                        *sum += it;
                        Some(*sum)
                    })
                    .collect();
                Stream { held: held.min(costs.len()), ..stream(key, priority, &costs) }
            });
            each.collect()
        })
    }

    proptest! {
        #[test]
        fn the_sum_stays_within_the_estimate(streams in streams(), bps in 0u64..20_000) {
            let mut streams = streams;
            allocate(bps, &mut streams);
            let sum = given_bps(&streams);
            let least = streams[0].bps(1);
            prop_assert!(sum <= bps.max(least), "{} of {}", sum, bps);
        }

        #[test]
        fn an_estimate_that_trembles_changes_nothing(streams in streams(), bps in 0u64..20_000) {
            let mut streams = streams;
            streams.iter_mut().for_each(|stream| stream.held = 0);
            allocate(bps, &mut streams);
            // Costs of streams that hold nothing yet stand in the way with their margin; those that hold do not.
            let before: Vec<(usize, usize)> = streams.iter().map(|it| (it.key, it.given)).collect();
            streams.iter_mut().for_each(|stream| stream.held = stream.given);
            let used = given_bps(&streams);
            allocate(used, &mut streams);
            let after: Vec<(usize, usize)> = streams.iter().map(|it| (it.key, it.given)).collect();
            prop_assert_eq!(before, after, "down to what is used");
        }

        #[test]
        fn importance_never_costs_a_layer(streams in streams(), bps in 0u64..20_000, which in 0usize..8) {
            let mut before = streams;
            let which = which % before.len();
            let mut after = before.clone();
            after[which].priority += 1;
            allocate(bps, &mut before);
            allocate(bps, &mut after);
            let of = |streams: &[Stream]| streams.iter().find(|it| it.key == which).map(|it| it.given);
            prop_assert!(of(&after) >= of(&before));
        }
    }
}
