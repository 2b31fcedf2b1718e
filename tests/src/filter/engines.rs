//! Three engines that judge packets: libpcap's interpreter, the kernel's classic BPF on a socket,
//! and sniff's eBPF as the kernel runs it.
#![expect(
    unsafe_code,
    reason = "neither pcap_offline_filter() with a program of one's own nor SO_ATTACH_FILTER has a safe wrapper"
)]

use std::{
    io,
    os::{fd::AsRawFd as _, unix::net::UnixDatagram},
};

use ::pcap::{Capture, Linktype};
pub use sniff_filter::compile::Surroundings;
use sniff_filter::{
    cbpf,
    compile::{self as translator, Fragment},
    ebpf, expression,
};

use super::LinkType;
use crate::bpf::{Insn, Kind, Marks, Program};

/// An instruction of classic BPF; libpcap's `struct bpf_insn` has the same layout.
pub type Classic = libc::sock_filter;

/// Where a VLAN tag is in an Ethernet frame that has one.
const TAG: std::ops::Range<usize> = 12..16;

/// Bytes that a test run certainly takes: a page without room for the kernel's own.
const TEST_RUN: usize = 3000;

/// Bytes with which the kernel finds a whole IP header in whatever says that it has one; of less,
/// it makes no packet.
const WHOLE_HEADERS: usize = 14 + 40;

/// Bytes to which a packet can certainly be extended: `BPF_SKB_MAX_LEN`, less headers.
const EXTENDED: usize = 15_000;

const ETHERNET_HEADER: usize = 14;

/// What sniff's program answers when the stand-in for the capture has been reached.
const MATCH: i32 = 7;

/// What it answers when the packet does not match: `TCX_NEXT`.
const NO_MATCH: i32 = -1;

/// What it answers when a packet could not be prepared.
const NOT_PREPARED: i32 = 99;

/// Compiles an expression with libpcap.
///
/// # Errors
///
/// libpcap's words.
pub fn compile(link_type: LinkType, expression: &str, optimise: bool) -> Result<Vec<Classic>, String> {
    let link_type = match link_type {
        LinkType::Ethernet => Linktype::ETHERNET,
        // What libpcap calls DLT_RAW on Linux; the crate knows the number in files only.
        LinkType::Raw => Linktype(12),
    };
    let capture = Capture::dead(link_type).expect("a libpcap handle");
    let program = capture.compile(expression, optimise).map_err(|error| match error {
        ::pcap::Error::PcapError(words) => words,
        other => other.to_string(),
    })?;
    Ok(program.get_instructions().iter().map(|instruction| parse(&instruction.to_string())).collect())
}

/// Compiles an expression with sniff, to instructions that packets which match fall through.
///
/// # Errors
///
/// sniff's words.
pub fn fragment(link_type: LinkType, expression: &str, optimise: bool) -> Result<Vec<Insn>, String> {
    let surroundings = Surroundings { link_type, outgoing: false };
    fragment_at(surroundings, expression, optimise)
}

/// The same for a surroundings that the caller chooses.
///
/// # Errors
///
/// sniff's words.
pub fn fragment_at(
    surroundings: Surroundings,
    expression: &str,
    optimise: bool,
) -> Result<Vec<Insn>, String> {
    let program = expression::compile(expression, surroundings.link_type, optimise);
    translate(&program.map_err(|error| error.to_string())?, surroundings)
}

/// Translates a program for Ethernet with sniff.
///
/// # Errors
///
/// sniff's words.
pub fn fragment_of(program: &[Classic]) -> Result<Vec<Insn>, String> {
    let encode = |&Classic { code, jt, jf, k }: &Classic| cbpf::Encoded { code, jt, jf, k };
    let encoded: Vec<_> = program.iter().map(encode).collect();
    let program = cbpf::Program::decode(&encoded).map_err(|error| error.to_string())?;
    let surroundings = Surroundings { link_type: LinkType::Ethernet, outgoing: false };
    translate(&program, surroundings)
}

/// libpcap's own interpreter.
#[derive(Clone, Copy, Debug)]
pub struct Libpcap<'a>(pub &'a [Classic]);

/// The kernel's classic BPF, attached to a socket.
#[derive(Debug)]
pub struct Kernel {
    sender: UnixDatagram,
    receiver: UnixDatagram,
}

/// sniff's eBPF, in front of a stand-in for the capture program.
#[derive(Debug)]
pub struct Sniff {
    /// As it is attached to an interface.
    plain: Program,
    /// Behind instructions that give the packet another length and a tag.
    prepared: Program,
    /// For packets that are too short for an Ethernet header.
    short: Program,
}

impl Libpcap<'_> {
    /// Judges a whole packet.
    pub fn matches(self, packet: &[u8]) -> bool {
        // pcap/bpf.h
        #[repr(C)]
        struct BpfProgram {
            length: libc::c_uint,
            instructions: *const Classic,
        }
        // pcap/pcap.h
        #[repr(C)]
        struct PacketHeader {
            time: libc::timeval,
            captured: u32,
            original: u32,
        }
        unsafe extern "C" {
            fn pcap_offline_filter(
                program: *const BpfProgram,
                header: *const PacketHeader,
                packet: *const u8,
            ) -> libc::c_int;
        }
        let Self(instructions) = self;
        let program = BpfProgram {
            length: instructions.len().try_into().expect("a bounded program"),
            instructions: instructions.as_ptr(),
        };
        let length = packet.len().try_into().expect("a packet's length");
        let header = PacketHeader {
            time: libc::timeval { tv_sec: 0, tv_usec: 0 },
            captured: length,
            original: length,
        };
        // SAFETY: program, header and packet are alive, with their true lengths. The program is
        // valid: libpcap or the kernel has said so.
        unsafe { pcap_offline_filter(&raw const program, &raw const header, packet.as_ptr()) != 0 }
    }
}

impl Kernel {
    /// Opens the sockets.
    pub fn open() -> Self {
        let (sender, receiver) = UnixDatagram::pair().expect("a pair of sockets");
        receiver.set_nonblocking(true).expect("a socket of ours");
        Self { sender, receiver }
    }

    /// Filters what comes from now on.
    ///
    /// # Errors
    ///
    /// The kernel does not take the program.
    pub fn attach(&self, program: &[Classic]) -> io::Result<()> {
        let program = libc::sock_fprog {
            len: program.len().try_into().expect("a bounded program"),
            filter: program.as_ptr().cast_mut(),
        };
        // SAFETY: the program is alive and has the length given; the kernel only reads it.
        let answer = unsafe {
            libc::setsockopt(
                self.receiver.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const program).cast(),
                size_of_val(&program) as libc::socklen_t,
            )
        };
        if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Judges a packet by the attached program.
    pub fn matches(&self, packet: &[u8]) -> bool {
        self.sender.send(packet).expect("sending to a socket of ours");
        match self.receiver.recv(&mut [0]) {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => panic!("receiving from a socket of ours: {error}"),
        }
    }
}

impl Sniff {
    /// Loads a fragment: what falls off its end has matched.
    ///
    /// # Errors
    ///
    /// The kernel's words, with the verifier's log.
    pub fn load(fragment: &[Insn]) -> Result<Self, String> {
        let plain = [fragment, &STAND_IN].concat();
        let prepared = [&PREPARATION, plain.as_slice()].concat();
        Ok(Self {
            plain: Program::load(Kind::Classifier, &plain)?,
            prepared: Program::load(Kind::Classifier, &prepared)?,
            short: Program::load(Kind::LightweightTunnel, &plain)?,
        })
    }

    /// Judges a packet; `None` when no test run can make it (see [`can_run`]).
    pub fn matches(&self, packet: &[u8]) -> Option<bool> {
        if packet.len() < ETHERNET_HEADER {
            // The header that this kind of program does not see.
            let frame = [&[0; ETHERNET_HEADER], packet].concat();
            return Some(judge(&self.short, &frame, Marks::default()));
        }
        if (WHOLE_HEADERS..=TEST_RUN).contains(&packet.len()) {
            return Some(judge(&self.plain, packet, Marks::default()));
        }
        can_run(packet).then(|| self.prepare(packet, 0))
    }

    /// Judges a frame as it is when the kernel has moved its VLAN tag from the bytes to the
    /// packet's meta-data; `None` when it has no tag or no test run can make it.
    pub fn matches_untagged(&self, frame: &[u8]) -> Option<bool> {
        let (bytes, tag) = take_tag(frame)?;
        can_run(&bytes).then(|| self.prepare(&bytes, tag))
    }

    fn prepare(&self, packet: &[u8], tag: u32) -> bool {
        let mut start = packet.to_vec();
        start.resize(packet.len().clamp(WHOLE_HEADERS, TEST_RUN), 0);
        let marks = Marks { mark: tag, priority: packet.len().try_into().expect("a packet's length") };
        judge(&self.prepared, &start, marks)
    }
}

/// Whether a test run can make a packet. A long one must end in zeros, since the kernel extends
/// packets with zeros only.
pub fn can_run(packet: &[u8]) -> bool {
    match packet.get(TEST_RUN..) {
        None => !packet.is_empty(),
        Some(rest) => packet.len() <= EXTENDED && rest.iter().all(|byte| *byte == 0),
    }
}

/// Takes a frame's VLAN tag out of its bytes as the kernel does when it receives it; the tag is
/// returned as `TPID << 16 | TCI`. `None` for frames without one.
pub fn take_tag(frame: &[u8]) -> Option<(Vec<u8>, u32)> {
    let tag = u32::from_be_bytes(frame.get(TAG)?.try_into().expect("four bytes"));
    // The kernel wants the EtherType that follows, too.
    let tagged = matches!(tag >> 16, 0x8100 | 0x88a8) && frame.len() >= TAG.end + 2;
    tagged.then(|| ([&frame[..TAG.start], &frame[TAG.end..]].concat(), tag))
}

/// What follows a fragment: uses the context to show that `r1` holds it again.
const STAND_IN: [Insn; 3] = [
    Insn::new(0x61, 0x10, 0, 0),  // r0 = *(u32 *)(r1 + len)
    Insn::new(0xb7, 0, 0, MATCH), // r0 = MATCH
    Insn::new(0x95, 0, 0, 0),     // return r0
];

/// Cuts or extends the packet to `priority` bytes and gives it the VLAN tag in `mark`, if it is not 0.
const PREPARATION: [Insn; 18] = [
    Insn::new(0xbf, 0x16, 0, 0),         // r6 = r1
    Insn::new(0x61, 0x62, 32, 0),        // r2 = *(u32 *)(r6 + priority)
    Insn::new(0xb7, 0x03, 0, 0),         // r3 = 0 (flags)
    Insn::new(0x85, 0, 0, 38),           // r0 = bpf_skb_change_tail(r1, r2, r3)
    Insn::new(0x55, 0x00, 11, 0),        // if r0 != 0 goto failed
    Insn::new(0x61, 0x62, 8, 0),         // r2 = *(u32 *)(r6 + mark)
    Insn::new(0x15, 0x02, 7, 0),         // if r2 == 0 goto prepared
    Insn::new(0xbf, 0x23, 0, 0),         // r3 = r2
    Insn::new(0x57, 0x03, 0, 0xffff),    // r3 &= 0xffff
    Insn::new(0x77, 0x02, 0, 16),        // r2 >>= 16
    Insn::new(0xdc, 0x02, 0, 16),        // r2 = htons(r2)
    Insn::new(0xbf, 0x61, 0, 0),         // r1 = r6
    Insn::new(0x85, 0, 0, 18),           // r0 = bpf_skb_vlan_push(r1, r2, r3)
    Insn::new(0x55, 0x00, 2, 0),         // if r0 != 0 goto failed
    Insn::new(0xbf, 0x61, 0, 0),         // prepared: r1 = r6
    Insn::new(0x05, 0, 2, 0),            // goto the fragment
    Insn::new(0xb7, 0, 0, NOT_PREPARED), // failed: r0 = NOT_PREPARED
    Insn::new(0x95, 0, 0, 0),            // return r0
];

/// Has the kernel's verifier look at a fragment.
///
/// # Errors
///
/// The kernel's words, with the verifier's log.
pub fn verify(fragment: &Fragment) -> Result<(), String> {
    let program = [encode(fragment).as_slice(), &STAND_IN].concat();
    Program::load(Kind::Classifier, &program).map(drop)
}

fn translate(program: &cbpf::Program, surroundings: Surroundings) -> Result<Vec<Insn>, String> {
    let fragment = translator::fragment(program, surroundings).map_err(|error| error.to_string())?;
    Ok(encode(&fragment))
}

fn encode(fragment: &Fragment) -> Vec<Insn> {
    let encode = |instruction: &ebpf::Instruction| {
        let ebpf::Encoded { code, dst, src, off, imm } = instruction.encode();
        Insn::new(code, src << 4 | dst, off, imm)
    };
    fragment.instructions().iter().map(encode).collect()
}

fn judge(program: &Program, packet: &[u8], marks: Marks) -> bool {
    match program.run(packet, marks) {
        Ok(MATCH) => true,
        Ok(NO_MATCH) => false,
        other => panic!("a packet of {} bytes, {marks:?}: {other:?}", packet.len()),
    }
}

/// An instruction as the crate writes it, which is the only way it shows one.
fn parse(instruction: &str) -> Classic {
    let mut numbers = instruction.split(' ').map(|number| number.parse::<u32>().expect("a number"));
    let mut next = || numbers.next().expect("code, jt, jf and k");
    Classic { code: next() as u16, jt: next() as u8, jf: next() as u8, k: next() }
}
