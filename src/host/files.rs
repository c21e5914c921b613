//! The machine's files, below a root; and files that are replaced durably.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::statvfs::statvfs;
use tempfile::NamedTempFile;

use super::netlink::{Kernel, Netlink};

/// Longest file that is read, in bytes: a `/proc/locks` of a million locks. What is beyond is not read, and counts as not
/// there.
pub(super) const MAX_FILE: u64 = 128 << 20;

/// A disk with less room than this, in bytes, is full.
const LEAST_ROOM: u64 = 1 << 20;

/// A file of the machine cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read, written or used in another way.
    #[error("cannot {0} {path}: {2}", path = .1.display())]
    Io(&'static str, PathBuf, #[source] io::Error),
    /// It has something in it that this version does not understand.
    #[error("{path} is not as expected: {1}", path = .0.display())]
    Odd(PathBuf, String),
}

impl FileError {
    /// Of a file that was to be read.
    pub fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io("read", path.into(), source)
    }
    /// Of a file that was to be written.
    pub fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io("write", path.into(), source)
    }
    /// Whether there is no such file, or no longer: ESRCH is a process that ended while its files
    /// were read.
    pub fn is_missing(&self) -> bool {
        let Self::Io(.., error) = self else { return false };
        error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ESRCH)
    }
}

#[derive(Debug, Clone)]
pub struct Machine {
    root: PathBuf,
    netlink: Option<Arc<dyn Netlink>>,
}

impl Default for Machine {
    fn default() -> Self {
        Self::at("/").answered_by(Arc::new(Kernel))
    }
}

impl Machine {
    /// Below `root`, with a kernel that knows no netlink.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), netlink: None }
    }
    /// The same, with a stand-in that answers netlink.
    #[must_use]
    pub fn answered_by(self, netlink: Arc<dyn Netlink>) -> Self {
        Self { netlink: Some(netlink), ..self }
    }
    pub(super) fn netlink(&self) -> Option<&dyn Netlink> {
        self.netlink.as_deref()
    }
    /// A file, by its path without the leading slash.
    pub fn path(&self, file: &str) -> PathBuf {
        self.root.join(file)
    }
    /// The text of a file; bytes that are no UTF-8 become `U+FFFD`.
    pub fn read(&self, file: &str) -> Result<String, FileError> {
        let path = self.path(file);
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|opened| opened.take(MAX_FILE).read_to_end(&mut bytes))
            .map_err(FileError::read(&path))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
    /// The text without what is around it: some of the kernel's files end in a zero byte.
    pub fn word(&self, file: &str) -> Result<String, FileError> {
        Ok(self.read(file)?.trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned())
    }
    pub fn number<T: std::str::FromStr>(&self, file: &str) -> Result<T, FileError> {
        let word = self.word(file)?;
        word.parse().map_err(|_| FileError::Odd(self.path(file), format!("{word:?} is not a number")))
    }
    /// Writes in one call, which is what the kernel's files want.
    pub fn write(&self, file: &str, text: &str) -> Result<(), FileError> {
        let path = self.path(file);
        let mut opened = OpenOptions::new().write(true).open(&path).map_err(FileError::write(&path))?;
        let written = opened.write(text.as_bytes()).map_err(FileError::write(&path))?;
        if written < text.len() {
            return Err(FileError::write(&path)(io::Error::from(io::ErrorKind::WriteZero)));
        }
        Ok(())
    }
    /// What is in a folder, by its name.
    pub fn list(&self, folder: &str) -> Result<Vec<String>, FileError> {
        let path = self.path(folder);
        let entries = fs::read_dir(&path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let entries = entries.map_err(FileError::read(&path))?;
        Ok(entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
    }
}

#[cfg(test)]
impl Machine {
    /// A machine of these files, which go with the folder.
    pub(crate) fn fake(files: &[(&str, &str)]) -> (tempfile::TempDir, Self) {
        let root = tempfile::tempdir().unwrap();
        let machine = Self::at(root.path());
        for (file, text) in files {
            machine.lay(file, text);
        }
        (root, machine)
    }
    /// Lays a file there; the folders on the way are made.
    pub(crate) fn lay(&self, file: &str, content: impl AsRef<[u8]>) {
        let path = self.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

/// Replaces a file whole and durably: a new file beside it, synced, renamed over it, and the folder
/// synced. It stays its owner's, with its mode, since rpc.statd does not run as root; `mode` is that of
/// a file that was not there. What a link leads to counts for nothing: the owner of the folder may have made it.
/// The folder must be there.
///
/// # Errors
/// The errors of the file system; the old file is still there then.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = folder_of(path);
    // A dotfile: neither statd nor sm-notify take one for a record.
    let draft = draft_in(folder, ".")?;
    draft.as_file().write_all(bytes)?;
    match fs::symlink_metadata(path) {
        Ok(old) if old.is_file() => {
            draft.as_file().set_permissions(Permissions::from_mode(old.mode() & 0o777))?;
            fchown(draft.as_file(), Some(old.uid()), Some(old.gid()))?;
        }
        Ok(_) | Err(_) => draft.as_file().set_permissions(Permissions::from_mode(mode))?,
    }
    draft.as_file().sync_all()?;
    draft.persist(path)?;
    File::open(folder)?.sync_all()
}

/// A new file in a folder, removed unless it is kept. Its name begins so; no error names it, also if it is written as a file.
pub fn draft_in(folder: &Path, prefix: &str) -> io::Result<NamedTempFile> {
    let make = |path: &Path| OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
    tempfile::Builder::new().prefix(prefix).make_in(folder, make)
}

/// Whether there is no room to speak of on the disk of a file.
pub fn is_full(path: &Path) -> bool {
    statvfs(folder_of(path)).is_ok_and(|room| room.blocks_available() * room.fragment_size() < LEAST_ROOM)
}

/// The folder that a file is in. A bare name has an empty parent, which is no path that can be opened.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The file itself, behind links, or where there will be one. `None`: there is something else, a device say, which must stay.
pub fn replaceable(path: &Path) -> io::Result<Option<PathBuf>> {
    match path.canonicalize() {
        Ok(real) => Ok(real.metadata()?.is_file().then_some(real)),
        // A link to nothing is no file.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok((!path.is_symlink()).then(|| path.to_owned())),
        Err(e) => Err(e),
    }
}

/// What is in a file, if it is there.
pub fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// Removes a file; one that is not there is as good as removed.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_file_name_is_in_the_current_folder() {
        let folder = |path| folder_of(Path::new(path)).to_str();
        assert_eq!([folder("ports.json"), folder("a/b"), folder("/b")], [Some("."), Some("a"), Some("/")]);
        let name = tempfile::Builder::new().prefix("nlmctl-bare").tempfile_in(".").unwrap();
        let bare = Path::new(name.path().file_name().unwrap());
        replace(bare, b"new", 0o600).unwrap();
        assert_eq!(fs::read(bare).unwrap(), b"new");
    }

    #[test]
    fn a_draft_that_cannot_be_made_is_not_named_and_a_file_system_without_blocks_is_full() {
        let folder = tempfile::tempdir().unwrap();
        let error = replace(&folder.path().join("not/there"), b"", 0o600).unwrap_err();
        assert_eq!((error.kind(), error.raw_os_error().is_some()), (io::ErrorKind::NotFound, true), "{error}");
        assert_eq!(draft_in(folder.path(), ".").unwrap().as_file().metadata().unwrap().mode() & 0o777, 0o600);
        assert!(is_full(Path::new("/proc/runs.db")) && !is_full(&folder.path().join("runs.db")));
    }

    #[test]
    fn a_file_is_replaced_also_behind_a_link_and_nothing_else_is() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().canonicalize().unwrap().join(name);
        fs::write(at("file"), "before").unwrap();
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for (link, to) in [("link", "file"), ("to-pipe", "pipe"), ("dangling", "nowhere")] {
            symlink(to, at(link)).unwrap();
        }
        for (name, place) in [("file", "file"), ("link", "file"), ("new", "new")] {
            assert_eq!(replaceable(&at(name)).unwrap(), Some(at(place)), "{name}");
        }
        for name in ["pipe", "to-pipe", "dangling", "."] {
            assert_eq!(replaceable(&at(name)).unwrap(), None, "{name}");
        }
        assert_eq!(replaceable(Path::new("/dev/null")).unwrap(), None);
    }
}
