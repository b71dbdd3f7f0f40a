//! TCP in the world: people whose UDP is blocked reach the SFU by ICE-TCP (RFC 6544, frames of RFC 4571), and users of the
//! relay talk to it over a connection. TLS would change nothing that a core sees.
//!
//! Handshakes take no time. The far end's ICE believes in UDP: what is under test is the server's side.

use std::net::SocketAddr;

use media::framing::{Frame, next_frame};
use turn::framing::take_frames;
use turn::relay as relay_core;

use super::{Event, World};
use crate::dice::Dice;
use crate::node::{ForWorker, TURN};
use crate::oracle::broken;
use crate::stream::{Step, Stream};

/// What the relay's shell lets clients with an allocation send at once.
const FRAME_BYTES_MAX: usize = 65_536;

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    inside: SocketAddr,
    outside: SocketAddr,
    server: SocketAddr,
    /// Up and down.
    ways: [Stream; 2],
    /// What has arrived and is no whole frame yet, there and here.
    arrived: [Vec<u8>; 2],
}

impl World {
    /// The connection from an address to the server, made when there is none.
    pub(super) fn connection(&mut self, inside: SocketAddr, outside: SocketAddr, server: SocketAddr) -> u64 {
        let known = self.connections.iter().find(|(_, one)| (one.inside, one.server) == (inside, server));
        if let Some((number, _)) = known {
            return *number;
        }
        self.next_connection += 1;
        let number = self.next_connection;
        let way = |name: &str| Stream::new(Dice::new(self.plan.seed, &format!("tcp {name} {number}")));
        let ways = [way("up"), way("down")];
        self.note(|| format!("{outside} connects to {server} as {number}"));
        let connection = Connection { inside, outside, server, ways, arrived: Default::default() };
        self.connections.insert(number, connection);
        number
    }

    /// A datagram of media, in its frame.
    pub(super) fn write_framed(&mut self, number: u64, up: bool, datagram: &[u8]) {
        let length = (datagram.len() as u16).to_be_bytes();
        self.write(number, up, &[&length, datagram].concat());
    }

    /// Bytes into a connection, if it still is one.
    pub(super) fn write(&mut self, number: u64, up: bool, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let begins = connection.ways[usize::from(!up)].write(bytes);
        let (client, server) = (connection.outside, connection.server);
        let (from, to) = if up { (client, server) } else { (server, client) };
        self.capture(from, to, bytes);
        if begins {
            self.at(self.now, Event::Segment { connection: number, up });
        }
    }

    pub(super) fn segment(&mut self, number: u64, up: bool) {
        let Some(outside) = self.connections.get(&number).map(|one| one.outside) else { return };
        let weather = self.links[self.link_of(outside)][usize::from(!up)].weather;
        let Some(connection) = self.connections.get_mut(&number) else { return };
        match connection.ways[usize::from(!up)].step(self.now, &weather) {
            Step::Rest => {}
            Step::Again(at) => self.at(at, Event::Segment { connection: number, up }),
            Step::Piece(arrives, bytes, next) => {
                self.at(arrives, Event::Piece { connection: number, up, bytes });
                self.at(next, Event::Segment { connection: number, up });
            }
        }
    }

    pub(super) fn piece(&mut self, number: u64, up: bool, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let (inside, outside, server) = (connection.inside, connection.outside, connection.server);
        let buffer = &mut connection.arrived[usize::from(!up)];
        buffer.extend_from_slice(bytes);
        let mut frames: Vec<Vec<u8>> = Vec::new();
        let sound = if server == TURN {
            take_frames(buffer, FRAME_BYTES_MAX, |frame| frames.push(frame.to_vec()))
        } else {
            take_datagrams(buffer, &mut frames)
        };
        if !sound {
            self.judge(broken("framing", format!("connection {number} is out of step, up: {up}")));
        }
        self.summary.over_tcp += frames.len() as u64;
        for frame in frames {
            match (up, server == TURN) {
                (true, true) => {
                    let transport = relay_core::Transport::Tcp(relay_core::ConnectionId(number));
                    let client = relay_core::ClientAddr { transport, remote: outside, local: server };
                    self.relay_with(relay_core::Input::FromClient { client, data: &frame }, &frame);
                }
                (true, false) => {
                    if let Some(worker) = self.node.workers.iter_mut().find(|one| one.address == server) {
                        worker.datagram(ForWorker::Framed(number, outside, frame));
                    }
                }
                (false, true) => self.reaches_relay_people(server, outside, &frame),
                // One at a time: str0m has room for one packet until it is polled.
                (false, false) => self.at(self.now, Event::ToLeg { inside, server, data: frame }),
            }
        }
    }

    pub(super) fn reaches_leg(&mut self, inside: SocketAddr, server: SocketAddr, data: &[u8]) {
        let legs = self.people.iter_mut().flat_map(|person| person.legs.iter_mut().flatten());
        if let Some(leg) = legs.into_iter().find(|leg| leg.address == inside) {
            leg.receive(self.now, server, data);
        }
    }

    /// Connections of these end, without a word on the way.
    pub(super) fn break_connections(&mut self, which: impl Fn(SocketAddr, SocketAddr) -> bool) {
        let broken = self.connections.iter().filter(|(_, one)| which(one.inside, one.server));
        for number in broken.map(|(number, _)| *number).collect::<Vec<_>>() {
            let Some(connection) = self.connections.remove(&number) else { continue };
            self.note(|| format!("connection {number} of {} breaks", connection.outside));
            if connection.server == TURN {
                let transport = relay_core::Transport::Tcp(relay_core::ConnectionId(number));
                let client = relay_core::ClientAddr {
                    transport,
                    remote: connection.outside,
                    local: connection.server,
                };
                self.relay(relay_core::Input::ClientGone { client });
            } else if let Some(worker) =
                self.node.workers.iter_mut().find(|worker| worker.address == connection.server)
            {
                worker.waiting.push_back(ForWorker::Closed(number));
            }
        }
    }

    pub(crate) fn break_connections_of(&mut self, person: u16) {
        let legs = self.people[usize::from(person)].legs.iter().flatten();
        let legs: Vec<SocketAddr> = legs.map(|leg| leg.address).collect();
        self.break_connections(|inside, _| legs.contains(&inside));
    }

    /// All connections of one person, or of one user of the relay, break; the user begins again.
    pub(crate) fn break_somebody(&mut self, which: usize) {
        let (people, now) = (self.people.len(), self.now);
        let which = which % (people + self.relay_users.len());
        if which < people {
            self.break_connections_of(which as u16);
        } else if self.relay_users[which - people].tcp {
            let address = self.relay_users[which - people].address;
            self.break_connections(|inside, _| inside == address);
            self.relay_users[which - people].begin_again(now);
        }
    }
}

/// Takes whole frames of RFC 4571 from the front; `false` when none can follow.
fn take_datagrams(buffer: &mut Vec<u8>, frames: &mut Vec<Vec<u8>>) -> bool {
    loop {
        match next_frame(buffer) {
            Frame::Whole(datagram) => {
                frames.push(datagram.to_vec());
                let taken = 2 + datagram.len();
                buffer.drain(..taken);
            }
            Frame::More => return true,
            Frame::Broken => return false,
        }
    }
}
