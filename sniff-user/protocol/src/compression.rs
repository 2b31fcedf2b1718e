//! zstd: the far side packs, the client unpacks.
//!
//! Packing runs on nodes, where speed counts, by the reference library. Unpacking must build wherever kubectl runs and
//! reads what a node sends, which the client does not trust: that is done in Rust.

use std::io::Read as _;

use bytes::Bytes;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

use super::MAX_PAYLOAD;

/// The packed payload, unpacked; says what is wrong with it otherwise.
pub(super) fn unpack(packed: &[u8]) -> Result<Bytes, String> {
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(MAX_PAYLOAD as u64);
    let mut rest = packed;
    let decoder = StreamingDecoder::new_with_decoder(&mut rest, decoder).map_err(|e| e.to_string())?;
    let mut unpacked = Vec::new();
    let limit = MAX_PAYLOAD as u64 + 1;
    decoder.take(limit).read_to_end(&mut unpacked).map_err(|e| e.to_string())?;
    if unpacked.len() > MAX_PAYLOAD {
        return Err(format!("{} bytes unpack to more than {MAX_PAYLOAD}", packed.len()));
    }
    if !rest.is_empty() {
        return Err(format!("{} bytes follow a zstd frame", rest.len()));
    }
    Ok(unpacked.into())
}

#[cfg(target_os = "linux")]
pub use packing::Compressor;

#[cfg(target_os = "linux")]
mod packing {
    use zstd::bulk;

    use crate::{MAX_PAYLOAD, request::Compress};

    /// The fastest of zstd's usual levels: a node's CPU belongs to its pods.
    const LEVEL: i32 = 1;
    /// Payloads below this many bytes are not worth the call.
    const MIN_LEN: usize = 512;
    /// A packed payload must be at most this many eighths of the original to be sent in its place.
    const WORTHWHILE_EIGHTHS: usize = 7;
    /// Payloads to send as they are after one did not pack well: encrypted traffic stays so for a while.
    const PAUSE: u32 = 32;

    /// Packs payloads.
    pub struct Compressor {
        policy: Compress,
        zstd: bulk::Compressor<'static>,
        packed: Vec<u8>,
        paused: u32,
    }

    impl Compressor {
        /// A compressor that packs what `policy` says.
        ///
        /// # Errors
        ///
        /// When there is no memory for it.
        pub fn new(policy: Compress) -> std::io::Result<Self> {
            let zstd = bulk::Compressor::new(LEVEL)?;
            Ok(Self { policy, zstd, packed: Vec::new(), paused: 0 })
        }

        /// The payload packed; `None` when it had better be sent as it is.
        pub(crate) fn pack(&mut self, payload: &[u8]) -> Option<&[u8]> {
            let is_tried = match self.policy {
                Compress::Never => false,
                Compress::Always => true,
                Compress::Auto if self.paused > 0 => {
                    self.paused -= 1;
                    false
                }
                Compress::Auto => payload.len() >= MIN_LEN,
            };
            if !is_tried {
                return None;
            }
            self.packed.clear();
            self.packed.reserve(zstd::zstd_safe::compress_bound(payload.len()));
            // What cannot be packed goes as it is.
            self.zstd.compress_to_buffer(payload, &mut self.packed).ok()?;
            let limit = match self.policy {
                Compress::Auto => payload.len() / 8 * WORTHWHILE_EIGHTHS,
                Compress::Always | Compress::Never => MAX_PAYLOAD,
            };
            if self.packed.len() > limit {
                self.paused = PAUSE;
                return None;
            }
            Some(&self.packed)
        }
    }
}
