//! The packet as the kernel itself has it: `struct sk_buff`, of which a classifier's context shows only a part. Where its
//! fields are is in the running kernel's BTF, and `bpf_cast_to_kern_ctx` (Linux 6.2) leads there, at no cost: the verifier
//! makes a move of it.

use std::sync::LazyLock;

use aya_obj::generated::{
    BPF_ALU64, BPF_CALL, BPF_EXIT, BPF_JMP, BPF_K, BPF_MOV, BPF_PSEUDO_KFUNC_CALL, bpf_insn,
};
use log::debug;

use super::{
    btf::Btf,
    checksum::Summed,
    home,
    instructions::{insn, instruction, mov},
    mapping::Contents,
    syscall,
};

/// Where the running kernel describes its types.
const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// From a context to its `struct sk_buff`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cast {
    /// The kernel's id of `bpf_cast_to_kern_ctx`.
    function: u32,
}

impl Cast {
    /// Instructions that keep the packet, which is in r1, in r6, and put its `struct sk_buff` into r0.
    pub fn instructions(self) -> [bpf_insn; 2] {
        [mov(6, 1), insn(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_KFUNC_CALL as u8, 0, self.function as i32)]
    }
}

/// Whether the running kernel takes a program of these instructions, by which a classifier is to find out `what`.
pub(super) fn takes(mut instructions: Vec<bpf_insn>, what: &str) -> bool {
    instructions.push(insn(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, -1));
    instructions.push(instruction((BPF_JMP | BPF_EXIT) as u8, 0, 0));
    let takes = syscall::load_classifier(&instructions, c"sniff_probe", c"Dual MIT/GPL").is_ok();
    if !takes {
        debug!("this kernel does not tell classifiers {what}");
    }
    takes
}

/// What the running kernel's types say, which are read once.
pub(super) struct Fields {
    /// The way to the namespace of a packet.
    pub home: Option<home::Way>,
    /// Where it says whether a packet's checksum is ready.
    pub summed: Option<Summed>,
}

/// Those of the running kernel, if they are to be had.
pub(super) fn fields() -> Option<&'static Fields> {
    static FIELDS: LazyLock<Option<Fields>> = LazyLock::new(|| {
        let blob = Contents::read(KERNEL_BTF).ok()?;
        let btf = Btf::parse(blob.bytes())?;
        let cast = Cast { function: btf.function("bpf_cast_to_kern_ctx")? };
        Some(Fields { home: home::Way::find(cast, &btf), summed: Summed::find(cast, &btf) })
    });
    FIELDS.as_ref()
}
