//! A port, and the server on it.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;

/// How often a flag is read.
const POLL: Duration = Duration::from_millis(50);

/// An open port, not yet served.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Opens a port; port 0 takes a free one.
    ///
    /// # Errors
    /// When the port cannot be opened.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self { address: listener.local_addr()?, listener })
    }

    /// The address that was opened.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves on this thread until `stop` is ready. Open requests then have `grace` to finish; after that they are cut, and blocking work that
    /// they started is not waited for.
    ///
    /// # Errors
    /// When the server cannot be set up, or with the error of `stop`.
    pub fn run_until(
        self,
        router: Router,
        stop: impl Future<Output = io::Result<()>>,
        grace: Duration,
    ) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let ended = runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(self.listener)?;
            let router = router.into_make_service_with_connect_info::<SocketAddr>();
            let (tell, told) = tokio::sync::oneshot::channel::<()>();
            let server = axum::serve(listener, router).with_graceful_shutdown(async move {
                // A dropped sender means the same.
                let _ = told.await;
            });
            let mut server = tokio::spawn(server.into_future());
            tokio::select! {
                stopped = stop => stopped?,
                ended = &mut server => return ended.map_err(io::Error::other)?,
            }
            drop(tell);
            match tokio::time::timeout(grace, server).await {
                Ok(ended) => ended.map_err(io::Error::other)?,
                Err(_) => Ok(()),
            }
        });
        runtime.shutdown_background();
        ended
    }
}

/// Ready soon after the flag is set.
pub async fn until_set(stop: &AtomicBool) -> io::Result<()> {
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
