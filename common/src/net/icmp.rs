//! What the network answers about datagrams that a socket has sent: the kernel's error queue (ip(7), IP_RECVERR).
//!
//! Only sockets that are asked to collect it. Reading it is apart from receiving, so that it costs packets nothing.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;

use nix::sys::socket::sockopt::{Ipv4RecvErr, Ipv6RecvErr};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt};

use super::udp::BatchSocket;

/// `SO_EE_ORIGIN_ICMP` and `SO_EE_ORIGIN_ICMP6` of linux/errqueue.h; others are about this machine.
const FROM_ICMP: u8 = 2;
const FROM_ICMP6: u8 = 3;
/// Room for the error, for who reported it, and for the options that the socket has on besides.
const CONTROL_BYTES: usize = 512;

/// An ICMP error about a datagram of this socket, of the version of its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcmpError {
    /// Where the datagram was sent to.
    pub destination: SocketAddr,
    /// ICMP's type.
    pub kind: u8,
    /// ICMP's code.
    pub code: u8,
    /// The next hop's MTU, when the datagram was too big.
    pub mtu: u32,
}

impl BatchSocket {
    /// Collects ICMP errors from now on. The socket is readable with an error then, until [`BatchSocket::icmp_error`] has
    /// given them all.
    pub fn collect_icmp_errors(&self) -> io::Result<()> {
        if self.local_addr().is_ipv4() {
            setsockopt(self, Ipv4RecvErr, &true)?;
        } else {
            setsockopt(self, Ipv6RecvErr, &true)?;
        }
        Ok(())
    }

    /// The next of them; `None` when there are no more. What is not about a datagram on the network is passed over.
    pub fn icmp_error(&self) -> Option<IcmpError> {
        let mut control = vec![0; CONTROL_BYTES];
        loop {
            let mut payload = [0; 1]; // of the datagram, which its sender knows
            let mut parts = [IoSliceMut::new(&mut payload)];
            let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
            let message =
                recvmsg::<SockaddrStorage>(self.as_raw_fd(), &mut parts, Some(&mut control), flags).ok()?;
            let destination = message.address.as_ref().and_then(socket_addr);
            let error = message.cmsgs().ok()?.find_map(|control| match control {
                ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _) => {
                    Some(error)
                }
                _ => None,
            });
            if let (Some(destination), Some(error)) = (destination, error)
                && matches!(error.ee_origin, FROM_ICMP | FROM_ICMP6)
            {
                let (kind, code, mtu) = (error.ee_type, error.ee_code, error.ee_info);
                return Some(IcmpError { destination, kind, code, mtu });
            }
        }
    }
}

fn socket_addr(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|address| SocketAddr::V4(SocketAddrV4::from(*address)));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| SocketAddr::V6(SocketAddrV6::from(*address))))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;
    use crate::metrics::Registry;
    use crate::net::{RecvBatch, UdpMetrics};

    fn check(loopback: &str, kind: u8, code: u8) {
        let address: SocketAddr = loopback.parse().expect("an address");
        let Ok(nobody) = UdpSocket::bind(address).and_then(|socket| socket.local_addr()) else {
            return assert!(address.is_ipv6(), "every machine has 127.0.0.1");
        };
        let somebody = UdpSocket::bind(address).expect("a free port");
        somebody.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        let there = somebody.local_addr().expect("bound");
        let socket = BatchSocket::bind(address, UdpMetrics::register(&Registry::new())).expect("a free port");
        socket.collect_icmp_errors().expect("Linux has it");
        assert_eq!(socket.icmp_error(), None);
        for _ in 0..3 {
            socket.send_one(b"to nobody", nobody, None);
        }
        let mut first = None;
        for _ in 0..10_000 {
            first = socket.icmp_error();
            if first.is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let expected = IcmpError { destination: nobody, kind, code, mtu: 0 };
        assert_eq!(first, Some(expected));
        // What was told about one datagram takes no other one with it.
        assert!(socket.send_one(b"to somebody", there, None));
        let mut buffer = [0; 20];
        let (length, from) = somebody.recv_from(&mut buffer).expect("it arrives");
        assert_eq!((&buffer[..length], from), (&b"to somebody"[..], socket.local_addr()));
        somebody.send_to(b"back", from).expect("sent");
        let mut batch = RecvBatch::new();
        while socket.recv(&mut batch).is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(batch.len(), 1);
    }

    #[test]
    fn a_port_that_nobody_has_is_reported_by_type_and_code() {
        check("127.0.0.1:0", 3, 3); // RFC 792: destination unreachable, port
        check("[::1]:0", 1, 4); // RFC 4443 §3.1, the same
    }
}
