//! `nlmctl locks`: the locks that the lock manager holds, pends or queues.

use super::args::LocksArgs as Wanted;
use super::context::Context;
use crate::report::{Failure, LockListing, LocksReport, SCHEMA};
use crate::wire::control::{ClientRef, Scope};
use crate::wire::types::{Address, CallerName, FileHandle};
use crate::wire::xdr::{List, Maybe, TooLong};

pub(super) async fn run(context: &Context, wanted: &Wanted) -> Result<u8, Failure> {
    let scope = scope(wanted)?;
    let manager = context.manager().await?;
    let locks = manager.all_locks(&scope).await?.iter().map(LockListing::from).collect();
    context.print(&LocksReport { schema: SCHEMA, manager: manager.kind().to_owned(), locks })?;
    Ok(0)
}

fn scope(wanted: &Wanted) -> Result<Scope, Failure> {
    let clients = wanted.clients.iter().map(|text| client(text)).collect::<Result<Vec<_>, _>>()?;
    let files = wanted.files.iter().map(|text| file(text)).collect::<Result<Vec<_>, _>>()?;
    let too_many = |e: TooLong| Failure::usage(format!("too many clients or files: {e}"), "name fewer of them");
    Ok(Scope { clients: List::new(clients).map_err(too_many)?, files: List::new(files).map_err(too_many)? })
}

fn client(text: &str) -> Result<ClientRef, Failure> {
    if let Ok(ip) = text.parse() {
        return Ok(ClientRef { name: Maybe(None), address: Maybe(Some(Address(ip))) });
    }
    let name = CallerName::typed(text)
        .map_err(|e| Failure::usage(format!("--client {text:?}: {e}"), "give a client's name or address"))?;
    Ok(ClientRef { name: Maybe(Some(name)), address: Maybe(None) })
}

fn file(text: &str) -> Result<FileHandle, Failure> {
    let remedy = "give a file handle in hexadecimal, as `nlmctl locks` prints it";
    let bad = |why: String| Failure::usage(format!("--file {text:?}: {why}"), remedy);
    let bytes = hex::decode(text).map_err(|e| bad(e.to_string()))?;
    if bytes.is_empty() {
        return Err(bad("no handle".to_owned()));
    }
    FileHandle::new(&bytes).map_err(|e| bad(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(clients: &[&str], files: &[&str]) -> Result<Scope, Failure> {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        scope(&Wanted { clients: owned(clients), files: owned(files) })
    }

    #[test]
    fn a_client_is_named_by_address_or_name_and_a_file_by_its_handle() {
        let scope = of(&["127.0.0.9", "::1", "a.example.org"], &["00ff"]).unwrap();
        let clients = scope.clients.as_slice();
        assert!(clients[0].address.0.is_some() && clients[0].name.0.is_none());
        assert!(clients[1].address.0.is_some());
        assert_eq!(clients[2].name.0.as_ref().unwrap().as_str(), "a.example.org");
        assert_eq!(scope.files.as_slice()[0].as_slice(), [0, 255]);
        assert!(of(&[], &[]).unwrap().is_everything());
    }

    #[test]
    fn what_is_neither_is_bad_usage() {
        for (clients, files) in [(&[""][..], &[][..]), (&[], &["xyz"]), (&[], &["0"]), (&[], &[""])] {
            assert_eq!(of(clients, files).unwrap_err().kind.exit(), 2, "{clients:?} {files:?}");
        }
    }
}
