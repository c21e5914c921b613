//! NFS-Ganesha inside a namespace, with a system bus, rpcbind and rpc.statd of its own.

use std::ops::{Deref, DerefMut};
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::unistd::User;

use super::process::{Process, tool};
use super::{NOTHING, Netns, until};

/// What it exports, with FSAL VFS: a tmpfs, whose locks are as those of any local file system.
pub const EXPORT: &str = "/run/export";

/// Ganesha, and what it needs.
#[derive(Debug)]
pub struct Ganesha {
    process: Process,
    /// rpc.statd, which it tells of each client's first and last lock.
    pub statd: Process,
    _rpcbind: Process,
    _bus: Process,
}

impl Deref for Ganesha {
    type Target = Process;
    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Ganesha {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Ganesha {
    /// Where its NLM is, over UDP and TCP.
    pub const NLM_PORT: u16 = 32_803;

    /// Starts all of it, with a grace period of so many seconds, and waits until it serves and its
    /// first grace is over.
    pub fn start(host: &Netns, grace: u32) -> Self {
        Self::start_as(host, grace, tool("ganesha.nfsd"))
    }

    /// Likewise, and to who looks at its process it has FSAL CEPH loaded too, whose locks nothing lists.
    pub fn start_with_unlisted_locks(host: &Netns, grace: u32) -> Self {
        // Any library will do: it is told by its name.
        let libraries = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"];
        let library =
            libraries.iter().map(|folder| format!("{folder}/libm.so.6")).find(|path| Path::new(path).exists());
        std::fs::copy(library.expect("libm"), host.run_dir().join("libfsalceph.so")).unwrap();
        let mut command = tool("ganesha.nfsd");
        command.env("LD_PRELOAD", "/run/libfsalceph.so");
        Self::start_as(host, grace, command)
    }

    fn start_as(host: &Netns, grace: u32, command: Command) -> Self {
        let bus_dir = host.run_dir().join("dbus");
        std::fs::create_dir(&bus_dir).unwrap();
        let user = User::from_name("messagebus").unwrap().expect("a user messagebus: install dbus");
        chown(&bus_dir, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        for folder in ["export", "ganesha"] {
            std::fs::create_dir(host.run_dir().join(folder)).unwrap();
        }
        std::fs::create_dir(host.var_lib_nfs().join("ganesha")).unwrap();
        host.inside(|| mount(Some("none"), EXPORT, Some("tmpfs"), MsFlags::empty(), NOTHING).unwrap());

        let mut bus = tool("dbus-daemon");
        bus.args(["--system", "--nofork", "--nopidfile", "--nosyslog"]);
        let bus = host.start(bus);
        until("the system bus is there", || bus_dir.join("system_bus_socket").exists());
        let (rpcbind, statd) = (host.rpcbind(&[]), host.statd(&[]));

        let config = host.run_dir().join("ganesha.conf");
        let modules = ["/usr/lib/x86_64-linux-gnu/ganesha", "/usr/lib/aarch64-linux-gnu/ganesha", "/usr/lib/ganesha"];
        let modules = modules.iter().find(|folder| Path::new(folder).join("libfsalvfs.so").exists());
        let modules = modules.expect("FSAL VFS: install nfs-ganesha-vfs");
        let text = format!(
            "NFS_CORE_PARAM {{ Protocols = 3,4; Enable_RQUOTA = false; Plugins_Dir = {modules}; MNT_Port = 20048; \
             NLM_Port = {port}; }}\n\
             NFSV4 {{ Grace_Period = {grace}; Lease_Lifetime = 60; }}\n\
             EXPORT {{ Export_Id = 1; Path = {EXPORT}; Pseudo = /export; Access_Type = RW; Squash = No_Root_Squash; \
             SecType = sys; Protocols = 3,4; Transports = TCP,UDP; FSAL {{ Name = VFS; }} }}\n",
            port = Self::NLM_PORT
        );
        std::fs::write(&config, text).unwrap();
        let mut process = Self::serve(host, command);
        process.says("NOT IN GRACE");
        Self { process, statd, _rpcbind: rpcbind, _bus: bus }
    }

    /// Starts it again after it has ended, and waits until it serves, in its grace.
    pub fn start_again(&mut self, host: &Netns) {
        self.process = Self::serve(host, tool("ganesha.nfsd"));
    }

    fn serve(host: &Netns, mut command: Command) -> Process {
        command.args([
            "-F",
            "-N",
            "NIV_EVENT",
            "-L",
            "/dev/stderr",
            "-p",
            "/run/ganesha/pid",
            "-f",
            "/run/ganesha.conf",
        ]);
        let mut process = host.start(command);
        process.says("NFS SERVER INITIALIZED");
        process
    }
}
