//! Media in the world: the workers' datagrams, the paths to people and back, and what subscribers get.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use media::ice::Via;
use media::parcel::{self, LENGTH_BYTES};
use turn::relay as relay_core;

use super::relaying::{GREEDY, GREEDY_DELAY};
use super::{CAPTURE_PACKETS, Event, HOP, OUTBOX_BYTES_MAX, SIGNALING_DELAY, World};
use crate::far_end::Happened;
use crate::node::{ForWorker, SERVER, TURN};
use crate::oracle::broken;
use crate::pcap::Captured;

impl World {
    pub(super) fn run_worker(&mut self, index: usize) {
        let (datagrams, messages) = self.node.workers[index].run(self.node.clock, self.now);
        let from = self.node.workers[index].address;
        let bytes: usize = datagrams.iter().map(|(_, data)| data.len()).sum();
        if bytes > OUTBOX_BYTES_MAX {
            self.judge(broken("bounds", format!("worker {index} had {bytes} bytes to send at once")));
        }
        if let Some(number) = self.node.workers[index].sent_to_over.take() {
            self.judge(broken("gone", format!("worker {index} sends to connection {number}, which is over")));
        }
        let kept = self.node.workers[index].kept_of_strangers;
        self.nothing_grows("the SFU", kept);
        for (to, data) in datagrams {
            let verdict = self.nonces.sent(self.far_end_at(to.addr), &data);
            self.judge(verdict);
            match to.via {
                Via::Tcp(number) => self.write_framed(number, false, &data),
                _ => self.send_down(from, to.addr, data),
            }
        }
        self.carry(index);
        for message in messages {
            let due = self.now + HOP;
            self.at(due, Event::FromMedia { worker: index, message });
        }
    }

    /// What a worker has said to others, each of which may have no room for it.
    fn carry(&mut self, from: usize) {
        for (to, parcels) in std::mem::take(&mut self.node.workers[from].said) {
            let mut rest = &parcels[..];
            while let Some((parcel, behind)) = parcel::first(rest) {
                let said = ForWorker::Parcel(from, parcel[LENGTH_BYTES..].to_vec());
                self.node.workers[to].datagram(said);
                rest = behind;
            }
        }
    }

    /// Whose outside address it is.
    pub(super) fn owner(&self, outside: SocketAddr) -> Option<usize> {
        self.people.iter().position(|person| match &person.nat {
            None => person.ip == outside.ip(),
            Some(_) => outside.ip() == IpAddr::V4(Ipv4Addr::new(203, 0, 113, person.id as u8 + 1)),
        })
    }

    pub(super) fn far_end_at(&self, outside: SocketAddr) -> Option<SocketAddr> {
        let person = &self.people[self.owner(outside)?];
        match &person.nat {
            None => Some(outside),
            Some(_) => None,
        }
    }

    pub(super) fn link_of(&self, outside: SocketAddr) -> usize {
        self.owner(outside).unwrap_or(self.people.len())
    }

    pub(super) fn capture(&mut self, from: SocketAddr, to: SocketAddr, data: &[u8]) {
        self.digester.datagram(self.now, from, to, data);
        if self.captured.len() == CAPTURE_PACKETS {
            self.captured.pop_front();
        }
        self.captured.push_back(Captured { at: self.now, from, to, data: data.to_vec() });
    }

    pub(super) fn send_down(&mut self, from: SocketAddr, to: SocketAddr, data: Vec<u8>) {
        self.capture(from, to, &data);
        if to.ip() == GREEDY {
            let due = self.now + GREEDY_DELAY;
            return self.at(due, Event::ToClient { from, to, data });
        }
        let link = self.link_of(to);
        for (at, data) in self.links[link][1].send(self.now, &data) {
            self.at(at, Event::ToClient { from, to, data });
        }
    }

    /// A datagram leaves an outside address for the server, through its owner's path.
    pub(crate) fn send_up(&mut self, from: SocketAddr, to: SocketAddr, data: Vec<u8>) {
        self.capture(from, to, &data);
        let link = self.link_of(from);
        for (at, data) in self.links[link][0].send(self.now, &data) {
            self.at(at, Event::ToServer { from, to, data });
        }
    }

    pub(super) fn reaches_server(&mut self, from: SocketAddr, to: SocketAddr, data: Vec<u8>) {
        let stranger = self.owner(from).is_none();
        if let Some(worker) = self.node.workers.iter_mut().find(|worker| worker.address == to) {
            worker.datagram(if stranger {
                ForWorker::FromStranger(from, data)
            } else {
                ForWorker::Datagram(from, data)
            });
        } else if to == TURN {
            let client =
                relay_core::ClientAddr { transport: relay_core::Transport::Udp, remote: from, local: to };
            self.relay_with(relay_core::Input::FromClient { client, data: &data }, &data);
        } else if to.ip() == SERVER && self.bound_ports.contains(&relay_core::RelayedAddr::udp(to)) {
            let relayed = relay_core::RelayedAddr::udp(to);
            self.relay_with(relay_core::Input::FromPeer { relayed, peer: from, data: &data }, &data);
        }
    }

    pub(super) fn reaches_client(&mut self, from: SocketAddr, to: SocketAddr, data: &[u8]) {
        if let Some(owner) = self.owner(to) {
            let now = self.now;
            let person = &mut self.people[owner];
            let inside = match &person.nat {
                Some(nat) => nat.inbound(now, to.port(), from),
                None => Some(to),
            };
            if let Some(leg) =
                inside.and_then(|at| person.legs.iter_mut().flatten().find(|leg| leg.address == at))
            {
                leg.receive(now, from, data);
            }
            return;
        }
        self.reaches_relay_people(from, to, data);
    }

    pub(super) fn poll_person(&mut self, id: usize) {
        let person = &mut self.people[id];
        if person.deadline() <= self.now {
            let (room, own) = (person.room, person.id);
            for (address, happened) in person.poll(self.now) {
                match happened {
                    Happened::Transmit(to, data) => {
                        let now = self.now;
                        let person = &mut self.people[id];
                        let over_tcp = person.tcp;
                        let from = person.nat.as_mut().map_or(address, |nat| nat.outbound(now, address, to));
                        if over_tcp {
                            let connection = self.connection(address, from, to);
                            self.write_framed(connection, true, &data);
                        } else {
                            self.send_up(from, to, data);
                        }
                    }
                    Happened::Packet(packet) => {
                        self.summary.packets += 1;
                        let now = self.now;
                        let jumps = self.people[id].jumps.entry(packet.consumer.clone()).or_default();
                        match self.consumers.got((own, room), &packet, jumps.explain(now)) {
                            Ok(true) => jumps.used(now),
                            Ok(false) => {}
                            Err(violation) => self.judge(Err(violation)),
                        }
                    }
                    Happened::Lost => {}
                }
            }
        }
        let person = &mut self.people[id];
        if let Some(complaint) = person.complaint.take() {
            self.judge(broken("told", complaint));
        }
        let person = &mut self.people[id];
        let conn = person.conn;
        for message in std::mem::take(&mut person.said) {
            if let Some(conn) = conn {
                let due = self.now + SIGNALING_DELAY;
                self.at(due, Event::Up { conn, message });
            }
        }
    }
}
