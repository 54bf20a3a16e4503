//! A range of addresses.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

/// A range of addresses: `10.0.0.0/8`, `fd00::/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

impl Network {
    /// Whether `address` lies in it. An IPv4 address in the clothes of IPv6 is taken for what it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let address = text.parse::<IpAddr>().map(IpNet::from);
        address.or_else(|_| text.parse()).map(Self).map_err(|_| {
            serde::de::Error::custom(format!(
                "{text:?} is no network: an address or a range like 10.0.0.0/8 was expected"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Result<Network, serde_json::Error> {
        serde_json::from_value(text.into())
    }

    #[test]
    fn a_network_is_an_address_or_a_range() {
        let contains = |text: &str, address: &str| {
            network(text)
                .expect("a network")
                .contains(address.parse().expect("an address"))
        };
        assert!(contains("10.0.0.0/8", "10.1.2.3") && !contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(contains("::1", "::1") && !contains("::1", "::2"));
        let error = network("10.0.0.0/33").expect_err("refused").to_string();
        assert!(
            error.contains("10.0.0.0/33") && error.contains("was expected"),
            "{error}"
        );
    }
}
