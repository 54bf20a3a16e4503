//! What a sentinel is asked, and what it answers.
//!
//! `GET-MASTER-ADDR-BY-NAME` is what clients ask; the one that leads a failover names the new master there as soon as that has
//! taken over, before it announces `+switch-master`. `MASTER` says by which decision, its epoch. Both are asked again at each
//! news; who may not subscribe to news is asked once a second.

use super::{
    link::{Link, LinkError},
    place::Word,
    resp::{Request, Value},
    url::Address,
};

/// A sentinel has chosen a replica, and makes it the master about 100 ms later.
const CHOSEN: &str = "+failover-state-send-slaveof-noone";
/// After which news the answer may be another one.
const NEWS: [&str; 3] = ["+switch-master", "+promoted-slave", CHOSEN];
/// Others that one sentinel may name.
const OTHERS: usize = 16;

/// Asks for news, which come as pushes. A sentinel that refuses it is asked the more often.
pub(super) async fn listen(link: &mut Link) -> Result<(), LinkError> {
    link.tell(&Request::new("SUBSCRIBE").args(NEWS)).await?;
    // A subscription has no reply, but a refusal is one: what comes before the answer to this is the refusal.
    match link.ask(&Request::new("PING")).await {
        Err(LinkError::Refused(why)) => {
            tracing::debug!(%why, "a sentinel does not tell news");
            link.reply().await.map(|_| ())
        }
        answer => answer.map(|_| ()),
    }
}

/// Where the master is. `known` are the other sentinels, from one time to the next.
pub(super) async fn ask(
    link: &mut Link,
    master: &str,
    known: &mut Vec<Address>,
) -> Result<Word, LinkError> {
    let about = |what: &str| Request::new("SENTINEL").arg(what).arg(master);
    // The epoch first: an old address under a new epoch would win over the right one.
    let state = optional(link.ask(&about("MASTER")).await)?;
    let address = link.ask(&about("GET-MASTER-ADDR-BY-NAME")).await?;
    // Who may not ask for the others knows those that were configured.
    if let Some(others) = optional(link.ask(&about("SENTINELS")).await)? {
        *known = others_of(&others);
    }
    Ok(Word {
        master: address_of(&address),
        epoch: state.as_ref().map_or(0, epoch_of),
        guides: known.clone(),
        masters: Vec::new(),
    })
}

/// The replica that is made the master next, if that is the news: `slave name host port @ master host port`.
pub(super) fn chosen(news: &[Value], master: &str) -> Option<Address> {
    let [_, channel, text] = news else {
        return None;
    };
    if channel.text() != Some(CHOSEN) {
        return None;
    }
    let words: Vec<&str> = text.text()?.split(' ').collect();
    let ["slave", _, host, port, "@", of, ..] = words[..] else {
        return None;
    };
    let replica = Address::new(host, port.parse().ok()?);
    replica.filter(|_| of == master)
}

fn optional(answer: Result<Value, LinkError>) -> Result<Option<Value>, LinkError> {
    match answer {
        Err(LinkError::Refused(_)) => Ok(None),
        answer => answer.map(Some),
    }
}

/// Host and port; null where the sentinel knows no master of that name.
fn address_of(answer: &Value) -> Option<Address> {
    let [host, port] = answer.array()? else {
        return None;
    };
    Address::new(host.text()?, port.number()?)
}

/// Names and values in turn.
fn field<'a>(fields: &'a Value, name: &str) -> Option<&'a Value> {
    let mut pairs = fields.array()?.chunks_exact(2);
    pairs
        .find(|pair| pair[0].text() == Some(name))
        .map(|pair| &pair[1])
}

fn epoch_of(state: &Value) -> u64 {
    let epoch = field(state, "config-epoch").and_then(Value::number);
    epoch
        .and_then(|epoch| u64::try_from(epoch).ok())
        .unwrap_or(0)
}

fn others_of(answer: &Value) -> Vec<Address> {
    let others = answer.array().unwrap_or_default().iter();
    let mut others: Vec<Address> = others
        .filter_map(|it| Address::new(field(it, "ip")?.text()?, field(it, "port")?.number()?))
        .take(OTHERS)
        .collect();
    others.sort();
    others
}
