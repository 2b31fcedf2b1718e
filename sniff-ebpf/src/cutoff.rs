//! What is kept of a packet by the cutoff of its flow. See [`sniff_common::flow`].

use aya_ebpf::{bindings::BPF_ANY, helpers::generated::bpf_ktime_get_boot_ns, macros::map, maps::LruHashMap};
use sniff_common::flow::{Flow, Progress, SILENCE_NS};
use sniff_ebpf::headers::Ends;

const FIN: u8 = 1;
const SYN: u8 = 1 << 1;
const RST: u8 = 1 << 2;

/// The loader sets how many flows it takes: one where there is no cutoff.
#[map]
static SNIFF_FLOWS: LruHashMap<Flow, Progress> = LruHashMap::with_max_entries(1, 0);

/// How much is kept of each flow; constants of the program.
#[derive(Clone, Copy)]
pub struct Cutoff {
    /// So many bytes of its packets, as they pass.
    pub bytes: u64,
    /// Of what comes later, headers of every so many-th packet; 0 for none. Those of packets that end a TCP connection are
    /// kept in any case.
    pub every: u32,
}

/// A packet, as the cutoff asks of it.
pub struct Passing {
    pub ends: Ends,
    /// pcapng interface id.
    pub interface: u32,
    /// [`sniff_common::Direction`] as a number.
    pub direction: u32,
    /// Bytes of all of it.
    pub len: u64,
    /// Bytes up to the end of its headers.
    pub headers_len: u64,
}

/// Most bytes to keep of a packet, which comes to its flow with this; `None` where it is left out.
#[inline(always)]
#[expect(clippy::needless_borrows_for_generic_args, reason = "values would be copied on the stack")]
pub fn kept(packet: &Passing, cutoff: Cutoff) -> Option<u64> {
    let &Passing { ends: Ends { addresses, ports, version, protocol, tcp_flags }, .. } = packet;
    let &Passing { interface, direction, len, headers_len, .. } = packet;
    let (version, direction) = (version.into(), direction as u8);
    let flow = Flow { addresses, ports, interface, version, protocol, direction };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let begun = Progress { last_ns: now, bytes: len as u32, passed_over: 0 };
    let limit = cutoff.bytes;
    let Some(progress) = SNIFF_FLOWS.get_ptr_mut(&flow) else {
        // One that the map does not take is kept, and begins again with its next packet.
        let _ = SNIFF_FLOWS.insert(&flow, &begun, u64::from(BPF_ANY));
        return Some(limit.max(headers_len));
    };
    // SAFETY: the map's value lives as long as the program. Where several CPUs have packets of one flow at the same time, or
    // the map gives the value to another flow meanwhile, what is lost is a count: more is kept, or less of another flow.
    let progress = unsafe { &mut *progress };
    // Another CPU may have had a packet of the flow meanwhile, which is then later than this one.
    if tcp_flags & SYN != 0 || now.saturating_sub(progress.last_ns) > SILENCE_NS {
        *progress = begun;
        return Some(limit.max(headers_len));
    }
    progress.last_ns = now;
    let before = u64::from(progress.bytes);
    if before < limit {
        progress.bytes += len as u32;
        return Some((limit - before).max(headers_len));
    }
    if tcp_flags & (FIN | RST) != 0 {
        return Some(headers_len);
    }
    progress.passed_over = progress.passed_over.wrapping_add(1);
    if cutoff.every == 0 || progress.passed_over < cutoff.every {
        return None;
    }
    progress.passed_over = 0;
    Some(headers_len)
}
