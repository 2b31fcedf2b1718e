//! A profile for Wireshark: columns for pod and direction, colours for interfaces, and names from the file alone.

use std::{fmt::Write as _, fs, io::Write as _, path::Path};

use anyhow::{Context as _, Result, bail};
use sniff_output::file::create;

/// Begins each file, and tells it from a person's.
const MARK: &str = "# Written by sniff.";
const PREFERENCES: &str = "\
gui.column.format:
\t\"No.\", \"%m\",
\t\"Time\", \"%t\",
\t\"Pod\", \"%Cus:frame.interface_name:0:R\",
\t\"Way\", \"%Cus:frame.packet_flags_direction:0:R\",
\t\"Source\", \"%s\",
\t\"Destination\", \"%d\",
\t\"Protocol\", \"%p\",
\t\"Length\", \"%L\",
\t\"Info\", \"%i\"
nameres.network_name: TRUE
nameres.use_external_name_resolver: FALSE
nameres.dns_pkt_addr_resolution: FALSE
nameres.hosts_file_handling: TRUE
";
/// Light ones, in red, green and blue: text on them is black. Interfaces take them in turn.
const COLORS: [[u16; 3]; 8] = [
    [0xe6, 0xf0, 0xff],
    [0xe8, 0xf8, 0xe0],
    [0xff, 0xf2, 0xd8],
    [0xf6, 0xe4, 0xf8],
    [0xdc, 0xf6, 0xf4],
    [0xff, 0xe6, 0xe4],
    [0xf4, 0xf4, 0xd4],
    [0xea, 0xea, 0xf2],
];
/// Interfaces that have a colour; older Wiresharks cannot reckon, so each is named.
const COLORED: usize = 256;

/// Writes the profile into a folder, which is made if it is not there.
///
/// # Errors
///
/// When it cannot be written, or has a profile that is not sniff's.
pub fn write(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, text) in [("preferences", PREFERENCES.to_owned()), ("colorfilters", color_filters())] {
        let path = folder.join(name);
        if fs::read(&path).is_ok_and(|there| !there.starts_with(MARK.as_bytes())) {
            bail!("{} is there, and not sniff's: name another folder", path.display());
        }
        let written = create(&path)?.write_all(format!("{MARK}\n{text}").as_bytes());
        written.with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// A rule for each colour. What Wireshark is wary of stays as it has it.
fn color_filters() -> String {
    let mut rules =
        "@Bad TCP@tcp.analysis.flags && !tcp.analysis.window_update@[4626,10023,11822][63479,34695,34695]\n"
            .to_owned();
    for (at, color) in COLORS.iter().enumerate() {
        let ids: Vec<String> = (at..COLORED).step_by(COLORS.len()).map(|id| id.to_string()).collect();
        // Wireshark's have 16 bits.
        let [red, green, blue] = color.map(|it| it * 0x101);
        let _ = writeln!(
            rules,
            "@Pod {}@frame.interface_id in {{{}}}@[{red},{green},{blue}][0,0,0]",
            at + 1,
            ids.join(", ")
        );
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_written_over_sniffs_own_alone() {
        let folder = tempfile::tempdir().unwrap();
        let profile = folder.path().join("profiles/sniff");
        write(&profile).unwrap();
        write(&profile).unwrap();
        let rules = fs::read_to_string(profile.join("colorfilters")).unwrap();
        assert!(rules.contains("@Pod 8@frame.interface_id in {7, 15, "), "{rules}");
        fs::write(profile.join("preferences"), "gui.x: 1\n").unwrap();
        let error = write(&profile).unwrap_err().to_string();
        assert!(error.contains("preferences is there"), "{error}");
        assert_eq!(fs::read_to_string(profile.join("preferences")).unwrap(), "gui.x: 1\n");
    }
}
