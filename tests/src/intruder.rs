//! Code of ours in another process: a thread of it is made to make system calls, as after a bug that lets a stranger do what
//! they like there.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    time::Duration,
};

use libc::{c_long, user_regs_struct};
use nix::{
    errno::Errno,
    sys::{
        ptrace::{self, Options},
        signal::Signal,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use crate::{sniff::children_of, wait};

/// The instruction `syscall`, behind which a thread is that waits in a system call.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// Room for what calls are given, in bytes.
const ROOM: u64 = 64 << 10;
/// What the kernel takes for no call that was interrupted, and so is to be made again (arch/x86/kernel/signal.c).
const NO_CALL: u64 = u64::MAX;

/// A thread of a live process, stopped; the others go on. Once this is dropped, the thread waits again for what it waited for.
///
/// All of it happens on the thread that made this: the kernel knows a tracer by its thread.
#[derive(Debug)]
pub struct Intruder {
    thread: Pid,
    memory: File,
    registers: user_regs_struct,
    room: u64,
    used: u64,
}

impl Intruder {
    /// Gets into the main thread of a process, which must be one that waits in a system call.
    ///
    /// # Panics
    ///
    /// When it cannot.
    pub fn of(pid: u32) -> Self {
        let thread = Pid::from_raw(pid.try_into().expect("a process"));
        ptrace::seize(thread, Options::empty()).expect("becoming a tracer, which takes root");
        ptrace::interrupt(thread).expect("stopping a thread");
        assert!(is_stopped(thread), "thread {thread} has ended");
        let registers = ptrace::getregs(thread).expect("a stopped thread's registers");
        let memory =
            File::options().read(true).write(true).open(format!("/proc/{pid}/mem")).expect("its memory");
        let mut intruder = Self { thread, memory, registers, room: 0, used: 0 };
        assert_eq!(intruder.read(registers.rip - 2, 2), SYSCALL, "the main thread waits in no system call");

        let access = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        let kind = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
        intruder.room =
            intruder.call(libc::SYS_mmap, &[0, ROOM, access, kind, u64::MAX]).expect("some memory");
        intruder
    }

    /// Makes a system call, and returns what the kernel answers.
    ///
    /// # Panics
    ///
    /// When the process does not survive it.
    pub fn call(&mut self, number: c_long, arguments: &[u64]) -> Result<u64, Errno> {
        self.try_call(number, arguments).expect("a process that lives on")
    }

    /// The same; `None` when the process has ended, by this call or otherwise.
    pub fn try_call(&mut self, number: c_long, arguments: &[u64]) -> Option<Result<u64, Errno>> {
        let mut all = [0; 6];
        all[..arguments.len()].copy_from_slice(arguments);
        let [rdi, rsi, rdx, r10, r8, r9] = all;
        let (rax, rip) = (number as u64, self.registers.rip - 2);
        let registers =
            user_regs_struct { rax, orig_rax: NO_CALL, rip, rdi, rsi, rdx, r10, r8, r9, ..self.registers };
        // Both fail when it has been killed meanwhile.
        let _ = ptrace::setregs(self.thread, registers).and_then(|()| ptrace::step(self.thread, None));
        if !is_stopped(self.thread) {
            return None;
        }
        let answer = ptrace::getregs(self.thread).ok()?.rax as i64;
        // As the C library tells errors (sysdeps/unix/sysv/linux/x86_64/sysdep.h).
        let is_error = (-4095..0).contains(&answer);
        Some(if is_error { Err(Errno::from_raw(-answer as i32)) } else { Ok(answer as u64) })
    }

    /// Puts bytes into its memory, aligned for anything, and returns where.
    ///
    /// # Panics
    ///
    /// When there is no room left.
    pub fn place(&mut self, bytes: &[u8]) -> u64 {
        let at = self.room + self.used;
        self.used += (bytes.len() as u64).next_multiple_of(16);
        assert!(self.used <= ROOM, "no room for {} bytes", bytes.len());
        self.memory.write_all_at(bytes, at).expect("writing its memory");
        at
    }

    /// The same for a path or name, with a zero behind it.
    pub fn place_name(&mut self, name: &str) -> u64 {
        self.place(&[name.as_bytes(), &[0]].concat())
    }

    /// Its Unix sockets, in the order in which it has got them.
    pub fn unix_sockets(&mut self) -> Vec<u64> {
        let folder = format!("/proc/{}/fd", self.thread);
        let names = fs::read_dir(folder).expect("a live process").flatten().map(|entry| entry.file_name());
        let mut descriptors: Vec<u64> =
            names.map(|name| name.to_string_lossy().parse().expect("a descriptor")).collect();
        descriptors.sort_unstable();
        let (domain, len) = (self.place(&[0; 4]), self.place(&4_u32.to_le_bytes()));
        let (level, option) = (libc::SOL_SOCKET as u64, libc::SO_DOMAIN as u64);
        descriptors.retain(|descriptor| {
            let answer = self.call(libc::SYS_getsockopt, &[*descriptor, level, option, domain, len]);
            answer.is_ok() && self.read(domain, 4) == libc::AF_UNIX.to_le_bytes()
        });
        descriptors
    }

    /// What its memory holds.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_exact_at(&mut bytes, at).expect("reading its memory");
        bytes
    }
}

impl Drop for Intruder {
    fn drop(&mut self) {
        let lives = self.room == 0 || self.try_call(libc::SYS_munmap, &[self.room, ROOM]).is_some();
        let restored = ptrace::setregs(self.thread, self.registers);
        let left = restored.and_then(|()| ptrace::detach(self.thread, None));
        // Its parent is not told of its end before its tracer is.
        if lives && left.is_err() {
            is_stopped(self.thread);
        }
    }
}

/// Waits until a thread has stopped for its tracer, or ended.
fn is_stopped(thread: Pid) -> bool {
    match waitpid(thread, Some(WaitPidFlag::__WALL)) {
        Ok(WaitStatus::Stopped(_, Signal::SIGTRAP) | WaitStatus::PtraceEvent(_, Signal::SIGTRAP, _)) => true,
        Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(Errno::ECHILD) => false,
        other => panic!("thread {thread} does neither stop nor end: {other:?}"),
    }
}

/// The process with no rights that reads what strangers send for this one.
///
/// # Panics
///
/// When there is none after a while.
pub fn front_of(sniff: u32) -> u32 {
    let is_sandboxed = |child: &u32| status(*child, "Seccomp").as_deref() == Some("2");
    wait::until("the front half", Duration::from_secs(20), || {
        children_of(sniff).into_iter().find(is_sandboxed)
    })
}

/// A line of `/proc/PID/status`, by its name; `None` when there is no such process.
pub fn status(pid: u32, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        process::{Child, Stdio, id},
    };

    use nix::sys::signal::kill;

    use super::*;
    use crate::netns::tool;

    fn start(program: &str, args: &[&str]) -> Child {
        let mut command = tool(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.spawn().expect("a process")
    }

    /// Waits until a process waits in a system call.
    fn wait_for_call(pid: u32) {
        wait::until("a process that waits", Duration::from_secs(10), || {
            let call = fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?;
            let number = call.split(' ').next()?.parse::<c_long>().ok()?;
            [libc::SYS_read, libc::SYS_clock_nanosleep].contains(&number).then_some(())
        });
    }

    fn waiting(program: &str, args: &[&str]) -> Child {
        let child = start(program, args);
        wait_for_call(child.id());
        child
    }

    #[test]
    fn a_process_does_as_it_is_told_and_goes_on() {
        let mut cat = waiting("cat", &[]);
        let mut intruder = Intruder::of(cat.id());
        assert_eq!(intruder.call(libc::SYS_getpid, &[]), Ok(cat.id().into()));
        assert_eq!(intruder.call(libc::SYS_getppid, &[]), Ok(id().into()));
        assert_eq!(intruder.call(libc::SYS_close, &[999]), Err(Errno::EBADF));
        let at = intruder.place(b"told\n");
        assert_eq!(intruder.call(libc::SYS_write, &[1, at, 5]), Ok(5));
        let path = intruder.place_name("/etc/hostname");
        let file = intruder.call(libc::SYS_openat, &[libc::AT_FDCWD as u64, path, 0]).expect("a file");
        let buffer = intruder.place(&[0; 256]);
        let len = intruder.call(libc::SYS_read, &[file, buffer, 256]).expect("its bytes");
        assert_eq!(intruder.read(buffer, len as usize), fs::read("/etc/hostname").expect("a file"));
        drop(intruder);

        cat.stdin.take().expect("a pipe").write_all(b"asked\n").expect("writing");
        let mut said = String::new();
        cat.stdout.take().expect("a pipe").read_to_string(&mut said).expect("reading");
        assert_eq!(said, "told\nasked\n");
        assert!(cat.wait().expect("an end").success());
    }

    #[test]
    fn a_call_may_be_the_last() {
        let mut shell = start("sh", &["-c", "cat; exit $?"]);
        let cat = wait::until("a cat", Duration::from_secs(10), || children_of(shell.id()).pop());
        wait_for_call(cat);
        let mut intruder = Intruder::of(cat);
        assert_eq!(intruder.try_call(libc::SYS_exit_group, &[7]), None);
        assert_eq!(shell.wait().expect("an end").code(), Some(7));
        assert_eq!(intruder.try_call(libc::SYS_getpid, &[]), None);
    }

    #[test]
    fn a_process_may_be_killed_meanwhile() {
        let mut shell = start("sh", &["-c", "cat; exit $?"]);
        let cat = wait::until("a cat", Duration::from_secs(10), || children_of(shell.id()).pop());
        wait_for_call(cat);
        let intruder = Intruder::of(cat);
        kill(Pid::from_raw(cat.cast_signed()), Signal::SIGKILL).expect("killing a process of ours");
        drop(intruder);
        assert_eq!(shell.wait().expect("an end").code(), Some(128 + Signal::SIGKILL as i32));
    }

    #[test]
    fn a_wait_that_ends_by_itself_does_so() {
        let mut sleep = waiting("sleep", &["0.2"]);
        drop(Intruder::of(sleep.id()));
        assert!(sleep.wait().expect("an end").success());
    }
}
