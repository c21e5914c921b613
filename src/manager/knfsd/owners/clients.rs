//! lockd's clients: one `nlm_host` for each address, address called, version and transport.

use std::collections::HashMap;

use super::error::Unsettled;
use super::reader::{Reader, address, number, number32, undisturbed};
use super::view::{ClientHost, Way};
use crate::wire::types::{Address, NsmState, Transport};

/// `NLM_HOST_NRHASH`. A larger table would show in locks of hosts that are not found.
pub(super) const TABLE: u64 = 32;
const TCP: u64 = 6;
const UDP: u64 = 17;

/// A client with the network namespace in which it calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) client: ClientHost,
    pub(super) network: u64,
}

/// All clients, by the address of their records.
pub(super) type Clients = HashMap<u64, Known>;

/// Reads the table of them.
pub(super) fn read(reader: Reader<'_>, table: u64) -> Result<Clients, Unsettled> {
    let layout = &reader.layout.host;
    let mut clients = Clients::new();
    for place in 0..TABLE {
        clients.extend(undisturbed(|| {
            let mut chain = Vec::new();
            reader.each((table + 8 * place, 0), layout.size, layout.link, |at, record| {
                chain.push((at, parse(reader, record)?));
                Ok(())
            })?;
            Ok(chain)
        })?);
    }
    Ok(clients)
}

fn parse(reader: Reader<'_>, record: &[u8]) -> Result<Known, Unsettled> {
    let layout = &reader.layout.host;
    if number(record, layout.is_server)? == 0 {
        return Err(Unsettled::Changed("a host is none of the server's"));
    }
    let version = number32(record, layout.version)?;
    let transport = match number(record, layout.protocol)? {
        TCP => Transport::Tcp,
        UDP => Transport::Udp,
        _ => return Err(Unsettled::Changed("a transport is neither TCP nor UDP")),
    };
    if !matches!(version, 1 | 3 | 4) {
        return Err(Unsettled::Changed("a version is none of NLM's"));
    }
    let (client, server) = (Address(address(record, layout.address)?), Address(address(record, layout.server)?));
    let nsm = number(record, layout.nsm)?;
    let (mut monitored, mut mon_name) = (false, None);
    if nsm != 0 {
        // Up to its last field that counts.
        let length = [layout.monitored, layout.mon_name].map(|field| field.offset() + field.size()).into_iter().max();
        let handle = reader.record(nsm, length.unwrap_or_default())?;
        monitored = number(&handle, layout.monitored)? != 0;
        mon_name = reader.name(number(&handle, layout.mon_name)?)?.filter(|_| monitored);
    }
    let state = NsmState(number32(record, layout.nsm_state)?.cast_signed());
    Ok(Known {
        client: ClientHost {
            way: Way { client, server, version, transport },
            caller: reader.name(number(record, layout.name)?)?.ok_or(Unsettled::Changed("a host has no name"))?,
            mon_name,
            monitored,
            nsm_state: state.is_known().then_some(state),
        },
        network: reader.number_at(number(record, layout.net)?, layout.net_inode)?,
    })
}

/// The client whose record is there.
pub(super) fn client(clients: &Clients, at: u64) -> Result<&Known, Unsettled> {
    clients.get(&at).ok_or(Unsettled::Changed("a host is not in the table of hosts"))
}
