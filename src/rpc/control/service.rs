//! Calls of the control protocol to a [`LockManagerControl`], and its answers back.

use std::convert::identity;
use std::sync::Arc;

use async_trait::async_trait;

use crate::rpc::server::{ConnectionId, Origin, Peer, Service};
use crate::wire::control::{
    BeginArgs, Begun, ClientPage, ClientResultPage, ExtendArgs, Info, LockFatePage, LockPage, LocksArgs, PROGRAM,
    PageAfter, Procedure, ProgressArgs, Refusal, RefusalCode, ReleaseArgs, Released, Response, RunArgs, RunClientPage,
    RunList, RunPageAfter, RunResult, SettleArgs, Status, VERSION, WatchArgs, Watched, procedures,
};
use crate::wire::rpc::{Answer, IncomingCall};
use crate::wire::xdr::{Pack, Unpack, Void, decode, encode};

macro_rules! serve {
    ($($(#[$doc:meta])* $number:literal $name:ident:
       $method:ident($($args:ty $(, from $from:ty)?)?) -> $reply:ty, $reads:ident;)*) => {
        /// A lock manager that cooperates. `wire/control.x` says what each procedure promises.
        #[async_trait]
        pub trait LockManagerControl: Send + Sync + 'static {
            $($(#[$doc])*
            async fn $method(&self $(, args: $args $(, from: $from)?)?) -> Result<$reply, Refusal>;)*

            /// A connection has ended: it is no run's controller any more.
            fn connection_closed(&self, connection: ConnectionId) {
                let _ = connection;
            }
        }

        async fn dispatch(
            manager: &impl LockManagerControl,
            procedure: Procedure,
            bytes: &[u8],
            connection: ConnectionId,
        ) -> Answer {
            match procedure {
                Procedure::Null => Answer::Success(Vec::new()),
                $(Procedure::$name => answered(manager.$method($(
                    match decode::<$args>(bytes) {
                        Ok(args) => args,
                        Err(_) => return Answer::GarbageArgs,
                    }
                    $(, identity::<$from>(connection))?
                )?).await),)*
            }
        }
    };
}
procedures!(serve);

fn answered<T: Pack + Unpack>(outcome: Result<T, Refusal>) -> Answer {
    Answer::Success(encode(&Response::from(outcome)))
}

/// A lock manager as an RPC service.
pub(super) struct ControlService<M> {
    pub(super) manager: Arc<M>,
    pub(super) read_only: bool,
}

#[async_trait]
impl<M: LockManagerControl> Service for ControlService<M> {
    async fn call(&self, origin: &Origin, call: &IncomingCall<'_>) -> Option<Answer> {
        let IncomingCall { program, version, procedure: number, args, .. } = *call;
        let (Some(connection), PROGRAM) = (origin.connection, program) else { return Some(Answer::ProgUnavail) };
        if version != VERSION {
            return Some(Answer::ProgMismatch { low: VERSION, high: VERSION });
        }
        let Some(procedure) = Procedure::from_number(number) else { return Some(Answer::ProcUnavail) };
        if self.read_only && !procedure.is_read_only() {
            let words = "this is the read-only socket; use the one of --control";
            return Some(answered::<Void>(Err(Refusal::new(RefusalCode::NotAllowed, words))));
        }
        Some(dispatch(&*self.manager, procedure, args, connection).await)
    }

    /// Root and this process' own user may drive; every user may look.
    fn admits(&self, peer: &Peer) -> bool {
        match peer {
            _ if self.read_only => true,
            Peer::Unix { uid, .. } if *uid == 0 || *uid == nix::unistd::geteuid().as_raw() => true,
            Peer::Unix { .. } | Peer::Inet(_) => {
                tracing::warn!(?peer, "a control connection is refused: only root and this process' user may drive it");
                false
            }
        }
    }

    fn connection_closed(&self, connection: ConnectionId) {
        self.manager.connection_closed(connection);
    }
}
