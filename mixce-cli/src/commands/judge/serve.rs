//! `mixce judge serve`: the pages of a study.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use mixce_judge::{ServeSettings, Server};
use serde_json::json;

use crate::context::Context;
use crate::error::Problem;
use crate::output::table;

/// Show a study in the browser until Ctrl-C; answers are stored one by one
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mixce judge serve study\n         mixce judge serve study --host 0.0.0.0 --judges judges.txt --url https://judge.example.org\n\n\
    Each judge has a secret link. On a loopback address the front page lists them; elsewhere send each judge their own.\n\
    The server speaks plain HTTP: over a network, put it behind a proxy with TLS, or use an SSH tunnel."
)]
pub(crate) struct ServeArgs {
    /// Folder of the study
    #[arg(value_name = "STUDY")]
    study: PathBuf,
    /// Port; 0 takes a free one
    #[arg(long, default_value_t = 8765, value_name = "PORT")]
    port: u16,
    /// Address to listen on; `localhost` for this machine only
    #[arg(long, default_value = "localhost", value_name = "ADDRESS")]
    host: String,
    /// Names of the judges, one per line; a tab and a token of 16 to 128 letters and digits may follow
    #[arg(long, value_name = "FILE")]
    judges: Option<PathBuf>,
    /// Beginning of the printed links, if judges reach the server by another address
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

pub(crate) fn run(args: &ServeArgs, context: &Context) -> Result<()> {
    let host: IpAddr = match args.host.as_str() {
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        other => other.parse().map_err(|_| {
            Problem::new(format!("`--host`: expected `localhost` or an IP address, got `{other}`"))
                .hint("`0.0.0.0` listens on all addresses")
        })?,
    };
    let settings =
        ServeSettings { host, port: args.port, judges: args.judges.clone(), url: args.url.clone() };
    let server = Server::bind(&args.study, &settings)?;
    let address = server.address();
    if !host.is_loopback() && args.url.is_none() {
        tracing::warn!(
            "links and answers travel unencrypted; use a proxy with TLS and `--url`, or an SSH tunnel"
        );
    }
    let links = server.links()?;
    let report = json!({"address": format!("http://{address}"), "links": links});
    context.output.either(&report, || {
        let rows: Vec<Vec<String>> = links
            .iter()
            .map(|link| {
                vec![
                    link.name.clone(),
                    link.url.clone(),
                    format!("{} of {} answered", link.answered, link.tasks),
                ]
            })
            .collect();
        format!("serving `{}` at http://{address} until Ctrl-C\n{}", args.study.display(), table(&rows, &[]))
    })?;
    Ok(server.run()?)
}
