//! Tables on standard output.

use comfy_table::{Table, presets};

use crate::sanitize::sanitize_line;

/// Aligned, with a heading; words from afar are written out, and each row is a line.
pub fn table<const COLUMNS: usize>(
    heading: [&str; COLUMNS],
    rows: impl Iterator<Item = [String; COLUMNS]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(heading);
    table.add_rows(rows.map(|row| row.map(|cell| sanitize_line(&cell))));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stand_below_each_other_whatever_is_in_them() {
        let rows = [["web-0", "a\nb"], ["a-longer-name", "\u{1b}[2J"]].map(|row| row.map(str::to_owned));
        let expected = r"
POD            WHY
web-0          a\nb
a-longer-name  \u{1b}[2J
";
        assert_eq!(table(["POD", "WHY"], rows.into_iter()), expected[1..]);
        assert_eq!(table(["POD", "WHY"], [].into_iter()), "POD  WHY\n");
    }
}
