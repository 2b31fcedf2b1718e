//! Landlock: which files may be opened, whatever their permissions say, and nothing of the network or of other processes.

use anyhow::{Context as _, Result};
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, LandlockStatus, Ruleset, RulesetAttr as _, RulesetCreated,
    RulesetCreatedAttr as _, Scope, path_beneath_rules,
};

use crate::{Kept, Sandbox};

/// The newest that this crate knows; of it, a kernel does what it has.
const NEWEST: ABI = ABI::V10;
/// The newest in which datagrams are not a right.
const WITHOUT_DATAGRAMS: ABI = ABI::V9;

/// What may be read, ready to be enforced.
pub struct Rules {
    set: RulesetCreated,
    /// Whether files are opened at all, so that somebody has to say which.
    opens: bool,
}

impl Rules {
    /// Finds the files.
    ///
    /// # Errors
    ///
    /// When the kernel refuses rules of a kind that it has.
    pub fn new(sandbox: &Sandbox) -> Result<Self> {
        let net = if sandbox.names { WITHOUT_DATAGRAMS } else { NEWEST };
        let files = path_beneath_rules(&sandbox.readable, AccessFs::ReadFile);
        let set = Ruleset::default()
            .handle_access(AccessFs::from_all(NEWEST))
            .and_then(|set| set.handle_access(AccessNet::from_all(net)))
            .and_then(|set| set.scope(Scope::from_all(NEWEST)))
            .and_then(Ruleset::create)
            .and_then(|set| set.add_rules(files))
            .context("cannot make Landlock's rules")?;
        Ok(Self { set, opens: !sandbox.readable.is_empty() })
    }

    /// Enforces them on this thread and all that it starts.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, as it does when there are sixteen sets already.
    pub fn enforce(self) -> Result<Option<Kept>> {
        let status = self.set.restrict_self().context("cannot enforce Landlock's rules")?;
        let is_enforced = matches!(status.landlock, LandlockStatus::Available { .. });
        Ok((self.opens && !is_enforced).then_some(Kept::Files))
    }
}
