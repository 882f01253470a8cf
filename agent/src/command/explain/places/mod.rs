//! Where things of policies stand, and these lines with marks.

pub(super) mod excerpt;
pub(super) mod place;
