//! RTP header extensions in the one-byte and two-byte forms (RFC 8285 §4.2, §4.3): reading whatever came, and writing
//! the few that a consumer gets.
//!
//! ```text
//! one-byte   BEDE | words || id:4 len-1:4 | data ...
//! two-byte   100x | words || id:8 | len:8 | data ...        a zero byte is padding in both
//! ```

use std::time::Duration;

/// Profile of the one-byte form.
const ONE_BYTE: u16 = 0xbede;

/// Profile of the two-byte form; the low four bits are the application's.
const TWO_BYTE: u16 = 0x1000;

/// Longest element of the one-byte form.
const SHORT_MAX: usize = 16;

/// The elements of a header extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extensions<'a> {
    profile: u16,
    bytes: &'a [u8],
}

impl<'a> Extensions<'a> {
    /// From the profile and the bytes behind the length. Unknown profiles have no elements.
    pub fn new(profile: u16, bytes: &'a [u8]) -> Self {
        Self { profile, bytes }
    }

    /// What it was made from.
    pub fn parts(self) -> (u16, &'a [u8]) {
        (self.profile, self.bytes)
    }

    /// Every element as (id, data), in wire order, up to the first that is malformed.
    pub fn iter(self) -> Iter<'a> {
        let known = self.profile == ONE_BYTE || self.profile & 0xfff0 == TWO_BYTE;
        Iter { one_byte: self.profile == ONE_BYTE, rest: if known { self.bytes } else { &[] } }
    }

    /// The data of the first element with this id.
    pub fn find(self, id: u8) -> Option<&'a [u8]> {
        self.iter().find_map(|(found, data)| (found == id).then_some(data))
    }
}

/// Iterates over elements; see [`Extensions::iter`].
#[derive(Debug, Clone)]
pub struct Iter<'a> {
    one_byte: bool,
    rest: &'a [u8],
}

impl<'a> Iterator for Iter<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.rest.iter().position(|byte| *byte != 0)?;
        let element = std::mem::take(&mut self.rest).get(start..)?;
        let (id, len, at) = if self.one_byte {
            (element[0] >> 4, usize::from(element[0] & 0x0f) + 1, 1)
        } else {
            (element[0], usize::from(*element.get(1)?), 2)
        };
        // Id 15 ends the one-byte form; id 0 with a length is malformed (RFC 8285 §4.2).
        if self.one_byte && (id == 15 || id == 0) {
            return None;
        }
        let data = element.get(at..at + len)?;
        self.rest = &element[at + len..];
        Some((id, data))
    }
}

/// Most elements that a consumer's packet carries beside the dependency descriptor.
const TRANSLATED_MAX: usize = 14;

/// What a consumer's packet carries; every other extension of the source is stripped. Elements of more than sixteen
/// bytes, empty ones, and ids beyond 14 do not exist in the one-byte form and are left out; only a dependency descriptor
/// may be longer, and brings the two-byte form with it.
#[derive(Debug, Clone, Copy, Default)]
pub struct HeaderExtensions<'a> {
    /// Id and text of the MID (RFC 9143).
    pub mid: Option<(u8, &'a [u8])>,
    /// Id and time of sending, as [`abs_send_time`] makes it.
    pub abs_send_time: Option<(u8, u32)>,
    /// Id and the transport-wide sequence number.
    pub transport_cc: Option<(u8, u16)>,
    /// Id and bytes of the dependency descriptor (AV1).
    pub descriptor: Option<(u8, &'a [u8])>,
    /// Elements of the source to copy: the id there and the id here.
    pub translate: &'a [(u8, u8)],
    /// The source's elements.
    pub source: Extensions<'a>,
}

impl HeaderExtensions<'_> {
    /// Writes the whole extension block; returns its length, zero without elements, `None` when it does not fit.
    pub(super) fn write(&self, out: &mut [u8]) -> Option<usize> {
        match self.descriptor {
            Some((id, data)) if data.len() > SHORT_MAX && data.len() <= 255 && id != 0 => {
                self.write_as::<TWO_BYTE>(out)
            }
            _ => self.write_as::<ONE_BYTE>(out),
        }
    }

    fn write_as<const PROFILE: u16>(&self, out: &mut [u8]) -> Option<usize> {
        let mut len = 4;
        let mut put = |id: u8, data: &[u8], longest: usize| -> Option<()> {
            if !(1..=14).contains(&id) || data.is_empty() || data.len() > longest {
                return Some(());
            }
            if PROFILE == ONE_BYTE {
                let element = out.get_mut(len..len + 1 + data.len())?;
                element[0] = id << 4 | (data.len() - 1) as u8;
                element[1..].copy_from_slice(data);
                len += element.len();
            } else {
                let element = out.get_mut(len..len + 2 + data.len())?;
                element[..2].copy_from_slice(&[id, data.len() as u8]);
                element[2..].copy_from_slice(data);
                len += element.len();
            }
            Some(())
        };
        if let Some((id, text)) = self.mid {
            put(id, text, SHORT_MAX)?;
        }
        if let Some((id, time)) = self.abs_send_time {
            put(id, &time.to_be_bytes()[1..], SHORT_MAX)?;
        }
        if let Some((id, sequence)) = self.transport_cc {
            put(id, &sequence.to_be_bytes(), SHORT_MAX)?;
        }
        if let Some((id, data)) = self.descriptor {
            put(id, data, if PROFILE == ONE_BYTE { SHORT_MAX } else { 255 })?;
        }
        // Each target id once, so that a hostile source cannot make the header long by repeating an element.
        for (from, to) in self.translate.iter().take(TRANSLATED_MAX) {
            if let Some(data) = self.source.find(*from) {
                put(*to, data, SHORT_MAX)?;
            }
        }
        if len == 4 {
            return Some(0);
        }
        let padded = len.next_multiple_of(4);
        out.get_mut(len..padded)?.fill(0);
        out[..2].copy_from_slice(&PROFILE.to_be_bytes());
        out[2..4].copy_from_slice(&((padded / 4 - 1) as u16).to_be_bytes());
        Some(padded)
    }
}

/// Time as 24 bits of 6.18 fixed-point seconds, from any epoch that stays the same on one transport (the abs-send-time
/// extension of WebRTC).
pub fn abs_send_time(since_epoch: Duration) -> u32 {
    let fraction = (u64::from(since_epoch.subsec_nanos()) << 18) / 1_000_000_000;
    (((since_epoch.as_secs() << 18) | fraction) & 0x00ff_ffff) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(profile: u16, bytes: &[u8]) -> Vec<(u8, &[u8])> {
        Extensions::new(profile, bytes).iter().collect()
    }

    #[test]
    fn both_forms_are_read() {
        assert_eq!(elements(0xbede, &[0x10, 7, 0, 0x21, 8, 9, 0, 0]), [(1, &[7][..]), (2, &[8, 9][..])]);
        assert_eq!(elements(0x1000, &[1, 0, 0, 20, 2, 8, 9, 0]), [(1, &[][..]), (20, &[8, 9][..])]);
        assert_eq!(elements(0x100f, &[3, 1, 5]), [(3, &[5][..])]);
        assert_eq!(elements(0x1234, &[3, 1, 5]), []);
    }

    #[test]
    fn what_is_malformed_ends_the_list() {
        assert_eq!(elements(0xbede, &[0x10, 7, 0xf0, 1, 0x20, 8]), [(1, &[7][..])]);
        assert_eq!(elements(0xbede, &[0x10, 7, 0x25, 1]), [(1, &[7][..])]);
        assert_eq!(elements(0x1000, &[1, 1, 7, 2]), [(1, &[7][..])]);
        assert_eq!(elements(0xbede, &[0x03, 1, 2, 3]), []);
    }

    #[test]
    fn elements_are_translated_and_the_rest_is_stripped() {
        let source = Extensions::new(0x1000, &[5, 1, 0x55, 6, 1, 0x66, 7, 2, 0x77, 0x78]);
        let wanted = HeaderExtensions { translate: &[(7, 2), (5, 9), (8, 3)], source, ..Default::default() };
        let mut out = [0xee; 32];
        let len = wanted.write(&mut out).expect("room");
        assert_eq!(out[..len], [0xbe, 0xde, 0, 2, 0x21, 0x77, 0x78, 0x90, 0x55, 0, 0, 0]);
        assert_eq!(HeaderExtensions::default().write(&mut out), Some(0));
    }

    #[test]
    fn a_long_descriptor_brings_the_two_byte_form() {
        let descriptor = [7; 80];
        let wanted = |descriptor| HeaderExtensions {
            mid: Some((1, b"m")),
            transport_cc: Some((5, 0x0203)),
            descriptor: Some((7, descriptor)),
            ..Default::default()
        };
        let mut out = [0xee; 128];
        let len = wanted(&descriptor[..]).write(&mut out).expect("room");
        assert_eq!(out[..4], [0x10, 0, 0, (len / 4 - 1) as u8]);
        let read: Vec<_> = elements(0x1000, &out[4..len]);
        assert_eq!(read, [(1, &b"m"[..]), (5, &[2, 3]), (7, &descriptor)]);
        let len = wanted(&descriptor[..16]).write(&mut out).expect("room");
        assert_eq!(out[..2], [0xbe, 0xde]);
        assert_eq!(elements(0xbede, &out[4..len])[2], (7, &descriptor[..16]));
    }

    #[test]
    fn abs_send_time_is_six_bits_of_seconds() {
        assert_eq!(abs_send_time(Duration::from_millis(500)), 1 << 17);
        assert_eq!(abs_send_time(Duration::from_secs(63)), 63 << 18);
        assert_eq!(abs_send_time(Duration::from_secs(64)), 0);
        assert_eq!(abs_send_time(Duration::new(1, 999_999_999)), (2 << 18) - 1);
    }
}
