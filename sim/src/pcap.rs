//! A capture file of what crossed the simulated network, for Wireshark: raw IPv4 (link type 101), UDP only.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// One datagram as it was sent.
#[derive(Debug, Clone)]
pub struct Captured {
    /// Since the run's beginning.
    pub at: Duration,
    /// From whom.
    pub from: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// The UDP payload.
    pub data: Vec<u8>,
}

/// Writes a file.
pub fn write<'a>(out: &mut impl Write, packets: impl Iterator<Item = &'a Captured>) -> io::Result<()> {
    // Magic, version 2.4, zone, accuracy, length limit, link type.
    out.write_all(&0xa1b2_c3d4_u32.to_le_bytes())?;
    out.write_all(&[2, 0, 4, 0])?;
    for word in [0u32, 0, 65_535, 101] {
        out.write_all(&word.to_le_bytes())?;
    }
    for packet in packets {
        let (IpAddr::V4(from), IpAddr::V4(to)) = (packet.from.ip(), packet.to.ip()) else { continue };
        let length = (28 + packet.data.len()) as u32;
        for word in [packet.at.as_secs() as u32, packet.at.subsec_micros(), length, length] {
            out.write_all(&word.to_le_bytes())?;
        }
        let mut header = vec![0x45, 0];
        header.extend((length as u16).to_be_bytes());
        header.extend([0, 0, 0, 0, 64, 17, 0, 0]);
        header.extend(from.octets());
        header.extend(to.octets());
        header.extend(packet.from.port().to_be_bytes());
        header.extend(packet.to.port().to_be_bytes());
        header.extend((8 + packet.data.len() as u16).to_be_bytes());
        header.extend([0, 0]);
        out.write_all(&header)?;
        out.write_all(&packet.data)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_add_up() {
        let at = |text: &str| text.parse().expect("an address");
        let packet = Captured {
            at: Duration::from_millis(1500),
            from: at("192.0.2.1:1"),
            to: at("192.0.2.2:2"),
            data: b"abc".to_vec(),
        };
        let mut file = Vec::new();
        write(&mut file, [packet].iter()).expect("memory takes it");
        assert_eq!(file.len(), 24 + 16 + 28 + 3);
        assert_eq!(file[32..36], 31u32.to_le_bytes(), "captured length");
        assert!(file.ends_with(b"abc"));
    }
}
