//! Values as the verifier must see them, and the compiler would not have them.

use sniff_common::MAX_SNAPLEN;

/// The same value, which is less than twice [`MAX_SNAPLEN`]; the compiler knows nothing about it any more.
///
/// The verifier forgets bounds that were checked on another copy of a value. What is checked again on this one stays in
/// the program. And on branches that cannot be taken, which verifiers of old follow (Linux 5.10), a value's lower bound
/// can be above its upper one, which makes pointers and lengths computed from it look wild. A mask sets it anew.
#[inline(always)]
pub fn with_sound_bounds(mut value: u64) -> u64 {
    // SAFETY: a bitwise and.
    unsafe {
        core::arch::asm!(
            "{0} &= {1}",
            inout(reg) value,
            const 2 * MAX_SNAPLEN - 1,
            options(nomem, nostack, preserves_flags),
        );
    }
    value
}

/// The smaller of a value and a constant of the program. Those verifiers see that a branch cannot be taken only when the
/// constant is on the right, which the compiler does not promise.
#[inline(always)]
pub fn at_most(mut value: u64, limit: u64) -> u64 {
    // SAFETY: a comparison and a move.
    unsafe {
        core::arch::asm!(
            "if {0} <= {1} goto +1",
            "{0} = {1}",
            inout(reg) value,
            in(reg) limit,
            options(nomem, nostack, preserves_flags),
        );
    }
    value
}

/// The same value, of which verifiers before Linux 6.3 see that it is not 0: they learn that from `>`, not from `!=`,
/// which is what the compiler would make of it.
#[inline(always)]
pub fn at_least_one(mut value: u64) -> u64 {
    // SAFETY: a comparison and a move.
    unsafe {
        core::arch::asm!(
            "if {0} > 0 goto +1",
            "{0} = 1",
            inout(reg) value,
            options(nomem, nostack, preserves_flags),
        );
    }
    value
}

/// The same address, of which the compiler knows nothing any more: what it then compares is this address, and not what it
/// was computed from. The verifier learns only about what is compared.
#[inline(always)]
pub fn as_computed(mut address: usize) -> usize {
    // SAFETY: a comment.
    unsafe {
        core::arch::asm!("/* {0} */", inout(reg) address, options(nomem, nostack, preserves_flags));
    }
    address
}

/// The same value, of which the verifier knows nothing any more: paths that differ in nothing else are one to it from here
/// on, and it follows them once. `unknown` is any value that it knows nothing about: what `unknown ^ unknown` is, it does
/// not know either.
#[inline(always)]
pub fn forgotten(mut value: u64, unknown: u64) -> u64 {
    // SAFETY: moves, an exclusive or and an addition.
    unsafe {
        core::arch::asm!(
            "{1} = {2}",
            "{1} ^= {2}",
            "{0} += {1}",
            inout(reg) value,
            out(reg) _,
            in(reg) unknown,
            options(nomem, nostack, preserves_flags),
        );
    }
    value
}
