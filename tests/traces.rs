//! What a collector is told of a request, by OpenTelemetry.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::support::{Gateway, Request, Settings, eventually};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A span as the collector reads it.
#[derive(Clone, Debug)]
struct Span {
    trace: String,
    id: String,
    parent: String,
    name: String,
    kind: u64,
    begun: u64,
    ended: u64,
    attributes: BTreeMap<String, String>,
    failed: bool,
}

/// One field of a message in protocol buffers: its number, and what it holds.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    fn bytes(&self) -> &'a [u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Number(number) => panic!("a number, {number}"),
        }
    }

    fn number(&self) -> u64 {
        match self {
            Self::Number(number) => *number,
            Self::Bytes(bytes) => panic!("bytes, {bytes:?}"),
        }
    }

    fn text(&self) -> String {
        String::from_utf8(self.bytes().to_vec()).unwrap()
    }

    fn hex(&self) -> String {
        self.bytes()
            .iter()
            .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
    }
}

/// Written from the description of the encoding, and from nothing that the gateway has.
fn fields(mut rest: &[u8]) -> Vec<(u64, Value<'_>)> {
    fn varint(rest: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = rest[0];
            *rest = &rest[1..];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    }
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let tag = varint(&mut rest);
        let value = match tag & 7 {
            0 => Value::Number(varint(&mut rest)),
            1 => {
                let (number, after) = rest.split_first_chunk().unwrap();
                rest = after;
                Value::Number(u64::from_le_bytes(*number))
            }
            2 => {
                let length = usize::try_from(varint(&mut rest)).unwrap();
                let (bytes, after) = rest.split_at(length);
                rest = after;
                Value::Bytes(bytes)
            }
            5 => {
                let (number, after) = rest.split_first_chunk().unwrap();
                rest = after;
                Value::Number(u32::from_le_bytes(*number).into())
            }
            kind => panic!("no such kind of field: {kind}"),
        };
        fields.push((tag >> 3, value));
    }
    fields
}

fn each(message: &[u8], number: u64) -> Vec<Value<'_>> {
    let fields = fields(message).into_iter();
    fields
        .filter(|(field, _)| *field == number)
        .map(|(_, value)| value)
        .collect()
}

fn attributes(message: &[u8], number: u64) -> BTreeMap<String, String> {
    let pair = |pair: Value<'_>| {
        let key = each(pair.bytes(), 1)[0].text();
        let value = each(pair.bytes(), 2)[0].bytes();
        let (kind, value) = fields(value).pop().unwrap();
        let value = match kind {
            1 => value.text(),
            3 => value.number().to_string(),
            kind => panic!("no such value: {kind}"),
        };
        (key, value)
    };
    each(message, number).into_iter().map(pair).collect()
}

fn spans(body: &[u8]) -> Vec<Span> {
    let mut spans = Vec::new();
    for resource_spans in each(body, 1) {
        let resource = each(resource_spans.bytes(), 1);
        let resource = attributes(resource[0].bytes(), 1);
        assert_eq!(resource["service.name"], "tidegate");
        for scope_spans in each(resource_spans.bytes(), 2) {
            for span in each(scope_spans.bytes(), 2) {
                let span = span.bytes();
                let status = each(span, 15);
                spans.push(Span {
                    trace: each(span, 1)[0].hex(),
                    id: each(span, 2)[0].hex(),
                    parent: each(span, 4).first().map_or_else(String::new, Value::hex),
                    name: each(span, 5)[0].text(),
                    kind: each(span, 6)[0].number(),
                    begun: each(span, 7)[0].number(),
                    ended: each(span, 8)[0].number(),
                    attributes: attributes(span, 9),
                    failed: status
                        .first()
                        .is_some_and(|status| each(status.bytes(), 3)[0].number() == 2),
                });
            }
        }
    }
    spans
}

/// Takes what is posted to `/v1/traces`; says `503` as often as it is told to before.
struct Collector {
    port: u16,
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Collector {
    async fn start(refusals: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let taken = bodies.clone();
        tokio::spawn(async move {
            let mut refusals = refusals;
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let (mut request, mut piece) = (Vec::new(), [0; 4096]);
                let (head, length) = loop {
                    let count = socket.read(&mut piece).await.unwrap();
                    if count == 0 {
                        break (0, 0);
                    }
                    request.extend_from_slice(&piece[..count]);
                    let text = String::from_utf8_lossy(&request);
                    if let Some(head) = text.find("\r\n\r\n") {
                        let text = text[..head].to_lowercase();
                        assert!(text.starts_with("post /v1/traces http/1.1"), "{text}");
                        assert!(
                            text.contains("content-type: application/x-protobuf"),
                            "{text}"
                        );
                        let length = text.split_once("content-length: ").unwrap().1;
                        let length: usize = length.lines().next().unwrap().parse().unwrap();
                        break (head + 4, length);
                    }
                };
                while request.len() < head + length {
                    let count = socket.read(&mut piece).await.unwrap();
                    request.extend_from_slice(&piece[..count]);
                }
                let status = if refusals > 0 {
                    "503 Service Unavailable"
                } else {
                    "200 OK"
                };
                if refusals > 0 {
                    refusals -= 1;
                } else if length > 0 {
                    taken.lock().push(request.split_off(head));
                }
                let answer =
                    format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        });
        Self { port, bodies }
    }

    fn settings(&self) -> Settings {
        Gateway::with("traces.endpoint", format!("http://127.0.0.1:{}", self.port))
            .with("drain.timeout", "1s")
    }

    fn spans(&self) -> Vec<Span> {
        self.bodies
            .lock()
            .iter()
            .flat_map(|body| spans(body))
            .collect()
    }

    /// Waits until so many spans are there.
    async fn has(&self, count: usize) {
        eventually(format!("{count} spans"), async || {
            let spans = self.spans();
            let there = spans.len() >= count;
            there.then_some(()).ok_or_else(|| format!("{spans:?}"))
        })
        .await;
    }

    /// The span of that name, once it is there.
    async fn span(&self, name: &str) -> Span {
        eventually(format!("a span {name:?}"), async || {
            let spans = self.spans();
            let found = spans.iter().find(|span| span.name == name).cloned();
            found.ok_or_else(|| format!("{spans:?}"))
        })
        .await
    }
}

fn publish(traceparent: &str) -> Request {
    Request::publish(r#"{"topic":"orders","data":"1"}"#).header("traceparent", traceparent)
}

#[tokio::test]
async fn a_publish_is_told_as_its_request_its_append_and_its_fan_out() {
    let collector = Collector::start(0).await;
    let gateway = collector.settings().with("traces.ratio", 0).start().await;
    let mut first = gateway.subscribe("orders").await;
    let mut second = gateway.subscribe("orders").await;
    let request = publish(&format!("00-{TRACE}-{PARENT}-01")).header("X-Request-Id", "the-publish");
    let answer = gateway.ask(request).await;
    assert_eq!(answer.status(), 200);
    first.next().await;
    second.next().await;

    let request = collector.span("POST /publish").await;
    let append = collector.span("store.append").await;
    let fan_out = collector.span("fan-out").await;
    assert_eq!(
        (&*request.trace, &*request.parent, request.kind),
        (TRACE, PARENT, 2)
    );
    for part in [&append, &fan_out] {
        assert_eq!(
            (&part.trace, &part.parent, part.kind),
            (&request.trace, &request.id, 1),
            "{part:?}"
        );
    }
    for span in [&request, &append, &fan_out] {
        assert!(span.begun <= span.ended && !span.failed, "{span:?}");
    }
    assert!(request.begun <= append.begun && append.ended <= request.ended);
    assert_eq!(request.attributes["http.response.status_code"], "200");
    assert_eq!(request.attributes["http.route"], "/publish");
    assert_eq!(request.attributes["tidegate.request_id"], "the-publish");
    assert_eq!(append.attributes["tidegate.stored"], "1");
    assert_eq!(fan_out.attributes["tidegate.streams"], "2");
    assert_eq!(
        fan_out.attributes["tidegate.event_id"],
        answer.json()["id"].as_str().unwrap()
    );
    assert_eq!(
        collector.spans().len(),
        3,
        "the streams were opened without a trace"
    );
}

#[tokio::test]
async fn the_opening_of_a_stream_is_a_span_and_a_refusal_says_its_code() {
    let collector = Collector::start(0).await;
    let gateway = collector.settings().with("traces.ratio", 1).start().await;
    let _reader = gateway.subscribe("orders").await;
    let opened = collector.span("GET /events").await;
    assert_eq!((opened.parent.as_str(), opened.kind), ("", 2));
    gateway.post("{").await.refuses(400, "json_invalid");
    let refused = collector.span("POST /publish").await;
    assert_ne!(refused.trace, opened.trace);
    assert_eq!(refused.attributes["tidegate.code"], "json_invalid");
    assert!(!refused.failed, "a refusal is the client's fault");
}

/// Whoever asks decides; where nobody does, the ratio.
#[tokio::test]
async fn what_is_not_sampled_is_not_told_but_its_trace_is_logged() {
    let collector = Collector::start(0).await;
    let gateway = collector.settings().with("traces.ratio", 0).start().await;
    let unsampled = publish(&format!("00-{TRACE}-{PARENT}-00")).header("X-Request-Id", "unsampled");
    assert_eq!(gateway.ask(unsampled).await.status(), 200);
    gateway.publish("orders", "nobody asks").await;
    let malformed = publish(&format!("00-{}-{PARENT}-01", TRACE.to_uppercase()))
        .header("X-Request-Id", "malformed");
    assert_eq!(gateway.ask(malformed).await.status(), 200);
    let other = "ffffffffffffffffffffffffffffffff";
    assert_eq!(
        gateway
            .ask(publish(&format!("00-{other}-{PARENT}-01")))
            .await
            .status(),
        200
    );
    // What is left at the end has half a second to be taken.
    collector.has(3).await;
    let exit = gateway.stop(Duration::from_secs(5)).await;
    let spans = collector.spans();
    assert!(
        spans.len() == 3 && spans.iter().all(|span| span.trace == other),
        "{spans:?}"
    );
    let line = |id: &str| -> serde_json::Value {
        let mut lines = exit.output.lines();
        let line = lines.find(|line| line.contains(&format!("\"request_id\":\"{id}\"")));
        serde_json::from_str(line.unwrap()).unwrap()
    };
    assert_eq!(line("unsampled")["trace_id"], TRACE);
    assert!(line("malformed").get("trace_id").is_none());
}

#[tokio::test]
async fn nothing_secret_is_in_a_span() {
    let collector = Collector::start(0).await;
    let gateway = collector.settings().with("traces.ratio", 1).start().await;
    let query =
        "/events?topic=hunter2&access_token=hunter2&ticket=hunter2&refuse=status&last=hunter2";
    let request = Request::get(query)
        .header("Authorization", "Bearer hunter2")
        .header("Cookie", "tidegate=hunter2");
    gateway
        .ask(request.header("tracestate", "hunter2=hunter2"))
        .await;
    let request = Request::publish(
        r#"{"topic":"hunter2","event":"hunter2","data":"hunter2","key":"hunter2"}"#,
    );
    gateway.ask(request.header("User-Agent", "hunter2")).await;
    collector.span("GET /events").await;
    collector.span("fan-out").await;
    for body in &*collector.bodies.lock() {
        assert!(!String::from_utf8_lossy(body).contains("hunter2"));
    }
}

#[tokio::test]
async fn a_collector_that_is_busy_is_asked_again() {
    let collector = Collector::start(1).await;
    let gateway = collector.settings().with("traces.ratio", 1).start().await;
    gateway.publish("orders", "1").await;
    collector.span("POST /publish").await;
    // They need not come together.
    eventually("the spans to be counted", async || {
        let count = gateway.metric("tidegate_trace_spans_exported_total").await;
        let all = count.is_some_and(|count| count >= 2.0);
        all.then_some(()).ok_or_else(|| format!("{count:?}"))
    })
    .await;
}

#[tokio::test]
async fn a_collector_that_is_away_harms_nobody_and_is_said_once() {
    let away = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let settings = Gateway::with("traces.endpoint", format!("http://{away}"));
    let settings = settings.with("traces.ratio", 1).with("drain.timeout", "1s");
    let mut gateway = settings.start().await;
    for round in 0..3 {
        for number in 0..20 {
            gateway.publish("orders", &number.to_string()).await;
        }
        if round == 0 {
            let said = |line: &str| {
                line.contains("the collector does not take traces")
                    .then_some(())
            };
            gateway
                .program()
                .line("that the collector is away", said)
                .await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let exit = gateway.stop(Duration::from_secs(5)).await;
    assert!(
        exit.status.success() && exit.took < Duration::from_secs(3),
        "{exit:?}"
    );
    let said = exit
        .output
        .matches("the collector does not take traces")
        .count();
    assert_eq!(said, 1, "{}", exit.output);
}

#[tokio::test]
async fn an_address_that_is_none_is_an_error_at_the_start() {
    for wrong in [
        "collector",
        "grpc://127.0.0.1:4317",
        "http://u:p@127.0.0.1:4318",
    ] {
        let exit = Gateway::with("traces.endpoint", wrong)
            .refuses_to_start()
            .await;
        assert!(exit.output.contains("traces.endpoint"), "{exit:?}");
    }
}
