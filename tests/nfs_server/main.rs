//! The example NFSv3 server: files over NFS here, locks over NLM in `locks`.
#![cfg(test)]

#[path = "../common/document.rs"]
mod document;
#[path = "../common/example.rs"]
mod example;
mod harness;
mod locks;
#[path = "../common/process.rs"]
mod process;

use nfs3_server::nfs3_types::nfs3::{
    CREATE3args, GETATTR3args, MKDIR3args, Nfs3Option, READDIR3args, READDIRPLUS3args, REMOVE3args, RENAME3args,
    RMDIR3args, SETATTR3args, cookieverf3, createhow3, createverf3, nfsstat3, sattr3, sattrguard3, set_mode3,
    set_size3,
};

use harness::{Mount, Server, in_folder, said};

async fn names(mount: &mut Mount, count: u32) -> Vec<String> {
    let (mut cookie, mut cookieverf, mut names) = (0, cookieverf3::default(), Vec::new());
    loop {
        let args = READDIR3args { dir: mount.root.clone(), cookie, cookieverf, count };
        let page = said(mount.nfs.readdir(&args).await.unwrap()).unwrap();
        cookieverf = page.cookieverf;
        for entry in page.reply.entries.into_inner() {
            cookie = entry.cookie;
            names.push(String::from_utf8(entry.name.0.to_vec()).unwrap());
        }
        if page.reply.eof {
            names.sort();
            return names;
        }
    }
}

#[tokio::test]
async fn files_are_made_written_read_listed_renamed_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--no-locks"]);
    let mut mount = server.mount().await;

    let file = mount.create("a").await;
    assert_eq!(mount.write(&file, 3, b"lock").await, 4);
    assert_eq!(mount.read(&file).await.unwrap(), b"\0\0\0lock");
    assert_eq!(std::fs::read(folder.path().join("root/a")).unwrap(), b"\0\0\0lock");
    let attributes = said(mount.nfs.getattr(&GETATTR3args { object: file.clone() }).await.unwrap()).unwrap();
    assert_eq!((attributes.obj_attributes.size, attributes.obj_attributes.mode), (7, 0o640));

    let new_attributes = sattr3 { size: set_size3::Some(1), mode: set_mode3::Some(0o600), ..sattr3::default() };
    let args = SETATTR3args { object: file.clone(), new_attributes, guard: sattrguard3::None };
    said(mount.nfs.setattr(&args).await.unwrap()).unwrap();
    assert_eq!(mount.read(&file).await.unwrap(), b"\0");

    let args = MKDIR3args { where_: in_folder(&mount.root, "d"), attributes: sattr3::default() };
    said(mount.nfs.mkdir(&args).await.unwrap()).unwrap();
    let args = RENAME3args { from: in_folder(&mount.root, "a"), to: in_folder(&mount.root, "b") };
    said(mount.nfs.rename(&args).await.unwrap()).unwrap();
    assert_eq!(mount.lookup("a").await.unwrap_err(), nfsstat3::NFS3ERR_NOENT);
    assert_eq!(mount.lookup("b").await.unwrap(), file, "a renamed file keeps its handle");
    assert_eq!(mount.read(&file).await.unwrap(), b"\0");
    assert_eq!(names(&mut mount, 4096).await, [".", "..", "b", "d"]);

    said(mount.nfs.remove(&REMOVE3args { object: in_folder(&mount.root, "b") }).await.unwrap()).unwrap();
    said(mount.nfs.rmdir(&RMDIR3args { object: in_folder(&mount.root, "d") }).await.unwrap()).unwrap();
    assert_eq!(mount.read(&file).await.unwrap_err(), nfsstat3::NFS3ERR_STALE);
    assert_eq!(names(&mut mount, 4096).await, [".", ".."]);
}

#[tokio::test]
async fn a_folder_that_takes_many_answers_is_listed_whole_and_with_handles() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("root")).unwrap();
    for n in 0..100 {
        std::fs::write(folder.path().join(format!("root/file{n}")), "").unwrap();
    }
    let server = Server::start(folder.path(), &["--no-locks"]);
    let mut mount = server.mount().await;
    assert_eq!(names(&mut mount, 512).await.len(), 102);

    let args = READDIRPLUS3args {
        dir: mount.root.clone(),
        cookie: 0,
        cookieverf: cookieverf3::default(),
        dircount: 65_536,
        maxcount: 65_536,
    };
    let page = said(mount.nfs.readdirplus(&args).await.unwrap()).unwrap();
    let entries = page.reply.entries.into_inner();
    let entry = entries.iter().find(|entry| entry.name.0.to_vec() == b"file7").unwrap();
    let Nfs3Option::Some(handle) = &entry.name_handle else { panic!("no handle") };
    assert_eq!(mount.lookup("file7").await.unwrap(), *handle);
}

#[tokio::test]
async fn handles_and_exclusive_creates_outlive_a_restart_of_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--no-locks"]);
    let mut mount = server.mount().await;
    let file = mount.create("a").await;
    mount.write(&file, 0, b"kept").await;
    let exclusive = |mount: &Mount, verifier| CREATE3args {
        where_: in_folder(&mount.root, "x"),
        how: createhow3::EXCLUSIVE(createverf3(verifier)),
    };
    let args = exclusive(&mount, [7; 8]);
    said(mount.nfs.create(&args).await.unwrap()).unwrap();
    drop(mount);
    server.stop();
    std::fs::rename(folder.path().join("root/a"), folder.path().join("root/elsewhere")).unwrap();

    let server = Server::start(folder.path(), &["--no-locks"]);
    let mut mount = server.mount().await;
    assert_eq!(mount.read(&file).await.unwrap(), b"kept");
    let args = exclusive(&mount, [7; 8]);
    said(mount.nfs.create(&args).await.unwrap()).unwrap();
    let args = exclusive(&mount, [9; 8]);
    assert_eq!(said(mount.nfs.create(&args).await.unwrap()).unwrap_err(), nfsstat3::NFS3ERR_EXIST);
}

#[tokio::test]
async fn nobody_gets_out_of_the_export() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), "secret").unwrap();
    std::fs::create_dir(folder.path().join("root")).unwrap();
    std::os::unix::fs::symlink("../secret", folder.path().join("root/link")).unwrap();
    let server = Server::start(folder.path(), &["--no-locks"]);
    let mut mount = server.mount().await;
    assert_eq!(mount.lookup("..").await.unwrap(), mount.root);
    assert_eq!(mount.lookup("../secret").await.unwrap_err(), nfsstat3::NFS3ERR_INVAL);
    let link = mount.lookup("link").await.unwrap();
    assert_eq!(mount.read(&link).await.unwrap_err(), nfsstat3::NFS3ERR_INVAL);
}
