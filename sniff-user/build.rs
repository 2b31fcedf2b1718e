//! Builds the kernel side from source, with the nightly toolchain and bpf-linker.

use aya_build::{Package, Toolchain};

fn main() -> anyhow::Result<()> {
    // Tells the cargo that this runs what to leave out.
    println!("cargo:rerun-if-changed=../.cargo/config.toml");
    aya_build::build_ebpf(
        [Package { name: "sniff-ebpf", root_dir: "../sniff-ebpf", ..Default::default() }],
        Toolchain::Nightly,
    )
}
