//! TCP and UDP sockets of a network namespace (proc(5), `/proc/net`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::files::{FileError, Machine};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// What it is doing.
    pub state: SocketState,
    /// By this number descriptors name it.
    pub inode: u64,
}

/// What a socket is doing, as far as anything here depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketState {
    Established,
    /// TCP: takes connections. UDP: takes datagrams of any sender.
    Serving,
    Other,
}

impl Machine {
    /// The sockets of both families in the folder `net` of this process (`proc/net`) or of another one
    /// (`proc/7/net`), of the transport `tcp` or `udp`.
    pub fn sockets(&self, net: &str, transport: &str) -> Result<Vec<Socket>, FileError> {
        let mut found = parse_sockets(&self.read(&format!("{net}/{transport}"))?);
        match self.read(&format!("{net}/{transport}6")) {
            Ok(text) => found.extend(parse_sockets(&text)),
            // A kernel without IPv6.
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
        Ok(found)
    }
}

fn parse_sockets(text: &str) -> Vec<Socket> {
    text.lines().skip(1).filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Socket> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let address = |place: usize| {
        let (ip, port) = fields.get(place)?.split_once(':')?;
        Some(SocketAddr::new(parse_ip(ip)?, u16::from_str_radix(port, 16).ok()?))
    };
    let state = match *fields.get(3)? {
        "01" => SocketState::Established,
        // TCP_LISTEN, and TCP_CLOSE: how a UDP socket shows that it is not connected.
        "0A" | "07" => SocketState::Serving,
        _ => SocketState::Other,
    };
    Some(Socket { local: address(1)?, remote: address(2)?, state, inode: fields.get(9)?.parse().ok()? })
}

/// Words of four bytes in the machine's order.
fn parse_ip(hex: &str) -> Option<IpAddr> {
    let words: Vec<[u8; 4]> = hex
        .as_bytes()
        .chunks(8)
        .map(|word| Some(u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?.to_ne_bytes()))
        .collect::<Option<_>>()?;
    match words.as_slice() {
        [v4] => Some(Ipv4Addr::from(*v4).into()),
        [_, _, _, _] => <[u8; 16]>::try_from(words.concat()).ok().map(|bytes| Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_words_in_the_machines_order() {
        let words = |ip: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(ip));
        assert_eq!(parse_ip(&words([10, 0, 0, 1])), Some("10.0.0.1".parse().unwrap()));
        let v6 = [[0xfd, 0, 0, 0], [0; 4], [0; 4], [0, 0, 0, 7]].map(words).concat();
        assert_eq!(parse_ip(&v6), Some("fd00::7".parse().unwrap()));
        assert_eq!(parse_ip("zz"), None);
    }

    #[test]
    fn a_line_that_is_odd_hides_no_socket() {
        let good = "5: 00000000:0801 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 468 1 0 100 0 0 10 0";
        let found = parse_sockets(&format!("  sl  local_address\nodd\n7: zz:1 00000000:0000 0A\n{good}\n"));
        let any = |port| SocketAddr::from(([0, 0, 0, 0], port));
        assert_eq!(found, [Socket { local: any(0x0801), remote: any(0), state: SocketState::Serving, inode: 468 }]);
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_odd(text in ".{0,300}") {
            let _ = parse_sockets(&text);
        }
    }
}
