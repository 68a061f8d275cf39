//! An access token in our hands.

use std::{fmt, sync::Arc, time::Duration};

use azure_core::credentials::{AccessToken, Secret};
use time::OffsetDateTime;
use tokio::time::Instant;
use zeroize::Zeroizing;

/// How long before its end a token is replaced at the latest; the vault crate may hold one through a mount.
const LEAD: Duration = Duration::from_mins(5);

/// Tokens that live longer than this are replaced at half life, as the Azure SDKs do: the metadata service's
/// live a day, and half of one is time enough to see an outage through.
const LONG: Duration = Duration::from_hours(2);

/// No token is believed to live longer than a week, whatever the answer says: arithmetic stays in range.
const LONGEST: Duration = Duration::from_hours(7 * 24);

/// A token and how long it lasts. The text is zeroed when the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Token {
    text: Arc<Zeroizing<String>>,
    received: Instant,
    lifetime: Duration,
    expires: OffsetDateTime,
}

impl Token {
    /// A token received now that lasts for `lifetime`.
    pub(crate) fn new(text: String, lifetime: Duration) -> Self {
        let lifetime = lifetime.min(LONGEST);
        let expires = OffsetDateTime::now_utc().saturating_add(lifetime.try_into().unwrap_or_default());
        Self { text: Arc::new(Zeroizing::new(text)), received: Instant::now(), lifetime, expires }
    }

    /// A token that ends at a wall-clock time.
    pub(crate) fn until(text: String, expires: OffsetDateTime) -> Self {
        let left = (expires - OffsetDateTime::now_utc()).try_into().unwrap_or(Duration::ZERO);
        Self::new(text, left)
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// How long it lasts, counted from when it was received.
    pub(crate) fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// How long ago it was received.
    pub(crate) fn age(&self) -> Duration {
        self.received.elapsed()
    }

    /// Whether it can still be shown to a service. Both clocks must agree: the steady one does not follow
    /// when the wall clock is set, and may stand still while the machine sleeps.
    pub(crate) fn is_valid(&self) -> bool {
        self.received.elapsed() < self.lifetime && OffsetDateTime::now_utc() < self.expires
    }

    /// Whether it is time to look for a successor.
    pub(crate) fn is_due(&self) -> bool {
        let lead = if self.lifetime > LONG { self.lifetime / 2 } else { LEAD.min(self.lifetime / 5) };
        self.received.elapsed() >= self.lifetime.saturating_sub(lead)
            || OffsetDateTime::now_utc() >= self.expires.saturating_sub(lead.try_into().unwrap_or_default())
    }

    /// The SDK's form of it. Its copy of the text is not zeroed when dropped; hold it briefly.
    pub(crate) fn to_sdk(&self) -> AccessToken {
        AccessToken::new(Secret::new(self.text.as_str().to_owned()), self.expires)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("text", &crate::redact::REDACTED)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn due_before_the_end_and_at_half_life_if_long() {
        for (lifetime, due) in [(3600, 3300), (60, 48), (86400, 43200)] {
            let token = Token::new("t".into(), Duration::from_secs(lifetime));
            tokio::time::advance(Duration::from_secs(due - 1)).await;
            assert!(token.is_valid() && !token.is_due(), "{lifetime}");
            tokio::time::advance(Duration::from_secs(1)).await;
            assert!(token.is_valid() && token.is_due(), "{lifetime}");
            tokio::time::advance(Duration::from_secs(lifetime - due)).await;
            assert!(!token.is_valid(), "{lifetime}");
        }
    }

    #[test]
    fn absurd_ends_are_taken() {
        let max = time::macros::datetime!(9999-12-31 23:59:59 UTC);
        assert!(Token::until("t".into(), max).is_valid());
        assert!(!Token::until("t".into(), OffsetDateTime::UNIX_EPOCH).is_valid());
        assert!(Token::new("t".into(), Duration::MAX).is_valid());
        assert!(!Token::new("t".into(), Duration::ZERO).is_valid());
    }
}
