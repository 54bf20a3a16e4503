//! Every refusal: one code, one status, one JSON (RFC 9457).

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{
        ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, SEC_WEBSOCKET_VERSION,
        UPGRADE, WWW_AUTHENTICATE,
    },
};

use super::{body::Body, ws::handshake};
use crate::{
    event::{PublishItemError, TopicListError},
    hub::SubscribeError,
    store::{AppendError, StoreError},
};

/// The stable name of a refusal. `docs/errors.md` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the code says it, and docs/errors.md explains it"
)]
pub enum Code {
    TopicInvalid,
    TopicMissing,
    TooManyTopics,
    TopicLimit,
    TopicFinished,
    TypeInvalid,
    CursorInvalid,
    SinceInvalid,
    QueryInvalid,
    LevelInvalid,
    JsonInvalid,
    Utf8Invalid,
    EventTooLarge,
    BodyTooLarge,
    BatchTooLarge,
    MediaTypeUnsupported,
    NotFound,
    MethodNotAllowed,
    Unauthorized,
    AuthUnavailable,
    Forbidden,
    AddressForbidden,
    OriginForbidden,
    HostForbidden,
    ProxiedInDevelopment,
    RateLimited,
    AddressLimit,
    SubjectLimit,
    ConnectionLimit,
    MemoryLimit,
    Draining,
    StoreUnavailable,
    StoreTimeout,
    IdempotencyInvalid,
    IdempotencyMismatch,
    HeaderTooLarge,
    UrlTooLarge,
    RequestMalformed,
    RequestTimeout,
    UpgradeRequired,
    MessageInvalid,
    TopicNotFollowed,
    ConfigInvalid,
    Internal,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 44] = [
        Self::TopicInvalid,
        Self::TopicMissing,
        Self::TooManyTopics,
        Self::TopicLimit,
        Self::TopicFinished,
        Self::TypeInvalid,
        Self::CursorInvalid,
        Self::SinceInvalid,
        Self::QueryInvalid,
        Self::LevelInvalid,
        Self::JsonInvalid,
        Self::Utf8Invalid,
        Self::EventTooLarge,
        Self::BodyTooLarge,
        Self::BatchTooLarge,
        Self::MediaTypeUnsupported,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Unauthorized,
        Self::AuthUnavailable,
        Self::Forbidden,
        Self::AddressForbidden,
        Self::OriginForbidden,
        Self::HostForbidden,
        Self::ProxiedInDevelopment,
        Self::RateLimited,
        Self::AddressLimit,
        Self::SubjectLimit,
        Self::ConnectionLimit,
        Self::MemoryLimit,
        Self::Draining,
        Self::StoreUnavailable,
        Self::StoreTimeout,
        Self::IdempotencyInvalid,
        Self::IdempotencyMismatch,
        Self::HeaderTooLarge,
        Self::UrlTooLarge,
        Self::RequestMalformed,
        Self::RequestTimeout,
        Self::UpgradeRequired,
        Self::MessageInvalid,
        Self::TopicNotFollowed,
        Self::ConfigInvalid,
        Self::Internal,
    ];

    /// The code, the status it comes with, and its title.
    const fn parts(self) -> (&'static str, StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Self::TopicInvalid => ("topic_invalid", S::BAD_REQUEST, "The topic is not valid"),
            Self::TopicMissing => ("topic_missing", S::BAD_REQUEST, "No topic was named"),
            Self::TooManyTopics => (
                "too_many_topics",
                S::BAD_REQUEST,
                "Too many topics for one stream",
            ),
            Self::TopicLimit => (
                "topic_limit",
                S::SERVICE_UNAVAILABLE,
                "This replica follows as many topics as it may",
            ),
            Self::TopicFinished => ("topic_finished", S::CONFLICT, "The topic is finished"),
            Self::TypeInvalid => (
                "type_invalid",
                S::BAD_REQUEST,
                "The event type is not valid",
            ),
            Self::CursorInvalid => ("cursor_invalid", S::BAD_REQUEST, "The cursor is not valid"),
            Self::SinceInvalid => (
                "since_invalid",
                S::BAD_REQUEST,
                "The start time is not valid",
            ),
            Self::QueryInvalid => ("query_invalid", S::BAD_REQUEST, "The query is not valid"),
            Self::LevelInvalid => (
                "level_invalid",
                S::BAD_REQUEST,
                "The log level is not valid",
            ),
            Self::JsonInvalid => (
                "json_invalid",
                S::BAD_REQUEST,
                "The body is not valid JSON of an event",
            ),
            Self::Utf8Invalid => (
                "utf8_invalid",
                S::BAD_REQUEST,
                "The text is not valid UTF-8",
            ),
            Self::EventTooLarge => (
                "event_too_large",
                S::PAYLOAD_TOO_LARGE,
                "The event is too large",
            ),
            Self::BodyTooLarge => (
                "body_too_large",
                S::PAYLOAD_TOO_LARGE,
                "The body is too large",
            ),
            Self::BatchTooLarge => (
                "batch_too_large",
                S::PAYLOAD_TOO_LARGE,
                "The batch has too many events",
            ),
            Self::MediaTypeUnsupported => (
                "media_type_unsupported",
                S::UNSUPPORTED_MEDIA_TYPE,
                "The media type is not supported",
            ),
            Self::NotFound => ("not_found", S::NOT_FOUND, "There is no such route"),
            Self::MethodNotAllowed => (
                "method_not_allowed",
                S::METHOD_NOT_ALLOWED,
                "The method is not allowed here",
            ),
            Self::Unauthorized => ("unauthorized", S::UNAUTHORIZED, "Credentials are needed"),
            Self::AuthUnavailable => (
                "auth_unavailable",
                S::SERVICE_UNAVAILABLE,
                "The credentials cannot be checked at the moment",
            ),
            Self::Forbidden => (
                "forbidden",
                S::FORBIDDEN,
                "The credentials do not allow this",
            ),
            Self::AddressForbidden => (
                "address_forbidden",
                S::FORBIDDEN,
                "The address is not served",
            ),
            Self::OriginForbidden => (
                "origin_forbidden",
                S::FORBIDDEN,
                "The origin is not allowed",
            ),
            Self::HostForbidden => ("host_forbidden", S::FORBIDDEN, "The host is not allowed"),
            Self::ProxiedInDevelopment => (
                "proxied_in_development",
                S::FORBIDDEN,
                "Development mode does not serve through a proxy",
            ),
            Self::RateLimited => ("rate_limited", S::TOO_MANY_REQUESTS, "Too many requests"),
            Self::AddressLimit => (
                "address_limit",
                S::TOO_MANY_REQUESTS,
                "The address has as many streams as it may",
            ),
            Self::SubjectLimit => (
                "subject_limit",
                S::TOO_MANY_REQUESTS,
                "The subject has as many streams as it may",
            ),
            Self::MemoryLimit => (
                "memory_limit",
                S::SERVICE_UNAVAILABLE,
                "This replica uses as much memory as it may",
            ),
            Self::ConnectionLimit => (
                "connection_limit",
                S::SERVICE_UNAVAILABLE,
                "This replica has as many streams as it may",
            ),
            Self::Draining => (
                "draining",
                S::SERVICE_UNAVAILABLE,
                "This replica is shutting down",
            ),
            Self::StoreUnavailable => (
                "store_unavailable",
                S::SERVICE_UNAVAILABLE,
                "The event store is unavailable",
            ),
            Self::StoreTimeout => (
                "store_timeout",
                S::GATEWAY_TIMEOUT,
                "The event store did not answer in time",
            ),
            Self::IdempotencyInvalid => (
                "idempotency_invalid",
                S::BAD_REQUEST,
                "The idempotency key is not valid",
            ),
            Self::IdempotencyMismatch => (
                "idempotency_mismatch",
                S::CONFLICT,
                "The idempotency key was used for another payload",
            ),
            Self::HeaderTooLarge => (
                "header_too_large",
                S::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "The request head is too large",
            ),
            Self::UrlTooLarge => ("url_too_large", S::URI_TOO_LONG, "The URL is too long"),
            Self::RequestMalformed => (
                "request_malformed",
                S::BAD_REQUEST,
                "The request is not valid HTTP",
            ),
            Self::RequestTimeout => (
                "request_timeout",
                S::REQUEST_TIMEOUT,
                "The request did not arrive in time",
            ),
            Self::UpgradeRequired => (
                "upgrade_required",
                S::UPGRADE_REQUIRED,
                "This route speaks WebSocket",
            ),
            Self::MessageInvalid => (
                "message_invalid",
                S::BAD_REQUEST,
                "The message is not valid",
            ),
            Self::TopicNotFollowed => (
                "topic_not_followed",
                S::CONFLICT,
                "The topic is not followed on this connection",
            ),
            Self::ConfigInvalid => (
                "config_invalid",
                S::UNPROCESSABLE_ENTITY,
                "The settings are not valid",
            ),
            Self::Internal => (
                "internal",
                S::INTERNAL_SERVER_ERROR,
                "Something went wrong here",
            ),
        }
    }

    /// As it stands in the JSON, in metrics and in logs.
    pub const fn as_str(self) -> &'static str {
        self.parts().0
    }

    /// The status it comes with.
    pub const fn status(self) -> StatusCode {
        self.parts().1
    }

    /// Whether the same request may succeed later.
    pub const fn is_temporary(self) -> bool {
        matches!(
            self,
            Self::AuthUnavailable
                | Self::RateLimited
                | Self::AddressLimit
                | Self::SubjectLimit
                | Self::ConnectionLimit
                | Self::MemoryLimit
                | Self::TopicLimit
                | Self::Draining
                | Self::StoreUnavailable
                | Self::StoreTimeout
        )
    }
}

/// A refusal: the code, and what was wrong this time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What kind.
    pub code: Code,
    /// What was wrong and what is allowed.
    pub detail: String,
    /// Seconds after which it may work.
    pub retry_after: Option<u64>,
    /// For a wrong method: the right ones.
    pub allow: Option<&'static str>,
    /// The origin whose pages may read the answer.
    pub open_to: Option<HeaderValue>,
    /// For a rate: how much is allowed.
    pub quota: Option<Box<Quota>>,
    /// What was shown was good once: an `EventSource` shall come back, with something newer.
    pub outdated: bool,
    /// Something was shown, and was not accepted.
    pub shown: bool,
}

/// What `RateLimit-Limit`, `-Remaining` and `-Reset` say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Requests at once.
    pub limit: u32,
    /// Of these, how many are left.
    pub remaining: u32,
    /// Seconds until all are.
    pub reset: u64,
}

#[derive(serde::Serialize)]
struct Json<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

impl Problem {
    /// A refusal with `code`.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let retry_after = code.is_temporary().then_some(1);
        Self {
            code,
            detail: detail.into(),
            retry_after,
            allow: None,
            open_to: None,
            quota: None,
            outdated: false,
            shown: false,
        }
    }

    /// Whether the same request may succeed later, with the same credentials or newer ones.
    pub fn is_temporary(&self) -> bool {
        self.code.is_temporary() || self.outdated
    }

    /// As JSON; the request id is left out of the parts of a larger answer.
    pub fn json(&self, request_id: Option<&str>) -> String {
        let (code, status, title) = self.code.parts();
        let json = Json {
            kind: format!("urn:tidegate:problem:{code}"),
            title,
            status: status.as_u16(),
            detail: &self.detail,
            code,
            request_id,
        };
        serde_json::to_string(&json).expect("text with text keys is JSON")
    }

    /// As a response.
    pub fn response(&self, request_id: &str) -> Response<Body> {
        let mut response = Response::new(Body::Full(Bytes::from(self.json(Some(request_id)))));
        *response.status_mut() = self.code.status();
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        // RFC 6750, 3.
        let challenge = match self.code {
            Code::Unauthorized if self.shown => Some("Bearer error=\"invalid_token\""),
            Code::Unauthorized => Some("Bearer"),
            Code::Forbidden if self.shown => Some("Bearer error=\"insufficient_scope\""),
            _ => None,
        };
        if let Some(challenge) = challenge {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if self.code == Code::UpgradeRequired {
            // RFC 9110, 15.5.22, and RFC 6455, 4.4.
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(
                SEC_WEBSOCKET_VERSION,
                HeaderValue::from_static(handshake::VERSION),
            );
        }
        self.count_down(headers);
        response
    }

    /// When it may work, and how much is allowed.
    pub fn count_down(&self, headers: &mut HeaderMap) {
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(quota) = &self.quota {
            headers.insert("ratelimit-limit", HeaderValue::from(quota.limit));
            headers.insert("ratelimit-remaining", HeaderValue::from(quota.remaining));
            headers.insert("ratelimit-reset", HeaderValue::from(quota.reset));
        }
    }
}

impl From<TopicListError> for Problem {
    fn from(error: TopicListError) -> Self {
        let code = match error {
            TopicListError::Topic { .. } => Code::TopicInvalid,
            TopicListError::TooMany { .. } => Code::TooManyTopics,
        };
        Self::new(code, error.to_string())
    }
}

impl From<PublishItemError> for Problem {
    fn from(error: PublishItemError) -> Self {
        let code = match error {
            PublishItemError::Json(_) => Code::JsonInvalid,
            PublishItemError::Topic(_) => Code::TopicInvalid,
            PublishItemError::Kind(_) => Code::TypeInvalid,
        };
        Self::new(code, error.to_string())
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let code = match error {
            StoreError::Unavailable(_) => Code::StoreUnavailable,
            StoreError::Timeout => Code::StoreTimeout,
        };
        Self::new(code, error.to_string())
    }
}

impl From<AppendError> for Problem {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Finished(_) => Self::new(Code::TopicFinished, error.to_string()),
            AppendError::Mismatch => Self::new(Code::IdempotencyMismatch, error.to_string()),
            AppendError::Store(error) => error.into(),
        }
    }
}

impl From<SubscribeError> for Problem {
    fn from(error: SubscribeError) -> Self {
        match error {
            SubscribeError::TooManyTopics(_) => Self::new(Code::TopicLimit, error.to_string()),
            SubscribeError::Store(error) => error.into(),
        }
    }
}
