//! A virtual machine (QEMU) that runs a kernel with an initramfs, and nothing else: no disk, no network.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{package::Unpacked, processor::Processor, tool};

/// How long the tests may take on a machine that is emulated in software, on a processor of its own kind.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// What the init writes to the second serial port when all tests passed.
const PASSED: &str = "status 0";

/// Boots the kernel, shows its console, and waits until the tests have ended.
///
/// # Errors
/// A test failed, the kernel went down before the tests had ended, or it took too long.
pub fn run(processor: Processor, kernel: &Unpacked, initramfs: &Path) -> Result<()> {
    let status = initramfs.with_extension("status");
    let machine = processor.machine();
    let mut qemu = tool(machine.qemu)?;
    qemu.args(["-accel", if processor == Processor::Amd64 && has_kvm() { "kvm" } else { "tcg" }])
        .args(["-smp", "2", "-m", "2G"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-net", "none"])
        .arg("-chardev")
        .arg(format!("file,id=status,path={}", status.display()))
        .args(machine.options)
        .arg("-kernel")
        .arg(kernel.vmlinuz()?)
        .arg("-initrd")
        .arg(initramfs)
        .arg("-append")
        // What the kernel does not know is in the environment of init.
        .arg(format!(
            "console={} STATUS=/dev/{} SNIFF_TEST_SLOWNESS={} quiet panic=-1 oops=panic",
            machine.console, machine.status, machine.slowness
        ))
        .stdin(Stdio::null());
    let mut qemu = qemu.spawn().context("cannot start QEMU")?;
    let ended = wait(&mut qemu, LIMIT * machine.slowness)?;
    ensure!(ended.success(), "QEMU failed: {ended}");
    match fs::read_to_string(&status).context("QEMU left no status")?.trim() {
        PASSED => Ok(()),
        "" => bail!("the kernel went down before the tests had ended"),
        _ => bail!("tests failed"),
    }
}

/// Whether this machine's processor can run virtual machines. There is a KVM that does so in software alone, which QEMU
/// does not get along with.
fn has_kvm() -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let in_hardware = flags.split_whitespace().any(|flag| matches!(flag, "vmx" | "svm"));
    in_hardware && File::options().read(true).write(true).open("/dev/kvm").is_ok()
}

/// Waits for QEMU's end, and brings it about when it does not come in time.
fn wait(qemu: &mut Child, limit: Duration) -> Result<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = qemu.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            qemu.kill()?;
            qemu.wait()?;
            bail!("the tests have not ended after {} min", limit.as_secs() / 60);
        }
        thread::sleep(Duration::from_millis(100));
    }
}
