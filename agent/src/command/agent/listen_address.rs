//! Where the agent serves its metrics, as an operator writes it.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// An address, or none.
#[derive(Debug, Clone, Copy)]
pub(super) struct ListenAddress(pub(super) Option<SocketAddr>);

impl FromStr for ListenAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self(None));
        }
        // A DaemonSet writes $(HOST_IP):PORT, without brackets around an IPv6
        // address.
        let (address, port) = text.rsplit_once(':').ok_or("ADDRESS:PORT or off is wanted")?;
        let address = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        let address: IpAddr = address.parse().map_err(|_| "before the port, an IP address is wanted")?;
        let port: u16 = port.parse().map_err(|_| "behind the last colon, a port is wanted")?;
        Ok(Self(Some((address, port).into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_with_and_without_brackets() {
        for (text, address) in [
            ("127.0.0.1:10901", Some("127.0.0.1:10901")),
            ("[fd00::1]:80", Some("[fd00::1]:80")),
            ("fd00::1:80", Some("[fd00::1]:80")),
            ("off", None),
        ] {
            let read = text.parse::<ListenAddress>().expect(text).0;
            assert_eq!(read, address.map(|address| address.parse().expect(address)), "{text}");
        }
        for text in ["127.0.0.1", "localhost:80", "127.0.0.1:http", "", "on"] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
    }
}
