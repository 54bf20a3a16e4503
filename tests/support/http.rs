//! HTTP/1.1 as bytes: what was sent and what came is never tidied up.

use std::{fmt, net::SocketAddr};

use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use super::within;

/// A request, written exactly as it is put together.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// A request without a body.
    pub(crate) fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// `GET`
    pub(crate) fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// `POST`
    pub(crate) fn post(target: &str, content_type: &str, body: impl AsRef<[u8]>) -> Self {
        let mut request = Self::new("POST", target).header("Content-Type", content_type);
        request.body = body.as_ref().to_vec();
        request
    }

    /// One event or a batch.
    pub(crate) fn publish(body: impl AsRef<[u8]>) -> Self {
        Self::post("/publish", "application/json", body)
    }

    /// A stream of events.
    pub(crate) fn ndjson(body: impl AsRef<[u8]>) -> Self {
        Self::post("/publish", "application/x-ndjson", body)
    }

    /// Adds a header.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sends a body along.
    pub(crate) fn with_body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self
    }

    /// The bytes. `Host` and `Content-Length` are added where nobody set them.
    pub(crate) fn bytes(&self, host: SocketAddr) -> Vec<u8> {
        let has = |name: &str| {
            self.headers
                .iter()
                .any(|(set, _)| set.eq_ignore_ascii_case(name))
        };
        let mut head = vec![format!("{} {} HTTP/1.1", self.method, self.target)];
        if !has("host") {
            head.push(format!("Host: {host}"));
        }
        let headers = self.headers.iter();
        head.extend(headers.map(|(name, value)| format!("{name}: {value}")));
        let sized = has("content-length") || has("transfer-encoding");
        if !sized && (self.method == "POST" || !self.body.is_empty()) {
            head.push(format!("Content-Length: {}", self.body.len()));
        }
        let mut bytes = (head.join("\r\n") + "\r\n\r\n").into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    fn wants_no_body(&self) -> bool {
        self.method == "HEAD"
    }
}

/// The head of a response.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// As it came, with the blank line.
    pub(crate) raw: String,
    /// The three digits.
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
}

impl Head {
    fn parse(raw: &[u8]) -> Self {
        let raw = String::from_utf8(raw.to_vec()).unwrap();
        let mut lines = raw.trim_end_matches("\r\n").split("\r\n");
        let first = lines.next().unwrap();
        assert!(
            first.starts_with("HTTP/1.1 ") || first.starts_with("HTTP/1.0 "),
            "no status line: {first:?}"
        );
        let status = first[9..12].parse().unwrap();
        let headers = lines
            .map(|line| {
                let (name, value) = line.split_once(':').unwrap();
                (name.to_owned(), value.trim().to_owned())
            })
            .collect();
        Self {
            raw,
            status,
            headers,
        }
    }

    /// The value of a header that comes once; none if it is not there.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.all(name);
        let value = values.next();
        assert!(values.next().is_none(), "{name} comes twice:\n{}", self.raw);
        value
    }

    /// Every value of a header.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers
            .iter()
            .filter(move |(set, _)| set.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Every element of a header that is a list, in lower case.
    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        let elements = self.all(name).flat_map(|value| value.split(','));
        elements.map(|one| one.trim().to_lowercase()).collect()
    }

    /// Whether the body comes in chunks.
    pub(crate) fn chunked(&self) -> bool {
        self.header("transfer-encoding") == Some("chunked")
    }
}

/// A whole answer.
pub(crate) struct Response {
    /// Its head.
    pub(crate) head: Head,
    /// Its body, without the framing.
    pub(crate) body: Vec<u8>,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = String::from_utf8_lossy(&self.body);
        let body: String = body.chars().take(2_000).collect();
        write!(f, "\n{}{body}\n", self.head.raw)
    }
}

impl Response {
    /// The three digits.
    pub(crate) fn status(&self) -> u16 {
        self.head.status
    }

    /// See [`Head::header`].
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(json) => json,
            Err(error) => panic!("no JSON ({error}): {self:?}"),
        }
    }

    /// The problem, with every member that RFC 9457 and the design give it.
    pub(crate) fn problem(&self) -> Value {
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        let problem = self.json();
        for member in ["type", "title", "detail", "code", "request_id"] {
            let text = problem[member].as_str().unwrap_or_default();
            assert!(!text.is_empty(), "no {member:?} in {self:?}");
        }
        assert_eq!(problem["status"], self.status(), "{self:?}");
        problem
    }

    /// Asserts that this is a refusal, and returns its detail.
    pub(crate) fn refuses(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status(), status, "wanted {code}: {self:?}");
        let problem = self.problem();
        assert_eq!(problem["code"], code, "{self:?}");
        problem["detail"].as_str().unwrap().to_owned()
    }
}

/// What bytes go through.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A TCP connection, with TLS around it or without.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    address: SocketAddr,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let connecting = TcpStream::connect(address);
        let stream = within(format!("{address} to accept"), connecting).await;
        let stream = stream.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream, address)
    }

    /// Goes through what is there already.
    pub(crate) fn over(stream: impl Stream + 'static, address: SocketAddr) -> Self {
        Self {
            stream: Box::new(stream),
            address,
            buffer: Vec::new(),
        }
    }

    /// Connects with a receive buffer that is full after a few kilobytes.
    pub(crate) async fn open_narrow(address: SocketAddr) -> Self {
        Self::over(narrow(address).await, address)
    }

    /// Sends bytes as they are.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.unwrap();
    }

    /// Sends bytes to a peer that may have closed already.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        within(
            "the gateway to take what was sent",
            self.stream.write_all(bytes.as_ref()),
        )
        .await
    }

    /// The same, however long it takes.
    pub(crate) async fn try_send_patiently(
        &mut self,
        bytes: impl AsRef<[u8]>,
    ) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// Says that nothing more will be sent.
    pub(crate) async fn finish_sending(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// The same, to a peer that may have gone already.
    pub(crate) async fn try_finish_sending(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Reads what comes next; nothing means the end. Not bounded.
    pub(crate) async fn read(&mut self) -> Vec<u8> {
        if !self.buffer.is_empty() {
            return std::mem::take(&mut self.buffer);
        }
        let mut piece = vec![0; 64 * 1024];
        // A reset is an end, too: what came before it has been read.
        let count = self.stream.read(&mut piece).await.unwrap_or(0);
        piece.truncate(count);
        piece
    }

    /// How it ended: whether the other side has said that nothing more comes, or just went away.
    pub(crate) async fn ends_cleanly(&mut self) -> bool {
        let mut piece = vec![0; 1024];
        within("the end", async {
            loop {
                match self.stream.read(&mut piece).await {
                    Ok(0) => return true,
                    Ok(_) => {}
                    Err(_) => return false,
                }
            }
        })
        .await
    }

    /// Everything that comes until the other side closes.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        within("the gateway to close the connection", async {
            loop {
                let piece = self.read().await;
                if piece.is_empty() {
                    break;
                }
                rest.extend(piece);
            }
        })
        .await;
        rest
    }

    /// The next head.
    pub(crate) async fn head(&mut self) -> Head {
        within("the head of a response", self.patient_head()).await
    }

    async fn patient_head(&mut self) -> Head {
        let mut bytes = Vec::new();
        loop {
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                self.buffer = bytes.split_off(at + 4);
                return Head::parse(&bytes);
            }
            let piece = self.read().await;
            assert!(
                !piece.is_empty(),
                "the connection ended before the head did: {:?}",
                String::from_utf8_lossy(&bytes)
            );
            bytes.extend(piece);
        }
    }

    /// The next answer.
    pub(crate) async fn response(&mut self) -> Response {
        let head = self.head().await;
        self.response_of(head).await
    }

    /// The rest of the answer that begins with `head`.
    pub(crate) async fn response_of(&mut self, head: Head) -> Response {
        let what = format!("the whole body that belongs to\n{}", head.raw);
        let body = within(what, self.body(&head)).await;
        Response { head, body }
    }

    /// The next answer, however long it takes.
    pub(crate) async fn patient_response(&mut self) -> Response {
        let head = self.patient_head().await;
        let body = self.body(&head).await;
        Response { head, body }
    }

    /// The body that belongs to `head`.
    async fn body(&mut self, head: &Head) -> Vec<u8> {
        if head.status < 200 || head.status == 204 || head.status == 304 {
            return Vec::new();
        }
        let mut body = Vec::new();
        if head.chunked() {
            assert_eq!(head.header("content-length"), None, "{}", head.raw);
            let mut chunks = Chunks::default();
            while !chunks.ended() {
                let piece = self.read().await;
                assert!(!piece.is_empty(), "cut within the chunks: {}", head.raw);
                body.extend(chunks.feed(&piece));
            }
            self.buffer = chunks.rest();
        } else if let Some(length) = head.header("content-length") {
            let length: usize = length.parse().unwrap();
            while body.len() < length {
                let piece = self.read().await;
                assert!(!piece.is_empty(), "cut within the body: {}", head.raw);
                body.extend(piece);
            }
            self.buffer = body.split_off(length);
        } else {
            loop {
                let piece = self.read().await;
                if piece.is_empty() {
                    break;
                }
                body.extend(piece);
            }
        }
        body
    }

    /// Sends a request and reads its answer.
    pub(crate) async fn ask(&mut self, request: &Request) -> Response {
        // A gateway that refuses before it has read everything may answer and close while we still write.
        let _ = self.try_send(request.bytes(self.address)).await;
        if request.wants_no_body() {
            let head = self.head().await;
            return Response {
                head,
                body: Vec::new(),
            };
        }
        self.response().await
    }
}

/// A socket with little room for what is not read.
pub(super) async fn narrow(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let connecting = socket.connect(address);
    let stream = within(format!("{address} to accept"), connecting).await;
    stream.unwrap()
}

/// Reads the chunks of HTTP/1.1, and panics on what is not exactly one.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    buffer: Vec<u8>,
    ended: bool,
}

impl Chunks {
    /// Takes the next bytes, and returns the data that they complete.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.buffer.extend_from_slice(bytes);
        let mut data = Vec::new();
        let mut taken = 0;
        while !self.ended {
            let rest = &self.buffer[taken..];
            let Some(line) = rest.windows(2).position(|two| two == b"\r\n") else {
                assert!(rest.len() < 32, "no chunk size: {}", rest.escape_ascii());
                break;
            };
            let text = std::str::from_utf8(&rest[..line]).unwrap();
            let Ok(size) = usize::from_str_radix(text, 16) else {
                panic!("no chunk size: {text:?}")
            };
            let end = line + 2 + size;
            if rest.len() < end + 2 {
                break;
            }
            assert_eq!(&rest[end..end + 2], b"\r\n", "a chunk ends with CRLF");
            data.extend_from_slice(&rest[line + 2..end]);
            taken += end + 2;
            self.ended = size == 0;
        }
        self.buffer.drain(..taken);
        data
    }

    /// Whether the last chunk has come.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// What came after the last chunk.
    pub(crate) fn rest(self) -> Vec<u8> {
        self.buffer
    }
}
