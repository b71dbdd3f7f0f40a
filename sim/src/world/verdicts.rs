//! What must be true when all is mended, and when all have gone.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{END, Event, JUDGED, PARTING, World};
use crate::node::GRACE;
use crate::oracle::{Verdict, broken};
use crate::person::Person;
use crate::trouble::Deed;

impl World {
    /// Five seconds after all was mended, everybody decodes everybody again.
    pub(super) fn everybody_is_heard(&mut self, relayed_before: &[u64]) -> Verdict {
        for person in &self.people {
            let others = self
                .people
                .iter()
                .filter(|other| other.room == person.room && other.id != person.id && other.wants_room);
            let due = if person.wants_room { 2 * others.count() } else { 0 };
            let heard = person.legs[1].as_ref().map_or(0, |leg| {
                let fresh = |at: Option<Duration>| at.is_some_and(|at| at > JUDGED);
                let best = self.plan.encodings - 1;
                let whole = leg.subscriptions.iter().filter(|known| known.audio || known.layer == best);
                // Nobody who gets everything that is due has to ask for a keyframe.
                whole.filter(|known| fresh(known.decoded_at) && !fresh(known.asked_at)).count()
            });
            if heard != due {
                let legs =
                    person.legs.each_ref().map(|leg| leg.as_ref().map(|leg| (leg.connected, leg.born)));
                return broken(
                    "heals",
                    format!("p{} decodes {heard} of {due} streams; its legs are {legs:?}", person.id),
                );
            }
        }
        for (user, before) in self.relay_users.iter().zip(relayed_before) {
            if user.got <= *before {
                return broken("heals", format!("{} hears nothing from its peer", user.address));
            }
        }
        self.summary.waited = self.chatters.iter().map(|pair| pair.waited).sum();
        self.summary.begun_anew =
            self.chatters.iter().filter(|pair| pair.resumed == Some(false)).count() as u64;
        self.summary.refused = self.greedy.iter().map(|user| user.refused).sum();
        self.summary.relayed = self.relay_users.iter().map(|user| user.got).sum();
        Ok(())
    }

    pub(super) fn state_is_as_the_people_see_it(&self) -> Verdict {
        let stats = self.node.hub.stats();
        let sessions = self.people.iter().filter(|person| person.conn.is_some()).count();
        let rooms: BTreeSet<u16> =
            self.people.iter().filter(|person| person.joined).map(|person| person.room).collect();
        if (stats.sessions, stats.rooms) != (sessions, rooms.len()) {
            return broken(
                "model",
                format!(
                    "the hub has {} sessions and {} rooms, people have {sessions} and {}",
                    stats.sessions,
                    stats.rooms,
                    rooms.len()
                ),
            );
        }
        let transports: usize = self.node.workers.iter().map(|worker| worker.sfu.transport_count()).sum();
        let legs = self.people.iter().flat_map(|person| person.legs.iter().flatten()).count();
        if transports != legs {
            return broken("model", format!("the SFU has {transports} transports, people have {legs}"));
        }
        for person in self.people.iter().filter(|person| person.joined) {
            let there: BTreeSet<String> = self
                .people
                .iter()
                .filter(|other| other.joined && other.room == person.room && other.id != person.id)
                .map(Person::name)
                .collect();
            if person.peers != there {
                return broken(
                    "model",
                    format!("p{} sees {:?}, and there are {there:?}", person.id, person.peers),
                );
            }
        }
        Ok(())
    }

    /// `model`: a call is there from when it rings until its record is written.
    pub(super) fn calls_are_those_without_a_record(&mut self) {
        let (there, due) = (self.node.hub.stats().calls, self.call_log.unwritten());
        if there != due {
            self.judge(broken(
                "model",
                format!("the hub has {there} calls, and {due} wait for their record"),
            ));
        }
    }

    /// Some say goodbye, some vanish.
    pub(super) fn part(&mut self) {
        for id in 0..self.plan.people {
            self.people[usize::from(id)].wants_room = false;
            match self.dice.below(3) {
                0 => self.disconnect(id, Some(1000), None),
                1 => self.disconnect(id, None, None),
                _ => {
                    let now = self.now;
                    self.people[usize::from(id)].leave(now);
                    let due = now + Duration::from_millis(100);
                    self.at(due, Event::Deed(Deed::Goodbye { person: id }));
                }
            }
            self.people[usize::from(id)].forget_room();
        }
        let due = PARTING + Duration::from_secs(400);
        for index in 0..self.relay_users.len() {
            self.at(due, Event::Deed(Deed::ReleaseRelay { user: index }));
        }
    }

    pub(crate) fn release_relay(&mut self, user: usize) {
        self.relay_users[user].leaving = true;
    }

    pub(super) fn nothing_is_left(&self) -> Verdict {
        debug_assert!(END - PARTING > GRACE);
        let mut held = vec![("the hub".to_owned(), self.node.hub.held().to_vec())];
        held.push(("the relay".into(), self.node.relay.held().to_vec()));
        for (number, worker) in self.node.workers.iter().enumerate() {
            held.push((format!("worker {number}"), worker.sfu.held().to_vec()));
        }
        for (who, what) in held {
            if let Some((what, count)) = what.iter().find(|(_, count)| *count != 0) {
                return broken("leftovers", format!("{who} still has {count} {what}"));
            }
        }
        if !self.bound_ports.is_empty() {
            return broken(
                "leftovers",
                format!("sockets of the relay are still open: {:?}", self.bound_ports),
            );
        }
        self.call_log.complete()
    }
}
