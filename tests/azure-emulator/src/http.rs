//! Requests as the services read them and answers as they write them.

use std::{borrow::Cow, net::SocketAddr};

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, StatusCode, Version,
    header::{HeaderName, HeaderValue},
};
use serde_json::Value;

/// A request with its body read.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub method: Method,
    pub version: Version,
    /// Host asked for, in lower case, with a port where the client gave one.
    pub host: String,
    /// Server name of the TLS handshake, in lower case.
    pub sni: Option<String>,
    pub peer: SocketAddr,
    /// Path as sent.
    pub path: String,
    /// Path split at the slashes, each part percent-decoded; a slash at either end adds no part.
    parts: Vec<String>,
    pub query: Vec<(String, String)>,
    pub raw_query: Option<String>,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Request {
    pub(crate) fn new(
        parts: &hyper::http::request::Parts,
        body: Bytes,
        sni: Option<String>,
        peer: SocketAddr,
    ) -> Self {
        let uri = &parts.uri;
        let host = uri
            .authority()
            .map(|authority| authority.as_str().to_owned())
            .or_else(|| parts.headers.get("host").and_then(|host| host.to_str().ok()).map(str::to_owned))
            .unwrap_or_default()
            .to_ascii_lowercase();
        Self {
            method: parts.method.clone(),
            version: parts.version,
            host,
            sni: sni.map(|name| name.to_ascii_lowercase()),
            peer,
            path: uri.path().to_owned(),
            parts: split(uri.path()),
            query: uri
                .query()
                .map(|query| url::form_urlencoded::parse(query.as_bytes()).into_owned().collect())
                .unwrap_or_default(),
            raw_query: uri.query().map(str::to_owned),
            headers: parts.headers.clone(),
            body,
        }
    }

    /// A request nobody sent, for the owner's own operations.
    pub(crate) fn internal(method: Method, path: &str, body: Bytes) -> Self {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        Self {
            method,
            version: Version::HTTP_11,
            host: String::new(),
            sni: None,
            peer: SocketAddr::from(([127, 0, 0, 1], 0)),
            path: path.to_owned(),
            parts: split(path),
            query: query
                .map(|query| url::form_urlencoded::parse(query.as_bytes()).into_owned().collect())
                .unwrap_or_default(),
            raw_query: query.map(str::to_owned),
            headers: HeaderMap::new(),
            body,
        }
    }

    pub(crate) fn segments(&self) -> Vec<&str> {
        self.parts.iter().map(String::as_str).collect()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The bearer (or proof-of-possession) token.
    pub(crate) fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.header("authorization")?.split_once(' ')?;
        (scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("pop")).then(|| token.trim())
    }

    /// The host without its port.
    pub(crate) fn host_name(&self) -> &str {
        match self.host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => &self.host,
        }
    }

    pub(crate) fn form(&self) -> Vec<(String, String)> {
        url::form_urlencoded::parse(&self.body).into_owned().collect()
    }
}

fn split(path: &str) -> Vec<String> {
    path.trim_matches('/')
        .split('/')
        .filter(|part| !part.is_empty())
        .map(|part| decode(part).into_owned())
        .collect()
}

/// Percent-decoding of one path segment; what is no valid escape or no UTF-8 stays as it is.
fn decode(part: &str) -> Cow<'_, str> {
    if !part.contains('%') {
        return Cow::Borrowed(part);
    }
    let bytes = part.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escape = (byte == b'%')
            .then(|| part.get(at + 1..at + 3))
            .flatten()
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        if let Some(escaped) = escape {
            decoded.push(escaped);
            at += 3;
        } else {
            decoded.push(byte);
            at += 1;
        }
    }
    String::from_utf8(decoded).map_or(Cow::Borrowed(part), Cow::Owned)
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub status: StatusCode,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub(crate) fn json(status: StatusCode, body: &Value) -> Self {
        Self { status, headers: Vec::new(), body: body.to_string().into_bytes() }
            .with_header("content-type", "application/json; charset=utf-8")
    }

    pub(crate) fn empty(status: StatusCode) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    pub(crate) fn text(status: StatusCode, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }.with_header("content-type", content_type)
    }

    /// Adds a header; a value that HTTP cannot carry is left out.
    #[must_use]
    pub(crate) fn with_header(mut self, name: &'static str, value: impl AsRef<str>) -> Self {
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.headers.push((HeaderName::from_static(name), value));
        }
        self
    }

    pub(crate) fn into_hyper(self) -> hyper::Response<http_body_util::Full<Bytes>> {
        let mut response = hyper::Response::new(http_body_util::Full::new(Bytes::from(self.body)));
        *response.status_mut() = self.status;
        for (name, value) in self.headers {
            response.headers_mut().append(name, value);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_split_and_decoded_by_segment() {
        assert_eq!(split("/secrets/a%2Fb/"), ["secrets", "a/b"]);
        assert_eq!(split("/secrets//%zz%"), ["secrets", "%zz%"]);
        assert_eq!(split("/%ff"), ["%ff"]);
        assert!(split("/").is_empty());
    }

    proptest! {
        #[test]
        fn what_is_escaped_is_read_back(text in ".{1,20}") {
            let escaped = text.bytes().map(|byte| format!("%{byte:02x}")).collect::<Vec<_>>().concat();
            prop_assert_eq!(split(&format!("/{escaped}/")), [text]);
        }

        #[test]
        fn any_path_is_read(path in ".*") {
            prop_assert!(split(&path).iter().all(|part| !part.is_empty()));
        }
    }
}
