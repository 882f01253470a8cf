//! Ends that nothing distinguishes: a kind of them, and its face, which is all that rules at the other end can match.

use smallvec::SmallVec;

use crate::cluster::group::GroupId;
use crate::verdict::bounds::Deciding;

/// A kind of ends, by its place among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KindId(pub(super) u32);

impl KindId {
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Everything about an end that decides.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct EndKind {
    /// The groups that decide about it together, in the order of
    /// [`Direction::ALL`](crate::policy::Direction::ALL).
    pub(super) groups: [SmallVec<[GroupId; 1]>; 2],
    /// The same where the input does not say which policies apply.
    pub(super) open: [Option<Box<Deciding>>; 2],
    /// Its node, if other pods hold some address in the view of this node than in that of other nodes.
    pub(super) node: Option<Viewer>,
    /// The end as rules of most nodes match it, and as rules of these nodes do.
    pub(super) face: FaceId,
    pub(super) faces: SmallVec<[(Viewer, FaceId); 0]>,
}

/// A face, by its place among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FaceId(pub(super) u32);

/// A node with a view of its own, by its place among them.
pub(super) type Viewer = u32;
