//! Everything that speaks to the Kubernetes API.
//!
//! [`Cluster`] is the connection, of `sniff` on a node as of `kubectl sniff`. What is asked over it is in the module of
//! what it is about: [`pods`] (all that a node asks for), workloads and nodes; [`daemonset`] and [`jobs`], the pods that
//! sniff itself runs in; and `exec` and `access`.

mod access;
mod cluster;
mod config;
pub mod daemonset;
mod exec;
pub mod jobs;
mod missing;
mod names;
mod nodes;
pub mod own;
pub mod pods;
mod refusal;
mod workloads;

pub use access::{Permission, ServerVersion};
pub use cluster::{Cluster, Request};
pub use config::Login;
pub use exec::{CommandOutput, Input, Piece, Process};
/// Pauses between tries: longer each time up to half a minute, never two clients in step, and short again after two
/// minutes without a try.
pub use kube::runtime::watcher::DefaultBackoff as Backoff;
pub use names::{Named, follow_names};
pub use nodes::Node;
pub use refusal::Forbidden;
pub use workloads::Workload;
