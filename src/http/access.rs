//! What a caller may do with which topics. Who it is has been found out before ([`crate::layers`]).

use std::time::SystemTime;

use super::{
    Caller,
    problem::{Code, Problem},
};
use crate::{
    config::{Config, Right},
    event::Topic,
};

/// Refuses a caller who may not do this with every one of the topics.
pub(crate) fn allowed(
    config: &Config,
    caller: &Caller,
    right: Right,
    topics: &[Topic],
) -> Result<(), Problem> {
    if anybody_may(config, right) {
        return Ok(());
    }
    let identity = &caller.identity;
    if identity.is_anonymous() {
        return Err(credentials_needed(right));
    }
    // A body that streams for hours may outlive the token that it came with.
    if identity
        .expires()
        .is_some_and(|end| end <= SystemTime::now())
    {
        return Err(Problem {
            outdated: true,
            shown: true,
            ..Problem::new(Code::Unauthorized, "the token has expired")
        });
    }
    let may = |topic: &&Topic| match right {
        Right::Subscribe => !identity.may_subscribe(topic),
        Right::Publish => !identity.may_publish(topic),
    };
    match topics.iter().find(may) {
        None => Ok(()),
        Some(topic) => {
            let verb = match right {
                Right::Subscribe => "follow",
                Right::Publish => "publish to",
            };
            let detail = format!("these credentials do not allow to {verb} {topic}");
            Err(forbidden(detail))
        }
    }
}

/// Refuses a caller who may do this with no topic at all, before its body is read.
pub(crate) fn allowed_at_all(
    config: &Config,
    caller: &Caller,
    right: Right,
) -> Result<(), Problem> {
    allowed(config, caller, right, &[])?;
    let identity = &caller.identity;
    let none = match right {
        Right::Subscribe => identity.subscribe().is_empty(),
        Right::Publish => identity.publish().is_empty(),
    };
    if none && !anybody_may(config, right) {
        let detail = "these credentials allow to publish to no topic";
        return Err(forbidden(detail.into()));
    }
    Ok(())
}

fn anybody_may(config: &Config, right: Right) -> bool {
    config.development() || config.auth.anonymous.contains(&right)
}

fn credentials_needed(right: Right) -> Problem {
    let what = match right {
        Right::Subscribe => "following topics",
        Right::Publish => "publishing",
    };
    let detail = format!(
        "{what} needs credentials here: Authorization: Bearer …, a cookie, ?access_token= or ?ticket="
    );
    Problem::new(Code::Unauthorized, detail)
}

/// The credentials are good, but not for this.
pub(crate) fn forbidden(detail: String) -> Problem {
    Problem {
        shown: true,
        ..Problem::new(Code::Forbidden, detail)
    }
}
