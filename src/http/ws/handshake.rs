//! The opening handshake of a WebSocket, the server's side (RFC 6455, 4.2).
//!
//! No subprotocol and no extension is ever selected, so whatever a client offers, messages are plain.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE},
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::http::problem::{Code, Problem};

/// The only version there is.
pub(crate) const VERSION: &str = "13";

/// What proves to the client that its handshake was understood.
#[derive(Clone, Debug)]
pub struct Accept(HeaderValue);

impl Accept {
    /// Writes the fields of the answer.
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, self.0.clone());
    }
}

/// Whether a request wants to become a WebSocket.
pub fn is_wanted(version: Version, headers: &HeaderMap) -> bool {
    version == Version::HTTP_11
        && names(headers, &CONNECTION, "upgrade")
        && names(headers, &UPGRADE, "websocket")
}

/// Reads the client's handshake.
///
/// # Errors
/// `upgrade_required` for a request that is none, or one of another version; `request_malformed` for a key that is none.
pub fn accept(version: Version, headers: &HeaderMap) -> Result<Accept, Problem> {
    if !is_wanted(version, headers) {
        let detail = "this route speaks WebSocket: ask over HTTP/1.1 with Upgrade: websocket and Connection: Upgrade; /events and /poll need no upgrade";
        return Err(Problem::new(Code::UpgradeRequired, detail));
    }
    if headers
        .get(SEC_WEBSOCKET_VERSION)
        .map(HeaderValue::as_bytes)
        != Some(VERSION.as_bytes())
    {
        let detail = format!("Sec-WebSocket-Version has to be {VERSION} (RFC 6455)");
        return Err(Problem::new(Code::UpgradeRequired, detail));
    }
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    let key = keys.next().map(|key| key.as_bytes().trim_ascii());
    match (key, keys.next()) {
        (Some(key), None) if is_key(key) => {
            let accept = HeaderValue::from_str(&derive_accept_key(key));
            Ok(Accept(accept.expect("base64 may stand in a header")))
        }
        _ => {
            let detail = "Sec-WebSocket-Key has to be 16 bytes in base64, once (RFC 6455, 4.1)";
            Err(Problem::new(Code::RequestMalformed, detail))
        }
    }
}

fn is_key(key: &[u8]) -> bool {
    BASE64_STANDARD
        .decode(key)
        .is_ok_and(|bytes| bytes.len() == 16)
}

/// Whether a list of tokens has this one, whatever its case (RFC 9110, 7.6.1 and 7.8).
fn names(headers: &HeaderMap, list: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(list).iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    texts
        .flat_map(|text| text.split(','))
        .any(|name| name.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &[(&'static str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &str)| {
            let value = HeaderValue::from_str(value).expect("a value");
            (HeaderName::from_static(name), value)
        };
        fields.iter().map(field).collect()
    }

    const GOOD: [(&str, &str); 4] = [
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn with(name: &'static str, value: &str) -> Result<Accept, Code> {
        let mut headers = request(&GOOD);
        headers.insert(name, HeaderValue::from_str(value).expect("a value"));
        accept(Version::HTTP_11, &headers).map_err(|problem| problem.code)
    }

    #[test]
    fn the_example_of_the_standard_is_answered_as_there() {
        let accept = accept(Version::HTTP_11, &request(&GOOD)).expect("a handshake");
        let mut headers = HeaderMap::new();
        accept.write(&mut headers);
        assert_eq!(
            headers[SEC_WEBSOCKET_ACCEPT],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn tokens_are_lists_in_any_case() {
        assert!(with("connection", "keep-alive, UPGRADE").is_ok());
        assert!(with("upgrade", "h2c, WebSocket").is_ok());
        assert_eq!(
            with("connection", "upgraded").err(),
            Some(Code::UpgradeRequired)
        );
        assert_eq!(
            with("upgrade", "websockets").err(),
            Some(Code::UpgradeRequired)
        );
    }

    #[test]
    fn what_is_no_handshake_is_refused() {
        assert_eq!(
            with("sec-websocket-version", "8").err(),
            Some(Code::UpgradeRequired)
        );
        for key in [
            "",
            "short",
            "dGhlIHNhbXBsZSBub25jZQ",
            "dGhlIHNhbXBsZSBub25jZSE=",
        ] {
            let refused = with("sec-websocket-key", key).err();
            assert_eq!(refused, Some(Code::RequestMalformed), "{key:?}");
        }
        for version in [Version::HTTP_10, Version::HTTP_2] {
            let refused = accept(version, &request(&GOOD)).map_err(|problem| problem.code);
            assert_eq!(refused.err(), Some(Code::UpgradeRequired));
        }
        let mut twice = request(&GOOD);
        twice.append(
            SEC_WEBSOCKET_KEY,
            HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="),
        );
        let refused = accept(Version::HTTP_11, &twice).map_err(|problem| problem.code);
        assert_eq!(refused.err(), Some(Code::RequestMalformed));
    }
}
