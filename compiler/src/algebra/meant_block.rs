//! What the author of a prefix most likely means that cannot be read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::cidr::{Cidr, number};
use crate::object::Family;

/// The prefixes that a text most likely means which is none: with a length that does not exist, with a netmask in
/// place of the length, with octets that are left out or `*`, from one address to another, or several in one text.
/// None of a name.
#[must_use]
pub fn meant_blocks(text: &str) -> Vec<Cidr> {
    /// More are no slip.
    const SEVERAL: usize = 8;
    let parts = text.split([',', ';']).map(str::trim).filter(|part| !part.is_empty());
    let parts: Vec<&str> = parts.take(SEVERAL).collect();
    parts.into_iter().map(meant_block).collect::<Option<_>>().unwrap_or_default()
}

fn meant_block(text: &str) -> Option<Cidr> {
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let text = text.replace('\\', "/");
    if let Ok(cidr) = Cidr::parse(&text) {
        return Some(cidr);
    }
    if let Some((first, last)) = text.split_once('-') {
        return from_to(first.parse().ok()?, last.parse().ok()?);
    }
    let (address, length) = text.split_once('/').map_or((text.as_str(), None), |(of, length)| (of, Some(length)));
    if let Ok(address) = address.parse::<Ipv6Addr>() {
        let zeros = address.segments().iter().rev().take_while(|of| **of == 0).count();
        let bytes = 2 * (8 - zeros);
        return Some(Cidr::of(Family::V6, number(address.into()), u8::try_from(8 * bytes).ok()?));
    }
    let (octets, known) = octets(address)?;
    // `10` may be anything.
    if length.is_none() && !address.contains('.') {
        return None;
    }
    let length = length.and_then(of_length).unwrap_or_else(|| {
        let zeros = octets.iter().rev().take_while(|of| **of == 0).count();
        8 * known.min(4 - zeros)
    });
    Some(Cidr::of(Family::V4, u32::from(Ipv4Addr::from(octets)).into(), u8::try_from(length).ok()?))
}

/// The octets of an address, zero where they are left out or `*`, and how many are written.
fn octets(text: &str) -> Option<([u8; 4], usize)> {
    let parts: Vec<&str> = text.trim_end_matches('.').split('.').collect();
    let known = parts.iter().take_while(|part| part.bytes().all(|byte| byte.is_ascii_digit())).count();
    let is_any = |part: &&str| matches!(*part, "*" | "x" | "X");
    if parts.len() > 4 || known == 0 || !parts[known..].iter().all(is_any) {
        return None;
    }
    let mut octets = [0; 4];
    for (octet, part) in octets.iter_mut().zip(&parts[..known]) {
        *octet = part.parse().ok()?;
    }
    Some((octets, known))
}

/// A length, or a netmask as one.
fn of_length(text: &str) -> Option<usize> {
    if let Ok(length) = text.parse::<usize>() {
        return Some(length).filter(|length| *length <= 32);
    }
    let mask = u32::from(text.parse::<Ipv4Addr>().ok()?);
    // Some write the bits of the hosts.
    let mask = if mask.leading_ones() == 0 { !mask } else { mask };
    let ones = mask.leading_ones();
    (mask.count_ones() == ones).then_some(ones as usize)
}

/// The shortest prefix that holds two addresses.
fn from_to(first: IpAddr, last: IpAddr) -> Option<Cidr> {
    let family = Family::of(&first);
    let bits: u32 = if family == Family::V4 { 32 } else { 128 };
    let differ = 128 - (number(first) ^ number(last)).leading_zeros();
    (Family::of(&last) == family).then(|| Cidr::of(family, number(first), u8::try_from(bits - differ).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_no_prefix_means_one_all_the_same() {
        for (text, expected) in [
            ("192.168.4.0/33", "192.168.4.0/24"),
            ("10.0.0.0/", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("172.16/12", "172.16.0.0/12"),
            ("10.8.0.0/255.255.0.0", "10.8.0.0/16"),
            ("10.8.0.0/0.0.255.255", "10.8.0.0/16"),
            ("10.8.*.*", "10.8.0.0/16"),
            ("10.8.3.x", "10.8.3.0/24"),
            ("10.8.3.0 / 24", "10.8.3.0/24"),
            ("10.8.3.0\\24", "10.8.3.0/24"),
            ("192.168.4.0-192.168.4.255", "192.168.4.0/24"),
            ("10.0.0.0/8, 192.168.0.0/16", "10.0.0.0/8 192.168.0.0/16"),
            ("fd00:1::/129", "fd00:1::/32"),
            ("api.example.com", ""),
            ("10.0.0.256/24", ""),
            ("10", ""),
            ("", ""),
            ("-", ""),
            ("::-1.1.1.1", ""),
        ] {
            let meant: Vec<String> = meant_blocks(text).iter().map(|of| of.network().to_string()).collect();
            assert_eq!(meant.join(" "), expected, "{text}");
        }
    }
}
