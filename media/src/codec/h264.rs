//! H264 in RTP (RFC 6184 §5): single NAL units, STAP-A and FU-A.

/// IDR picture and sequence parameter set (ITU-T H.264 table 7-1).
const IDR: u8 = 5;
const SPS: u8 = 7;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;

/// Whether a decoder can start with this payload: at the sequence parameter set, which comes before the IDR picture in the
/// same access unit. A bare IDR picture is enough only when the parameter sets were `announced` in signaling; otherwise they
/// are in-band (RFC 7742 §6.2), and an IDR picture whose parameter sets were lost is of no use to a decoder without them.
pub(super) fn keyframe(payload: &[u8], announced: bool) -> Option<bool> {
    let starts = |header: &u8| matches!(header & 0x1f, SPS) || announced && header & 0x1f == IDR;
    Some(match payload.first()? & 0x1f {
        STAP_A => aggregated(&payload[1..]).any(|unit| unit.first().is_some_and(starts)),
        // S: the first fragment.
        FU_A => payload.get(1).is_some_and(|header| header & 0x80 != 0 && starts(header)),
        _ => starts(&payload[0]),
    })
}

/// The NAL units behind a STAP-A's header, up to the first that is cut short.
fn aggregated(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, behind) = rest.split_first_chunk::<2>()?;
        let (unit, behind) = behind.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        rest = behind;
        Some(unit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoder_starts_at_parameter_sets() {
        // In-band, announced.
        let check = |payload: &[u8], expected: (bool, bool)| {
            let starts = [false, true].map(|announced| keyframe(payload, announced).unwrap_or(false));
            assert_eq!(starts, <[bool; 2]>::from(expected), "{payload:?}");
        };
        check(&[0x67, 0x42], (true, true));
        check(&[0x68, 0xce], (false, false)); // PPS
        check(&[0x41, 0x9a], (false, false)); // not IDR
        check(&[0x65, 0x88], (false, true)); // IDR
        check(&[0x7c, 0x85], (false, true)); // its first fragment
        check(&[0x7c, 0x05], (false, false)); // its second
        check(&[0x78, 0, 1, 0x67, 0, 1, 0x68], (true, true));
        check(&[0x78, 0, 1, 0x09, 0, 2, 0x67, 0x42, 0, 1, 0x68, 0, 2, 0x65, 0x88], (true, true));
        check(&[0x78, 0, 1, 0x68, 0, 1, 0x65], (false, true));
        check(&[0x78, 0, 9, 0x67], (false, false)); // cut short
        check(&[], (false, false));
        check(&[0x7c], (false, false));
    }
}
