//! The bytes of a packet below its line, as tcpdump prints them.

use super::{out::push_hex, style::DumpForm};

const IN_A_LINE: usize = 16;
/// Columns that the bytes of a line take.
const HEX_COLUMNS: usize = IN_A_LINE / 2 * 5;

/// Appends lines with the bytes, each of which begins with a tab: no packet's text can pass for the line of another.
pub(super) fn write(to: &mut Vec<u8>, form: DumpForm, bytes: &[u8]) {
    match form {
        DumpForm::Ascii => ascii(to, bytes),
        DumpForm::Hex | DumpForm::HexAndAscii => {
            for (number, part) in bytes.chunks(IN_A_LINE).enumerate() {
                to.extend_from_slice(format!("\t0x{:04x}: ", number * IN_A_LINE).as_bytes());
                let start = to.len();
                hex(to, part);
                if form == DumpForm::HexAndAscii {
                    to.resize(start + HEX_COLUMNS + 2, b' ');
                    to.extend(part.iter().map(|byte| if byte.is_ascii_graphic() { *byte } else { b'.' }));
                }
                to.push(b'\n');
            }
        }
    }
}

/// Appends bytes in pairs, a space before each.
fn hex(to: &mut Vec<u8>, bytes: &[u8]) {
    for (at, byte) in bytes.iter().enumerate() {
        if at % 2 == 0 {
            to.push(b' ');
        }
        push_hex(to, *byte);
    }
}

/// Appends what is text, with its lines.
fn ascii(to: &mut Vec<u8>, bytes: &[u8]) {
    to.push(b'\t');
    let mut rest = bytes;
    while let [byte, behind @ ..] = rest {
        rest = behind;
        match byte {
            b'\r' if matches!(behind, [] | [b'\n', ..]) => {}
            b'\n' if behind.is_empty() => {}
            b'\n' => to.extend_from_slice(b"\n\t"),
            b'\t' | b' ' => to.push(*byte),
            byte if byte.is_ascii_graphic() => to.push(*byte),
            _ => to.push(b'.'),
        }
    }
    to.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(form: DumpForm, bytes: &[u8]) -> String {
        let mut to = Vec::new();
        write(&mut to, form, bytes);
        String::from_utf8(to).unwrap()
    }

    #[test]
    fn bytes_are_laid_out_as_tcpdump_does() {
        let bytes = b"E\0\0\x1d\0\x01\0\0@\x01\x66\x24 ~\x7fX\x88";
        assert_eq!(
            dump(DumpForm::Hex, bytes),
            "\t0x0000:  4500 001d 0001 0000 4001 6624 207e 7f58\n\t0x0010:  88\n"
        );
        assert_eq!(
            dump(DumpForm::HexAndAscii, bytes),
            "\t0x0000:  4500 001d 0001 0000 4001 6624 207e 7f58  E.......@.f$.~.X\n\
             \t0x0010:  88                                       .\n"
        );
        assert_eq!(dump(DumpForm::Hex, b""), "");
    }

    #[test]
    fn text_keeps_its_lines_and_can_pass_for_nothing_else() {
        assert_eq!(
            dump(DumpForm::Ascii, b"GET / \x1b[2J\r\nA:\tb\n08:00:00 IP x\r\n\r\n"),
            "\tGET / .[2J\n\tA:\tb\n\t08:00:00 IP x\n\t\n"
        );
        assert_eq!(dump(DumpForm::Ascii, b"a\rb\r"), "\ta.b\n");
    }
}
