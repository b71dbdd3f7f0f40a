//! The query string of a request, decoded (`application/x-www-form-urlencoded`). Never logged: it may hold a token.

use std::borrow::Cow;

/// The first value of `name`, when it is there and decodes to UTF-8.
pub(super) fn param<'a>(query: Option<&'a str>, name: &str) -> Option<Cow<'a, str>> {
    query?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then(|| decode(value)).flatten()
    })
}

/// Undoes percent-encoding and `+`; `None` for a broken escape or bytes that are no UTF-8.
pub(super) fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains(['%', '+']) {
        return Some(Cow::Borrowed(text));
    }
    decode_path(&text.replace('+', " ")).map(|decoded| Cow::Owned(decoded.into_owned()))
}

/// Undoes percent-encoding of a path segment, in which `+` is itself.
pub(super) fn decode_path(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            other => other,
        });
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found_and_decoded() {
        let query = Some("a=1&user=alice%40example.org&flag&b=x+y");
        assert_eq!(param(query, "user").as_deref(), Some("alice@example.org"));
        assert_eq!(param(query, "b").as_deref(), Some("x y"));
        assert_eq!(param(query, "flag").as_deref(), Some(""));
        assert_eq!(param(query, "us"), None);
        assert_eq!(param(None, "user"), None);
    }

    #[test]
    fn broken_escapes_are_no_value() {
        for broken in ["a=%", "a=%4", "a=%zz", "a=%ff", "a=%+1"] {
            assert_eq!(param(Some(broken), "a"), None, "{broken}");
        }
    }

    #[test]
    fn a_plus_in_a_path_stays() {
        assert_eq!(decode_path("a+b%2Fc").as_deref(), Some("a+b/c"));
    }
}
