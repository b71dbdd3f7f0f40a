//! The floor: a forwarder on loopback that looks at nothing. Between it and a relay lies what the relay's protocol costs.
//!
//! A client's first datagram is two bytes, its peer's port, and makes its relay socket, whose port is the answer. From then
//! on whatever the client sends leaves from that socket to the peer, and whatever arrives there goes to the client. `gro`
//! and `mmsg` are the two ways over the kernel's border.

mod gro;
mod mmsg;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::poll::Poll;

const WAIT: Duration = Duration::from_millis(100);
/// The socket that clients send to; relay sockets follow.
const LISTENER: usize = 0;

/// How datagrams pass the kernel's border.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Way {
    /// recvmmsg and sendmmsg, each datagram by itself.
    Mmsg,
    /// UDP_GRO and UDP_SEGMENT: neighbours travel together.
    Gro,
}

/// Forwards until it is ended.
pub fn run(way: Way, listen: SocketAddr) -> anyhow::Result<()> {
    match way {
        Way::Mmsg => forward::<mmsg::Carrier>(listen),
        Way::Gro => forward::<gro::Carrier>(listen),
    }
}

/// Sockets by number, and a batch of datagrams between them.
trait Carry: Sized {
    fn new() -> anyhow::Result<Self>;
    /// A socket more; where it is bound.
    fn bind(&mut self, address: SocketAddr, poll: &Poll) -> anyhow::Result<SocketAddr>;
    /// Receives at a socket and sends what `route` has a way for: the number of the socket to leave from, and where to.
    /// What it has none for is returned. `None` when nothing was there.
    fn carry(&mut self, at: usize, route: impl Fn(SocketAddr) -> Option<Hop>) -> Option<Vec<Stranger>>;
    fn answer(&self, to: SocketAddr, bytes: &[u8]) -> anyhow::Result<()>;
}

/// Which socket to leave from, and where to.
type Hop = (usize, SocketAddr);
/// Who has no route yet, and what it says.
type Stranger = (SocketAddr, Vec<u8>);

fn forward<C: Carry>(listen: SocketAddr) -> anyhow::Result<()> {
    let mut poll = Poll::new()?;
    let mut carrier = C::new()?;
    carrier.bind(listen, &poll)?;
    let mut up: HashMap<SocketAddr, Hop> = HashMap::new();
    let mut down: Vec<SocketAddr> = vec![listen]; // clients, by relay socket
    loop {
        let ready: Vec<usize> = poll.wait(WAIT)?.collect();
        for at in ready {
            loop {
                let route = |from| match at {
                    LISTENER => up.get(&from).copied(),
                    relay => Some((LISTENER, down[relay])),
                };
                let Some(strangers) = carrier.carry(at, route) else { break };
                for (client, first) in strangers {
                    let Ok(port) = first.try_into().map(u16::from_be_bytes) else { continue };
                    let relayed = carrier.bind((listen.ip(), 0).into(), &poll)?;
                    up.insert(client, (down.len(), (listen.ip(), port).into()));
                    down.push(client);
                    carrier.answer(client, &relayed.port().to_be_bytes())?;
                }
            }
        }
    }
}
