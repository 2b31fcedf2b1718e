//! The exit status, in one place.

/// The capture ended as asked: by `--count`, `--duration`, a signal, or a reader that has seen enough.
pub const SUCCESS: u8 = 0;
/// Something failed; stderr says what.
pub const FAILURE: u8 = 1;
/// The command line is wrong. clap uses the same number.
pub const USAGE: u8 = 2;
