//! A kernel made of files: types, names, memory with lockd's records in it, and what `/proc/locks` says.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::super::layout::{Layout, Link};
use crate::host::{Btf, Field, Machine, fake};

/// Where its memory is: lockd's tables first, then records as they are made.
pub(super) const BASE: u64 = 0xffff_8880_0000_0000;
const HOSTS: u64 = BASE;
const FILES: u64 = BASE + 8 * 32;
const OPERATIONS: u64 = FILES + 8 * 128;
const NETWORK: u64 = 4_026_531_840;

/// Names of members as one kernel or another has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// Linux 6.1.
    Old,
    /// Linux 6.9 and later: what all kinds of locks have is a structure of its own.
    New,
}

#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) root: tempfile::TempDir,
    pub(super) memory: Vec<u8>,
    pub(super) layout: Layout,
    net: u64,
    /// The mount of `/srv/x`, and its root.
    mount: u64,
    top: u64,
    shown: Vec<String>,
}

/// BTF of the kernel and of lockd; without the members called `missing`.
fn types(names: Names, missing: &str) -> (Vec<u8>, Vec<u8>) {
    let mut k = fake::Types::kernel();
    let (u8_, u16_, u32_, u64_) = (k.int("u8", 1), k.int("u16", 2), k.int("u32", 4), k.int("u64", 8));
    let void = k.pointer(0);
    // Members with their first byte; a type may be announced before it is told.
    let make = |k: &mut fake::Types, name: &str, size: u32, members: &[(&str, u32, u32)]| {
        let members: Vec<_> = members
            .iter()
            .filter(|(name, ..)| name.is_empty() || *name != missing)
            .map(|(name, ty, byte)| (*name, *ty, 8 * byte, 0))
            .collect();
        k.structure(name, size, &members)
    };
    let hash = make(&mut k, "hlist_node", 16, &[("next", void, 0), ("pprev", void, 8)]);
    let list = make(&mut k, "list_head", 16, &[("next", void, 0), ("prev", void, 8)]);
    let common = make(&mut k, "ns_common", 8, &[("inum", u32_, 4)]);
    let net = make(&mut k, "net", 64, &[("ns", common, 16)]);
    let superblock = make(&mut k, "super_block", 8, &[("s_dev", u32_, 4)]);
    let context = make(&mut k, "file_lock_context", 24, &[("flc_posix", list, 8)]);
    let (sb, ctx) = (k.pointer(superblock), k.pointer(context));
    let inode = make(&mut k, "inode", 24, &[("i_flctx", ctx, 0), ("i_sb", sb, 8), ("i_ino", u64_, 16)]);
    let length = make(&mut k, "", 8, &[("hash", u32_, 0), ("len", u32_, 4)]);
    let qstr = make(&mut k, "qstr", 16, &[("", length, 0), ("name", void, 8)]);
    let dentry = make(&mut k, "dentry", 40, &[("d_hash", hash, 0), ("d_parent", void, 16), ("d_name", qstr, 24)]);
    let inner = make(&mut k, "vfsmount", 8, &[("mnt_root", void, 0)]);
    let mount = [("mnt_parent", void, 0), ("mnt_mountpoint", void, 8), ("mnt", inner, 16), ("mnt_ns", void, 24)];
    make(&mut k, "mount", 32, &mount);
    let (to_inode, to_dentry, to_mount) = (k.pointer(inode), k.pointer(dentry), k.pointer(inner));
    let path = make(&mut k, "path", 16, &[("mnt", to_mount, 0), ("dentry", to_dentry, 8)]);
    let file = make(&mut k, "file", 24, &[("f_inode", to_inode, 0), ("f_path", path, 8)]);
    let family = make(&mut k, "sockaddr_storage", 128, &[("ss_family", u16_, 0)]);
    let range = [("fl_start", u64_, 40), ("fl_end", u64_, 48), ("fl_lmops", void, 56)];
    let lock = match names {
        Names::Old => {
            let whose = [("fl_list", list, 0), ("fl_owner", void, 16), ("fl_type", u8_, 24), ("fl_file", void, 32)];
            make(&mut k, "file_lock", 64, &[&whose[..], &range].concat())
        }
        Names::New => {
            let whose = [("flc_list", list, 0), ("flc_owner", void, 16), ("flc_type", u8_, 24), ("flc_file", void, 32)];
            let core = make(&mut k, "file_lock_core", 40, &whose);
            make(&mut k, "file_lock", 64, &[&[("c", core, 0)][..], &range].concat())
        }
    };
    let opened = k.pointer(file);
    let to_net = k.pointer(net);

    let mut m = k.module();
    let bytes = m.array(u8_, 128);
    let handle = make(&mut m, "nfs_fh", 130, &[("size", u16_, 0), ("data", bytes, 2)]);
    let nsm = m.structure("nsm_handle", 16, &[("sm_mon_name", void, 0, 0), ("sm_monitored", u32_, 64, 1)]);
    let to_nsm = m.pointer(nsm);
    let host = [
        ("h_hash", hash, 0, 0),
        ("h_addr", family, 8 * 16, 0),
        ("h_srcaddr", family, 8 * 144, 0),
        ("h_name", void, 8 * 272, 0),
        ("h_version", u32_, 8 * 280, 0),
        ("h_proto", u16_, 8 * 284, 0),
        ("h_server", u16_, 8 * 286, 1),
        ("h_nsmstate", u32_, 8 * 288, 0),
        ("h_nsmhandle", to_nsm, 8 * 296, 0),
        ("net", to_net, 8 * 304, 0),
    ];
    let host: Vec<_> = host.into_iter().filter(|member| member.0 != missing).collect();
    m.structure("nlm_host", 312, &host);
    let both = m.array(opened, 2);
    let netobj = make(&mut m, "xdr_netobj", 16, &[("len", u32_, 0), ("data", void, 8)]);
    let share = [
        ("s_next", void, 0),
        ("s_host", void, 8),
        ("s_file", void, 16),
        ("s_owner", netobj, 24),
        ("s_access", u32_, 40),
        ("s_mode", u32_, 44),
    ];
    let share = make(&mut m, "nlm_share", 48, &share);
    let shares = m.pointer(share);
    let file = [
        ("f_list", hash, 0),
        ("f_handle", handle, 16),
        ("f_file", both, 152),
        ("f_shares", shares, 168),
        ("f_blocks", list, 176),
    ];
    make(&mut m, "nlm_file", 192, &file);
    make(&mut m, "nlm_lockowner", 16, &[("host", void, 0), ("pid", u32_, 8)]);
    let asked = match names {
        Names::Old => "nlm_lock",
        Names::New => "lockd_lock",
    };
    let asked = make(&mut m, asked, 88, &[("fl", lock, 0), ("svid", u32_, 64), ("oh", netobj, 72)]);
    let data = m.array(u8_, 32);
    let cookie = make(&mut m, "nlm_cookie", 36, &[("data", data, 0), ("len", u32_, 32)]);
    let args = make(&mut m, "nlm_args", 128, &[("cookie", cookie, 0), ("lock", asked, 40)]);
    let call = make(&mut m, "nlm_rqst", 136, &[("a_args", args, 8)]);
    let call = m.pointer(call);
    let block = [
        ("b_list", list, 0),
        ("b_flist", list, 16),
        ("b_call", call, 32),
        ("b_host", void, 40),
        ("b_granted", u8_, 48),
        ("b_file", void, 56),
    ];
    make(&mut m, "nlm_block", 64, &block);
    (k.file(), m.file())
}

/// A lock or a request, as a test tells it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) svid: u32,
    pub(super) exclusive: bool,
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Kernel {
    /// One without clients or files. `/srv/x` is a mount in it.
    pub(super) fn new(names: Names) -> Self {
        let (kernel, module) = types(names, "");
        let mut btf = Btf::new(&kernel).unwrap();
        btf.add(&module).unwrap();
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        for folder in ["proc/self/ns", "proc/fs/lockd", "proc/187", "sys/kernel/btf", "sys/kernel/security"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        fs::write(at("sys/kernel/btf/vmlinux"), kernel).unwrap();
        fs::write(at("sys/kernel/btf/lockd"), module).unwrap();
        symlink("pid:[4026531836]", at("proc/self/ns/pid")).unwrap();
        symlink(format!("net:[{NETWORK}]"), at("proc/self/ns/net")).unwrap();
        fs::write(at("proc/187/comm"), "lockd\n").unwrap();
        fs::write(at("proc/187/stat"), "187 (lockd) S 2 0 0 0 -1 2097216 0 0 0 0 0 0 0 0 20 0 1 0 77 0 0\n").unwrap();
        let symbols = [(HOSTS, "nlm_server_hosts"), (FILES, "nlm_files"), (OPERATIONS, "nlmsvc_lock_operations")];
        let list = symbols.map(|(address, name)| format!("{address:016x} d {name}\t[lockd]\n")).concat();
        fs::write(at("proc/kallsyms"), list).unwrap();
        let mut kernel = Self {
            root,
            memory: vec![0; 8 * 32 + 8 * 128 + 64],
            layout: Layout::of(&btf).unwrap(),
            net: 0,
            mount: 0,
            top: 0,
            shown: Vec::new(),
        };
        kernel.net = kernel.make(64);
        kernel.put(kernel.net, kernel.layout.host.net_inode, NETWORK);
        let (below, root_of_all) = kernel.mount(None);
        let srv = kernel.entry(root_of_all, b"srv");
        let point = kernel.entry(srv, b"x");
        (kernel.mount, kernel.top) = kernel.mount(Some((below, point)));
        kernel
    }

    pub(super) fn machine(&self) -> Machine {
        Machine::at(self.root.path())
    }
    /// Without the members of this name, in all structures.
    pub(super) fn forget(&self, member: &str, names: Names) {
        let (kernel, module) = types(names, member);
        fs::write(self.root.path().join("sys/kernel/btf/vmlinux"), kernel).unwrap();
        fs::write(self.root.path().join("sys/kernel/btf/lockd"), module).unwrap();
    }
    /// Writes what can be read of it.
    pub(super) fn save(&self) {
        let at = |path: &str| self.root.path().join(path);
        save(&at("proc/kcore"), &fake::core(&[(BASE, self.memory.clone())]));
        save(&at("proc/locks"), self.shown.concat().as_bytes());
    }

    /// Room for a record.
    pub(super) fn make(&mut self, size: usize) -> u64 {
        let address = BASE + self.memory.len() as u64;
        self.memory.resize(self.memory.len() + size.next_multiple_of(8), 0);
        address
    }
    pub(super) fn write(&mut self, address: u64, bytes: &[u8]) {
        let at = usize::try_from(address - BASE).unwrap();
        self.memory[at..at + bytes.len()].copy_from_slice(bytes);
    }
    pub(super) fn put(&mut self, record: u64, field: Field, value: u64) {
        let at = record + field.offset() as u64;
        match field.size() {
            1 => self.write(at, &[u8::try_from(value).unwrap()]),
            2 => self.write(at, &u16::try_from(value).unwrap().to_ne_bytes()),
            4 => self.write(at, &u32::try_from(value).unwrap().to_ne_bytes()),
            _ => self.write(at, &value.to_ne_bytes()),
        }
    }
    pub(super) fn get(&self, address: u64) -> u64 {
        let at = usize::try_from(address - BASE).unwrap();
        u64::from_ne_bytes(self.memory[at..at + 8].try_into().unwrap())
    }
    fn text(&mut self, text: &[u8]) -> u64 {
        let address = self.make(text.len() + 1);
        self.write(address, text);
        address
    }
    /// Puts a record first in a list, of which `end` is the end.
    fn link(&mut self, head: u64, end: u64, record: u64, link: Link) {
        let node = record + link.next.offset() as u64;
        let next = if self.get(head) == 0 { end } else { self.get(head) };
        self.put(record, link.next, next);
        self.put(record, link.back, head);
        self.write(head, &node.to_ne_bytes());
        if next != end {
            self.write(next + 8, &node.to_ne_bytes());
        }
    }

    fn mount(&mut self, on: Option<(u64, u64)>) -> (u64, u64) {
        let layout = self.layout.name.inner.offset() as u64;
        let (whole, top) = (self.make(32), self.make(40));
        let (above, point) = on.map_or((whole, 0), |(mount, point)| (mount - layout, point));
        self.put(whole, self.layout.name.above, above);
        self.put(whole, self.layout.name.point, point);
        self.put(whole, self.layout.name.namespace, 1);
        self.put(whole + layout, self.layout.name.root, top);
        self.put(top, self.layout.name.parent, top);
        (whole + layout, top)
    }
    fn entry(&mut self, parent: u64, name: &[u8]) -> u64 {
        let (entry, text) = (self.make(40), self.text(name));
        self.put(entry, self.layout.name.parent, parent);
        self.put(entry, self.layout.name.name, text);
        self.put(entry, self.layout.name.length, name.len() as u64);
        self.put(entry, self.layout.name.hashed, 1);
        entry
    }

    /// A client that calls by TCP with version 4: its name, its address and the one it called.
    pub(super) fn host(&mut self, name: &str, client: &str, server: &str) -> u64 {
        let (record, nsm, text) = (self.make(312), self.make(16), self.text(name.as_bytes()));
        for (field, address) in [(self.layout.host.address, client), (self.layout.host.server, server)] {
            let at = record + field.offset() as u64;
            match address.parse().unwrap() {
                std::net::IpAddr::V4(v4) => {
                    self.write(at, &2_u16.to_ne_bytes());
                    self.write(at + 4, &v4.octets());
                }
                std::net::IpAddr::V6(v6) => {
                    self.write(at, &10_u16.to_ne_bytes());
                    self.write(at + 8, &v6.octets());
                }
            }
        }
        let layout = &self.layout.host;
        let (bit, monitored) = (layout.is_server.offset() as u64, layout.monitored.offset() as u64);
        let fields = [
            (layout.name, text),
            (layout.version, 4),
            (layout.protocol, 6),
            (layout.nsm, nsm),
            (layout.net, self.net),
            (layout.nsm_state, 7),
        ];
        let mon_name = layout.mon_name;
        for (field, value) in fields {
            self.put(record, field, value);
        }
        // The first bit of a byte, from either end.
        self.write(record + bit, &[0x81]);
        self.write(nsm + monitored, &[0x81]);
        self.put(nsm, mon_name, text);
        self.link(HOSTS + 8 * 3, 0, record, self.layout.host.link);
        record
    }

    /// A file `/srv/x/NAME`.
    pub(super) fn file(&mut self, name: &[u8], number: u64) -> u64 {
        let (record, opened, inode) = (self.make(192), self.make(24), self.make(24));
        let (superblock, context) = (self.make(8), self.make(24));
        let entry = self.entry(self.top, name);
        let layout = &self.layout.file;
        let blocks = record + layout.blocks.offset() as u64;
        let locks = context + layout.locks.offset() as u64;
        let at = record + layout.handle.offset() as u64;
        let fields = [
            (record, layout.handle_size, name.len() as u64),
            (record, layout.blocks, blocks),
            (opened, layout.inode, inode),
            (opened, layout.dentry, entry),
            (opened, layout.mount, self.mount),
            (inode, layout.context, context),
            (inode, layout.superblock, superblock),
            (inode, layout.number, number),
            (superblock, layout.device, 0x80_0011),
            (context, layout.locks, locks),
        ];
        // It is open for writing only.
        let second = record + layout.opened.offset() as u64 + 8;
        for (at, field, value) in fields {
            self.put(at, field, value);
        }
        self.write(at, name);
        self.write(second, &opened.to_ne_bytes());
        self.write(blocks + 8, &blocks.to_ne_bytes());
        self.write(locks + 8, &locks.to_ne_bytes());
        self.link(FILES + 8 * 5, 0, record, self.layout.file.link);
        record
    }
    pub(super) fn opened(&self, file: u64) -> u64 {
        self.get(file + self.layout.file.opened.offset() as u64 + 8)
    }
    /// The directory entry of a file.
    pub(super) fn dentry(&self, file: u64) -> u64 {
        self.get(self.opened(file) + self.layout.file.dentry.offset() as u64)
    }

    fn fill(&mut self, at: u64, asked: Asked) {
        let layout = &self.layout.lock;
        let fields = [(layout.kind, u64::from(asked.exclusive)), (layout.start, asked.start), (layout.end, asked.end)];
        for (field, value) in fields {
            self.put(at, field, value);
        }
    }
    /// A lock that a client holds, also in `/proc/locks`.
    pub(super) fn lock(&mut self, file: u64, host: u64, asked: Asked) -> u64 {
        let record = self.unlisted(file, host, asked);
        let inode = self.get(self.opened(file) + self.layout.file.inode.offset() as u64);
        let number = self.get(inode + self.layout.file.number.offset() as u64);
        let end = if asked.end == super::super::TO_THE_END { "EOF".to_owned() } else { asked.end.to_string() };
        let mode = if asked.exclusive { "WRITE" } else { "READ" };
        self.shown.push(format!("1: POSIX  ADVISORY  {mode} 187 08:11:{number} {} {end}\n", asked.start));
        record
    }
    /// A lock that is not in `/proc/locks`.
    pub(super) fn unlisted(&mut self, file: u64, host: u64, asked: Asked) -> u64 {
        let (record, owner) = (self.make(64), self.make(16));
        self.fill(record, asked);
        let opened = self.opened(file);
        let layout = &self.layout.lock;
        let (of_owner, of_host) = (layout.owner_svid, layout.owner_host);
        let fields = [(layout.owner, owner), (layout.operations, OPERATIONS), (layout.opened, opened)];
        for (field, value) in fields {
            self.put(record, field, value);
        }
        self.put(owner, of_owner, asked.svid.into());
        self.put(owner, of_host, host);
        let inode = self.get(opened + self.layout.file.inode.offset() as u64);
        let context = self.get(inode + self.layout.file.context.offset() as u64);
        let head = context + self.layout.file.locks.offset() as u64;
        self.link(head, head, record, self.layout.lock.link);
        record
    }
    pub(super) fn block(&mut self, file: u64, host: u64, asked: Asked, granted: bool) -> u64 {
        let (record, call, oh) = (self.make(64), self.make(136), self.text(b"owner"));
        let layout = &self.layout.block;
        let fields = [
            (record, layout.call, call),
            (record, layout.host, host),
            (record, layout.file, file),
            (record, layout.granted, u64::from(granted)),
            (record, layout.queued, BASE),
            (call, layout.svid, u64::from(asked.svid)),
            (call, layout.oh_size, 5),
            (call, layout.oh, oh),
            (call, layout.cookie_size, 4),
        ];
        let at = call + layout.kind.offset() as u64 - self.layout.lock.kind.offset() as u64;
        for (at, field, value) in fields {
            self.put(at, field, value);
        }
        self.fill(at, asked);
        let head = file + self.layout.file.blocks.offset() as u64;
        self.link(head, head, record, self.layout.block.link);
        record
    }
    pub(super) fn share(&mut self, file: u64, host: u64) -> u64 {
        let (record, oh) = (self.make(48), self.text(b"pc"));
        let layout = self.layout.share.as_ref().unwrap();
        let fields = [
            (file, layout.first, record),
            (record, layout.host, host),
            (record, layout.file, file),
            (record, layout.oh_size, 2),
            (record, layout.oh, oh),
            (record, layout.access, 3),
            (record, layout.mode, 1),
        ];
        for (at, field, value) in fields {
            self.put(at, field, value);
        }
        record
    }
}

fn save(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
}
