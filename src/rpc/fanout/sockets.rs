//! The UDP sockets of a fan-out.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::task::Poll;

use super::queue::Lane;
use super::target::{Host, Target};
use crate::rpc::udp::UdpEndpoint;

/// The buffers that are asked for, for receiving and for sending, in bytes.
pub(super) const BUFFER: usize = 16 << 20;
/// What the kernel charges a receive buffer for one answer, in bytes (measured on Linux).
const COST_OF_ANSWER: usize = 832;
/// With less than this window on IPv4, more sockets are opened.
const ENOUGH_WINDOW: usize = 2048;
/// Most sockets for IPv4: with each its buffer is as large again, and so is the look at all of them.
pub(super) const MOST_LANES: usize = 4;

/// The sockets of a fan-out, and what each has room for.
pub(super) struct Sockets {
    pub(super) endpoints: Vec<UdpEndpoint>,
    pub(super) lanes: Vec<Lane>,
}

impl Sockets {
    /// Opens what the targets need. A name may turn out to have addresses of either family; a host
    /// without IPv6 does not fail for that. Each gets buffers of `buffer` bytes, or what
    /// the kernel allows.
    pub(super) fn open(targets: &[Target], buffer: usize) -> io::Result<Self> {
        let (mut v4, mut v6) = (false, false);
        for target in targets {
            match &target.host {
                // A name asked for later may have either family; what has no socket is left out.
                Host::Addresses(addresses) | Host::Client { addresses, .. } => {
                    v4 |= addresses.iter().any(IpAddr::is_ipv4);
                    v6 |= addresses.iter().any(IpAddr::is_ipv6);
                }
                Host::Name(_) => (v4, v6) = (true, true),
            }
        }
        let mut sockets = Self { endpoints: Vec::new(), lanes: Vec::new() };
        let mut failed = None;
        if v4 {
            failed = sockets.add(Ipv4Addr::UNSPECIFIED.into(), buffer).err();
            while failed.is_none()
                && sockets.endpoints.len() < MOST_LANES
                && sockets.lanes.iter().map(|lane| lane.window).sum::<usize>() < ENOUGH_WINDOW
            {
                if sockets.add(Ipv4Addr::UNSPECIFIED.into(), buffer).is_err() {
                    break;
                }
            }
        }
        if v6 {
            failed = sockets.add(Ipv6Addr::UNSPECIFIED.into(), buffer).err().or(failed);
        }
        match failed {
            Some(error) if sockets.endpoints.is_empty() => Err(error),
            _ => Ok(sockets),
        }
    }

    fn add(&mut self, ip: IpAddr, buffer: usize) -> io::Result<()> {
        let endpoint = UdpEndpoint::bind_reserved(ip)?;
        endpoint.watch_refused()?;
        let room = endpoint.raise_buffers(buffer);
        self.lanes.push(Lane { ipv6: ip.is_ipv6(), window: (room / COST_OF_ANSWER).max(1) });
        self.endpoints.push(endpoint);
        Ok(())
    }

    /// Waits until one of them may have something.
    pub(super) async fn readable(&self) -> io::Result<()> {
        let mut waits: Vec<Pin<Box<dyn Future<Output = io::Result<()>> + Send + '_>>> = Vec::new();
        for endpoint in &self.endpoints {
            waits.push(Box::pin(endpoint.readable()));
        }
        poll_fn(|context| {
            for wait in &mut waits {
                if let Poll::Ready(ready) = wait.as_mut().poll(context) {
                    return Poll::Ready(ready);
                }
            }
            Poll::Pending
        })
        .await
    }
}
