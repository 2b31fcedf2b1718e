//! What depends on the kernel. These need no container runtime: `cargo xtask test --kernel` runs them on kernels other
//! than this machine's, too.

mod accounts;
mod attach;
mod checksums;
mod clock;
mod detach;
mod ends;
mod filtering;
mod frames;
mod limits;
mod loopback;
mod losses;
mod places;
mod programs;
mod records;

use sniff_tests::kernel;

/// Every way in which this kernel can be made to capture, as arguments for sniff.
fn ways() -> Vec<Vec<&'static str>> {
    let with_ring =
        |ring: &'static str| kernel::hooks().iter().map(move |&hook| vec!["--ring", ring, "--hook", hook]);
    kernel::rings().iter().copied().flat_map(with_ring).collect()
}
