//! Wrong clocks in the world, and what must hold all the same.

use std::time::{Duration, Instant};

use serde_json::Value;
use signaling::hub;
use turn::relay as relay_core;

use super::World;
use crate::clock::Clock;
use crate::dice::Dice;
use crate::node::{CREDENTIALS, ForWorker};
use crate::oracle::{Verdict, broken};

/// Quartz is wrong by some dozens; what is sold is within this.
const PPM_MAX: i32 = 500;
/// People's wall clocks are wrong by up to so much.
const AHEAD_MAX: Duration = Duration::from_secs(86_400);

/// The clock of a machine that nobody has looked after.
pub(super) fn skewed(start: Instant, dice: &mut Dice) -> Clock {
    let ppm = dice.below(2 * PPM_MAX as usize + 1) as i32 - PPM_MAX;
    Clock::skewed(start, ppm, dice.between(Duration::ZERO, AHEAD_MAX))
}

impl World {
    /// Somebody sets the server's wall clock; 0 is right. The shells notice and tell.
    pub(crate) fn set_wall_clock(&mut self, set_by: i64) {
        if std::mem::replace(&mut self.node.set_by, set_by) == set_by {
            return;
        }
        let unix_time = self.node.wall(self.now);
        self.note(|| format!("the wall clock shows {unix_time:?}"));
        self.hub(hub::Input::WallClock { unix_time });
        self.relay(relay_core::Input::WallClock { unix_time });
    }

    /// The relay's people begin again, with the credentials that they have.
    pub(crate) fn allocate_again(&mut self) {
        let now = self.now;
        for user in &mut self.relay_users {
            user.begin_again(now);
        }
    }

    /// A worker stands still while its queues fill to the brim.
    pub(crate) fn stall_and_flood(&mut self, worker: usize, time: Duration) {
        self.stall(worker, time);
        let worker = worker % self.node.workers.len();
        for number in 0..crate::node::DATAGRAMS_MAX {
            let from = ([45, 1, (number >> 8) as u8, number as u8], 9).into();
            let data = self.dice.bytes(60);
            self.node.workers[worker].datagram(ForWorker::FromStranger(from, data));
        }
    }

    /// `wall`: credentials that the hub gives away end when the wall clock says.
    pub(super) fn credentials_are_timely(&self, message: &Value) -> Verdict {
        let Some(username) = message["iceServers"][1]["username"].as_str() else { return Ok(()) };
        let ends = username.split(':').next().and_then(|seconds| seconds.parse::<u64>().ok());
        let due = (self.node.wall(self.now) + CREDENTIALS).as_secs();
        if ends.is_none_or(|ends| ends.abs_diff(due) > 1) {
            return broken("wall", format!("{username} should end at {due}"));
        }
        Ok(())
    }

    /// `memory`: what strangers send leaves nothing behind.
    pub(super) fn nothing_grows(&mut self, who: &str, kept: i64) {
        if kept > KEPT_OF_STRANGERS_MAX {
            self.judge(broken("memory", format!("{who} has kept {kept} bytes of what strangers sent")));
        }
    }
}

/// A run's strangers send up to some thousand datagrams. Buffers that are used again may grow a little; more than four
/// bytes per datagram is a memory.
const KEPT_OF_STRANGERS_MAX: i64 = 16 * 1024;
