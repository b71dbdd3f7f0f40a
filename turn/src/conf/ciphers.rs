//! `cipher-list` is OpenSSL's language; this says which of its words are offered.

/// OpenSSL's names of what rustls with aws-lc-rs offers.
const OFFERED: &[&str] = &[
    "TLS_AES_256_GCM_SHA384",
    "TLS_AES_128_GCM_SHA256",
    "TLS_CHACHA20_POLY1305_SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-CHACHA20-POLY1305",
];

/// What became of a list.
pub(super) fn describe(list: &str) -> String {
    let words = list.split([':', ',', ' ']).filter(|word| !word.is_empty());
    let (mapped, dropped): (Vec<&str>, Vec<&str>) = words.partition(|word| OFFERED.contains(word));
    let said = |words: &[&str]| if words.is_empty() { "none".to_owned() } else { words.join(", ") };
    format!(
        "all suites with forward secrecy and authenticated encryption are offered, and no others; of the list {} are among them, \
         and {} are not",
        said(&mapped),
        said(&dropped)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered_and_what_is_not() {
        let text = describe("ECDHE-RSA-AES256-GCM-SHA384:DHE-RSA-AES256-SHA:!aNULL");
        assert!(text.contains("of the list ECDHE-RSA-AES256-GCM-SHA384 are"), "{text}");
        assert!(text.contains("and DHE-RSA-AES256-SHA, !aNULL are not"), "{text}");
        assert!(describe("").contains("none are among them"));
    }
}
