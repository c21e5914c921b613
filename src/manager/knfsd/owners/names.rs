//! Paths of open files, as the kernel itself makes them (`d_path`): from name to parent, and across mounts.
//!
//! A rename may come between two reads. So a directory entry is read again after its name, and counts if it is the same.

use std::collections::HashMap;

use super::error::Unsettled;
use super::layout::NameLayout;
use super::reader::{Reader, number};
use crate::host::Field;

/// Folders and mounts on the way up: a list that changes cannot lead in a circle. Of a deeper place the path is not known.
const MAX_DEPTH: usize = 256;
/// NAME_MAX of linux/limits.h. A longer one is no name: the memory was reused.
const MAX_NAME: u64 = 255;
/// PATH_MAX of linux/limits.h. A longer path is shown as one that is not known.
const MAX_PATH: usize = 4096;

/// A directory entry under a mount.
type Place = (u64, u64);

/// Paths that were read in this pass, of folders.
#[derive(Debug)]
pub(super) struct Names<'a> {
    reader: Reader<'a>,
    known: HashMap<Place, Option<Vec<u8>>>,
}

impl<'a> Names<'a> {
    pub(super) fn new(reader: Reader<'a>) -> Self {
        Self { reader, known: HashMap::new() }
    }

    /// The path of an open file, if it has one, and whether it was removed.
    pub(super) fn path(&mut self, dentry: u64, mount: u64) -> Result<(Option<Vec<u8>>, bool), Unsettled> {
        let hashed = self.reader.number_at(dentry, self.layout().hashed)?;
        let path = self.find((dentry, mount), MAX_DEPTH)?;
        Ok((path.filter(|path| !path.is_empty()), hashed == 0))
    }

    /// The path of a place; the empty one is the root of all.
    fn find(&mut self, place: Place, depth: usize) -> Result<Option<Vec<u8>>, Unsettled> {
        if let Some(known) = self.known.get(&place) {
            return Ok(known.clone());
        }
        let Some(depth) = depth.checked_sub(1) else { return Ok(None) };
        let path = match self.up(place)? {
            Up::Root => Some(Vec::new()),
            Up::Nowhere => None,
            Up::Mount(point) => self.find(point, depth)?,
            Up::Folder(folder, name) => self.find(folder, depth)?.map(|mut path| {
                path.push(b'/');
                path.extend_from_slice(&name);
                path
            }),
        };
        let path = path.filter(|path| path.len() < MAX_PATH);
        self.known.insert(place, path.clone());
        Ok(path)
    }

    fn up(&self, (dentry, mount): Place) -> Result<Up, Unsettled> {
        let (reader, layout) = (self.reader, self.layout());
        if reader.number_at(mount, layout.root)? == dentry {
            let whole = mount.wrapping_sub(layout.inner.offset() as u64);
            if reader.number_at(whole, layout.namespace)? == 0 {
                return Ok(Up::Nowhere);
            }
            let above = reader.number_at(whole, layout.above)?;
            if above == whole {
                return Ok(Up::Root);
            }
            let point = reader.number_at(whole, layout.point)?;
            return Ok(Up::Mount((point, above.wrapping_add(layout.inner.offset() as u64))));
        }
        let fields = |record: &[u8]| -> Result<[u64; 3], Unsettled> {
            let of = |field: Field| number(record, field);
            Ok([of(layout.parent)?, of(layout.name)?, of(layout.length)?])
        };
        let before = fields(&reader.record(dentry, layout.size)?)?;
        let [parent, name, length] = before;
        if parent == dentry {
            return Ok(Up::Nowhere);
        }
        let length = usize::try_from(length).ok().filter(|_| (1..=MAX_NAME).contains(&length));
        let name = reader.record(name, length.ok_or(Unsettled::Changed("a name is too long or empty"))?)?;
        if fields(&reader.record(dentry, layout.size)?)? != before || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
            return Err(Unsettled::Changed("a file was renamed"));
        }
        Ok(Up::Folder((parent, mount), name))
    }

    fn layout(&self) -> &'a NameLayout {
        &self.reader.layout.name
    }
}

/// What is above a place.
enum Up {
    /// Nothing: it is the root of all.
    Root,
    /// Nothing that is known: it was opened by its handle, or its mount is gone.
    Nowhere,
    /// It is the root of what is mounted there.
    Mount(Place),
    /// A folder, in which it has this name.
    Folder(Place, Vec<u8>),
}
