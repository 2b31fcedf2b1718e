//! Where TC looks at an interface's packets.

/// Which of an interface's two hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Packets that the interface receives.
    Ingress,
    /// Packets that the interface sends.
    Egress,
}

impl Hook {
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];
}
