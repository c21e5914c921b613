//! NFS-Ganesha's D-Bus interface, as far as a run needs it.
//!
//! `grace` takes a word `EVENT:ARGUMENT` and answers "Started grace period" also when it did something else. Each
//! event starts grace, or starts its clock again. What else they do was read in the sources of 4.3
//! (`SAL/nfs4_recovery.c`) and measured:
//!
//! | event | NLM | NFSv4 |
//! |---|---|---|
//! | 0 just grace | nothing | nothing |
//! | 1 clear blocked | cancels blocked requests | nothing |
//! | 2 release IP | as 1, and releases every client that holds a lock through the server address IP | expires every client whose id has IP in it as text: all of them if IP is empty, most NFSv4.0 clients of Linux that mounted through it otherwise |
//! | 5 take IP | as 2 | nothing while grace is on already |
//!
//! So a release is event 5, in a grace that event 1 has started; event 2 cannot be said here.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use zbus::{Connection, Structure, Variant, connection, fdo, proxy};

/// The name that Ganesha owns on the bus.
const NAME: &str = "org.ganesha.nfsd";
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(30);
/// Where its clients are listed.
const CLIENTS: (&str, &str) = ("/org/ganesha/nfsd/ClientMgr", "org.ganesha.nfsd.clientmgr");

/// Ganesha was not reached over the bus, or its answer makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// There is no bus, or this process may not use it.
    #[error("the system bus: {0}")]
    NoBus(#[source] zbus::Error),
    /// Ganesha's name has no owner.
    #[error("the name {NAME} has no owner on the system bus")]
    NotThere,
    #[error("{method}: {error}")]
    Call { method: &'static str, error: zbus::Error },
    #[error("{method}: {answer}")]
    Refused { method: &'static str, answer: String },
    /// An answer of another form than 4.3 gives.
    #[error("{method}: an answer that this version does not understand: {answer}")]
    Odd { method: &'static str, answer: String },
}

impl BusError {
    /// Whether Ganesha is not there at all.
    pub(super) fn is_absent(&self) -> bool {
        match self {
            Self::NoBus(_) | Self::NotThere => true,
            Self::Call { .. } | Self::Refused { .. } | Self::Odd { .. } => false,
        }
    }
}

/// What `grace` is asked for: see the table above. No event that expires NFSv4 clients can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GraceEvent {
    /// Grace, and its clock from the start.
    Start,
    /// Likewise, and blocked requests are cancelled.
    CancelWaiters,
    /// Likewise, and clients that hold a lock through this server address lose all of theirs. Those
    /// that came over UDP called the unspecified address. Only while grace is on.
    Release(IpAddr),
}

impl fmt::Display for GraceEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("0:"),
            Self::CancelWaiters => f.write_str("1:"),
            Self::Release(address) => write!(f, "5:{address}"),
        }
    }
}

#[proxy(
    interface = "org.ganesha.nfsd.admin",
    default_service = "org.ganesha.nfsd",
    default_path = "/org/ganesha/nfsd/admin"
)]
trait Admin {
    #[zbus(name = "grace")]
    fn grace(&self, event: &str) -> zbus::Result<(bool, String)>;
    #[zbus(name = "get_grace")]
    fn get_grace(&self) -> zbus::Result<(bool, bool, String)>;
    #[zbus(property(emits_changed_signal = "false"), name = "VERSION_RELEASE")]
    fn version_release(&self) -> zbus::Result<String>;
}

/// A client as Ganesha's statistics have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClientStats {
    pub(super) address: IpAddr,
    /// The protocols it was seen to speak since Ganesha started, as Ganesha names them.
    pub(super) protocols: Vec<String>,
}

impl ClientStats {
    pub(super) fn speaks_v4(&self) -> bool {
        self.protocols.iter().any(|protocol| protocol.starts_with("NFSv4"))
    }
}

/// A connection to the system bus.
#[derive(Debug, Clone)]
pub(super) struct Bus {
    connection: Connection,
}

impl Bus {
    /// Connects. `DBUS_SYSTEM_BUS_ADDRESS` says where the bus is, if not in its usual place.
    pub(super) async fn connect() -> Result<Self, BusError> {
        let builder = connection::Builder::system().method_timeout(ANSWER);
        Ok(Self { connection: builder.build().await.map_err(BusError::NoBus)? })
    }

    async fn admin(&self) -> Result<AdminProxy<'_>, BusError> {
        let call = |error| BusError::Call { method: "admin", error };
        AdminProxy::builder(&self.connection)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await
            .map_err(call)
    }

    pub(super) async fn pid(&self) -> Result<i32, BusError> {
        let call = |error: zbus::Error| BusError::Call { method: "GetConnectionUnixProcessID", error };
        let bus = fdo::DBusProxy::new(&self.connection).await.map_err(BusError::NoBus)?;
        let name = zbus::names::BusName::try_from(NAME).map_err(call)?;
        match bus.get_connection_unix_process_id(name).await {
            Ok(pid) => i32::try_from(pid).map_err(|_| BusError::NotThere),
            Err(fdo::Error::NameHasNoOwner(_)) => Err(BusError::NotThere),
            Err(error) => Err(call(error.into())),
        }
    }

    /// Its version, `4.3` say.
    pub(super) async fn version(&self) -> Result<String, BusError> {
        let call = |error| BusError::Call { method: "VERSION_RELEASE", error };
        self.admin().await?.version_release().await.map_err(call)
    }

    pub(super) async fn in_grace(&self) -> Result<bool, BusError> {
        let call = |error| BusError::Call { method: "get_grace", error };
        let (in_grace, done, answer) = self.admin().await?.get_grace().await.map_err(call)?;
        if done { Ok(in_grace) } else { Err(BusError::Refused { method: "get_grace", answer }) }
    }

    /// Asks for grace. What it did has to be looked at.
    pub(super) async fn grace(&self, event: GraceEvent) -> Result<(), BusError> {
        let call = |error| BusError::Call { method: "grace", error };
        let (done, answer) = self.admin().await?.grace(&event.to_string()).await.map_err(call)?;
        if done { Ok(()) } else { Err(BusError::Refused { method: "grace", answer }) }
    }

    /// All clients that have spoken to it, as far as it keeps statistics.
    pub(super) async fn clients(&self) -> Result<Vec<ClientStats>, BusError> {
        let method = "ShowClients";
        let call = |error| BusError::Call { method, error };
        let (path, interface) = CLIENTS;
        let reply = self.connection.call_method(Some(NAME), path, Some(interface), method, &()).await.map_err(call)?;
        let body = reply.body();
        let answer: Structure<'_> = body.deserialize().map_err(call)?;
        clients_in(&answer).ok_or_else(|| BusError::Odd { method, answer: format!("{}", body.signature()) })
    }
}

/// `(tt)` and `a(s((sb)(sb)..)(tt))`: how many protocols there are depends on how Ganesha was built.
fn clients_in(answer: &Structure<'_>) -> Option<Vec<ClientStats>> {
    let Variant::Array(rows) = answer.fields().get(1)? else { return None };
    rows.iter()
        .map(|row| {
            let Variant::Structure(row) = row else { return None };
            let [Variant::Str(address), Variant::Structure(protocols), ..] = row.fields() else { return None };
            let address = address.parse::<IpAddr>().ok()?.to_canonical();
            let protocols = protocols.fields().iter().filter_map(|protocol| {
                let Variant::Structure(protocol) = protocol else { return None };
                match protocol.fields() {
                    [Variant::Str(name), Variant::Bool(true)] => Some(name.to_string()),
                    _ => None,
                }
            });
            Some(ClientStats { address, protocols: protocols.collect() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_that_is_sent_expires_nfsv4_clients() {
        let addresses = ["192.0.2.1", "2001:db8::1", "::", "0.0.0.0"].map(|a| a.parse().unwrap());
        let events: Vec<_> = [GraceEvent::Start, GraceEvent::CancelWaiters]
            .into_iter()
            .chain(addresses.map(GraceEvent::Release))
            .map(|event| event.to_string())
            .collect();
        assert_eq!(events, ["0:", "1:", "5:192.0.2.1", "5:2001:db8::1", "5:::", "5:0.0.0.0"]);
    }

    #[test]
    fn a_client_list_is_read_however_many_protocols_ganesha_was_built_with() {
        let row = |address: &str, protocols: &[(&str, bool)]| {
            let protocols = protocols
                .iter()
                .fold(Structure::builder(), |built, (name, used)| built.add_field(((*name).to_owned(), *used)));
            Structure::builder()
                .add_field(address.to_owned())
                .append_field(Variant::Structure(protocols.build().unwrap()))
                .add_field((1_u64, 2_u64))
                .build()
                .unwrap()
        };
        let two: Vec<Variant<'_>> = vec![
            row("::ffff:192.0.2.7", &[("NFSv3", true), ("NFSv40", false)]).into(),
            row("192.0.2.8", &[("NFSv3", false), ("NFSv40", true)]).into(),
        ];
        let mut rows = zbus::Array::new(two[0].value_signature());
        for row in two {
            rows.append(row).unwrap();
        }
        let answer = Structure::builder().add_field((1_u64, 2_u64)).append_field(Variant::Array(rows)).build().unwrap();
        let clients = clients_in(&answer).unwrap();
        assert_eq!(clients[0].address, "192.0.2.7".parse::<IpAddr>().unwrap());
        assert_eq!(clients.iter().map(ClientStats::speaks_v4).collect::<Vec<_>>(), [false, true]);
        let other = Structure::builder().add_field(1_u64).build().unwrap();
        assert_eq!(clients_in(&other), None);
    }
}
