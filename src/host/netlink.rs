//! Netlink over its sockets: the kernel is asked, and answers at once.

use std::fmt::Debug;
use std::io::{self, ErrorKind, Read, Write};
use std::time::Duration;

use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

use crate::wire::netlink::{
    Attribute, CONTROL, FAMILY_ID, FAMILY_NAME, GET_FAMILY, MessageError, ReplyPart, parse, request,
};

/// An answer is there when the question was sent; a kernel that has none does not stop this process.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest datagram that is taken, in bytes; the kernel fills at most 32 KB of one. A longer one is cut off, and
/// what is cut off is no message.
const MAX_ANSWER: usize = 64 << 10;
/// Most datagrams that are looked at for one question, which has one answer and an acknowledgement. More is
/// an error.
const MAX_ANSWERS: usize = 16;
/// Most messages that are looked at for a listing: each is full of answers.
const MAX_LISTED: usize = 4096;

/// What answers: the kernel, or a test.
pub trait Netlink: Debug + Send + Sync {
    /// Sends a command to a family, by its name; the attributes of the answer.
    ///
    /// # Errors
    /// The kernel's errors: `ENOENT` for an unknown family, `EOPNOTSUPP` for an unknown command.
    fn ask(&self, family: &str, command: u8, attributes: &[Attribute]) -> io::Result<Vec<Attribute>>;
}

/// This machine's kernel.
#[derive(Debug)]
pub(super) struct Kernel;

impl Netlink for Kernel {
    fn ask(&self, family: &str, command: u8, attributes: &[Attribute]) -> io::Result<Vec<Attribute>> {
        let socket = open(libc::NETLINK_GENERIC)?;
        let ask = |family, command, attributes: &[_]| {
            exchange(&socket, |sequence| request(family, command, sequence, attributes))
        };
        let named = ask(CONTROL, GET_FAMILY, &[Attribute::text(FAMILY_NAME, family)])?;
        let number =
            Attribute::find(&named, FAMILY_ID).and_then(Attribute::as_number).and_then(|id| u16::try_from(id).ok());
        ask(number.ok_or(ErrorKind::InvalidData)?, command, attributes)
    }
}

/// A socket to this part of the kernel.
///
/// # Errors
/// The kernel does not have the part.
pub fn open(part: i32) -> io::Result<Socket> {
    let kind = Type::from(libc::SOCK_RAW | libc::SOCK_CLOEXEC);
    let socket = Socket::new_raw(Domain::from(libc::AF_NETLINK), kind, Some(Protocol::from(part)))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Sends the question that is made for a number, and reads until its answer has ended.
///
/// # Errors
/// The kernel's errors.
pub fn exchange(
    socket: &Socket,
    question: impl FnOnce(u32) -> Result<Vec<u8>, MessageError>,
) -> io::Result<Vec<Attribute>> {
    Ok(answers(socket, question, MAX_ANSWERS)?.pop().unwrap_or_default())
}

/// Likewise, for a question that has many answers: all of them.
///
/// # Errors
/// The kernel's errors.
pub fn list(
    socket: &Socket,
    question: impl FnOnce(u32) -> Result<Vec<u8>, MessageError>,
) -> io::Result<Vec<Vec<Attribute>>> {
    answers(socket, question, MAX_LISTED)
}

fn answers(
    mut socket: &Socket,
    question: impl FnOnce(u32) -> Result<Vec<u8>, MessageError>,
    most: usize,
) -> io::Result<Vec<Vec<Attribute>>> {
    let odd = |error: MessageError| io::Error::new(ErrorKind::InvalidData, error);
    let sequence = rand::random();
    socket.write_all(&question(sequence).map_err(odd)?)?;
    let (mut answers, mut buffer) = (Vec::new(), vec![0; MAX_ANSWER]);
    for _ in 0..most {
        let length = socket.read(&mut buffer)?;
        for part in parse(buffer.get(..length).unwrap_or_default(), sequence).map_err(odd)? {
            match part {
                ReplyPart::Attributes(told) => answers.push(told),
                ReplyPart::Done(0) => return Ok(answers),
                ReplyPart::Done(error) => return Err(io::Error::from_raw_os_error(error)),
            }
        }
    }
    Err(ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_names_the_family_of_its_families_and_not_one_that_nobody_has() {
        let named = Kernel.ask("nlctrl", GET_FAMILY, &[Attribute::text(FAMILY_NAME, "nlctrl")]).unwrap();
        assert_eq!(Attribute::find(&named, FAMILY_ID).unwrap().as_number(), Some(u32::from(CONTROL)));
        assert_eq!(Attribute::find(&named, FAMILY_NAME).unwrap().as_text(), Some("nlctrl"));
        let error = Kernel.ask("no such family", 1, &[]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        let error = Kernel.ask("nlctrl", 200, &[]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP), "a command that an older kernel does not have");
    }
}
