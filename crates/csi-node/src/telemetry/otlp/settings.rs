//! Where spans are sent, as `--otlp-endpoint` and the variables of OpenTelemetry say
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>).

use super::super::traces::Sampler;
use crate::error::StartError;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use std::fmt;
use std::time::Duration;
use url::Url;

/// Below an address that serves logs, metrics and traces alike.
const PATH: &str = "v1/traces";

/// How spans are exported. Prints without headers, which may be credentials.
pub struct Settings {
    pub(super) endpoint: Url,
    pub(super) headers: HeaderMap,
    /// For one request.
    pub(super) timeout: Duration,
    /// How long spans wait for others to go with them.
    pub(super) delay: Duration,
    /// What is said of this process.
    pub(super) resource: Vec<(String, String)>,
    pub(in super::super) sampler: Sampler,
}

impl Settings {
    /// Reads the environment by `variable`. `None` when nothing names a collector: then nothing is exported.
    ///
    /// # Errors
    /// [`StartError::Flag`] for a value that cannot be used.
    pub fn read(
        flag: Option<&str>,
        node: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, StartError> {
        let wrong = |flag: &'static str, reason: String| StartError::Flag { flag, reason };
        let either = |name: &'static str, general: &'static str| {
            variable(name)
                .map(|value| (name, value))
                .or_else(|| variable(general).map(|value| (general, value)))
        };
        let off = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || variable("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none");
        let named = flag.filter(|text| !text.is_empty()).map(|text| ("--otlp-endpoint", text.to_owned()));
        let endpoint =
            named.or_else(|| either("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"));
        let Some((from, text)) = endpoint.filter(|_| !off) else { return Ok(None) };
        let mut endpoint = collector(&text).map_err(|reason| wrong(from, reason))?;
        if from != "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" {
            let path = format!("{}/{PATH}", endpoint.path().trim_end_matches('/'));
            endpoint.set_path(&path);
        }

        if let Some((from, protocol)) =
            either("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
            && protocol != "http/protobuf"
        {
            let cure = "only http/protobuf is spoken here, which collectors take on port 4318: unset it";
            return Err(wrong(from, format!("{protocol:?}: {cure}")));
        }
        let mut headers = HeaderMap::new();
        if let Some((from, text)) = either("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
        {
            // What is wrong in there may be a secret, and is not shown.
            let bad = || {
                wrong(from, "write NAME=VALUE, separated by commas, each value percent-encoded".to_owned())
            };
            for (name, value) in pairs(&text).ok_or_else(bad)? {
                let name = HeaderName::try_from(name).map_err(|_| bad())?;
                let mut value = HeaderValue::try_from(value).map_err(|_| bad())?;
                value.set_sensitive(true);
                headers.insert(name, value);
            }
        }
        let milliseconds = |from: &'static str, text: Option<String>, usual: u64| {
            let number = text.map_or(Ok(usual), |text| {
                text.parse().map_err(|_| wrong(from, format!("{text:?} is not a number of milliseconds")))
            });
            number.map(Duration::from_millis)
        };
        let limit = either("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT");
        let (from, limit) =
            limit.map_or(("OTEL_EXPORTER_OTLP_TIMEOUT", None), |(from, text)| (from, Some(text)));
        let timeout = milliseconds(from, limit, 10_000)?;
        let delay = milliseconds("OTEL_BSP_SCHEDULE_DELAY", variable("OTEL_BSP_SCHEDULE_DELAY"), 5000)?;
        let sampler = match variable("OTEL_TRACES_SAMPLER") {
            None => Sampler::default(),
            Some(name) => Sampler::parse(name.trim(), variable("OTEL_TRACES_SAMPLER_ARG").as_deref())
                .map_err(|(from, reason)| wrong(from, reason))?,
        };

        let mut resource = vec![
            ("service.name".to_owned(), "akv-csi".to_owned()),
            ("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("k8s.node.name".to_owned(), node.to_owned()),
        ];
        let mut say = |key: String, value: String| {
            resource.retain(|(known, _)| *known != key);
            resource.push((key, value));
        };
        if let Some(text) = variable("OTEL_RESOURCE_ATTRIBUTES") {
            let said = pairs(&text).ok_or_else(|| {
                let reason =
                    format!("{text:?}: write NAME=VALUE, separated by commas, each value percent-encoded");
                wrong("OTEL_RESOURCE_ATTRIBUTES", reason)
            })?;
            for (key, value) in said {
                say(key, value);
            }
        }
        if let Some(name) = variable("OTEL_SERVICE_NAME") {
            say("service.name".to_owned(), name);
        }
        Ok(Some(Self { endpoint, headers, timeout, delay, resource, sampler }))
    }

    /// The collector's address for logs, without what may follow its host.
    pub(super) fn shown(&self) -> String {
        self.endpoint.origin().ascii_serialization()
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("collector", &self.shown()).finish_non_exhaustive()
    }
}

/// A collector's address. One with a password is refused without showing it, and has to be said in another way anyhow.
fn collector(text: &str) -> Result<Url, String> {
    let form = "write http://HOST:4318 or https://HOST:PORT";
    // Before it is taken apart: what is no URL is shown.
    if text.contains('@') {
        return Err(
            "credentials in the address (before an @) would be shown: put them into OTEL_EXPORTER_OTLP_HEADERS".to_owned()
        );
    }
    let url = Url::parse(text.trim()).map_err(|error| format!("{text:?} is no URL ({error}): {form}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(format!("{text:?} is not an address of HTTP: {form}"));
    }
    Ok(url)
}

/// `a=b,c=d`, with percent-encoded values.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, value) = part.split_once('=')?;
            let name = name.trim();
            (!name.is_empty()).then_some((name.to_owned(), percent_decoded(value.trim())?))
        })
        .collect()
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let [high, low, tail @ ..] = tail else { return None };
        let digit = |byte: u8| char::from(byte).to_digit(16);
        bytes.push(u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?);
        rest = tail;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flag: Option<&str>, environment: &[(&str, &str)]) -> Result<Option<Settings>, String> {
        let variable = |name: &str| {
            environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Settings::read(flag, "node-1", variable).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_exported_unless_somebody_says_where() {
        assert!(read(None, &[]).unwrap().is_none());
        assert!(read(Some(""), &[("OTEL_SERVICE_NAME", "x")]).unwrap().is_none());
        for off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
            assert!(read(Some("http://c:4318"), &[off]).unwrap().is_none(), "{off:?}");
        }
    }

    #[test]
    fn the_nearest_word_counts() {
        let general = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://general/otlp/");
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://own:4318/here");
        let endpoint =
            |flag, environment: &[_]| read(flag, environment).unwrap().unwrap().endpoint.to_string();
        assert_eq!(endpoint(None, &[general]), "https://general/otlp/v1/traces");
        assert_eq!(endpoint(None, &[general, own]), "http://own:4318/here");
        assert_eq!(endpoint(Some("http://flag:4318"), &[general, own]), "http://flag:4318/v1/traces");
    }

    #[test]
    fn headers_and_attributes_are_read() {
        let settings = read(
            Some("http://c:4318"),
            &[
                ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20planted, x-tenant = a"),
                ("OTEL_RESOURCE_ATTRIBUTES", "k8s.cluster.name=prod%2C1,service.name=other"),
                ("OTEL_SERVICE_NAME", "mine"),
                ("OTEL_BSP_SCHEDULE_DELAY", "50"),
            ],
        );
        let settings = settings.unwrap().unwrap();
        assert_eq!(settings.headers["authorization"], "Bearer planted");
        assert_eq!(settings.headers["x-tenant"], "a");
        assert!(!format!("{settings:?} {:?}", settings.headers).contains("planted"));
        let said = |key: &str| {
            let of_key = settings.resource.iter().filter(|(known, _)| known == key);
            of_key.map(|(_, value)| value.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(said("service.name"), ["mine"]);
        assert_eq!(said("k8s.cluster.name"), ["prod,1"]);
        assert_eq!(said("k8s.node.name"), ["node-1"]);
        assert_eq!((settings.delay.as_millis(), settings.timeout.as_secs()), (50, 10));
    }

    #[test]
    fn a_bad_value_is_named_with_its_cure_and_a_secret_is_not_shown() {
        for (name, value, cure) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "http://HOST:4318"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://u:planted@c", "OTEL_EXPORTER_OTLP_HEADERS"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "port 4318"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "authorization planted", "NAME=VALUE"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=%zzplanted", "NAME=VALUE"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=planted%0A", "NAME=VALUE"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "milliseconds"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a", "NAME=VALUE"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote", "always_on"),
        ] {
            let flag = (!name.ends_with("ENDPOINT")).then_some("http://c:4318");
            let error = read(flag, &[(name, value)]).unwrap_err();
            assert!(error.contains(name) && error.contains(cure) && !error.contains("planted"), "{error}");
        }
    }
}
