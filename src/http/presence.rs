//! Who follows a topic.

use super::problem::{Code, Problem};
use crate::{config::Config, event::Topic};

/// Refuses the presence of a topic where nobody tells it.
pub(super) fn followable(config: &Config, topics: &[Topic]) -> Result<(), Problem> {
    let presence = topics.iter().find(|topic| topic.presence_of().is_some());
    match presence {
        Some(topic) if !config.presence.enabled => Err(Problem::new(
            Code::TopicInvalid,
            format!("{topic} can be followed where presence.enabled is set, and it is not"),
        )),
        _ => Ok(()),
    }
}
