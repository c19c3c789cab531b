//! `sluicegate serve` and `sluicegate token`.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::log::{complain, note};
use super::tasks::{TEAR_WAIT, print, torn, until_told, worker_name};
use crate::engine::Engine;
use crate::error::{Code, Error, Result};
use crate::model::tokens::{Role, Validity};
use crate::repl::progress;
use crate::server::Tls;
use crate::session::tokens;
use crate::worker::{End, WorkOptions};

/// Where a server listens.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// The address; other machines reach it only if the store has a token
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8080",
        env = "SLUICEGATE_BIND"
    )]
    bind: SocketAddr,

    /// Serve HTTPS with this certificate chain in PEM, the server's own certificate first; it is
    /// read again on SIGHUP
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The private key of the certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Also run a worker, with so many groups of jobs at once
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroU64>,
}

/// What to do with tokens.
#[derive(Debug, Clone, Subcommand)]
pub enum TokenTask {
    /// Make a token, and print it; it is shown this once
    Create {
        /// What its bearer may do
        #[arg(long, value_enum)]
        role: RoleName,
        /// Its name, which events carry as their actor [default: the role]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
    /// List the tokens, without the tokens themselves
    List,
    /// Revoke a token: every server refuses it at once
    Revoke {
        /// Its name
        name: String,
    },
}

/// A role as it is typed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum RoleName {
    /// Queries and previews
    Reader,
    /// The same, and claiming and reporting jobs
    Worker,
    /// All effects, and changes of rows in source tables
    Operator,
    /// Everything
    Admin,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Reader => Self::Reader,
            RoleName::Worker => Self::Worker,
            RoleName::Operator => Self::Operator,
            RoleName::Admin => Self::Admin,
        }
    }
}

/// Serves until SIGINT or SIGTERM: what runs may end, and a worker hands back its jobs.
pub(super) async fn serve(engine: &Engine, actor: &str, args: ServeArgs) -> Result<ExitCode> {
    let unusable = |error: std::io::Error| {
        Error::new(
            Code::OutputFailed,
            format!("address \"{}\" cannot be listened at", args.bind),
        )
        .with_detail(format!("{error}."))
        .with_hint("Choose another port with --bind, or end what listens there.")
        .with_source(error)
    };
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(certificate), Some(key)) => Some(Tls::load(certificate, key).await?),
        (None | Some(_), _) => None,
    };
    if let Some(tls) = &tls {
        let asked = signal(SignalKind::hangup())
            .map_err(|error| Error::bug("SIGHUP cannot be listened to").with_source(error))?;
        tokio::spawn(renewed(tls.clone(), asked));
    }
    let scheme = if tls.is_some() { "https" } else { "http" };
    let listener = TcpListener::bind(args.bind).await.map_err(unusable)?;
    let address = listener.local_addr().map_err(unusable)?;
    let has_tokens = !engine.ledger().snapshot().await?.tokens.is_empty();
    let (asks, asked) = watch::channel(false);
    let worker = async {
        let Some(groups) = args.workers else {
            return Ok(());
        };
        let mut options = WorkOptions::until_idle(worker_name());
        options.end = End::Never;
        options.parallel = usize::try_from(groups.get()).unwrap_or(usize::MAX);
        let worked = engine.work(options, asked.clone(), progress::bar()).await;
        // Nobody would do the jobs: the server ends as well, and what runs at it may end before.
        if let Err(error) = &worked {
            note(&format!(
                "the worker has failed, and the server ends: {error}\n"
            ));
        }
        asks.send_replace(true);
        worked.map(drop)
    };
    let server = async {
        let served = engine.serve(listener, actor, tls, asked.clone()).await;
        asks.send_replace(true);
        served
    };
    if has_tokens {
        note(&format!(
            "listening on {scheme}://{address}; every request needs a token\n"
        ));
    } else if address.ip().is_loopback() {
        note(&format!(
            "listening on {scheme}://{address} for this machine only: the store has no token yet,\n\
             so whoever reaches it acts as \"{actor}\"; sluicegate token create makes one\n"
        ));
    }
    let both = async {
        let (served, worked) = tokio::join!(server, worker);
        served.and(worked)
    };
    let Some(ended) = until_told(both, &asks).await? else {
        engine.close_within(TEAR_WAIT).await;
        return Ok(torn());
    };
    engine.close().await;
    ended.map(|()| ExitCode::SUCCESS)
}

/// Reads the certificate again whenever SIGHUP says so.
async fn renewed(tls: Tls, mut asked: Signal) {
    while asked.recv().await.is_some() {
        match tls.reload().await {
            Ok(()) => note("the certificate was read again\n"),
            Err(error) => complain(&error),
        }
    }
}

/// Makes, lists or revokes tokens.
pub(super) async fn token(engine: &Engine, actor: &str, task: TokenTask) -> Result<ExitCode> {
    let ledger = engine.ledger();
    match task {
        TokenTask::Create { role, name } => {
            let role = Role::from(role);
            let name = name.unwrap_or_else(|| role.name().to_owned());
            let token = tokens::create(ledger, actor, &name, role).await?;
            print(&format!("{token}\n"))?;
            note(&format!(
                "token \"{name}\" has the role {}; it is not shown again\n",
                role.name()
            ));
        }
        TokenTask::List => {
            let state = ledger.snapshot().await?;
            let mut text = String::new();
            for (name, token) in state.tokens.iter() {
                let ended = match token.validity {
                    Validity::Valid => String::new(),
                    Validity::Revoked(at) => format!("\trevoked {at}"),
                };
                text.push_str(&format!(
                    "{name}\t{}\tmade {} by {}{ended}\n",
                    token.role.name(),
                    token.created_at,
                    token.created_by
                ));
            }
            print(&text)?;
        }
        TokenTask::Revoke { name } => tokens::revoke(ledger, actor, &name).await?,
    }
    engine.close().await;
    Ok(ExitCode::SUCCESS)
}
