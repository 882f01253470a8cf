//! Attributes of netfilter's netlink messages: a length, a kind and a value, which may
//! be attributes again.

use std::net::IpAddr;

use rtnetlink::packet_core::{DecodeError, NLA_F_NESTED, NLA_F_NET_BYTEORDER, NLA_HEADER_SIZE, NlasIterator};

/// Appends attributes to a message.
///
/// nf_tables and ipset want numbers in the order of the network, and ipset wants it
/// marked.
pub trait WriteAttributes {
    /// One attribute.
    fn put(&mut self, kind: u16, value: &[u8]);

    /// Text, ended by a zero.
    fn put_text(&mut self, kind: u16, text: &str);

    /// A number of 32 bits.
    fn put_u32(&mut self, kind: u16, number: u32) {
        self.put(kind, &number.to_be_bytes());
    }

    /// A number in the order of the network, which is marked as such.
    fn put_network_order(&mut self, kind: u16, number: &[u8]) {
        self.put(kind | NLA_F_NET_BYTEORDER, number);
    }

    /// A number of 64 bits.
    fn put_u64(&mut self, kind: u16, number: u64) {
        self.put(kind, &number.to_be_bytes());
    }

    /// An attribute that holds those which are written inside; together at most
    /// 65,531 bytes.
    fn put_nested(&mut self, kind: u16, inside: impl FnOnce(&mut Self));
}

impl WriteAttributes for Vec<u8> {
    fn put(&mut self, kind: u16, value: &[u8]) {
        let begin = begin(self, kind);
        self.extend_from_slice(value);
        end(self, begin);
    }

    fn put_text(&mut self, kind: u16, text: &str) {
        let begin = begin(self, kind);
        self.extend_from_slice(text.as_bytes());
        self.push(0);
        end(self, begin);
    }

    fn put_nested(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) {
        let begin = begin(self, kind | NLA_F_NESTED);
        inside(self);
        end(self, begin);
    }
}

fn begin(bytes: &mut Vec<u8>, kind: u16) -> usize {
    let begin = bytes.len();
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&kind.to_ne_bytes());
    begin
}

/// Notes the length and pads to four bytes.
fn end(bytes: &mut Vec<u8>, begin: usize) {
    // Longer ones the kernel refuses, because the length does not fit.
    let length = u16::try_from(bytes.len() - begin).unwrap_or(u16::MAX);
    bytes[begin..begin + 2].copy_from_slice(&length.to_ne_bytes());
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// The attributes of one message, or those inside an attribute.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Attributes<'a> {
    /// Each of them: its kind without flags, and its value.
    pub fn each(self) -> impl Iterator<Item = Result<(u16, &'a [u8]), DecodeError>> {
        NlasIterator::new(self.0).map(|attribute| {
            let attribute = attribute?;
            // Its length was checked when it was found.
            let value = &attribute.into_inner()[NLA_HEADER_SIZE..usize::from(attribute.length())];
            Ok((attribute.kind(), value))
        })
    }

    /// The value of the first of a kind.
    ///
    /// # Errors
    /// If what stands before it is cut off.
    pub fn get(self, kind: u16) -> Result<Option<&'a [u8]>, DecodeError> {
        for attribute in self.each() {
            let (found, value) = attribute?;
            if found == kind {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// The attributes inside the first of a kind; none, if it is not there.
    ///
    /// # Errors
    /// As [`Attributes::get`].
    pub fn nested(self, kind: u16) -> Result<Attributes<'a>, DecodeError> {
        Ok(Attributes(self.get(kind)?.unwrap_or_default()))
    }

    /// A text, without the zero that ends it.
    ///
    /// # Errors
    /// If it is no UTF-8; as [`Attributes::get`].
    pub fn text(self, kind: u16) -> Result<Option<&'a str>, DecodeError> {
        let Some(value) = self.get(kind)? else { return Ok(None) };
        let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
        std::str::from_utf8(text).map(Some).map_err(|_| DecodeError::from("a name is no UTF-8"))
    }

    /// A byte.
    ///
    /// # Errors
    /// If it has another length; as [`Attributes::get`].
    pub fn u8(self, kind: u16) -> Result<Option<u8>, DecodeError> {
        Ok(self.array(kind)?.map(u8::from_be_bytes))
    }

    /// A number of 32 bits.
    ///
    /// # Errors
    /// If it has another length; as [`Attributes::get`].
    pub fn u32(self, kind: u16) -> Result<Option<u32>, DecodeError> {
        Ok(self.array(kind)?.map(u32::from_be_bytes))
    }

    /// A number of 64 bits.
    ///
    /// # Errors
    /// If it has another length; as [`Attributes::get`].
    pub fn u64(self, kind: u16) -> Result<Option<u64>, DecodeError> {
        Ok(self.array(kind)?.map(u64::from_be_bytes))
    }

    /// A signed number of 32 bits.
    ///
    /// # Errors
    /// If it has another length; as [`Attributes::get`].
    pub fn i32(self, kind: u16) -> Result<Option<i32>, DecodeError> {
        Ok(self.array(kind)?.map(i32::from_be_bytes))
    }

    fn array<const N: usize>(self, kind: u16) -> Result<Option<[u8; N]>, DecodeError> {
        self.get(kind)?.map(array).transpose()
    }
}

/// A value of so many bytes.
pub(in super::super) fn array<const N: usize>(value: &[u8]) -> Result<[u8; N], DecodeError> {
    value.try_into().map_err(|_| DecodeError::from(format!("{} bytes where {N} belong", value.len())))
}

/// The address with these octets: 4, or 16.
pub(in super::super) fn ip_address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let mut bytes = Vec::new();
        bytes.put_text(1, "npc");
        bytes.put_nested(2, |inside| {
            inside.put_u32(1, 7);
            inside.put_u64(2, 1 << 40);
            inside.put(3, &(-300_i32).to_be_bytes());
            inside.put(4, &[1, 2, 3]);
        });
        assert_eq!(bytes.len() % 4, 0);
        let all = Attributes(&bytes);
        assert_eq!(all.text(1).expect("a text"), Some("npc"));
        let inside = all.nested(2).expect("it is there");
        assert_eq!(inside.u32(1).expect("a number"), Some(7));
        assert_eq!(inside.i32(3).expect("a number"), Some(-300));
        assert_eq!(inside.u64(2).expect("a number"), Some(1 << 40));
        assert_eq!(inside.get(4).expect("bytes"), Some(&[1, 2, 3][..]));
        assert_eq!(inside.get(5).expect("nothing"), None);
        assert!(inside.u32(4).is_err(), "three bytes are no number");
    }

    #[test]
    fn an_address_has_4_or_16_octets() {
        assert_eq!(ip_address(&[10, 0, 0, 1]), "10.0.0.1".parse().ok());
        assert_eq!(ip_address(&[0; 16]), "::".parse().ok());
        assert_eq!((ip_address(&[]), ip_address(&[0; 5]), ip_address(&[0; 20])), (None, None, None));
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        let mut bytes = Vec::new();
        bytes.put_u32(1, 7);
        assert!(Attributes(&bytes[..6]).get(1).is_err());
    }
}
