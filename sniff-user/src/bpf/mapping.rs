//! Memory that is mapped: that of a BPF map, which the kernel side writes while we read, and a file's bytes.
#![expect(unsafe_code, reason = "memory that is shared with the kernel")]

use std::{
    fs::File,
    io::{self, Read as _},
    num::NonZero,
    ops::Range,
    os::fd::AsFd,
    ptr::NonNull,
    slice,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// Mapped memory. Dropping it unmaps it.
pub struct Mapping {
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory belongs to no thread, and is accessed by atomics or under the promise of `bytes`.
unsafe impl Send for Mapping {}
// SAFETY: likewise.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes from `offset` on, which is a multiple of the page size. Only what is mapped writable may be
    /// written to.
    ///
    /// # Errors
    ///
    /// When the map is not mmapable, or is smaller, or there is no memory.
    pub fn new(map: impl AsFd, offset: usize, len: usize, writable: bool) -> io::Result<Self> {
        let size = NonZero::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        let write = if writable { ProtFlags::PROT_WRITE } else { ProtFlags::empty() };
        // SAFETY: a new mapping, at a place that the kernel chooses.
        let at = unsafe {
            mmap(None, size, ProtFlags::PROT_READ | write, MapFlags::MAP_SHARED, map, offset as libc::off_t)
        }?;
        Ok(Self { at: at.cast(), len })
    }

    /// Bytes that are mapped.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The 64-bit word at `offset`.
    ///
    /// # Panics
    ///
    /// When it is not inside, or not aligned.
    pub fn u64(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.len, "a word outside the mapping");
        // SAFETY: inside the mapping, aligned, and atomics may be written to by others.
        unsafe { AtomicU64::from_ptr(self.at.as_ptr().add(offset).cast()) }
    }

    /// The 32-bit word at `offset`.
    ///
    /// # Panics
    ///
    /// When it is not inside, or not aligned.
    pub fn u32(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.len, "a word outside the mapping");
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(self.at.as_ptr().add(offset).cast()) }
    }

    /// A copy of the bytes in `range`, which others may write to meanwhile. Its bounds are multiples of 4.
    ///
    /// # Panics
    ///
    /// When they are not, or not inside.
    pub fn copy(&self, range: Range<usize>) -> Vec<u8> {
        let words = range.step_by(4).map(|offset| self.u32(offset).load(Ordering::Relaxed));
        words.flat_map(u32::to_ne_bytes).collect()
    }

    /// The bytes in `range`.
    ///
    /// # Safety
    ///
    /// Nobody writes there while the slice lives.
    ///
    /// # Panics
    ///
    /// When they are not inside.
    pub unsafe fn bytes(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.len, "bytes outside the mapping");
        // SAFETY: inside the mapping; the rest is the caller's promise.
        unsafe { slice::from_raw_parts(self.at.as_ptr().add(range.start), range.len()) }
    }

    /// As [`Self::bytes`], to be written to.
    ///
    /// # Safety
    ///
    /// Nobody else reads or writes there while the slice lives, and the memory was mapped writable.
    ///
    /// # Panics
    ///
    /// When they are not inside.
    pub unsafe fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= self.len, "bytes outside the mapping");
        // SAFETY: inside the mapping; the rest is the caller's promise.
        unsafe { slice::from_raw_parts_mut(self.at.as_ptr().add(range.start), range.len()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and everything borrowed from it is gone. It cannot fail for a whole mapping.
        let _ = unsafe { munmap(self.at.cast(), self.len) };
    }
}

/// A file's bytes, in memory that goes back to the system with them. Of megabytes on the heap that are needed but for a
/// moment, glibc would keep what it can.
pub struct Contents(Mapping);

impl Contents {
    /// Reads a file that tells its size.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or has no bytes.
    pub fn read(path: &str) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let size = NonZero::new(len).ok_or(io::ErrorKind::InvalidData)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, at a place that the kernel chooses.
        let at = unsafe { mmap_anonymous(None, size, access, MapFlags::MAP_PRIVATE) }?;
        let mut mapping = Mapping { at: at.cast(), len };
        // SAFETY: writable, and nobody else knows of it.
        file.read_exact(unsafe { mapping.bytes_mut(0..len) })?;
        Ok(Self(mapping))
    }

    /// All of them.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: nobody writes there any more.
        unsafe { self.0.bytes(0..self.0.len()) }
    }
}
