//! Calls over a stream: TCP, a Unix socket, anything that carries bytes both ways.
//!
//! A [`StreamClient`] owns the table of its open calls. Its writing task takes whole records from a
//! bounded queue; its reading task looks replies up in the table, and when the stream ends it tells
//! every open call why. A stream that sent something other than RPC is no longer read.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use super::call::{CallError, Request, results, xid_of};
use super::udp::{reserved_ports, wildcard};
use super::xids::Xids;
use crate::wire::record::{RecordReader, frame};
use crate::wire::scope;

/// Records waiting to be written; further calls wait.
const QUEUE: usize = 64;
/// Bytes read at a time.
const READ_SIZE: usize = 16 << 10;

/// From where a TCP connection is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Source {
    /// This local address; any, if `None`.
    pub ip: Option<IpAddr>,
    /// A port below 1024, if this process may.
    pub reserved: bool,
}

/// Calls over a stream, any number at a time.
#[derive(Debug)]
pub struct StreamClient {
    open: Arc<Mutex<OpenCalls>>,
    records: mpsc::Sender<Vec<u8>>,
    xids: Xids,
    tasks: [AbortHandle; 2],
}

#[derive(Debug, Default)]
struct OpenCalls {
    waiting: HashMap<u32, oneshot::Sender<Result<Vec<u8>, CallError>>>,
    /// Why the stream is of no use any more.
    ended: Option<End>,
}

/// How a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Io(io::ErrorKind, String),
    Malformed(String),
}

impl End {
    fn error(&self) -> CallError {
        match self {
            Self::Io(kind, text) => CallError::Io(io::Error::new(*kind, text.clone())),
            Self::Malformed(text) => CallError::Malformed(text.clone()),
        }
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Io(error.kind(), error.to_string())
    }
}

/// A call in the table; out of it when its caller is done or gone.
struct Open<'a> {
    calls: &'a Mutex<OpenCalls>,
    xid: u32,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).waiting.remove(&self.xid);
    }
}

impl Drop for StreamClient {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl StreamClient {
    /// Takes a stream over; replies of up to `max_record` bytes are read. Wants a tokio runtime.
    pub fn over<S: AsyncRead + AsyncWrite + Send + 'static>(stream: S, max_record: usize) -> Self {
        let (input, output) = tokio::io::split(stream);
        let (records, queue) = mpsc::channel(QUEUE);
        let open = Arc::default();
        let reading = tokio::spawn(read_replies(input, max_record, Arc::clone(&open)));
        let writing = tokio::spawn(write_calls(output, queue, Arc::clone(&open)));
        let tasks = [reading.abort_handle(), writing.abort_handle()];
        Self { open, records, xids: Xids::new(rand::random()), tasks }
    }

    /// Connects over TCP.
    pub async fn connect_tcp(
        to: SocketAddr,
        source: Source,
        max_record: usize,
        timeout: Duration,
    ) -> Result<Self, CallError> {
        let connecting = connect(to, source);
        let stream = tokio::time::timeout(timeout, connecting).await.map_err(|_| CallError::TimedOut)??;
        stream.set_nodelay(true)?;
        Ok(Self::over(stream, max_record))
    }

    /// Connects to a Unix socket.
    pub async fn connect_unix(path: &Path, max_record: usize, timeout: Duration) -> Result<Self, CallError> {
        let connecting = UnixStream::connect(path);
        let stream = tokio::time::timeout(timeout, connecting).await.map_err(|_| CallError::TimedOut)??;
        Ok(Self::over(stream, max_record))
    }

    /// Calls, and waits until the record is queued for writing, not for a reply (one-way procedures).
    pub async fn cast(&self, request: Request<'_>, timeout: Duration) -> Result<(), CallError> {
        let queued = self.records.send(frame(&request.message(self.xids.draw())));
        let queued = tokio::time::timeout(timeout, queued).await.map_err(|_| CallError::TimedOut)?;
        queued.map_err(|_| CallError::Io(io::Error::other("the connection has ended")))
    }

    /// Calls, once. After a time-out the stream can still be used.
    pub async fn call(&self, request: Request<'_>, timeout: Duration) -> Result<Vec<u8>, CallError> {
        let deadline = Instant::now() + timeout;
        let xid = self.xids.draw();
        let (sender, reply) = oneshot::channel();
        {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(end) = &open.ended {
                return Err(end.error());
            }
            open.waiting.insert(xid, sender);
        }
        let _open = Open { calls: &self.open, xid };
        let exchange = async {
            // If the writing task has ended, it has told the call why.
            let _ = self.records.send(frame(&request.message(xid))).await;
            reply.await
        };
        match timeout_at(deadline, exchange).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(CallError::Io(io::Error::other("the client's tasks have ended"))),
            Err(_) => Err(CallError::TimedOut),
        }
    }

    /// Whether the stream has ended: every call will err.
    pub fn is_closed(&self) -> bool {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).ended.is_some()
    }
}

async fn connect(to: SocketAddr, source: Source) -> io::Result<TcpStream> {
    if source.reserved {
        for port in reserved_ports() {
            match connect_from(to, source.ip, port).await {
                // In use for another connection to the same server, or just closed.
                Err(error) if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable) => {}
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
                connected => return connected,
            }
        }
    }
    connect_from(to, source.ip, 0).await
}

async fn connect_from(to: SocketAddr, ip: Option<IpAddr>, port: u16) -> io::Result<TcpStream> {
    let ip = ip.filter(|ip| scope::interface(*ip).is_none() || scope::reaches(*ip, to.ip()));
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if ip.is_some() || port != 0 {
        let local = SocketAddr::new(ip.unwrap_or_else(|| wildcard(to.ip())), port);
        socket.bind(&SockAddr::from(scope::split(local)))?;
    }
    let stream = TcpSocket::from_std_stream(socket.into()).connect(scope::split(to)).await?;
    // A socket that the system gave the very port it connects to meets itself, where nobody listens.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}

fn end(open: &Mutex<OpenCalls>, how: &End) {
    let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
    let how = open.ended.get_or_insert_with(|| how.clone()).clone();
    for (_, caller) in open.waiting.drain() {
        // An error is a caller that has just given up.
        let _ = caller.send(Err(how.error()));
    }
}

async fn write_calls<S: AsyncWrite>(
    mut output: WriteHalf<S>,
    mut queue: mpsc::Receiver<Vec<u8>>,
    open: Arc<Mutex<OpenCalls>>,
) {
    while let Some(record) = queue.recv().await {
        if let Err(error) = output.write_all(&record).await {
            return end(&open, &error.into());
        }
    }
}

async fn read_replies<S: AsyncRead>(mut input: ReadHalf<S>, max_record: usize, open: Arc<Mutex<OpenCalls>>) {
    let mut records = RecordReader::new(max_record);
    let mut chunk = vec![0; READ_SIZE];
    let how = loop {
        match records.next() {
            Ok(Some(record)) => {
                let Some(xid) = xid_of(&record) else { break End::Malformed("a record of no message".to_owned()) };
                let caller = open.lock().unwrap_or_else(PoisonError::into_inner).waiting.remove(&xid);
                // No caller waits any more for a reply that came after the time-out.
                if let Some(caller) = caller {
                    let _ = caller.send(results(&record));
                }
                continue;
            }
            Ok(None) => {}
            Err(error) => break End::Malformed(error.to_string()),
        }
        match input.read(&mut chunk).await {
            Ok(0) => break End::Io(io::ErrorKind::UnexpectedEof, "the server closed the connection".to_owned()),
            Ok(read) => records.push(chunk.get(..read).unwrap_or_default()),
            Err(error) => break error.into(),
        }
    };
    end(&open, &how);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_has_the_port_it_connects_to_is_refused_instead_of_meeting_itself() {
        let local = IpAddr::from([127, 0, 0, 1]);
        let free = std::net::TcpListener::bind((local, 0)).unwrap().local_addr().unwrap();
        let met = connect_from(free, Some(local), free.port()).await;
        assert_eq!(met.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
