//! Why a direction allows or denies, in words and with marks on what of a policy decides.

pub(super) mod allowed;
pub(super) mod denied;
pub(super) mod dns;
pub(super) mod headline;
pub(super) mod misleading;
mod other_end;
