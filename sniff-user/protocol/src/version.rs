//! What a program of sniff says that it is.

use std::{fmt, sync::LazyLock};

use crate::PROTOCOL;

/// The commit that a program of a release was built from; `cargo xtask dist` tells the compiler.
const COMMIT: Option<&str> = option_env!("SNIFF_COMMIT");

/// A build of sniff, as in `0.1.0 (3283570, protocol 1)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Build<'a> {
    /// Its version.
    pub version: &'a str,
    /// The commit that it was built from, where that is known.
    pub commit: Option<&'a str>,
    /// The protocol that it speaks.
    pub protocol: u8,
}

impl Build<'static> {
    /// This one.
    pub const THIS: Self = Self { version: env!("CARGO_PKG_VERSION"), commit: COMMIT, protocol: PROTOCOL };

    /// This one as text, for as long as the program runs.
    pub fn this() -> &'static str {
        static TEXT: LazyLock<String> = LazyLock::new(|| Build::THIS.to_string());
        &TEXT
    }
}

impl fmt::Display for Build<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, commit, protocol } = self;
        let commit = commit.map(|commit| format!("{commit}, ")).unwrap_or_default();
        write!(f, "{version} ({commit}protocol {protocol})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_told_with_its_commit_where_that_is_known() {
        let build = Build { version: "1.2.3", commit: None, protocol: 4 };
        assert_eq!(build.to_string(), "1.2.3 (protocol 4)");
        assert_eq!(Build { commit: Some("abc"), ..build }.to_string(), "1.2.3 (abc, protocol 4)");
    }
}
