//! Tells spans to a collector, and is in nobody's way while there is none.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{
    Request, StatusCode, Uri,
    header::{CONTENT_TYPE, USER_AGENT},
};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::time::{sleep, timeout};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use tokio_util::sync::CancellationToken;

use super::{
    DROPPED, EXPORTED, TracesError, fan_out, protobuf,
    span::{Span, Tracer, tracer},
};

/// How long spans are gathered.
const GATHER: Duration = Duration::from_secs(1);
/// How long the collector may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// What it may take at the end of the process.
const LAST_PATIENCE: Duration = Duration::from_millis(400);
/// How long a collector that is away is left alone, at most.
const BACKOFF: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub struct Exporter {
    endpoint: Uri,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    instance: String,
    /// It was said that the collector does not take spans.
    told: bool,
}

enum Outcome {
    Taken,
    /// It may take them another time.
    Later(String),
    /// It will not.
    Never(StatusCode),
}

impl Exporter {
    pub(super) fn new(endpoint: &str) -> Result<Self, TracesError> {
        let endpoint = target(endpoint)?;
        let mut roots = RootCertStore::empty();
        if endpoint.scheme_str() == Some("https") {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|_| TracesError::Endpoint("this build has no version of TLS"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self {
            endpoint,
            client: Client::builder(TokioExecutor::new()).build(connector),
            instance: format!("{:016x}", rand::random::<u64>()),
            told: false,
        })
    }

    /// Exports until `stop`, and then once more.
    pub async fn run(mut self, stop: CancellationToken) {
        let Some(tracer) = tracer() else {
            return;
        };
        while !stop.is_cancelled() {
            tokio::select! {
                () = tracer.many.notified() => {}
                () = sleep(GATHER) => {}
                () = stop.cancelled() => {}
            }
            while !stop.is_cancelled() && self.export(tracer, &stop).await {}
        }
        fan_out::end_all();
        let last = async { while self.export(tracer, &stop).await {} };
        let _ = timeout(LAST_PATIENCE, last).await;
    }

    /// Exports one batch, in as many attempts as it takes. Returns whether there may be more.
    async fn export(&mut self, tracer: &Tracer, stop: &CancellationToken) -> bool {
        let spans = tracer.take();
        if spans.is_empty() {
            return false;
        }
        let body = Bytes::from(protobuf::request(&spans, &self.instance));
        let mut wait = GATHER;
        loop {
            match self.attempt(body.clone()).await {
                Outcome::Taken => {
                    EXPORTED.fetch_add(spans.len() as u64, Ordering::Relaxed);
                    if std::mem::take(&mut self.told) {
                        tracing::info!("the collector takes traces again");
                    }
                    return true;
                }
                Outcome::Never(status) => {
                    self.tell(status.as_str());
                    return drop_all(&spans);
                }
                Outcome::Later(why) => {
                    self.tell(&why);
                    tokio::select! {
                        () = sleep(wait) => {}
                        () = stop.cancelled() => return drop_all(&spans),
                    }
                    wait = (wait * 2).min(BACKOFF);
                }
            }
        }
    }

    fn tell(&mut self, why: &str) {
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(
                why,
                "the collector does not take traces; this is tried again and not said again"
            );
        }
    }

    async fn attempt(&self, body: Bytes) -> Outcome {
        let request = Request::post(self.endpoint.clone())
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(USER_AGENT, concat!("tidegate/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body))
            .expect("a request of constants and an address that was parsed");
        match timeout(PATIENCE, self.client.request(request)).await {
            Err(_) => Outcome::Later(format!("no answer within {PATIENCE:?}")),
            Ok(Err(error)) => Outcome::Later(cause(&error)),
            Ok(Ok(response)) => match response.status() {
                status if status.is_success() => Outcome::Taken,
                // As the protocol lists them (OTLP/HTTP, Failures).
                status @ (StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT) => Outcome::Later(status.as_str().to_owned()),
                status => Outcome::Never(status),
            },
        }
    }
}

fn drop_all(spans: &[Span]) -> bool {
    DROPPED.fetch_add(spans.len() as u64, Ordering::Relaxed);
    true
}

/// The last reason of an error, which is the one that helps.
fn cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// The address to post to: `/v1/traces` is added where only a host is named, as for every exporter of this protocol.
fn target(endpoint: &str) -> Result<Uri, TracesError> {
    const WRONG: TracesError =
        TracesError::Endpoint("expected an address like http://127.0.0.1:4318");
    let uri: Uri = endpoint.parse().map_err(|_| WRONG)?;
    let authority = uri.authority().ok_or(WRONG)?;
    if authority.as_str().contains('@') {
        return Err(TracesError::Endpoint(
            "credentials in an address are not supported: let a collector nearby add them",
        ));
    }
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.query().is_some() {
        return Err(WRONG);
    }
    let path = uri.path().trim_end_matches('/');
    if path.ends_with("/v1/traces") {
        return Ok(uri);
    }
    let scheme = uri.scheme_str().unwrap_or("http");
    format!("{scheme}://{authority}{path}/v1/traces")
        .parse()
        .map_err(|_| WRONG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_completed_or_refused_without_being_shown() {
        for (endpoint, posts_to) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://collector/", "http://collector/v1/traces"),
            ("https://collector/otlp", "https://collector/otlp/v1/traces"),
            ("http://collector/v1/traces", "http://collector/v1/traces"),
        ] {
            assert_eq!(target(endpoint).expect(endpoint).to_string(), posts_to);
        }
        for wrong in [
            "",
            "collector:4318",
            "grpc://s3cret:4317",
            "http://u:s3cret@collector",
            "http://collector/?key=s3cret",
            "/s3cret",
        ] {
            let error = target(wrong).expect_err(wrong).to_string();
            assert!(
                error.starts_with("traces.endpoint: ") && !error.contains("s3cret"),
                "{error}"
            );
        }
    }
}
