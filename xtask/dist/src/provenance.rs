//! Where a release comes from: an in-toto statement with SLSA's predicate (<https://slsa.dev/spec/v1.0/provenance>).
//! Nothing signs it here: SHA256SUMS names it with all else, and is what the maintainers sign.

use serde_json::{Value, json};

use crate::archive::sha256;

/// What was built, from what, and by what.
#[derive(clap::Args, Clone)]
pub struct Build {
    /// The commit that was built, in full
    #[arg(long)]
    pub commit: String,
    /// There were changes that are in no commit
    #[arg(long)]
    pub modified: bool,
    /// The command that built it, a word each
    #[arg(long = "word", value_name = "WORD", allow_hyphen_values = true)]
    pub command: Vec<String>,
    /// What took part in it
    #[arg(long = "tool", value_name = "NAME=VERSION", value_parser = tool)]
    pub tools: Vec<(String, String)>,
}

fn tool(text: &str) -> anyhow::Result<(String, String)> {
    let (name, version) = text.split_once('=').ok_or_else(|| anyhow::anyhow!("NAME=VERSION is expected"))?;
    Ok((name.to_owned(), version.to_owned()))
}

/// What the statement's file is called.
pub fn file_name(version: &str) -> String {
    format!("sniff-{version}.provenance.json")
}

/// The statement about files, by name and content, of a project that is to be found at `url`.
pub fn statement(build: &Build, url: &str, date: u64, files: &[(String, Vec<u8>)]) -> Value {
    let url = url.trim_end_matches('/');
    let subject = |(name, content): &(String, Vec<u8>)| json!({ "name": name, "digest": { "sha256": sha256(content) } });
    let tools: serde_json::Map<_, _> =
        build.tools.iter().map(|(name, version)| (name.clone(), version.clone().into())).collect();
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": files.iter().map(subject).collect::<Vec<_>>(),
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": format!("{url}/docs/install.md#making-a-release"),
                "externalParameters": { "command": build.command, "url": url },
                "internalParameters": { "SOURCE_DATE_EPOCH": date.to_string() },
                "resolvedDependencies": [{
                    "uri": format!("git+{url}@{}", build.commit),
                    "digest": { "gitCommit": build.commit },
                    "annotations": { "modified": build.modified },
                }],
            },
            "runDetails": {
                // Whoever makes it does so on a machine of their own.
                "builder": { "id": format!("{url}#cargo-xtask-dist"), "version": tools },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_names_files_by_their_digests_and_what_they_were_made_from() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let build = Build {
            commit: commit.to_owned(),
            modified: false,
            command: vec!["cargo".to_owned()],
            tools: vec![tool("rustc=1.95.0 (5980 2026)").expect("a tool")],
        };
        let files = [("a.tar.gz".to_owned(), b"abc".to_vec())];
        let statement = statement(&build, "https://example.com/sniff/", 12, &files);
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(statement["subject"], json!([{ "name": "a.tar.gz", "digest": { "sha256": abc } }]));
        let definition = &statement["predicate"]["buildDefinition"];
        assert_eq!(definition["resolvedDependencies"][0]["digest"]["gitCommit"], commit);
        assert_eq!(
            definition["resolvedDependencies"][0]["uri"],
            format!("git+https://example.com/sniff@{commit}")
        );
        assert_eq!(definition["internalParameters"]["SOURCE_DATE_EPOCH"], "12");
        let builder = &statement["predicate"]["runDetails"]["builder"];
        assert_eq!(builder["version"]["rustc"], "1.95.0 (5980 2026)");
    }
}
