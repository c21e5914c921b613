//! The control client against a scripted server.

use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::nlmd::Nlmd;
use super::{LockManager, ManagerError};
use crate::wire::control::{BeginArgs, ClientPage, Procedure, Refusal, RefusalCode, Response, RunId, RunList};
use crate::wire::record::{RecordReader, frame};
use crate::wire::rpc::{self, IncomingCall};
use crate::wire::xdr::{List, encode};

/// What the server does with a call.
enum Does {
    /// Answers with these results.
    Answer(Vec<u8>),
    /// Answers with this RPC status.
    Rpc(rpc::Answer),
    /// Sends these bytes as they are.
    Raw(Vec<u8>),
    /// Closes the connection.
    Close,
    /// Keeps the caller waiting.
    Hang,
}

async fn serve(mut stream: UnixStream, script: &(dyn Fn(usize, &IncomingCall<'_>) -> Does + Send + Sync), nth: usize) {
    let mut records = RecordReader::new(1 << 20);
    let mut buffer = vec![0; 4096];
    loop {
        while let Ok(Some(record)) = records.next() {
            let Ok(call) = rpc::parse_call(&record) else { return };
            let bytes = match script(nth, &call) {
                Does::Answer(results) => frame(&rpc::reply(call.xid, &rpc::Answer::Success(results))),
                Does::Rpc(answer) => frame(&rpc::reply(call.xid, &answer)),
                Does::Raw(bytes) => bytes,
                Does::Close => return,
                Does::Hang => continue,
            };
            if stream.write_all(&bytes).await.is_err() {
                return;
            }
        }
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => records.push(&buffer[..read]),
        }
    }
}

/// A manager behind a server that does what the script says; the script gets the connection's
/// number, from 0 on, and the call.
fn scripted(script: impl Fn(usize, &IncomingCall<'_>) -> Does + Send + Sync + 'static) -> (TempDir, Nlmd) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let script = Arc::new(script);
    tokio::spawn(async move {
        for nth in 0.. {
            let Ok((stream, _)) = listener.accept().await else { return };
            let script = Arc::clone(&script);
            tokio::spawn(async move { serve(stream, &*script, nth).await });
        }
    });
    (dir, Nlmd::new(path))
}

fn runs(ids: &[u8]) -> Vec<u8> {
    encode(&Response::Ok(RunList { runs: List::clipped(ids.iter().map(|id| RunId([*id; 16])).collect()) }))
}

fn begin() -> BeginArgs {
    BeginArgs::sample(RunId([1; 16]))
}

#[tokio::test]
async fn a_socket_that_is_not_there_is_unreachable_and_says_what_to_do() {
    let error = Nlmd::new(Path::new("/nonexistent/control.sock")).status().await.unwrap_err();
    assert!(matches!(error, ManagerError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("/nonexistent/control.sock"), "{error}");
    assert!(error.remedy().contains("--control"), "{}", error.remedy());
}

#[tokio::test]
async fn a_socket_that_nobody_serves_is_unreachable() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    drop(UnixListener::bind(&path).unwrap());
    let error = Nlmd::new(path).begin(&begin()).await.unwrap_err();
    assert!(matches!(error, ManagerError::Unreachable { .. }), "{error:?}");
    assert!(error.remedy().contains("start it again"), "{}", error.remedy());
}

#[tokio::test]
async fn a_refusal_is_a_value_with_its_code_and_words() {
    let (_dir, manager) = scripted(|_, _| {
        Does::Answer(encode(&Response::<RunList>::Refused(Refusal::new(RefusalCode::RunActive, "another one"))))
    });
    let error = manager.begin(&begin()).await.unwrap_err();
    assert_eq!(error.refused(), Some(RefusalCode::RunActive));
    assert!(error.to_string().contains("another one"));
}

#[tokio::test]
async fn an_answer_without_value_is_an_answer() {
    let (_dir, manager) = scripted(|_, call| {
        assert_eq!(call.procedure, Procedure::Acknowledge as u32);
        assert_eq!(call.args, [7; 16]);
        Does::Answer(vec![0; 4])
    });
    manager.acknowledge(RunId([7; 16])).await.unwrap();
}

#[tokio::test]
async fn answers_that_make_no_sense_are_protocol_errors() {
    let cut = runs(&[1, 2])[..20].to_vec();
    let trailing = [runs(&[1]), vec![0; 4]].concat();
    for (what, does) in [
        ("cut", Does::Answer(cut)),
        ("trailing bytes", Does::Answer(trailing)),
        ("an unknown union arm", Does::Answer(vec![0, 0, 0, 9])),
        ("another version", Does::Rpc(rpc::Answer::ProgMismatch { low: 2, high: 3 })),
        ("an unknown procedure", Does::Rpc(rpc::Answer::ProcUnavail)),
    ] {
        let does = std::sync::Mutex::new(Some(does));
        let (_dir, manager) = scripted(move |_, _| does.lock().unwrap().take().unwrap_or(Does::Close));
        let error = manager.unfetched().await.unwrap_err();
        assert!(matches!(error, ManagerError::Protocol { .. }), "{what}: {error:?}");
    }
    // A record of 2 GiB: the stream cannot be trusted any more.
    let (_dir, manager) = scripted(move |_, _| Does::Raw(vec![0xff; 8]));
    let error = manager.unfetched().await.unwrap_err();
    assert!(matches!(error, ManagerError::Protocol { .. } | ManagerError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_connection_that_breaks_under_a_change_is_lost_and_the_change_not_repeated() {
    let (_dir, manager) = scripted(|nth, _| {
        assert_eq!(nth, 0, "asked again over another connection");
        Does::Close
    });
    let error = manager.begin(&begin()).await.unwrap_err();
    assert!(matches!(error, ManagerError::Lost { .. }), "{error:?}");
}

#[tokio::test]
async fn a_connection_that_breaks_under_a_question_is_made_again_once() {
    let (_dir, manager) = scripted(|nth, _| if nth == 0 { Does::Close } else { Does::Answer(runs(&[4])) });
    assert_eq!(manager.unfetched().await.unwrap(), [RunId([4; 16])]);
    let (_dir, manager) = scripted(|nth, _| {
        assert!(nth < 2, "asked a third time");
        Does::Close
    });
    assert!(matches!(manager.unfetched().await, Err(ManagerError::Unreachable { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_manager_that_hangs_is_unreachable_to_a_question_and_lost_under_a_change() {
    let (_dir, manager) = scripted(|_, _| Does::Hang);
    let error = manager.info().await.unwrap_err();
    assert!(matches!(error, ManagerError::Unreachable { .. }), "{error:?}");
    assert!(error.remedy().contains("see whether nlmd runs"), "{}", error.remedy());
    let error = manager.begin(&begin()).await.unwrap_err();
    assert!(matches!(error, ManagerError::Lost { .. }), "{error:?}");
}

#[tokio::test]
async fn pages_are_gathered_to_the_end_and_ones_without_end_are_refused() {
    let page = |next| Does::Answer(encode(&Response::Ok(ClientPage { clients: List::default(), next })));
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let (_dir, manager) = scripted(move |_, call| {
        let after = u64::from_be_bytes(call.args.try_into().unwrap());
        seen.lock().unwrap().push(after);
        page(if after < 20 { after + 10 } else { 0 })
    });
    assert_eq!(manager.clients().await.unwrap(), []);
    assert_eq!(*asked.lock().unwrap(), [0, 10, 20]);
    let (_dir, manager) = scripted(move |_, _| page(5));
    assert!(matches!(manager.clients().await, Err(ManagerError::Protocol { .. })));
}
