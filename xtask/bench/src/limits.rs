//! What the machine can do at best, so that figures from different machines can be read side by side.

use std::{fs::File, hint::black_box, io::Write as _, path::Path, thread};

use anyhow::{Context as _, Result, anyhow};
use nix::unistd::getppid;
use serde::Serialize;

use crate::cpu::{self, ThreadTimes};

const MIB: usize = 1 << 20;

/// One measurement of each.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Limits {
    /// Bytes that a second of CPU time writes to a new file, in pieces of a MiB.
    pub write_bytes_per_s: f64,
    /// Bytes that a second copies within the second-level cache.
    pub memcpy_cached_bytes_per_s: f64,
    /// Bytes that a second copies from memory to memory.
    pub memcpy_bytes_per_s: f64,
    /// A system call that does nothing.
    pub syscall_ns: f64,
}

impl Limits {
    /// Measures on the tools' CPU; the file is made in `folder`, and removed.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn measure(folder: &Path) -> Result<Self> {
        let file = folder.join("limits");
        let measured = thread::scope(|scope| {
            let work = || {
                cpu::pin(cpu::TOOL)?;
                Ok(Self {
                    write_bytes_per_s: write(&file)?,
                    memcpy_cached_bytes_per_s: copy(MIB / 8, 20_000)?,
                    memcpy_bytes_per_s: copy(128 * MIB, 4)?,
                    syscall_ns: syscall()?,
                })
            };
            scope.spawn(work).join().map_err(|_| anyhow!("measuring the machine's limits panicked"))?
        });
        std::fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
        measured
    }
}

fn write(path: &Path) -> Result<f64> {
    const PIECES: usize = 512;
    let piece = vec![0x55; MIB];
    let mut file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let seconds = cpu_seconds(|| (0..PIECES).try_for_each(|_| Ok(file.write_all(&piece)?)))?;
    Ok((PIECES * MIB) as f64 / seconds)
}

fn copy(len: usize, times: usize) -> Result<f64> {
    /// Copies between addresses with the same place in their pages are a slow case of many processors.
    const APART: usize = 2112;
    let (from, mut to) = (vec![0x55_u8; len], vec![0xaa_u8; len + APART]);
    let seconds = cpu_seconds(|| {
        for _ in 0..times {
            black_box(&mut to[APART..]).copy_from_slice(black_box(&from));
        }
        Ok(())
    })?;
    Ok((len * times) as f64 / seconds)
}

fn syscall() -> Result<f64> {
    const CALLS: u32 = 200_000;
    let seconds = cpu_seconds(|| {
        for _ in 0..CALLS {
            black_box(getppid());
        }
        Ok(())
    })?;
    Ok(seconds * 1e9 / f64::from(CALLS))
}

/// CPU time, and not what the clock at the wall says: others may have the CPU meanwhile.
fn cpu_seconds(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = ThreadTimes::now()?;
    work()?;
    Ok(start.spent()?.ran.as_secs_f64())
}
