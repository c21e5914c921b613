//! What this host's resolver says of a name.

use std::net::IpAddr;
use std::time::Duration;

use crate::wire::scope;
use crate::wire::types::CallerName;

/// How long one look-up may take.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Forward: name to addresses. Nothing, where that takes too long.
pub async fn look_up(name: &CallerName, patience: Duration) -> Vec<IpAddr> {
    let Some(host) = name.host() else { return Vec::new() };
    match tokio::time::timeout(patience, tokio::net::lookup_host((host, 0))).await {
        Ok(Ok(found)) => scope::found(found).collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}
