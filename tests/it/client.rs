//! The other side of the wire: one HTTP request at a time, and a WebSocket that speaks JSON.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::server::{PATIENCE, SECRET, Server};

/// An HTTP answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// Asserts RFC 9457 and returns the stable word.
    pub fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let body = self.json();
        assert_eq!(body["status"], status);
        assert!(body["title"].is_string() && body["detail"].is_string(), "{body}");
        body["code"].as_str().expect("a code").to_owned()
    }
}

/// One request on a connection of its own.
pub async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, request: &str) -> Reply {
    let answer = async {
        stream.write_all(request.as_bytes()).await.expect("the server reads");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await; // TLS without close_notify ends with an error
        String::from_utf8_lossy(&answer).into_owned()
    };
    let answer = timeout(PATIENCE, answer).await.expect("an answer in time");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP: {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
    Reply { status, head: head.to_owned(), body: body.to_owned() }
}

/// A TCP connection, or TLS on one.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// Where a server is, and how one gets in; for those who do not hold the [`Server`] itself.
#[derive(Clone)]
pub struct Door {
    pub http: SocketAddr,
    pub tls: Option<TlsConnector>,
}

impl Door {
    pub async fn connect(&self) -> Box<dyn Wire> {
        let stream = TcpStream::connect(self.http).await.expect("the server listens");
        let Some(tls) = &self.tls else { return Box::new(stream) };
        let name = ServerName::try_from("localhost").expect("a name");
        Box::new(tls.connect(name, stream).await.expect("a handshake"))
    }

    /// A WebSocket's handshake at this path and query, with more headers.
    pub async fn handshake(
        &self,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<(Client, Response), Error> {
        let mut request: Request =
            format!("ws://{}{path}", self.http).into_client_request().expect("a good URL");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("a good header"));
        }
        let (socket, response) = client_async(request, self.connect().await).await?;
        Ok((Client { socket, session: String::new() }, response))
    }

    /// Signs in where the server has [`SECRET`].
    pub async fn sign_in(&self, user: &str) -> Client {
        let path = format!("/ws?token={}", minted(user));
        let (mut client, _) = self.handshake(&path, &[]).await.expect("the handshake completes");
        client.welcome(user, false).await;
        client
    }
}

/// A good token where the server has [`SECRET`].
pub fn minted(user: &str) -> String {
    let claims = json!({ "sub": user, "exp": unix_secs() + 3600 });
    let claims = serde_json::from_value(claims).expect("claims");
    common::token::mint(&common::config::Secret(SECRET.into()), &claims).expect("a good secret")
}

impl Server {
    pub fn door(&self) -> Door {
        Door { http: self.http, tls: self.tls.clone() }
    }

    pub async fn connect(&self) -> Box<dyn Wire> {
        self.door().connect().await
    }

    /// `headers` are whole lines without their ends.
    pub async fn request(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Reply {
        let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        let (host, length) = (self.http, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n{lines}\r\n{body}"
        );
        exchange(self.connect().await, &request).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.request("GET", path, &[], "").await
    }

    pub async fn get_as(&self, token: &str, path: &str) -> Reply {
        self.request("GET", path, &[&format!("Authorization: Bearer {token}")], "").await
    }

    pub async fn token_with(&self, claims: Value) -> String {
        let reply = self.request("POST", "/dev/token", &[], &claims.to_string()).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()["token"].as_str().expect("a token").to_owned()
    }

    pub async fn token(&self, user: &str) -> String {
        self.token_with(json!({ "user": user })).await
    }

    pub async fn admin_token(&self) -> String {
        self.token_with(json!({ "user": "root", "admin": true })).await
    }

    /// A handshake at this path and query, with more headers.
    pub async fn handshake(
        &self,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<(Client, Response), Error> {
        self.door().handshake(path, headers).await
    }

    /// A connection that has not been welcomed yet.
    pub async fn open(&self, path: &str) -> Client {
        self.handshake(path, &[]).await.expect("the handshake completes").0
    }

    /// A good token where the server has [`SECRET`].
    pub fn minted(&self, user: &str) -> String {
        minted(user)
    }

    /// Signs in where the server has [`SECRET`].
    pub async fn sign_in(&self, user: &str) -> Client {
        self.door().sign_in(user).await
    }

    /// A metric's value; 0 when it has none yet.
    pub async fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics").await.body;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().expect("a whole number"))
    }

    /// Waits until a metric has come to this value.
    pub async fn until_metric(&self, name: &str, least: u64) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while self.metric(name).await < least {
            assert!(std::time::Instant::now() < deadline, "{name} never comes to {least}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// Waits until a media worker runs: what takes its files away before keeps it from starting.
    pub async fn media_is_up(&self) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while !self.get("/metrics").await.body.contains("# TYPE causeway_media_transports ") {
            assert!(std::time::Instant::now() < deadline, "no media worker starts");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Signs in and waits for `connected`.
    pub async fn join(&self, user: &str) -> Client {
        let token = self.token(user).await;
        let mut client = self.open(&format!("/ws?token={token}")).await;
        client.welcome(user, false).await;
        client
    }
}

pub fn unix_secs() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("it is after 1970").as_secs()
}

/// One WebSocket.
pub struct Client {
    pub socket: WebSocketStream<Box<dyn Wire>>,
    pub session: String,
}

impl Client {
    /// Signs in on a connection that there is already, where the server has [`SECRET`].
    pub async fn over(wire: Box<dyn Wire>, user: &str) -> Self {
        let request = format!("ws://localhost/ws?token={}", minted(user));
        let (socket, _) = client_async(request, wire).await.expect("the handshake completes");
        let mut client = Self { socket, session: String::new() };
        client.welcome(user, false).await;
        client
    }

    pub async fn welcome(&mut self, user: &str, resumed: bool) -> Value {
        let connected = self.next().await;
        assert_eq!(connected["type"], "connected");
        assert_eq!(connected["userId"], user);
        assert_eq!(connected["resumed"], resumed);
        self.session = connected["sessionId"].as_str().expect("a session id").to_owned();
        connected
    }

    pub async fn send(&mut self, message: Value) {
        self.socket.send(Message::text(message.to_string())).await.expect("the server reads");
    }

    /// The next message; pings are answered on the way.
    pub async fn next(&mut self) -> Value {
        match self.next_raw().await {
            Message::Text(text) => serde_json::from_str(&text).expect("the server sends JSON"),
            other => panic!("not a message: {other:?}"),
        }
    }

    /// The next message of this type; others that come first are passed over.
    pub async fn expect(&mut self, kind: &str) -> Value {
        loop {
            let message = self.next().await;
            if message["type"] == kind {
                return message;
            }
        }
    }

    /// The code with which the server closes; messages that come first are passed over.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            if let Message::Close(frame) = self.next_raw().await {
                let frame = frame.expect("a close code");
                return (frame.code.into(), frame.reason.to_string());
            }
        }
    }

    async fn next_raw(&mut self) -> Message {
        let message = async {
            loop {
                match self.socket.next().await.expect("the connection is open").expect("a good frame") {
                    Message::Ping(_) | Message::Pong(_) => {}
                    other => return other,
                }
            }
        };
        timeout(PATIENCE, message).await.expect("a message in time")
    }

    /// Says goodbye with 1000.
    pub async fn close_normally(mut self) {
        let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        self.socket.close(Some(frame)).await.expect("the server reads");
        while let Ok(Some(Ok(_))) = timeout(PATIENCE, self.socket.next()).await {}
    }
}
