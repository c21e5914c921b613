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

    /// Takes the first slice out, if it is full.
    pub(super) fn take_slice(&mut self) -> Option<Vec<LockFate>> {
        let is_full = self.0.front().is_some_and(|slice| slice.len() == SLICE);
        if is_full { self.0.pop_front().map(Arc::unwrap_or_clone) } else { None }
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
