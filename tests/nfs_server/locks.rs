//! The example NFSv3 server: locks over NLM, against each other and against local processes.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use nfs3_server::nfs3_types::nfs3::{REMOVE3args, nfs_fh3};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nlmctl::internals::rpc::{Request, Source, StreamClient};
use nlmctl::wire::nlm::{
    self, CancArgs, Holder, Lock, LockArgs, Message, Procedure, Res, Stat, TestArgs, TestReply, TestRes, UnlockArgs,
    Version,
};
use nlmctl::wire::rpc::Credential;
use nlmctl::wire::types::{ByteRange, CallerName, Cookie, FileHandle, NsmState, OwnerHandle, Svid};

use crate::harness::{Server, in_folder, said};
use crate::process::{LIMIT, until};

fn bytes(start: u64, end: u64) -> ByteRange {
    ByteRange { start, end }
}

/// A client host: an address, a name, one process.
struct Client {
    rpc: StreamClient,
    version: Version,
    name: CallerName,
}

impl Client {
    async fn new(server: &Server, host: u8, version: Version) -> Self {
        let to = SocketAddr::from(([127, 0, 0, 1], server.port("nlm_tcp")));
        let source = Source { ip: Some(IpAddr::from([127, 0, 0, host])), reserved: false };
        let rpc = StreamClient::connect_tcp(to, source, 4096, LIMIT).await.unwrap();
        Self { rpc, version, name: CallerName::new(&format!("client{host}")).unwrap() }
    }

    fn lock_of(&self, file: &nfs_fh3, range: ByteRange) -> Lock {
        let (fh, oh) = (FileHandle::new(&file.data).unwrap(), OwnerHandle::new(b"1@client").unwrap());
        Lock::new(self.name.clone(), fh, oh, Svid(1), range)
    }

    async fn call(&self, procedure: Procedure, args: impl Message) -> Vec<u8> {
        let args = args.encode(self.version).unwrap();
        let request = Request {
            program: nlm::PROGRAM,
            version: self.version.number(),
            procedure: procedure.number(),
            credential: &Credential::root("client"),
            args: &args,
        };
        self.rpc.call(request, LIMIT).await.unwrap()
    }

    async fn stat(&self, procedure: Procedure, args: impl Message) -> Stat {
        Res::decode(self.version, &self.call(procedure, args).await).unwrap().stat
    }

    async fn ask(&self, file: &nfs_fh3, range: ByteRange, exclusive: bool, block: bool, reclaim: bool) -> Stat {
        let (cookie, alock) = (Cookie::new(b"c").unwrap(), self.lock_of(file, range));
        self.stat(Procedure::Lock, LockArgs { cookie, block, exclusive, alock, reclaim, state: NsmState(3) }).await
    }
    async fn lock(&self, file: &nfs_fh3, range: ByteRange) -> Stat {
        self.ask(file, range, true, false, false).await
    }
    async fn read_lock(&self, file: &nfs_fh3, range: ByteRange) -> Stat {
        self.ask(file, range, false, false, false).await
    }
    async fn reclaim(&self, file: &nfs_fh3, range: ByteRange) -> Stat {
        self.ask(file, range, true, false, true).await
    }
    async fn unlock(&self, file: &nfs_fh3, range: ByteRange) -> Stat {
        let (cookie, alock) = (Cookie::new(b"c").unwrap(), self.lock_of(file, range));
        self.stat(Procedure::Unlock, UnlockArgs { cookie, alock }).await
    }
    async fn cancel(&self, file: &nfs_fh3, range: ByteRange) -> Stat {
        let (cookie, alock) = (Cookie::new(b"c").unwrap(), self.lock_of(file, range));
        self.stat(Procedure::Cancel, CancArgs { cookie, block: true, exclusive: true, alock }).await
    }
    async fn test(&self, file: &nfs_fh3, range: ByteRange) -> TestReply {
        let (cookie, alock) = (Cookie::new(b"c").unwrap(), self.lock_of(file, range));
        let results = self.call(Procedure::Test, TestArgs { cookie, exclusive: true, alock }).await;
        TestRes::decode(self.version, &results).unwrap().reply
    }
}

fn flock(range: ByteRange, kind: i32) -> libc::flock {
    libc::flock {
        l_type: libc::c_short::try_from(kind).unwrap(),
        l_whence: 0,
        l_start: range.start.cast_signed(),
        l_len: (range.end - range.start + 1).cast_signed(),
        l_pid: 0,
    }
}

/// A local process' lock (an open file of its own is as good as a process of its own). False: refused.
fn local_lock(file: &File, range: ByteRange, kind: i32) -> bool {
    fcntl(file, FcntlArg::F_OFD_SETLK(&flock(range, kind))).is_ok()
}

/// Whether a local process would be refused. Takes nothing.
fn is_taken(file: &File, range: ByteRange) -> bool {
    let mut lock = flock(range, libc::F_WRLCK);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)).unwrap();
    i32::from(lock.l_type) != libc::F_UNLCK
}

fn open(folder: &Path, name: &str) -> File {
    File::options().read(true).write(true).open(folder.join("root").join(name)).unwrap()
}

fn start(folder: &Path) -> Server {
    let (state, control) = (folder.join("state"), folder.join("control.sock"));
    let (state, control) = (state.to_str().unwrap(), control.to_str().unwrap());
    // Nobody answers on port 1: notices and GRANTED calls end at once.
    let flags =
        ["--name", "server", "--state-dir", state, "--control", control, "--rpcbind-port", "1", "--grace", "60s"];
    Server::start(folder, &flags)
}

#[tokio::test]
async fn locks_of_nfs_clients_and_of_local_processes_exclude_each_other() {
    for version in [Version::V4, Version::V1] {
        let folder = tempfile::tempdir().unwrap();
        let server = start(folder.path());
        let file = server.mount().await.create("file").await;
        let local = open(folder.path(), "file");
        let (a, b) = (Client::new(&server, 2, version).await, Client::new(&server, 3, version).await);

        assert_eq!(a.lock(&file, bytes(0, 9)).await, Stat::Granted);
        assert_eq!(b.lock(&file, bytes(5, 9)).await, Stat::Denied);
        assert!(!local_lock(&local, bytes(9, 9), libc::F_RDLCK), "a client has it");
        assert!(local_lock(&local, bytes(10, 19), libc::F_WRLCK));
        assert_eq!(b.lock(&file, bytes(15, 30)).await, Stat::Denied, "a local process has it");
        assert_eq!(b.read_lock(&file, bytes(15, 30)).await, Stat::Denied);
        let TestReply::Denied(Holder { exclusive, offset, len, .. }) = b.test(&file, bytes(12, 30)).await else {
            panic!("a local process has it")
        };
        assert_eq!((exclusive, offset, len), (true, 10, 10));
        assert!(local_lock(&local, bytes(20, 30), libc::F_WRLCK), "a refused lock leaves nothing behind");

        assert!(local_lock(&local, bytes(10, 30), libc::F_UNLCK));
        assert_eq!(b.lock(&file, bytes(15, 30)).await, Stat::Granted);
        assert_eq!(a.unlock(&file, bytes(0, 4)).await, Stat::Granted);
        until("half of it is given back", || !is_taken(&local, bytes(0, 4)));
        assert!(!local_lock(&local, bytes(5, 9), libc::F_RDLCK));
    }
}

#[tokio::test]
async fn read_locks_are_shared_by_all_and_an_upgrade_meets_the_other_reader() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    let file = server.mount().await.create("file").await;
    let local = open(folder.path(), "file");
    let (a, b) = (Client::new(&server, 2, Version::V4).await, Client::new(&server, 3, Version::V4).await);
    assert_eq!(a.read_lock(&file, bytes(0, 9)).await, Stat::Granted);
    assert_eq!(b.read_lock(&file, bytes(0, 9)).await, Stat::Granted);
    assert!(local_lock(&local, bytes(3, 3), libc::F_RDLCK));
    assert_eq!(b.unlock(&file, bytes(0, 9)).await, Stat::Granted);
    assert_eq!(a.lock(&file, bytes(0, 9)).await, Stat::Denied, "a local process reads byte 3");
    assert!(!local_lock(&local, bytes(4, 4), libc::F_WRLCK), "and a's read lock is as it was");
    assert!(local_lock(&local, bytes(3, 3), libc::F_UNLCK));
    assert_eq!(a.lock(&file, bytes(0, 9)).await, Stat::Granted);
    assert!(!local_lock(&local, bytes(0, 0), libc::F_RDLCK));
}

#[tokio::test]
async fn who_waits_for_a_local_process_gets_the_lock_when_that_lets_go() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    let file = server.mount().await.create("file").await;
    let local = open(folder.path(), "file");
    let (a, b) = (Client::new(&server, 2, Version::V4).await, Client::new(&server, 3, Version::V4).await);
    assert!(local_lock(&local, bytes(5, 5), libc::F_WRLCK));
    assert_eq!(a.ask(&file, bytes(0, 9), true, true, false).await, Stat::Blocked);
    assert_eq!(a.ask(&file, bytes(0, 9), true, true, false).await, Stat::Blocked, "its repetition too");
    assert_eq!(b.ask(&file, bytes(4, 6), true, true, false).await, Stat::Blocked);
    assert_eq!(b.cancel(&file, bytes(4, 6)).await, Stat::Granted);
    assert_eq!(b.lock(&file, bytes(0, 3)).await, Stat::Granted, "nobody has that");
    assert_eq!(b.unlock(&file, bytes(0, 3)).await, Stat::Granted);
    assert!(local_lock(&local, bytes(5, 5), libc::F_UNLCK));
    until("the waiter is granted", || is_taken(&local, bytes(9, 9)));
    assert_eq!(b.lock(&file, bytes(0, 9)).await, Stat::Denied);
}

#[tokio::test]
async fn a_handle_that_does_not_exist_is_stale_and_only_files_can_be_locked() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    let mut mount = server.mount().await;
    let file = mount.create("file").await;
    let a = Client::new(&server, 2, Version::V4).await;
    let old = Client::new(&server, 3, Version::V1).await;
    assert_eq!(a.lock(&mount.root, bytes(0, 9)).await, Stat::Denied, "a directory");
    assert_eq!(a.test(&mount.root, bytes(0, 9)).await.stat(), Stat::Failed, "there is no holder to name");
    assert_eq!(a.lock(&file, bytes(0, 9)).await, Stat::Granted);
    said(mount.nfs.remove(&REMOVE3args { object: in_folder(&mount.root, "file") }).await.unwrap()).unwrap();
    assert_eq!(a.lock(&file, bytes(0, 9)).await, Stat::StaleFh);
    assert_eq!(a.test(&file, bytes(0, 9)).await.stat(), Stat::StaleFh);
    assert_eq!(a.reclaim(&file, bytes(0, 9)).await, Stat::StaleFh);
    assert_eq!(old.lock(&file, bytes(0, 9)).await, Stat::DeniedNolocks, "version 1 has no word for it");
    assert_eq!(a.unlock(&file, bytes(0, 9)).await, Stat::Granted, "unlocking always works");
    let foreign = nfs_fh3 { data: b"no handle of this server".to_vec().into() };
    assert_eq!(a.lock(&foreign, bytes(0, 9)).await, Stat::StaleFh);
}

#[tokio::test]
async fn after_a_restart_reclaims_take_the_locks_again_unless_a_local_process_was_faster() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    let file = server.mount().await.create("file").await;
    let a = Client::new(&server, 2, Version::V4).await;
    assert_eq!(a.lock(&file, bytes(0, 9)).await, Stat::Granted);
    assert_eq!(a.lock(&file, bytes(20, 29)).await, Stat::Granted);
    server.stop();
    let local = open(folder.path(), "file");
    assert!(local_lock(&local, bytes(20, 20), libc::F_WRLCK), "nobody holds locks for a dead server");

    let server = start(folder.path());
    let (a, b) = (Client::new(&server, 2, Version::V4).await, Client::new(&server, 3, Version::V4).await);
    assert_eq!(b.lock(&file, bytes(0, 9)).await, Stat::DeniedGracePeriod);
    assert_eq!(a.reclaim(&file, bytes(0, 9)).await, Stat::Granted);
    assert!(!local_lock(&local, bytes(0, 0), libc::F_RDLCK));
    assert_eq!(a.reclaim(&file, bytes(20, 29)).await, Stat::Denied);
}
