//! The local web server that shows the pairs and takes the answers.
//!
//! Each judge has an unguessable link, `/j/TOKEN`. Only on a loopback address the front page lists the links, for names that the
//! machine itself is asked by, so that no other website can read it.

mod form;
mod handlers;
mod judges;
mod limits;
mod pages;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::error::Error;
use crate::store::Store;
use crate::study::Study;

use handlers::App;

/// How long open requests may take to finish after a signal.
const GRACE: Duration = Duration::from_secs(3);

/// Where and for whom a study is served.
#[derive(Clone, Debug)]
pub struct ServeSettings {
    /// Address to listen on.
    pub host: IpAddr,
    /// Port; 0 takes a free one.
    pub port: u16,
    /// Names of the judges, a line each, optionally followed by a tab and the token of the link.
    pub judges: Option<PathBuf>,
    /// Beginning of the links, when judges reach the server by another address, such as a proxy's.
    pub url: Option<String>,
}

impl Default for ServeSettings {
    fn default() -> Self {
        Self { host: Ipv4Addr::LOCALHOST.into(), port: 0, judges: None, url: None }
    }
}

/// A judge's link.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Link {
    /// Judge, from 1.
    pub judge: usize,
    /// Name.
    pub name: String,
    /// Address of the judge's pages, to be kept secret.
    pub url: String,
    /// Tasks answered.
    pub answered: usize,
    /// Tasks in all.
    pub tasks: usize,
}

/// A study on an open port, not yet served.
#[derive(Debug)]
pub struct Server {
    server: mixce_web::Server,
    base: String,
    app: Arc<App>,
}

impl Server {
    /// Opens the port and the database of answers. Judges that have no link yet get one; later calls find the same links.
    ///
    /// # Errors
    /// When the study is malformed, the list of judges does not fit it, or the port or the database cannot be opened.
    pub fn bind(study: &Path, settings: &ServeSettings) -> Result<Self, Error> {
        let study = Study::open(study)?;
        let store = Store::create(&study)?;
        let judges = judges::judges(&store, &study, settings.judges.as_deref())?;
        let wanted = SocketAddr::new(settings.host, settings.port);
        let failed = |source| Error::Listen { address: wanted.to_string(), source };
        let server = mixce_web::Server::bind(wanted).map_err(failed)?;
        let address = server.address();
        let base = match &settings.url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("http://{address}"),
        };
        let app = Arc::new(App::new(study, store, judges, address.ip().is_loopback()));
        Ok(Self { server, base, app })
    }

    /// The address that was opened.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The links of all judges.
    ///
    /// # Errors
    /// When the answers cannot be read.
    pub fn links(&self) -> Result<Vec<Link>, Error> {
        self.app.links(&self.base)
    }

    /// Serves on this thread until SIGINT (Ctrl-C) or SIGTERM.
    ///
    /// # Errors
    /// When the server or the signals cannot be set up.
    pub fn run(self) -> Result<(), Error> {
        self.run_until(signal())
    }

    /// As [`Self::run`], until the flag is set: for programs that wait for signals themselves.
    ///
    /// # Errors
    /// When the server cannot be set up.
    pub fn run_until_set(self, stop: &AtomicBool) -> Result<(), Error> {
        self.run_until(mixce_web::until_set(stop))
    }

    /// As [`Self::run`], until `stop` is ready; fails when `stop` does.
    ///
    /// # Errors
    /// When the server cannot be set up, or with the error of `stop`.
    pub fn run_until(self, stop: impl Future<Output = std::io::Result<()>>) -> Result<(), Error> {
        // Every accepted answer is on disk, so a connection that stays open is cut without loss.
        let served = self.server.run_until(handlers::router(self.app), stop, GRACE);
        served.map_err(|source| Error::Serve { source })
    }
}

async fn signal() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}
