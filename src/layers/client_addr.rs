//! Whose request it is: the other end of the connection, or whom a trusted proxy names.
//!
//! Anybody can write a forwarding header, so it is believed only from `server.trusted_proxies`, and in it only what such a
//! proxy has added: the list is read from its end, over the trusted proxies, to the first address that is none.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

use crate::config::Network;

/// The headers that name a client. The first that is there counts.
const NAMING: [&str; 3] = ["x-forwarded-for", "forwarded", "x-real-ip"];

/// What the headers say of who is behind the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forwarding {
    /// Nothing.
    None,
    /// A trusted proxy named the client.
    Believed,
    /// Somebody else wrote this header.
    Ignored(&'static str),
}

/// The address of the client, and how it is known.
pub(super) fn resolve(
    peer: IpAddr,
    headers: &HeaderMap,
    trusted: &[Network],
) -> (IpAddr, Forwarding) {
    let peer = peer.to_canonical();
    let Some(name) = NAMING.into_iter().find(|name| headers.contains_key(*name)) else {
        return (peer, Forwarding::None);
    };
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    if !is_trusted(peer) {
        return (peer, Forwarding::Ignored(name));
    }
    let mut client = peer;
    let values = headers.get_all(name).iter();
    let lists: Vec<&str> = values.map(|value| value.to_str().unwrap_or("")).collect();
    for hop in hops(name, &lists).into_iter().rev() {
        // What cannot be read was not written by a proxy that we know: whoever is before it stays unknown.
        let Some(address) = hop.and_then(address) else {
            break;
        };
        client = address;
        if !is_trusted(address) {
            break;
        }
    }
    (client, Forwarding::Believed)
}

/// The hops that a header lists, in its order; none for one that says nothing of an address.
fn hops<'a>(name: &str, lists: &[&'a str]) -> Vec<Option<&'a str>> {
    let lists = lists.iter();
    if name == "forwarded" {
        let elements = lists.flat_map(|list| split(list, ','));
        elements.map(forwarded_for).collect()
    } else {
        lists
            .flat_map(|list| list.split(','))
            .map(|hop| Some(hop.trim()))
            .collect()
    }
}

/// The value of `for` in one element of `Forwarded` (RFC 7239, 4).
fn forwarded_for(element: &str) -> Option<&str> {
    let pairs = split(element, ';').into_iter();
    let mut nodes = pairs.filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then(|| {
            let value = value.trim();
            let quoted = value
                .strip_prefix('"')
                .and_then(|value| value.strip_suffix('"'));
            quoted.unwrap_or(value)
        })
    });
    nodes.next()
}

/// Splits where the separator stands outside of quotes.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(|c| {
        let literal = escaped;
        escaped = quoted && !literal && c == '\\';
        if c == '"' && !literal {
            quoted = !quoted;
        }
        c == separator && !quoted
    })
    .collect()
}

/// An address with or without a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn address(text: &str) -> Option<IpAddr> {
    let bare = || {
        text.strip_prefix('[')?
            .strip_suffix(']')?
            .parse::<std::net::Ipv6Addr>()
            .ok()
            .map(IpAddr::V6)
    };
    let address = text.parse::<IpAddr>().ok();
    address
        .or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()))
        .or_else(bare)
        .map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const PROXY: &str = "10.0.0.1";

    fn resolved(peer: &str, fields: &[(&str, &str)]) -> (String, Forwarding) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            headers.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        let trusted: Vec<Network> =
            serde_json::from_str(r#"["10.0.0.0/8", "fd00::/8"]"#).expect("networks");
        let (address, forwarding) = resolve(peer.parse().expect("an address"), &headers, &trusted);
        (address.to_string(), forwarding)
    }

    #[test]
    fn a_trusted_proxy_names_the_client() {
        for (name, value, client) in [
            ("x-forwarded-for", "192.0.2.1", "192.0.2.1"),
            ("x-forwarded-for", " 192.0.2.1:4711 ", "192.0.2.1"),
            ("x-forwarded-for", "2001:db8::1", "2001:db8::1"),
            ("x-forwarded-for", "[2001:db8::1]:80", "2001:db8::1"),
            ("x-forwarded-for", "::ffff:192.0.2.1", "192.0.2.1"),
            ("x-real-ip", "192.0.2.1", "192.0.2.1"),
            (
                "forwarded",
                "for=192.0.2.1;proto=https;by=10.0.0.1",
                "192.0.2.1",
            ),
            (
                "forwarded",
                "proto=https; For=\"[2001:db8::1]:4711\"",
                "2001:db8::1",
            ),
            (
                "forwarded",
                "for=198.51.100.7;ext=\"a,for=1.1.1.1;\\\"\", for=192.0.2.1",
                "192.0.2.1",
            ),
        ] {
            let believed = (client.to_owned(), Forwarding::Believed);
            assert_eq!(
                resolved(PROXY, &[(name, value)]),
                believed,
                "{name}: {value}"
            );
        }
    }

    #[test]
    fn the_last_address_that_no_trusted_proxy_has_is_the_client() {
        let client = |values: &[&str]| {
            let fields: Vec<_> = values.iter().map(|it| ("x-forwarded-for", *it)).collect();
            resolved(PROXY, &fields).0
        };
        assert_eq!(client(&["6.6.6.6, 192.0.2.1, 10.2.2.2"]), "192.0.2.1");
        assert_eq!(client(&["6.6.6.6", "192.0.2.1, 10.2.2.2"]), "192.0.2.1");
        assert_eq!(client(&["10.3.3.3, 10.2.2.2"]), "10.3.3.3");
        assert_eq!(client(&["6.6.6.6, nonsense, 10.2.2.2"]), "10.2.2.2");
        assert_eq!(client(&["unknown"]), PROXY);
        assert_eq!(client(&[""]), PROXY);
    }

    #[test]
    fn nobody_else_is_believed() {
        for name in NAMING {
            let ignored = ("203.0.113.9".to_owned(), Forwarding::Ignored(name));
            assert_eq!(resolved("203.0.113.9", &[(name, "192.0.2.1")]), ignored);
        }
        let none = ("203.0.113.9".to_owned(), Forwarding::None);
        assert_eq!(resolved("::ffff:203.0.113.9", &[]), none);
    }

    #[test]
    fn the_first_of_the_headers_counts() {
        let fields = [
            ("x-real-ip", "3.3.3.3"),
            ("forwarded", "for=2.2.2.2"),
            ("x-forwarded-for", "1.1.1.1"),
        ];
        assert_eq!(resolved(PROXY, &fields).0, "1.1.1.1");
        assert_eq!(resolved(PROXY, &fields[..2]).0, "2.2.2.2");
        assert_eq!(
            resolved(PROXY, &[("forwarded", "for=_hidden, for=10.1.1.1")]).0,
            "10.1.1.1"
        );
    }
}
