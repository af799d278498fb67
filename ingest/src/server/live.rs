//! Owns the registry of live connections; does not open or judge them.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use quinn::Connection;

use crate::identity::Peer;

/// Live connections with the peers behind them, for revocation and for the end of the node.
#[derive(Debug, Default)]
pub(super) struct Live(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    connections: HashMap<u64, (Connection, Arc<Peer>)>,
}

impl Live {
    pub fn add(&self, connection: Connection, peer: Arc<Peer>) -> u64 {
        let mut state = self.0.lock();
        state.next += 1;
        let id = state.next;
        state.connections.insert(id, (connection, peer));
        id
    }

    pub fn remove(&self, id: u64) {
        self.0.lock().connections.remove(&id);
    }

    pub fn len(&self) -> usize {
        self.0.lock().connections.len()
    }

    /// The connections whose peer meets `condition`.
    pub fn matching(&self, condition: impl Fn(&Peer) -> bool) -> Vec<Connection> {
        let state = self.0.lock();
        state.connections.values().filter(|(_, peer)| condition(peer)).map(|(c, _)| c.clone()).collect()
    }
}
