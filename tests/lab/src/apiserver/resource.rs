//! What the server stores, and where the API has it.

/// A resource that the server stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// `/api/v1/namespaces`
    Namespaces,
    /// `/api/v1/nodes`
    Nodes,
    /// `/api/v1/pods`
    Pods,
    /// `/api/v1/services`
    Services,
    /// `/apis/networking.k8s.io/v1/networkpolicies`
    NetworkPolicies,
    /// `/apis/events.k8s.io/v1/events`, and as `/api/v1/events` the same
    /// objects in their older form.
    Events,
}

/// A version of an API group, as in `apiVersion`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// `v1`
    Core,
    /// `networking.k8s.io/v1`
    Networking,
    /// `events.k8s.io/v1`
    Events,
}

impl Group {
    /// All groups that the server has.
    pub const ALL: [Self; 3] = [Self::Core, Self::Networking, Self::Events];

    /// Its name; empty for the core group.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Core => "",
            Self::Networking => "networking.k8s.io",
            Self::Events => "events.k8s.io",
        }
    }

    /// The `apiVersion` of its objects.
    #[must_use]
    pub fn api_version(self) -> &'static str {
        match self {
            Self::Core => "v1",
            Self::Networking => "networking.k8s.io/v1",
            Self::Events => "events.k8s.io/v1",
        }
    }

    /// The group of an `apiVersion`.
    #[must_use]
    pub fn of(api_version: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|group| group.api_version() == api_version)
    }
}

impl Resource {
    /// All resources; a namespace comes before the objects that live in it.
    pub const ALL: [Self; 6] =
        [Self::Namespaces, Self::Nodes, Self::Pods, Self::Services, Self::NetworkPolicies, Self::Events];

    /// Its name in paths.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::Nodes => "nodes",
            Self::Pods => "pods",
            Self::Services => "services",
            Self::NetworkPolicies => "networkpolicies",
            Self::Events => "events",
        }
    }

    /// The `kind` of its objects.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Namespaces => "Namespace",
            Self::Nodes => "Node",
            Self::Pods => "Pod",
            Self::Services => "Service",
            Self::NetworkPolicies => "NetworkPolicy",
            Self::Events => "Event",
        }
    }

    /// The group that it is stored in, which errors name.
    #[must_use]
    pub fn group(self) -> Group {
        match self {
            Self::NetworkPolicies => Group::Networking,
            _ => Group::Core,
        }
    }

    /// Whether a group serves it.
    #[must_use]
    pub fn is_in(self, group: Group) -> bool {
        self.group() == group || (self == Self::Events && group == Group::Events)
    }

    /// Whether its objects live in namespaces.
    #[must_use]
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespaces | Self::Nodes)
    }

    /// Whether its objects have a status subresource.
    #[must_use]
    pub fn has_status(self) -> bool {
        !matches!(self, Self::NetworkPolicies | Self::Events)
    }

    /// The resource of a path segment.
    #[must_use]
    pub fn of(group: Group, plural: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|resource| resource.plural() == plural && resource.is_in(group))
    }

    /// The resource of an object's `kind`.
    #[must_use]
    pub fn of_kind(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|resource| resource.kind() == kind)
    }

    /// Its name with its group, as errors have it: `networkpolicies.networking.k8s.io`.
    #[must_use]
    pub fn qualified(self) -> String {
        match self.group() {
            Group::Core => self.plural().to_owned(),
            group => format!("{}.{}", self.plural(), group.name()),
        }
    }
}

/// What a request asks to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Read one object.
    Get,
    /// Read all objects, or the first page of them.
    List,
    /// Read a further page of a list (`continue`).
    Page,
    /// Follow changes from a version on.
    Watch,
    /// Get all objects as events, then follow changes (`sendInitialEvents`).
    StreamingList,
    /// Make an object.
    Create,
    /// Replace an object, or its status.
    Update,
    /// Change an object in part.
    Patch,
    /// Remove an object.
    Delete,
}

impl Verb {
    /// Its name in authorization.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List | Self::Page => "list",
            Self::Watch | Self::StreamingList => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
        }
    }

    /// Whether the answer goes on until one end closes it.
    #[must_use]
    pub fn is_watch(self) -> bool {
        matches!(self, Self::Watch | Self::StreamingList)
    }
}
