//! The filter: a process of its own between lockd and its clients.
//!
//! # Theory
//! One thread takes packets from one queue, as lockd has one thread. Its stdin is a stream socket to the keeper: orders come
//! in, and events go out, both as records. An event is written before the verdict is given. So the filter waits
//! when the keeper does not read, and packets wait with it: a keeper must read at all times, even while it writes.
//! The filter ends when its stdin ends; then the kernel drops the queued packets.
//!
//! Until its first [`Order::Mode`] it takes no packet, so that none gets a verdict by a mode that does not hold: a filter that
//! takes another one's place is told of a thousand pending locks first, and a reclaim that passed unchanged meanwhile would be
//! refused. Packets that arrive wait in the kernel.
//!
//! An [`Order::Answer`] is answered when what was in the queue before it has been read: by then the keeper has heard of all
//! that had come.
//!
//! A keeper knows that the queue is bound when its first [`Order::Answer`] is answered. A filter that cannot begin says why, as
//! one that is superseded does, and ends.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;

use super::child::COMMAND;
use super::lockd::Lockd;
use super::messages::{FilterEvent, Order};
use super::packets::{Packet, Traffic};
use super::queue::{LENGTH, Queue};
use crate::host::{FileError, Machine};
use crate::wire::record::{RecordReader, RecordTooLong, frame};
use crate::wire::xdr::{DecodeError, Text, decode, encode};

/// Between two looks at what is held for long.
const TICK: Duration = Duration::from_millis(100);
/// Most packets between two looks at lockd: they are handled within a millisecond.
const MAX_BATCH: usize = 64;
/// Longest order: a file handle and some numbers.
const MAX_ORDER: usize = 4 << 10;

/// Why the filter ends.
#[derive(Debug, thiserror::Error)]
enum FilterError {
    #[error("usage: nlmctl {COMMAND} QUEUE")]
    Usage,
    #[error(transparent)]
    File(#[from] FileError),
    #[error(
        "cannot take queue {0} of netfilter ({1}): /proc/net/netfilter/nfnetlink_queue lists those that programs have"
    )]
    Queue(u16, #[source] io::Error),
    #[error("cannot {0}: {1}")]
    System(&'static str, #[source] io::Error),
    #[error("the keeper sent what is no order: {0}")]
    Order(#[from] DecodeError),
    #[error("the keeper sent {0}")]
    Record(#[from] RecordTooLong),
}

fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> FilterError {
    move |error| FilterError::System(what, error.into())
}

/// The filter's own life: `args` are those behind [`COMMAND`], the queue's number, and in tests the root of the machine's
/// files.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "nlmctl's filter: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut args: impl Iterator<Item = OsString>) -> Result<(), FilterError> {
    let queue = args.next().and_then(|word| word.to_str()?.parse().ok()).ok_or(FilterError::Usage)?;
    let machine = args.next().map_or_else(Machine::default, Machine::at);
    // What ends the others ends this one only when its work is done.
    SigSet::all().thread_block().map_err(system("block signals"))?;
    let line = io::stdin().as_fd().try_clone_to_owned().map_err(system("use stdin"))?;
    let mut line = UnixStream::from(line);
    let (lockd, queue) = match begin(machine, queue) {
        Ok(begun) => begun,
        Err(error) => {
            // The keeper may be gone already.
            let _ = line.write_all(&frame(&encode(&FilterEvent::Superseded(Text::clipped(error.to_string())))));
            return Err(error);
        }
    };
    Filter {
        line,
        orders: RecordReader::new(MAX_ORDER),
        lockd,
        queue,
        traffic: Traffic::default(),
        open: OpenAnswers::default(),
        takes_packets: false,
        begun: Instant::now(),
        ticked: Duration::ZERO,
        lost: 0,
    }
    .serve()
}

fn begin(machine: Machine, queue: u16) -> Result<(Lockd, Queue), FilterError> {
    let lockd = Lockd::find(machine)?;
    let queue = Queue::open(queue).map_err(|error| FilterError::Queue(queue, error))?;
    Ok((lockd, queue))
}

/// Orders to answer that are not answered yet.
#[derive(Debug, Default)]
struct OpenAnswers {
    numbers: Vec<u64>,
    /// Packets that were handled since the last one of them came.
    handled: usize,
}

impl OpenAnswers {
    fn asked(&mut self, number: u64) {
        self.numbers.push(number);
        self.handled = 0;
    }

    fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// So many more packets were handled; those that can be answered. What comes faster than it is handled does not put them
    /// off for ever: the queue has no more than [`LENGTH`].
    fn due(&mut self, handled: usize, none_left: bool) -> Vec<u64> {
        self.handled += handled;
        if none_left || self.handled >= LENGTH as usize { std::mem::take(&mut self.numbers) } else { Vec::new() }
    }
}

struct Filter {
    line: UnixStream,
    orders: RecordReader,
    lockd: Lockd,
    queue: Queue,
    traffic: Traffic,
    open: OpenAnswers,
    /// The mode is known, or does not count any more.
    takes_packets: bool,
    begun: Instant,
    ticked: Duration,
    /// Packets that did not come to this process.
    lost: u64,
}

impl Filter {
    fn serve(mut self) -> Result<(), FilterError> {
        loop {
            let (has_orders, has_packets) = self.wait()?;
            // An order is obeyed before the packets that came after it.
            if has_orders && !self.obey()? {
                return Ok(());
            }
            let reads = has_packets || (self.takes_packets && !self.open.is_empty());
            let (packets, none_left) = if reads { self.receive()? } else { (Vec::new(), true) };
            if let Some(obstacle) = self.lockd.obstacle() {
                self.supersede(obstacle);
            }
            let now = self.begun.elapsed();
            let due = self.open.due(packets.len(), none_left);
            for packet in packets {
                self.traffic.packet(now, packet);
            }
            let ticks = now >= self.ticked + TICK;
            if ticks || !due.is_empty() {
                self.look_for_lost()?;
            }
            for number in due {
                self.traffic.order(Order::Answer(number));
            }
            if ticks {
                self.ticked = now;
                self.traffic.tick(now);
                if let Some(obstacle) = self.lockd.obstacle_of_nfsd() {
                    self.supersede(obstacle);
                }
            }
            self.answer()?;
        }
    }

    fn look_for_lost(&mut self) -> Result<(), FilterError> {
        let lost = self.lockd.machine.lost_packets(self.queue.number())?;
        if std::mem::replace(&mut self.lost, lost) < lost {
            self.traffic.lost();
        }
        Ok(())
    }

    fn supersede(&mut self, why: &str) {
        self.takes_packets = true;
        self.traffic.supersede(why);
    }

    /// Waits for orders and packets, and not longer than to the next tick.
    fn wait(&self) -> Result<(bool, bool), FilterError> {
        let mut ready =
            [PollFd::new(self.line.as_fd(), PollFlags::POLLIN), PollFd::new(self.queue.as_fd(), PollFlags::POLLIN)];
        let count = if self.takes_packets { 2 } else { 1 };
        let limit = if self.open.is_empty() { TICK } else { Duration::ZERO };
        match poll(
            ready.get_mut(..count).unwrap_or_default(),
            PollTimeout::try_from(limit).unwrap_or(PollTimeout::ZERO),
        ) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(system("wait")(error)),
        }
        let [line, queue] = ready.map(|ready| ready.any().unwrap_or_default());
        Ok((line, queue))
    }

    /// Reads orders; false: the keeper is gone.
    fn obey(&mut self) -> Result<bool, FilterError> {
        let mut bytes = [0; 16 << 10];
        let len = match self.line.read(&mut bytes) {
            Ok(0) => return Ok(false),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
            Err(error) => return Err(system("read orders")(error)),
        };
        self.orders.push(bytes.get(..len).unwrap_or_default());
        while let Some(order) = self.orders.next()? {
            let order = decode::<Order>(&order)?;
            self.takes_packets |= matches!(order, Order::Mode(_));
            match order {
                Order::Answer(number) => self.open.asked(number),
                order => self.traffic.order(order),
            }
        }
        Ok(true)
    }

    /// Packets, and whether none are left.
    fn receive(&mut self) -> Result<(Vec<Packet>, bool), FilterError> {
        let mut packets = Vec::new();
        for _ in 0..MAX_BATCH {
            match self.queue.receive().map_err(system("read the queue"))? {
                Some(more) => packets.extend(more),
                None => return Ok((packets, true)),
            }
        }
        Ok((packets, false))
    }

    /// Tells, and only then gives verdicts.
    fn answer(&mut self) -> Result<(), FilterError> {
        let (told, verdicts) = self.traffic.take();
        let told: Vec<u8> = told.iter().flat_map(|told: &FilterEvent| frame(&encode(told))).collect();
        if !told.is_empty() {
            self.line.write_all(&told).map_err(system("tell the keeper"))?;
        }
        self.queue.give(&verdicts).map_err(system("give verdicts"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_to_answer_waits_for_the_packets_that_came_before_it_and_for_no_more_than_a_queue_of_them() {
        let mut open = OpenAnswers::default();
        open.asked(1);
        assert!(open.due(64, false).is_empty());
        open.asked(2);
        assert_eq!(open.due(64, true), [1, 2]);
        assert!(open.is_empty() && open.due(64, true).is_empty());
        open.asked(3);
        let turns = (1..=LENGTH as usize).find(|_| !open.due(MAX_BATCH, false).is_empty());
        assert_eq!(turns, Some(LENGTH as usize / MAX_BATCH));
    }
}
