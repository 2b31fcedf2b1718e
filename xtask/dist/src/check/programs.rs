//! What a program of a release must be.

use memchr::memmem;

use crate::{binary::Binary, debian, platform::Platform, release::CLIENT};

/// No client may be larger.
const LARGEST_CLIENT: usize = 12 << 20;
/// The oldest macOS that a client must run on.
const OLDEST_MACOS: (u32, u32) = (11, 0);
/// What every macOS has, and a client may ask for.
const OF_MACOS: [&str; 5] = [
    "/System/Library/Frameworks/CoreFoundation.framework/Versions/A/CoreFoundation",
    "/System/Library/Frameworks/Security.framework/Versions/A/Security",
    "/usr/lib/libSystem.B.dylib",
    // A part of libiconv, whose description for linkers names it.
    "/usr/lib/libcharset.1.dylib",
    "/usr/lib/libiconv.2.dylib",
];
/// What every Windows has, and a client may ask for; a name that ends in a hyphen is that of a family.
const OF_WINDOWS: [&str; 15] = [
    "advapi32.dll",
    "api-ms-win-",
    "bcrypt.dll",
    "bcryptprimitives.dll",
    "crypt32.dll",
    "kernel32.dll",
    "msvcrt.dll",
    "ncrypt.dll",
    "ntdll.dll",
    "ole32.dll",
    "secur32.dll",
    "shell32.dll",
    "user32.dll",
    "userenv.dll",
    "ws2_32.dll",
];
/// How paths go on that say what a machine's user has in their home.
const OF_A_HOME: [&str; 2] = ["/.cargo/registry/", "/.rustup/toolchains/"];
/// In front of `/root/`, which then is a process's root folder and no home.
const PROCESS: &[u8] = b"/proc/1";

/// What is wrong with the program called `name`, for a platform: nothing, if all is well.
///
/// `commit` is what it says that it was built from, and `private` are paths that must not be in it.
pub fn faults(name: &str, platform: Platform, file: &[u8], commit: &str, private: &[String]) -> Vec<String> {
    let mut faults = match Binary::read(file) {
        Ok(binary) => of_binary(name, platform, &binary),
        Err(error) => vec![format!("{error:#}")],
    };
    if name == CLIENT && file.len() >= LARGEST_CLIENT {
        faults.push(format!("its {} bytes are not less than 12 MiB", file.len()));
    }
    if memmem::find(file, commit.as_bytes()).is_none() {
        faults.push(format!("it does not tell the commit {commit}"));
    }
    let paths = OF_A_HOME.iter().map(|part| (*part).to_owned()).chain(private.iter().cloned());
    let is_there =
        |path: &String| memmem::find_iter(file, path.as_bytes()).any(|at| !file[..at].ends_with(PROCESS));
    let found = paths.filter(is_there);
    faults.extend(found.map(|path| format!("{path} is in it, a path of the machine that built it")));
    faults
}

fn of_binary(name: &str, platform: Platform, binary: &Binary) -> Vec<String> {
    let mut faults = Vec::new();
    if binary.platform != platform {
        faults.push(format!("it is for {}", binary.platform));
    }
    if !binary.stripped {
        faults.push("it is not stripped".to_owned());
    }
    if platform.os == "darwin" && binary.oldest.is_none_or(|oldest| oldest > OLDEST_MACOS) {
        faults.push(format!("it asks for a newer macOS than 11.0: {:?}", binary.oldest));
    }
    let expected = |library: &str| match platform.os {
        "darwin" => OF_MACOS.contains(&library),
        "windows" => {
            let library = library.to_lowercase();
            OF_WINDOWS.iter().any(|own| library == *own || own.ends_with('-') && library.starts_with(own))
        }
        // Clients are static there.
        _ => name != CLIENT && debian::package_of(library).is_ok(),
    };
    let strange = binary.libraries.iter().filter(|library| !expected(library));
    faults.extend(strange.map(|library| format!("it asks for {library}")));
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Platform = Platform { os: "darwin", architecture: "arm64" };
    const WINDOWS: Platform = Platform { os: "windows", architecture: "amd64" };
    const LINUX: Platform = Platform { os: "linux", architecture: "amd64" };

    fn binary(platform: Platform, libraries: &[&str]) -> Binary {
        Binary {
            platform,
            libraries: libraries.iter().map(|name| (*name).to_owned()).collect(),
            versions: Vec::new(),
            oldest: (platform == MAC).then_some(OLDEST_MACOS),
            stripped: true,
        }
    }

    #[test]
    fn a_program_may_ask_for_what_its_system_has() {
        let fine = |name, platform, libraries: &[&str]| {
            assert_eq!(of_binary(name, platform, &binary(platform, libraries)), [""; 0]);
        };
        fine(CLIENT, LINUX, &[]);
        fine(CLIENT, MAC, &["/usr/lib/libSystem.B.dylib", "/usr/lib/libcharset.1.dylib"]);
        fine(CLIENT, WINDOWS, &["KERNEL32.dll", "api-ms-win-core-synch-l1-2-0.dll"]);
        fine("sniff", LINUX, &["/lib64/ld-linux-x86-64.so.2", "libc.so.6"]);
    }

    #[test]
    fn a_program_may_ask_for_nothing_else() {
        for (name, platform, library) in [
            (CLIENT, LINUX, "libc.so.6"),
            (CLIENT, MAC, "/opt/homebrew/lib/libzstd.1.dylib"),
            (CLIENT, WINDOWS, "libgcc_s_seh-1.dll"),
            ("sniff", LINUX, "libdbus-1.so.3"),
        ] {
            let faults = of_binary(name, platform, &binary(platform, &[library]));
            assert_eq!(faults, [format!("it asks for {library}")]);
        }
    }

    #[test]
    fn a_program_is_stripped_and_for_its_platform_and_old_systems() {
        let other = of_binary(CLIENT, WINDOWS, &binary(LINUX, &[]));
        assert_eq!(other, ["it is for linux-amd64"]);
        let unstripped = of_binary(CLIENT, LINUX, &Binary { stripped: false, ..binary(LINUX, &[]) });
        assert_eq!(unstripped, ["it is not stripped"]);
        for oldest in [Some((12, 0)), None] {
            let faults = of_binary(CLIENT, MAC, &Binary { oldest, ..binary(MAC, &[]) });
            assert_eq!(faults, [format!("it asks for a newer macOS than 11.0: {oldest:?}")]);
        }
    }

    #[test]
    fn a_program_tells_its_commit_and_nothing_of_its_machine() {
        let faults = |file: &[u8]| faults(CLIENT, LINUX, file, "abc123", &["/src/sniff/".to_owned()]);
        let no_program = faults(b"");
        assert_eq!(no_program.len(), 2, "{no_program:?}");
        assert!(no_program[1] == "it does not tell the commit abc123", "{no_program:?}");
        let told = faults(b"abc123 /cargo/registry/src /src/sniff/main.rs /home/ann/.cargo/registry/src");
        assert_eq!(
            told[1..],
            [
                "/.cargo/registry/ is in it, a path of the machine that built it",
                "/src/sniff/ is in it, a path of the machine that built it",
            ]
        );
        let home = |file: &[u8]| super::faults(CLIENT, LINUX, file, "abc123", &["/root/".to_owned()]).len();
        assert_eq!(home(b"abc123 /proc/1/root/var/run"), 1, "the root folder of a process is no home");
        assert_eq!(home(b"abc123 /proc/1/root/var/root/src"), 2);
        let large = faults(&[b"abc123".to_vec(), vec![0; LARGEST_CLIENT]].concat());
        assert_eq!(large[1..], ["its 12582918 bytes are not less than 12 MiB"]);
    }
}
