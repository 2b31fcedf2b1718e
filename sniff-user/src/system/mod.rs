//! What the file says of the machine that the capture ran on.

pub mod clock;
pub mod owner;
pub mod parallel;
pub mod privileges;
pub mod signals;

use nix::sys::utsname::uname;

/// Names of the machine and its kernel.
#[derive(Clone, Debug)]
pub struct System {
    /// The node's name in Kubernetes; the host's name unless told otherwise.
    pub node: String,
    /// Operating system, as in `Linux 6.18.1`.
    pub os: String,
    /// Architecture, as in `x86_64`.
    pub hardware: String,
}

impl System {
    /// Looks at this machine.
    ///
    /// # Errors
    ///
    /// When `uname(2)` fails.
    pub fn this(node: Option<&str>) -> anyhow::Result<Self> {
        let names = uname()?;
        let text = |name: &std::ffi::OsStr| name.to_string_lossy().into_owned();
        Ok(Self {
            node: node.map_or_else(|| text(names.nodename()), str::to_owned),
            os: format!("{} {}", text(names.sysname()), text(names.release())),
            hardware: text(names.machine()),
        })
    }
}

/// Whether the kernel is built with `PREEMPT_RT`, where a softirq can be interrupted by another one.
///
/// The build's version string says so (`init/Makefile`, `scripts/mkcompile_h`). A kernel that cannot be asked is
/// taken for one.
pub fn is_preempt_rt() -> bool {
    uname().map_or(true, |names| names.version().to_string_lossy().contains("PREEMPT_RT"))
}
