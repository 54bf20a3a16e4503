//! The last line of defence: what the gateway itself keeps secret is cut out of whatever is about to be logged.
//!
//! Nothing logs a credential on purpose. But a client that sends one in the wrong place, as a topic, a host, an origin, has
//! it repeated in the refusal that explains what is wrong, and that refusal is in the audit log.
//!
//! Access lines are not searched: they are written thousands of times a second, and their values come from closed lists.

use std::fmt::Write as _;

use memchr::memmem::Finder;

use super::{escape, subscriber::Format};

/// A secret that is shorter would be found in every other line.
const LEAST_BYTES: usize = 6;
/// How a signed token begins: `{"` in base64.
const TOKEN: &[u8] = b"eyJ";
/// What begins so and is longer is taken for one.
const TOKEN_BYTES: usize = 20;
const SHOWN: &str = "***";

/// What is cut out.
#[derive(Debug, Default)]
pub(super) struct Secrets(Vec<Finder<'static>>);

impl Secrets {
    /// Secrets as they look in lines of this format.
    pub(super) fn new<'a>(secrets: impl IntoIterator<Item = &'a str>, format: Format) -> Self {
        let long = secrets
            .into_iter()
            .filter(|secret| secret.len() >= LEAST_BYTES);
        let written = |secret: &str| {
            let (mut value, mut message) = (String::new(), String::new());
            let _ = match format {
                Format::Json => escape::Json(&mut value).write_str(secret),
                Format::Text { .. } => escape::Quoted(&mut value)
                    .write_str(secret)
                    .and_then(|()| escape::Text(&mut message).write_str(secret)),
            };
            let forms = [value, message].into_iter().filter(|form| !form.is_empty());
            forms
                .map(|form| Finder::new(&form).into_owned())
                .collect::<Vec<_>>()
        };
        Self(long.flat_map(written).collect())
    }

    /// Cuts them out of what was written from `begin` on.
    pub(super) fn cut(&self, line: &mut String, begin: usize) {
        for secret in &self.0 {
            let mut from = begin;
            while let Some(at) = secret.find(&line.as_bytes()[from..]) {
                let at = from + at;
                line.replace_range(at..at + secret.needle().len(), SHOWN);
                from = at + SHOWN.len();
            }
        }
        let mut from = begin;
        while let Some(at) = memchr::memmem::find(&line.as_bytes()[from..], TOKEN) {
            let at = from + at;
            let rest = &line.as_bytes()[at..];
            let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
            let length = rest.iter().take_while(|byte| plain(byte)).count();
            if length >= TOKEN_BYTES {
                line.replace_range(at..at + length, SHOWN);
                from = at + SHOWN.len();
            } else {
                from = at + TOKEN.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_secret_is_cut_out_wherever_it_stands_and_the_rest_stays() {
        let secrets = ["hunter2", "a\"b\\c\nd", "short", "é-clair"];
        let secrets = Secrets::new(secrets, Format::Json);
        for (value, shown) in [
            ("nothing to see", "nothing to see"),
            ("hunter2", "***"),
            ("hunter2hunter2 or hunter22", "****** or ***2"),
            ("not short enough", "not short enough"),
            ("éé-clairé", "é***é"),
            ("a\\\"b\\\\c\\nd", "***"),
            (
                "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln, and more",
                "Bearer ***, and more",
            ),
            (
                "eyJ is no token, eyJhbGci is none",
                "eyJ is no token, eyJhbGci is none",
            ),
        ] {
            let mut line = format!("hunter2: {value}");
            secrets.cut(&mut line, "hunter2: ".len());
            assert_eq!(line, format!("hunter2: {shown}"));
        }
    }
}
