//! One end of an interface.

use std::{ffi::CString, fmt};

use anyhow::{Context as _, Result, ensure};
use nix::net::if_::if_indextoname;

use super::{link::sanitize_name, netns::Netns};

/// One end of an interface: where a classifier can be attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// The network namespace it is in.
    pub netns: Netns,
    /// Its ifindex in that namespace.
    pub ifindex: u32,
    /// Its name there, as [`link`](super::link) knows it: control characters are possible.
    pub ifname: String,
}

impl Side {
    /// Makes sure that the index is still that of the interface that was found. To be called inside the network
    /// namespace.
    ///
    /// # Errors
    ///
    /// When the interface is gone, or has another name now.
    pub fn ensure_there(&self) -> Result<()> {
        let name = name_of(self.ifindex).with_context(|| format!("{self} is gone"))?;
        let name = sanitize_name(name.into_bytes());
        ensure!(name == self.ifname, "{self} (index {}) is now named {}", self.ifindex, name.escape_debug());
        Ok(())
    }

    /// Whether the interface is still there; to be called from anywhere.
    pub fn is_there(&self) -> bool {
        matches!(self.netns.look(|| self.ensure_there()), Ok(Some(())))
    }

    /// Whether the namespace has an interface of this index, by whatever name; none when that cannot be told, since
    /// no path leads there any more.
    pub fn is_in_place(&self) -> Option<bool> {
        self.netns.look(|| Ok(name_of(self.ifindex).is_some())).ok().flatten()
    }
}

/// The name of an interface of the calling thread's namespace.
fn name_of(ifindex: u32) -> Option<CString> {
    // nix takes no answer for an empty one.
    if_indextoname(ifindex).ok().filter(|name| !name.is_empty())
}

/// The name, fit to be printed.
impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ifname.escape_debug().fmt(f)
    }
}
