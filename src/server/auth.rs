//! Who asks: the bearer of a token, or whoever reaches a server that listens on this machine only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, header};

use crate::error::{Code, Error, Result};
use crate::model::state::State;
use crate::server::App;
use crate::server::request::read_only;
use crate::server::tickets::TicketKey;
use crate::session::{Access, tokens};

/// How long a judgement counts. Chosen: longer than a short body takes, and a glance for people.
const JUDGED_FOR: Duration = Duration::from_secs(1);

/// Who asks, and what they may do.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub actor: Arc<str>,
    pub access: Access,
    /// What seals the caller's tickets.
    pub tickets: TicketKey,
    judged_at: Instant,
}

impl Caller {
    /// Whether it may change nothing, of itself or because it asked for that.
    pub(super) fn only_reads(&self) -> bool {
        self.access == Access::ReadOnly
    }

    /// The same caller, who may change nothing.
    pub(super) fn reading(mut self) -> Self {
        self.access = Access::ReadOnly;
        self
    }

    /// The same caller, judged once more where that was long ago: while a body came, the token may
    /// have been revoked.
    ///
    /// # Errors
    /// Those of [`caller`].
    pub(super) async fn again(self, app: &App, headers: &HeaderMap) -> Result<Self> {
        match self.judged_at.elapsed() < JUDGED_FOR {
            true => Ok(self),
            false => caller(app, headers).await,
        }
    }

    /// The same caller with no more rights than the request asks for.
    ///
    /// # Errors
    /// `SG4003 bad-request`.
    pub(super) fn narrowed(self, headers: &HeaderMap) -> Result<Self> {
        Ok(match read_only(headers)? {
            true => self.reading(),
            false => self,
        })
    }
}

/// Judges a request on the newest state of the store, so that a revoked token is refused at once.
///
/// # Errors
/// `SG4001 unauthenticated`, `SG4002 role-denied` for a web page that reaches for a server without
/// tokens; those of the store.
pub(super) async fn caller(app: &App, headers: &HeaderMap) -> Result<Caller> {
    let seen = app.core.ledger.seen();
    // Who brings nothing costs the store nothing: what once had a token needs one for ever.
    let state = match headers.contains_key(header::AUTHORIZATION) || seen.tokens.is_empty() {
        true => app.core.ledger.snapshot().await?,
        false => seen,
    };
    let caller = judge(app, &state, headers)?;
    // Of the request's span, see `server::log`.
    tracing::Span::current().record("actor", &*caller.actor);
    Ok(caller)
}

fn judge(app: &App, state: &State, headers: &HeaderMap) -> Result<Caller> {
    let Some(given) = headers.get(header::AUTHORIZATION) else {
        if app.loopback && state.tokens.is_empty() {
            refuse_web_pages(headers)?;
            return Ok(Caller {
                actor: Arc::clone(&app.options.actor),
                access: app.options.access,
                tickets: TicketKey::of(app.core.public_url.as_bytes()),
                judged_at: Instant::now(),
            });
        }
        return Err(unauthenticated("the request carries no token"));
    };
    let given = given.to_str().unwrap_or_default();
    let token = match given.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        Some(_) | None => return Err(unauthenticated("the header Authorization has no token")),
    };
    let known = tokens::recognise(state, token);
    let (name, known) = known.ok_or_else(|| unauthenticated("the token is not known"))?;
    Ok(Caller {
        actor: Arc::clone(name),
        tickets: TicketKey::of(token.as_bytes()),
        judged_at: Instant::now(),
        access: match app.options.access {
            Access::ReadOnly => Access::ReadOnly,
            Access::ReadWrite | Access::Operator | Access::Worker => Access::of(known.role),
        },
    })
}

fn unauthenticated(message: &str) -> Error {
    Error::new(Code::Unauthenticated, message)
        .with_hint("Send Authorization: Bearer <token>; sluicegate token create makes one.")
}

/// Without tokens the address is all that protects the store, and a browser on this machine has
/// it: a page of any site could send statements. A browser says where a request comes from, and
/// by what name it knows the server.
fn refuse_web_pages(headers: &HeaderMap) -> Result<()> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let site = text(header::HeaderName::from_static("sec-fetch-site"));
    let foreign = site.is_some_and(|site| !matches!(site, "same-origin" | "none"))
        || text(header::ORIGIN).is_some_and(|origin| {
            let host = origin.split_once("://").map_or(origin, |(_, host)| host);
            !names_this_machine(host)
        })
        || text(header::HOST).is_some_and(|host| !names_this_machine(host));
    if foreign {
        return Err(Error::new(
            Code::RoleDenied,
            "a server without tokens answers this machine only, and no web page",
        )
        .with_hint("Make a token with sluicegate token create, and send it."));
    }
    Ok(())
}

fn names_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let address = name.parse::<std::net::IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_taken() {
        for (host, ours) in [
            ("localhost", true),
            ("localhost:80", true),
            ("127.0.0.1:8080", true),
            ("[::1]:8080", true),
            ("127.0.0.1.evil.example", false),
            ("evil.example:8080", false),
            ("localhost.evil.example", false),
            ("", false),
        ] {
            assert_eq!(names_this_machine(host), ours, "{host}");
        }
    }

    #[test]
    fn a_page_of_another_site_is_refused() {
        for (name, value, refused) in [
            ("origin", "https://evil.example", true),
            ("origin", "null", true),
            ("origin", "http://localhost:8080", false),
            ("sec-fetch-site", "cross-site", true),
            ("sec-fetch-site", "none", false),
            ("host", "rebound.example", true),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            assert_eq!(
                refuse_web_pages(&headers).is_err(),
                refused,
                "{name}: {value}"
            );
        }
    }
}
