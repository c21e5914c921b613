//! An NFSv3 server over TCP for one directory, made with the nfs3_server crate, with locks that work:
//! nlmd's heart in the same process. Its locks hold against local processes too.
//!
//! ```sh
//! cargo run --example nfs_server -- --root /srv/export
//! mount -t nfs -o vers=3,proto=tcp server:/ /mnt
//! nlmctl resync              # through the control socket, as with nlmd
//! ```
//!
//! | file | what |
//! |---|---|
//! | `export` | the directory: handles that outlive a restart, and the files behind them |
//! | `vfs` | the directory as the nfs3_server crate wants it |
//! | `locks` | what the lock manager asks this server; start here to embed it into another one |

mod export;
mod locks;
mod vfs;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use nfs3_server::nfs3_types::{mount, nfs3};
use nfs3_server::tcp::{NFSTcp, NFSTcpListener};
use nlmctl::lockd::registry::Registration;
use nlmctl::lockd::{self, Server, Settings, registry};
use nlmctl::wire::rpcbind;
use nlmctl::wire::types::{CallerName, Transport};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use export::Export;
use vfs::Vfs;

/// An NFSv3 server over TCP for one directory.
#[derive(Debug, Parser)]
#[command(name = "nfs_server", args_override_self = true)]
struct Flags {
    /// The directory to export
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// An IPv4 address to serve, any number of times [default: 0.0.0.0]
    #[arg(long, value_name = "ADDR")]
    listen: Vec<Ipv4Addr>,
    /// The port of NFS and MOUNT; 0 is any free one
    #[arg(long, value_name = "N", default_value_t = 2049)]
    nfs_port: u16,
    /// Do not register with this host's rpcbind
    #[arg(long)]
    no_rpcbind: bool,
    /// The port of rpcbind
    #[arg(long, value_name = "N", default_value_t = rpcbind::PORT)]
    rpcbind_port: u16,
    /// Serve no locks: an nlmd beside this server does
    #[arg(long)]
    no_locks: bool,
    /// Where the lock manager keeps what it must know after a restart
    #[arg(long, value_name = "DIR", default_value = "/var/lib/nlmd")]
    state_dir: PathBuf,
    /// The Unix socket by which nlmctl drives the lock manager
    #[arg(long, value_name = "PATH", default_value = "/run/nlmd/control.sock")]
    control: PathBuf,
    /// After a restart, how long clients have to reclaim their locks
    #[arg(long, value_name = "TIME", default_value = "90s", value_parser = humantime::parse_duration)]
    grace: Duration,
    /// A name under which clients know this server, any number of times [default: the full, then the short host name]
    #[arg(long, value_name = "NAME", value_parser = host_name)]
    name: Vec<CallerName>,
    /// The port of NLM; 0 is any free one
    #[arg(long, value_name = "N", default_value_t = 0)]
    nlm_port: u16,
    /// The port of NSM; 0 is any free one
    #[arg(long, value_name = "N", default_value_t = 0)]
    nsm_port: u16,
    /// Once everything listens, the ports are written here as JSON
    #[arg(long, value_name = "FILE")]
    ports_file: Option<PathBuf>,
}

fn host_name(text: &str) -> Result<CallerName, String> {
    CallerName::new(text).map_err(|error| error.to_string())
}

impl Flags {
    fn addresses(&self) -> Vec<Ipv4Addr> {
        if self.listen.is_empty() { vec![Ipv4Addr::UNSPECIFIED] } else { self.listen.clone() }
    }

    /// Of the lock manager.
    fn settings(&self) -> Settings {
        Settings {
            listen: self.addresses().into_iter().map(Into::into).collect(),
            names: self.name.clone(),
            nlm_port: self.nlm_port,
            nsm_port: self.nsm_port,
            register: !self.no_rpcbind,
            rpcbind_port: self.rpcbind_port,
            grace: self.grace,
            ..Settings::new(&self.state_dir, &self.control)
        }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let asked = std::env::var("RUST_LOG").ok().and_then(|asked| asked.parse().ok());
    let levels: Targets = asked.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(io::stderr);
    tracing_subscriber::registry().with(lines.with_filter(levels)).init();
    match serve(Flags::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!("{failure}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(flags: Flags) -> Result<(), Failure> {
    lockd::raise_open_files();
    let export = Export::new(&flags.root).map_err(|error| format!("--root {}: {error}", flags.root.display()))?;
    let export = Arc::new(export);
    let vfs = Vfs::new(export.clone())?;

    let mut listeners = Vec::new();
    let mut port = flags.nfs_port;
    let addresses = flags.addresses();
    for address in &addresses {
        let at = format!("{address}:{port}");
        let listener = NFSTcpListener::bind_with_generation(&at, vfs.clone(), export::GENERATION)
            .await
            .map_err(|error| format!("cannot listen on {at}: {error}; give another --listen or --nfs-port"))?;
        port = listener.get_listen_port();
        listeners.push(listener);
    }
    let registrations: Vec<Registration> = [(nfs3::PROGRAM, nfs3::VERSION), (mount::PROGRAM, mount::VERSION)]
        .into_iter()
        .map(|(program, version)| Registration {
            program,
            version,
            transport: Transport::Tcp,
            // rpcbind knows one port for all addresses.
            address: SocketAddr::new(addresses.first().copied().unwrap_or(Ipv4Addr::UNSPECIFIED).into(), port),
        })
        .collect();
    let registered =
        if flags.no_rpcbind { Vec::new() } else { registry::register(flags.rpcbind_port, &registrations).await? };
    // The lock manager is there before any file is served: a client locks right after it opens.
    let served = match start_locks(&flags, &export).await {
        Ok(locks) => serve_both(&flags, port, listeners, locks).await,
        Err(failure) => Err(failure),
    };
    registry::unregister(flags.rpcbind_port, &registered).await;
    served
}

async fn start_locks(flags: &Flags, export: &Arc<Export>) -> Result<Option<Server>, Failure> {
    if flags.no_locks {
        return Ok(None);
    }
    Ok(Some(Server::start(flags.settings(), locks::embedding(export)).await?))
}

/// Until a signal comes or a socket fails.
async fn serve_both(
    flags: &Flags,
    port: u16,
    listeners: Vec<NFSTcpListener<Vfs>>,
    locks: Option<Server>,
) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut serving = JoinSet::new();
    for listener in listeners {
        serving.spawn(async move { listener.handle_forever().await });
    }
    if let Some(path) = &flags.ports_file {
        write_ports(path, port, locks.as_ref())?;
    }
    tracing::info!(root = %flags.root.display(), port, "the NFS server is up");
    let mut ended = Ok(());
    let stopped = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            Some(socket) = serving.join_next() => ended = Err(format!("a socket failed: {socket:?}").into()),
        }
    };
    if let Some(locks) = locks {
        locks.serve_until(stopped).await?;
    } else {
        stopped.await;
    }
    ended
}

/// All of the file or none.
fn write_ports(path: &Path, nfs_tcp: u16, locks: Option<&Server>) -> Result<(), Failure> {
    let of_locks = locks.map(|locks| serde_json::to_value(locks.ports())).transpose()?;
    let mut ports = of_locks.unwrap_or_else(|| serde_json::json!({}));
    if let Some(ports) = ports.as_object_mut() {
        ports.insert("nfs_tcp".to_owned(), nfs_tcp.into());
    }
    let draft = path.with_extension("new");
    std::fs::write(&draft, format!("{ports}\n"))?;
    Ok(std::fs::rename(&draft, path)?)
}
