//! Where in a file of settings each key stands.
//!
//! The reader of YAML tells a position in its errors only. So each key is read by somebody who refuses it, the error is
//! asked where that was, and the next key is read. This knows every way to write YAML, which a scan for lines would not.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// A place in a text; both are counted from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The character in it.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} column {}", self.line, self.column)
    }
}

impl Position {
    /// What an error ends with; one at the very beginning says nothing.
    fn of_error(text: &str) -> Self {
        let read = |text: &str| {
            let (_, at) = text.rsplit_once(" at line ")?;
            let (line, column) = at.split_once(" column ")?;
            Some(Self {
                line: line.parse().ok()?,
                column: column.parse().ok()?,
            })
        };
        read(text).unwrap_or(Self { line: 1, column: 1 })
    }
}

/// Where each key stands: `stream.keepalive`, `retention.rules[0].age`.
#[derive(Clone, Debug, Default)]
pub(super) struct Positions {
    keys: BTreeMap<String, Position>,
    /// The first key that is written twice, where it is written again.
    pub(super) repeated: Option<(String, Position)>,
}

impl Positions {
    /// Reads a text that is known to be YAML.
    pub(super) fn of(text: &str) -> Self {
        let found = RefCell::default();
        let walk = Walk {
            found: &found,
            path: String::new(),
            item: None,
        };
        // What cannot be walked through has no positions; that it can be read is for others to say.
        let _ = walk.deserialize(yaml_serde::Deserializer::from_str(text));
        found.into_inner()
    }

    /// Where a key stands, or else what it is a part of.
    pub(super) fn find(&self, key: &str) -> Option<Position> {
        let mut key = key;
        loop {
            if let Some(position) = self.keys.get(key) {
                return Some(*position);
            }
            (key, _) = key.rsplit_once(['.', '['])?;
        }
    }
}

/// `stream` and `keepalive` are `stream.keepalive`.
pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// Goes through a value and everything in it.
struct Walk<'a> {
    found: &'a RefCell<Positions>,
    path: String,
    /// For an item of a list that is a plain value: it is refused, so that it tells where it is.
    item: Option<&'a Cell<bool>>,
}

impl Walk<'_> {
    fn plain<E: Error>(&self) -> Result<(), E> {
        let Some(refused) = self.item else {
            return Ok(());
        };
        refused.set(true);
        Err(E::custom("here"))
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.plain()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.plain()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.plain()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.plain()
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.plain()
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.plain()
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        self.plain()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        for index in 0.. {
            let refused = Cell::new(false);
            let path = format!("{}[{index}]", self.path);
            let item = Walk {
                found: self.found,
                path: path.clone(),
                item: Some(&refused),
            };
            match items.next_element_seed(item) {
                Ok(Some(())) => {}
                Ok(None) => break,
                Err(error) if refused.get() => {
                    let position = Position::of_error(&error.to_string());
                    self.found.borrow_mut().keys.insert(path, position);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut names = BTreeSet::new();
        loop {
            let name = RefCell::default();
            let error = match entries.next_key_seed(Key(&name)) {
                Ok(None) => return Ok(()),
                Ok(Some(never)) => match never {},
                Err(error) => error,
            };
            let Some(name) = name.into_inner() else {
                return Err(error);
            };
            let position = Position::of_error(&error.to_string());
            let path = join(&self.path, &name);
            let mut found = self.found.borrow_mut();
            if !names.insert(name) && found.repeated.is_none() {
                found.repeated = Some((path.clone(), position));
            }
            // An item of a list is where its first key is.
            if names.len() == 1 && self.path.ends_with(']') {
                found.keys.insert(self.path.clone(), position);
            }
            found.keys.insert(path.clone(), position);
            drop(found);
            entries.next_value_seed(Walk {
                found: self.found,
                path,
                item: None,
            })?;
        }
    }
}

/// A key, which is kept and refused.
struct Key<'a>(&'a RefCell<Option<String>>);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = std::convert::Infallible;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = std::convert::Infallible;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        self.0.replace(Some(name.to_owned()));
        Err(E::custom("here"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(String, usize, usize)> {
        let found = Positions::of(text).keys.into_iter();
        found.map(|(key, at)| (key, at.line, at.column)).collect()
    }

    fn at(text: &str, key: &str) -> Option<(usize, usize)> {
        let at = Positions::of(text).find(key)?;
        Some((at.line, at.column))
    }

    #[test]
    fn every_key_has_its_line_and_column() {
        let text = "# first\nstream:\n  keepalive: 5s\n\n  retry:\n    1s\nlimits: {connections: 5,\n topics: 7}\n";
        let key = |key: &str, line, column| (key.to_owned(), line, column);
        assert_eq!(
            found(text),
            [
                key("limits", 7, 1),
                key("limits.connections", 7, 10),
                key("limits.topics", 8, 2),
                key("stream", 2, 1),
                key("stream.keepalive", 3, 3),
                key("stream.retry", 5, 3),
            ]
        );
        assert_eq!(found("a: 1"), [key("a", 1, 1)]);
        assert_eq!(found("{\"a\":\n{\"b\": [1]}}")[1], key("a.b", 2, 2));
        assert_eq!(found(""), []);
    }

    #[test]
    fn the_items_of_lists_have_theirs() {
        let text = "cors:\n  origins:\n  - https://a\n  - 5\nretention:\n  rules:\n  - prefix: a\n    age: 1s\n  - {prefix: b,\n     age: 2s}\n";
        assert_eq!(at(text, "cors.origins[1]"), Some((4, 5)));
        assert_eq!(at(text, "retention.rules[0].age"), Some((8, 5)));
        assert_eq!(at(text, "retention.rules[1]"), Some((9, 6)));
        assert_eq!(at(text, "retention.rules[1].age"), Some((10, 6)));
        // What is missing there stands where it should be.
        assert_eq!(at(text, "retention.rules[1].bytes"), Some((9, 6)));
        assert_eq!(at(text, "retention.rules[7].bytes"), Some((6, 3)));
        assert_eq!(at(text, "store"), None);
    }

    #[test]
    fn anchors_tags_and_blocks_of_text_are_no_obstacle() {
        let text = "a: &x\n  b: |\n    c: 1\n    d: 2\ne: *x\nf: !!str 5\n\"g\": 1\n? h\n: 1\n";
        assert_eq!(at(text, "a.b"), Some((2, 3)));
        assert_eq!(at(text, "e.b"), Some((2, 3)));
        for (key, line) in [("e", 5), ("f", 6), ("g", 7)] {
            assert_eq!(at(text, key), Some((line, 1)), "{key}");
        }
        assert_eq!(at(text, "h"), Some((8, 3)));
    }

    #[test]
    fn a_key_that_stands_twice_is_found() {
        let repeated = |text| Positions::of(text).repeated.map(|(key, at)| (key, at.line));
        assert_eq!(
            repeated("a:\n  b: 1\n  c: 2\n  b: 3\na: 1\n"),
            Some(("a.b".into(), 4))
        );
        assert_eq!(repeated("a: {b: 1}\nb: {b: 1}\nc: [{b: 1}, {b: 1}]"), None);
    }
}
