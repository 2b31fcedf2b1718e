//! Builds the kernel side from source, with the nightly toolchain and bpf-linker.

use aya_build::{Package, Toolchain};

fn main() -> anyhow::Result<()> {
    aya_build::build_ebpf(
        [Package { name: "sniff-ebpf", root_dir: "../sniff-ebpf", ..Default::default() }],
        Toolchain::Nightly,
    )
}
