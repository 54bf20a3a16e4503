//! A number for which there is no default: from the environment it comes as text.

use std::num::NonZeroUsize;

use serde::{Deserialize, Deserializer, de::Error};

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u64),
    Text(String),
}

/// A whole number from 1 on; null is none.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<NonZeroUsize>, D::Error> {
    let expected = || D::Error::custom("a whole number from 1 on was expected, or null");
    let written = Option::<Written>::deserialize(deserializer).map_err(|_| expected())?;
    let number = match written {
        None => return Ok(None),
        Some(Written::Number(number)) => usize::try_from(number).ok(),
        Some(Written::Text(text)) => text.trim().parse().ok(),
    };
    let count = number.and_then(NonZeroUsize::new);
    count.map(Some).ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_number_or_the_text_of_one() {
        let read = |json: &str| {
            let mut json = serde_json::Deserializer::from_str(json);
            deserialize(&mut json)
                .ok()
                .map(|count| count.map(NonZeroUsize::get))
        };
        assert_eq!(read("null"), Some(None));
        assert_eq!(read("2"), Some(Some(2)));
        assert_eq!(read("\"2\""), Some(Some(2)));
        for wrong in ["0", "-1", "\"\"", "\"two\"", "1.5", "[]"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
