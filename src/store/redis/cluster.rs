//! What a node of a cluster is asked, and what it answers.
//!
//! All keys have the hash tag `{0}`, so they are in one slot, and one node has it. `CLUSTER SLOTS` says which one, under the name
//! that the operator wants clients to use; `CLUSTER NODES` says by which decision, its epoch. (`CLUSTER SHARDS`, which is
//! newer, leaves out the slots of a shard whose master has failed, and has no epoch either.)

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time;

use super::{
    Shared,
    council::Word,
    link::{Link, LinkError},
    resp::{Request, Value},
    url::Address,
};

/// The slot of `{0}`: the first bits of CRC16 of `0`.
const SLOT: i64 = 13_907;
/// How often all masters are looked after.
const TEACH: Duration = Duration::from_mins(5);
/// The same where one of them did not take the functions.
const TEACH_AGAIN: Duration = Duration::from_secs(10);
/// How long a change waits for further ones.
const SETTLED: Duration = Duration::from_secs(1);
/// Nodes that are kept of one answer.
const NODES: usize = 1_000;

/// Which node has the keys.
pub(super) async fn ask(link: &mut Link, asked: &Address) -> Result<Word, LinkError> {
    // The epochs first: an old owner under a new epoch would win over the right one.
    let nodes = match link.ask(&Request::new("CLUSTER").arg("NODES")).await {
        // Who may not ask for it has no epochs.
        Err(LinkError::Refused(_)) => Value::Null,
        answer => answer?,
    };
    let slots = link.ask(&Request::new("CLUSTER").arg("SLOTS")).await?;
    let epochs = epochs_of(nodes.text().unwrap_or_default());
    Ok(word(&slots, &epochs, asked))
}

/// Whether this is still the node that has the keys, asked of itself. What moves right now is still there.
pub(super) async fn confirm(link: &mut Link, key: &str) -> Result<(), LinkError> {
    match link.ask(&Request::new("EXISTS").arg(key)).await {
        Err(LinkError::Refused(text)) if is_moving(&text) => Ok(()),
        answer => answer.map(|_| ()),
    }
}

/// Sees to it that all masters have the functions: other producers may connect to any of them once the slot has moved there.
/// It need not succeed, because each connection of ours brings them along.
pub(super) async fn teach(shared: Arc<Shared>) {
    let place = &shared.endpoint.place;
    let mut masters = place.masters.subscribe();
    let mut failed_before = false;
    loop {
        let all = masters.borrow_and_update().clone();
        let mut failed = Vec::new();
        for master in &all {
            let taught = tokio::select! {
                taught = shared.endpoint.teach(master) => taught,
                () = shared.stop.cancelled() => return,
            };
            if let Err(error) = taught {
                tracing::debug!(%master, %error, "a master of the cluster did not take the functions");
                failed.push(format!("{master}: {error}"));
            }
        }
        let again = if failed.is_empty() {
            TEACH
        } else {
            TEACH_AGAIN
        };
        // The first time it may be one that is about to be replaced.
        let warning = (failed_before && !failed.is_empty()).then(|| {
            format!(
                "masters of the cluster have no functions: {}",
                failed.join("; ")
            )
        });
        failed_before = !failed.is_empty();
        shared.health.untaught(warning);
        tokio::select! {
            () = time::sleep(again) => {}
            changed = masters.changed() => if changed.is_err() { return },
            () = shared.stop.cancelled() => return,
        }
        // Nodes that do not agree yet change it from one answer to the next.
        tokio::select! {
            () = time::sleep(SETTLED) => {}
            () = shared.stop.cancelled() => return,
        }
    }
}

/// Whether an error says that the slot is on its way to another node: nothing was done, and it may be the other way soon.
pub(super) fn is_moving(error: &str) -> bool {
    matches!(code(error), "ASK" | "TRYAGAIN")
}

fn code(error: &str) -> &str {
    error.split(' ').next().unwrap_or_default()
}

/// The server that a refusal names: `MOVED 13907 host:port`; without a host it is the one that was asked.
pub(super) fn moved(error: &str, asked: Option<&Address>) -> Option<Address> {
    let mut words = error.split(' ');
    if words.next() != Some("MOVED") {
        return None;
    }
    let (host, port) = words.nth(1)?.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = match host {
        "" | "?" => asked?.host(),
        host => host,
    };
    Address::new(host, port.parse().ok()?)
}

/// Node ids and the epochs of their configuration: `id address flags master ping pong epoch link slots…`, a line each.
fn epochs_of(nodes: &str) -> HashMap<&str, u64> {
    let line = |line| -> Option<(&str, u64)> {
        let mut words = str::split(line, ' ');
        Some((words.next()?, words.nth(5)?.parse().ok()?))
    };
    nodes.lines().take(NODES).filter_map(line).collect()
}

/// Ranges of slots: first, last, master, replicas…; a node is its host, port, id and what else there is to say of it.
fn word(slots: &Value, epochs: &HashMap<&str, u64>, asked: &Address) -> Word {
    let mut word = Word::default();
    let (mut shard, mut others) = (Vec::new(), Vec::new());
    for range in slots.array().unwrap_or_default().iter().take(NODES) {
        let Some([first, last, nodes @ ..]) = range.array() else {
            continue;
        };
        let (Some(first), Some(last), Some(owner)) = (first.number(), last.number(), nodes.first())
        else {
            continue;
        };
        let addresses = nodes.iter().filter_map(|node| address_of(node, asked));
        if (first..=last).contains(&SLOT) {
            word.master = address_of(owner, asked);
            let id = owner.array().and_then(|it| it.get(2)).and_then(Value::text);
            word.epoch = id.and_then(|id| epochs.get(id).copied()).unwrap_or(0);
            shard.extend(addresses);
        } else {
            others.extend(addresses);
        }
        word.masters.extend(address_of(owner, asked));
    }
    // In an order that all nodes agree on.
    for list in [&mut shard, &mut others, &mut word.masters] {
        list.sort();
        list.dedup();
    }
    shard.extend(others);
    word.guides = shard;
    word
}

/// Null where the node has no other name than the one it was asked by; `?` where it has a name that is not known.
fn address_of(node: &Value, asked: &Address) -> Option<Address> {
    let [host, port, rest @ ..] = node.array()? else {
        return None;
    };
    let known = |host: &Value| {
        host.text()
            .filter(|host| !matches!(*host, "" | "?"))
            .map(str::to_owned)
    };
    let host = match host {
        Value::Null => asked.host().to_owned(),
        host => known(host)
            .or_else(|| {
                let details = rest.get(1)?.array()?.chunks_exact(2);
                let mut ip = details.filter(|pair| pair[0].text() == Some("ip"));
                known(&ip.next()?[1])
            })
            .unwrap_or_else(|| asked.host().to_owned()),
    };
    Address::new(&host, port.number()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::redis::resp::tests::any_value;

    fn text(text: &str) -> Value {
        Value::Text(text.as_bytes().to_vec().into())
    }

    fn node(host: Value, port: i64, id: &str) -> Value {
        Value::Array(vec![
            host,
            Value::Number(port),
            text(id),
            Value::Array(vec![]),
        ])
    }

    fn range(first: i64, last: i64, nodes: Vec<Value>) -> Value {
        let slots = [first, last].map(Value::Number);
        Value::Array(slots.into_iter().chain(nodes).collect())
    }

    fn shown(addresses: &[Address]) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_slot_is_that_of_the_hash_tag() {
        // CRC16 (XMODEM), as the specification of Redis Cluster has it.
        let mut crc = 0_u16;
        for byte in b"0" {
            crc ^= u16::from(*byte) << 8;
            for _ in 0..8 {
                let high = crc & 0x8000 != 0;
                crc = (crc << 1) ^ if high { 0x1021 } else { 0 };
            }
        }
        assert_eq!(i64::from(crc % 16_384), SLOT);
    }

    #[test]
    fn the_owner_of_the_slot_comes_with_its_epoch_and_the_others() {
        let asked = Address::parse("seed", 7000).expect("an address");
        let ip = |n: u8| text(&format!("10.0.0.{n}"));
        let slots = Value::Array(vec![
            range(
                10_923,
                16_383,
                vec![node(ip(3), 7003, "c"), node(ip(6), 7006, "f")],
            ),
            range(
                0,
                5_460,
                vec![node(ip(1), 7001, "a"), node(ip(4), 7004, "d")],
            ),
            range(5_461, 10_922, vec![node(Value::Null, 7002, "b")]),
        ]);
        let nodes = "a 10.0.0.1:7001@17001 master - 0 1426238316232 2 connected 0-5460\n\
            c 10.0.0.3:7003@17003,host myself,master - 0 0 9 connected 10923-16383 [93-<-a]\n\
            f :0@0 slave,fail c 0 1 9 disconnected\n\nnonsense\nx y z - - - -1 q\n";
        let word = word(&slots, &epochs_of(nodes), &asked);
        assert_eq!(word.master, Address::parse("10.0.0.3:7003", 0).ok());
        assert_eq!(word.epoch, 9);
        let masters = ["10.0.0.1:7001", "10.0.0.3:7003", "seed:7002"];
        assert_eq!(shown(&word.masters), masters);
        let guides = [
            "10.0.0.3:7003",
            "10.0.0.6:7006",
            "10.0.0.1:7001",
            "10.0.0.4:7004",
            "seed:7002",
        ];
        assert_eq!(shown(&word.guides), guides);
    }

    #[test]
    fn a_node_is_named_as_the_operator_wants_or_as_it_was_asked() {
        let asked = Address::parse("seed", 7000).expect("an address");
        let details = |details: &[&str]| Value::Array(details.iter().map(|it| text(it)).collect());
        let of = |host: Value, details: Value| {
            let node = Value::Array(vec![host, Value::Number(6379), text("id"), details]);
            address_of(&node, &asked).map(|it| it.to_string())
        };
        let none = || details(&[]);
        assert_eq!(
            of(text("redis-0.local"), none()).as_deref(),
            Some("redis-0.local:6379")
        );
        assert_eq!(
            of(text("fd00::1"), none()).as_deref(),
            Some("[fd00::1]:6379")
        );
        assert_eq!(
            of(Value::Null, details(&["ip", "10.0.0.1"])).as_deref(),
            Some("seed:6379")
        );
        assert_eq!(of(text(""), none()).as_deref(), Some("seed:6379"));
        let unknown = details(&["x", "y", "ip", "10.0.0.1"]);
        assert_eq!(of(text("?"), unknown).as_deref(), Some("10.0.0.1:6379"));
        assert_eq!(of(text("?"), none()).as_deref(), Some("seed:6379"));
    }

    #[test]
    fn a_refusal_names_the_server_that_has_the_keys() {
        let asked = Address::parse("seed", 7000).expect("an address");
        let to = |error: &str| moved(error, Some(&asked)).map(|it| it.to_string());
        assert_eq!(
            to("MOVED 13907 10.0.0.2:7001").as_deref(),
            Some("10.0.0.2:7001")
        );
        assert_eq!(
            to("MOVED 13907 fd00::2:7001").as_deref(),
            Some("[fd00::2]:7001")
        );
        assert_eq!(to("MOVED 13907 :7001").as_deref(), Some("seed:7001"));
        assert_eq!(to("MOVED 13907 ?:7001").as_deref(), Some("seed:7001"));
        for other in [
            "ASK 13907 10.0.0.2:7001",
            "MOVED",
            "MOVED 1",
            "MOVED 1 a",
            "MOVED 1 a:x",
            "MOVED 1 a b:1",
        ] {
            assert_eq!(to(other), None, "{other}");
        }
        assert!(is_moving("ASK 13907 10.0.0.2:7001") && is_moving("TRYAGAIN Multiple keys"));
        assert!(!is_moving("MOVED 1 a:1") && !is_moving("ASKED"));
    }

    proptest! {
        #[test]
        fn no_answer_panics(slots in any_value(), nodes in any::<String>(), error in "(MOVED )?[ -~]{0,40}") {
            let asked = Address::parse("seed", 7000).expect("an address");
            let epochs = epochs_of(&nodes);
            let word = word(&slots, &epochs, &asked);
            prop_assert!(word.epoch == 0 || word.master.is_some());
            let _ = moved(&error, Some(&asked));
            let _ = moved(&error, None);
        }

        #[test]
        fn whoever_has_the_slot_is_found(ranges in prop::collection::vec((0..16_384_i64, 0..3_000_i64, 1..9_u16), 0..12)) {
            let asked = Address::parse("seed", 7000).expect("an address");
            let slots: Vec<Value> = ranges
                .iter()
                .map(|&(first, more, port)| range(first, first + more, vec![node(text("h"), port.into(), "i")]))
                .collect();
            let owners: Vec<u16> = ranges
                .iter()
                .filter(|(first, more, _)| (*first..=first + more).contains(&SLOT))
                .map(|(.., port)| *port)
                .collect();
            let word = word(&Value::Array(slots), &HashMap::new(), &asked);
            match word.master {
                Some(master) => prop_assert!(owners.contains(&master.port())),
                None => prop_assert!(owners.is_empty()),
            }
        }
    }
}
