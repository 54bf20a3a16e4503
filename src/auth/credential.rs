//! What a request shows of who sent it.

use std::{borrow::Cow, fmt};

use http::{
    HeaderMap,
    header::{AUTHORIZATION, COOKIE},
};

use super::Denied;
use crate::http::query::Query;

/// A credential that is longer is not looked at.
pub const MAX_BYTES: usize = 8 * 1024;

/// What a request showed. Its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential<'a> {
    /// Where it stood.
    pub kind: CredentialKind,
    text: Cow<'a, str>,
}

/// Where a credential stood, in the order in which they are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialKind {
    /// `Authorization: Bearer`
    Bearer,
    /// `?ticket=`
    Ticket,
    /// `?access_token=`
    AccessToken,
    /// The cookie `auth.cookie`.
    Cookie,
}

impl CredentialKind {
    /// As it stands in log lines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bearer => "bearer",
            Self::Ticket => "ticket",
            Self::AccessToken => "access_token",
            Self::Cookie => "cookie",
        }
    }
}

impl<'a> Credential<'a> {
    /// What stood there.
    pub fn new(kind: CredentialKind, text: impl Into<Cow<'a, str>>) -> Self {
        let text = text.into();
        Self { kind, text }
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// The same, for longer than the request.
    pub fn into_owned(self) -> Credential<'static> {
        Credential {
            kind: self.kind,
            text: Cow::Owned(self.text.into_owned()),
        }
    }
}

impl fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ***", self.kind.as_str())
    }
}

/// The first of `Authorization: Bearer`, `?ticket=`, `?access_token=` and the cookie that is there; the others are not looked
/// at. An empty cookie is what a page leaves that has logged out: it is none.
///
/// # Errors
/// An `Authorization` that holds no bearer token, an empty parameter, or more than [`MAX_BYTES`].
pub fn credential<'a>(
    headers: &'a HeaderMap,
    query: &'a Query<'_>,
    cookie: &str,
) -> Result<Option<Credential<'a>>, Denied> {
    let found = if headers.contains_key(AUTHORIZATION) {
        Some(Credential::new(CredentialKind::Bearer, bearer(headers)?))
    } else if let Some(ticket) = query.first("ticket") {
        Some(Credential::new(CredentialKind::Ticket, ticket))
    } else if let Some(token) = query.first("access_token") {
        Some(Credential::new(CredentialKind::AccessToken, token))
    } else {
        self::cookie(headers, cookie).map(|text| Credential::new(CredentialKind::Cookie, text))
    };
    match &found {
        Some(credential) if credential.text.is_empty() => {
            Err(Denied::invalid("the credential is empty"))
        }
        Some(credential) if credential.text.len() > MAX_BYTES => {
            Err(Denied::invalid("the credential is longer than 8192 bytes"))
        }
        _ => Ok(found),
    }
}

/// RFC 6750, 2.1; the name of the scheme is written in any case (RFC 9110, 11.1).
fn bearer(headers: &HeaderMap) -> Result<&str, Denied> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(Denied::invalid(
            "there is more than one Authorization header",
        ));
    };
    let text = value
        .to_str()
        .map_err(|_| Denied::invalid("Authorization holds other than ASCII characters"))?
        .trim();
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Denied::invalid(
            "Authorization is of another kind: Bearer and a token were expected",
        ));
    }
    let token = token.trim_start_matches(' ');
    if token.contains(char::is_whitespace) {
        return Err(Denied::invalid(
            "Authorization: Bearer holds more than one word",
        ));
    }
    Ok(token)
}

/// The first cookie of this name that is not empty (RFC 6265, 4.2.1), without the quotes that some put around it.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    // HTTP/2 clients may send each in a header of its own (RFC 9113, 8.2.3).
    let lines = headers.get_all(COOKIE).iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.split_once('='))
        .filter(|(key, _)| key.trim() == name)
        .map(|(_, value)| {
            let value = value.trim();
            let quoted = value
                .strip_prefix('"')
                .and_then(|value| value.strip_suffix('"'));
            quoted.unwrap_or(value)
        })
        .find(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn read(
        headers: &[(HeaderName, &str)],
        query: &str,
    ) -> Result<Option<(CredentialKind, String)>, Denied> {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| {
                let value = HeaderValue::from_bytes(value.as_bytes());
                (name.clone(), value.expect("a header value"))
            })
            .collect();
        let query = Query::parse(Some(query)).expect("a query");
        let found = credential(&headers, &query, "tidegate")?;
        Ok(found.map(|found| (found.kind, found.expose().to_owned())))
    }

    #[test]
    fn the_first_place_that_holds_one_wins() {
        use CredentialKind as Kind;
        let all = "ticket=t&access_token=a";
        let header = (AUTHORIZATION, "Bearer b");
        let cookie = (COOKIE, "tidegate=c");
        for (headers, query, kind, text) in [
            (vec![header.clone(), cookie.clone()], all, Kind::Bearer, "b"),
            (vec![cookie.clone()], all, Kind::Ticket, "t"),
            (
                vec![cookie.clone()],
                "access_token=a",
                Kind::AccessToken,
                "a",
            ),
            (vec![cookie], "topic=x", Kind::Cookie, "c"),
        ] {
            assert_eq!(read(&headers, query), Ok(Some((kind, text.to_owned()))));
        }
        assert_eq!(read(&[], "topic=x"), Ok(None));
    }

    #[test]
    fn a_bearer_token_is_one_word_after_the_name_of_its_scheme() {
        for good in ["Bearer x.y", "bearer  x.y", "BEARER x.y", " Bearer x.y "] {
            let read = read(&[(AUTHORIZATION, good)], "");
            assert_eq!(
                read,
                Ok(Some((CredentialKind::Bearer, "x.y".into()))),
                "{good}"
            );
        }
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "Basic dXNlcjpwYXNz",
            "Bearerx.y",
            "Bearer x y",
            "Bearer x\ty",
            "Bearer \tx",
            "x.y",
            "Bearer \u{e9}",
        ] {
            let denied = read(&[(AUTHORIZATION, wrong)], "access_token=a");
            assert!(
                matches!(denied, Err(Denied::Invalid(_))),
                "{wrong}: {denied:?}"
            );
        }
        let twice = [(AUTHORIZATION, "Bearer a"), (AUTHORIZATION, "Bearer a")];
        assert!(read(&twice, "").is_err());
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        for line in [
            "tidegate=v",
            "a=b; tidegate=v; c=d",
            "a=b;tidegate=v",
            "tidegate=\"v\"",
            "xtidegate=n; tidegatex=n; tidegate = v",
            "tidegate=; tidegate=v",
            "tidegate; tidegate=v; tidegate=w",
        ] {
            let found = Ok(Some((CredentialKind::Cookie, "v".to_owned())));
            assert_eq!(read(&[(COOKIE, line)], ""), found, "{line}");
        }
        let several = [(COOKIE, "a=b"), (COOKIE, "tidegate=v")];
        assert!(read(&several, "").expect("a cookie").is_some());
        for line in [
            "tidegate=",
            "tidegate=\"\"",
            "Tidegate=v",
            "tidegate",
            "",
            "=v",
        ] {
            assert_eq!(read(&[(COOKIE, line)], ""), Ok(None), "{line}");
        }
    }

    #[test]
    fn what_is_empty_or_too_long_is_refused_before_it_is_looked_at() {
        assert!(read(&[], "access_token=").is_err());
        assert!(read(&[], "ticket=&access_token=a").is_err());
        let long = format!("access_token={}", "x".repeat(MAX_BYTES));
        assert!(read(&[], &long).is_ok());
        assert!(read(&[], &(long + "x")).is_err());
    }

    #[test]
    fn a_credential_does_not_show_itself() {
        let credential = Credential::new(CredentialKind::Bearer, "s3cret");
        assert_eq!(format!("{credential:?}"), "bearer: ***");
    }
}
