//! What HTTP and WebSocket do not allow, or allow and nobody needs: smuggled requests, other versions, bombs and frames without end.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::paying::{alone, known_secret, while_attacked};
use crate::client::{Client, Door, minted};
use crate::server::{PATIENCE, Server};

/// Sends this and reads until the server ends it; all that it has answered.
async fn answers(door: &Door, bytes: &[u8]) -> String {
    let mut stream = door.connect().await;
    let _ = stream.write_all(bytes).await; // it may be cut off by now
    let mut answer = Vec::new();
    let end = stream.read_to_end(&mut answer);
    let _ = timeout(PATIENCE, end).await.expect("the server ends it"); // a reset is an end
    String::from_utf8_lossy(&answer).into_owned()
}

/// A request that is answered 200, if it is taken for one.
const SMUGGLED: &str = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// Requests whose ends are a matter of opinion (RFC 9112 §11.2): who stands before us may have seen one where we see two.
fn of_two_minds() -> Vec<(&'static str, String)> {
    let length = SMUGGLED.len();
    let post =
        |headers: &str, body: &str| format!("POST /v1/drain HTTP/1.1\r\nHost: x\r\n{headers}\r\n{body}");
    let get = |line: &str| format!("GET /v1/rooms HTTP/1.1\r\nHost: x\r\n{line}\r\n\r\n{SMUGGLED}");
    vec![
        (
            "a length and chunks",
            post(
                &format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", length + 5),
                &format!("0\r\n\r\n{SMUGGLED}"),
            ),
        ),
        ("two lengths", post(&format!("Content-Length: 0\r\nContent-Length: {length}\r\n"), SMUGGLED)),
        ("a list of lengths", post(&format!("Content-Length: 0, {length}\r\n"), SMUGGLED)),
        ("a signed length", post("Content-Length: +0\r\n", SMUGGLED)),
        ("a negative length", post("Content-Length: -1\r\n", SMUGGLED)),
        ("a length beyond 64 bits", post("Content-Length: 18446744073709551616\r\n", SMUGGLED)),
        ("an unknown encoding", post("Transfer-Encoding: xchunked\r\n", SMUGGLED)),
        ("chunks that are not last", post("Transfer-Encoding: chunked, identity\r\n", SMUGGLED)),
        ("a chunk of no number", post("Transfer-Encoding: chunked\r\n", &format!("zz\r\n\r\n{SMUGGLED}"))),
        (
            "a chunk beyond 64 bits",
            post("Transfer-Encoding: chunked\r\n", &format!("1{}\r\n{SMUGGLED}", "0".repeat(16))),
        ),
        ("a space before the colon", get(&format!("Content-Length : {length}"))),
        ("a line that is folded", get("X-A: b\r\n Content-Length: 0")),
        ("a name with a NUL", get("X-\0: b")),
        ("a value with a NUL", get("X-A: \0b")),
        ("a bare CR", get("X-A: b\rX-B: c")),
        ("HTTP/2's preface", format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{SMUGGLED}")),
        ("HTTP/0.9", format!("GET /healthz\r\n\r\n{SMUGGLED}")),
        ("HTTP/9.9", format!("GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n{SMUGGLED}")),
        ("no method", format!("\r\n\r\n\r\n /healthz HTTP/1.1\r\nHost: x\r\n\r\n{SMUGGLED}")),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_smuggled_within_another_and_headers_are_bounded() {
    let _alone = alone().await;
    let server = Server::start_with(&[&known_secret()]);
    let door = server.door();
    while_attacked(&server, 32 * 1024, async move {
        for (what, bytes) in of_two_minds() {
            let answer = answers(&door, bytes.as_bytes()).await;
            assert!(!answer.contains("HTTP/1.1 200"), "{what}: {answer}");
        }
        let many = "X-A: b\r\n".repeat(2000);
        let bombs = [
            format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n"),
            format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(1 << 20)),
            format!("GET / HTTP/1.1\r\nHost: x\r\nCookie: {}\r\n\r\n", "a".repeat(1 << 20)),
            format!("GET / HTTP/1.1\r\nHost: x\r\n{}: b\r\n\r\n", "A".repeat(1 << 20)),
        ];
        for bomb in &bombs {
            for _ in 0..10 {
                let answer = answers(&door, bomb.as_bytes()).await;
                assert!(!answer.contains("HTTP/1.1 200"), "{answer}");
            }
        }
        // A body that nobody asked for, in chunks with extensions, is not kept.
        let chunk = format!("1;{}\r\na\r\n", "x".repeat(1000));
        let endless = format!(
            "POST /dev/token HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n{}",
            door.http,
            chunk.repeat(4000)
        );
        let answer = answers(&door, endless.as_bytes()).await;
        assert!(!answer.contains("HTTP/1.1 200"), "{answer}");
    })
    .await;
    for (reason, least) in [("malformed", 10), ("too-large", 20)] {
        let name = format!("causeway_connections_refused_total{{reason=\"{reason}\"}}");
        assert!(server.metric(&name).await >= least, "{name}");
    }
}

#[tokio::test]
async fn host_headers_open_nothing() {
    let server = Server::start_deployed(&["http.public_url=https://call.example.org"]);
    // Without a token, from a page: whatever Host says, only the public origin is let in.
    let path = format!("/ws?token={}", minted("alice"));
    for host in
        ["call.example.org", "call.example.org:443", "evil.example", "[::1]", "127.0.0.1@evil.example", ""]
    {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: https://evil.example\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let mut stream = server.connect().await;
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = vec![0; 1024];
        let length = timeout(PATIENCE, stream.read(&mut answer)).await.expect("in time").expect("an answer");
        let answer = String::from_utf8_lossy(&answer[..length]);
        let let_in = answer.starts_with("HTTP/1.1 101");
        // A browser sends as Host what it connects to: a page of that very host is a page of ours.
        assert!(!let_in || host == "evil.example", "{host}: {answer}");
    }
}

/// A frame of a client (RFC 6455 §5.2), masked with zeros: first byte, length, payload.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..126 => frame.push(0x80 | short as u8),
        middle @ 126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend((middle as u16).to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend_from_slice(payload);
    frame
}

const TEXT: u8 = 1;
const CONTINUATION: u8 = 0;
const FIN: u8 = 0x80;
const PING: u8 = FIN | 9;
/// Means "compressed" where permessage-deflate has been agreed on (RFC 7692 §6), and is an error elsewhere.
const RSV1: u8 = 0x40;

/// Frames that end a connection, with the code that the server gives.
fn broken_frames() -> Vec<(&'static str, Vec<u8>, u16)> {
    let claim = |length: u64| {
        let mut head = vec![FIN | TEXT, 0x80 | 127];
        head.extend(length.to_be_bytes());
        head.extend([0; 4]);
        head
    };
    // A megabyte of zeros, deflated to a kilobyte: never inflated, since no extension was agreed on.
    let deflated: Vec<u8> = [0xec, 0xc1, 0x01, 0x01].into_iter().chain([0; 1000]).collect();
    vec![
        ("a compressed bomb", frame(FIN | RSV1 | TEXT, &deflated), 1002),
        ("an unmasked frame", vec![FIN | TEXT, 2, b'{', b'}'], 1002),
        ("a continuation of nothing", frame(FIN | CONTINUATION, b"{}"), 1002),
        ("a text within a text", [frame(TEXT, b"{"), frame(FIN | TEXT, b"}")].concat(), 1002),
        ("a reserved opcode", frame(FIN | 3, b"x"), 1002),
        ("a reserved control frame", frame(FIN | 11, b"x"), 1002),
        ("a ping in parts", frame(9, b"x"), 1002),
        ("a long ping", frame(PING, &[0; 126]), 1002),
        ("half a close code", frame(FIN | 8, &[3]), 1002),
        ("a text of no UTF-8", frame(FIN | TEXT, &[0xff, 0xfe]), 1007),
        ("a frame of 2^62 bytes", claim(1 << 62), 1009),
        ("a frame of 16 MiB", claim(16 << 20), 1009),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_and_compressed_frames_close_with_their_code() {
    let _alone = alone().await;
    let server = Server::start_with(&[&known_secret()]);
    let door = server.door();
    let path = format!("/ws?token={}", minted("mallory"));
    let offered = [("sec-websocket-extensions", "permessage-deflate; client_max_window_bits")];
    while_attacked(&server, 32 * 1024, async move {
        for _ in 0..5 {
            for (what, bytes, code) in broken_frames() {
                let (mut mallory, response) = door.handshake(&path, &offered).await.expect("it completes");
                assert!(response.headers().get("sec-websocket-extensions").is_none(), "none is agreed on");
                mallory.welcome("mallory", false).await;
                mallory.socket.get_mut().write_all(&bytes).await.expect("it reads");
                assert_eq!(mallory.closed().await.0, code, "{what}");
            }
        }
    })
    .await;
    assert!(server.metric("causeway_limits_reached_total{limit=\"message-bytes\"}").await >= 10);
    assert_eq!(server.metric("causeway_limits_reached_total{limit=\"websocket-rules\"}").await, 5 * 10);
}

/// Sends the same bytes again and again until the server ends the connection or the time is over: bytes that it took.
async fn pour(mut client: Client, first: &[u8], again: &[u8], time: Duration) -> usize {
    let many = again.repeat(8192 / again.len() + 1);
    let raw = client.socket.get_mut();
    let until = Instant::now() + time;
    let mut poured = 0;
    if raw.write_all(first).await.is_err() {
        return poured;
    }
    while let Ok(Ok(())) = tokio::time::timeout_at(until, raw.write_all(&many)).await {
        poured += many.len();
    }
    poured
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_without_end_are_read_slowly_and_kept_nowhere() {
    let _alone = alone().await;
    let server = Server::start_with(&[&known_secret(), "signaling.heartbeat=1s"]);
    let (door, time) = (server.door(), Duration::from_secs(5));
    let poured = while_attacked(&server, 32 * 1024, async move {
        let mut pouring = Vec::new();
        for (first, again) in [
            (vec![], frame(PING, b"x")),
            (vec![], frame(FIN | 10, &[0; 125])),
            (frame(TEXT, b"{"), frame(PING, b"")),
            (frame(TEXT, b"{"), frame(CONTINUATION, b" ")),
            (frame(TEXT, b"{"), frame(CONTINUATION, b"")),
        ] {
            let client = door.sign_in("mallory").await;
            pouring.push(tokio::spawn(async move { pour(client, &first, &again, time).await }));
        }
        let mut poured = Vec::new();
        for flood in pouring {
            poured.push(flood.await.expect("it pours until it is cut off"));
        }
        poured
    })
    .await;
    println!("{poured:?} bytes of frames were taken");
    // The kernel's buffers at both ends hold most of this.
    assert!(poured[..3].iter().all(|bytes| *bytes < 16 << 20), "{poured:?}: pings and pongs are not paced");
    // A message in parts of one byte is cut off for its length, one in parts of nothing because it never ends.
    assert_eq!(server.metric("causeway_limits_reached_total{limit=\"message-bytes\"}").await, 1);
    assert_eq!(server.metric("causeway_limits_reached_total{limit=\"silence\"}").await, 1);
}
