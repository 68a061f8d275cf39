//! Lists in pages, each naming the next.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{api::Call, errors::ApiError};

/// The most items a page holds, which is also what it holds unless told.
const PAGE: usize = 25;

/// One page of a list whose items come with the key they are sorted by. The next page starts after the last key,
/// so that what is added or removed meanwhile neither repeats nor hides an item.
pub(super) fn page(call: &Call<'_>, mut items: Vec<(String, Value)>) -> Result<Value, ApiError> {
    let size = match call.request.query("maxresults") {
        None => PAGE,
        Some(text) => text
            .parse()
            .ok()
            .filter(|size| (1..=PAGE).contains(size))
            .ok_or_else(|| ApiError::bad_parameter("Invalid maxresults: it must be between 1 and 25."))?,
    };
    items.sort_by(|(one, _), (other, _)| one.cmp(other));
    if let Some(token) = call.request.query("$skiptoken") {
        let last = URL_SAFE_NO_PAD
            .decode(token)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or_else(|| ApiError::bad_parameter("Invalid $skiptoken."))?;
        items.retain(|(key, _)| *key > last);
    }
    let next = (items.len() > size).then(|| {
        items.truncate(size);
        let last = items.last().map(|(key, _)| key.as_str()).unwrap_or_default();
        format!(
            "{}{}?api-version={}&$skiptoken={}&maxresults={size}",
            call.base_with_port(),
            call.request.path.trim_end_matches('/'),
            call.api_version,
            URL_SAFE_NO_PAD.encode(last),
        )
    });
    let values: Vec<Value> = items.into_iter().map(|(_, item)| item).collect();
    Ok(json!({ "value": values, "nextLink": next }))
}
