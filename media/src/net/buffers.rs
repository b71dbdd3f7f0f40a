//! How much the kernel holds for a media socket, and what it dropped when that was not enough.
//!
//! Publishers send in step: a keyframe of each of them comes at once, faster than any worker takes it. What does not fit is lost
//! before we see it, so the buffer is asked for large, beyond `net.core.rmem_max` where we may (CAP_NET_ADMIN), and the kernel
//! is asked for its own count of drops (`sock_diag(7)`, INET_DIAG_SKMEMINFO), one exact look-up however many sockets there are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with, sockopt,
};

/// Asked for in each direction. A keyframe of 40 packets from each of 28 publishers fits four times over: the kernel counts 2304
/// bytes for a packet of 1200, and gives twice what it is asked for.
const BUFFER_BYTES: usize = 4 << 20;

/// Enlarges both buffers, and warns when the kernel gives less.
pub(super) fn enlarge(socket: impl AsFd, local: SocketAddr) {
    let fd = socket.as_fd();
    // What is not permitted is asked for within the kernel's limit; what is refused altogether is seen below.
    let _ = sockopt::set_socket_recv_buffer_size_force(fd, BUFFER_BYTES)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(fd, BUFFER_BYTES));
    let _ = sockopt::set_socket_send_buffer_size_force(fd, BUFFER_BYTES)
        .or_else(|_| sockopt::set_socket_send_buffer_size(fd, BUFFER_BYTES));
    let given = [sockopt::socket_recv_buffer_size(fd), sockopt::socket_send_buffer_size(fd)];
    for (given, setting) in given.into_iter().zip(["net.core.rmem_max", "net.core.wmem_max"]) {
        // socket(7): the kernel doubles it for its own bookkeeping, and says the doubled figure.
        let given = given.unwrap_or_default() / 2;
        if given < BUFFER_BYTES {
            tracing::warn!(
                address = %local,
                given_bytes = given,
                asked_bytes = BUFFER_BYTES,
                "{setting} is too small: packets are lost when many publishers send at once"
            );
        }
    }
}

/// <linux/netlink.h>, <linux/sock_diag.h>, <linux/inet_diag.h>.
const NLM_F_REQUEST: u16 = 1;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const IPPROTO_UDP: u8 = 17;
const INET_DIAG_SKMEMINFO: u16 = 7;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// nlmsghdr, then inet_diag_req_v2.
const REQUEST_BYTES: usize = 16 + 56;
/// nlmsghdr and inet_diag_msg, in front of the attributes.
const REPLY_HEAD_BYTES: usize = 16 + 72;
/// SK_MEMINFO_DROPS: its place among the figures of four bytes.
const DROPS_AT: usize = 8 * 4;

/// The kernel's count for one socket.
#[derive(Debug)]
pub(super) struct KernelDrops {
    /// `None` where netlink is not to be had; nothing is counted then.
    netlink: Option<OwnedFd>,
    local: SocketAddr,
    seen: Option<u32>,
    total: u64,
}

impl KernelDrops {
    /// What was dropped before does not count.
    pub(super) fn new(local: SocketAddr) -> Self {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let netlink =
            socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::SOCK_DIAG)).ok();
        let mut drops = Self { netlink, local, seen: None, total: 0 };
        drops.look();
        drops
    }

    /// Asks the kernel; says how many datagrams it has dropped since the beginning.
    pub(super) fn look(&mut self) -> u64 {
        if let Some(count) = self.ask() {
            let before = self.seen.replace(count).unwrap_or(count);
            self.total += u64::from(count.wrapping_sub(before));
        }
        self.total
    }

    fn ask(&self) -> Option<u32> {
        let netlink = self.netlink.as_ref()?;
        send(netlink, &request(self.local), SendFlags::empty()).ok()?;
        let mut reply = [0; 1024];
        // The kernel has answered before it returns from `send`.
        let (length, _) = recv(netlink, &mut reply, RecvFlags::empty()).ok()?;
        drops_in(&reply[..length])
    }
}

fn request(local: SocketAddr) -> [u8; REQUEST_BYTES] {
    let mut request = [0; REQUEST_BYTES];
    let mut put = |at: usize, bytes: &[u8]| request[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &(REQUEST_BYTES as u32).to_ne_bytes());
    put(4, &SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    put(6, &NLM_F_REQUEST.to_ne_bytes());
    put(16, &[if local.is_ipv4() { AF_INET } else { AF_INET6 }, IPPROTO_UDP, 1 << (INET_DIAG_SKMEMINFO - 1)]);
    put(20, &u32::MAX.to_ne_bytes()); // in any state
    // inet_diag_sockid: the kernel looks for who would receive, so that our end is the destination.
    put(26, &local.port().to_be_bytes());
    match local.ip() {
        // Bound to all addresses it receives for each, loopback too.
        IpAddr::V4(ip) if ip.is_unspecified() => put(44, &Ipv4Addr::LOCALHOST.octets()),
        IpAddr::V4(ip) => put(44, &ip.octets()),
        IpAddr::V6(ip) if ip.is_unspecified() => put(44, &Ipv6Addr::LOCALHOST.octets()),
        IpAddr::V6(ip) => put(44, &ip.octets()),
    }
    put(64, &[0xff; 8]); // INET_DIAG_NOCOOKIE
    request
}

/// SK_MEMINFO_DROPS of a reply, when it is one.
fn drops_in(reply: &[u8]) -> Option<u32> {
    let word = |bytes: &[u8]| bytes.first_chunk::<2>().map(|it| u16::from_ne_bytes(*it));
    if word(reply.get(4..)?)? != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    let mut rest = reply.get(REPLY_HEAD_BYTES..)?;
    while !rest.is_empty() {
        let (length, kind) = (usize::from(word(rest)?), word(rest.get(2..)?)?);
        let value = rest.get(4..length)?;
        if kind == INET_DIAG_SKMEMINFO {
            return value.get(DROPS_AT..)?.first_chunk().map(|it| u32::from_ne_bytes(*it));
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn what_the_kernel_drops_is_counted() {
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            let Ok(receiver) = UdpSocket::bind(address) else { continue }; // a machine without IPv6
            let local = receiver.local_addr().expect("bound");
            sockopt::set_socket_recv_buffer_size(&receiver, 8192).expect("a small buffer");
            let ip: IpAddr =
                if local.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            let sender = UdpSocket::bind((ip, 0)).expect("binds");
            let mut drops = KernelDrops::new(local);
            if drops.netlink.is_none() {
                return eprintln!("SKIPPED: no netlink here");
            }
            assert_eq!(drops.look(), 0);
            for _ in 0..100 {
                sender.send_to(&[0; 1000], (ip, local.port())).expect("sent");
            }
            receiver.set_nonblocking(true).expect("a flag");
            let received = std::iter::from_fn(|| receiver.recv(&mut [0; 1000]).ok()).count() as u64;
            assert!(received < 100);
            assert_eq!(drops.look(), 100 - received, "{address}");
            assert_eq!(drops.look(), 100 - received, "once");
        }
    }

    #[test]
    fn a_reply_that_is_none_tells_nothing() {
        assert_eq!(drops_in(&[]), None);
        let mut reply = vec![0; REPLY_HEAD_BYTES];
        reply[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        assert_eq!(drops_in(&reply), None, "no attributes");
        reply.extend([0, 0, 0, 0]); // a length that leads nowhere
        assert_eq!(drops_in(&reply), None);
        reply.truncate(REPLY_HEAD_BYTES);
        reply.extend(8u16.to_ne_bytes());
        reply.extend(INET_DIAG_SKMEMINFO.to_ne_bytes());
        reply.extend([1; 4]);
        assert_eq!(drops_in(&reply), None, "too short");
        reply[4] = 2;
        assert_eq!(drops_in(&reply), None, "NLMSG_ERROR");
    }

    #[test]
    fn buffers_are_as_large_as_the_kernel_lets_them_be() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("binds");
        let before = sockopt::socket_recv_buffer_size(&socket).expect("known");
        enlarge(&socket, socket.local_addr().expect("bound"));
        let after = sockopt::socket_recv_buffer_size(&socket).expect("known");
        assert!(after >= before && after <= 2 * BUFFER_BYTES, "{before} {after}");
    }
}
