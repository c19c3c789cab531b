//! Which files a statement may touch.
//!
//! Whoever may write SQL must not be able to read the whole machine, nor to damage the store.
//! Statements read below the *roots*: the store, what was allowed when the program was started,
//! and, where it is [`WorkingFolder::Open`], the working folder. They write below the roots too,
//! except where the store keeps its own files.
//!
//! A path is judged after `..` and symbolic links were resolved, never by its text. A link that
//! is changed between the judgement and the use is not caught: whoever can make links below a
//! root has that machine's files anyway.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::path::{Component, Path, PathBuf};

use url::Url;

use crate::error::{Code, Error, Result};
use crate::model::outputs::{LOGS, OUTPUTS};

/// Folders of a store that Sluicegate alone may write.
const STORE_FOLDERS: [&str; 6] = [
    "ledger",
    "tables",
    "checkpoints",
    "history",
    "outputs",
    "logs",
];

/// What begins a pattern in the last parts of a path.
const PATTERN_SIGNS: [char; 4] = ['*', '?', '[', '{'];

/// Where a permitted file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A path of this machine, absolute and without links.
    Local(PathBuf),
    /// A path inside the store, which is no local folder.
    Store(String),
}

/// What statements may do in the folder that relative paths begin at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkingFolder {
    /// It is a root: who sends the statements has chosen it.
    Open,
    /// It is not, for it belongs to whoever started a server, with keys and scripts in it.
    Closed,
}

/// The folders below which statements may read and write.
#[derive(Debug, Clone)]
pub struct Roots {
    /// The URL of a store that is no local folder, with a slash at its end.
    remote: Option<String>,
    /// The folder of a local store.
    store: Option<PathBuf>,
    working: Option<PathBuf>,
    /// Canonical, and none of them `/` unless it was allowed by name.
    folders: Vec<PathBuf>,
}

impl Roots {
    /// The roots of a process.
    ///
    /// # Arguments
    /// `store`: the store's URL; `working`: the folder that relative paths begin at; `kind`: what
    /// it is to statements, where it is not the root of the file system, which is never a root by
    /// chance; `allowed`: further folders.
    ///
    /// # Errors
    /// `SG6002 file-unreadable`: an allowed folder does not exist.
    pub fn new(
        store: &str,
        working: Option<&Path>,
        kind: WorkingFolder,
        allowed: &[PathBuf],
    ) -> Result<Self> {
        let folder = match Url::parse(store) {
            Ok(url) if url.scheme() == "file" => url.to_file_path().ok(),
            Ok(_) => None,
            Err(_) => Some(PathBuf::from(store)),
        };
        let remote = folder.is_none().then(|| match store.strip_suffix("://") {
            // A store in memory without a name.
            Some(_) => store.to_owned(),
            None => format!("{}/", store.trim_end_matches('/')),
        });
        let store = folder.map(|folder| folder.canonicalize().unwrap_or(folder));
        let working = working.and_then(|folder| folder.canonicalize().ok());
        // A service started in `/` must not open the whole machine.
        let open = |folder: &&PathBuf| kind == WorkingFolder::Open && folder.parent().is_some();
        let implied = working.iter().filter(open);
        let mut folders: Vec<PathBuf> = store.iter().chain(implied).cloned().collect();
        for folder in allowed {
            let whole = working
                .as_deref()
                .map_or_else(|| folder.clone(), |w| w.join(folder));
            folders.push(whole.canonicalize().map_err(|cause| {
                Error::new(
                    Code::FileUnreadable,
                    format!("allowed folder \"{}\" cannot be used", folder.display()),
                )
                .with_detail(format!("{cause}."))
                .with_hint("Give --allow-root a folder that exists.")
                .with_source(cause)
            })?);
        }
        let mut named = HashSet::new();
        folders.retain(|folder| named.insert(folder.clone()));
        Ok(Self {
            remote,
            store,
            working,
            folders,
        })
    }

    /// Where a file or folder is that may be read. It need not exist.
    ///
    /// # Arguments
    /// `uri`: a path, `file:///path`, or a URL below that of a store that is no local folder. A
    /// path as the ledger keeps it, such as `outputs/...`, is one of the store, unless the working
    /// folder has such a file.
    ///
    /// # Errors
    /// `SG6001 outside-roots`; `SG6002 file-unreadable`: the text is no path or URL of a file.
    pub fn resolve(&self, uri: &str) -> Result<Place> {
        let uri = &*self.with_store(uri)?;
        if let Some(path) = self.in_store(uri)? {
            return Ok(Place::Store(path));
        }
        let path = self.canonical(uri, &self.path(uri)?)?;
        if self.folders.iter().any(|root| path.starts_with(root)) {
            return Ok(Place::Local(path));
        }
        Err(self.outside(uri))
    }

    /// The path or URL of something that may be read, written out. A pattern may stand in its
    /// last parts; what it finds through links inside a root is not judged again.
    ///
    /// # Errors
    /// Those of [`Roots::resolve`].
    pub fn permit(&self, uri: &str) -> Result<String> {
        let uri = &*self.with_store(uri)?;
        if self.in_store(uri)?.is_some() {
            return Ok(uri.to_owned());
        }
        let (folder, pattern) = self.split_pattern(uri)?;
        let place = self.resolve(&text(uri, &folder)?)?;
        match place {
            // Joining nothing would add a slash.
            Place::Local(path) if pattern.is_empty() => text(uri, &path),
            Place::Local(path) => text(uri, &path.join(pattern)),
            Place::Store(_) => Err(Error::bug("a local path is in a remote store")),
        }
    }

    /// The path of something that may be written, written out.
    ///
    /// # Errors
    /// Those of [`Roots::resolve`]; `SG6001 outside-roots` also for the store's own files.
    pub fn permit_write(&self, uri: &str) -> Result<String> {
        let own = |uri: &str| {
            Error::new(
                Code::OutsideRoots,
                format!("file \"{uri}\" is in a folder of the store"),
            )
            .with_detail("Only Sluicegate writes there; a foreign file could damage the store.")
            .with_hint("Write to another folder.")
        };
        let path = match self.resolve(uri)? {
            Place::Store(_) => return Err(own(uri)),
            Place::Local(path) => path,
        };
        let inside = self
            .store
            .as_deref()
            .and_then(|store| path.strip_prefix(store).ok());
        if let Some(inside) = inside {
            let first = inside.components().next();
            let name = first.map_or(OsString::new(), |first| first.as_os_str().to_owned());
            if name.is_empty() || STORE_FOLDERS.iter().any(|folder| name == *folder) {
                return Err(own(uri));
            }
        }
        text(uri, &path)
    }

    /// A pattern's folder, which it names without signs of a pattern, and the rest of it.
    ///
    /// # Errors
    /// `SG6001 outside-roots` for `..` in the pattern; `SG6002 file-unreadable`.
    pub(super) fn split_pattern(&self, uri: &str) -> Result<(PathBuf, String)> {
        let path = self.path(uri)?;
        let whole = text(uri, &path)?;
        // A name may hold such signs.
        let Some(sign) = whole.find(PATTERN_SIGNS).filter(|_| !path.exists()) else {
            return Ok((path, String::new()));
        };
        let cut = whole.get(..sign).and_then(|head| head.rfind('/'));
        let (folder, pattern) = whole.split_at(cut.map_or(0, |slash| slash + 1));
        if Path::new(pattern)
            .components()
            .any(|part| part == Component::ParentDir)
        {
            return Err(self.outside(uri));
        }
        Ok((PathBuf::from(folder), pattern.to_owned()))
    }

    /// The path inside a remote store; `None` for all that is not below its URL.
    ///
    /// # Errors
    /// `SG6001 outside-roots`: another URL, or one with `.` or `..` in it.
    pub(super) fn in_store(&self, uri: &str) -> Result<Option<String>> {
        let Some((scheme, _)) = uri.split_once("://") else {
            return Ok(None);
        };
        if scheme.eq_ignore_ascii_case("file") {
            return Ok(None);
        }
        let inside = self.remote.as_deref().and_then(|url| uri.strip_prefix(url));
        let dots = |part: &str| part == "." || part == "..";
        match inside {
            Some(path) if !path.split('/').any(dots) => Ok(Some(path.to_owned())),
            Some(_) | None => Err(self.outside(uri)),
        }
    }

    /// A path that the ledger keeps, with the store before it.
    fn with_store<'a>(&self, uri: &'a str) -> Result<Cow<'a, str>> {
        if ![OUTPUTS, LOGS].iter().any(|folder| uri.starts_with(folder)) || self.path(uri)?.exists()
        {
            return Ok(Cow::Borrowed(uri));
        }
        Ok(match (&self.remote, &self.store) {
            (Some(url), _) => Cow::Owned(format!("{url}{uri}")),
            (None, Some(store)) => Cow::Owned(text(uri, &store.join(uri))?),
            (None, None) => Cow::Borrowed(uri),
        })
    }

    /// The URL of a remote store, with a slash at its end.
    pub(super) fn remote_url(&self) -> Option<&str> {
        self.remote.as_deref()
    }

    fn path(&self, uri: &str) -> Result<PathBuf> {
        let path = if uri
            .get(..7)
            .is_some_and(|s| s.eq_ignore_ascii_case("file://"))
        {
            let path = Url::parse(uri).ok().and_then(|url| url.to_file_path().ok());
            path.ok_or_else(|| no_path(uri))?
        } else {
            PathBuf::from(uri)
        };
        if uri.is_empty() || uri.contains('\0') {
            return Err(no_path(uri));
        }
        Ok(match &self.working {
            Some(working) => working.join(path),
            None => path,
        })
    }

    /// Resolves links and `..` as far as the path exists; what does not exist is kept, and must
    /// be plain names.
    fn canonical(&self, uri: &str, path: &Path) -> Result<PathBuf> {
        let mut missing: Vec<OsString> = Vec::new();
        let mut existing = path.to_owned();
        loop {
            match existing.canonicalize() {
                Ok(found) => {
                    return Ok(missing
                        .iter()
                        .rev()
                        .fold(found, |path, name| path.join(name)));
                }
                // A link to nowhere is there, but leads who knows where.
                Err(_) if existing.is_symlink() => return Err(self.outside(uri)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => {}
                // What cannot be looked at cannot be judged.
                Err(_) => return Err(self.outside(uri)),
            }
            match existing.components().next_back() {
                Some(Component::Normal(name)) => missing.push(name.to_owned()),
                Some(_) | None => return Err(self.outside(uri)),
            }
            if !existing.pop() {
                return Err(self.outside(uri));
            }
        }
    }

    fn outside(&self, uri: &str) -> Error {
        let mut detail = String::from("Allowed are");
        for folder in &self.folders {
            // Writing to a string cannot fail.
            let _ = write!(detail, " {},", folder.display());
        }
        if let Some(url) = &self.remote {
            let _ = write!(detail, " {url},");
        }
        let detail = match detail.strip_suffix(',') {
            Some(list) => format!("{list}."),
            None => "No folder is allowed.".to_owned(),
        };
        Error::new(
            Code::OutsideRoots,
            format!("file \"{uri}\" is outside the allowed folders"),
        )
        .with_detail(detail)
        .with_hint("Move the file, or start with --allow-root FOLDER.")
    }
}

fn no_path(uri: &str) -> Error {
    Error::new(
        Code::FileUnreadable,
        format!("\"{uri}\" is no path of a file"),
    )
    .with_hint("Write a path, or a URL with three slashes such as file:///folder/file.xml.")
}

fn text(uri: &str, path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Error::new(
            Code::FileUnreadable,
            format!("the path of \"{uri}\" is not UTF-8"),
        )
        .with_hint("Rename the folders that it leads through.")
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    /// `work` with a file, `work-two` beside it, `secret` outside, links from one to the other.
    struct Folders {
        top: TempDir,
        roots: Roots,
    }

    /// Roots with an open working folder.
    fn open_below(working: &Path, allowed: &[PathBuf]) -> Result<Roots> {
        Roots::new("memory://x", Some(working), WorkingFolder::Open, allowed)
    }

    impl Folders {
        fn new() -> Self {
            let top = TempDir::new().unwrap();
            let at = |name: &str| top.path().join(name);
            for folder in [
                "work/a b",
                "work/logs",
                "work-two",
                "secret",
                "store/ledger",
            ] {
                fs::create_dir_all(at(folder)).unwrap();
            }
            for file in [
                "work/f.xml",
                "work/a b/g.xml",
                "work/logs/here",
                "work-two/f",
                "secret/f",
                "store/s",
            ] {
                fs::write(at(file), "x").unwrap();
            }
            symlink(at("secret"), at("work/out")).unwrap();
            symlink(at("work/a b"), at("work/in")).unwrap();
            symlink(at("secret/none"), at("work/dangling")).unwrap();
            let store = format!("file://{}/", at("store").display());
            let roots = Roots::new(&store, Some(&at("work")), WorkingFolder::Open, &[]).unwrap();
            Self { top, roots }
        }

        /// `@` stands for the folder of all.
        fn check(&self, uri: &str, expected: Result<&str, Code>) {
            let top = self.top.path().canonicalize().unwrap();
            let uri = uri.replace('@', top.to_str().unwrap());
            let found = match self.roots.resolve(&uri) {
                Ok(Place::Local(path)) => Ok(path),
                Ok(Place::Store(path)) => panic!("{path} in a store"),
                Err(error) => Err(error.code()),
            };
            assert_eq!(found, expected.map(|path| top.join(path)), "{uri}");
        }
    }

    #[test]
    fn paths_are_judged_by_where_they_lead() {
        let folders = Folders::new();
        let outside = Err(Code::OutsideRoots);
        let none = Err(Code::FileUnreadable);
        for (uri, expected) in [
            ("f.xml", Ok("work/f.xml")),
            ("./a b/../f.xml", Ok("work/f.xml")),
            ("@/work/f.xml", Ok("work/f.xml")),
            ("@/store/s", Ok("store/s")),
            ("outputs/t/1/1/x", Ok("store/outputs/t/1/1/x")),
            ("logs/1/1.log", Ok("store/logs/1/1.log")),
            ("logs/here", Ok("work/logs/here")),
            ("outputs/../../secret/f", outside),
            ("tables/x", Ok("work/tables/x")),
            ("in/g.xml", Ok("work/a b/g.xml")),
            ("new/file.xml", Ok("work/new/file.xml")),
            ("f.xml/below", Ok("work/f.xml/below")),
            ("a%20b/g.xml", Ok("work/a%20b/g.xml")),
            ("file://@/work/a%20b/g.xml", Ok("work/a b/g.xml")),
            ("FILE://localhost@/work/f.xml", Ok("work/f.xml")),
            ("file:/etc/passwd", Ok("work/file:/etc/passwd")),
            ("../secret/f", outside),
            ("../work-two/f", outside),
            ("@/work-two/f", outside),
            ("@/work/../secret/f", outside),
            ("out/f", outside),
            ("out/new", outside),
            ("dangling", outside),
            ("new/../../secret/f", outside),
            ("/etc/passwd", outside),
            ("/", outside),
            ("file:///etc/passwd", outside),
            ("file://@/work/%2e%2e/secret/f", outside),
            ("file://@/work/..%2Fsecret/f", outside),
            ("http://localhost/f.xml", outside),
            ("s3://bucket/f.xml", outside),
            ("file://host/f.xml", none),
            ("", none),
            ("f.xml\0", none),
        ] {
            folders.check(uri, expected);
        }
    }

    #[test]
    fn the_error_lists_the_roots_and_the_way_out() {
        let folders = Folders::new();
        let error = folders.roots.resolve("/etc/passwd").unwrap_err();
        assert!(error.detail().unwrap().contains("/work."), "{error:?}");
        assert!(error.hint().unwrap().contains("--allow-root"));
    }

    #[test]
    fn allowed_folders_are_roots_and_must_exist() {
        let folders = Folders::new();
        let top = folders.top.path();
        let work = top.join("work");
        let roots = open_below(&work, &["../secret".into()]).unwrap();
        assert!(roots.resolve("out/f").is_ok());
        let error = open_below(&work, &["none".into()]).unwrap_err();
        assert_eq!(error.code(), Code::FileUnreadable);
    }

    #[test]
    fn a_closed_working_folder_only_says_where_paths_begin() {
        let folders = Folders::new();
        let work = folders.top.path().join("work");
        let closed = |allowed: &[PathBuf]| {
            Roots::new("memory://x", Some(&work), WorkingFolder::Closed, allowed).unwrap()
        };
        let refused = closed(&[]).resolve("f.xml").unwrap_err();
        assert_eq!(refused.code(), Code::OutsideRoots);
        let named = closed(&["a b".into()]);
        assert!(named.resolve("a b/g.xml").is_ok() && named.resolve("f.xml").is_err());
        assert!(closed(&[".".into()]).resolve("f.xml").is_ok());
    }

    #[test]
    fn the_root_of_the_file_system_is_no_root_by_chance() {
        let roots = open_below(Path::new("/"), &[]).unwrap();
        assert_eq!(
            roots.resolve("etc/passwd").unwrap_err().code(),
            Code::OutsideRoots
        );
        let roots = open_below(Path::new("/"), &["/".into()]).unwrap();
        assert!(roots.resolve("etc/passwd").is_ok());
    }

    #[test]
    fn remote_stores_are_roots_below_their_url() {
        let roots = Roots::new("s3://bucket/store", None, WorkingFolder::Open, &[]).unwrap();
        let place = |uri: &str| roots.resolve(uri).map_err(|error| error.code());
        assert_eq!(
            place("s3://bucket/store/in/a.xml"),
            Ok(Place::Store("in/a.xml".to_owned()))
        );
        let output = Place::Store("outputs/t/1/1/x".to_owned());
        assert_eq!(place("outputs/t/1/1/x"), Ok(output));
        assert_eq!(place("outputs/../../x"), Err(Code::OutsideRoots));
        for uri in [
            "s3://bucket/store-two/a",
            "s3://bucket/store/../a",
            "s3://other/store/a",
            "gs://bucket/store/a",
        ] {
            assert_eq!(place(uri), Err(Code::OutsideRoots), "{uri}");
        }
        assert!(roots.permit("s3://bucket/store/in/").is_ok());
        assert!(roots.permit_write("s3://bucket/store/in/a").is_err());
    }

    #[test]
    fn patterns_are_permitted_below_roots() {
        let folders = Folders::new();
        let work = folders.top.path().canonicalize().unwrap().join("work");
        let permitted = |uri: &str| folders.roots.permit(uri).map_err(|error| error.code());
        let whole = work.join("in*/*.xml").to_str().unwrap().to_owned();
        assert_eq!(permitted("in*/*.xml"), Ok(whole));
        assert_eq!(permitted("out/*.xml"), Err(Code::OutsideRoots));
        assert_eq!(permitted("*/../../secret/f"), Err(Code::OutsideRoots));
        fs::write(work.join("odd[1].xml"), "x").unwrap();
        assert!(permitted("odd[1].xml").unwrap().ends_with("/odd[1].xml"));
    }

    #[test]
    fn the_files_of_the_store_are_not_written() {
        let folders = Folders::new();
        let top = folders.top.path().canonicalize().unwrap();
        let write = |path: &str| folders.roots.permit_write(top.join(path).to_str().unwrap());
        assert!(write("work/new.csv").is_ok());
        assert!(write("store/new.csv").is_ok());
        for path in [
            "store",
            "store/ledger/1.parquet",
            "store/tables/x",
            "secret/x",
        ] {
            assert_eq!(
                write(path).unwrap_err().code(),
                Code::OutsideRoots,
                "{path}"
            );
        }
    }
}
