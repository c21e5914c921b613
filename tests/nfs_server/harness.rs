//! The example server as a process of its own, and an NFSv3 client.

use std::path::Path;
use std::process::Command;

use nfs3_client::tokio::{TokioConnector, TokioIo};
use nfs3_client::{Nfs3Connection, Nfs3ConnectionBuilder};
use nfs3_server::nfs3_types::nfs3::{
    CREATE3args, LOOKUP3args, Nfs3Result, READ3args, WRITE3args, createhow3, diropargs3, nfs_fh3, nfsstat3, sattr3,
    set_mode3, stable_how,
};
use nfs3_server::nfs3_types::xdr_codec::Opaque;
use serde_json::Value;

use crate::example;
use crate::process::{LIMIT, Process};

pub(crate) struct Server {
    process: Process,
    pub(crate) ports: Value,
}

impl Server {
    /// Exports `folder/root`.
    pub(crate) fn start(folder: &Path, flags: &[&str]) -> Self {
        let (root, ports) = (folder.join("root"), folder.join("ports"));
        std::fs::create_dir_all(&root).unwrap();
        let _ = std::fs::remove_file(&ports);
        let mut command = Command::new(example::binary("nfs_server"));
        command.args(["--listen", "127.0.0.1", "--nfs-port", "0", "--no-rpcbind"]).arg("--root").arg(&root);
        command.arg("--ports-file").arg(&ports).args(flags).env("RUST_LOG", "nfs3_server=warn,info");
        let mut process = Process::start(command, &folder.join("log"));
        let ports = process.ports(&ports).unwrap_or_else(|ended| panic!("the server is not up: {ended:?}"));
        Self { process, ports }
    }

    pub(crate) fn port(&self, name: &str) -> u16 {
        u16::try_from(self.ports[name].as_u64().unwrap()).unwrap()
    }

    /// Ends it as an operator does, and waits for it.
    pub(crate) fn stop(self) {
        assert!(self.process.stop().success());
    }

    pub(crate) async fn mount(&self) -> Mount {
        let port = self.port("nfs_tcp");
        let connection = Nfs3ConnectionBuilder::new(TokioConnector, "127.0.0.1", "/")
            .connect_from_privileged_port(false)
            .mount_port(port)
            .nfs3_port(port)
            .mount();
        let connection = tokio::time::timeout(LIMIT, connection).await.unwrap().unwrap();
        Mount { root: connection.root_nfs_fh3(), nfs: connection }
    }
}

/// A mounted export.
pub(crate) struct Mount {
    pub(crate) root: nfs_fh3,
    pub(crate) nfs: Nfs3Connection<TokioIo<tokio::net::TcpStream>>,
}

/// What the server says, or its refusal.
pub(crate) fn said<T, E>(result: Nfs3Result<T, E>) -> Result<T, nfsstat3> {
    match result {
        Nfs3Result::Ok(value) => Ok(value),
        Nfs3Result::Err((stat, _)) => Err(stat),
    }
}

pub(crate) fn in_folder<'a>(folder: &nfs_fh3, name: &'a str) -> diropargs3<'a> {
    diropargs3 { dir: folder.clone(), name: name.as_bytes().into() }
}

impl Mount {
    pub(crate) async fn create(&mut self, name: &str) -> nfs_fh3 {
        let how = createhow3::GUARDED(sattr3 { mode: set_mode3::Some(0o640), ..sattr3::default() });
        let args = CREATE3args { where_: in_folder(&self.root, name), how };
        self.nfs.create(&args).await.unwrap().unwrap().obj.unwrap()
    }

    pub(crate) async fn lookup(&mut self, name: &str) -> Result<nfs_fh3, nfsstat3> {
        let args = LOOKUP3args { what: in_folder(&self.root, name) };
        said(self.nfs.lookup(&args).await.unwrap()).map(|found| found.object)
    }

    pub(crate) async fn write(&mut self, file: &nfs_fh3, offset: u64, data: &[u8]) -> u32 {
        let (file, count) = (file.clone(), u32::try_from(data.len()).unwrap());
        let args = WRITE3args { file, offset, count, stable: stable_how::UNSTABLE, data: Opaque::borrowed(data) };
        said(self.nfs.write(&args).await.unwrap()).unwrap().count
    }

    pub(crate) async fn read(&mut self, file: &nfs_fh3) -> Result<Vec<u8>, nfsstat3> {
        let args = READ3args { file: file.clone(), offset: 0, count: 65_536 };
        said(self.nfs.read(&args).await.unwrap()).map(|read| read.data.to_vec())
    }
}
