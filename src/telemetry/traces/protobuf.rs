//! Spans as an `ExportTraceServiceRequest` (opentelemetry-proto 1, `collector/trace/v1`), in protocol buffers.
//!
//! The numbers are those of the fields in `trace.proto`, `resource.proto` and `common.proto`; they never change.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::span::{Span, Value};

const LENGTH: u64 = 2;

/// The body of a request to `/v1/traces`.
pub(super) fn request(spans: &[Span], instance: &str) -> Vec<u8> {
    let mut body = Vec::with_capacity(spans.len() * 256);
    message(&mut body, 1, |resource_spans| {
        message(resource_spans, 1, |resource| {
            for (key, value) in [
                ("service.name", "tidegate"),
                ("service.version", env!("CARGO_PKG_VERSION")),
                ("service.instance.id", instance),
            ] {
                attribute(resource, 1, key, &Value::Text(value.into()));
            }
        });
        message(resource_spans, 2, |scope_spans| {
            message(scope_spans, 1, |scope| bytes(scope, 1, b"tidegate"));
            for one in spans {
                message(scope_spans, 2, |out| span(out, one));
            }
        });
    });
    body
}

fn span(out: &mut Vec<u8>, span: &Span) {
    const INTERNAL: u64 = 1;
    const SERVER: u64 = 2;
    const FAILED: u64 = 2;
    // Sampled; whether the parent is remote is known; it is.
    let flags = 0x101 | u32::from(span.remote) << 9;
    bytes(out, 1, &span.context.trace.0.to_be_bytes());
    bytes(out, 2, &span.context.span.to_be_bytes());
    if let Some(parent) = span.parent {
        bytes(out, 4, &parent.to_be_bytes());
    }
    bytes(out, 5, span.name.as_bytes());
    number(out, 6, if span.serves { SERVER } else { INTERNAL });
    fixed64(out, 7, nanos(span.begun));
    fixed64(out, 8, nanos(span.begun + span.lasted));
    for (key, value) in &span.attributes {
        attribute(out, 9, key, value);
    }
    if span.failed {
        message(out, 15, |status| number(status, 3, FAILED));
    }
    varint(out, 16 << 3 | 5);
    out.extend_from_slice(&flags.to_le_bytes());
}

fn nanos(moment: SystemTime) -> u64 {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn attribute(out: &mut Vec<u8>, field: u64, key: &str, value: &Value) {
    message(out, field, |pair| {
        bytes(pair, 1, key.as_bytes());
        message(pair, 2, |any| match value {
            Value::Text(text) => bytes(any, 1, text.as_bytes()),
            // Written as a signed number, which none of ours outgrows.
            Value::Number(value) => number(any, 3, *value),
        });
    });
}

fn message(out: &mut Vec<u8>, field: u64, write: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    write(&mut inner);
    bytes(out, field, &inner);
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    varint(out, field << 3 | LENGTH);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3);
    varint(out, value);
}

fn fixed64(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3 | 1);
    out.extend_from_slice(&value.to_le_bytes());
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::traces::{TraceId, span::Context};

    /// Written down from the specification of the encoding, byte by byte.
    #[test]
    fn a_span_is_encoded_as_the_protocol_says() {
        let one = Span {
            context: Context {
                trace: TraceId(0x0102),
                span: 3,
            },
            parent: Some(4),
            remote: true,
            serves: true,
            name: "n",
            begun: UNIX_EPOCH + Duration::from_nanos(5),
            lasted: Duration::from_nanos(1),
            attributes: vec![("k", Value::Number(300)), ("t", Value::Text("v".into()))],
            failed: true,
        };
        let mut out = Vec::new();
        span(&mut out, &one);
        let wanted: &[&[u8]] = &[
            &[0x0a, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2],
            &[0x12, 8, 0, 0, 0, 0, 0, 0, 0, 3],
            &[0x22, 8, 0, 0, 0, 0, 0, 0, 0, 4],
            &[0x2a, 1, b'n'],
            &[0x30, 2],
            &[0x39, 5, 0, 0, 0, 0, 0, 0, 0],
            &[0x41, 6, 0, 0, 0, 0, 0, 0, 0],
            &[0x4a, 8, 0x0a, 1, b'k', 0x12, 3, 0x18, 0xac, 0x02],
            &[0x4a, 8, 0x0a, 1, b't', 0x12, 3, 0x0a, 1, b'v'],
            &[0x7a, 2, 0x18, 2],
            &[0x85, 0x01, 0x01, 0x03, 0, 0],
        ];
        assert_eq!(out, wanted.concat());
    }
}
