//! Connections of whoever may reach a port: few at a time, each for a limited time.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    task::AbortHandle,
    time::{sleep, timeout},
};

/// Most connections at a time. One more takes the place of the oldest: whoever is silent holds nobody up.
const MAX_CONNECTIONS: usize = 16;

/// Attends to connections, each of which may last for `patience`.
pub(super) async fn attend<F>(
    listener: TcpListener,
    patience: Duration,
    attend: impl Fn(TcpStream, SocketAddr) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                open.retain(|connection| !connection.is_finished());
                if open.len() == MAX_CONNECTIONS {
                    let _ = open.pop_front().as_ref().map(AbortHandle::abort);
                }
                let attended = attend(stream, peer);
                let connection = tokio::spawn(async move {
                    // Whoever has not said what he wants in time has come for nothing.
                    let _ = timeout(patience, attended).await;
                });
                open.push_back(connection.abort_handle());
            }
            // Out of descriptors, say; that passes.
            Err(_) => sleep(Duration::from_secs(1)).await,
        }
    }
}
