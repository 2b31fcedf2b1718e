//! Values as the verifier must see them.

/// The same value, about which the compiler knows nothing any more. The verifier forgets bounds that were checked on
/// another copy of a value; what is checked again on this one stays in the program.
#[inline(always)]
pub fn opaque(mut value: u64) -> u64 {
    // SAFETY: no instruction at all.
    unsafe { core::arch::asm!("/* {0} */", inout(reg) value, options(nomem, nostack, preserves_flags)) };
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
