//! Frees locks outside of any run: those of chosen clients, or single ones.

use super::backend::{Backend, LocksReleased, refused};
use super::{Adapter, results};
use crate::manager::{Freed, ManagerError};
use crate::wire::control::{ClientSeen, LockRow, RefusalCode, Released};
use crate::wire::xdr::List;

impl<B: Backend> Adapter<B> {
    pub(super) async fn release_clients(&self, clients: &[ClientSeen]) -> Result<Freed, ManagerError> {
        let (this, clients) = (self.clone(), clients.to_vec());
        self.alone(async move {
            let mut all = Released::default();
            let (mut rows, mut notes, mut unverified) = (Vec::new(), Vec::new(), false);
            let mut clients = clients.iter().enumerate();
            while let Some((place, client)) = clients.next() {
                let one = match this.backend.release_client(&client.name).await {
                    Ok(one) => one,
                    Err(error) if place == 0 => return Err(error),
                    // It holds nothing any more.
                    Err(error @ ManagerError::Refused(_)) => {
                        notes.push(format!("{}: {error}", client.name));
                        continue;
                    }
                    // What went before is free all the same, and is told.
                    Err(error) => {
                        unverified = match error {
                            ManagerError::Lost { .. } | ManagerError::Protocol { .. } => true,
                            ManagerError::Unreachable { .. } | ManagerError::Refused(_) => false,
                        };
                        all.left += 1;
                        notes.push(format!("{}: {error}", client.name));
                        for (_, client) in clients {
                            all.left += 1;
                            notes.push(format!("{}: not tried after that", client.name));
                        }
                        break;
                    }
                };
                all.locks += one.freed.len() as u64;
                all.offered += one.offered;
                // Their number is not known.
                all.left += u64::from(one.left);
                notes.extend(one.note.map(|note| format!("{}: {note}", client.name)));
                rows.extend(one.freed.iter().map(results::row));
            }
            all.rows = List::clipped(rows);
            Ok(Freed { notes, unverified, ..all.into() })
        })
        .await
    }

    pub(super) async fn release_locks(&self, locks: &[LockRow]) -> Result<Freed, ManagerError> {
        let (this, locks) = (self.clone(), locks.to_vec());
        self.alone(async move { Ok(freed(this.backend.release_locks(&locks).await?)) }).await
    }

    /// One process at a time: another one would take what this one uses meanwhile for left over, and remove it; and what is
    /// freed in the middle of another one's run makes that run's account wrong. A caller that goes away does not stop it in
    /// the middle.
    async fn alone(
        &self,
        releasing: impl Future<Output = Result<Freed, ManagerError>> + Send + 'static,
    ) -> Result<Freed, ManagerError> {
        if !self.drive().await? {
            return refused(RefusalCode::RunActive, self.backend.is_driven());
        }
        let this = self.clone();
        let releasing = tokio::spawn(async move {
            let released = releasing.await;
            this.state().driving = None;
            released
        });
        match releasing.await {
            Ok(released) => released,
            Err(_) => Err(ManagerError::Lost {
                endpoint: self.backend.endpoint(),
                what: "the task that released died".into(),
            }),
        }
    }
}

fn freed(done: LocksReleased) -> Freed {
    let LocksReleased { freed, left, waiters, offered, notes } = done;
    let (left_rows, why_left): (Vec<LockRow>, Vec<String>) = left.into_iter().unzip();
    Freed {
        released: Released {
            locks: freed.len() as u64,
            waiters,
            offered,
            left: left_rows.len() as u64,
            rows: List::clipped(freed),
            left_rows: List::clipped(left_rows),
        },
        why_left,
        notes,
        unverified: false,
    }
}
