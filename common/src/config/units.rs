//! Quantities with a unit, as people write them: `"10s"`, `"256KiB"`, `"2.5Mbps"`.
//!
//! Whole numbers only where a fraction would have to be rounded; anything that overflows is refused.

use std::time::Duration;

/// Splits `"10s"` into its number and its unit.
fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    Some((number, text[end..].trim_start()))
}

/// A number times a unit, when that is a whole number that `u64` holds exactly.
fn whole(number: f64, unit: f64) -> Option<u64> {
    /// Beyond 2^53 a double no longer holds every whole number.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    let product = number * unit;
    (product.fract() == 0.0 && (0.0..=EXACT_MAX).contains(&product)).then_some(product as u64)
}

/// A duration with a unit: `ms`, `s`, `m`, `h` or `d`. Longer than a hundred years is refused.
pub fn parse_duration(text: &str) -> Option<Duration> {
    const CENTURY_MS: u64 = 100 * 366 * 86_400_000;
    let (number, unit) = split(text)?;
    let unit_ms = match unit {
        "ms" => 1.0,
        "s" => 1e3,
        "m" | "min" => 60e3,
        "h" => 3_600e3,
        "d" => 86_400e3,
        _ => return None,
    };
    whole(number, unit_ms).filter(|&ms| ms <= CENTURY_MS).map(Duration::from_millis)
}

/// A number of bytes: plain, or with `B`, `kB`, `KiB`, `MB`, `MiB`, `GB`, `GiB`.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let unit = match unit {
        "" | "B" => 1.0,
        "kB" | "KB" => 1e3,
        "KiB" => 1024.0,
        "MB" => 1e6,
        "MiB" => 1024.0 * 1024.0,
        "GB" => 1e9,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    whole(number, unit)
}

/// A rate in bits per second: plain, or with `bps`, `kbps`, `Mbps`, `Gbps`.
pub(super) fn parse_bitrate(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let unit = match unit {
        "" | "bps" => 1.0,
        "kbps" | "Kbps" => 1e3,
        "Mbps" => 1e6,
        "Gbps" => 1e9,
        _ => return None,
    };
    whole(number, unit)
}

/// A duration as [`parse_duration`] reads it, in the largest unit that leaves a whole number.
pub(super) fn show_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    let (value, unit) = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")]
        .into_iter()
        .find(|(unit_ms, _)| ms >= *unit_ms && ms.is_multiple_of(*unit_ms))
        .map_or((ms, "ms"), |(unit_ms, name)| (ms / unit_ms, name));
    format!("{value}{unit}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_need_a_unit() {
        let check =
            |text, ms: Option<u64>| assert_eq!(parse_duration(text), ms.map(Duration::from_millis), "{text}");
        check("10s", Some(10_000));
        check("250ms", Some(250));
        check("1.5s", Some(1500));
        check("1h", Some(3_600_000));
        check("90 m", Some(5_400_000));
        check("10", None);
        check("s", None);
        check("-1s", None);
        check("1.0001ms", None);
        check("99999999999999999999d", None);
        check("1e3s", None);
        check("", None);
    }

    #[test]
    fn sizes_and_bitrates_know_their_units() {
        assert_eq!(parse_size("256KiB"), Some(262_144));
        assert_eq!(parse_size("1500"), Some(1500));
        assert_eq!(parse_size("1 MB"), Some(1_000_000));
        assert_eq!(parse_size("256Kib"), None);
        assert_eq!(parse_size("0.3B"), None);
        assert_eq!(parse_bitrate("2.5Mbps"), Some(2_500_000));
        assert_eq!(parse_bitrate("800000"), Some(800_000));
        assert_eq!(parse_bitrate("fast"), None);
    }

    proptest! {
        #[test]
        fn a_shown_duration_is_read_back(ms in 0u64..4_000_000_000) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
        }

        #[test]
        fn no_text_breaks_the_parsers(text in ".{0,24}") {
            let _ = (parse_duration(&text), parse_size(&text), parse_bitrate(&text));
        }
    }
}
