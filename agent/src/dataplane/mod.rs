//! The kernel: the only module that touches ipset, iptables and netlink.
