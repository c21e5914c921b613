//! Rows of a result, in slices: a list that grows is moved, and a long one takes long.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::wire::control::{LockFate, PAGE};

/// Rows in one slice.
const SLICE: usize = PAGE;

/// A clone shares what it can.
#[derive(Debug, Clone, Default)]
pub(super) struct Rows(VecDeque<Arc<Vec<LockFate>>>);

impl FromIterator<LockFate> for Rows {
    fn from_iter<I: IntoIterator<Item = LockFate>>(rows: I) -> Self {
        let mut slices = Self::default();
        rows.into_iter().for_each(|row| slices.push(row));
        slices
    }
}

impl Rows {
    pub(super) fn push(&mut self, row: LockFate) {
        match self.0.back_mut() {
            Some(slice) if slice.len() < SLICE => Arc::make_mut(slice).push(row),
            _ => {
                let mut slice = Vec::with_capacity(SLICE);
                slice.push(row);
                self.0.push_back(Arc::new(slice));
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|slice| slice.len()).sum()
    }

    /// Takes the first slices out, those that are full, if they are so many.
    pub(super) fn take_slices(&mut self, at_least: usize) -> Option<Vec<Vec<LockFate>>> {
        let full = self.0.iter().take_while(|slice| slice.len() == SLICE).count();
        (full >= at_least).then(|| self.0.drain(..full).map(Arc::unwrap_or_clone).collect())
    }

    /// From one on, those of its slice.
    pub(super) fn page(&self, mut after: usize) -> &[LockFate] {
        for slice in &self.0 {
            match slice.get(after..) {
                Some(rows) if !rows.is_empty() => return rows,
                Some(_) | None => after -= slice.len(),
            }
        }
        &[]
    }

    pub(super) fn into_rows(self) -> impl Iterator<Item = LockFate> {
        self.0.into_iter().flat_map(Arc::unwrap_or_clone)
    }
}
