//! The exported directory as the nfs3_server crate wants it. Everything runs as the server's own
//! user: the crate gives a call's credential to no operation, so this is no server for people who do
//! not trust each other.

use std::fs::{self, DirBuilder, File, FileTimes, Metadata, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nfs3_server::nfs3_types::nfs3::{
    Nfs3Option, createverf3, fattr3, filename3, ftype3, nfspath3, nfsstat3, nfstime3, sattr3, set_atime, set_mtime,
    specdata3, stable_how,
};
use nfs3_server::vfs::{DirEntryPlus, NextResult, NfsFileSystem, NfsReadFileSystem, ReadDirPlusIterator};

use crate::export::{Export, Handle, stat};

/// Longest read.
const READ_MAX: u32 = 1 << 20;

type Outcome<T> = Result<T, nfsstat3>;

/// The file system that the crate serves.
#[derive(Debug, Clone)]
pub(crate) struct Vfs {
    export: Arc<Export>,
    root: Handle,
}

impl Vfs {
    pub(crate) fn new(export: Arc<Export>) -> std::io::Result<Self> {
        let root = export.root()?;
        Ok(Self { export, root })
    }

    /// Disks may be slow; the tasks that serve the sockets must not wait for them.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Export) -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        let export = self.export.clone();
        tokio::task::spawn_blocking(move || work(&export)).await.unwrap_or(Err(nfsstat3::NFS3ERR_SERVERFAULT))
    }
}

impl NfsReadFileSystem for Vfs {
    type Handle = Handle;

    fn root_dir(&self) -> Handle {
        self.root
    }

    async fn lookup(&self, dirid: &Handle, filename: &filename3<'_>) -> Outcome<Handle> {
        let (folder, name) = (*dirid, filename.0.to_vec());
        self.on_disk(move |export| Ok(export.at(export.child(folder, &name)?)?.0)).await
    }

    async fn getattr(&self, id: &Handle) -> Outcome<fattr3> {
        let handle = *id;
        self.on_disk(move |export| Ok(attributes(&export.find(handle)?.1))).await
    }

    async fn read(&self, id: &Handle, offset: u64, count: u32) -> Outcome<(Vec<u8>, bool)> {
        let handle = *id;
        self.on_disk(move |export| {
            let file = export.open_file(handle, false)?;
            let mut bytes = vec![0; count.min(READ_MAX) as usize];
            let mut read = 0;
            while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
                match file.read_at(rest, offset.saturating_add(read as u64)).map_err(stat)? {
                    0 => break,
                    more => read += more,
                }
            }
            bytes.truncate(read);
            let end = offset.saturating_add(read as u64);
            Ok((bytes, end >= file.metadata().map_err(stat)?.len()))
        })
        .await
    }

    async fn readdirplus(&self, dirid: &Handle, cookie: u64) -> Outcome<impl ReadDirPlusIterator<Handle>> {
        let folder = *dirid;
        let entries = self.on_disk(move |export| entries(export, folder)).await?;
        Ok(Entries(entries.into_iter().skip_while(move |entry| entry.cookie <= cookie).collect::<Vec<_>>().into_iter()))
    }

    async fn readlink(&self, id: &Handle) -> Outcome<nfspath3<'_>> {
        let handle = *id;
        self.on_disk(move |export| {
            let (path, _) = export.find(handle)?;
            Ok(path.read_link().map_err(stat)?.into_os_string().into_vec().into())
        })
        .await
    }
}

impl NfsFileSystem for Vfs {
    async fn setattr(&self, id: &Handle, setattr: sattr3) -> Outcome<fattr3> {
        let handle = *id;
        self.on_disk(move |export| {
            let (path, metadata) = export.find(handle)?;
            if !metadata.is_symlink() {
                let resize = matches!(setattr.size, Nfs3Option::Some(_));
                let file = if resize { export.open_file(handle, true)? } else { export.open(handle, false)? };
                set_attributes(&file, &setattr)?;
            }
            Ok(attributes(&path.symlink_metadata().map_err(stat)?))
        })
        .await
    }

    /// Always to the disk: the crate's write verifier would not tell a client that this machine has
    /// lost what was only in memory.
    async fn write(&self, id: &Handle, offset: u64, data: &[u8], _stable: stable_how) -> Outcome<(fattr3, stable_how)> {
        let (handle, data) = (*id, data.to_vec());
        self.on_disk(move |export| {
            let file = export.open_file(handle, true)?;
            file.write_all_at(&data, offset).map_err(stat)?;
            file.sync_data().map_err(stat)?;
            Ok((attributes(&file.metadata().map_err(stat)?), stable_how::FILE_SYNC))
        })
        .await
    }

    async fn create(&self, dirid: &Handle, filename: &filename3<'_>, attr: sattr3) -> Outcome<(Handle, fattr3)> {
        let (folder, name) = (*dirid, filename.0.to_vec());
        self.on_disk(move |export| {
            let path = export.own_child(folder, &name)?;
            let mode = if let Nfs3Option::Some(mode) = attr.mode { mode } else { 0o644 };
            let new = OpenOptions::new().write(true).create_new(true).mode(mode & 0o7777).open(&path);
            let file = match new {
                Ok(file) => file,
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    let (handle, _) = export.at(path.clone())?;
                    export.open_file(handle, true)?
                }
                Err(error) => return Err(stat(error)),
            };
            set_attributes(&file, &attr)?;
            let (handle, metadata) = export.at(path)?;
            Ok((handle, attributes(&metadata)))
        })
        .await
    }

    /// The verifier is kept in the times of the file, which the client sets right afterwards; so a
    /// repeated call finds its own file also after a restart.
    async fn create_exclusive(
        &self,
        dirid: &Handle,
        filename: &filename3<'_>,
        createverf: createverf3,
    ) -> Outcome<Handle> {
        let (folder, name) = (*dirid, filename.0.to_vec());
        self.on_disk(move |export| {
            let path = export.own_child(folder, &name)?;
            let (accessed, modified) = verifier_times(createverf);
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => {
                    file.set_times(FileTimes::new().set_accessed(accessed).set_modified(modified)).map_err(stat)?;
                    Ok(export.at(path)?.0)
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    let (handle, metadata) = export.at(path)?;
                    let same = metadata.accessed().is_ok_and(|at| at == accessed)
                        && metadata.modified().is_ok_and(|at| at == modified);
                    if same { Ok(handle) } else { Err(nfsstat3::NFS3ERR_EXIST) }
                }
                Err(error) => Err(stat(error)),
            }
        })
        .await
    }

    async fn mkdir(&self, dirid: &Handle, dirname: &filename3<'_>) -> Outcome<(Handle, fattr3)> {
        let (folder, name) = (*dirid, dirname.0.to_vec());
        self.on_disk(move |export| {
            let path = export.own_child(folder, &name)?;
            DirBuilder::new().mode(0o777).create(&path).map_err(stat)?;
            let (handle, metadata) = export.at(path)?;
            Ok((handle, attributes(&metadata)))
        })
        .await
    }

    /// REMOVE and RMDIR: the crate does not say which.
    async fn remove(&self, dirid: &Handle, filename: &filename3<'_>) -> Outcome<()> {
        let (folder, name) = (*dirid, filename.0.to_vec());
        self.on_disk(move |export| {
            let path = export.own_child(folder, &name)?;
            let is_folder = path.symlink_metadata().map_err(stat)?.is_dir();
            if is_folder { fs::remove_dir(path) } else { fs::remove_file(path) }.map_err(stat)
        })
        .await
    }

    async fn rename<'a>(
        &self,
        from_dirid: &Handle,
        from_filename: &filename3<'a>,
        to_dirid: &Handle,
        to_filename: &filename3<'a>,
    ) -> Outcome<()> {
        let from = (*from_dirid, from_filename.0.to_vec());
        let to = (*to_dirid, to_filename.0.to_vec());
        self.on_disk(move |export| {
            let to = export.own_child(to.0, &to.1)?;
            fs::rename(export.own_child(from.0, &from.1)?, &to).map_err(|error| match stat(error) {
                // RFC 1813 section 3.3.14.
                nfsstat3::NFS3ERR_NOTEMPTY | nfsstat3::NFS3ERR_ISDIR => nfsstat3::NFS3ERR_EXIST,
                other => other,
            })?;
            export.at(to).map(drop)
        })
        .await
    }

    async fn symlink<'a>(
        &self,
        dirid: &Handle,
        linkname: &filename3<'a>,
        symlink: &nfspath3<'a>,
        _attr: &sattr3,
    ) -> Outcome<(Handle, fattr3)> {
        let (folder, name) = (*dirid, linkname.0.to_vec());
        let target = PathBuf::from(std::ffi::OsString::from_vec(symlink.0.to_vec()));
        self.on_disk(move |export| {
            let path = export.own_child(folder, &name)?;
            std::os::unix::fs::symlink(target, &path).map_err(stat)?;
            let (handle, metadata) = export.at(path)?;
            Ok((handle, attributes(&metadata)))
        })
        .await
    }

    /// What was written is on the disk already.
    async fn commit(&self, id: &Handle, _offset: u64, _count: u32) -> Outcome<()> {
        let handle = *id;
        self.on_disk(move |export| export.find(handle).map(drop)).await
    }
}

fn time(at: std::io::Result<SystemTime>) -> nfstime3 {
    at.ok().and_then(|at| nfstime3::try_from(at).ok()).unwrap_or_default()
}

/// RFC 1813 section 2.6, `fattr3`.
fn attributes(metadata: &Metadata) -> fattr3 {
    let kind = metadata.file_type();
    let type_ = match kind {
        _ if kind.is_dir() => ftype3::NF3DIR,
        _ if kind.is_symlink() => ftype3::NF3LNK,
        _ if kind.is_fifo() => ftype3::NF3FIFO,
        _ if kind.is_socket() => ftype3::NF3SOCK,
        _ if kind.is_block_device() => ftype3::NF3BLK,
        _ if kind.is_char_device() => ftype3::NF3CHR,
        _ => ftype3::NF3REG,
    };
    let changed = UNIX_EPOCH
        + Duration::new(
            u64::try_from(metadata.ctime()).unwrap_or_default(),
            u32::try_from(metadata.ctime_nsec()).unwrap_or_default(),
        );
    fattr3 {
        type_,
        mode: metadata.mode() & 0o7777,
        nlink: u32::try_from(metadata.nlink()).unwrap_or(u32::MAX),
        uid: metadata.uid(),
        gid: metadata.gid(),
        size: metadata.len(),
        used: metadata.blocks() * 512,
        rdev: specdata3::default(),
        fsid: metadata.dev(),
        fileid: metadata.ino(),
        atime: time(metadata.accessed()),
        mtime: time(metadata.modified()),
        ctime: time(Ok(changed)),
    }
}

fn set_attributes(file: &File, wanted: &sattr3) -> Outcome<()> {
    let owner = |id: &Nfs3Option<u32>| if let Nfs3Option::Some(id) = id { Some(*id) } else { None };
    let (uid, gid) = (owner(&wanted.uid), owner(&wanted.gid));
    if uid.is_some() || gid.is_some() {
        std::os::unix::fs::fchown(file, uid, gid).map_err(stat)?;
    }
    if let Nfs3Option::Some(mode) = wanted.mode {
        file.set_permissions(fs::Permissions::from_mode(mode & 0o7777)).map_err(stat)?;
    }
    if let Nfs3Option::Some(size) = wanted.size {
        file.set_len(size).map_err(stat)?;
    }
    let times = FileTimes::new();
    let times = match wanted.atime {
        set_atime::DONT_CHANGE => times,
        set_atime::SET_TO_SERVER_TIME => times.set_accessed(SystemTime::now()),
        set_atime::SET_TO_CLIENT_TIME(at) => times.set_accessed(at.into()),
    };
    let times = match wanted.mtime {
        set_mtime::DONT_CHANGE => times,
        set_mtime::SET_TO_SERVER_TIME => times.set_modified(SystemTime::now()),
        set_mtime::SET_TO_CLIENT_TIME(at) => times.set_modified(at.into()),
    };
    file.set_times(times).map_err(stat)
}

/// 31 bits in each time: what every file system can keep.
fn verifier_times(verifier: createverf3) -> (SystemTime, SystemTime) {
    let bits = u64::from_be_bytes(verifier.0);
    let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds & 0x7fff_ffff);
    (at(bits >> 32), at(bits))
}

/// A folder's entries in the order of their cookies. A cookie is made of the name alone, so that it
/// means the same place whatever else comes and goes.
fn entries(export: &Export, folder: Handle) -> Outcome<Vec<DirEntryPlus<Handle>>> {
    let path = export.folder(folder)?;
    let mut entries = Vec::new();
    for (cookie, name) in [(1, &b"."[..]), (2, b"..")] {
        entries.extend(entry(export, export.child(folder, name)?, name, cookie));
    }
    for found in path.read_dir().map_err(stat)?.flatten() {
        let name = found.file_name();
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        // Some clients take cookies for signed numbers.
        let cookie = (hasher.finish() >> 1).max(3);
        entries.extend(entry(export, found.path(), name.as_bytes(), cookie));
    }
    entries.sort_by_key(|entry| entry.cookie);
    Ok(entries)
}

/// None: it is gone by now, or not exported.
fn entry(export: &Export, path: PathBuf, name: &[u8], cookie: u64) -> Option<DirEntryPlus<Handle>> {
    let (handle, metadata) = export.at(path).ok()?;
    Some(DirEntryPlus {
        fileid: metadata.ino(),
        name: name.to_vec().into(),
        cookie,
        name_attributes: Some(attributes(&metadata)),
        name_handle: Some(handle),
    })
}

struct Entries(std::vec::IntoIter<DirEntryPlus<Handle>>);

impl ReadDirPlusIterator<Handle> for Entries {
    async fn next(&mut self) -> NextResult<DirEntryPlus<Handle>> {
        self.0.next().map_or(NextResult::Eof, NextResult::Ok)
    }
}
