//! Sockets that end at each byte of a handshake and of the messages after it: what was said in full counts once, what was not
//! said to its end does not count, and nothing is left behind.

use std::collections::HashMap;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::support::{Frame, Gateway, PATIENCE, within_time};

/// Sockets that are open at once.
const CROWD: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Way {
    /// The client sends no more, and reads what there still is.
    Finishes,
    /// The client's kernel resets the connection.
    Resets,
}

/// What one client sends, and the place from which on its publish has been said in full.
fn said(gateway: &Gateway, data: &str) -> (Vec<u8>, usize) {
    let mut bytes = gateway.ws("topic=orders").bytes();
    let mut say = |message: serde_json::Value| {
        bytes.extend(Frame::text(message.to_string()).bytes());
        bytes.len()
    };
    say(json!({"type": "subscribe", "ref": 1, "topics": ["other"], "lastEventId": "earliest"}));
    let published = say(json!({"type": "publish", "topic": "orders", "data": data}));
    say(json!({"type": "unsubscribe", "topics": ["other"]}));
    bytes.extend(Frame::close(1000, "bye").bytes());
    (bytes, published)
}

async fn is_cut(gateway: std::net::SocketAddr, bytes: Vec<u8>, way: Way) {
    let mut socket = TcpStream::connect(gateway).await.unwrap();
    // In two pieces, so that the place where they meet moves over all bytes too. The server may have had enough before.
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let sent = async {
        socket.write_all(first).await?;
        tokio::task::yield_now().await;
        socket.write_all(second).await
    };
    let sent: std::io::Result<()> = sent.await;
    match way {
        Way::Finishes => {
            sent.unwrap();
            socket.shutdown().await.unwrap();
            let mut rest = Vec::new();
            // A server that closes with something unread resets, which ends it too.
            let _ = within_time(PATIENCE, "the end", socket.read_to_end(&mut rest)).await;
        }
        Way::Resets => {
            socket.set_zero_linger().unwrap();
            drop(socket);
        }
    }
}

#[tokio::test]
async fn a_socket_may_end_at_every_byte() {
    let gateway = Gateway::start().await;
    let mut witness = gateway.follow("orders").await;
    let name = |way: Way, cut: usize| format!("{way:?} {cut:04}");
    let (longest, _) = said(&gateway, &name(Way::Finishes, 0));
    // What must come, or may.
    let mut owed = HashMap::new();
    let mut crowd = JoinSet::new();
    for way in [Way::Finishes, Way::Resets] {
        for cut in 0..=longest.len() {
            let data = name(way, cut);
            let (mut bytes, published) = said(&gateway, &data);
            if cut >= published {
                owed.insert(data, way == Way::Finishes);
            }
            bytes.truncate(cut);
            crowd.spawn(is_cut(gateway.public, bytes, way));
            if crowd.len() >= CROWD {
                crowd.join_next().await.unwrap().unwrap();
            }
        }
    }
    crowd.join_all().await;
    // The witness stays.
    gateway.has_seen_all_leave_but(1).await;
    gateway.has_places_taken(1).await;
    gateway.publish("orders", "the last").await;
    loop {
        let event = witness.next().await;
        if event.data == "the last" {
            break;
        }
        let known = owed.remove(&event.data);
        assert!(
            known.is_some(),
            "{:?} was not said to its end, or came twice",
            event.data
        );
    }
    let lost: Vec<_> = owed.into_iter().filter(|(_, must)| *must).collect();
    assert!(lost.is_empty(), "said in full, and not stored: {lost:?}");
    drop(witness);
    gateway.has_places_taken(0).await;
}
