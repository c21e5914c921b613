//! The filter, as the keeper's child.
//!
//! # Theory
//! A pair of Unix stream sockets joins the two: the filter has its end as stdin, reads [`Order`]s from it and writes
//! [`FilterEvent`]s to it, each as a record of XDR. So when either process ends, the other sees the end of the
//! stream, at once and whatever the cause. Events that the filter wrote before it died are in the socket, and are
//! delivered first.
//!
//! Each filter numbers its calls from the start. So the events of one filter must be taken before the next one is
//! started: [`Filter::told`] until it says `None`, then [`Filter::restart`].
//!
//! Both sides may have much to send at the same time. So the keeper keeps reading while it waits to write: a filter
//! that cannot write its events takes no orders.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::messages::{FilterEvent, Order};
use crate::wire::record::{RecordReader, frame};
use crate::wire::xdr::{decode, encode};

/// The hidden command of nlmctl that runs a filter; the queue's number follows.
pub const COMMAND: &str = "knfsd-filter";
/// Longest message that a filter sends, in bytes.
const MAX_TOLD: usize = 16 << 10;
/// Read at a time.
const PIECE: usize = 64 << 10;

/// A filter process. It is killed when this is dropped.
#[derive(Debug)]
pub struct Filter {
    command: (OsString, Vec<OsString>),
    child: Child,
    stream: UnixStream,
    records: RecordReader,
    told: VecDeque<FilterEvent>,
    ended: bool,
}

impl Filter {
    /// Starts one for a queue, from nlmctl's own file. It must be within a tokio runtime. That it works is known when it
    /// answers an [`Order::Answer`].
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn start(program: &Path, queue: u16) -> io::Result<Self> {
        Self::run((program.into(), vec![COMMAND.into(), queue.to_string().into()]))
    }

    fn run(command: (OsString, Vec<OsString>)) -> io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let child = Command::new(&command.0)
            .args(&command.1)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            // What a terminal sends to the keeper's group is not for the filter.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let (stream, records) = (UnixStream::from_std(ours)?, RecordReader::new(MAX_TOLD));
        Ok(Self { command, child, stream, records, told: VecDeque::new(), ended: false })
    }

    /// Its process number; none once it was seen to have ended.
    #[cfg(test)]
    fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Gives an order. It is on its way then, not obeyed: [`FilterEvent::Obeyed`] says that. A future that is dropped before its
    /// end may have sent half an order: the filter must be ended then.
    ///
    /// # Errors
    /// The filter has died; [`told`](Self::told) has what it said before.
    pub async fn send(&mut self, order: &Order) -> io::Result<()> {
        let message = frame(&encode(order));
        let mut rest = message.as_slice();
        while !rest.is_empty() {
            self.stream.ready(Interest::READABLE | Interest::WRITABLE).await?;
            match self.stream.try_write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.take(),
                Err(error) => return Err(error),
            }
            if self.ended {
                return Err(ErrorKind::BrokenPipe.into());
            }
        }
        Ok(())
    }

    /// What the filter tells next; `None` when it has died and has told all, and from then on. Nothing is lost where this
    /// future is dropped.
    pub async fn told(&mut self) -> Option<FilterEvent> {
        loop {
            if let Some(told) = self.told.pop_front() {
                return Some(told);
            }
            if self.ended {
                // It may only have closed its end: either way it does not come back.
                let _ = self.child.kill().await;
                return None;
            }
            match self.stream.readable().await {
                Ok(()) => self.take(),
                Err(_) => self.ended = true,
            }
        }
    }

    /// Ends it. What it told before comes out of [`told`](Self::told), then `None`.
    #[cfg(test)]
    fn kill(&mut self) {
        // It may have ended already.
        let _ = self.child.start_kill();
    }

    /// Starts another one after the end of this.
    ///
    /// # Errors
    /// It cannot be started, or died at once; or this one has not told all yet.
    pub async fn restart(&mut self) -> io::Result<()> {
        if !self.ended || !self.told.is_empty() {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                "the events of the previous filter are not all taken yet",
            ));
        }
        self.child.kill().await?;
        *self = Self::run(self.command.clone())?;
        Ok(())
    }

    /// Takes what is there to read, without waiting.
    fn take(&mut self) {
        let mut piece = vec![0; PIECE];
        match self.stream.try_read(&mut piece) {
            Ok(0) => self.ended = true,
            Ok(length) => {
                self.records.push(piece.get(..length).unwrap_or_default());
                self.ended |= self.sort().is_err();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // ECONNRESET, after all that it wrote: it died without reading all orders.
            Err(_) => self.ended = true,
        }
    }

    /// The whole records among what was read, as messages. The first odd one is the last that counts.
    fn sort(&mut self) -> Result<(), ()> {
        loop {
            let record =
                self.records.next().map_err(|error| tracing::error!(%error, "the filter sends odd records"))?;
            let Some(record) = record else { return Ok(()) };
            let told = decode(&record).map_err(|error| tracing::error!(%error, "the filter sends odd messages"))?;
            self.told.push_back(told);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::time::Duration;

    use super::*;
    use crate::interposer::messages::Mode;
    use crate::wire::xdr::Text;

    const LIMIT: Duration = Duration::from_secs(30);

    /// A stand-in for the filter: a script, with its end of the socket as stdin.
    fn script(text: &str) -> Filter {
        Filter::run(("sh".into(), vec!["-c".into(), text.into()])).unwrap()
    }

    /// The words of printf(1) that write this.
    fn printed(told: &FilterEvent) -> String {
        frame(&encode(told)).iter().fold(String::new(), |mut text, byte| {
            write!(text, "\\{byte:03o}").unwrap();
            text
        })
    }

    async fn next(filter: &mut Filter) -> Option<FilterEvent> {
        tokio::time::timeout(LIMIT, filter.told()).await.expect("the filter says something, or ends")
    }

    fn superseded() -> FilterEvent {
        FilterEvent::Superseded(Text::clipped("lockd is in grace"))
    }

    #[tokio::test]
    async fn orders_arrive_in_their_sequence_and_what_is_told_before_a_death_is_not_lost() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("orders");
        let orders = [Order::Mode(Mode::Strict), Order::Answer(9)];
        let wanted: Vec<u8> = orders.iter().flat_map(|order| frame(&encode(order))).collect();
        let (one, other) = (printed(&superseded()), printed(&FilterEvent::Obeyed(9)));
        let mut filter = script(&format!(
            "head -c {} <&0 >{}; printf '{one}' >&0; printf '{other}' >&0; kill -KILL $$",
            wanted.len(),
            file.display()
        ));
        for order in &orders {
            filter.send(order).await.unwrap();
        }
        assert_eq!(next(&mut filter).await, Some(superseded()));
        assert_eq!(next(&mut filter).await, Some(FilterEvent::Obeyed(9)));
        assert_eq!((next(&mut filter).await, next(&mut filter).await), (None, None));
        assert_eq!((std::fs::read(&file).unwrap(), filter.id()), (wanted, None));
        assert!(filter.send(&orders[0]).await.is_err());
    }

    #[tokio::test]
    async fn what_was_told_comes_out_also_when_it_died_with_orders_unread() {
        let words = printed(&FilterEvent::Obeyed(1));
        let mut filter = script(&format!("printf '{words}' >&0; head -c 1 <&0 >/dev/null; kill -KILL $$"));
        filter.send(&Order::Answer(1)).await.unwrap();
        assert_eq!((next(&mut filter).await, next(&mut filter).await), (Some(FilterEvent::Obeyed(1)), None));
    }

    #[tokio::test]
    async fn both_may_have_more_to_say_than_the_socket_holds() {
        let count: u64 = 20_000;
        let words = printed(&FilterEvent::Obeyed(7));
        let order = Order::Answer(3);
        let length = frame(&encode(&order)).len() as u64 * count;
        let last = printed(&superseded());
        let mut filter = script(&format!(
            "i=0; while [ $i -lt {count} ]; do printf '{words}' >&0; i=$((i+1)); done
             head -c {length} <&0 >/dev/null; printf '{last}' >&0"
        ));
        let all = async {
            for _ in 0..count {
                filter.send(&order).await.unwrap();
            }
        };
        tokio::time::timeout(LIMIT, all).await.expect("neither waits for the other");
        for _ in 0..count {
            assert_eq!(next(&mut filter).await, Some(FilterEvent::Obeyed(7)));
        }
        assert_eq!((next(&mut filter).await, next(&mut filter).await), (Some(superseded()), None));
    }

    #[tokio::test]
    async fn another_one_is_started_only_when_the_first_has_told_all_and_gets_its_orders() {
        let words = printed(&FilterEvent::Obeyed(1));
        let order = Order::Answer(1);
        let length = frame(&encode(&order)).len();
        let mut filter = script(&format!("head -c {length} <&0 >/dev/null; printf '{words}' >&0; exec sleep 600"));
        let first = filter.id();
        filter.send(&order).await.unwrap();
        assert_eq!(next(&mut filter).await, Some(FilterEvent::Obeyed(1)));
        assert_eq!(filter.restart().await.unwrap_err().kind(), ErrorKind::InvalidInput);
        filter.kill();
        assert_eq!(next(&mut filter).await, None);
        filter.restart().await.unwrap();
        assert!(filter.id().is_some() && filter.id() != first);
        filter.send(&order).await.unwrap();
        assert_eq!(next(&mut filter).await, Some(FilterEvent::Obeyed(1)));
    }

    #[tokio::test]
    async fn a_filter_that_sends_what_is_no_message_is_ended() {
        for odd in ["\\200\\000\\000\\004\\000\\000\\000\\177", "\\377\\377\\377\\377"] {
            let words = printed(&FilterEvent::Obeyed(1));
            let mut filter = script(&format!("printf '{words}{odd}' >&0; exec sleep 600"));
            assert_eq!((next(&mut filter).await, next(&mut filter).await), (Some(FilterEvent::Obeyed(1)), None));
            assert_eq!(filter.id(), None);
        }
    }
}
