//! Everything that speaks to the Kubernetes API.
//!
//! [`Kubernetes`] is what `sniff` asks on a node. [`Cluster`] is what `kubectl sniff` works with: it finds pods and
//! follows them (`pods`), runs commands in them (`exec`), and makes and removes the pods that capture (`agent`).

mod access;
pub mod agent;
mod cluster;
mod config;
mod exec;
mod missing;
mod node;
mod pods;

pub use access::{DaemonPod, Permission, ServerVersion};
pub use cluster::{Cluster, Forbidden, Request};
/// Pauses between tries: longer each time up to half a minute, never two clients in step, and short again after two
/// minutes without a try.
pub use kube::runtime::watcher::DefaultBackoff as Backoff;

pub use exec::{Input, Output, Piece, Process};
pub use node::{Kubernetes, Pod};
pub use pods::{By, Change, Follow, NodeFacts, Selection, Workload, follow};

#[cfg(any(test, feature = "testing"))]
pub use node::testing;
