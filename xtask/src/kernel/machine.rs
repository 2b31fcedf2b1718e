//! A virtual machine (QEMU) that runs a kernel with an initramfs, and nothing else: no disk, no network.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{package::Unpacked, tool};

/// How long the tests may take on a machine that is emulated in software.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// What the init writes to the second serial port when all tests passed.
const PASSED: &str = "status 0";

/// Boots the kernel, shows its console, and waits until the tests have ended.
///
/// # Errors
/// A test failed, the kernel went down before the tests had ended, or it took too long.
pub fn run(kernel: &Unpacked, initramfs: &Path) -> Result<()> {
    let status = initramfs.with_extension("status");
    let mut qemu = tool("qemu-system-x86_64")?;
    qemu.args(["-accel", if has_kvm() { "kvm" } else { "tcg" }])
        .args(["-cpu", "max", "-smp", "2", "-m", "2G"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-net", "none"])
        .args(["-serial", "stdio", "-serial"])
        .arg(format!("file:{}", status.display()))
        .arg("-kernel")
        .arg(kernel.vmlinuz()?)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", "console=ttyS0 quiet panic=-1 oops=panic"])
        .stdin(Stdio::null());
    let mut qemu = qemu.spawn().context("cannot start QEMU")?;
    let ended = wait(&mut qemu)?;
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
fn wait(qemu: &mut Child) -> Result<ExitStatus> {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(status) = qemu.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            qemu.kill()?;
            qemu.wait()?;
            bail!("the tests have not ended after {} min", LIMIT.as_secs() / 60);
        }
        thread::sleep(Duration::from_millis(100));
    }
}
