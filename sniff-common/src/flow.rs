//! Flows, and what is kept of each: its first bytes, and of what comes later less.
//!
//! A flow is what goes one way between two ports. The kernel side knows how far each has come from a map that forgets those
//! that it has not seen for longest (`BPF_MAP_TYPE_LRU_HASH`). A flow that it does not know begins: so a map that is too
//! small has more kept than was asked for, and not less. Where CPUs have packets of one flow at the same moment, or the map gives
//! a place to another flow just then, its count may be wrong by such a packet.

/// Most bytes of a flow's packets, headers included, before the cutoff.
pub const MAX_CUTOFF: u32 = 1 << 30;
/// Behind it, headers are kept of every so many-th packet at most.
pub const MAX_EVERY: u32 = 1_000_000;

/// For how long nothing may come of a flow, in nanoseconds, until what comes next begins it anew: ports are used again.
pub const SILENCE_NS: u64 = 60_000_000_000;

/// What tells flows apart, as the map's key. All numbers are as in the packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Source and destination; of IPv4 in the first two words.
    pub addresses: [u32; 8],
    /// Source and destination port.
    pub ports: u32,
    /// pcapng interface id.
    pub interface: u32,
    /// IP version.
    pub version: u16,
    /// Number of the transport protocol.
    pub protocol: u8,
    /// [`Direction`](crate::Direction) as a number.
    pub direction: u8,
}

/// How far a flow has come, as the map's value.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// When its last packet came, in nanoseconds of the boot clock.
    pub last_ns: u64,
    /// Bytes of its packets, up to the one with which it came to the cutoff.
    pub bytes: u32,
    /// Packets behind the cutoff since the last one of which headers were kept.
    pub passed_over: u32,
}

/// Most flows that are told apart at a time.
pub const MAX_FLOWS: u32 = 1 << 16;
/// Bytes that a flow takes in the kernel: key and value, what the map keeps beside them (`struct htab_elem`), and its part of
/// the table.
pub const FLOW_BYTES: u32 = 128;
/// Of the memory of a capture, this part is for flows.
const PART: u32 = 16;

/// How many flows are told apart by a capture of so many bytes of memory; a power of two, as the kernel has them.
pub const fn count(memory: u32) -> u32 {
    let flows = memory / PART / FLOW_BYTES;
    if flows >= MAX_FLOWS {
        MAX_FLOWS
    } else if flows == 0 {
        1
    } else {
        1 << flows.ilog2()
    }
}

/// Bytes of that memory which they take.
pub const fn bytes(memory: u32) -> u32 {
    count(memory) * FLOW_BYTES
}

#[cfg(test)]
mod tests {
    use core::mem::size_of;

    use super::*;

    #[test]
    fn flows_keep_their_layout() {
        // No padding, of which the kernel side would have to know.
        assert_eq!(size_of::<Flow>(), 8 * 4 + 4 + 4 + 2 + 1 + 1);
        assert_eq!(size_of::<Progress>(), 8 + 4 + 4);
        // 48 bytes are the map's own, and 16 are in the table.
        assert_eq!(
            FLOW_BYTES as usize,
            48 + size_of::<Flow>().next_multiple_of(8) + size_of::<Progress>() + 16
        );
    }

    #[test]
    fn flows_take_a_small_part_of_the_memory() {
        for (memory, flows) in
            [(0, 1), (512 << 10, 256), (8 << 20, 4096), (64 << 20, 32_768), (1 << 31, MAX_FLOWS)]
        {
            assert_eq!(count(memory), flows, "{memory}");
            assert!(memory == 0 || bytes(memory) <= memory / PART);
        }
    }
}
