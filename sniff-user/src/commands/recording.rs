//! How much a recorder is to hold: `--record`.

use std::time::Duration;

use sniff_cli::options::{duration, ring_bytes};

/// Bytes of a recording of which only a time is known.
const DEFAULT_BYTES: u32 = 256 << 20;

/// How much is to be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recording {
    /// In bytes.
    pub bytes: u32,
    /// And how far back that is wished to go.
    pub time: Option<Duration>,
}

impl Recording {
    /// A size, as in `256MiB` or `1G`, or a time, as in `30m`.
    ///
    /// # Errors
    ///
    /// When it is neither, or too little or too much.
    pub fn parse(text: &str) -> Result<Self, String> {
        // Of units of one letter, the small ones are of time.
        if text.ends_with(['s', 'm', 'h', 'd']) {
            Ok(Self { bytes: DEFAULT_BYTES, time: Some(duration(text)?) })
        } else {
            Ok(Self { bytes: ring_bytes(text)?, time: None })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_size_or_a_time() {
        for (text, bytes, time) in [
            ("64MiB", 64 << 20, None),
            ("1G", 1 << 30, None),
            ("30M", 30 << 20, None),
            ("30m", DEFAULT_BYTES, Some(1800)),
            ("2h", DEFAULT_BYTES, Some(7200)),
            ("90s", DEFAULT_BYTES, Some(90)),
        ] {
            let time = time.map(Duration::from_secs);
            assert_eq!(Recording::parse(text), Ok(Recording { bytes, time }), "{text}");
        }
        for bad in ["0s", "soon", "1KiB", ""] {
            assert!(Recording::parse(bad).is_err(), "{bad}");
        }
    }
}
