//! zstd: the node compresses, the client decompresses.
//!
//! Compressing runs on nodes, where speed counts, by the reference library. Decompressing must build wherever kubectl
//! runs and reads what a node sends, which the client does not trust: that is done in Rust.

use std::io::Read as _;

use bytes::Bytes;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

use super::MAX_PAYLOAD;

/// What a compressed payload was; says what is wrong with it otherwise.
pub(super) fn decompress(compressed: &[u8]) -> Result<Bytes, String> {
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(MAX_PAYLOAD as u64);
    let mut rest = compressed;
    let decoder = StreamingDecoder::new_with_decoder(&mut rest, decoder).map_err(|e| e.to_string())?;
    let mut payload = Vec::new();
    let limit = MAX_PAYLOAD as u64 + 1;
    decoder.take(limit).read_to_end(&mut payload).map_err(|e| e.to_string())?;
    if payload.len() > MAX_PAYLOAD {
        return Err(format!("{} bytes decompress to more than {MAX_PAYLOAD}", compressed.len()));
    }
    if !rest.is_empty() {
        return Err(format!("{} bytes follow a zstd frame", rest.len()));
    }
    Ok(payload.into())
}

#[cfg(target_os = "linux")]
pub use compressor::Compressor;

#[cfg(target_os = "linux")]
mod compressor {
    use zstd::bulk;

    use crate::{MAX_PAYLOAD, request::Compress};

    /// The fastest of zstd's usual levels: a node's CPU belongs to its pods.
    const LEVEL: i32 = 1;
    /// Payloads below this many bytes are not worth the call.
    const MIN_LEN: usize = 512;
    /// A compressed payload must be at most this many eighths of the original to be sent in its place.
    const WORTHWHILE_EIGHTHS: usize = 7;
    /// Behind a payload that did not compress, this many times its bytes are sent as they are before another is tried:
    /// encrypted traffic stays so for a while, and costs this part of what compressing it would.
    const PAUSE: usize = 32;

    /// Compresses payloads.
    pub struct Compressor {
        policy: Compress,
        zstd: bulk::Compressor<'static>,
        compressed: Vec<u8>,
        /// Bytes that are not tried.
        pause: usize,
    }

    impl Compressor {
        /// A compressor of what `policy` says; [`Compress::Auto`] is what gets smaller by it.
        ///
        /// # Errors
        ///
        /// When there is no memory for it.
        pub fn new(policy: Compress) -> std::io::Result<Self> {
            let zstd = bulk::Compressor::new(LEVEL)?;
            Ok(Self { policy, zstd, compressed: Vec::new(), pause: 0 })
        }

        /// The payload compressed; `None` when it had better be sent as it is.
        pub(crate) fn compress(&mut self, payload: &[u8]) -> Option<&[u8]> {
            match self.policy {
                Compress::Never => return None,
                Compress::Always => {}
                Compress::Auto if self.pause > 0 || payload.len() < MIN_LEN => {
                    self.pause = self.pause.saturating_sub(payload.len());
                    return None;
                }
                Compress::Auto => {}
            }
            self.compressed.clear();
            self.compressed.reserve(zstd::zstd_safe::compress_bound(payload.len()));
            // What cannot be compressed goes as it is.
            self.zstd.compress_to_buffer(payload, &mut self.compressed).ok()?;
            let limit = match self.policy {
                Compress::Auto => payload.len() / 8 * WORTHWHILE_EIGHTHS,
                Compress::Always | Compress::Never => MAX_PAYLOAD,
            };
            if self.compressed.len() > limit {
                self.pause = PAUSE * payload.len();
                return None;
            }
            Some(&self.compressed)
        }
    }
}
