//! The public listener speaks TLS: the same promises, and certificates that change while streams go on.

use std::{fs, path::Path, time::Duration};

use tidegate::event::EventId;
use tokio::time::Instant;
use tokio_rustls::rustls::version::{TLS12, TLS13};

use crate::support::{
    Authority, Connection, Gateway, H2Client, PATIENCE, Pair, Request, Settings, Subscriber,
    TlsClient, eventually, id, within_time,
};

fn with(pair: &Pair) -> Settings {
    Gateway::with("server.tls.certificate", pair.certificate.display())
        .with("server.tls.key", pair.key.display())
}

/// A gateway with a certificate, and a client that trusts it.
async fn start() -> (Authority, Gateway, TlsClient) {
    let authority = Authority::new();
    let gateway = with(&authority.issue("gateway")).start().await;
    let client = authority.client(gateway.public, &["http/1.1"]);
    (authority, gateway, client)
}

async fn publish(client: &TlsClient, topic: &str, data: &str) -> EventId {
    let body = serde_json::json!({ "topic": topic, "data": data }).to_string();
    let answer = client.ask(&Request::publish(body)).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    id(answer.json()["id"].as_str().unwrap())
}

#[tokio::test]
async fn events_are_published_followed_and_resumed() {
    let (_authority, _gateway, client) = start().await;
    let mut reader = client.events("topic=orders", None).await;
    assert_eq!(reader.replay(), "none");
    for data in ["a", "b"] {
        publish(&client, "orders", data).await;
    }
    assert_eq!(reader.take(2).await, ["a", "b"]);
    let cursor = reader.cursor();
    drop(reader);
    publish(&client, "orders", "c").await;
    let mut reader = client.events("topic=orders", Some(&cursor)).await;
    assert_eq!(reader.replay(), "complete");
    reader.replays(["c"]).await;
    publish(&client, "orders", "d").await;
    assert_eq!(reader.take(1).await, ["d"]);
    reader.stays_silent().await;
}

#[tokio::test]
async fn both_versions_of_tls_are_spoken() {
    let (authority, gateway, _) = start().await;
    for version in [&TLS12, &TLS13] {
        let client = authority.client_of(gateway.public, &["http/1.1"], &[version]);
        let mut reader = client.events("topic=orders", None).await;
        publish(&client, "orders", "a").await;
        assert_eq!(reader.take(1).await, ["a"]);
    }
}

#[tokio::test]
async fn the_protocol_is_agreed_in_the_handshake() {
    let (authority, gateway, _) = start().await;
    for (offered, agreed) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
        (&["h2"], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let client = authority.client(gateway.public, offered);
        let stream = client.shake().await;
        let got = stream.get_ref().1.alpn_protocol();
        assert_eq!(got, agreed.map(str::as_bytes), "offered {offered:?}");
    }
    // Who offers nothing speaks HTTP/1.1.
    let answer = authority
        .client(gateway.public, &[])
        .ask(&Request::get("/health/live"))
        .await;
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn streams_go_over_http_2() {
    let (authority, gateway, client) = start().await;
    let connection = authority.client(gateway.public, &["h2"]).connect().await;
    let mut reader = H2Client::over(connection, gateway.public).await;
    reader.get("/events?topic=orders").await;
    reader.data_until("$open").await;
    gateway.has_open_streams(1).await;
    let stored = publish(&client, "orders", "a").await;
    reader
        .data_until(&format!("id: {stored}\ndata: a\n\n"))
        .await;
}

/// A stream leaves the HTTP library also with TLS around its socket. Only the writer that then owns it closes a client that
/// keeps sending; the library would just not read.
#[tokio::test]
async fn a_stream_owns_its_connection() {
    let (_authority, gateway, client) = start().await;
    let mut connection = client.connect().await;
    connection
        .send(Request::get("/events?topic=orders").bytes(gateway.public))
        .await;
    let reader = Subscriber::begin(connection).await;
    assert_eq!(reader.head.header("connection"), Some("close"));
    let mut noisy = client.connect().await;
    noisy
        .send(Request::get("/events?topic=orders").bytes(gateway.public))
        .await;
    gateway.has_open_streams(2).await;
    for _ in 0..40 {
        if noisy.try_send(vec![b'x'; 4096]).await.is_err() {
            break;
        }
    }
    gateway.has_open_streams(1).await;
    has_line(
        &gateway,
        "tidegate_streams_closed_total{reason=\"noise\"} 1",
    )
    .await;
}

fn large(number: usize) -> String {
    format!("{number} {}", "x".repeat(60_000))
}

/// Many records, some of them begun when the socket was full: nothing is lost, doubled or out of order.
#[tokio::test]
async fn a_slow_reader_gets_every_byte() {
    const EVENTS: usize = 60;
    let (_authority, gateway, client) = start().await;
    let mut connection = client.connect_narrow().await;
    connection
        .send(Request::get("/events?topic=orders").bytes(gateway.public))
        .await;
    let mut slow = Subscriber::begin(connection).await;
    let reading = async {
        for wanted in 0..EVENTS {
            assert!(slow.next().await.data == large(wanted), "{wanted}");
            if wanted % 10 == 0 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    };
    let publishing = async {
        for number in 0..EVENTS {
            publish(&client, "orders", &large(number)).await;
        }
    };
    tokio::join!(publishing, reading);
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_closed_and_can_resume() {
    let authority = Authority::new();
    let gateway = with(&authority.issue("gateway"))
        .with("stream.write_timeout", "1s")
        .start()
        .await;
    let client = authority.client(gateway.public, &["http/1.1"]);
    let mut connection = client.connect_narrow().await;
    connection
        .send(Request::get("/events?topic=orders").bytes(gateway.public))
        .await;
    let mut stuck = Subscriber::begin(connection).await;
    for number in 0..20 {
        publish(&client, "orders", &large(number)).await;
    }
    gateway.has_open_streams(0).await;
    has_line(
        &gateway,
        "tidegate_streams_closed_total{reason=\"stuck\"} 1",
    )
    .await;
    let before = stuck.rest_until_cut().await.len();
    assert!(before < 20, "the test wants a cut");
    let mut again = client.events("topic=orders", Some(&stuck.cursor())).await;
    assert_eq!(again.replay(), "complete");
    for wanted in before..20 {
        assert!(again.next().await.data == large(wanted), "{wanted}");
    }
}

/// A last cursor, the last chunk, and the farewell of TLS itself: a client can tell it from a cut.
#[tokio::test]
async fn a_drain_ends_streams_whole() {
    let authority = Authority::new();
    let mut gateway = with(&authority.issue("gateway"))
        .with("drain.timeout", "10s")
        .start()
        .await;
    let client = authority.client(gateway.public, &["http/1.1"]);
    let mut reader = client.events("topic=orders", None).await;
    let mut other = client.connect().await;
    other
        .send(Request::get("/events?topic=orders").bytes(gateway.public))
        .await;
    gateway.has_open_streams(2).await;
    gateway.terminate();
    let rest = reader.rest().await;
    assert_eq!(rest.last().unwrap().event.as_deref(), Some("$drain"));
    assert!(reader.ended_whole());
    assert!(other.ends_cleanly().await, "TLS said that it ends");
    let exit = gateway.program().exit(PATIENCE).await;
    assert_eq!(exit.status.code(), Some(0), "{exit:?}");
}

/// Puts a file into the place of another, as tools that renew certificates do: whole, whoever looks at it.
fn put(new: &Path, old: &Path) {
    let beside = old.with_extension("new");
    fs::copy(new, &beside).unwrap();
    fs::rename(&beside, old).unwrap();
}

/// The same with both files of a pair.
fn replace(pair: &Pair, by: &Pair) {
    put(&by.key, &pair.key);
    put(&by.certificate, &pair.certificate);
}

async fn shows(client: &TlsClient, pair: &Pair) {
    let wanted = pair.der();
    eventually("the other certificate", async || {
        if client.certificate().await == wanted {
            Ok(())
        } else {
            Err("the old one".to_owned())
        }
    })
    .await;
}

#[tokio::test]
async fn a_renewed_certificate_is_used_and_open_streams_go_on() {
    let authority = Authority::new();
    let pair = authority.issue("gateway");
    let gateway = with(&pair).start().await;
    let client = authority.client(gateway.public, &["http/1.1"]);
    let old = pair.der();
    assert_eq!(client.certificate().await, old);
    let mut reader = client.events("topic=orders", None).await;
    let renewed = authority.issue("renewed");
    replace(&pair, &renewed);
    shows(&client, &renewed).await;
    publish(&client, "orders", "a").await;
    assert_eq!(reader.take(1).await, ["a"]);
    gateway.has_open_streams(1).await;
    has_line(&gateway, "tidegate_tls_reloads_total{outcome=\"ok\"} 1").await;
    let expiry = gateway
        .metric("tidegate_tls_certificate_expiry_timestamp_seconds")
        .await
        .unwrap();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs_f64();
    let days = (expiry - now) / 86_400.0;
    assert!((1.9..=2.0).contains(&days), "{days}");
}

/// Kubernetes swaps a link to a folder; the files in it never change.
#[tokio::test]
async fn a_link_that_leads_elsewhere_is_a_renewal() {
    let authority = Authority::new();
    let [first, second] = ["first", "second"].map(|name| authority.issue(name));
    let home = tempfile::TempDir::new().unwrap();
    let place = |name: &str, pair: &Pair| {
        let folder = home.path().join(name);
        fs::create_dir(&folder).unwrap();
        fs::copy(&pair.certificate, folder.join("tls.crt")).unwrap();
        fs::copy(&pair.key, folder.join("tls.key")).unwrap();
        folder
    };
    let (old, new) = (place("1", &first), place("2", &second));
    let link = home.path().join("data");
    std::os::unix::fs::symlink(&old, &link).unwrap();
    let linked = Pair {
        certificate: link.join("tls.crt"),
        key: link.join("tls.key"),
    };
    let gateway = with(&linked).start().await;
    let client = authority.client(gateway.public, &["http/1.1"]);
    assert_eq!(client.certificate().await, first.der());
    let next = home.path().join("next");
    std::os::unix::fs::symlink(&new, &next).unwrap();
    fs::rename(&next, &link).unwrap();
    shows(&client, &second).await;
}

/// A tool that writes the certificate and then the key, or a mistake: the old pair stays until there is one that fits.
#[tokio::test]
async fn what_does_not_fit_changes_nothing_until_it_does() {
    let authority = Authority::new();
    let pair = authority.issue("gateway");
    let old = pair.der();
    let mut gateway = with(&pair).start().await;
    let client = authority.client(gateway.public, &["http/1.1"]);
    let renewed = authority.issue("renewed");
    put(&renewed.certificate, &pair.certificate);
    let line = gateway
        .program()
        .line("that the files do not fit", |line| {
            line.contains("the old ones stay").then(|| line.to_owned())
        })
        .await;
    assert!(
        line.contains("gateway.key") && line.contains("gateway.pem"),
        "{line}"
    );
    assert_eq!(client.certificate().await, old);
    put(&renewed.key, &pair.key);
    shows(&client, &renewed).await;
    fs::write(&pair.certificate, "no certificate").unwrap();
    gateway
        .program()
        .line("that the file is none", |line| {
            line.contains("holds no certificate").then_some(())
        })
        .await;
    assert_eq!(client.certificate().await, renewed.der());
}

#[tokio::test]
async fn files_that_cannot_be_used_are_refused_at_the_start() {
    let authority = Authority::new();
    let (pair, other) = (authority.issue("gateway"), authority.issue("other"));
    let said = async |settings: Settings| settings.refuses_to_start().await.output;
    let certificate = |name: &str| {
        with(&pair)
            .without("server.tls.certificate")
            .with("server.tls.certificate", name)
    };
    let key = |name: &str| {
        with(&pair)
            .without("server.tls.key")
            .with("server.tls.key", name)
    };
    for (settings, wanted) in [
        (certificate("missing.pem"), ["missing.pem", "No such file"]),
        (
            certificate("text.pem").file("text.pem", "x"),
            ["text.pem", "-----BEGIN CERTIFICATE-----"],
        ),
        (key("missing.key"), ["missing.key", "No such file"]),
        (
            key("text.key").file("text.key", "x"),
            ["text.key", "-----BEGIN PRIVATE KEY-----"],
        ),
        (
            key(&other.key.display().to_string()),
            ["other.key", "gateway.pem"],
        ),
    ] {
        let output = said(settings).await;
        for word in wanted {
            assert!(output.contains(word), "wanted {word:?} in\n{output}");
        }
        assert!(output.contains("server.tls"), "{output}");
    }
}

#[tokio::test]
async fn who_speaks_cleartext_is_told() {
    let (_authority, gateway, client) = start().await;
    let answer = gateway.get("/health").await;
    let detail = answer.refuses(400, "request_malformed");
    assert!(detail.contains("https://"), "{detail}");
    let mut connection = gateway.connect().await;
    connection.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(connection.rest().await.starts_with(b"HTTP/1.1 400 "));
    let mut connection = gateway.connect().await;
    connection.send([0, 1, 2, 3]).await;
    assert_eq!(connection.rest().await, b"");
    publish(&client, "orders", "others are served").await;
}

#[tokio::test]
async fn handshakes_wait_for_each_other() {
    let authority = Authority::new();
    let gateway = with(&authority.issue("gateway"))
        .with("limits.handshakes", 2)
        .with("server.header_timeout", "20s")
        .start()
        .await;
    let client = authority.client(gateway.public, &["http/1.1"]);
    let asks = (0..200).map(|_| client.shake_patiently());
    let patience = Duration::from_secs(20);
    let shaking = futures_util::future::join_all(asks);
    let streams = within_time(patience, "200 handshakes", shaking).await;
    assert_eq!(streams.len(), 200);
    // The client is done before the gateway has heard so.
    has_line(
        &gateway,
        "tidegate_tls_handshakes_total{outcome=\"ok\"} 200",
    )
    .await;
    has_line(&gateway, "tidegate_tls_handshakes_in_flight 0").await;
}

/// Waits until the metrics have this line.
async fn has_line(gateway: &Gateway, line: &str) {
    eventually(line, async || {
        let page = gateway.get_admin("/metrics").await.text();
        let name = line.split(['{', ' ']).next().unwrap();
        if page.lines().any(|found| found == line) {
            return Ok(());
        }
        let family: Vec<&str> = page.lines().filter(|line| line.starts_with(name)).collect();
        Err(family.join("\n"))
    })
    .await;
}

/// A place among the handshakes is kept for a second; a client that stops in the middle must not shut the others out.
#[tokio::test]
async fn a_client_that_stops_in_the_middle_keeps_nobody_from_shaking_hands() {
    let authority = Authority::new();
    let gateway = with(&authority.issue("gateway"))
        .with("limits.handshakes", 1)
        .with("server.header_timeout", "4s")
        .start()
        .await;
    let client = authority.client(gateway.public, &["http/1.1"]);
    let mut stopped = Vec::new();
    let begun = Instant::now();
    for bytes in [&client.hello()[..], &client.hello()[..100], b"\x16"] {
        let mut connection = Connection::open(gateway.public).await;
        connection.send(bytes).await;
        stopped.push(connection);
    }
    publish(&client, "orders", "a").await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    for connection in &mut stopped {
        connection.rest().await;
    }
    let took = begun.elapsed();
    assert!(
        took > Duration::from_secs(3) && took < 2 * PATIENCE,
        "{took:?}"
    );
    has_line(
        &gateway,
        "tidegate_tls_handshakes_total{outcome=\"timeout\"} 3",
    )
    .await;
}

/// New keys in the middle of a stream are a matter of TLS alone.
#[tokio::test]
async fn a_client_may_change_its_keys() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (_authority, gateway, client) = start().await;
    let mut stream = client.shake().await;
    let request = Request::get("/events?topic=orders").bytes(gateway.public);
    stream.write_all(&request).await.unwrap();
    gateway.has_open_streams(1).await;
    for _ in 0..3 {
        stream.get_mut().1.refresh_traffic_keys().unwrap();
        stream.flush().await.unwrap();
    }
    publish(&client, "orders", "after the change").await;
    let mut got = String::new();
    while !got.contains("data: after the change") {
        let mut piece = [0; 4096];
        let read = within_time(PATIENCE, "the event", stream.read(&mut piece)).await;
        let count = read.unwrap();
        assert!(count > 0, "ended after {got:?}");
        got.push_str(&String::from_utf8_lossy(&piece[..count]));
    }
    gateway.has_open_streams(1).await;
}

/// The commands trust whom the machine trusts, or the file that they are told.
#[tokio::test]
async fn the_commands_speak_tls() {
    let (authority, gateway, client) = start().await;
    let mut reader = client.events("topic=orders", None).await;
    let url = format!("https://localhost:{}", gateway.public.port());
    let publishing = Settings::command(["publish", "orders", "a", "--url", &url]);
    let exit = publishing
        .clone()
        .env("SSL_CERT_FILE", &authority.file().display().to_string())
        .run()
        .exit(PATIENCE)
        .await;
    assert!(exit.status.success(), "{exit:?}");
    assert_eq!(reader.take(1).await, ["a"]);
    let exit = publishing
        .env(
            "SSL_CERT_FILE",
            &Authority::new().file().display().to_string(),
        )
        .run()
        .exit(PATIENCE)
        .await;
    assert!(!exit.status.success(), "{exit:?}");
    assert!(exit.output.contains("could not be trusted"), "{exit:?}");
    // A container has no name that the certificate knows.
    let pair = authority.issue("other");
    let exit = Settings::command(["healthcheck"])
        .with("server.tls.certificate", pair.certificate.display())
        .with("server.tls.key", pair.key.display())
        .with("server.listen", gateway.public)
        .with("admin.listen", gateway.admin)
        .run()
        .exit(PATIENCE)
        .await;
    assert!(exit.status.success(), "{exit:?}");
}

/// A balancer that only looks whether the port is open is no failed handshake.
#[tokio::test]
async fn who_says_nothing_has_not_failed() {
    let (_authority, gateway, _) = start().await;
    drop(gateway.connect().await);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let handshakes = gateway.metric("tidegate_tls_handshakes_total").await;
    assert_eq!(handshakes, Some(0.0));
}

/// A wrong record is no event of the stream: the connection ends, the permit is back.
#[tokio::test]
async fn a_stream_on_which_somebody_sends_no_tls_is_closed() {
    let (_authority, gateway, client) = start().await;
    let mut stream = client.shake().await;
    {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let request = Request::get("/events?topic=orders").bytes(gateway.public);
        stream.write_all(&request).await.unwrap();
        let mut first = [0; 16];
        stream.read_exact(&mut first).await.unwrap();
        gateway.has_open_streams(1).await;
        let (socket, _) = stream.get_mut();
        socket.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    }
    gateway.has_open_streams(0).await;
}
