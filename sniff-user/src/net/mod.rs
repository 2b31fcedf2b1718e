//! Network namespaces, and what netlink tells of interfaces and of TC filters.

pub mod link;
pub mod netns;
pub mod tc;
