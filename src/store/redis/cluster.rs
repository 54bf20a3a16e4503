//! What a node of a cluster is asked, and what it answers.
//!
//! All keys have the hash tag `{0}`, so they are in one slot, and one node has it. `CLUSTER SLOTS` says which one, under the name
//! that the operator wants clients to use; `CLUSTER NODES` says by which decision, its epoch. (`CLUSTER SHARDS`, which is
//! newer, leaves out the slots of a shard whose master has failed, and has no epoch either.)

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time;

use super::{
    Shared,
    link::{Link, LinkError},
    place::Word,
    resp::{Request, Value},
    url::Address,
};

/// The slot of `{0}`: the first bits of CRC16 of `0`.
const SLOT: i64 = 13_907;
/// How often all masters are looked after.
const TEACH: Duration = Duration::from_mins(5);
/// The same where one of them did not take the functions.
const TEACH_AGAIN: Duration = Duration::from_secs(10);
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
            if let Err(error) = shared.endpoint.teach(master).await {
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
