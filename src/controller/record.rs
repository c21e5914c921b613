//! The record, used from async tasks: SQLite blocks, so each use of it runs on a blocking thread.

use std::sync::{Arc, Mutex, PoisonError};

use super::ControllerError;
use crate::store::{Store, StoreError};

/// A [`Store`] that several tasks may use, one at a time and in the order in which they ask.
#[derive(Debug, Clone)]
pub(super) struct Record(Arc<Mutex<Store>>);

impl Record {
    pub(super) fn new(store: Store) -> Self {
        Self(Arc::new(Mutex::new(store)))
    }

    /// Works with the store, to the end also if the caller is dropped meanwhile.
    pub(super) async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ControllerError> {
        let store = Arc::clone(&self.0);
        let worked =
            tokio::task::spawn_blocking(move || work(&mut store.lock().unwrap_or_else(PoisonError::into_inner)));
        Ok(worked.await.map_err(|_| ControllerError::Internal("a thread that wrote the record died"))??)
    }

    /// The store again, once no other task uses it.
    pub(super) fn into_store(self) -> Result<Store, ControllerError> {
        match Arc::try_unwrap(self.0) {
            Ok(store) => Ok(store.into_inner().unwrap_or_else(PoisonError::into_inner)),
            Err(_) => Err(ControllerError::Internal("the record is still in use")),
        }
    }
}
