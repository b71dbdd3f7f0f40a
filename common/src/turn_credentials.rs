//! Time-limited TURN credentials (draft-uberti-behave-turn-rest-00): the user name holds the expiry, the password is its HMAC.
//!
//! Signaling mints them, the relay recomputes the password from the user name; a shared secret is all they have in common.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::config::Secret;

/// A user name `expires:user` and its password. `expires_unix` is in seconds since the Unix epoch.
pub fn mint(secret: &Secret, user: &str, expires_unix: u64) -> (String, String) {
    let username = format!("{expires_unix}:{user}");
    let password = password_for(secret, &username);
    (username, password)
}

/// The password that belongs to a user name: base64 of HMAC-SHA1.
pub fn password_for(secret: &Secret, username: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &secret.0);
    STANDARD.encode(hmac::sign(&key, username.as_bytes()))
}

/// When the credentials of this user name end, seconds since the Unix epoch. `None` when it is not of the form
/// `expires` or `expires:user`.
pub fn expiry_of(username: &str) -> Option<u64> {
    let expiry = username.split_once(':').map_or(username, |(expiry, _)| expiry);
    if !expiry.bytes().all(|b| b.is_ascii_digit()) {
        return None; // `parse` would take a plus sign
    }
    expiry.parse().ok()
}

/// Who the credentials were minted for: what follows the expiry.
pub fn user_of(username: &str) -> Option<&str> {
    expiry_of(username)?;
    username.split_once(':').map(|(_, user)| user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_the_hmac_of_the_user_name() {
        let secret = Secret(b"north".to_vec());
        let (username, password) = mint(&secret, "alice", 1_700_000_000);
        assert_eq!(username, "1700000000:alice");
        // printf 1700000000:alice | openssl dgst -sha1 -hmac north -binary | base64
        assert_eq!(password, "Cd/49soE35ICqcJF/bCTn8Z4OyE=");
        assert_eq!(password_for(&secret, &username), password);
        assert_ne!(password_for(&Secret(b"south".to_vec()), &username), password);
    }

    #[test]
    fn the_expiry_is_a_plain_number() {
        assert_eq!(expiry_of("1700000000:alice"), Some(1_700_000_000));
        assert_eq!(expiry_of("1700000000"), Some(1_700_000_000));
        assert_eq!(expiry_of("1700000000:a:b"), Some(1_700_000_000));
        assert_eq!(expiry_of("alice"), None);
        assert_eq!(expiry_of(":alice"), None);
        assert_eq!(expiry_of("+5:alice"), None);
        assert_eq!(expiry_of("-5:alice"), None);
        assert_eq!(expiry_of("99999999999999999999:alice"), None);
        assert_eq!(expiry_of(""), None);
        assert_eq!(user_of("17:a:b"), Some("a:b"));
        assert_eq!(user_of("17"), None);
        assert_eq!(user_of("alice:17"), None);
    }
}
