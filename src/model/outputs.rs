//! Where outputs and logs are: the ledger keeps paths inside the store, and users see them at the
//! address at which the store is opened. So a store that was moved, copied or mounted elsewhere
//! keeps its outputs.
//!
//! Commits of earlier versions hold whole URLs below the store as it was named then. Such a one is
//! known by the folder of the attempt that it ends with, for nobody else writes there.

use std::borrow::Cow;

use crate::id::JobId;

/// The folder of all outputs.
pub const OUTPUTS: &str = "outputs/";

/// The folder of all logs.
pub const LOGS: &str = "logs/";

/// Signs that would end the path of a `file:` URL, or begin an escape, and what stands for them.
const ESCAPES: [(char, &str); 3] = [('%', "%25"), ('#', "%23"), ('?', "%3F")];

/// The folder of what an attempt writes, inside the store.
pub fn output_path(transform: &str, job: JobId, attempt: u16) -> String {
    format!("{OUTPUTS}{transform}/{job}/{attempt}")
}

/// The path of the log of an attempt, inside the store.
pub fn log_path(job: JobId, attempt: u16) -> String {
    format!("{LOGS}{job}/{attempt}.log")
}

/// The address of a path inside the store, for users.
pub fn address(store_url: &str, path: &str) -> String {
    let mut address = format!("{}/", store_url.trim_end_matches('/'));
    if !escapes(store_url) {
        address.push_str(path);
        return address;
    }
    for sign in path.chars() {
        match ESCAPES.iter().find(|(one, _)| *one == sign) {
            Some((_, escape)) => address.push_str(escape),
            None => address.push(sign),
        }
    }
    address
}

/// The address of an output as the ledger is to keep it: the path, where it is an output of this
/// store, else as it is.
pub fn kept<'a>(store_url: &str, uri: &'a str) -> Cow<'a, str> {
    let below = uri.strip_prefix(store_url.trim_end_matches('/'));
    let path = below.and_then(|below| below.strip_prefix('/'));
    let Some(path) = path.filter(|path| path.starts_with(OUTPUTS)) else {
        return Cow::Borrowed(uri);
    };
    if !escapes(store_url) || !path.contains('%') {
        return Cow::Borrowed(path);
    }
    // That of the sign itself comes last, so that nothing is read twice.
    let plain = ESCAPES
        .iter()
        .rev()
        .fold(path.to_owned(), |path, (sign, escape)| {
            path.replace(escape, &sign.to_string())
        });
    Cow::Owned(plain)
}

/// The path of an output inside the store; `None` where it is somewhere else.
///
/// # Arguments
/// `uri`: as the ledger keeps it; `own`: the folder of the attempt that it is an output of.
pub fn path_in_store<'a>(uri: &'a str, own: &str) -> Option<&'a str> {
    if uri.starts_with(OUTPUTS) {
        return Some(uri);
    }
    let places = uri.match_indices(own).filter(|(at, _)| {
        let before = uri.get(..*at).unwrap_or_default();
        let after = uri.get(at + own.len()..).unwrap_or_default();
        before.contains("://")
            && before.ends_with('/')
            && (after.is_empty() || after.starts_with('/'))
    });
    places.last().and_then(|(at, _)| uri.get(at..))
}

/// The address of an output as users see it.
///
/// # Arguments
/// Those of [`path_in_store`].
pub fn shown<'a>(store_url: &str, uri: &'a str, own: &str) -> Cow<'a, str> {
    match path_in_store(uri, own) {
        Some(path) => Cow::Owned(address(store_url, path)),
        None => Cow::Borrowed(uri),
    }
}

/// Whether addresses of a store are URLs whose paths are decoded; those of buckets are names.
fn escapes(store_url: &str) -> bool {
    store_url.starts_with("file:")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "outputs/keep/11/1";

    #[test]
    fn outputs_are_shown_where_the_store_is() {
        let at = "file:///new/store/";
        for (kept, expected) in [
            ("outputs/keep/11/1", "file:///new/store/outputs/keep/11/1"),
            ("outputs/x", "file:///new/store/outputs/x"),
            ("outputs/a b#1", "file:///new/store/outputs/a b%231"),
            // Commits of earlier versions.
            (
                "file:///old/outputs/keep/11/1",
                "file:///new/store/outputs/keep/11/1",
            ),
            (
                "s3://b/outputs/keep/11/1/a.ttl",
                "file:///new/store/outputs/keep/11/1/a.ttl",
            ),
            (
                "file:///outputs/keep/11/1/s/outputs/keep/11/1/a?",
                "file:///new/store/outputs/keep/11/1/a%3F",
            ),
            // Of somebody else.
            (
                "s3://b/outputs/2024/11/1/a.ttl",
                "s3://b/outputs/2024/11/1/a.ttl",
            ),
            ("s3://b/outputs/keep/11/12", "s3://b/outputs/keep/11/12"),
            ("s3://b/x-outputs/keep/11/1", "s3://b/x-outputs/keep/11/1"),
            ("/outputs/keep/11/1", "/outputs/keep/11/1"),
            ("x/outputs", "x/outputs"),
            ("", ""),
        ] {
            assert_eq!(shown(at, kept, OWN), expected, "{kept}");
        }
        assert_eq!(
            shown("s3://b/s", "outputs/a#1", OWN),
            "s3://b/s/outputs/a#1"
        );
    }

    #[test]
    fn outputs_of_the_store_are_kept_by_their_path() {
        for (store, uri, expected) in [
            ("file:///s/", "file:///s/outputs/keep/11/1", OWN),
            ("file:///s", "file:///s/outputs/keep/11/1", OWN),
            ("s3://b/s", "s3://b/s/outputs/keep/11/1", OWN),
            ("s3://b/s", "s3://b/s/outputs/a%23", "outputs/a%23"),
            (
                "file:///s/",
                "file:///s/outputs/a%2523%25%3F",
                "outputs/a%23%?",
            ),
            ("file:///s/", OWN, OWN),
            (
                "s3://b/s",
                "s3://b/s2/outputs/keep/11/1",
                "s3://b/s2/outputs/keep/11/1",
            ),
            ("s3://b/s", "s3://b/s/tables/t", "s3://b/s/tables/t"),
            ("s3://b/s", "s3://c/a.ttl", "s3://c/a.ttl"),
        ] {
            assert_eq!(kept(store, uri), expected, "{uri}");
        }
        for path in ["outputs/%23#?%", "outputs/%2523", "outputs/a b"] {
            assert_eq!(kept("file:///s", &address("file:///s", path)), path);
        }
    }
}
