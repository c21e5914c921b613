//! The layout of lockd's records, as far as they are read. BTF is asked by the names of members, with the names that
//! kernels have had for them; the version of a kernel is never asked.

use super::error::OwnersError;
use crate::host::{Btf, Field, Type};

/// A list's link in a record: the next one, and back to where this one is pointed at from. Chains of hash tables and lists
/// are alike in this.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    pub(super) next: Field,
    pub(super) back: Field,
}

/// A client's way to lockd (`nlm_host`).
#[derive(Debug)]
pub(super) struct HostLayout {
    pub(super) size: usize,
    pub(super) link: Link,
    pub(super) address: Field,
    pub(super) server: Field,
    pub(super) name: Field,
    pub(super) version: Field,
    pub(super) protocol: Field,
    pub(super) is_server: Field,
    pub(super) nsm_state: Field,
    pub(super) nsm: Field,
    pub(super) net: Field,
    /// In `nsm_handle`.
    pub(super) monitored: Field,
    /// In `nsm_handle`.
    pub(super) mon_name: Field,
    /// In `net`.
    pub(super) net_inode: Field,
}

/// A file that lockd has open (`nlm_file`), down to its inode.
#[derive(Debug)]
pub(super) struct FileLayout {
    pub(super) size: usize,
    pub(super) link: Link,
    pub(super) handle_size: Field,
    pub(super) handle: Field,
    /// One pointer, or one each for reading and writing.
    pub(super) opened: Field,
    /// The first blocked request.
    pub(super) blocks: Field,
    /// In `file`.
    pub(super) inode: Field,
    /// In `file`.
    pub(super) dentry: Field,
    /// In `file`.
    pub(super) mount: Field,
    /// In `inode`.
    pub(super) context: Field,
    /// In `inode`.
    pub(super) superblock: Field,
    /// In `inode`.
    pub(super) number: Field,
    /// In `super_block`.
    pub(super) device: Field,
    /// In `file_lock_context`: the first lock.
    pub(super) locks: Field,
}

/// A lock (`file_lock`), and its owner (`nlm_lockowner`).
#[derive(Debug)]
pub(super) struct LockLayout {
    pub(super) size: usize,
    pub(super) link: Link,
    pub(super) kind: Field,
    pub(super) start: Field,
    pub(super) end: Field,
    pub(super) owner: Field,
    pub(super) opened: Field,
    pub(super) operations: Field,
    pub(super) owner_size: usize,
    pub(super) owner_host: Field,
    pub(super) owner_svid: Field,
}

/// A blocked request (`nlm_block`) and its call (`nlm_rqst`).
#[derive(Debug)]
pub(super) struct BlockLayout {
    pub(super) size: usize,
    pub(super) link: Link,
    /// Its link in the queue of all; it leads to itself where the request is not in it.
    pub(super) queued: Field,
    pub(super) call: Field,
    pub(super) host: Field,
    pub(super) file: Field,
    pub(super) granted: Field,
    pub(super) call_size: usize,
    pub(super) svid: Field,
    pub(super) oh_size: Field,
    pub(super) oh: Field,
    pub(super) cookie_size: Field,
    pub(super) cookie: Field,
    pub(super) kind: Field,
    pub(super) start: Field,
    pub(super) end: Field,
}

/// A share reservation (`nlm_share`).
#[derive(Debug)]
pub(super) struct ShareLayout {
    /// The first one, in `nlm_file`.
    pub(super) first: Field,
    pub(super) size: usize,
    pub(super) next: Field,
    pub(super) host: Field,
    pub(super) file: Field,
    pub(super) oh_size: Field,
    pub(super) oh: Field,
    pub(super) access: Field,
    pub(super) mode: Field,
}

/// Names of files (`dentry`, `vfsmount`, `mount`).
#[derive(Debug)]
pub(super) struct NameLayout {
    pub(super) size: usize,
    pub(super) parent: Field,
    pub(super) name: Field,
    pub(super) length: Field,
    pub(super) hashed: Field,
    /// In `vfsmount`.
    pub(super) root: Field,
    /// A `vfsmount` in its `mount`.
    pub(super) inner: Field,
    /// In `mount`.
    pub(super) above: Field,
    /// In `mount`.
    pub(super) point: Field,
    /// In `mount`.
    pub(super) namespace: Field,
}

#[derive(Debug)]
pub(super) struct Layout {
    pub(super) host: HostLayout,
    pub(super) file: FileLayout,
    pub(super) lock: LockLayout,
    pub(super) block: BlockLayout,
    /// None where lockd has no shares.
    pub(super) share: Option<ShareLayout>,
    pub(super) name: NameLayout,
}

impl Layout {
    pub(super) fn of(btf: &Btf) -> Result<Self, OwnersError> {
        let host = Record::named(btf, "nlm_host", &["h_hash", "h_addr"])?;
        let file = Record::named(btf, "nlm_file", &["f_list", "f_handle"])?;
        let lock = Record::named(btf, "file_lock", &["fl_start", "fl_lmops"])?;
        let owner = Record::named(btf, "nlm_lockowner", &["host", "pid"])?;
        let block = Record::named(btf, "nlm_block", &["b_call", "b_granted"])?;
        Ok(Self {
            host: hosts(&host)?,
            share: shares(&file)?,
            name: names(btf, &file)?,
            file: files(&file)?,
            block: blocks(&block, &lock)?,
            lock: locks(&lock, &owner)?,
        })
    }
}

fn hosts(host: &Record<'_>) -> Result<HostLayout, OwnersError> {
    let (nsm, net) = (host.behind("h_nsmhandle")?, host.behind("net")?);
    Ok(HostLayout {
        size: host.size()?,
        link: host.link("h_hash", "pprev")?,
        address: host.array("h_addr", SOCKET_ADDRESS)?,
        server: host.array("h_srcaddr", SOCKET_ADDRESS)?,
        name: host.pointer(&["h_name"])?,
        version: host.number(&["h_version"])?,
        protocol: host.number(&["h_proto"])?,
        is_server: host.number(&["h_server"])?,
        nsm_state: host.number(&["h_nsmstate"])?,
        nsm: host.pointer(&["h_nsmhandle"])?,
        net: host.pointer(&["net"])?,
        monitored: nsm.number(&["sm_monitored"])?,
        mon_name: nsm.pointer(&["sm_mon_name"])?,
        net_inode: net.number(&["ns.inum"])?,
    })
}

fn files(file: &Record<'_>) -> Result<FileLayout, OwnersError> {
    let opened = file.opened()?;
    let inode = opened.behind("f_inode")?;
    let (superblock, context) = (inode.behind("i_sb")?, inode.behind("i_flctx")?);
    Ok(FileLayout {
        size: file.size()?,
        link: file.link("f_list", "pprev")?,
        handle_size: file.number(&["f_handle.size"])?,
        handle: file.array("f_handle.data", 1)?,
        opened: file.array("f_file", size_of::<u64>())?,
        blocks: file.pointer(&["f_blocks.next"])?,
        inode: opened.pointer(&["f_inode"])?,
        dentry: opened.pointer(&["f_path.dentry"])?,
        mount: opened.pointer(&["f_path.mnt"])?,
        context: inode.pointer(&["i_flctx"])?,
        superblock: inode.pointer(&["i_sb"])?,
        number: inode.number(&["i_ino"])?,
        device: superblock.number(&["s_dev"])?,
        locks: context.pointer(&["flc_posix.next"])?,
    })
}

fn locks(lock: &Record<'_>, owner: &Record<'_>) -> Result<LockLayout, OwnersError> {
    let link = lock.link("fl_list", "prev").or_else(|_| lock.link("c.flc_list", "prev"))?;
    Ok(LockLayout {
        size: lock.size()?,
        link,
        kind: lock.number(LOCK_KIND)?,
        start: lock.number(&["fl_start"])?,
        end: lock.number(&["fl_end"])?,
        owner: lock.pointer(&["fl_owner", "c.flc_owner"])?,
        opened: lock.pointer(&["fl_file", "c.flc_file"])?,
        operations: lock.pointer(&["fl_lmops"])?,
        owner_size: owner.size()?,
        owner_host: owner.pointer(&["host"])?,
        owner_svid: owner.number(&["pid"])?,
    })
}

fn blocks(block: &Record<'_>, lock: &Record<'_>) -> Result<BlockLayout, OwnersError> {
    let call = block.behind("b_call")?;
    let asked = call.field(&["a_args.lock.fl"])?;
    let in_call = |names: &[&str]| -> Result<Field, OwnersError> { Ok(lock.number(names)?.moved(asked.offset())) };
    Ok(BlockLayout {
        size: block.size()?,
        link: block.link("b_flist", "prev")?,
        queued: block.pointer(&["b_list.next"])?,
        call: block.pointer(&["b_call"])?,
        host: block.pointer(&["b_host"])?,
        file: block.pointer(&["b_file"])?,
        granted: block.number(&["b_granted"])?,
        call_size: call.size()?,
        svid: call.number(&["a_args.lock.svid"])?,
        oh_size: call.number(&["a_args.lock.oh.len"])?,
        oh: call.pointer(&["a_args.lock.oh.data"])?,
        cookie_size: call.number(&["a_args.cookie.len"])?,
        cookie: call.array("a_args.cookie.data", 1)?,
        kind: in_call(LOCK_KIND)?,
        start: in_call(&["fl_start"])?,
        end: in_call(&["fl_end"])?,
    })
}

fn shares(file: &Record<'_>) -> Result<Option<ShareLayout>, OwnersError> {
    let Ok(first) = file.pointer(&["f_shares"]) else { return Ok(None) };
    let share = file.behind("f_shares")?;
    Ok(Some(ShareLayout {
        first,
        size: share.size()?,
        next: share.pointer(&["s_next"])?,
        host: share.pointer(&["s_host"])?,
        file: share.pointer(&["s_file"])?,
        oh_size: share.number(&["s_owner.len"])?,
        oh: share.pointer(&["s_owner.data"])?,
        access: share.number(&["s_access"])?,
        mode: share.number(&["s_mode"])?,
    }))
}

fn names(btf: &Btf, file: &Record<'_>) -> Result<NameLayout, OwnersError> {
    let opened = file.opened()?;
    let (dentry, inner) = (opened.behind("f_path.dentry")?, opened.behind("f_path.mnt")?);
    let mount = Record::named(btf, "mount", &["mnt_parent", "mnt_mountpoint", "mnt"])?;
    Ok(NameLayout {
        size: dentry.size()?,
        parent: dentry.pointer(&["d_parent"])?,
        name: dentry.pointer(&["d_name.name"])?,
        length: dentry.number(&["d_name.len"])?,
        hashed: dentry.pointer(&["d_hash.pprev"])?,
        root: inner.pointer(&["mnt_root"])?,
        inner: mount.field(&["mnt"])?,
        above: mount.pointer(&["mnt_parent"])?,
        point: mount.pointer(&["mnt_mountpoint"])?,
        namespace: mount.pointer(&["mnt_ns"])?,
    })
}

/// Linux 6.9 moved what all kinds of locks have into a structure of its own.
const LOCK_KIND: &[&str] = &["fl_type", "c.flc_type"];
/// `sockaddr_storage`; an IPv6 one with its interface takes 28 bytes of it.
const SOCKET_ADDRESS: usize = 128;

/// A kind of record, with its name for messages.
struct Record<'a> {
    btf: &'a Btf,
    ty: Type,
    name: String,
}

impl<'a> Record<'a> {
    fn named(btf: &'a Btf, name: &str, members: &[&str]) -> Result<Self, OwnersError> {
        let missing = || OwnersError::Layout(format!("no struct {name} with {}", members.join(" and ")));
        Ok(Self { btf, ty: btf.structure(name, members).ok_or_else(missing)?, name: name.to_owned() })
    }
    fn missing(&self, what: &str) -> OwnersError {
        OwnersError::Layout(format!("no {what} in {}", self.name))
    }
    fn size(&self) -> Result<usize, OwnersError> {
        self.btf.size(self.ty).ok_or_else(|| self.missing("size"))
    }
    /// A member, by the first of these paths that leads to one.
    fn field(&self, paths: &[&str]) -> Result<Field, OwnersError> {
        let found = paths.iter().find_map(|path| self.btf.field(self.ty, path));
        found.ok_or_else(|| self.missing(&paths.join(" or ")))
    }
    fn number(&self, paths: &[&str]) -> Result<Field, OwnersError> {
        let field = self.field(paths)?;
        if matches!(field.size(), 1 | 2 | 4 | 8) { Ok(field) } else { Err(self.missing(&format!("number {paths:?}"))) }
    }
    fn pointer(&self, paths: &[&str]) -> Result<Field, OwnersError> {
        let field = self.field(paths)?;
        if field.size() == size_of::<u64>() { Ok(field) } else { Err(self.missing(&format!("pointer {paths:?}"))) }
    }
    /// Bytes, in a number that can be divided by `step`.
    fn array(&self, path: &str, step: usize) -> Result<Field, OwnersError> {
        let field = self.field(&[path])?;
        let fits = field.size() > 0 && field.size().is_multiple_of(step);
        if fits { Ok(field) } else { Err(self.missing(&format!("array {path}"))) }
    }
    fn link(&self, path: &str, back: &str) -> Result<Link, OwnersError> {
        let part = |name: &str| self.pointer(&[&format!("{path}.{name}")]);
        Ok(Link { next: part("next")?, back: part(back)? })
    }
    /// What a member points to.
    fn behind(&self, path: &str) -> Result<Self, OwnersError> {
        self.behind_type(self.field(&[path])?.ty(), path)
    }
    fn behind_type(&self, pointer: Type, path: &str) -> Result<Self, OwnersError> {
        let missing = || self.missing(&format!("type behind {path}"));
        Ok(Self {
            btf: self.btf,
            ty: self.btf.behind(pointer).ok_or_else(missing)?,
            name: format!("what {path} leads to"),
        })
    }
    /// The kernel's open file, of a `nlm_file`.
    fn opened(&self) -> Result<Self, OwnersError> {
        let ty = self.field(&["f_file"])?.ty();
        self.behind_type(self.btf.element(ty).unwrap_or(ty), "f_file")
    }
}
