//! The load's side of the WebSocket protocol: a token, one connection, requests and their replies (docs/protocol.md).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use common::config::Secret;
use common::token;
use futures_util::{SinkExt, StreamExt};
use hyper::Uri;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::PATIENCE;

/// How long a token is good: longer than the longest load.
const TOKEN_LIFE: Duration = Duration::from_secs(2 * 86_400);

/// Where the server is, and how one gets in.
pub struct Server {
    authority: String,
    secret: Option<Secret>,
}

impl Server {
    /// Reads a URL without path: TLS is not spoken here, the load goes to the plain listener.
    pub fn new(url: &str, secret: Option<&str>) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("{url} is no URL"))?;
        match uri.scheme_str() {
            Some("ws" | "http") => {}
            Some("wss" | "https") => {
                bail!("{url}: give the plain listener (http.tls = \"off\"), TLS is not spoken here")
            }
            _ => bail!("{url}: expected ws://HOST:PORT or http://HOST:PORT"),
        }
        let authority = uri.authority().context("no host")?;
        let port = authority.port_u16().unwrap_or(80);
        let authority = format!("{}:{port}", authority.host());
        Ok(Self { authority, secret: secret.map(|secret| Secret(secret.as_bytes().to_vec())) })
    }

    async fn token(&self, user: &str) -> anyhow::Result<String> {
        match &self.secret {
            Some(secret) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
                let claims = json!({"sub": user, "exp": now + TOKEN_LIFE.as_secs()});
                Ok(token::mint(secret, &serde_json::from_value(claims)?)?)
            }
            None => self.dev_token(user).await,
        }
    }

    /// Asks a server in development mode.
    async fn dev_token(&self, user: &str) -> anyhow::Result<String> {
        let body = json!({"user": user}).to_string();
        let request = format!(
            "POST /dev/token HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            self.authority,
            body.len()
        );
        let mut stream = self.connect().await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let token = serde_json::from_str::<Value>(body)
            .ok()
            .and_then(|body| Some(body["token"].as_str()?.to_owned()));
        token.context("--secret: required, the server is not in development mode")
    }

    async fn connect(&self) -> anyhow::Result<TcpStream> {
        TcpStream::connect(&self.authority).await.with_context(|| format!("cannot reach {}", self.authority))
    }
}

/// One signed-in connection.
pub struct Signal {
    socket: WebSocketStream<TcpStream>,
    requests: u64,
}

impl Signal {
    /// Signs in.
    pub async fn open(server: &Server, user: &str) -> anyhow::Result<Self> {
        let mut request = format!("ws://{}/ws", server.authority).into_client_request()?;
        let bearer = format!("Bearer {}", server.token(user).await?);
        request.headers_mut().insert("authorization", bearer.parse()?);
        let (socket, _) =
            client_async(request, server.connect().await?).await.context("WebSocket handshake")?;
        let mut signal = Self { socket, requests: 0 };
        signal.expect(|message| message["type"] == "connected").await.context("signing in")?;
        Ok(signal)
    }

    /// Asks something and returns the reply's data.
    pub async fn ask(&mut self, mut request: Value) -> anyhow::Result<Value> {
        self.requests += 1;
        request["requestId"] = json!(self.requests);
        self.socket.send(Message::text(request.to_string())).await?;
        let mut reply = self.expect(|message| message["requestId"] == request["requestId"]).await?;
        if reply["ok"] != true {
            bail!("{}: {} ({})", request["type"], reply["error"], reply["code"]);
        }
        Ok(reply["data"].take())
    }

    async fn expect(&mut self, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let message = async {
            loop {
                match self.socket.next().await.context("the server hung up")?? {
                    Message::Text(text) => {
                        let message: Value = serde_json::from_str(&text)?;
                        if wanted(&message) {
                            return Ok(message);
                        }
                    }
                    Message::Close(Some(frame)) => bail!("closed with {}: {}", frame.code, frame.reason),
                    _ => {}
                }
            }
        };
        timeout(PATIENCE, message).await.context("no answer in time")?
    }

    /// Answers pings until told to stop, then says goodbye.
    pub async fn idle(mut self, mut stopped: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => break,
                message = self.socket.next() => if !matches!(message, Some(Ok(_))) { return },
            }
        }
        let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let _ = self.socket.close(Some(frame)).await; // it may be gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_cannot_be_used_is_named() {
        for url in ["nonsense", "wss://localhost", "ftp://localhost", "ws://", ""] {
            assert!(Server::new(url, None).is_err(), "{url}");
        }
        assert_eq!(Server::new("ws://localhost", None).expect("good").authority, "localhost:80");
        assert_eq!(Server::new("http://[::1]:8080/", None).expect("good").authority, "[::1]:8080");
    }
}
