//! What a signed token says, once its signature is known to be right.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::Deserialize;
use serde_json::{Number, Value, value::RawValue};

use super::{Denied, Identity, identity::Source};
use crate::event::TopicPattern;

/// The last second that RFC 3339 can write. What ends later is told in milliseconds, which is the usual mistake: it would
/// never end.
const LAST_SECOND: u64 = 253_402_300_799;
/// The longest `sub` and `iss`: they become names in limits and in logs.
const MAX_NAME_BYTES: usize = 255;

/// What tokens have to say beside their times.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) issuer: Option<String>,
    pub(super) audience: Option<String>,
    pub(super) leeway: Duration,
}

/// The claims that are read; of each there may be one. `null` is as if it were not there.
#[derive(Deserialize)]
struct Claims<'a> {
    exp: Option<Value>,
    nbf: Option<Value>,
    iss: Option<Value>,
    aud: Option<Value>,
    sub: Option<Value>,
    #[serde(borrow)]
    tidegate: Option<&'a RawValue>,
}

/// What is not known is refused: it may limit the rights that are.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rights {
    subscribe: Option<Value>,
    publish: Option<Value>,
    presence: Option<Value>,
}

impl Rules {
    /// Who the claims are of.
    ///
    /// # Errors
    /// The times are judged last: what has expired was valid once, if nothing else is wrong with it.
    pub(super) fn identify(
        &self,
        claims: &[u8],
        source: &Source,
        now: SystemTime,
    ) -> Result<Identity, Denied> {
        let claims: Claims = serde_json::from_slice(claims).map_err(|error| {
            let why = if error.is_data() {
                "the claims are no JSON object, or name one twice"
            } else {
                "the claims are no JSON"
            };
            Denied::invalid(why)
        })?;
        let issuer = name("iss", claims.iss)?;
        if self.issuer.is_some() && self.issuer != issuer {
            return Err(Denied::invalid("iss is not the issuer that is expected"));
        }
        self.audience(claims.aud)?;
        let subject = name("sub", claims.sub)?;
        let [subscribe, publish, presence] = rights(claims.tidegate)?;
        let expires = self.times(claims.exp.as_ref(), claims.nbf.as_ref(), now)?;
        let issuer = issuer.unwrap_or_default();
        // The length keeps an issuer and a subject apart that both contain colons.
        let mut caller = format!("jwt:{}:{issuer}", issuer.len());
        if let Some(subject) = &subject {
            caller.push(':');
            caller.push_str(subject);
        }
        Ok(Identity {
            subject: subject.map(Into::into),
            caller: caller.into(),
            subscribe,
            publish,
            presence,
            admin: false,
            expires: Some(expires),
            source: source.clone(),
            ticket: false,
        })
    }

    fn audience(&self, claim: Option<Value>) -> Result<(), Denied> {
        let Some(expected) = &self.audience else {
            return Ok(());
        };
        let meant = match claim {
            Some(Value::String(audience)) => audience == *expected,
            Some(Value::Array(several)) => several.iter().any(|audience| audience == expected),
            _ => false,
        };
        if meant {
            Ok(())
        } else {
            Err(Denied::invalid(
                "aud does not name the audience that is expected",
            ))
        }
    }

    /// When the token ends.
    fn times(
        &self,
        exp: Option<&Value>,
        nbf: Option<&Value>,
        now: SystemTime,
    ) -> Result<SystemTime, Denied> {
        let Some(exp) = exp else {
            return Err(Denied::invalid("exp is missing: a token has to end"));
        };
        let expires = moment(exp).ok_or_else(|| {
            Denied::invalid(
                "exp is no number of seconds since 1970 (if it is one of milliseconds, divide by 1000)",
            )
        })?;
        if let Some(nbf) = nbf {
            let begins = moment(nbf).ok_or_else(|| {
                Denied::invalid(
                    "nbf is no number of seconds since 1970 (if it is one of milliseconds, divide by 1000)",
                )
            })?;
            if begins > now + self.leeway {
                return Err(Denied::invalid("nbf: the token is not valid yet"));
            }
        }
        if now < expires {
            Ok(expires)
        } else {
            Err(Denied::Expired(expires))
        }
    }
}

/// A `NumericDate` (RFC 7519, 2): seconds, possibly with a fraction, which is cut off.
fn moment(value: &Value) -> Option<SystemTime> {
    let seconds = value.as_u64().or_else(|| {
        let seconds = value.as_number().and_then(Number::as_f64)?;
        // Duration's own conversion judges range, sign and what is no number.
        let whole = Duration::try_from_secs_f64(seconds).ok()?;
        Some(whole.as_secs())
    })?;
    (seconds <= LAST_SECOND).then(|| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// A text that names somebody.
fn name(claim: &str, value: Option<Value>) -> Result<Option<String>, Denied> {
    match value {
        None => Ok(None),
        Some(Value::String(text))
            if text.len() <= MAX_NAME_BYTES && !text.contains(char::is_control) =>
        {
            Ok(Some(text))
        }
        Some(_) => Err(Denied::Invalid(
            format!(
                "{claim} is no text of at most {MAX_NAME_BYTES} bytes without control characters"
            )
            .into(),
        )),
    }
}

type Patterns = Arc<[TopicPattern]>;

/// The claim that is ours. Without it a token is good for nothing, but good.
fn rights(claim: Option<&RawValue>) -> Result<[Patterns; 3], Denied> {
    let Some(claim) = claim.filter(|claim| claim.get() != "null") else {
        return Ok([[].into(), [].into(), [].into()]);
    };
    let rights: Rights = serde_json::from_str(claim.get()).map_err(|_| {
        Denied::invalid(
            "the claim tidegate is no object of the form {\"subscribe\": [\"orders/*\"], \"publish\": []}",
        )
    })?;
    Ok([
        patterns("subscribe", rights.subscribe)?,
        patterns("publish", rights.publish)?,
        patterns("presence", rights.presence)?,
    ])
}

fn patterns(right: &str, value: Option<Value>) -> Result<Patterns, Denied> {
    let list = match value {
        None => return Ok([].into()),
        Some(Value::Array(list)) => list,
        Some(_) => {
            return Err(Denied::Invalid(
                format!("the claim tidegate.{right} is no array of patterns").into(),
            ));
        }
    };
    let read = list.iter().enumerate().map(|(at, pattern)| {
        let wrong = |why: String| {
            Denied::Invalid(format!("the claim tidegate.{right}[{at}] is no pattern: {why}").into())
        };
        let text = pattern
            .as_str()
            .ok_or_else(|| wrong("a text was expected".into()))?;
        text.parse()
            .map_err(|error: crate::event::TopicPatternError| wrong(error.to_string()))
    });
    read.collect()
}
