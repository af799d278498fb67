//! Owns one connection: starts a task per lane and ends with the last; does not read frames.

use std::sync::Arc;

use quinn::Connection;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::listener::close;
use super::{Inner, Phase, lane};
use crate::identity::Peer;
use crate::wire::CloseCode;

/// Serves `connection` until its peer leaves or the node stops.
pub(super) async fn run(inner: &Arc<Inner>, connection: &Connection, peer: Arc<Peer>) {
    let mut phase = inner.phase.subscribe();
    let mut lanes = JoinSet::new();
    loop {
        let no_lane = lanes.is_empty();
        tokio::select! {
            // quinn bounds how many are open at a time.
            streams = connection.accept_bi() => match streams {
                Ok((send, recv)) => {
                    lanes.spawn(lane::run(inner.clone(), peer.clone(), send, recv));
                }
                Err(_) => break,
            },
            Some(_) = lanes.join_next(), if !no_lane => {}
            () = sleep(inner.config.first_frame_timeout), if no_lane => {
                close(connection, CloseCode::IdleTimeout, "no lane was open for too long");
                return;
            }
            _ = phase.wait_for(|phase| *phase != Phase::Serving) => break,
        }
    }
    while lanes.join_next().await.is_some() {}
    if *phase.borrow() == Phase::Serving {
        close(connection, CloseCode::Done, "");
    } else {
        close(connection, CloseCode::ShuttingDown, "the node is stopping");
    }
}
