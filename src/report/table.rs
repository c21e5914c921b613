//! Columns of text.

use std::fmt::Write;

/// Where a column's text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
    /// Left, and no wider than [`NAME`]: clients name themselves, with up to a thousand bytes.
    Name,
}

/// Widest name in a table. The JSON has it whole.
const NAME: usize = 48;

/// Rows under a heading, each column as wide as its widest cell.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        let columns = self.columns.iter().map(|(_, align)| *align);
        let shown = |(cell, align): (String, Align)| if align == Align::Name { name(&cell) } else { clean(&cell) };
        self.rows.push(cells.into_iter().zip(columns).map(shown).collect());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The heading and the rows, a line each; nothing where there is no row.
    pub(super) fn render(&self) -> String {
        let mut out = String::new();
        if self.rows.is_empty() {
            return out;
        }
        let heading: Vec<String> = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        let all = || std::iter::once(&heading).chain(&self.rows);
        let cell = |row: &Vec<String>, column: usize| row.get(column).map_or(0, |cell| cell.chars().count());
        let width = |column| all().map(|row| cell(row, column)).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        for row in all() {
            let mut line = String::new();
            for ((cell, width), (_, align)) in row.iter().zip(&widths).zip(&self.columns) {
                // Writing to a String cannot fail.
                let _ = match align {
                    Align::Left | Align::Name => write!(line, "{cell:width$}  "),
                    Align::Right => write!(line, "{cell:>width$}  "),
                };
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// A name, cut where it would make a line unreadable.
pub(super) fn name(text: &str) -> String {
    let mut name = clean(text);
    if let Some((cut, _)) = name.char_indices().nth(NAME) {
        name.truncate(name.char_indices().nth(NAME - 1).map_or(cut, |(last, _)| last));
        name.push('\u{2026}');
    }
    name
}

/// Text of others, without what a terminal would act upon: controls, and what has no form of its own (marks that
/// turn the direction or part lines, of no width, or on top of another).
pub(super) fn clean(text: &str) -> String {
    // Of a character that can be seen comes itself, or a backslash and itself.
    let has_form = |c: char| !c.is_control() && c.escape_debug().len() <= 2;
    text.chars().map(|c| if has_form(c) { c } else { '\u{fffd}' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_lines_have_no_trailing_blanks() {
        let mut table = Table::new(&[("NAME", Align::Left), ("N", Align::Right), ("WHY", Align::Left)]);
        table.row(["a".into(), "1".into(), String::new()]);
        table.row(["a long name".into(), "100".into(), "x".into()]);
        assert_eq!(table.render(), "NAME           N  WHY\na              1\na long name  100  x\n");
    }

    #[test]
    fn a_terminal_never_sees_the_control_characters_of_others() {
        assert_eq!(clean("a\x1b[31mb\n"), "a\u{fffd}[31mb\u{fffd}");
    }

    #[test]
    fn nothing_of_others_hides_turns_or_parts_a_line() {
        for c in "\u{202e}\u{2066}\u{2028}\u{2029}\u{200b}\u{feff}\u{61c}\u{e0041}\u{301}\u{ad}".chars() {
            assert_eq!(clean(&format!("a{c}b")), "a\u{fffd}b", "{c:?}");
        }
        let plain = "/srv/äöü/дом/日本 \\ 'x' \"y\"";
        assert_eq!(clean(plain), plain);
    }

    #[test]
    fn a_long_name_leaves_the_table_readable() {
        let mut table = Table::new(&[("CLIENT", Align::Name), ("N", Align::Right)]);
        table.row(["ü".repeat(1024), "1".into()]);
        table.row(["x".repeat(48), "2".into()]);
        let text = table.render();
        assert_eq!(text.lines().map(|line| line.chars().count()).collect::<Vec<_>>(), [51, 51, 51]);
        assert!(text.contains("ü\u{2026}  1") && text.contains("xx  2"), "{text}");
    }
}
