//! Where a program runs, as Go and the container world call it.

use std::{env, fmt, str::FromStr};

use anyhow::{Context as _, Error, Result, bail};

/// An operating system on a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Platform {
    /// `linux`, `darwin` or `windows`.
    pub os: &'static str,
    /// `amd64` or `arm64`.
    pub architecture: &'static str,
}

impl Platform {
    /// That of this machine.
    ///
    /// # Errors
    /// Nothing is released for it.
    pub fn here() -> Result<Self> {
        Self::of(env::consts::OS, env::consts::ARCH)
    }

    /// The one that is called so; `None` where nothing is released for it.
    pub fn named(os: &str, architecture: &str) -> Option<Self> {
        let os = ["linux", "darwin", "windows"].into_iter().find(|known| *known == os)?;
        let architecture = ["amd64", "arm64"].into_iter().find(|known| *known == architecture)?;
        Some(Self { os, architecture })
    }

    fn of(os: &str, architecture: &str) -> Result<Self> {
        let os = match os {
            "linux" => "linux",
            "macos" | "darwin" => "darwin",
            "windows" => "windows",
            _ => bail!("nothing is released for {os}"),
        };
        let architecture = match architecture {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            _ => bail!("nothing is released for {architecture}"),
        };
        Ok(Self { os, architecture })
    }

    /// What a program's file is called.
    pub fn program(self, name: &str) -> String {
        let suffix = if self.os == "windows" { ".exe" } else { "" };
        format!("{name}{suffix}")
    }

    /// Whether people there expect ZIP archives.
    pub fn has_zip(self) -> bool {
        self.os == "windows"
    }
}

/// From what rustc calls it: `aarch64-apple-darwin`.
impl FromStr for Platform {
    type Err = Error;

    fn from_str(target: &str) -> Result<Self> {
        let mut parts = target.split('-');
        let (architecture, _, os) = (parts.next(), parts.next(), parts.next());
        Self::of(os.with_context(|| format!("{target:?} is no target"))?, architecture.unwrap_or_default())
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.os, self.architecture)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_named_as_go_does() {
        let name = |target: &str| target.parse::<Platform>().map(|platform| platform.to_string()).ok();
        for (target, expected) in [
            ("x86_64-unknown-linux-musl", "linux-amd64"),
            ("aarch64-unknown-linux-musl", "linux-arm64"),
            ("aarch64-apple-darwin", "darwin-arm64"),
            ("x86_64-pc-windows-gnu", "windows-amd64"),
        ] {
            assert_eq!(name(target).as_deref(), Some(expected));
        }
        for bad in ["", "x86_64", "riscv64gc-unknown-linux-musl", "x86_64-unknown-freebsd"] {
            assert_eq!(name(bad), None, "{bad}");
        }
    }
}
