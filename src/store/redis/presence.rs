//! Who follows which topic, as all replicas have said it. What is atomic, and why, stands in `functions.lua`.

use std::sync::Arc;

use super::{
    ask,
    calls::Function,
    keys::Keys,
    pipe::Pipe,
    resp::{Request, Value},
    unexpected,
};
use crate::{
    event::Topic,
    store::{
        StoreError,
        presence::{
            CHANGES, Heard, LISTED, Mark, Presence, Present, Standing, Turn, Whereabouts, Word,
        },
    },
};

/// About how many names one step of a scan brings.
const STEP: &str = "1000";

/// What a word is about: its topics, each once, and where each user belongs.
struct Places<'a> {
    topics: Vec<&'a Topic>,
    /// From 1; 0 is no topic.
    numbers: Vec<usize>,
}

impl<'a> Places<'a> {
    fn of(all: impl Iterator<Item = &'a Whereabouts>) -> Self {
        let mut topics: Vec<&Topic> = Vec::new();
        let numbers = all.map(|it| {
            let Some(topic) = &it.topic else {
                return 0;
            };
            // Those of one stream, and of streams that came together, stand together.
            let known = topics.iter().rposition(|known| *known == topic);
            1 + known.unwrap_or_else(|| {
                topics.push(topic);
                topics.len() - 1
            })
        });
        let numbers = numbers.collect();
        Self { topics, numbers }
    }

    /// A call with the keys of these places.
    fn call(&self, function: Function, keys: &Keys, replica: &str) -> Request {
        let own = keys.presence_of(replica);
        let of_topics: Vec<String> = self
            .topics
            .iter()
            .flat_map(|topic| {
                let events = topic.presence();
                [
                    keys.presence(topic),
                    keys.topic(&events),
                    keys.channel(&events),
                ]
            })
            .collect();
        let mut names: Vec<&str> = vec![
            &keys.meta,
            &keys.last,
            &keys.heads,
            &keys.presences,
            &keys.users,
            &own,
        ];
        names.extend(of_topics.iter().map(String::as_str));
        Request::call(function, &names).arg(replica)
    }

    fn name(&self, request: Request) -> Request {
        let request = request.arg(self.topics.len().to_string());
        request.args(self.topics.iter().map(|topic| topic.as_str()))
    }
}

/// Takes the word of a replica.
pub(super) async fn hear(pipe: &Pipe, keys: &Keys, word: &Word) -> Result<Heard, StoreError> {
    let places = Places::of(word.changes.iter().map(|(_, whereabouts)| whereabouts));
    let (table, number) = match &word.after {
        Some(mark) => (&*mark.table, mark.number),
        None => ("", 0),
    };
    let request = places
        .call(Function::PRESENCE, keys, &word.replica)
        .arg(word.lease.as_millis().to_string())
        .arg(table)
        .arg(number.to_string())
        .arg(format!("{:016x}", rand::random::<u64>()));
    let mut request = places.name(request);
    for ((turn, whereabouts), number) in word.changes.iter().zip(&places.numbers) {
        request.push(match turn {
            Turn::Comes => "+",
            Turn::Stays => "=",
            Turn::Goes => "-",
        });
        request.push(number.to_string());
        request.push(&*whereabouts.user);
    }
    let reply = ask(pipe, request).await?;
    heard(&reply).ok_or_else(unexpected)
}

fn heard(reply: &Value) -> Option<Heard> {
    let [table, number, standing, joined, left, over @ ..] = reply.array()? else {
        return None;
    };
    Some(Heard {
        mark: Mark {
            table: table.text()?.into(),
            number: count(number)?,
        },
        standing: match standing.text()? {
            "kept" => Standing::Kept,
            "doubtful" => Standing::Doubtful,
            "lost" => Standing::Lost,
            _ => return None,
        },
        events: [count(joined)?, count(left)?],
        over: over
            .iter()
            .map(|it| Some(it.text()?.into()))
            .collect::<Option<_>>()?,
    })
}

fn count(value: &Value) -> Option<u64> {
    value.number()?.try_into().ok()
}

/// Takes some of what a replica has said, if it can no longer stand for it.
pub(super) async fn sweep(
    pipe: &Pipe,
    keys: &Keys,
    replica: &str,
) -> Result<(bool, [u64; 2]), StoreError> {
    let some = Request::new("HRANDFIELD")
        .arg(keys.presence_of(replica))
        .arg(CHANGES.to_string());
    let some = ask(pipe, some).await?;
    let fields = some.array().ok_or_else(unexpected)?.iter();
    let some: Vec<Whereabouts> = fields.filter_map(whereabouts).collect();
    let places = Places::of(some.iter());
    let mut request = places.name(places.call(Function::PRESENCE_SWEEP, keys, replica));
    for (one, number) in some.iter().zip(&places.numbers) {
        request.push(number.to_string());
        request.push(&*one.user);
    }
    let reply = ask(pipe, request).await?;
    let [more, joined, left] = reply.array().ok_or_else(unexpected)? else {
        return Err(unexpected());
    };
    let figure = |value| count(value).ok_or_else(unexpected);
    Ok((
        // What is none of ours would be looked at for ever.
        figure(more)? > 0 && !some.is_empty(),
        [figure(joined)?, figure(left)?],
    ))
}

/// As `presence-of:<replica>` has it: no topic has a blank in its name.
fn whereabouts(field: &Value) -> Option<Whereabouts> {
    let (topic, user) = field.text()?.split_once(' ')?;
    Some(Whereabouts {
        topic: match topic {
            "" => None,
            name => Some(name.parse().ok()?),
        },
        user: user.into(),
    })
}

/// Everything that a replica has said.
pub(super) async fn said(
    pipe: &Pipe,
    keys: &Keys,
    replica: &str,
) -> Result<Vec<Whereabouts>, StoreError> {
    let (mut all, mut from) = (Vec::new(), "0".to_owned());
    loop {
        let step = Request::new("HSCAN")
            .arg(keys.presence_of(replica))
            .arg(&from)
            .args(["COUNT", STEP]);
        let reply = ask(pipe, step).await?;
        let [next, pairs] = reply.array().ok_or_else(unexpected)? else {
            return Err(unexpected());
        };
        let fields = pairs.array().ok_or_else(unexpected)?.iter().step_by(2);
        all.extend(fields.filter_map(whereabouts));
        next.text().ok_or_else(unexpected)?.clone_into(&mut from);
        if from == "0" {
            return Ok(all);
        }
    }
}

/// Who is at these places.
pub(super) async fn present(
    pipe: &Pipe,
    keys: &Keys,
    places: &[Option<Topic>],
) -> Result<Presence, StoreError> {
    let of = |place: &Option<Topic>| match place {
        Some(topic) => keys.presence(topic),
        None => keys.users.clone(),
    };
    let hashes: Vec<String> = places.iter().map(of).collect();
    let mut names = vec![&*keys.meta, &*keys.last];
    names.extend(hashes.iter().map(String::as_str));
    let request = Request::call(Function::PRESENT, &names);
    let reply = ask(pipe, request.arg(LISTED.to_string())).await?;
    presence(&reply, places.len()).ok_or_else(unexpected)
}

fn presence(reply: &Value, places: usize) -> Option<Presence> {
    let (last, pairs) = reply.array()?.split_first()?;
    let read = pairs.chunks_exact(2).map(|pair| {
        let names = pair[1].array()?.iter();
        let mut users: Vec<Arc<str>> = names
            .map(|name| Some(name.text()?.into()))
            .collect::<Option<_>>()?;
        users.sort_unstable();
        users.truncate(LISTED);
        Some(Present {
            users,
            total: count(&pair[0])?,
        })
    });
    let read: Vec<Present> = read.collect::<Option<_>>()?;
    (read.len() == places).then_some(Presence {
        places: read,
        last: last.text()?.parse().ok()?,
    })
}
