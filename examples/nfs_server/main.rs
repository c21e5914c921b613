//! An NFSv3 server over TCP for one directory, made with the nfs3_server crate.
//!
//! ```sh
//! cargo run --example nfs_server -- --root /srv/export --no-locks      # beside an nlmd
//! mount -t nfs -o vers=3,proto=tcp server:/ /mnt
//! ```
//!
//! | file | what |
//! |---|---|
//! | `export` | the directory: handles that outlive a restart, and the files behind them |
//! | `vfs` | the directory as the nfs3_server crate wants it |

mod export;
mod vfs;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use nfs3_server::nfs3_types::{mount, nfs3};
use nfs3_server::tcp::{NFSTcp, NFSTcpListener};
use nlmctl::lockd::registry;
use nlmctl::rpc::rpcbind::local::Registration;
use nlmctl::wire::rpcbind;
use nlmctl::wire::types::Transport;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

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
    /// Locks are served by an nlmd beside this server
    #[arg(long)]
    no_locks: bool,
    /// Once everything listens, the ports are written here as JSON
    #[arg(long, value_name = "FILE")]
    ports_file: Option<PathBuf>,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(io::stderr).init();
    match serve(Flags::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!("{failure}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(flags: Flags) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let export = Export::new(&flags.root).map_err(|error| format!("--root {}: {error}", flags.root.display()))?;
    let vfs = Vfs::new(Arc::new(export))?;

    let mut listeners = Vec::new();
    let mut port = flags.nfs_port;
    let addresses = if flags.listen.is_empty() { vec![Ipv4Addr::UNSPECIFIED] } else { flags.listen.clone() };
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

    let mut serving = JoinSet::new();
    for listener in listeners {
        serving.spawn(async move { listener.handle_forever().await });
    }
    if let Some(path) = &flags.ports_file {
        let draft = path.with_extension("new");
        std::fs::write(&draft, serde_json::json!({ "nfs_tcp": port }).to_string() + "\n")?;
        std::fs::rename(&draft, path)?;
    }
    tracing::info!(root = %flags.root.display(), port, "the NFS server is up");
    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        Some(ended) = serving.join_next() => Err(format!("a socket failed: {ended:?}").into()),
    };
    registry::unregister(flags.rpcbind_port, &registered).await;
    ended
}
