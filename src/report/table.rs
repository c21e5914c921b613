//! Columns of text.

use std::fmt::Write;

/// Where a column's text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
    /// A number, right: a column that is 0 everywhere says nothing and is left out.
    Count,
    /// Left, and no wider than [`NAME`]: clients name themselves, with up to a thousand bytes.
    Name,
}

/// Blanks between two columns.
const BETWEEN: usize = 2;
/// Widest name in a table. The JSON has it whole.
const NAME: usize = 48;

/// Rows under a heading, each column as wide as its widest cell; where that is too wide, blocks.
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

    /// The heading and the rows, a line each, if they fit into `width`; else a block for each row. Nothing where there is
    /// no row.
    pub(super) fn render(&self, width: usize) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let shown: Vec<usize> = (0..self.columns.len()).filter(|column| self.says_something(*column)).collect();
        let widths: Vec<usize> = shown.iter().map(|column| self.widest(*column)).collect();
        let line: usize = widths.iter().map(|width| width + BETWEEN).sum();
        if line.saturating_sub(BETWEEN) <= width {
            self.as_lines(&shown, &widths)
        } else {
            self.as_blocks(&shown, width)
        }
    }

    fn heading(&self, column: usize) -> (&'static str, Align) {
        self.columns.get(column).copied().unwrap_or(("", Align::Left))
    }
    fn says_something(&self, column: usize) -> bool {
        let nothing = if self.heading(column).1 == Align::Count { "0" } else { "" };
        column == 0 || self.rows.iter().any(|row| cell_of(row, column) != nothing)
    }
    fn widest(&self, column: usize) -> usize {
        let cells = self.rows.iter().map(|row| cell_of(row, column));
        cells.chain([self.heading(column).0]).map(|cell| cell.chars().count()).max().unwrap_or(0)
    }

    fn as_lines(&self, shown: &[usize], widths: &[usize]) -> String {
        let mut out = String::new();
        let heading: Vec<String> = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        for row in std::iter::once(&heading).chain(&self.rows) {
            let mut line = String::new();
            for (&column, width) in shown.iter().zip(widths) {
                let cell = cell_of(row, column);
                // Writing to a String cannot fail.
                let _ = match self.heading(column).1 {
                    Align::Left | Align::Name => write!(line, "{cell:width$}  "),
                    Align::Right | Align::Count => write!(line, "{cell:>width$}  "),
                };
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }

    /// The first column as a title, the others below it with their headings, as many on a line as fit. A value that is
    /// wider than a line is not broken: it may be a path to copy.
    fn as_blocks(&self, shown: &[usize], width: usize) -> String {
        let mut out = String::new();
        for row in &self.rows {
            let (title, others) = shown.split_first().unwrap_or((&0, &[]));
            out.push_str(cell_of(row, *title));
            let mut room = 0;
            for &column in others {
                let (cell, (heading, align)) = (cell_of(row, column), self.heading(column));
                if cell.is_empty() || cell == "-" || (align == Align::Count && cell == "0") {
                    continue;
                }
                let part = format!("{} {cell}", heading.to_lowercase());
                let len = part.chars().count() + BETWEEN;
                if len > room {
                    out.push('\n');
                    room = width;
                }
                room = room.saturating_sub(len);
                let _ = write!(out, "{:BETWEEN$}{part}", "");
            }
            out.push('\n');
        }
        out
    }
}

fn cell_of(row: &[String], column: usize) -> &str {
    row.get(column).map_or("", String::as_str)
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
        assert_eq!(table.render(usize::MAX), "NAME           N  WHY\na              1\na long name  100  x\n");
    }

    #[test]
    fn a_column_that_is_zero_or_empty_everywhere_is_left_out_and_one_that_is_not_known_stays() {
        let columns = [("NAME", Align::Left), ("KEPT", Align::Count), ("HELD", Align::Count), ("NOTE", Align::Left)];
        let mut table = Table::new(&columns);
        table.row(["a".into(), "0".into(), "-".into(), String::new()]);
        table.row(["b".into(), "0".into(), "-".into(), String::new()]);
        assert_eq!(table.render(80), "NAME  HELD\na        -\nb        -\n");
        table.row(["c".into(), "1".into(), "0".into(), String::new()]);
        assert_eq!(table.render(80), "NAME  KEPT  HELD\na        0     -\nb        0     -\nc        1     0\n");
    }

    #[test]
    fn a_table_that_is_too_wide_becomes_blocks_and_no_value_is_broken() {
        let columns = [("NAME", Align::Left), ("ADDRESS", Align::Left), ("KEPT", Align::Count), ("FILE", Align::Left)];
        let mut table = Table::new(&columns);
        table.row(["host1".into(), "192.0.2.1".into(), "0".into(), "/srv/a/long/path".into()]);
        table.row(["host2".into(), "-".into(), "7".into(), "/b".into()]);
        let blocks = "host1\n  address 192.0.2.1\n  file /srv/a/long/path\nhost2\n  kept 7  file /b\n";
        assert_eq!(table.render(20), blocks);
        assert!(table.render(60).starts_with("NAME "), "it fits");
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
        let text = table.render(usize::MAX);
        assert_eq!(text.lines().map(|line| line.chars().count()).collect::<Vec<_>>(), [51, 51, 51]);
        assert!(text.contains("ü\u{2026}  1") && text.contains("xx  2"), "{text}");
    }
}
