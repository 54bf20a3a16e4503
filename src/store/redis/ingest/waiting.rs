//! What waits in the ingest stream, as `XREAD` answers: of each entry only what has to be known to move it.
//!
//! Anybody may write there, and nothing is judged here: that is done by `tidegate_ingest`, which reads the entries itself. So a
//! call has to name the keys of whatever may be a topic, and its data need not be kept.
//!
//! # Invariants
//! 1. What is kept of an entry is bounded, however large it is.

use bytes::Bytes;

use crate::{event::EventId, store::redis::resp::Value};

/// The longest text that is of use: a topic or a key.
pub const LONGEST: usize = 255;

/// One entry that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its place in the ingest stream.
    pub id: EventId,
    /// What it says is its topic, unless that is certainly none.
    pub topic: Option<Bytes>,
    /// What it says is its idempotency key, unless that is certainly none.
    pub key: Option<Bytes>,
    /// Bytes of its fields, names and values.
    pub bytes: usize,
}

/// The entries, the oldest first. None: this is no answer of `XREAD` to a question about one stream.
pub fn waiting(reply: &Value) -> Option<Vec<Waiting>> {
    if matches!(reply, Value::Null) {
        return Some(Vec::new());
    }
    let [_, entries] = reply.array()? else {
        return None;
    };
    entries.array()?.iter().map(entry).collect()
}

fn entry(value: &Value) -> Option<Waiting> {
    let [id, fields] = value.array()? else {
        return None;
    };
    let mut waiting = Waiting {
        id: id.text()?.parse().ok()?,
        topic: None,
        key: None,
        bytes: 0,
    };
    let fields = fields.array()?;
    if fields.len() % 2 > 0 {
        return None;
    }
    for pair in fields.chunks_exact(2) {
        waiting.bytes += length(&pair[0])? + length(&pair[1])?;
        let name = pair[0].bytes().map_or(&[][..], |name| name);
        let place = match name {
            b"topic" => &mut waiting.topic,
            b"key" => &mut waiting.key,
            _ => continue,
        };
        // One that stands there twice makes the whole entry a dead letter, whatever it says.
        if let Value::Text(text) = &pair[1]
            && (1..=LONGEST).contains(&text.len())
        {
            place.get_or_insert_with(|| text.clone());
        }
    }
    Some(waiting)
}

fn length(value: &Value) -> Option<usize> {
    match value {
        Value::Text(text) => Some(text.len()),
        Value::Long(length) => Some(*length),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::store::redis::resp::Decoder;

    type Fields = Vec<(Vec<u8>, Vec<u8>)>;

    /// As Redis answers, in either version of its protocol.
    fn answer(entries: &[(EventId, Fields)], map: bool) -> Vec<u8> {
        fn text(text: &[u8], output: &mut Vec<u8>) {
            output.extend_from_slice(format!("${}\r\n", text.len()).as_bytes());
            output.extend_from_slice(text);
            output.extend_from_slice(b"\r\n");
        }
        let mut output = if map {
            b"%1\r\n".to_vec()
        } else {
            b"*2\r\n".to_vec()
        };
        text(b"tidegate:{0}:ingest", &mut output);
        output.extend_from_slice(format!("*{}\r\n", entries.len()).as_bytes());
        for (id, fields) in entries {
            output.extend_from_slice(b"*2\r\n");
            text(id.to_string().as_bytes(), &mut output);
            output.extend_from_slice(format!("*{}\r\n", 2 * fields.len()).as_bytes());
            for (name, value) in fields {
                text(name, &mut output);
                text(value, &mut output);
            }
        }
        output
    }

    fn read(bytes: &[u8], step: usize) -> Option<Vec<Waiting>> {
        let (mut decoder, mut input) = (Decoder::keeping(LONGEST), BytesMut::new());
        for piece in bytes.chunks(step) {
            input.extend_from_slice(piece);
            if let Some(value) = decoder.decode(&mut input).ok()? {
                return waiting(&value);
            }
        }
        None
    }

    /// The same without a protocol.
    fn model(entries: &[(EventId, Fields)]) -> Vec<Waiting> {
        let one = |fields: &Fields, wanted: &[u8]| {
            let mut found = fields.iter().filter(|(name, _)| name == wanted);
            let fits = found.find(|(_, value)| (1..=255).contains(&value.len()));
            fits.map(|(_, value)| Bytes::copy_from_slice(value))
        };
        let each = entries.iter().map(|(id, fields)| Waiting {
            id: *id,
            topic: one(fields, b"topic"),
            key: one(fields, b"key"),
            bytes: fields
                .iter()
                .map(|(name, value)| name.len() + value.len())
                .sum(),
        });
        each.collect()
    }

    fn fields() -> impl Strategy<Value = Fields> {
        let name = prop_oneof![
            Just(b"topic".to_vec()),
            Just(b"data".to_vec()),
            Just(b"key".to_vec()),
            vec(any::<u8>(), 0..300),
        ];
        let value = prop_oneof![vec(any::<u8>(), 0..12), vec(any::<u8>(), 250..600)];
        vec((name, value), 0..6)
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_however_it_is_cut(
            entries in vec((any::<(u64, u64)>(), fields()), 0..6),
            map in any::<bool>(),
            step in 1_usize..400,
        ) {
            let entries: Vec<_> = entries
                .into_iter()
                .map(|((ms, seq), fields)| (EventId::new(ms, seq), fields))
                .collect();
            let bytes = answer(&entries, map);
            prop_assert_eq!(read(&bytes, step), Some(model(&entries)));
        }

        #[test]
        fn no_answer_makes_it_panic(bytes in vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes, 13);
            let framed = [b"*2\r\n+s\r\n*1\r\n*2\r\n+1-1\r\n", &bytes[..]].concat();
            let _ = read(&framed, 13);
        }
    }

    #[test]
    fn an_entry_of_any_size_is_read_without_being_held() {
        let large = (b"data".to_vec(), vec![b'x'; 5_000_000]);
        let many = (0..10_000).map(|number| (format!("f{number}").into_bytes(), Vec::new()));
        let entries = [
            (
                EventId::new(1, 1),
                vec![(b"topic".to_vec(), b"a".to_vec()), large],
            ),
            (EventId::new(1, 2), many.collect()),
        ];
        assert_eq!(read(&answer(&entries, true), 10_000), Some(model(&entries)));
    }

    #[test]
    fn nothing_waits_and_nonsense_are_told_apart() {
        assert_eq!(waiting(&Value::Null), Some(Vec::new()));
        for nonsense in [
            Value::Number(1),
            Value::Array(Vec::new()),
            Value::Array(vec![Value::Null, Value::Array(vec![Value::Null])]),
        ] {
            assert_eq!(waiting(&nonsense), None);
        }
    }
}
