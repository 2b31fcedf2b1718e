//! Builds the kernel side from source, with the nightly toolchain and bpf-linker, for systems that have such a kernel.

use std::env;

use aya_build::{Package, Toolchain};

fn main() -> anyhow::Result<()> {
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os != "linux") {
        return Ok(());
    }
    aya_build::build_ebpf(
        [Package { name: "sniff-ebpf", root_dir: "../sniff-ebpf", ..Default::default() }],
        Toolchain::Nightly,
    )
}
