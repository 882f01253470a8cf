//! Why a verdict differs, in words and with the source of the claim.

/// Why Azure NPM and npc judge a flow differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AzureReason {
    /// `namespaceSelector` with `NotIn` and several values.
    NamespaceNotIn,
    /// A selector that only excludes, and an address outside.
    NegativeSelectorOutside,
    /// Azure NPM does not program the policy.
    PolicyRefused,
    /// Azure NPM has no rules for IPv6.
    Ipv6,
    /// Traffic by a node's port, with externalTrafficPolicy Cluster.
    NodePort,
    /// A pod that reaches itself by way of a Service.
    SelfByService,
    /// The object has text that today's API server refuses.
    OddText,
}

impl AzureReason {
    /// All reasons.
    pub const ALL: [Self; 7] = [
        Self::NamespaceNotIn,
        Self::NegativeSelectorOutside,
        Self::PolicyRefused,
        Self::Ipv6,
        Self::NodePort,
        Self::SelfByService,
        Self::OddText,
    ];

    /// Its name, which does not change.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NamespaceNotIn => "namespace-not-in",
            Self::NegativeSelectorOutside => "negative-selector-outside",
            Self::PolicyRefused => "policy-refused",
            Self::Ipv6 => "ipv6",
            Self::NodePort => "node-port",
            Self::SelfByService => "self-by-service",
            Self::OddText => "odd-text",
        }
    }

    /// What Azure NPM does, and what the API says and npc does.
    #[must_use]
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::NamespaceNotIn => {
                "Azure NPM makes a rule of each value of NotIn in a namespaceSelector, and one of them is enough: \
                 with two values every pod of every namespace is let in. The API means namespaces that have none of \
                 the values, and so does npc."
            }
            Self::NegativeSelectorOutside => {
                "Azure NPM asks that an address is not in the set of the pods that NotIn or DoesNotExist names; \
                 addresses outside the cluster, and those of nodes, are in no such set and match. In the API a \
                 selector only ever selects pods, and so with npc."
            }
            Self::PolicyRefused => {
                "Azure NPM cannot translate a field of this policy and programs none of it: it neither isolates nor \
                 allows. npc enforces the policy; what it cannot understand matches nothing."
            }
            Self::Ipv6 => {
                "Azure NPM writes no ip6tables rule: over IPv6 everything passes. npc enforces policies for both \
                 families."
            }
            Self::NodePort => {
                "Where Azure NPM's jump stands behind kube-proxy's, KUBE-FORWARD accepts traffic that came by a \
                 node's port under externalTrafficPolicy Cluster before a policy is asked, if the pod runs on that \
                 node. npc's rules stand first and judge it, with the client's address."
            }
            Self::SelfByService => {
                "Azure NPM judges a pod's traffic to its own Service, when that leads back to the pod, like that of \
                 two pods. In the API a pod always reaches itself, and so with npc."
            }
            Self::OddText => {
                "The object holds text that today's API server refuses and an older one stored; Azure NPM hands it \
                 to iptables and ipset as it stands, npc reads it as the API means it, and what it cannot read \
                 matches nothing."
            }
        }
    }

    /// What its owner can do before the switch.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::NamespaceNotIn => "to keep these flows, allow the namespaces by name or with their own peer",
            Self::NegativeSelectorOutside => "to keep these flows, add a peer with an ipBlock for the addresses",
            Self::PolicyRefused => "correct the field named here and run this again",
            Self::Ipv6 => {
                "to keep these flows, write rules that allow them: pod peers mean both families, ipBlocks one"
            }
            Self::NodePort => {
                "to keep these flows, add an ipBlock with the clients' addresses (for a load balancer's health probes \
                 168.63.129.16/32, and for other nodes' ports the nodes' addresses), or set externalTrafficPolicy \
                 Local and allow the clients"
            }
            Self::SelfByService => "nothing: it cannot be denied",
            Self::OddText => "write the field as the API server takes it today",
        }
    }

    /// Where this can be read.
    #[must_use]
    pub const fn source(self) -> &'static str {
        match self {
            Self::NamespaceNotIn => "npm/pkg/controlplane/translation/parseSelector.go, flattenNameSpaceSelector",
            Self::NegativeSelectorOutside => "npm/pkg/controlplane/translation/translatePolicy.go, nameSpaceSelector",
            Self::PolicyRefused => "npm/pkg/controlplane/translation/translatePolicy.go, ipBlockRule",
            Self::Ipv6 => "npm/pkg/controlplane/controllers/v2/podController.go, syncAddedPod",
            Self::NodePort => {
                "npm/pkg/dataplane/policies/chain-management_linux.go, positionAzureChainJumpRule; kube-proxy, \
                 KUBE-FORWARD"
            }
            Self::SelfByService => "npm/pkg/dataplane/policies/policymanager_linux.go: no rule for it",
            Self::OddText => "npm/pkg/controlplane/translation/translatePolicy.go, ipBlockIPSet and portRule",
        }
    }
}

/// A difference that is not of a policy and its flows but of all traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note {
    /// Its name, which does not change.
    pub code: &'static str,
    /// What it is about.
    pub text: &'static str,
}

/// The differences that do not depend on policies.
pub const NOTES: [Note; 5] = [
    Note {
        code: "terminal-accept",
        text: "Azure NPM ends in ACCEPT, so rules of others behind its jump in FORWARD never see a first packet; \
               npc returns what it allows to FORWARD, and they take effect: on AKS the drop of 168.63.129.16 tcp 80 \
               and 32526, and FORWARD's policy where it is DROP",
    },
    Note {
        code: "established",
        text: "Azure NPM never cuts a connection that a new policy denies; npc does, also at its first start, \
               unless --keep-established",
    },
    Note {
        code: "only-new",
        text: "Azure NPM judges packets of conntrack's state NEW only; npc also judges what is INVALID or UNTRACKED, \
               and drops TCP segments of no connection to and from isolated pods",
    },
    Note {
        code: "sidecar-port",
        text: "Azure NPM knows the named ports of containers only; npc, as the API, also those of sidecars \
               (restartable init containers)",
    },
    Note {
        code: "pod-start",
        text: "Azure NPM learns a pod's address after the pod runs, so its first packets pass unjudged; \
               npc learns it from the API server too, unless its CNI plugin is installed",
    },
];
