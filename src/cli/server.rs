//! `--server`: statements and workers without a store.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use tokio::sync::watch;

use super::WorkArgs;
use super::tasks::{TEAR_WAIT, tell_worked, torn, until_told, work_options};
use crate::client::{Client, ClientOptions, Reading};
use crate::engine::{Engine, EngineOptions};
use crate::error::{Code, Error, Result};
use crate::repl::connection::ServerSession;
use crate::repl::progress;
use crate::worker::queue::Queue;
use crate::worker::remote::{Inputs, Remote};
use crate::worker::work_from;

/// The variable that holds a token. A token on the command line would be seen by every user of
/// the machine.
const TOKEN: &str = "SLUICEGATE_TOKEN";

/// Which server, and as whom.
#[derive(Debug, Args)]
pub(super) struct ServerArgs {
    /// Send statements to a server, or work for it, instead of opening a store:
    /// http://HOST:PORT or https://HOST:PORT
    #[arg(long, global = true, value_name = "URL")]
    server: Option<String>,

    /// With --server: the file that holds the token [default: the variable SLUICEGATE_TOKEN]
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// With --server: trust the certificates of this PEM file, beside those of the system
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl ServerArgs {
    /// The address of the server; nothing where none is named.
    pub(super) fn url(&self) -> &str {
        self.server.as_deref().unwrap_or_default()
    }

    /// The client of the server, where one is named.
    ///
    /// # Errors
    /// Those of [`Client::try_new`]; `SG6002 file-unreadable`: the token cannot be read.
    pub(super) fn client(&self, read_only: bool) -> Result<Option<Client>> {
        let Some(url) = &self.server else {
            return Ok(None);
        };
        let options = ClientOptions {
            url: url.clone(),
            token: self.token()?,
            ca: self.ca.clone(),
            reading: match read_only {
                true => Reading::Only,
                false => Reading::AndWriting,
            },
        };
        Client::try_new(&options).map(Some)
    }

    fn token(&self) -> Result<Option<String>> {
        let token = match &self.token_file {
            None => std::env::var(TOKEN).unwrap_or_default(),
            Some(path) => std::fs::read_to_string(path).map_err(|error| {
                Error::new(
                    Code::FileUnreadable,
                    format!("token file \"{}\" cannot be read", path.display()),
                )
                .with_detail(format!("{error}."))
                .with_hint("Give --token-file a file that holds nothing but the token.")
                .with_source(error)
            })?,
        };
        let token = token.trim();
        if token.chars().any(|letter| !letter.is_ascii_graphic()) {
            return Err(Error::new(Code::BadRequest, "the token is no single word")
                .with_hint("Give what sluicegate token create printed."));
        }
        Ok((!token.is_empty()).then(|| token.to_owned()))
    }
}

/// A session at a server. What every store knows is read from an empty one.
pub(super) async fn session(client: Client) -> Result<ServerSession> {
    let empty = Engine::open(EngineOptions::new("memory://")).await?;
    let known = empty.session("nobody").names().await?;
    Ok(ServerSession::new(client, known))
}

/// Works for a server until told to end: by SIGINT or SIGTERM. A second one ends it at once.
pub(super) async fn work(client: Client, args: WorkArgs) -> Result<ExitCode> {
    if client.reading() == Reading::Only {
        return Err(Error::new(Code::ReadOnly, "a worker cannot run read-only"));
    }
    let inputs = match args.direct_inputs {
        true => Inputs::Direct,
        false => Inputs::Fetched,
    };
    let options = work_options(args);
    let queue = Arc::new(Remote::new(client, Arc::clone(&options.name), inputs));
    let (asks, asked) = watch::channel(false);
    let worked = work_from(
        Arc::clone(&queue) as Arc<dyn Queue>,
        options,
        asked,
        progress::bar(),
    );
    let ended = until_told(worked, &asks).await?;
    // Groups that were dropped kill their commands.
    queue.background().close();
    if tokio::time::timeout(TEAR_WAIT, queue.background().wait())
        .await
        .is_err()
    {
        tracing::warn!("commands did not end in time");
    }
    match ended {
        Some(worked) => {
            tell_worked(&worked?);
            Ok(ExitCode::SUCCESS)
        }
        None => Ok(torn()),
    }
}
