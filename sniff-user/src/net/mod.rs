//! Network namespaces, and what netlink tells of interfaces and of TC filters.

pub mod hook;
pub mod link;
pub mod netns;
pub mod side;
pub mod tc;
