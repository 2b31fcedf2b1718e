//! `-l` and `-n` are kubectl's letters for labels and for a namespace, and tcpdump's for lines that go out at once and for
//! addresses as numbers. What stands behind them tells; where it does not, the long options are asked for. Pure.
//!
//! `-l` is kubectl's where the next word selects labels and cannot be a filter, and only then `-n` with a word behind it is
//! kubectl's, too. So no command line of tcpdump's changes its meaning.

use std::ffi::OsString;

use super::filter_words::may_be_in_a_filter;
use crate::targets::{Selector, check_namespace};

/// A command line, the program's name first, with `--selector` and `--namespace` where `-l` and `-n` mean them.
///
/// # Errors
///
/// When it cannot be told: says what to type.
pub fn told_apart(words: Vec<OsString>) -> Result<Vec<OsString>, String> {
    let text: Vec<&str> = words.iter().map(|word| word.to_str().unwrap_or_default()).collect();
    let end = text.iter().position(|word| *word == "--").unwrap_or(text.len());
    let pairs = || text[..end].windows(2).enumerate().skip(1).map(|(at, pair)| (at, pair[0], pair[1]));
    if let Some((_, letters, selector)) = pairs().find(|(_, it, next)| ends_in_l(it) && selects(next)) {
        return Err(format!("'{letters}' with '{selector}' behind it: type --selector '{selector}'"));
    }
    let selectors = pairs().filter(|(_, letter, next)| *letter == "-l" && selects(next));
    let mut changes: Vec<_> = selectors.map(|(at, ..)| (at, "--selector")).collect();
    if !changes.is_empty() {
        for (at, _, name) in pairs().filter(|(_, letter, next)| *letter == "-n" && !next.starts_with('-')) {
            if may_be_in_a_filter(name) || check_namespace(name).is_err() {
                return Err(format!(
                    "'-n {name}' may be a namespace or a filter: type --namespace NAMESPACE, or -nn for addresses as numbers"
                ));
            }
            changes.push((at, "--namespace"));
        }
    }
    let mut words = words;
    changes.into_iter().for_each(|(at, option)| words[at] = option.into());
    Ok(words)
}

/// Whether a word is several letters in one, the last of which is `l`.
fn ends_in_l(word: &str) -> bool {
    word.len() > 2 && word.ends_with('l') && word.starts_with('-') && !word.starts_with("--")
}

/// Whether a word says which values labels have, and is no filter.
fn selects(word: &str) -> bool {
    let Some(at) = word.find(['=', '<', '>', '(']) else { return false };
    let (key, value) = (word[..at].trim_end_matches('!'), word[at..].trim_start_matches(['=', '<', '>']));
    // Filters have no commas.
    let is_filter = !word.contains(',') && is_arithmetic(key) && is_arithmetic(value);
    word.parse::<Selector>().is_ok() && !is_filter
}

/// Whether a word is what filters compare: numbers, the packet's length, and names of numbers, one divided by another.
fn is_arithmetic(word: &str) -> bool {
    let is_operand = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_digit())
            || ["len", "length"].contains(&part)
            || part.starts_with("icmp")
            || part.starts_with("tcp")
    };
    word.split(['/', ' ']).filter(|part| !part.is_empty()).all(is_operand)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &str) -> Result<String, String> {
        // As a shell has it, with quotes around one word.
        let mut words = vec![OsString::from("sniff")];
        for (number, part) in line.split('\'').enumerate() {
            match number % 2 {
                0 => words.extend(part.split_whitespace().map(OsString::from)),
                _ => words.push(part.into()),
            }
        }
        let words = told_apart(words)?;
        let words: Vec<_> = words[1..].iter().map(|word| word.to_str().unwrap()).collect();
        Ok(words.join(" "))
    }

    #[test]
    fn what_selects_labels_makes_the_letters_kubectls() {
        for (line, expected) in [
            ("-l app=web -n shop", "--selector app=web --namespace shop"),
            ("-n shop -l app=web,tier!=cache -nn", "--namespace shop --selector app=web,tier!=cache -nn"),
            ("-l 'app in (web, db)' -w f", "--selector app in (web, db) -w f"),
            ("-l '!canary,app=web'", "--selector !canary,app=web"),
            ("-l app.kubernetes.io/name=web tcp", "--selector app.kubernetes.io/name=web tcp"),
            ("-l app== -n", "--selector app== -n"),
            ("-l app=web -n -c 5", "--selector app=web -n -c 5"),
            ("-l size>2 -n shop", "--selector size>2 --namespace shop"),
            ("-l len=long", "--selector len=long"),
            ("-l len=60,app", "--selector len=60,app"),
            ("-l app=web -- -n shop", "--selector app=web -- -n shop"),
        ] {
            assert_eq!(told(line).as_deref(), Ok(expected), "{line}");
        }
    }

    #[test]
    fn tcpdumps_lines_keep_their_meaning() {
        for line in [
            "-l",
            "-n",
            "-l -i eth0",
            "-lnn -i eth0",
            "-nnl -i eth0 tcp",
            "-i eth0 -l tcp port 80",
            "-i eth0 -n tcp port 80",
            "-n shop",
            "-n -l",
            "-l app",
            "-l !tcp",
            "-i eth0 -l len=60",
            "-i eth0 -l 'len >= 60'",
            "-i eth0 -l 'len/2 > 60'",
            "-i eth0 -l 6=len",
            "-i eth0 -l tcpflags=tcp-syn",
            "-i eth0 -l 'tcp[13] = 2'",
            "-i eth0 -l 'tcp port 80 and len=60'",
            "-i eth0 -- -l app=web",
            "-w -l",
        ] {
            assert_eq!(told(line).as_deref(), Ok(line.replace('\'', "").as_str()), "{line}");
        }
    }

    #[test]
    fn what_cannot_be_told_is_asked_back() {
        for (line, part) in [
            ("-l app=web -n tcp port 80", "type --namespace NAMESPACE, or -nn"),
            ("-l app=web -n esp", "type --namespace NAMESPACE, or -nn"),
            ("-l app=web -n 'tcp port 80'", "type --namespace NAMESPACE, or -nn"),
            ("-nnl app=web", "type --selector 'app=web'"),
        ] {
            let why = told(line).unwrap_err();
            assert!(why.contains(part), "{line}: {why}");
        }
    }
}
