//! Tells whether all input that has arrived is handled.
//!
//! A lock manager must not let a deadline pass before the input that had arrived by then was handled. That every task
//! of the runtime had its turn does not say so where the runtime has several threads: one of them may just have read a
//! reclaim, and not have executed it. So the sockets themselves are asked, by an epoll instance of their own, and a
//! reader counts as *at work* from before it reads until it finds nothing more to read.
//!
//! What is read is handled once its call has begun: [`super::server`] says how far that gets. A connection whose peer does
//! not take its replies is not read from, and is not looked at meanwhile: what it has sent may never be handled. Input that
//! does not end is never handled either, so whoever waits here does so for a bounded time.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::event::{Timespec, epoll};

/// The sockets that are looked at. Cloned freely; the default has none and looks at none.
#[derive(Debug, Clone, Default)]
pub struct Arrivals {
    sockets: Option<Arc<OwnedFd>>,
    at_work: Arc<AtomicUsize>,
}

impl Arrivals {
    /// Looks at the sockets that [`watch`](Self::watch) adds.
    pub fn new() -> io::Result<Self> {
        let sockets = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { sockets: Some(Arc::new(sockets)), at_work: Arc::default() })
    }

    /// Adds a socket. It goes when it is closed.
    pub fn watch(&self, socket: impl AsFd) -> io::Result<()> {
        if let Some(sockets) = &self.sockets {
            epoll::add(sockets, socket, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        }
        Ok(())
    }

    /// Takes out a socket that is not read from any more, or not for now, and is not closed yet.
    pub fn leave(&self, socket: impl AsFd) {
        if let Some(sockets) = &self.sockets {
            // It fails only where the socket is not among them.
            let _ = epoll::delete(sockets, socket);
        }
    }

    /// For one reader.
    pub fn reader(&self) -> Reader {
        Reader { at_work: self.at_work.clone(), is_at_work: false }
    }

    /// Whether no socket has anything to read, and no reader is at work. An epoll instance that cannot be asked says no.
    pub fn are_handled(&self) -> bool {
        let nothing_waits = self.sockets.as_ref().is_none_or(|sockets| {
            let mut first = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }];
            epoll::wait(sockets, &mut first, Some(&Timespec::default())) == Ok(0)
        });
        // In this order: what a reader takes from a socket after the look, it is at work on.
        nothing_waits && self.at_work.load(Ordering::SeqCst) == 0
    }
}

/// A task that reads a socket.
#[derive(Debug)]
pub struct Reader {
    at_work: Arc<AtomicUsize>,
    is_at_work: bool,
}

impl Reader {
    /// Before it reads.
    pub fn begins(&mut self) {
        if !self.is_at_work {
            self.is_at_work = true;
            self.at_work.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// It found nothing to read, and has begun all calls that it had read before.
    pub fn rests(&mut self) {
        if self.is_at_work {
            self.is_at_work = false;
            self.at_work.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.rests();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    use async_trait::async_trait;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::watch;

    use super::*;
    use crate::rpc::server::{Guests, Limits, Origin, Service, serve_tcp, serve_udp, shared_cache};
    use crate::rpc::udp::UdpEndpoint;
    use crate::wire::record::frame;
    use crate::wire::rpc::{self, Answer, Credential, IncomingCall};

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Keeps the thread that executes a call until it is let go.
    struct Busy {
        begun: mpsc::SyncSender<()>,
        go: Mutex<mpsc::Receiver<()>>,
    }

    #[async_trait]
    impl Service for Busy {
        async fn call(&self, _: &Origin, _: &IncomingCall<'_>) -> Option<Answer> {
            self.begun.send(()).unwrap();
            self.go.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            None
        }
    }

    /// The service, what tells that it has begun a call, and what lets it go on.
    fn busy() -> (Arc<Busy>, mpsc::Receiver<()>, mpsc::Sender<()>) {
        let ((begun, seen), (go, told)) = (mpsc::sync_channel(0), mpsc::channel());
        (Arc::new(Busy { begun, go: Mutex::new(told) }), seen, go)
    }

    fn message(xid: u32) -> Vec<u8> {
        rpc::call(xid, 0x2000_0001, 1, 1, &Credential::None, &[])
    }

    async fn all_is_handled(arrivals: &Arrivals) {
        let until = Instant::now() + PATIENCE;
        while !arrivals.are_handled() {
            assert!(Instant::now() < until);
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_datagram_is_not_handled_while_another_thread_executes_its_call() {
        let (arrivals, (service, begun, go)) = (Arrivals::new().unwrap(), busy());
        let endpoint = Arc::new(UdpEndpoint::bind("127.0.0.1:0".parse().unwrap()).unwrap());
        let address = endpoint.local_addr();
        let (_stop, stopped) = watch::channel(false);
        let cache = shared_cache();
        tokio::spawn(serve_udp(endpoint, service, cache, arrivals.clone(), Limits::default(), stopped));
        all_is_handled(&arrivals).await;
        let client = UdpEndpoint::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        for xid in 0..3 {
            client.send(&message(xid), address, None).await.unwrap();
        }
        for _ in 0..3 {
            begun.recv_timeout(PATIENCE).unwrap();
            assert!(!arrivals.are_handled());
            go.send(()).unwrap();
        }
        all_is_handled(&arrivals).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_record_is_not_handled_while_the_one_before_it_is_executed() {
        let (arrivals, (service, begun, go)) = (Arrivals::new().unwrap(), busy());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_stop, stopped) = watch::channel(false);
        let (cache, guests) = (shared_cache(), Guests::default());
        tokio::spawn(serve_tcp(listener, service, cache, guests, arrivals.clone(), Limits::default(), stopped));
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(&[frame(&message(1)), frame(&message(2))].concat()).await.unwrap();
        for _ in 0..2 {
            begun.recv_timeout(PATIENCE).unwrap();
            assert!(!arrivals.are_handled());
            go.send(()).unwrap();
        }
        all_is_handled(&arrivals).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_connection_that_its_peer_has_closed_waits_for_nothing_while_its_call_goes_on() {
        struct Endless;
        #[async_trait]
        impl Service for Endless {
            async fn call(&self, _: &Origin, _: &IncomingCall<'_>) -> Option<Answer> {
                std::future::pending().await
            }
        }
        let arrivals = Arrivals::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_stop, stopped) = watch::channel(false);
        let (cache, guests) = (shared_cache(), Guests::default());
        tokio::spawn(serve_tcp(
            listener,
            Arc::new(Endless),
            cache,
            guests,
            arrivals.clone(),
            Limits::default(),
            stopped,
        ));
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(&frame(&message(1))).await.unwrap();
        drop(client);
        all_is_handled(&arrivals).await;
    }

    #[tokio::test]
    async fn a_connection_whose_peer_takes_no_replies_is_waited_for_only_while_it_takes_them() {
        const CALLS: u32 = 1_000;
        const REPLY: usize = 32 << 10;
        struct Wordy;
        #[async_trait]
        impl Service for Wordy {
            async fn call(&self, _: &Origin, _: &IncomingCall<'_>) -> Option<Answer> {
                Some(Answer::Success(vec![0; REPLY]))
            }
            fn is_idempotent(&self, _: &IncomingCall<'_>) -> bool {
                true
            }
        }
        let arrivals = Arrivals::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_stop, stopped) = watch::channel(false);
        let (cache, guests) = (shared_cache(), Guests::default());
        let limits = Limits::default();
        tokio::spawn(serve_tcp(listener, Arc::new(Wordy), cache, guests, arrivals.clone(), limits, stopped));
        let mut client = TcpStream::connect(address).await.unwrap();
        let calls: Vec<u8> = (0..CALLS).flat_map(|xid| frame(&message(xid))).collect();
        client.write_all(&calls).await.unwrap();
        all_is_handled(&arrivals).await;
        let reply = frame(&rpc::reply(0, &Answer::Success(vec![0; REPLY]))).len();
        let mut replies = vec![0; reply * CALLS as usize];
        client.read_exact(&mut replies).await.unwrap();
        all_is_handled(&arrivals).await;
        // No task has a turn in between.
        client.try_write(&frame(&message(CALLS))).unwrap();
        assert!(!arrivals.are_handled(), "it is looked at again");
    }

    #[tokio::test]
    async fn what_is_in_a_socket_is_not_handled_and_a_closed_socket_has_nothing() {
        let arrivals = Arrivals::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        arrivals.watch(&listener).unwrap();
        assert!(arrivals.are_handled());
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(!arrivals.are_handled(), "a connection that was not accepted");
        drop(listener);
        assert!(arrivals.are_handled());
    }
}
