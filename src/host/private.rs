//! Folders and files that no other user can change, and files of folders that belong to one.
//!
//! Theory. What nlmd and nlmctl keep decides which locks they drop, and they often run as root. In a folder
//! in which other users can write, a user could plant a link where a file is to be written, or a file where one
//! is to be read; and a lock file that they can open, they can lock, and so stop every run. So such a folder
//! is refused, no link is followed to a file, and each file is its owner's alone, with any umask.
//!
//! rpc.statd's folder belongs to statd's user, who may put links in it and swap what is there at any moment. Work in
//! such a folder goes through descriptors: the folder is opened without following a link ([`Folder`]), files are
//! reached through it, and what is looked at, is what is open.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

const OF_OTHERS: u32 = 0o077;
/// The rights by which others than its owner may write.
pub(super) const WRITE_OF_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Makes a folder (mode 0700) if it is missing, and checks it as [`check_folder`] does.
pub fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    check_folder(path)
}

/// Refuses a folder that another user owns (root excepted) or can write in.
///
/// # Errors
/// `PermissionDenied`, with words that say what to do; those of the file system.
pub fn check_folder(path: &Path) -> io::Result<()> {
    let meta = fs::metadata(path)?;
    if !meta.is_dir() {
        return Err(ErrorKind::NotADirectory.into());
    }
    owned(&meta)?;
    if meta.mode() & WRITE_OF_OTHERS != 0 {
        let mode = meta.mode() & 0o7777;
        // A sticky folder, such as /tmp, is meant to be everybody's.
        let is_shared = mode & STICKY != 0 || meta.uid() != nix::unistd::geteuid().as_raw();
        let remedy = if is_shared { String::new() } else { format!(": chmod go-w {}", path.display()) };
        return Err(refused(format!("other users can write in it (mode {mode:04o}){remedy}")));
    }
    Ok(())
}

/// Makes a file (mode 0600) if it is missing, in a folder that was checked; takes other users' rights from one
/// that is there. It is not opened: to close a descriptor of an SQLite database would drop SQLite's locks.
///
/// # Errors
/// `PermissionDenied` for a link, for what is no file, and for a file of another user (root excepted).
pub fn private_file(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        made => return made.map(drop),
    }
    let meta = fs::symlink_metadata(path)?;
    if meta.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    if !meta.is_file() {
        return Err(refused("it is a link or no regular file: name the file itself".to_owned()));
    }
    owned(&meta)?;
    if meta.mode() & OF_OTHERS != 0 && meta.uid() == nix::unistd::geteuid().as_raw() {
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
    }
    Ok(())
}

/// Takes a file's OS lock, which ends with the process however that ends; none if another one has it.
/// The file is made as [`private_file`] makes it, and stays: to remove it would race with a process that has just opened it.
pub fn try_lock(path: &Path) -> io::Result<Option<File>> {
    private_file(path)?;
    let file = OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_NOFOLLOW).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// A folder that may belong to another user. It stays the same one, also if its path leads elsewhere by then.
#[derive(Debug)]
pub struct Folder(File);

impl Folder {
    /// Opens it. A link in the last part of the path is not followed.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = nix::libc::O_DIRECTORY | nix::libc::O_NOFOLLOW;
        Ok(Self(OpenOptions::new().read(true).custom_flags(flags).open(path)?))
    }
    /// A path that leads to this folder, as long as it is open, and to nothing else.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
    pub fn file(&self) -> &File {
        &self.0
    }
    /// Refuses it where others than `users` could have put something into it, or in the place of what is in it.
    ///
    /// # Errors
    /// `PermissionDenied`, with words.
    pub fn check_strictly(&self, users: &[u32]) -> io::Result<()> {
        let meta = self.0.metadata()?;
        if meta.mode() & WRITE_OF_OTHERS != 0 {
            return Err(refused(format!("other users can write in it (mode {:04o})", meta.mode() & 0o7777)));
        }
        check_owner(&meta, users)
    }
    /// The same, for a folder whose files are looked at one by one: in a sticky one each is its owner's.
    ///
    /// # Errors
    /// As above.
    pub fn check(&self, users: &[u32]) -> io::Result<()> {
        let meta = self.0.metadata()?;
        if meta.mode() & STICKY == 0 { self.check_strictly(users) } else { check_owner(&meta, users) }
    }
}

/// Refuses what belongs to another user than these.
pub(super) fn check_owner(meta: &fs::Metadata, users: &[u32]) -> io::Result<()> {
    if users.contains(&meta.uid()) {
        return Ok(());
    }
    Err(refused(format!("it belongs to user {}, who is neither root nor rpc.statd's user", meta.uid())))
}

/// Opens a file to read it: no link, and nothing that could block, is opened.
///
/// # Errors
/// The errors of the file system; `InvalidInput` if it is not a regular file.
pub fn open_plain(path: &Path) -> io::Result<File> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(ErrorKind::InvalidInput.into()) }
}

/// Root, and the user that this process runs as.
pub(super) fn trusted_users() -> Vec<u32> {
    vec![0, nix::unistd::geteuid().as_raw()]
}

fn owned(meta: &fs::Metadata) -> io::Result<()> {
    let (owner, own) = (meta.uid(), nix::unistd::geteuid().as_raw());
    if owner == own || owner == 0 {
        return Ok(());
    }
    Err(refused(format!("it belongs to user {owner}, and this process runs as user {own}: use one of that user's own")))
}

fn refused(what: String) -> io::Error {
    io::Error::new(ErrorKind::PermissionDenied, what)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_folder_and_its_files_are_made_for_their_owner_alone() {
        let home = tempfile::tempdir().unwrap();
        let (folder, file) = (home.path().join("a/b"), home.path().join("a/b/file"));
        private_folder(&folder).unwrap();
        private_file(&file).unwrap();
        assert_eq!((mode(&folder), mode(&file)), (0o700, 0o600));
        let lock = try_lock(&home.path().join("lock")).unwrap();
        assert!(lock.is_some() && mode(&home.path().join("lock")) == 0o600);
    }

    #[test]
    fn a_folder_that_others_can_write_in_is_refused_and_one_that_they_can_read_is_not() {
        let home = tempfile::tempdir().unwrap();
        for (bits, fine) in [(0o700, true), (0o755, true), (0o775, false), (0o757, false), (0o1777, false)] {
            fs::set_permissions(home.path(), Permissions::from_mode(bits)).unwrap();
            let checked = private_folder(home.path());
            assert_eq!(checked.is_ok(), fine, "{bits:o}");
            let Err(error) = checked else { continue };
            assert_eq!(
                error.to_string().contains("chmod go-w"),
                bits != 0o1777,
                "nobody is to take /tmp from all users"
            );
        }
    }

    #[test]
    fn a_file_that_others_can_read_becomes_its_owners_alone() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("runs.db");
        for bits in [0o644, 0o666, 0o640, 0o600] {
            fs::write(&file, "kept").unwrap();
            fs::set_permissions(&file, Permissions::from_mode(bits)).unwrap();
            private_file(&file).unwrap();
            assert_eq!(mode(&file), 0o600);
        }
        assert_eq!(fs::read_to_string(file).unwrap(), "kept");
    }

    #[test]
    fn no_link_is_followed_and_nothing_but_a_file_is_taken() {
        let home = tempfile::tempdir().unwrap();
        let (precious, link) = (home.path().join("precious"), home.path().join("link"));
        fs::write(&precious, "precious").unwrap();
        symlink(&precious, &link).unwrap();
        let dangling = home.path().join("dangling");
        symlink(home.path().join("planted"), &dangling).unwrap();
        for path in [link.as_path(), dangling.as_path(), home.path()] {
            assert!(private_file(path).is_err());
            assert!(try_lock(path).is_err());
        }
        assert!(!home.path().join("planted").exists());
        assert_eq!(fs::read_to_string(precious).unwrap(), "precious");
    }

    #[test]
    fn a_folder_is_the_one_that_was_opened_whatever_takes_its_place() {
        let home = tempfile::tempdir().unwrap();
        let (sm, trap) = (home.path().join("sm"), home.path().join("trap"));
        fs::create_dir(&sm).unwrap();
        fs::create_dir(&trap).unwrap();
        let folder = Folder::open(&sm).unwrap();
        fs::rename(&sm, home.path().join("moved")).unwrap();
        symlink(&trap, &sm).unwrap();
        fs::write(folder.path().join("record"), "mine").unwrap();
        assert_eq!(fs::read_to_string(home.path().join("moved/record")).unwrap(), "mine");
        assert_eq!(fs::read_dir(&trap).unwrap().count(), 0);
        assert!(Folder::open(&sm).is_err(), "a link in its place is not followed");
    }

    #[test]
    fn a_folder_of_a_stranger_or_one_that_everybody_writes_in_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let own = nix::unistd::geteuid().as_raw();
        for (bits, users, fine) in
            [(0o755, own, true), (0o1777, own, true), (0o775, own, false), (0o757, own, false), (0o700, own + 1, false)]
        {
            fs::set_permissions(home.path(), Permissions::from_mode(bits)).unwrap();
            assert_eq!(Folder::open(home.path()).unwrap().check(&[users]).is_ok(), fine, "{bits:o} {users}");
            let strictly = Folder::open(home.path()).unwrap().check_strictly(&[users]);
            assert_eq!(strictly.is_ok(), fine && bits != 0o1777, "{bits:o} {users}");
        }
    }

    #[test]
    fn a_lock_is_one_holders_at_a_time() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("lock");
        let first = try_lock(&path).unwrap();
        assert!(first.is_some() && try_lock(&path).unwrap().is_none());
        drop(first);
        assert!(try_lock(&path).unwrap().is_some());
    }
}
