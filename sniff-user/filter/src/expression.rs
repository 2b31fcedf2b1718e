//! From text to classic BPF, by libpcap's own compiler on a handle without an interface. It needs no privileges.
//!
//! libpcap resolves names while it compiles, which may take as long as the resolver takes.

use std::fmt;

use pcap::{Capture, Linktype};
use sniff_pcapng::LinkType;

use super::cbpf::{Encoded, Program, Reason};

/// What a program returns for a packet that matches: tcpdump's default snaplen, which people know from its
/// listings. What is kept of a packet is not decided here.
const MATCH: u32 = 262_144;
/// What libpcap returns on the `pcap` crate's handles: the snaplen that the crate gives them.
const MATCH_OF_CRATE: u32 = 65_535;
/// Behind one of these words, offsets are those inside the tunnel (pcap-filter(7)); where they begin is in scratch cells,
/// which only packets of the tunnel have written.
const TUNNELS: [&str; 2] = ["geneve", "vxlan"];
/// `DLT_RAW` of pcap/dlt.h, which has another number in memory than in files.
const DLT_RAW: i32 = 12;

/// Compiles `text`; an empty one matches every packet. `optimise` runs libpcap's optimiser over it.
///
/// # Errors
///
/// With libpcap's words and, where it can be found, the place in the text: for what is no expression, for a name
/// that does not resolve, for something that the link type has not, and for the loops of `protochain`, which the
/// kernel would not run.
pub fn compile(text: &str, link_type: LinkType, optimise: bool) -> Result<Program, Error> {
    decode(&encode(text, link_type, optimise)?, text)
}

/// Decodes what [`encode`] has made of `text`.
///
/// # Errors
///
/// For what could not run, as [`compile`] has it.
pub fn decode(encoded: &[Encoded], text: &str) -> Result<Program, Error> {
    Program::decode(encoded).map_err(|invalid| {
        let at = |at| Some(Position::new(text, at));
        match (invalid.reason, first_word(text, &TUNNELS)) {
            (Reason::BackwardJump, _) => Error {
                message: "'protochain' follows headers in a loop, which filters in the kernel cannot have; name the \
                          headers instead, as in 'ip6 proto 6'"
                    .into(),
                position: only_word(text, "protochain").and_then(at),
            },
            (Reason::CellNotWritten(_), Some((start, tunnel))) => Error {
                message: format!(
                    "behind '{tunnel}' a filter looks inside the tunnel, and other packets have none: write what is for \
                     them in front, as in 'tcp or {tunnel}', and the rest in brackets, as in '{tunnel} and (tcp or udp)'"
                ),
                position: at(start),
            },
            (reason, _) => Error { message: format!("libpcap makes of it what cannot run: {reason}"), position: None },
        }
    })
}

/// Compiles `text` to numbers, as tcpdump prints them. Not all that they may be can run: [`compile`] tells.
///
/// # Errors
///
/// As [`compile`] does, but for what could not run.
pub fn encode(text: &str, link_type: LinkType, optimise: bool) -> Result<Vec<Encoded>, Error> {
    let compiler = Compiler::new(link_type)?;
    compiler.compile(text, optimise).map_err(|message| Error::locate(message, text, &compiler))
}

/// A file's text with its comments made blank, as tcpdump reads it: from `#` to the end of the line.
pub fn without_comments(text: &str) -> String {
    let mut comment = false;
    text.chars()
        .map(|char| {
            comment = char != '\n' && (comment || char == '#');
            if comment { ' ' } else { char }
        })
        .collect()
}

/// Why an expression did not compile: one line, and two more that point to the place where that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    message: String,
    position: Option<Position>,
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)?;
        let Some(Position { line, column }) = &self.position else {
            return Ok(());
        };
        // Tabs stay, so that the caret stands below its character.
        let blank: String =
            line.chars().take(*column).map(|char| if char == '\t' { '\t' } else { ' ' }).collect();
        write!(out, "\n  {line}\n  {blank}^")
    }
}

impl std::error::Error for Error {}

impl Error {
    fn locate(message: String, text: &str, compiler: &Compiler) -> Self {
        let position = quoted(&message)
            .and_then(|name| only_word(text, name))
            .or_else(|| compiler.stumble(text, &message));
        Self { message, position: position.map(|at| Position::new(text, at)) }
    }
}

/// A position in a text of several lines.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Position {
    line: String,
    /// In characters.
    column: usize,
}

impl Position {
    /// `at` is an index into `text`, at a character or the end.
    fn new(text: &str, at: usize) -> Self {
        let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let line = text[start..].lines().next().unwrap_or_default();
        Self { line: line.into(), column: text[start..at].chars().count() }
    }
}

struct Compiler(Capture<pcap::Dead>);

impl Compiler {
    fn new(link_type: LinkType) -> Result<Self, Error> {
        let link_type = match link_type {
            LinkType::Ethernet => Linktype::ETHERNET,
            LinkType::Raw => Linktype(DLT_RAW),
        };
        Capture::dead(link_type).map(Self).map_err(|error| Error { message: words(error), position: None })
    }

    /// The error is what libpcap says.
    fn compile(&self, text: &str, optimise: bool) -> Result<Vec<Encoded>, String> {
        let program = self.0.compile(text, optimise).map_err(words)?;
        program
            .get_instructions()
            .iter()
            .map(|instruction| {
                // The crate shows an instruction's numbers only as text.
                let mut encoded: Encoded = instruction
                    .to_string()
                    .parse()
                    .map_err(|error| format!("libpcap's program cannot be read: {error}"))?;
                if (encoded.code, encoded.k) == (RETURN_CONSTANT, MATCH_OF_CRATE) {
                    encoded.k = MATCH;
                }
                Ok(encoded)
            })
            .collect()
    }

    /// Where libpcap stumbles in `text`, for which it only has `message` to say.
    ///
    /// It does not tell; but behind a beginning that is right as far as it goes, its scanner complains about
    /// [`Self::STUMBLING_BLOCK`] before its parser sees that. So the token is the first one at which it complains
    /// of something else.
    fn stumble(&self, text: &str, message: &str) -> Option<usize> {
        let tokens = tokens(text);
        let right = tokens.partition_point(|&(_, end)| self.is_right_so_far(&text[..end]));
        match tokens.get(right) {
            Some(&(start, _)) => Some(start),
            // Right to the end, and yet not an expression: something is missing.
            None if message.ends_with("syntax error") => Some(text.trim_end().len()),
            None => None,
        }
    }

    fn is_right_so_far(&self, beginning: &str) -> bool {
        let block = Self::STUMBLING_BLOCK;
        let complaint = self.compile(&format!("{beginning} {block}"), false).err();
        complaint.is_some_and(|complaint| complaint.ends_with(block))
    }

    /// A token with the form of an IPv6 address that is none.
    const STUMBLING_BLOCK: &str = "::999.999.999.999";
}

/// `BPF_RET | BPF_K`.
const RETURN_CONSTANT: u16 = 0x06;

/// What libpcap said, without the crate's words around it.
fn words(error: pcap::Error) -> String {
    match error {
        pcap::Error::PcapError(words) => words,
        other => other.to_string(),
    }
}

/// What stands in quotes in a message.
fn quoted(message: &str) -> Option<&str> {
    let start = message.find(['\'', '"'])?;
    let quote = &message[start..=start];
    message[start + 1..].split(quote).next()
}

/// Where `word` is a token of `text`, if it is one only once.
fn only_word(text: &str, word: &str) -> Option<usize> {
    let tokens = tokens(text);
    let mut found = tokens.iter().filter(|&&(start, end)| text[start..end] == *word);
    match (found.next(), found.next()) {
        (Some(&(start, _)), None) => Some(start),
        _ => None,
    }
}

/// The first token of `text` that is one of `words`, and where it is.
fn first_word<'a>(text: &'a str, words: &[&str]) -> Option<(usize, &'a str)> {
    let tokens = tokens(text).into_iter().map(|(start, end)| (start, &text[start..end]));
    tokens.into_iter().find(|(_, token)| words.contains(token))
}

/// Start and end of each token: a word, or any other character by itself.
fn tokens(text: &str) -> Vec<(usize, usize)> {
    let mut tokens: Vec<(usize, usize)> = Vec::new();
    let mut in_word = false;
    for (at, char) in text.char_indices() {
        let end = at + char.len_utf8();
        let word = char.is_alphanumeric() || "_-.:/\\".contains(char);
        match tokens.last_mut() {
            Some(last) if word && in_word => last.1 = end,
            _ if !char.is_whitespace() => tokens.push((at, end)),
            _ => {}
        }
        in_word = word;
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        compile(text, LinkType::Ethernet, true).unwrap_err().to_string()
    }

    #[test]
    fn listings_are_tcpdumps() {
        let program = compile("udp port 53", LinkType::Raw, true).unwrap();
        assert_eq!(
            program.to_string(),
            "\
(000) ldb      [0]
(001) and      #0xf0
(002) jeq      #0x60            jt 3	jf 9
(003) ldb      [6]
(004) jeq      #0x11            jt 5	jf 22
(005) ldh      [40]
(006) jeq      #0x35            jt 21	jf 7
(007) ldh      [42]
(008) jeq      #0x35            jt 21	jf 22
(009) ldb      [0]
(010) and      #0xf0
(011) jeq      #0x40            jt 12	jf 22
(012) ldb      [9]
(013) jeq      #0x11            jt 14	jf 22
(014) ldh      [6]
(015) jset     #0x1fff          jt 22	jf 16
(016) ldxb     4*([0]&0xf)
(017) ldh      [x + 0]
(018) jeq      #0x35            jt 21	jf 19
(019) ldh      [x + 2]
(020) jeq      #0x35            jt 21	jf 22
(021) ret      #262144
(022) ret      #0"
        );
    }

    #[test]
    fn an_empty_expression_matches_all() {
        let program = compile("", LinkType::Ethernet, true).unwrap();
        assert_eq!(program.to_string(), "(000) ret      #262144");
    }

    #[test]
    fn the_optimiser_can_be_turned_off() {
        let length = |optimise| {
            let program = compile("tcp port 443", LinkType::Ethernet, optimise).unwrap();
            program.instructions().len()
        };
        assert!(length(true) < length(false));
    }

    #[test]
    fn a_syntax_error_points_to_its_token() {
        let syntax = "can't parse filter expression: syntax error";
        for (text, column) in [
            ("tcp prot 443", 4),
            ("tcp and and udp", 8),
            ("tcp port", 8),
            ("(tcp or udp", 11),
            ("tcp)", 3),
            ("tcp port 80 and ip[2:2] >> >> 1 = 2", 27),
            ("host 10.0.0.1 or $", 17),
        ] {
            let caret = " ".repeat(column) + "^";
            assert_eq!(error(text), format!("{syntax}\n  {text}\n  {caret}"));
        }
    }

    #[test]
    fn other_errors_point_to_what_libpcap_stumbles_at() {
        for (text, message, column) in [
            ("tcp port htpt", "unknown port 'htpt'", 9),
            ("port 80 or port 99999", "illegal port number 99999 > 65535", 16),
            ("net 10.0.0.1/8", "non-network bits set in \"10.0.0.1/8\"", 4),
            ("udp and host 1.2.3.999", "invalid IPv4 address '1.2.3.999'", 13),
            ("ip[0:3] = 1", "data size must be 1, 2, or 4", 6),
            ("vlan 5000", "VLAN tag 5000 greater than maximum 4095", 5),
        ] {
            let caret = " ".repeat(column) + "^";
            assert_eq!(error(text), format!("{message}\n  {text}\n  {caret}"));
        }
    }

    #[test]
    fn the_caret_is_in_the_right_line() {
        assert_eq!(
            error("tcp and\n\tport 80 or ip\n\tprot 443\nor udp"),
            "can't parse filter expression: syntax error\n  \tprot 443\n  \t^"
        );
    }

    #[test]
    fn loops_are_refused() {
        assert!(error("tcp or ip6 protochain 6").ends_with("\n  tcp or ip6 protochain 6\n             ^"));
    }

    #[test]
    fn what_is_behind_a_tunnel_is_only_for_its_packets() {
        for (text, column) in [
            ("geneve or tcp", 0),
            ("not geneve and tcp", 4),
            ("ip and (geneve 42 or port 53)", 8),
            ("geneve and tcp or geneve and udp", 0),
        ] {
            let error = error(text);
            let caret = " ".repeat(column) + "^";
            assert!(error.starts_with("behind 'geneve' ") && error.contains("'tcp or geneve'"), "{error}");
            assert!(error.ends_with(&format!("\n  {text}\n  {caret}")), "{error}");
        }
        for advice in
            ["tcp or geneve", "tcp and not geneve", "port 53 or geneve 42", "geneve and (tcp or udp)"]
        {
            compile(advice, LinkType::Ethernet, true).unwrap();
        }
    }

    #[test]
    fn what_the_link_type_has_not() {
        let error = compile("vlan 5", LinkType::Raw, true).unwrap_err();
        assert!(error.to_string().starts_with("no VLAN support for Raw IP"), "{error}");
    }

    #[test]
    fn a_nul_is_an_error() {
        assert!(compile("tcp\0", LinkType::Ethernet, true).is_err());
    }

    #[test]
    fn comments_are_blank() {
        assert_eq!(without_comments("tcp # web\nport 80#"), "tcp      \nport 80 ");
    }
}
