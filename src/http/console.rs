//! The console: `GET /`, what it is made of under `/console/`, and the browser client, `GET /tidegate.js`.
//!
//! All of it is built in and the same for everybody: no secret, no setting and no event is in it. What the page may follow and
//! publish is decided where it asks for that, like any other client.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
        X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
    },
};

use super::{
    body::Body,
    problem::{Code, Problem},
};

/// Where the page is.
pub(super) const PAGE: &str = "/";
/// Where the browser client is.
pub(super) const CLIENT: &str = "/tidegate.js";
/// Where the parts of the page are.
pub(super) const ASSET: &str = "/console/{asset}";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

/// Nothing from elsewhere, nothing inline, no page around it; and no text becomes markup, whatever an event holds. `'self'` is
/// also the WebSocket of the same host (CSP 3, 6.7.2.8).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// A file of the console.
struct Asset {
    path: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
}

macro_rules! assets {
    ($($path:literal $content_type:ident $file:literal,)*) => {
        [$(Asset {
            path: $path,
            content_type: $content_type,
            bytes: include_bytes!(concat!("../../", $file)),
        }),*]
    };
}

const ASSETS_COUNT: usize = 17;

static ASSETS: [Asset; ASSETS_COUNT] = assets! {
    "/" HTML "console/index.html",
    "/tidegate.js" SCRIPT "clients/js/dist/tidegate.js",
    "/console/charts.js" SCRIPT "console/charts.js",
    "/console/console.css" STYLE "console/console.css",
    "/console/detail.js" SCRIPT "console/detail.js",
    "/console/filter.js" SCRIPT "console/filter.js",
    "/console/follow.js" SCRIPT "console/follow.js",
    "/console/icon.svg" IMAGE "console/icon.svg",
    "/console/keys.js" SCRIPT "console/keys.js",
    "/console/log.js" SCRIPT "console/log.js",
    "/console/main.js" SCRIPT "console/main.js",
    "/console/publish.js" SCRIPT "console/publish.js",
    "/console/snippets.js" SCRIPT "console/snippets.js",
    "/console/state.js" SCRIPT "console/state.js",
    "/console/table.js" SCRIPT "console/table.js",
    "/console/text.js" SCRIPT "console/text.js",
    "/console/theme.js" SCRIPT "console/theme.js",
};

/// Of each asset: what its bytes are known by.
static TAGS: LazyLock<[HeaderValue; ASSETS_COUNT]> = LazyLock::new(|| {
    ASSETS.each_ref().map(|asset| {
        let hash = digest(&SHA256, asset.bytes);
        let (first, _) = hash
            .as_ref()
            .split_first_chunk()
            .expect("a SHA-256 has 32 bytes");
        let tag = format!("\"{:032x}\"", u128::from_be_bytes(*first));
        HeaderValue::try_from(tag).expect("hexadecimal digits in quotes fit a header")
    })
});

/// Whether a path is one of the console's.
pub(crate) fn is_part(path: &str) -> bool {
    path == PAGE || path == CLIENT || path.starts_with("/console/")
}

/// A part of the console, or the word that it is as the browser has it.
pub(super) fn get(path: &str, headers: &HeaderMap) -> Result<Response<Body>, Problem> {
    let Some(index) = ASSETS.iter().position(|asset| asset.path == path) else {
        let detail = "the console has no such part";
        return Err(Problem::new(Code::NotFound, detail));
    };
    let (asset, tag) = (&ASSETS[index], &TAGS[index]);
    let known = headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .any(|tags| names(tags, tag));
    let mut response = Response::new(if known {
        Body::empty()
    } else {
        Body::Full(Bytes::from_static(asset.bytes))
    });
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let fields: [(HeaderName, &'static str); 8] = [
        // It is asked for each time, so an update is there at once; mostly the answer is 304.
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_TYPE, asset.content_type),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "same-origin"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("permissions-policy"),
            "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
        ),
    ];
    let headers = response.headers_mut();
    for (name, value) in fields {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // Pages of other origins may import the client; nothing else is for them.
    if path != CLIENT {
        headers.insert(
            HeaderName::from_static("cross-origin-resource-policy"),
            HeaderValue::from_static("same-origin"),
        );
    }
    headers.insert(ETAG, tag.clone());
    Ok(response)
}

/// Whether `If-None-Match` names the tag, weakly compared (RFC 9110, 13.1.2).
fn names(field: &HeaderValue, tag: &HeaderValue) -> bool {
    let (Ok(field), Ok(tag)) = (field.to_str(), tag.to_str()) else {
        return false;
    };
    let mut tags = field.split(',').map(str::trim);
    tags.any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
}
