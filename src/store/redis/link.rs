//! One connection to Redis: opened, introduced, and ready for the log.

use std::{io, sync::Arc, time::Duration};

use bytes::BytesMut;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    net::TcpStream,
    time,
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::{
    RedisTls, RedisUrl,
    calls::Calls,
    cluster, library,
    place::{Hold, Place, Via},
    resp::{Decoder, Request, RespError, Value},
    tls::{RedisTlsError, client_config},
    url::{Address, Credentials},
};

/// How long opening a connection and each answer of its introduction may take.
const CONNECT: Duration = Duration::from_secs(3);
/// Input that one read may bring.
const READ: usize = 64 * 1024;
/// Pushes that are put aside while a reply is waited for.
const NEWS: usize = 64;
/// The oldest version with functions and sharded channels.
const VERSION_NEEDED: u64 = 7;

/// A connection of any kind.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Why there is no connection, or none any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("cannot connect to {0}: {1}")]
    Connect(Box<str>, io::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it did not answer in time")]
    Silent,
    #[error("the connection was closed")]
    Closed,
    #[error("it sent what is no RESP3: {0}")]
    Resp(#[from] RespError),
    #[error("it answered: {0}")]
    Refused(Box<str>),
    #[error("it answered something else than was expected")]
    Unexpected,
    #[error(
        "it is version {0}, Redis {VERSION_NEEDED} or later is needed (or Valkey): older ones have no functions"
    )]
    TooOld(Box<str>),
    #[error("it has no functions ({functions}), and takes no scripts instead of them ({scripts})")]
    NoFunctions {
        functions: Box<str>,
        scripts: Box<str>,
    },
    #[error("it took a subscription away: the channel has moved to another server")]
    Unsubscribed,
    #[error("it is a replica, which takes no writes: name the master")]
    Replica,
    #[error("it is a sentinel, which has no data: name it in redis.sentinel.nodes")]
    Sentinel,
    #[error(
        "it is a node of a cluster, and another one has the keys ({0}): name nodes of it in redis.cluster.nodes"
    )]
    Node(Box<str>),
    #[error("it is no sentinel, but a server")]
    NoSentinel,
    #[error("the master is another server now")]
    Elsewhere,
    #[error("{0}")]
    NoMaster(Box<str>),
}

/// Where connections go, and how they are introduced.
pub(super) struct Endpoint {
    pub(super) place: Arc<Place>,
    door: Door,
    db: u32,
    /// A key of ours: a node of a cluster says by it whether it has the keys.
    key: Arc<str>,
}

/// The way to a server, whichever it is: encrypted or not, and as whom.
#[derive(Clone, Default)]
pub(super) struct Door {
    tls: Option<TlsConnector>,
    credentials: Credentials,
}

impl Endpoint {
    pub(super) fn new(
        url: &RedisUrl,
        via: Via,
        tls: &RedisTls,
        key: Arc<str>,
        stop: CancellationToken,
    ) -> Result<Self, RedisTlsError> {
        let connector = if url.tls() {
            Some(TlsConnector::from(Arc::new(client_config(tls)?)))
        } else {
            None
        };
        let door = Door {
            tls: connector,
            credentials: url.credentials(),
        };
        Ok(Self {
            place: Place::new(via, url, door.clone(), stop),
            door,
            db: url.db(),
            key,
        })
    }

    /// Opens a connection to the server that takes writes. `purpose` is the name under which `CLIENT LIST` shows it.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub(super) async fn connect(&self, purpose: &str) -> Result<Link, LinkError> {
        let (address, mut hold) = self.place.find().await?;
        let opened = async {
            let mut link = self.door.open(&address).await?;
            self.introduce(&mut link, purpose).await?;
            Ok::<_, LinkError>(link)
        };
        let mut link = tokio::select! {
            opened = opened => opened?,
            // A server that is away may take its time to say nothing.
            () = hold.lost() => return Err(LinkError::Elsewhere),
        };
        // The server that a URL names stays the same, and is not asked for in each turn of a busy connection.
        link.hold = (*self.place.via() != Via::Url).then_some(hold);
        Ok(link)
    }

    /// A connection was not opened, or has ended: where the server is may have to be found out anew.
    pub(super) fn failed(&self, error: &LinkError) {
        self.place.failed(error);
    }

    /// Brings the functions to this server.
    pub(super) async fn teach(&self, server: &Address) -> Result<(), LinkError> {
        let mut link = self.door.open(server).await?;
        self.door.hello(&mut link, "functions").await?;
        library::load(&mut link).await
    }

    async fn introduce(&self, link: &mut Link, purpose: &str) -> Result<(), LinkError> {
        let about = self.door.hello(link, purpose).await?;
        let mode = mode(&about);
        if mode == Some("sentinel") {
            return Err(LinkError::Sentinel);
        }
        let version = about_field(&about, "version").ok_or(LinkError::Unexpected)?;
        let major = version
            .split('.')
            .next()
            .and_then(|major| major.parse().ok());
        if major.is_none_or(|major: u64| major < VERSION_NEEDED) {
            return Err(LinkError::TooOld(version.into()));
        }
        if role(&about).is_some_and(|role| role != "master") {
            return Err(LinkError::Replica);
        }
        if self.db > 0 {
            let select = Request::new("SELECT").arg(self.db.to_string());
            link.ask(&select).await?;
        }
        match self.place.via() {
            Via::Cluster(_) => cluster::confirm(link, &self.key).await,
            _ if mode == Some("cluster") => match cluster::confirm(link, &self.key).await {
                Err(LinkError::Refused(text)) if text.starts_with("MOVED ") => {
                    Err(LinkError::Node(text))
                }
                confirmed => confirmed,
            },
            _ => Ok(()),
        }
    }
}

impl Door {
    /// The same way, for somebody else.
    #[must_use]
    pub(super) fn with(self, credentials: Credentials) -> Self {
        Self {
            credentials,
            ..self
        }
    }

    /// Opens a connection, and says nothing yet.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub(super) async fn open(&self, to: &Address) -> Result<Link, LinkError> {
        let open = time::timeout(CONNECT, self.dial(to)).await;
        let (reader, writer) = tokio::io::split(open.map_err(|_| LinkError::Silent)??);
        Ok(Link {
            reader,
            writer,
            decoder: Decoder::default(),
            input: BytesMut::with_capacity(READ),
            calls: Calls::default(),
            news: Vec::new(),
            hold: None,
            tls: self.tls.is_some(),
        })
    }

    async fn dial(&self, to: &Address) -> Result<Box<dyn Io>, LinkError> {
        let (host, port) = (to.host(), to.port());
        let failed = |error| LinkError::Connect(to.to_string().into(), error);
        let tcp = TcpStream::connect((host, port)).await.map_err(failed)?;
        tcp.set_nodelay(true)?;
        let socket = socket2::SockRef::from(&tcp);
        let keepalive = socket2::TcpKeepalive::new()
            .with_time(Duration::from_secs(15))
            .with_interval(Duration::from_secs(5));
        socket.set_tcp_keepalive(&keepalive)?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(tcp));
        };
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Ok(Box::new(tls.connect(name, tcp).await.map_err(failed)?))
    }

    /// Says who speaks. What the server says of itself is returned.
    pub(super) async fn hello(&self, link: &mut Link, purpose: &str) -> Result<Value, LinkError> {
        let mut hello = Request::new("HELLO").arg("3");
        let Credentials { username, password } = &self.credentials;
        if password.is_some() || username.is_some() {
            let name = username.as_deref().unwrap_or("default");
            let password = password.as_deref().unwrap_or_default();
            hello = hello.arg("AUTH").arg(name).arg(password);
        }
        let hello = hello.arg("SETNAME").arg(format!("tidegate-{purpose}"));
        match link.ask(&hello).await {
            Err(LinkError::Refused(text)) if text.contains("unknown command") => {
                Err(LinkError::TooOld("6 or older".into()))
            }
            answer => answer,
        }
    }
}

/// An open connection.
pub(super) struct Link {
    pub(super) reader: ReadHalf<Box<dyn Io>>,
    pub(super) writer: WriteHalf<Box<dyn Io>>,
    pub(super) decoder: Decoder,
    pub(super) input: BytesMut,
    /// How this server is called; [`super::library::load`] finds out.
    pub(super) calls: Calls,
    /// Pushes that came before a reply.
    pub(super) news: Vec<Vec<Value>>,
    /// The place that it was opened at; none where it goes to a named server, whatever that is.
    pub(super) hold: Option<Hold>,
    tls: bool,
}

impl Link {
    /// Sends one request and waits for its reply. Nothing else may be under way.
    pub(super) async fn ask(&mut self, request: &Request) -> Result<Value, LinkError> {
        let asked = async {
            self.tell(request).await?;
            self.reply().await
        };
        let answer = time::timeout(CONNECT, asked).await;
        answer.map_err(|_| LinkError::Silent)?
    }

    /// Sends one request.
    pub(super) async fn tell(&mut self, request: &Request) -> Result<(), LinkError> {
        let mut output = BytesMut::with_capacity(request.len());
        request.write(self.calls, &mut output);
        self.writer.write_all(&output).await?;
        Ok(self.writer.flush().await?)
    }

    /// Waits for the next reply, as long as it takes. Pushes before it are put aside.
    pub(super) async fn reply(&mut self) -> Result<Value, LinkError> {
        loop {
            match self.decoder.decode(&mut self.input)? {
                Some(Value::Push(values)) => {
                    if self.news.len() < NEWS {
                        self.news.push(values);
                    }
                }
                Some(Value::Error(text)) => return Err(LinkError::Refused(text)),
                Some(value) => return Ok(value),
                None => read(&mut self.reader, &mut self.input).await?,
            }
        }
    }
}

/// Waits until the place of a connection is another one.
///
/// # Cancel safety
/// Dropping the future loses nothing.
pub(super) async fn lost(hold: &mut Option<Hold>) {
    match hold {
        Some(hold) => hold.lost().await,
        None => std::future::pending().await,
    }
}

/// A field of what `HELLO` answers.
fn about_field<'a>(about: &'a Value, name: &str) -> Option<&'a str> {
    let pairs = about.array()?.chunks_exact(2);
    let [_, value] = pairs
        .filter_map(|pair| <&[Value; 2]>::try_from(pair).ok())
        .find(|[field, _]| field.text() == Some(name))?;
    value.text()
}

/// What the server is for, as `HELLO` says it: `standalone`, `cluster` or `sentinel`.
pub(super) fn mode(about: &Value) -> Option<&str> {
    about_field(about, "mode")
}

/// What the server is, as `HELLO` says it: `master` or `replica`.
pub(super) fn role(about: &Value) -> Option<&str> {
    about_field(about, "role")
}

/// Reads what has come, at least one byte.
///
/// # Cancel safety
/// Dropping the future loses nothing.
pub(super) async fn read(
    reader: &mut ReadHalf<Box<dyn Io>>,
    input: &mut BytesMut,
) -> Result<(), LinkError> {
    input.reserve(READ);
    match reader.read_buf(input).await? {
        0 => Err(LinkError::Closed),
        _ => Ok(()),
    }
}

/// What waits to be written.
pub(super) struct Output {
    pub(super) bytes: BytesMut,
    /// How many bytes the connection has taken.
    pub(super) written: u64,
    /// TLS holds back what it has not been told to flush.
    unflushed: bool,
    tls: bool,
}

impl Output {
    pub(super) fn new(link: &Link) -> Self {
        Self {
            bytes: BytesMut::new(),
            written: 0,
            unflushed: false,
            tls: link.tls,
        }
    }

    pub(super) fn is_pending(&self) -> bool {
        self.unflushed || !self.bytes.is_empty()
    }

    /// Where the next byte will stand.
    pub(super) fn end(&self) -> u64 {
        self.written + self.bytes.len() as u64
    }

    /// What would stand from this byte on is not written.
    pub(super) fn keep_until(&mut self, end: u64) {
        let kept = end.saturating_sub(self.written);
        self.bytes
            .truncate(usize::try_from(kept).unwrap_or(usize::MAX));
    }

    /// Writes what can be written.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: what was written is gone from the buffer.
    pub(super) async fn write(
        &mut self,
        writer: &mut WriteHalf<Box<dyn Io>>,
    ) -> Result<(), LinkError> {
        if !self.bytes.is_empty() {
            let end = self.end();
            let taken = writer.write_buf(&mut self.bytes).await;
            if taken.is_err() && self.tls {
                // It writes in pieces, and does not tell which of them had left.
                self.written = end;
            }
            let taken = taken?;
            if taken == 0 {
                return Err(LinkError::Closed);
            }
            self.written += taken as u64;
            self.unflushed = true;
        }
        if self.bytes.is_empty() {
            writer.flush().await?;
            self.unflushed = false;
        }
        Ok(())
    }
}
