//! The blocked requests that the last release served on its files, until all files are swept and checked.

use std::collections::BTreeSet;

use super::segment::FileId;

#[derive(Debug)]
pub(super) struct Releasing {
    number: u64,
    /// Those that are not looked at yet.
    files: BTreeSet<FileId>,
    offered: u64,
}

impl Releasing {
    pub(super) fn new(number: u64, files: BTreeSet<FileId>) -> Self {
        Self { number, files, offered: 0 }
    }

    /// Tells it from other releases.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// A blocked request was served on that file.
    pub(super) fn served(&mut self, file: FileId) {
        self.offered += u64::from(self.files.contains(&file));
    }

    /// Looks at so many more files. Whether nobody is to be served on any.
    pub(super) fn is_over(&mut self, most: usize, any_woken_in: impl Fn(FileId) -> bool) -> bool {
        for _ in 0..most {
            match self.files.first() {
                Some(file) if any_woken_in(*file) => return false,
                Some(_) => self.files.pop_first(),
                None => return true,
            };
        }
        self.files.is_empty()
    }

    pub(super) fn offered(&self) -> u64 {
        self.offered
    }
}
