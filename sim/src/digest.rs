//! A run in 32 bytes: whatever crossed the network and whatever was said, with its time.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};

/// SHA-256 of a run.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Digest([u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A digest that is being made.
pub struct Digester(Context);

impl fmt::Debug for Digester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digester")
    }
}

impl Default for Digester {
    fn default() -> Self {
        Self(Context::new(&SHA256))
    }
}

impl Digester {
    /// A datagram was sent.
    pub fn datagram(&mut self, at: Duration, from: SocketAddr, to: SocketAddr, data: &[u8]) {
        self.line(at, &format!("{from} {to} {}", data.len()));
        self.0.update(data);
    }

    /// Something happened.
    pub fn line(&mut self, at: Duration, line: &str) {
        self.0.update(&at.as_nanos().to_be_bytes());
        self.0.update(line.as_bytes());
        self.0.update(b"\n");
    }

    /// All of it.
    pub fn finish(&self) -> Digest {
        let digest = self.0.clone().finish();
        Digest(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}
