//! Everything that speaks to the Kubernetes API.
//!
//! [`Cluster`] is the connection, of `sniff` on a node as of `kubectl sniff`. What is asked over it is in the module of
//! what it is about: [`pods`] (all that a node asks for), workloads and nodes; [`daemonset`] and [`jobs`], the pods that
//! sniff itself runs in; and `exec`, `access` and `tokens`.

mod access;
mod cluster;
mod config;
pub mod consent;
pub mod daemonset;
pub mod events;
mod exec;
pub mod jobs;
mod missing;
mod names;
mod nodes;
pub mod own;
pub mod pods;
mod proxy;
pub mod recordings;
mod refusal;
mod tokens;
mod watching;
mod workloads;

pub use access::{Permission, RefusedPod, ServerVersion, how_to_let_in};
pub use cluster::{Cluster, Request};
pub use config::Login;
pub use exec::{CommandOutput, Input, Piece, Process};
/// Pauses between tries: longer each time up to half a minute, never two clients in step, and short again after two
/// minutes without a try.
pub use kube::runtime::watcher::DefaultBackoff as Backoff;
pub use names::{Named, follow_names};
pub use nodes::Node;
pub use refusal::Forbidden;
pub use tokens::{Account, Claims, NoAccount, Reviewed, Token, signed};
pub use workloads::Workload;
