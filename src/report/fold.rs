//! Lines folded to the width of a terminal, between words. What stands in backquotes is a command to copy, and stays whole; so
//! does a line that begins with [`WHOLE`].

use std::io::{self, Write};

/// It takes no column, and is not shown. No text of others has it: [`clean`](super::table::clean) takes it out.
pub(super) const WHOLE: char = '\u{2060}';

/// A word of a command to copy, in quotes if a shell would read it as something else.
pub(super) fn shell_word(text: &str) -> String {
    if !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || "/._-+:@%,=".contains(c)) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Columns that it takes: the escape sequences of colors take none.
fn columns(text: &str) -> usize {
    let mut hidden = false;
    let shown = |c: &char| {
        hidden |= *c == '\u{1b}';
        let is_shown = !hidden;
        hidden &= *c != 'm';
        is_shown
    };
    text.chars().filter(shown).count()
}

/// Where the rest of a line begins below it: behind its marker, or at its last column, as in `  grace         none`. Of a line
/// without either, deeper than the remedy that may come below.
fn hang(line: &str, width: usize) -> usize {
    let half: String = line.chars().take(width / 2).collect();
    let (start, rest) = half.rsplit_once("  ").map_or((0, half.as_str()), |(head, rest)| (columns(head) + 2, rest));
    let marker = ["- ", "-> "].into_iter().find(|marker| rest.starts_with(marker)).map_or(0, str::len);
    if start + marker == 0 { 4 } else { start + marker }
}

fn fold_line(line: &str, width: usize, out: &mut String) {
    let hang = hang(line, width);
    let mut is_quoted = false;
    let words = line.split(|c: char| {
        is_quoted ^= c == '`';
        c == ' ' && !is_quoted
    });
    let (mut used, mut blanks) = (0, 0);
    for word in words {
        if word.is_empty() {
            blanks += 1;
            continue;
        }
        if used > 0 && used + blanks + columns(word) > width {
            out.push('\n');
            (used, blanks) = (0, hang);
        }
        out.extend(std::iter::repeat_n(' ', blanks));
        out.push_str(word);
        used += blanks + columns(word);
        blanks = 1;
    }
}

/// Each line that is too wide as several ones.
pub fn fold(text: &str, width: usize) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let (bare, end) = line.strip_suffix('\n').map_or((line, ""), |bare| (bare, "\n"));
        if let Some(whole) = bare.strip_prefix(WHOLE) {
            out.push_str(whole);
        } else if columns(bare) > width {
            fold_line(bare, width, &mut out);
        } else {
            out.push_str(bare);
        }
        out.push_str(end);
    }
    out
}

/// Folds what is written through it, a line at a time: there may be a million.
pub struct Folding<'a> {
    to: &'a mut dyn Write,
    width: usize,
    line: Vec<u8>,
}

impl<'a> Folding<'a> {
    pub fn new(to: &'a mut dyn Write, width: usize) -> Self {
        Self { to, width, line: Vec::new() }
    }
}

impl Write for Folding<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.flush()?;
            }
        }
        Ok(bytes.len())
    }
    /// What is there of a line counts as one.
    fn flush(&mut self) -> io::Result<()> {
        let line = std::mem::take(&mut self.line);
        // A line with so few bytes has no more columns.
        if line.len() <= self.width {
            return self.to.write_all(&line);
        }
        self.to.write_all(fold(&String::from_utf8_lossy(&line), self.width).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_wide_goes_on_below_its_text() {
        for (line, folded) in [
            ("short\n", "short\n"),
            ("nlmctl: it is not there, or gone\n", "nlmctl: it is not\n    there, or gone\n"),
            ("  start one of them, or name it\n", "  start one of them,\n  or name it\n"),
            ("  - release 3 locks of c1 now", "  - release 3 locks\n    of c1 now"),
            ("note  x  seen here and there too", "note  x  seen here\n         and there\n         too"),
            ("    -> do this and that", "    -> do this and\n       that"),
            ("run `nlmctl abort --json x` or wait", "run\n    `nlmctl abort --json x`\n    or wait"),
            ("\u{2060}  file /a/path with/a blank\nx", "  file /a/path with/a blank\nx"),
            ("run `x --db '/a b/c d/e f'`", "run\n    `x --db '/a b/c d/e f'`"),
            ("/a/path/that/is/wider/than/all x", "/a/path/that/is/wider/than/all\n    x"),
            ("\u{1b}[1m\u{1b}[31merror:\u{1b}[0m of 18 columns", "\u{1b}[1m\u{1b}[31merror:\u{1b}[0m of 18 columns"),
        ] {
            assert_eq!(fold(line, 20), folded);
            let mut out = Vec::new();
            let mut folding = Folding::new(&mut out, 20);
            for byte in line.as_bytes() {
                folding.write_all(&[*byte]).unwrap();
            }
            folding.flush().unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), folded);
        }
        assert_eq!(fold("any width\n", usize::MAX), "any width\n");
    }

    #[test]
    fn a_shell_reads_a_word_as_it_was_written() {
        for (word, written) in
            [("/srv/ä.db", "/srv/ä.db"), ("/a b", "'/a b'"), ("it's $x", r"'it'\''s $x'"), ("", "''")]
        {
            assert_eq!(shell_word(word), written);
        }
    }
}
