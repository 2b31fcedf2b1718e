//! What depends on the kernel. These need no container runtime: `cargo xtask test --kernel` runs them on kernels other
//! than this machine's, too.

mod accounts;
mod attach;
mod checksums;
mod clock;
mod cutoff;
mod detach;
mod ends;
mod filtering;
mod frames;
mod limits;
mod loopback;
mod losses;
mod places;
mod programs;
mod recorder;
mod records;

use std::{ops::Range, thread};

use sniff_tests::{cpu, kernel, traffic::UdpFlow};

/// Sends the datagrams of these numbers from two CPUs at the same time, where there are two, as fast as they can. `payload`
/// makes one of its sender and its number.
fn send(flows: &[UdpFlow; 2], numbers: &Range<u32>, payload: impl Fn(usize, u32) -> Vec<u8> + Copy + Send) {
    let cpus = cpu::allowed();
    thread::scope(|scope| {
        for (sender, flow) in flows.iter().enumerate() {
            let (numbers, cpu) = (numbers.clone(), cpus[sender % cpus.len()]);
            scope.spawn(move || {
                cpu::stay_on(cpu);
                numbers.for_each(|number| flow.send_payload(&payload(sender, number)));
            });
        }
    });
}

/// Every way in which this kernel can be made to capture, as arguments for sniff.
fn ways() -> Vec<Vec<&'static str>> {
    let with_ring =
        |ring: &'static str| kernel::hooks().iter().map(move |&hook| vec!["--ring", ring, "--hook", hook]);
    kernel::rings().iter().copied().flat_map(with_ring).collect()
}
