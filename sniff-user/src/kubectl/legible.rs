//! Messages from far away, fit for a terminal.

/// The text with all that a terminal might obey written out. Quotes and newlines stay: messages may have several lines.
pub fn legible(text: &str) -> String {
    let mut legible = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\n' | '\'' | '"' | '\\' => legible.push(char),
            _ => legible.extend(char.escape_debug()),
        }
    }
    legible
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_wrote_stays_as_it_is() {
        for text in
            ["the node's \"eth7\" is gone", "syntax error\n  tcp prot 80\n      ^", "grüße, 世界", r"a\b"]
        {
            assert_eq!(legible(text), text);
        }
    }

    #[test]
    fn what_a_terminal_obeys_is_written_out() {
        assert_eq!(legible("a\u{1b}[2Jb\u{1b}]0;x\u{7}"), r"a\u{1b}[2Jb\u{1b}]0;x\u{7}");
        assert_eq!(
            legible("real\rfake\t\u{9b}31m\u{202e}\u{7f}\0"),
            r"real\rfake\t\u{9b}31m\u{202e}\u{7f}\0"
        );
    }
}
