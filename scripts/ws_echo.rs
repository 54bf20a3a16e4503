//! What `scripts/autobahn` talks to: the gateway's own handshake and WebSocket settings, and behind them an echo.
//!
//! Only the sizes differ: the suite sends 16 MiB in one message, the gateway takes `limits.body_bytes`.

use std::{convert::Infallible, io::Write};

use anyhow::Result;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::service_fn,
    upgrade::{self, OnUpgrade},
};
use hyper_util::rt::TokioIo;
use tidegate::http::ws::{
    handshake,
    socket::{self, Limits},
};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::{
    Error, Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

const LIMITS: Limits = Limits {
    incoming_bytes: 16 * 1024 * 1024,
    outgoing_bytes: 16 * 1024 * 1024,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(async move {
            let connection =
                http1::Builder::new().serve_connection(TokioIo::new(socket), service_fn(answer));
            // What ends it early is the suite's own doing, and judged there.
            let _ = connection.with_upgrades().await;
        });
    }
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let mut response = Response::new(Empty::new());
    match handshake::accept(request.version(), request.headers()) {
        Ok(accept) => {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            accept.write(response.headers_mut());
            tokio::spawn(echo(upgrade::on(&mut request)));
        }
        Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    Ok(response)
}

async fn echo(upgraded: OnUpgrade) {
    let Ok(io) = upgraded.await else { return };
    let mut socket = socket::server(TokioIo::new(io), Bytes::new(), LIMITS).await;
    while let Some(message) = socket.next().await {
        let said = match message {
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => socket.send(message).await,
            // The library answers pings and closes itself.
            Ok(_) => Ok(()),
            Err(error) => {
                // As the gateway's sessions end.
                let code = match error {
                    Error::Utf8(_) => CloseCode::Invalid,
                    Error::Capacity(_) => CloseCode::Size,
                    Error::Protocol(_) => CloseCode::Protocol,
                    _ => return,
                };
                let reason = "".into();
                let close = Message::Close(Some(CloseFrame { code, reason }));
                let _ = socket.send(close).await;
                return;
            }
        };
        if said.is_err() {
            return;
        }
    }
}
