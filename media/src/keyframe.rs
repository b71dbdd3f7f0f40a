//! Merging keyframe requests: at most one per second and SSRC, and one retry when no keyframe came (contract §4.4).

use std::time::{Duration, Instant};

/// Between two requests to one source.
pub const REQUEST_INTERVAL: Duration = Duration::from_secs(1);

/// What has been asked of one source.
#[derive(Debug, Default)]
pub struct KeyframeRequests {
    last: Option<Instant>,
    wanted: bool,
    retries: u8,
}

/// After that many requests without a keyframe the source is left alone until somebody asks again.
const RETRIES_MAX: u8 = 1;

impl KeyframeRequests {
    /// Somebody needs a keyframe. `true`: ask the source now; otherwise the request waits for [`Self::poll`].
    pub fn request(&mut self, now: Instant) -> bool {
        self.wanted = true;
        self.retries = 0;
        self.due(now)
    }

    /// Time has passed. `true`: ask the source again.
    pub fn poll(&mut self, now: Instant) -> bool {
        self.wanted && self.due(now)
    }

    fn due(&mut self, now: Instant) -> bool {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < REQUEST_INTERVAL) {
            return false;
        }
        self.wanted = self.retries < RETRIES_MAX;
        self.retries += 1;
        self.last = Some(now);
        true
    }

    /// A keyframe has come.
    pub fn on_keyframe(&mut self) {
        self.wanted = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_merged_and_retried_once() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut requests = KeyframeRequests::default();
        assert!(requests.request(at(0)));
        assert!(!requests.request(at(10)));
        assert!(!requests.poll(at(900)));
        assert!(requests.poll(at(1000)));
        assert!(requests.poll(at(2000)), "the second request deserves its retry");
        assert!(!requests.poll(at(4000)));
        assert!(requests.request(at(5000)));
        requests.on_keyframe();
        assert!(!requests.poll(at(9000)));
    }
}
