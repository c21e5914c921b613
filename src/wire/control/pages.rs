//! Listings that come in pages.

use crate::wire::xdr::{List, XdrCodec};

/// Most rows in one page.
pub const PAGE: usize = 1024;

/// A page's start: 0, or the `next` of the page before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, XdrCodec)]
pub struct PageAfter {
    /// The cursor.
    pub after: u64,
}

/// The page after the cursor, of rows that are all at hand, and the cursor of the next one: the number
/// of rows before it, or 0.
pub fn page<T: Clone>(rows: &[T], after: u64) -> (List<T, PAGE>, u64) {
    let start = usize::try_from(after).unwrap_or(usize::MAX).min(rows.len());
    let rest = rows.get(start..).unwrap_or_default();
    let page = rest.get(..PAGE).unwrap_or(rest);
    let next = if page.len() < rest.len() { (start + page.len()) as u64 } else { 0 };
    (List::clipped(page.to_vec()), next)
}

/// A listing whose pages would never end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the pages of a listing do not go forward")]
pub struct PagesStandStill;

/// The cursor of the page that follows the one asked for with `after`; `None` after the last one.
pub fn next_page(after: u64, next: u64) -> Result<Option<u64>, PagesStandStill> {
    match next {
        0 => Ok(None),
        next if next > after => Ok(Some(next)),
        _ => Err(PagesStandStill),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_cover_everything_once() {
        let rows: Vec<usize> = (0..PAGE * 2 + 7).collect();
        let (mut seen, mut after) = (Vec::new(), 0);
        loop {
            let (rows, next) = page(&rows, after);
            seen.extend(rows.into_vec());
            match next_page(after, next).unwrap() {
                Some(next) => after = next,
                None => break,
            }
        }
        assert_eq!(seen, rows);
        assert_eq!(page(&rows, u64::MAX).1, 0);
    }
}
