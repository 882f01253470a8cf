//! What `npc explain` prints: of flows as text and as JSON, of one endpoint, of one policy, and where an end
//! was not read.

pub(super) mod endpoint;
pub(super) mod json;
pub(super) mod policy;
pub(super) mod text;
pub(super) mod unread_end;
