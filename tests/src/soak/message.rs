//! What the packets of the traffic carry: their flow and when they were
//! sent.

/// Marks our packets, so that they are known from others.
const MAGIC: &[u8; 8] = b"npc-live";

/// The length of a message; a TCP stream is nothing but messages.
pub(super) const LENGTH: usize = 32;

/// What a message belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A flow of its own, begun for this one message.
    Shot,
    /// A stream that goes on.
    Stream,
    /// Part of a burst, which no pod answers.
    Burst,
}

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: Kind,
    /// The other end's answer to it.
    pub(super) is_answer: bool,
    /// The flow, by number.
    pub(super) flow: u32,
    /// When it was sent, in nanoseconds since the traffic began.
    pub(super) sent: u64,
    /// Which shot or stream.
    pub(super) id: u64,
}

impl Message {
    pub(super) fn to_bytes(self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8] = match self.kind {
            Kind::Shot => 0,
            Kind::Stream => 1,
            Kind::Burst => 2,
        };
        bytes[9] = u8::from(self.is_answer);
        bytes[12..16].copy_from_slice(&self.flow.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.sent.to_be_bytes());
        bytes[24..].copy_from_slice(&self.id.to_be_bytes());
        bytes
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
        let number = |from: usize| Some(u64::from_be_bytes(bytes[from..from + 8].try_into().ok()?));
        (bytes[..8] == *MAGIC).then_some(())?;
        Some(Self {
            kind: match bytes[8] {
                0 => Kind::Shot,
                1 => Kind::Stream,
                _ => Kind::Burst,
            },
            is_answer: bytes[9] != 0,
            flow: u32::from_be_bytes(bytes[12..16].try_into().ok()?),
            sent: number(16)?,
            id: number(24)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back_as_it_was() {
        let message = Message { kind: Kind::Stream, is_answer: true, flow: 7, sent: 1 << 40, id: 99 };
        assert_eq!(Message::parse(&message.to_bytes()), Some(message));
        assert_eq!(Message::parse(b"something else, as long as one is"), None);
    }
}
