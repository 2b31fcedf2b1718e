//! The project's own rules, as far as a look at the words of each source file can tell.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

/// A word that belongs in few places.
struct Rule {
    forbids: fn(&str) -> bool,
    /// The folder that the rule is for; empty for all.
    within: &'static str,
    /// Files, and folders that end in a slash, that the rule is not for.
    except: &'static [&'static str],
    reason: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        forbids: |word| matches!(word, "aya" | "aya_log" | "aya_obj"),
        within: "",
        except: &["sniff-user/src/bpf/", "sniff-common/src/lib.rs"],
        reason: "only sniff-user/src/bpf speaks to aya",
    },
    Rule {
        forbids: |word| matches!(word, "tonic" | "prost"),
        within: "",
        except: &["sniff-user/src/targets/runtime/", "tests/src/cri.rs", "tests/src/cri/"],
        reason: "only sniff-user/src/targets/runtime speaks gRPC",
    },
    Rule {
        forbids: |word| word == "rtnetlink",
        within: "",
        except: &["sniff-user/src/net/"],
        reason: "only sniff-user/src/net speaks netlink",
    },
    Rule {
        forbids: |word| matches!(word, "landlock" | "seccompiler"),
        within: "",
        except: &["sniff-user/sandbox/src/"],
        reason: "only sniff-user/sandbox says what a sandboxed process may do",
    },
    Rule {
        forbids: |word| word == "unsafe",
        within: "",
        except: &[
            "sniff-ebpf/src/",
            "sniff-common/src/lib.rs",
            "sniff-common/tests/regions.rs",
            "sniff-user/sandbox/src/capabilities.rs",
            "sniff-user/sandbox/src/tests.rs",
            "sniff-user/src/bpf/",
            "sniff-user/src/halves/fork.rs",
            "tests/src/bpf.rs",
            "tests/src/filter/engines.rs",
            "tests/src/frame.rs",
        ],
        reason: "unsafe code stays in the files that xtask/src/tidy.rs names",
    },
    Rule {
        forbids: |word| word.starts_with("TCX_") || word.starts_with("TC_ACT_") && word != "TC_ACT_UNSPEC",
        within: "sniff-ebpf/",
        except: &[],
        reason: "a capture must not decide about packets: TC_ACT_UNSPEC is the only verdict",
    },
];

/// Checks every Rust file below `root`.
///
/// # Errors
/// A file breaks a rule or cannot be read; the error lists every breach.
pub fn tidy(root: &Path) -> Result<()> {
    let mut breaches = Vec::new();
    let files = rust_files(root, &root.join("target"))?;
    ensure!(!files.is_empty(), "no Rust files in {}", root.display());
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let path = file.strip_prefix(root)?.to_string_lossy();
        breaches.extend(check(&path, &text));
    }
    ensure!(breaches.is_empty(), "tidy:\n{}", breaches.join("\n"));
    Ok(())
}

/// The rules that the file `path` with this `text` breaks, each as `path:line: reason`.
fn check(path: &str, text: &str) -> Vec<String> {
    let mut breaches = Vec::new();
    if !text.starts_with("//!") {
        breaches.push(format!("{path}:1: a file opens with a //! paragraph that says what it is for"));
    }
    let rules: Vec<_> = RULES.iter().filter(|rule| rule.is_for(path)).collect();
    for (number, line) in (1..).zip(text.lines()) {
        let code = code(line);
        let broken = rules.iter().filter(|rule| words(&code).any(rule.forbids));
        breaches.extend(broken.map(|rule| format!("{path}:{number}: {}", rule.reason)));
    }
    breaches
}

impl Rule {
    fn is_for(&self, path: &str) -> bool {
        let excepts = |place: &&str| {
            if place.ends_with('/') { path.starts_with(*place) } else { path == *place }
        };
        path.starts_with(self.within) && !self.except.iter().any(excepts)
    }
}

/// A line without its comment and without what is in its strings. Strings of several lines and
/// block comments, which the sources have no need of, are taken for code.
fn code(line: &str) -> String {
    let line = line.replace("'\"'", "");
    let mut code = String::new();
    let mut in_string = false;
    let mut chars = line.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\\' if in_string => drop(chars.next()),
            '"' => in_string = !in_string,
            '/' if !in_string && chars.peek() == Some(&'/') => break,
            _ if !in_string => code.push(char),
            _ => {}
        }
    }
    code
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|char: char| char != '_' && !char.is_alphanumeric())
}

/// The Rust files below `folder`, but for those in `output`, where cargo builds, and in hidden folders.
fn rust_files(folder: &Path, output: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        if entry.file_type()?.is_dir() {
            if path != output && !name.to_string_lossy().starts_with('.') {
                files.extend(rust_files(&path, output)?);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::{env, fs, process};

    use anyhow::Result;

    use super::{check, code, tidy};

    #[track_caller]
    fn assert_breaks(path: &str, code: &str, reason: &str) {
        let breaches = check(path, &format!("//! Purpose.\n{code}\n"));
        assert_eq!(breaches.len(), 1, "{breaches:?}");
        assert!(breaches[0].starts_with(&format!("{path}:2: ")), "{breaches:?}");
        assert!(breaches[0].contains(reason), "{breaches:?}");
    }

    #[track_caller]
    fn assert_fine(path: &str, code: &str) {
        assert_eq!(check(path, &format!("//! Purpose.\n{code}\n")), [""; 0]);
    }

    #[test]
    fn a_file_says_what_it_is_for() {
        assert_eq!(check("a.rs", "fn main() {}\n").len(), 1);
        assert_eq!(check("a.rs", "").len(), 1);
        assert_fine("a.rs", "fn main() {}");
    }

    #[test]
    fn each_library_has_its_place() {
        assert_breaks("sniff-user/src/attach.rs", "use aya::Ebpf;", "aya");
        assert_breaks("sniff-user/src/bpf.rs", "let log = aya_log::EbpfLogger::init();", "aya");
        assert_fine("sniff-user/src/bpf/mod.rs", "use aya::Ebpf;");
        assert_fine("sniff-user/build.rs", "use aya_build::Package;");

        assert_breaks("sniff-user/src/targets/mod.rs", "use {std::fs, prost::Message};", "gRPC");
        assert_fine("sniff-user/src/targets/runtime/api.rs", "use tonic::Status;");

        assert_breaks(
            "sniff-user/src/capture/watch.rs",
            "let handle = rtnetlink::new_connection();",
            "netlink",
        );
        assert_fine("sniff-user/src/net/tc.rs", "let handle = rtnetlink::new_connection();");

        assert_breaks("sniff-user/src/main.rs", "seccompiler::apply_filter(&filter)?;", "sandbox");
        assert_fine("sniff-user/sandbox/src/files.rs", "use landlock::Ruleset;");
    }

    #[test]
    fn unsafe_code_has_its_place() {
        assert_breaks("sniff-user/src/main.rs", "let byte = unsafe { *pointer };", "unsafe");
        assert_fine("sniff-user/src/main.rs", "#![deny(unsafe_code)]");
        assert_fine("sniff-ebpf/src/packet.rs", "let byte = unsafe { *pointer };");
    }

    #[test]
    fn the_kernel_side_gives_no_verdict() {
        for verdict in ["TC_ACT_OK", "TC_ACT_SHOT", "TCX_PASS"] {
            assert_breaks("sniff-ebpf/src/main.rs", &format!("return {verdict};"), "verdict");
        }
        assert_fine("sniff-ebpf/src/main.rs", "TC_ACT_UNSPEC");
        assert_fine("tests/src/redirect.rs", "TC_ACT_OK");
    }

    #[test]
    fn only_code_counts() {
        assert_eq!(code("a(\"unsafe // \\\" b\", '\"', \"c\") + d; // unsafe"), "a(, , ) + d; ");
    }

    #[test]
    fn all_folders_are_searched_and_all_breaches_listed() -> Result<()> {
        let root = env::temp_dir().join(format!("sniff-tidy-{}", process::id()));
        for file in ["sniff-ebpf/src/target/a.rs", "b.rs", "target/c.rs", ".git/d.rs"] {
            let file = root.join(file);
            fs::create_dir_all(file.with_file_name(""))?;
            fs::write(file, "fn f() {}\n")?;
        }
        let result = tidy(&root);
        fs::remove_dir_all(&root)?;

        let error = result.expect_err("two files break a rule").to_string();
        assert_eq!(error.lines().count(), 3, "{error}");
        assert!(error.contains("src/target/a.rs:1: ") && error.contains("b.rs:1: "), "{error}");
        Ok(())
    }
}
