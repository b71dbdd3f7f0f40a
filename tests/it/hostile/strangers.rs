//! Who has no credentials and may not even receive at the address it sends from: Allocates and ClientHellos, spoofed.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::sleep;
use turn::stun::Writer;
use turn::stun::attributes::Kind;
use turn::stun::header::{Class, Method, TransactionId};

use super::paying::{alone, known_secret, while_attacked};
use crate::server::{Folder, Server};
use crate::tls::write_certificate;

/// Addresses that seem to send, each of a network of its own.
const SOURCES: u8 = 100;
/// Datagrams of each kind from each of them.
const ROUNDS: u16 = 300;

fn allocate(number: u16) -> Vec<u8> {
    let mut id = [7; 12];
    id[..2].copy_from_slice(&number.to_be_bytes());
    let mut writer = Writer::new(Class::Request, Method::ALLOCATE, TransactionId(id));
    writer.attribute(Kind::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
    writer.finish()
}

/// A ClientHello of DTLS 1.2, as far as it is read before its sender has shown that it receives (RFC 6347 §4.2.1), with a
/// cookie that it was never given in every second one.
fn client_hello(number: u16) -> Vec<u8> {
    let cookie = if number.is_multiple_of(2) { vec![] } else { vec![5; 32] };
    let random = [&number.to_be_bytes()[..], &[9; 30]].concat();
    let body =
        [&[0xfe, 0xfd][..], &random, &[0, cookie.len() as u8], &cookie, &[0, 2, 0xc0, 0x2b, 1, 0, 0, 0]]
            .concat();
    let length = [0, 0, body.len() as u8];
    let header = [&[1][..], &length, &[0, 0, 0, 0, 0], &length].concat();
    let record = [22, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, (header.len() + body.len()) as u8];
    [&record[..], &header, &body].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_spoofed_allocates_and_hellos_leaves_memory_as_it_is() {
    let _alone = alone().await;
    let folder = Folder::new();
    write_certificate(folder.path());
    let path = folder.path().display();
    let (cert, key) = (format!("turn.tls.cert={path}/cert.pem"), format!("turn.tls.key={path}/key.pem"));
    let server = Server::start_in(folder, &[&known_secret(), &cert, &key]);
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, server.turn_port));
    let mut sources = Vec::new();
    for network in 0..SOURCES {
        let source = UdpSocket::bind((Ipv4Addr::new(127, 1, network, 1), 0)).await.expect("loopback");
        sources.push(source);
    }
    while_attacked(&server, 8 * 1024, async move {
        for number in 0..ROUNDS {
            for source in &sources {
                for datagram in [allocate(number), client_hello(number)] {
                    let _ = source.send_to(&datagram, to).await; // nobody reads the answers
                }
            }
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(server.metric("causeway_turn_allocations").await, 1, "of who pays");
    let forged = "causeway_turn_dtls_refused_total{reason=\"cookie\"}";
    assert!(server.metric(forged).await >= 1000, "{forged}");
    assert!(server.metric("causeway_udp_received_total").await >= 10_000);
}
