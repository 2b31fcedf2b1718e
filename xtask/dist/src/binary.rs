//! What a program's file tells of the system that it runs on: ELF, Mach-O and PE.

use anyhow::{Context as _, Result, bail};
use object::{
    Endianness, FileKind, LittleEndian, Object as _, ObjectSection as _,
    elf::{DT_NEEDED, EM_AARCH64, EM_X86_64, PT_INTERP},
    macho::{CPU_TYPE_ARM64, CPU_TYPE_X86_64, MachHeader64, N_EXT, N_STAB},
    pe::{IMAGE_FILE_MACHINE_AMD64, IMAGE_FILE_MACHINE_ARM64},
    read::{
        elf::{ElfFile64, ProgramHeader as _},
        macho::{LoadCommandVariant, MachOFile, Nlist as _},
        pe::{ImageNtHeaders as _, PeFile64},
    },
};

use crate::platform::Platform;

/// A program, as its file describes it.
#[derive(Debug, PartialEq, Eq)]
pub struct Binary {
    /// What it runs on.
    pub platform: Platform,
    /// The shared libraries that it asks for, by the names that it asks for, and the loader of an ELF file.
    pub libraries: Vec<String>,
    /// Which versions of the symbols of a library an ELF file asks for: the library, and the version.
    pub versions: Vec<(String, String)>,
    /// The oldest macOS that a Mach-O file is for: major and minor number.
    pub oldest: Option<(u32, u32)>,
    /// Whether there is nothing for a debugger in it.
    pub stripped: bool,
}

impl Binary {
    /// Reads a file.
    ///
    /// # Errors
    /// It is no program for 64 bits in one of the three formats, or a broken one.
    pub fn read(file: &[u8]) -> Result<Self> {
        match FileKind::parse(file).context("it is no program")? {
            FileKind::Elf64 => elf(file),
            FileKind::MachO64 => mach_o(file),
            FileKind::Pe64 => pe(file),
            kind => bail!("it is a file of another kind: {kind:?}"),
        }
    }
}

fn elf(file: &[u8]) -> Result<Binary> {
    let elf = ElfFile64::<Endianness>::parse(file)?;
    let (endian, sections) = (elf.endian(), elf.elf_section_table());
    let architecture = match elf.elf_header().e_machine.get(endian) {
        EM_X86_64 => "amd64",
        EM_AARCH64 => "arm64",
        machine => bail!("it is for the ELF machine {machine}"),
    };
    let mut libraries = Vec::new();
    for header in elf.elf_program_headers() {
        if header.p_type(endian) == PT_INTERP {
            let path = header.data(endian, file).ok().context("the name of its loader is not there")?;
            libraries.push(text(path.strip_suffix(b"\0").unwrap_or(path)));
        }
    }
    let dynamic = sections.dynamic_table(endian, file)?;
    for entry in dynamic.iter().filter(|entry| entry.tag == DT_NEEDED) {
        libraries.push(text(dynamic.string(entry)?));
    }
    let mut versions = Vec::new();
    if let Some((mut needs, link)) = sections.gnu_verneed(endian, file)? {
        let strings = sections.strings(endian, file, link)?;
        while let Some((need, mut wanted)) = needs.next()? {
            while let Some(version) = wanted.next()? {
                versions.push((text(need.file(endian, strings)?), text(version.name(endian, strings)?)));
            }
        }
    }
    let debug = elf.sections().any(|section| section.name().is_ok_and(|name| name.starts_with(".debug")));
    let stripped = !debug && elf.elf_symbol_table().is_empty();
    let platform = Platform { os: "linux", architecture };
    Ok(Binary { platform, libraries, versions, oldest: None, stripped })
}

fn mach_o(file: &[u8]) -> Result<Binary> {
    let mach = MachOFile::<MachHeader64<Endianness>>::parse(file)?;
    let endian = mach.endian();
    let architecture = match mach.macho_header().cputype.get(endian) {
        CPU_TYPE_X86_64 => "amd64",
        CPU_TYPE_ARM64 => "arm64",
        cpu => bail!("it is for the Mach-O CPU type {cpu}"),
    };
    let (mut libraries, mut oldest) = (Vec::new(), None);
    let mut commands = mach.macho_load_commands()?;
    while let Some(command) = commands.next()? {
        match command.variant()? {
            LoadCommandVariant::Dylib(dylib) => {
                libraries.push(text(command.string(endian, dylib.dylib.name)?));
            }
            LoadCommandVariant::BuildVersion(version) => oldest = Some(version.minos.get(endian)),
            LoadCommandVariant::VersionMin(version) => oldest = Some(version.version.get(endian)),
            _ => {}
        }
    }
    let oldest = oldest.map(|version| (version >> 16, version >> 8 & 0xff));
    let for_debugger = |kind: u8| kind & N_STAB != 0 || kind & N_EXT == 0;
    let stripped = !mach.macho_symbol_table().iter().any(|symbol| for_debugger(symbol.n_type()));
    let platform = Platform { os: "darwin", architecture };
    Ok(Binary { platform, libraries, versions: Vec::new(), oldest, stripped })
}

fn pe(file: &[u8]) -> Result<Binary> {
    let pe = PeFile64::parse(file)?;
    let header = pe.nt_headers().file_header();
    let architecture = match header.machine.get(LittleEndian) {
        IMAGE_FILE_MACHINE_AMD64 => "amd64",
        IMAGE_FILE_MACHINE_ARM64 => "arm64",
        machine => bail!("it is for the PE machine {machine:#x}"),
    };
    let mut libraries = Vec::new();
    if let Some(table) = pe.import_table()? {
        let mut descriptors = table.descriptors()?;
        while let Some(descriptor) = descriptors.next()? {
            libraries.push(text(table.name(descriptor.name.get(LittleEndian))?));
        }
    }
    let debug = pe.sections().any(|section| section.name().is_ok_and(|name| name.starts_with(".debug")));
    let stripped = !debug && header.number_of_symbols.get(LittleEndian) == 0;
    let platform = Platform { os: "windows", architecture };
    Ok(Binary { platform, libraries, versions: Vec::new(), oldest: None, stripped })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing;

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// For macOS on arm64, from 11.3 on, with one library, and one symbol of this kind.
    fn made_for_macos(kind: u8) -> Vec<u8> {
        let build = words(&[0x32, 24, 1, 11 << 16 | 3 << 8, 0, 0]);
        let library = [words(&[0xc, 48, 24, 0, 0, 0]), b"/usr/lib/a.dylib\0\0\0\0\0\0\0\0".to_vec()].concat();
        let symbols = words(&[0x2, 24, 128, 1, 144, 4]);
        let commands = [build, library, symbols].concat();
        let header = words(&[0xfeed_facf, CPU_TYPE_ARM64, 0, 2, 3, commands.len() as u32, 0, 0]);
        let symbol = [words(&[1]), vec![kind, 1, 0, 0], words(&[0, 0])].concat();
        [header, commands, symbol, b"\0_a\0".to_vec()].concat()
    }

    /// For Windows on amd64, with one library and this number of symbols.
    fn made_for_windows(symbols: u32) -> Vec<u8> {
        const AT: u32 = 0x1000;
        let mut dos = vec![0; 64];
        (dos[0], dos[1], dos[60]) = (b'M', b'Z', 64);
        let machine = u32::from(IMAGE_FILE_MACHINE_AMD64);
        // Of the size of what follows, and that it can be run.
        let file = words(&[1 << 16 | machine, 0, 0, symbols, 0x22 << 16 | 240]);
        let mut optional = words(&[0x20b]);
        optional.resize(108, 0);
        optional.extend(words(&[16, 0, 0, AT, 40]));
        optional.resize(240, 0);
        let mut section = b".idata\0\0".to_vec();
        section.extend(words(&[0x100, AT, 0x100, 0x200, 0, 0, 0, 0]));
        let mut image = [dos, b"PE\0\0".to_vec(), file, optional, section].concat();
        image.resize(0x200, 0);
        // One descriptor, and one of zeros that ends them; behind them the name.
        image.extend(words(&[AT + 60, 0, 0, AT + 40, AT + 60, 0, 0, 0, 0, 0]));
        image.extend(b"KERNEL32.dll\0");
        image.resize(0x300, 0);
        image
    }

    #[test]
    fn a_program_for_macos_is_read() {
        let read = Binary::read(&made_for_macos(N_EXT)).expect("a program");
        assert_eq!(
            read,
            Binary {
                platform: Platform { os: "darwin", architecture: "arm64" },
                libraries: vec!["/usr/lib/a.dylib".to_owned()],
                versions: Vec::new(),
                oldest: Some((11, 3)),
                stripped: true,
            }
        );
        // A function that only a debugger asks for, and where its source is.
        for kind in [0x0e, 0x64] {
            assert!(!Binary::read(&made_for_macos(kind)).expect("a program").stripped, "{kind}");
        }
    }

    #[test]
    fn a_program_for_windows_is_read() {
        let read = Binary::read(&made_for_windows(0)).expect("a program");
        assert_eq!(
            read,
            Binary {
                platform: Platform { os: "windows", architecture: "amd64" },
                libraries: vec!["KERNEL32.dll".to_owned()],
                versions: Vec::new(),
                oldest: None,
                stripped: true,
            }
        );
        assert!(!Binary::read(&made_for_windows(1)).expect("a program").stripped);
    }

    #[test]
    fn a_program_for_linux_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let read = |options: &[&str]| {
            testing::program(folder.path(), "a", None, options);
            Binary::read(&fs::read(folder.path().join("a")).expect("a program")).expect("a program")
        };
        let dynamic = read(&[]);
        assert_eq!(dynamic.platform, Platform::here().expect("a platform"));
        assert!(dynamic.libraries[0].contains("/ld-linux-"), "{dynamic:?}");
        assert_eq!(dynamic.libraries[1], "libc.so.6");
        assert!(dynamic.versions.iter().any(|(library, _)| library == "libc.so.6"), "{dynamic:?}");
        assert!(dynamic.stripped);
        let fixed = read(&["-static"]);
        assert_eq!((fixed.libraries, fixed.versions), (Vec::new(), Vec::new()));
        let own = fs::read(std::env::current_exe().expect("this program")).expect("its file");
        assert!(!Binary::read(&own).expect("a program").stripped);
    }

    #[test]
    fn what_is_no_program_is_refused() {
        for file in [&b""[..], b"#!/bin/sh\n", &made_for_macos(0)[..40], &made_for_windows(0)[..0x80]] {
            assert!(Binary::read(file).is_err());
        }
    }
}
