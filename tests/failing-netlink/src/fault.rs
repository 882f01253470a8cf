//! What goes wrong with a request.

use crate::netlink::Request;

/// A fault, as a kernel short of memory, or a signal, has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The request cannot be sent (ENOBUFS).
    NotSent,
    /// A signal came before it was (EINTR).
    SendInterrupted,
    /// A signal came before the answer could be read (EINTR).
    ReceiveInterrupted,
    /// It is carried out, and there is no memory for the answer (ENOBUFS).
    AnswerLost,
    /// It is carried out, and the answer comes after the program has stopped waiting for it
    /// (EAGAIN).
    AnswerLate,
    /// It is refused for want of memory (ENOMEM), and nothing is done.
    Refused,
    /// Some of its members are done, and the next is refused for want of memory.
    Half,
    /// What it lists changed meanwhile.
    Inconsistent,
}

impl Fault {
    /// How many others a request with members can meet.
    const OTHERS: usize = 6;

    /// One of those that the request can meet.
    pub(crate) fn of(request: &Request, random: &mut fastrand::Rng) -> Self {
        let mut all = vec![Self::NotSent, Self::SendInterrupted, Self::ReceiveInterrupted, Self::AnswerLost];
        if request.is_ipset() {
            all.push(Self::AnswerLate);
        }
        let is_list_of_sets = request.is_list() && request.is_ipset();
        all.push(if is_list_of_sets { Self::Inconsistent } else { Self::Refused });
        if request.members() > 1 {
            all.extend([Self::Half; 2 * Self::OTHERS]);
        }
        all[random.usize(..all.len())]
    }

    /// In words without spaces, so that they can be counted.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::NotSent => "not-sent",
            Self::SendInterrupted => "send-interrupted",
            Self::ReceiveInterrupted => "receive-interrupted",
            Self::AnswerLost => "answer-lost",
            Self::AnswerLate => "answer-late",
            Self::Refused => "refused",
            Self::Half => "half",
            Self::Inconsistent => "inconsistent",
        }
    }
}
