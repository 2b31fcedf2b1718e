//! What the machine is that a run was made on.

use std::{fmt, fs, thread};

use anyhow::Result;
use nix::sys::utsname::uname;
use serde::Serialize;

/// A machine, as far as it matters for speed.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Release of the kernel.
    pub kernel: String,
    /// Architecture.
    pub architecture: String,
    /// Name of the processor.
    pub processor: String,
    /// How many CPUs it has.
    pub cpus: usize,
    /// Whether the kernel adds the time of softirqs to the thread that they interrupt.
    pub softirqs_included: bool,
}

impl Machine {
    /// This one.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn this(softirqs_included: bool) -> Result<Self> {
        let uname = uname()?;
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        Ok(Self {
            kernel: uname.release().to_string_lossy().into_owned(),
            architecture: uname.machine().to_string_lossy().into_owned(),
            processor: processor(&cpuinfo).unwrap_or("a processor without a name").into(),
            cpus: thread::available_parallelism()?.get(),
            softirqs_included,
        })
    }
}

fn processor(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim())
}

impl fmt::Display for Machine {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let Self { kernel, architecture, processor, cpus, softirqs_included } = self;
        let time = if *softirqs_included { "its CPU time" } else { "time on its CPU" };
        write!(
            formatter,
            "{processor}, {cpus} CPUs, Linux {kernel} ({architecture}); the sender's cost is {time}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::processor;

    #[test]
    fn the_processor_has_a_name_where_the_kernel_knows_one() {
        assert_eq!(processor("processor\t: 0\nmodel name\t: Some CPU 3 GHz\n"), Some("Some CPU 3 GHz"));
        assert_eq!(processor("processor\t: 0\nBogoMIPS\t: 50.00\n"), None);
    }
}
