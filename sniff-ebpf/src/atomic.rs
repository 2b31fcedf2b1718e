//! Atomic instructions on 64-bit words. The language offers none for this target.

use core::arch::asm;

/// Adds. Every kernel has this one, since it gives nothing back.
///
/// # Safety
///
/// `word` is valid and aligned to 8.
#[inline(always)]
pub unsafe fn add(word: *mut u64, value: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) word, in(reg) value, options(nostack)) };
}

/// Writes a new value and returns the old one; a full barrier. Linux 5.12.
///
/// # Safety
///
/// `word` is valid and aligned to 8.
#[inline(always)]
pub unsafe fn exchange(word: *mut u64, mut value: u64) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { asm!("{1} = xchg_64({0} + 0, {1})", in(reg) word, inout(reg) value, options(nostack)) };
    value
}
