//! Giving up capabilities: system calls that nix has no functions for.
#![expect(unsafe_code, reason = "capget(2) and capset(2) take pointers, and prctl(2) might")]

use std::io;

/// As many capabilities as a set has room for; the kernel knows fewer.
const MOST: libc::c_ulong = 64;
/// `_LINUX_CAPABILITY_VERSION_3` (include/uapi/linux/capability.h): sets of 64 bits.
const VERSION: u32 = 0x2008_0522;

/// include/uapi/linux/capability.h.
const CAP_KILL: u32 = 5;

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// The calling thread's.
const OWN: Header = Header { version: VERSION, pid: 0 };

/// Two of `struct __user_cap_data_struct`: effective, permitted and inheritable, their lower halves first.
type Sets = [[u32; 3]; 2];

/// Sees to it that no program that is started gets any, where this process may: without `CAP_SETPCAP` it cannot, but
/// nothing comes of that where no program can be started and none brings new rights.
pub fn bound() {
    for capability in 0..MOST {
        // SAFETY: the option takes no pointer.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            return;
        }
    }
}

/// Whether this thread may send signals to processes of other users.
pub fn can_signal_others() -> bool {
    let (header, mut sets) = (OWN, Sets::default());
    // SAFETY: the kernel reads the header, whose version it knows, and writes two of the sets; both outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw const header, &raw mut sets) };
    let [[effective, _, _], _] = sets;
    result == 0 && effective & 1 << CAP_KILL != 0
}

/// Gives up all that this thread has, and could have or pass on.
///
/// # Errors
///
/// When the kernel refuses, which it does for no such call.
pub fn give_up() -> io::Result<()> {
    let (header, none) = (OWN, Sets::default());
    // SAFETY: the kernel reads the header and, by its version, two of the sets; both outlive the call. Ambient ones go
    // with those that are permitted.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, &raw const none) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
