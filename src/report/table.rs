//! Columns of text.

use std::fmt::Write as _;
use std::io;

use super::fold::WHOLE;

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

/// The columns of a table, each as wide as its widest cell; where that is too wide, rows are blocks. Every row is seen before
/// the first one is written, and only widths are kept: there may be a million rows.
#[derive(Debug)]
pub(super) struct Layout(Vec<Column>);

#[derive(Debug)]
struct Column {
    heading: &'static str,
    align: Align,
    /// Characters of the widest cell, or of the heading.
    width: usize,
    says_something: bool,
}

impl Column {
    fn is_nothing(&self, cell: &str) -> bool {
        cell == if self.align == Align::Count { "0" } else { "" }
    }
}

impl Layout {
    pub(super) fn new(columns: &[(&'static str, Align)]) -> Self {
        let column = |(place, &(heading, align)): (usize, &(&'static str, Align))| Column {
            heading,
            align,
            width: heading.chars().count(),
            says_something: place == 0,
        };
        Self(columns.iter().enumerate().map(column).collect())
    }

    /// The cells of a row as they are shown.
    pub(super) fn row<const N: usize>(&self, cells: [String; N]) -> Vec<String> {
        let shown = |(cell, column): (String, &Column)| match column.align {
            Align::Name => name(&cell),
            Align::Left | Align::Right | Align::Count => clean(&cell),
        };
        cells.into_iter().zip(&self.0).map(shown).collect()
    }

    /// Makes room for a row.
    pub(super) fn see(&mut self, row: &[String]) {
        for (column, cell) in self.0.iter_mut().zip(row) {
            column.width = column.width.max(cell.chars().count());
            column.says_something |= !column.is_nothing(cell);
        }
    }

    fn shown<'a>(&'a self, row: &'a [String]) -> impl Iterator<Item = (&'a Column, &'a str)> {
        self.0.iter().zip(row.iter().map(String::as_str)).filter(|(column, _)| column.says_something)
    }

    fn fits_into(&self, width: usize) -> bool {
        let shown = self.0.iter().filter(|column| column.says_something);
        shown.map(|column| column.width + BETWEEN).sum::<usize>().saturating_sub(BETWEEN) <= width
    }

    /// The heading; nothing where rows are blocks.
    pub(super) fn write_heading(&self, out: &mut dyn io::Write, width: usize) -> io::Result<()> {
        let headings: Vec<_> = self.0.iter().map(|column| column.heading.to_owned()).collect();
        if self.fits_into(width) { self.write_line(out, &headings) } else { Ok(()) }
    }

    /// A row that was seen: a line, or a block where lines do not fit into `width`.
    pub(super) fn write_row(&self, out: &mut dyn io::Write, width: usize, row: &[String]) -> io::Result<()> {
        if self.fits_into(width) { self.write_line(out, row) } else { self.write_block(out, width, row) }
    }

    fn write_line(&self, out: &mut dyn io::Write, row: &[String]) -> io::Result<()> {
        let mut line = String::new();
        for (Column { align, width, .. }, cell) in self.shown(row) {
            // Writing to a String cannot fail.
            let _ = match align {
                Align::Left | Align::Name => write!(line, "{cell:width$}  "),
                Align::Right | Align::Count => write!(line, "{cell:>width$}  "),
            };
        }
        writeln!(out, "{}", line.trim_end())
    }

    /// The first column as a title, the others below it with their headings, as many on a line as fit. A value that is
    /// wider than a line is not broken, but for a note: it may be a path to copy.
    fn write_block(&self, out: &mut dyn io::Write, width: usize, row: &[String]) -> io::Result<()> {
        let mut cells = self.shown(row);
        let mut block = String::new();
        if let Some((_, title)) = cells.next() {
            block.extend((title.chars().count() > width).then_some(WHOLE));
            block.push_str(title);
        }
        let mut room = 0;
        for (column, cell) in cells.filter(|(column, cell)| !column.is_nothing(cell) && !["", "-"].contains(cell)) {
            let part = format!("{} {cell}", column.heading.to_lowercase());
            let len = part.chars().count() + BETWEEN;
            if len > room {
                block.push('\n');
                block.extend((len > width && column.heading != "NOTE").then_some(WHOLE));
                room = width;
            }
            room = room.saturating_sub(len);
            let _ = write!(block, "{:BETWEEN$}{part}", "");
        }
        writeln!(out, "{block}")
    }
}

/// A table of few rows.
#[derive(Debug)]
pub(super) struct Table {
    layout: Layout,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { layout: Layout::new(columns), rows: Vec::new() }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        let row = self.layout.row(cells);
        self.layout.see(&row);
        self.rows.push(row);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The heading and the rows. Nothing where there is no row.
    pub(super) fn render(&self, width: usize) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        in_memory(|out| {
            self.layout.write_heading(out, width)?;
            self.rows.iter().try_for_each(|row| self.layout.write_row(out, width, row))
        })
    }
}

/// What is written, as text.
pub(super) fn in_memory(write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> String {
    let mut out = Vec::new();
    // Writing to memory cannot fail.
    let _ = write(&mut out);
    String::from_utf8_lossy(&out).into_owned()
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
    // Most cells are of these alone, and there may be millions of them.
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return text.to_owned();
    }
    // Of a character that can be seen comes itself, or a backslash and itself.
    let has_form = |c: char| !c.is_control() && c.escape_debug().len() <= 2;
    text.chars().map(|c| if has_form(c) { c } else { '\u{fffd}' }).collect()
}

/// Likewise of several lines.
pub fn clean_lines(text: &str) -> String {
    text.lines().map(clean).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::fold;
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
        table.row(["host1".into(), "192.0.2.1".into(), "0".into(), "/srv/a long/path".into()]);
        table.row(["host2".into(), "-".into(), "7".into(), "/b".into()]);
        let blocks = "host1\n  address 192.0.2.1\n  file /srv/a long/path\nhost2\n  kept 7  file /b\n";
        assert_eq!(fold(&table.render(20), 20), blocks);
        assert!(table.render(60).starts_with("NAME "), "it fits");

        let mut table = Table::new(&[("FILE", Align::Left), ("NOTE", Align::Left)]);
        table.row(["/srv/a long/path/of a file".into(), "waited for by host7 and host8".into()]);
        let block = "/srv/a long/path/of a file\n  note waited for by\n  host7 and host8\n";
        assert_eq!(fold(&table.render(20), 20), block);
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
