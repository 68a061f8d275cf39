//! The service account tokens the kubelet sends along, and the one that is shown to Entra.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{AUDIENCE_IDENTITY_BINDING, AUDIENCE_PUBLIC, Asker, Cloud, Error, Purpose, redact::excerpt};

/// How far two clocks may be apart before a token counts as outside its validity: what Entra grants.
const CLOCK_SKEW: Duration = Duration::minutes(5);

/// Larger tokens are not looked into. Kubernetes' are about one kilobyte.
const LARGEST_TOKEN: usize = 64 * 1024;

/// The tokens of one publish request, by audience.
///
/// The kubelet sends them as JSON under `csi.storage.k8s.io/serviceAccount.tokens`, in the request's secrets
/// or, on older clusters, in its volume context. Look into the secrets first: a pod author can write the
/// volume context.
pub struct ServiceAccountTokens {
    purpose: Purpose,
    by_audience: Vec<Assertion>,
}

impl ServiceAccountTokens {
    /// Reads the kubelet's JSON, for workload identity.
    ///
    /// # Errors
    /// [`Error::ServiceAccountTokens`] for blank text, text that is not a JSON object of objects, and
    /// timestamps that are not RFC 3339.
    pub fn parse(json: &str) -> Result<Self, Error> {
        Self::parse_for(json, Purpose::WorkloadIdentity)
    }

    /// Reads the kubelet's JSON, for an identity binding: blank text is told as the reference tells it there.
    ///
    /// # Errors
    /// As [`ServiceAccountTokens::parse`]; [`Error::IdentityBinding`] for blank text.
    pub fn parse_for_identity_binding(json: &str) -> Result<Self, Error> {
        if json.trim().is_empty() {
            return Err(Error::IdentityBinding { what: "service account tokens are required" });
        }
        Self::parse_for(json, Purpose::IdentityBinding)
    }

    fn parse_for(json: &str, purpose: Purpose) -> Result<Self, Error> {
        let bad = |reason: String| Error::ServiceAccountTokens { purpose, reason };
        if json.trim().is_empty() {
            return Err(bad("service account tokens not found (the CSIDriver object must list \
                            tokenRequests with audience api://AzureADTokenExchange)"
                .to_owned()));
        }
        let shape =
            |detail: String| bad(format!("failed to unmarshal service account tokens, error: {detail}"));
        // serde_json's messages give line, column and what was expected, and quote strings of a wrong type;
        // a typed target could thus print a token. A generic value can be of any type.
        let parsed: Value = serde_json::from_str(json).map_err(|e| shape(e.to_string()))?;
        let entries = match parsed {
            Value::Object(entries) => entries,
            Value::Null => serde_json::Map::new(),
            _ => return Err(shape("expected an object keyed by audience".to_owned())),
        };
        let mut by_audience = Vec::new();
        for (audience, entry) in entries {
            let shown = || excerpt(&audience, 80);
            let fields = match entry {
                Value::Object(fields) => fields,
                Value::Null => continue,
                _ => return Err(shape(format!("the entry of audience {:?} is no object", shown()))),
            };
            let mut token = String::new();
            let mut expires = None;
            for (name, value) in fields {
                // Go's decoder, which the kubelet and the reference use, matches field names in any case.
                match (name.to_ascii_lowercase().as_str(), value) {
                    ("token", Value::String(text)) => token = text,
                    ("expirationtimestamp", Value::String(text)) => {
                        let parsed = OffsetDateTime::parse(&text, &Rfc3339).map_err(|_| {
                            let shown = shown();
                            shape(format!("the expirationTimestamp of audience {shown:?} is not RFC 3339"))
                        })?;
                        expires = Some(parsed);
                    }
                    ("token" | "expirationtimestamp", Value::Null) => {}
                    ("token" | "expirationtimestamp", _) => {
                        return Err(shape(format!("{name} of audience {:?} is not a string", shown())));
                    }
                    _ => {}
                }
            }
            by_audience.push(Assertion::new(audience, token.into(), expires));
        }
        Ok(Self { purpose, by_audience })
    }

    /// The token of one audience.
    ///
    /// # Errors
    /// [`Error::ServiceAccountTokens`] if the audience is missing or its token empty; lists those there are.
    pub fn audience(&self, audience: &str) -> Result<Assertion, Error> {
        self.first_of(&[audience])
    }

    /// The token to show to Entra in this cloud: of the public audience, else of the cloud's own.
    ///
    /// # Errors
    /// As [`ServiceAccountTokens::audience`].
    pub fn workload_identity(&self, cloud: &Cloud) -> Result<Assertion, Error> {
        self.first_of(cloud.token_audiences())
    }

    /// The token to show to the token proxy of an identity binding.
    ///
    /// # Errors
    /// As [`ServiceAccountTokens::audience`].
    pub fn identity_binding(&self) -> Result<Assertion, Error> {
        self.first_of(&[AUDIENCE_IDENTITY_BINDING])
    }

    fn first_of(&self, audiences: &[&str]) -> Result<Assertion, Error> {
        let usable = |wanted: &&str| {
            self.by_audience.iter().find(|a| a.audience == **wanted && !a.jwt.expose_secret().is_empty())
        };
        if let Some(found) = audiences.iter().find_map(usable) {
            return Ok(found.clone());
        }
        let wanted = audiences.first().copied().unwrap_or(AUDIENCE_PUBLIC);
        let there: Vec<_> = self.by_audience.iter().map(|a| excerpt(&a.audience, 80)).collect();
        let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
        Err(Error::ServiceAccountTokens {
            purpose: self.purpose,
            reason: format!(
                "token for audience {wanted} not found (audiences in the request: {there}; list it under \
                 spec.tokenRequests of the CSIDriver object)"
            ),
        })
    }
}

impl fmt::Debug for ServiceAccountTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.by_audience.iter().map(|a| &a.audience)).finish()
    }
}

/// One service account token: the proof of who the pod is. Secret; zeroed when dropped.
#[derive(Clone)]
pub struct Assertion {
    audience: String,
    jwt: SecretString,
    expires: Option<OffsetDateTime>,
    claims: Option<Claims>,
}

/// What a service account token says of itself. **Unverified**: for diagnosis, and for telling that a token
/// does not belong to the pod that came with it; never for telling that it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// `iss`: the cluster's OIDC issuer.
    pub issuer: String,
    /// `sub`: `system:serviceaccount:NAMESPACE:NAME`.
    pub subject: String,
    /// `aud`, as a list.
    pub audiences: Vec<String>,
    /// `exp`.
    pub expires: Option<OffsetDateTime>,
    /// `nbf`.
    pub not_before: Option<OffsetDateTime>,
}

impl Assertion {
    /// A token of the given audience. `expires` is the kubelet's `expirationTimestamp`.
    pub fn new(audience: String, jwt: SecretString, expires: Option<OffsetDateTime>) -> Self {
        let claims = Claims::decode(jwt.expose_secret());
        Self { audience, jwt, expires, claims }
    }

    /// The audience the kubelet filed this token under.
    pub fn audience(&self) -> &str {
        &self.audience
    }

    /// The kubelet's expiry, if it gave one.
    pub fn expires(&self) -> Option<OffsetDateTime> {
        self.expires
    }

    /// What the token says of itself, if it is a JWT. Unverified.
    pub fn claims(&self) -> Option<&Claims> {
        self.claims.as_ref()
    }

    pub(crate) fn jwt(&self) -> &str {
        self.jwt.expose_secret()
    }

    /// Why this token is not the asker's at all, as far as its own words go. `None`: nothing speaks against
    /// it. A token with something against it may be tried, but nothing is shared with whoever brings it.
    ///
    /// `audiences` are those the token may have for what it is used for.
    pub(crate) fn doubt(&self, asker: &Asker, audiences: &[&str], now: OffsetDateTime) -> Option<String> {
        let Some(claims) = &self.claims else {
            return Some("the service account token is not a JWT".to_owned());
        };
        let subject = asker.subject();
        if claims.subject != subject {
            return Some(format!(
                "the service account token is of subject {:?}, the pod's is {subject:?}",
                excerpt(&claims.subject, 200)
            ));
        }
        if !audiences.contains(&self.audience.as_str()) || !claims.audiences.contains(&self.audience) {
            return Some(format!(
                "the service account token is for audience {:?}, not {}",
                excerpt(&claims.audiences.join(", "), 200),
                audiences.join(" or ")
            ));
        }
        match claims.expires {
            None => Some("the service account token has no expiry".to_owned()),
            Some(expires) if expires <= now => Some("the service account token is expired".to_owned()),
            Some(_) if self.expires.is_some_and(|expires| expires <= now) => {
                Some("the service account token is expired, the kubelet says".to_owned())
            }
            Some(_) => None,
        }
    }

    /// Refuses a token that is outside its validity by more than the clock skew Entra allows, so that the
    /// answer is at hand without a round trip and names the clock.
    pub(crate) fn check_validity(&self, now: OffsetDateTime) -> Result<(), Error> {
        let Some(claims) = &self.claims else { return Ok(()) };
        let now_shown = now.replace_nanosecond(0).unwrap_or(now).format(&Rfc3339).unwrap_or_default();
        let shown = |at: OffsetDateTime| at.format(&Rfc3339).unwrap_or_default();
        let who = excerpt(&claims.subject, 200);
        if let Some(expires) = claims.expires.filter(|at| at.saturating_add(CLOCK_SKEW) < now) {
            return Err(Error::AssertionValidity {
                reason: format!(
                    "ClientAssertionCredential authentication failed. The service account token of {who:?} \
                     expired at {} and was not sent; it is now {now_shown} by this node's clock. Cure: the \
                     kubelet sends a fresh token with its next call (requiresRepublish and tokenRequests must be \
                     set on the CSIDriver object); if this stays, compare the clocks of node and API server.",
                    shown(expires)
                ),
            });
        }
        if let Some(start) = claims.not_before.filter(|at| at.saturating_sub(CLOCK_SKEW) > now) {
            return Err(Error::AssertionValidity {
                reason: format!(
                    "ClientAssertionCredential authentication failed. The service account token of {who:?} is \
                     valid only from {} and was not sent; it is now {now_shown} by this node's clock. Cure: set \
                     this node's clock, it is behind the API server's.",
                    shown(start)
                ),
            });
        }
        Ok(())
    }
}

impl fmt::Debug for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assertion")
            .field("audience", &self.audience)
            .field("jwt", &crate::redact::REDACTED)
            .field("expires", &self.expires)
            .field("claims", &self.claims)
            .finish()
    }
}

impl Claims {
    /// Reads the middle part of a compact JWS (RFC 7515 §7.1) without checking its signature.
    fn decode(jwt: &str) -> Option<Self> {
        if jwt.len() > LARGEST_TOKEN {
            return None;
        }
        let mut parts = jwt.split('.');
        let (Some(_), Some(payload), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        let payload = BASE64URL_NOPAD.decode(payload.as_bytes()).ok()?;
        let Value::Object(claims) = serde_json::from_slice(&payload).ok()? else { return None };
        let text = |name: &str| Some(claims.get(name)?.as_str()?.to_owned());
        let audiences = match claims.get("aud") {
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(many)) => {
                many.iter().map(|one| one.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()?
            }
            _ => return None,
        };
        let date = |name: &str| {
            // NumericDate (RFC 7519 §2) may have a fraction.
            #[allow(clippy::cast_possible_truncation, reason = "saturates, and absurd dates fail below")]
            let seconds =
                claims.get(name).and_then(|v| v.as_i64().or_else(|| v.as_f64().map(|f| f as i64)))?;
            OffsetDateTime::from_unix_timestamp(seconds).ok()
        };
        Some(Self {
            issuer: text("iss")?,
            subject: text("sub")?,
            audiences,
            expires: date("exp"),
            not_before: date("nbf"),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn asker() -> Asker {
        Asker { namespace: "shop".into(), service_account: "web".into(), pod: "web-1".into() }
    }

    pub(crate) fn jwt(claims: &Value) -> String {
        let part = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
        format!("{}.{}.{}", part(r#"{"alg":"RS256"}"#), part(&claims.to_string()), part("planted-signature"))
    }

    pub(crate) fn claims(subject: &str, audience: &str, seconds_left: i64) -> Value {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        serde_json::json!({"iss": "https://issuer.test/", "sub": subject, "aud": [audience],
                           "nbf": now - 60, "exp": now + seconds_left})
    }

    fn assertion(claims: &Value) -> Assertion {
        Assertion::new(AUDIENCE_PUBLIC.into(), jwt(claims).into(), None)
    }

    fn message(json: &str) -> String {
        ServiceAccountTokens::parse(json).unwrap_err().to_string()
    }

    #[test]
    fn parse_errors_are_the_references() {
        let prefix = "failed to parse workload identity tokens, error: ";
        assert!(message(" \n").starts_with(&format!("{prefix}service account tokens not found")));
        let unmarshal = format!("{prefix}failed to unmarshal service account tokens, error: ");
        for bad in [
            "{",
            "[]",
            "\"eyJplanted\"",
            r#"{"a":1}"#,
            r#"{"a":{"token":1}}"#,
            r#"{"a":{"token":"eyJplanted","expirationTimestamp":"soon"}}"#,
            r#"{"a":{"token":"eyJplanted","expirationTimestamp":5}}"#,
        ] {
            let message = message(bad);
            assert!(message.starts_with(&unmarshal), "{message}");
            assert!(!message.contains("planted"), "{message}");
        }
        let missing =
            |json| ServiceAccountTokens::parse(json).unwrap().audience(AUDIENCE_PUBLIC).unwrap_err();
        for empty in
            ["{}", "null", r#"{"api://AzureADTokenExchange":{"token":""}}"#, r#"{"x":{"token":"t"}}"#]
        {
            let message = missing(empty).to_string();
            assert!(
                message
                    .starts_with(&format!("{prefix}token for audience api://AzureADTokenExchange not found"))
            );
        }
        assert!(missing(r#"{"x":{"token":"t"}}"#).to_string().contains("audiences in the request: x;"));
    }

    #[test]
    fn identity_binding_has_its_own_words() {
        let tell = |json| {
            ServiceAccountTokens::parse_for_identity_binding(json)
                .and_then(|tokens| tokens.identity_binding())
                .unwrap_err()
                .to_string()
        };
        assert_eq!(tell(""), "service account tokens are required for identity binding");
        assert!(tell("{}").starts_with(
            "failed to parse service account token for identity binding, error: token for audience \
             api://AKSIdentityBinding not found"
        ));
    }

    #[test]
    fn the_public_audience_goes_before_the_clouds_own() {
        let cloud = |name| match crate::CloudChoice::parse(name).unwrap() {
            crate::CloudChoice::Known(cloud) => cloud,
            crate::CloudChoice::File => unreachable!(),
        };
        let both = r#"{"api://AzureADTokenExchange":{"token":"public"},
                       "api://AzureADTokenExchangeUSGov":{"Token":"gov","ExpirationTimestamp":"2026-01-01T00:00:00Z"}}"#;
        let tokens = ServiceAccountTokens::parse(both).unwrap();
        for name in ["AzureUSGovernment", "AzureChinaCloud", "AzurePublicCloud"] {
            assert_eq!(tokens.workload_identity(&cloud(name)).unwrap().jwt(), "public", "{name}");
        }
        let own = r#"{"api://AzureADTokenExchangeUSGov":{"token":"gov"}}"#;
        let tokens = ServiceAccountTokens::parse(own).unwrap();
        assert_eq!(tokens.workload_identity(&cloud("AzureUSGovernment")).unwrap().jwt(), "gov");
        let missing = tokens.workload_identity(&cloud("AzureChinaCloud")).unwrap_err().to_string();
        assert!(
            missing.contains(
                "token for audience api://AzureADTokenExchange not found (audiences in the request: \
                 api://AzureADTokenExchangeUSGov;"
            ),
            "{missing}"
        );
    }

    #[test]
    fn doubts_are_raised_by_subject_audience_and_time() {
        let now = OffsetDateTime::now_utc();
        let subject = asker().subject();
        let doubt = |claims: Value| assertion(&claims).doubt(&asker(), &[AUDIENCE_PUBLIC], now);
        assert_eq!(doubt(claims(&subject, AUDIENCE_PUBLIC, 600)), None);
        assert!(doubt(claims("system:serviceaccount:shop:admin", AUDIENCE_PUBLIC, 600)).is_some());
        assert!(doubt(claims("system:serviceaccount:Shop:web", AUDIENCE_PUBLIC, 600)).is_some());
        assert!(doubt(claims(&subject, "api://other", 600)).is_some());
        let other =
            Assertion::new("api://other".into(), jwt(&claims(&subject, "api://other", 600)).into(), None);
        assert!(other.doubt(&asker(), &[AUDIENCE_PUBLIC], now).is_some());
        assert!(doubt(claims(&subject, AUDIENCE_PUBLIC, -1)).is_some());
        assert!(doubt(serde_json::json!({"iss":"i","sub":subject,"aud":AUDIENCE_PUBLIC})).is_some());
        let opaque = Assertion::new(AUDIENCE_PUBLIC.into(), "no.jwt".into(), None);
        assert!(opaque.doubt(&asker(), &[AUDIENCE_PUBLIC], now).is_some());
        let old = Assertion::new(
            AUDIENCE_PUBLIC.into(),
            jwt(&claims(&subject, AUDIENCE_PUBLIC, 600)).into(),
            Some(now - Duration::SECOND),
        );
        assert!(old.doubt(&asker(), &[AUDIENCE_PUBLIC], now).is_some());
    }

    #[test]
    fn validity_is_judged_with_the_skew_entra_allows() {
        let now = OffsetDateTime::now_utc();
        let of = |seconds| assertion(&claims("s", AUDIENCE_PUBLIC, seconds));
        assert!(of(-200).check_validity(now).is_ok());
        let stale = of(-400).check_validity(now).unwrap_err().to_string();
        assert!(stale.contains("expired at") && stale.contains("clock"), "{stale}");
        let early = of(600).check_validity(now - Duration::minutes(10)).unwrap_err().to_string();
        assert!(early.contains("valid only from"), "{early}");
    }

    #[test]
    fn debug_shows_no_token() {
        let token = jwt(&claims("s", AUDIENCE_PUBLIC, 1));
        let json = serde_json::json!({AUDIENCE_PUBLIC: {"token": token}}).to_string();
        let tokens = ServiceAccountTokens::parse(&json).unwrap();
        let shown = format!("{tokens:?} {:?}", tokens.audience(AUDIENCE_PUBLIC).unwrap());
        assert!(!shown.contains("eyJ"), "{shown}");
    }

    proptest! {
        #[test]
        fn parsers_take_any_text(text in any::<String>(), json in "[\\[\\]{}:,\"a-z0-9.]{0,60}") {
            let _ = ServiceAccountTokens::parse(&text);
            let _ = ServiceAccountTokens::parse(&json);
            let _ = Claims::decode(&text);
        }

        #[test]
        fn any_payload_is_taken(payload in any::<Vec<u8>>(), exp in any::<f64>()) {
            let _ = Claims::decode(&format!("a.{}.b", BASE64URL_NOPAD.encode(&payload)));
            let now = OffsetDateTime::now_utc();
            let odd = assertion(&serde_json::json!({"iss":"i","sub":"s","aud":"a","exp":exp,"nbf":exp}));
            let _ = odd.doubt(&asker(), &[AUDIENCE_PUBLIC], now);
            let _ = odd.check_validity(now);
        }
    }
}
