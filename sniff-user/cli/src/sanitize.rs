//! Words from anywhere, fit for a terminal. [`crate::logging`] passes all that a person is told through here; what goes
//! to standard output as a table does so by itself.

/// Longest line in bytes; more of it makes another.
const MAX_LINE: usize = 4096;

/// The text with all that a terminal might obey written out. Quotes and newlines stay: messages may have several lines.
pub fn sanitize(text: &str) -> String {
    let mut sanitized = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\n' | '\'' | '"' | '\\' => sanitized.push(char),
            _ => sanitized.extend(char.escape_debug()),
        }
    }
    sanitized
}

/// The text as one line: newlines are written out too.
pub fn sanitize_line(text: &str) -> String {
    sanitize(text).replace('\n', "\\n")
}

/// A stream of text that comes in pieces, of which the last line is not whole yet.
#[derive(Debug, Default)]
pub struct Lines(Vec<u8>);

impl Lines {
    /// Takes a piece; returns the lines that are whole with it, [sanitize]d.
    pub fn push(&mut self, piece: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for part in piece.split_inclusive(|byte| *byte == b'\n').flat_map(|line| line.chunks(MAX_LINE)) {
            if self.0.len() + part.len() > MAX_LINE {
                lines.extend(self.take());
            }
            self.0.extend(part);
            if part.ends_with(b"\n") {
                lines.extend(self.take());
            }
        }
        lines
    }

    /// What there is of the last line, unless that is blank.
    pub fn take(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.0);
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        (!line.is_empty()).then(|| sanitize(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_same_however_they_are_cut() {
        let text = "sniff: grüße\r\n\n  \u{1b}[2J two\nand the rest".as_bytes();
        for len in 1..=text.len() {
            let mut lines = Lines::default();
            let mut all: Vec<_> = text.chunks(len).flat_map(|piece| lines.push(piece)).collect();
            all.extend(lines.take());
            assert_eq!(all, ["sniff: grüße", r"  \u{1b}[2J two", "and the rest"], "{len}");
            assert_eq!(lines.take(), None);
        }
    }

    #[test]
    fn lines_without_end_are_bounded() {
        let mut lines = Lines::default();
        let all: Vec<_> = (0..100).flat_map(|_| lines.push(&[b'x'; 1000])).collect();
        assert!(all.iter().all(|line| line.len() <= MAX_LINE) && lines.0.len() <= MAX_LINE);
        let len: usize = all.iter().map(String::len).sum();
        assert_eq!(len + lines.take().unwrap().len(), 100_000);
    }

    #[test]
    fn what_a_person_wrote_stays_as_it_is() {
        for text in
            ["the node's \"eth7\" is gone", "syntax error\n  tcp prot 80\n      ^", "grüße, 世界", r"a\b"]
        {
            assert_eq!(sanitize(text), text);
        }
    }

    #[test]
    fn a_cell_of_a_table_keeps_to_its_line() {
        assert_eq!(sanitize_line("6.18\nok    all is well\u{1b}[2K"), r"6.18\nok    all is well\u{1b}[2K");
    }

    #[test]
    fn what_a_terminal_obeys_is_written_out() {
        assert_eq!(sanitize("a\u{1b}[2Jb\u{1b}]0;x\u{7}"), r"a\u{1b}[2Jb\u{1b}]0;x\u{7}");
        assert_eq!(
            sanitize("real\rfake\t\u{9b}31m\u{202e}\u{7f}\0"),
            r"real\rfake\t\u{9b}31m\u{202e}\u{7f}\0"
        );
    }
}
