//! Patterns of file names: `*`, `?`, `[a-z]`, `**` and `{a,b}`.
//!
//! The `glob` crate matches; it is the one that DataFusion brings along. It knows no braces, so
//! these are spelled out into several patterns first. As in a shell, `*` does not match a slash
//! nor the dot that begins a hidden name.

use glob::{MatchOptions, Pattern};

use crate::error::{Code, Error, Result};

/// Patterns that one with braces may stand for. Chosen: far above use, and soon at its end.
const SPELLED_OUT_MAX: usize = 1000;

const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

/// A compiled pattern for paths relative to a folder.
#[derive(Debug, Clone)]
pub(super) struct Names {
    patterns: Vec<Pattern>,
    /// How many folders deep a file may be; `None` for any number.
    depth: Option<usize>,
}

impl Names {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// `SG1002 plan-error`.
    pub(super) fn try_new(pattern: &str) -> Result<Self> {
        let mut patterns = Vec::new();
        let mut depth = Some(0);
        for one in spelled_out(pattern)? {
            depth = match depth {
                Some(depth) if !one.contains("**") => Some(depth.max(one.matches('/').count())),
                Some(_) | None => None,
            };
            patterns.push(Pattern::new(&one).map_err(|error| {
                wrong(pattern)
                    .with_detail(format!("Character {}: {}.", error.pos + 1, error.msg))
                    .with_source(error)
            })?);
        }
        Ok(Self { patterns, depth })
    }

    /// Whether a relative path matches.
    pub(super) fn matches(&self, path: &str) -> bool {
        let mut patterns = self.patterns.iter();
        patterns.any(|pattern| pattern.matches_with(path, OPTIONS))
    }

    /// Whether files `depth` folders below the folder can match.
    pub(super) fn reaches(&self, depth: usize) -> bool {
        self.depth.is_none_or(|deepest| depth <= deepest)
    }
}

/// The patterns that one with braces stands for. `[{]` is a brace.
fn spelled_out(pattern: &str) -> Result<Vec<String>> {
    let mut done = Vec::new();
    let mut open = vec![pattern.to_owned()];
    while let Some(next) = open.pop() {
        let Some((before, choices, after)) = first_braces(&next).map_err(|()| wrong(pattern))?
        else {
            done.push(next);
            continue;
        };
        let spelled = choices
            .iter()
            .map(|choice| format!("{before}{choice}{after}"));
        open.extend(spelled);
        if open.len() + done.len() > SPELLED_OUT_MAX {
            return Err(wrong(pattern).with_detail(format!(
                "Its braces stand for more than {SPELLED_OUT_MAX} patterns."
            )));
        }
    }
    Ok(done)
}

type Braces<'a> = (&'a str, Vec<&'a str>, &'a str);

/// What stands before, in and after the first braces; an error where they have no end.
fn first_braces(pattern: &str) -> Result<Option<Braces<'_>>, ()> {
    let (mut start, mut depth, mut class) = (None, 0_usize, false);
    let mut commas = Vec::new();
    for (at, sign) in pattern.char_indices() {
        match sign {
            '[' => class = true,
            ']' => class = false,
            '{' if !class => {
                depth += 1;
                start = start.or(Some(at));
            }
            ',' if depth == 1 && !class => commas.push(at),
            '}' if depth == 1 && !class => {
                let start = start.ok_or(())?;
                let mut choices = Vec::new();
                let mut begin = start + 1;
                for end in commas.into_iter().chain([at]) {
                    choices.push(pattern.get(begin..end).ok_or(())?);
                    begin = end + 1;
                }
                let before = pattern.get(..start).ok_or(())?;
                return Ok(Some((before, choices, pattern.get(at + 1..).ok_or(())?)));
            }
            '}' if depth > 1 && !class => depth -= 1,
            _ => {}
        }
    }
    if depth > 0 { Err(()) } else { Ok(None) }
}

fn wrong(pattern: &str) -> Error {
    Error::new(
        Code::PlanError,
        format!("file pattern \"{pattern}\" cannot be read"),
    )
    .with_hint(
        "* stands for any name, ? for one letter, [a-z] for one of these, {a,b} for a or b, and \
         ** as a whole folder name for any number of folders.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        let names = Names::try_new(pattern).unwrap();
        for path in yes {
            assert!(names.matches(path), "{pattern} must match {path}");
            assert!(names.reaches(path.matches('/').count()), "{pattern} {path}");
        }
        for path in no {
            assert!(!names.matches(path), "{pattern} must not match {path}");
        }
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        check(
            "*.xml",
            &["a.xml"],
            &["a/b.xml", ".a.xml", "a.xmlx", "A.XML"],
        );
        check("**/*.xml", &["a.xml", "a/b/c.xml"], &[".h/a.xml", "a/b"]);
        check("a/**", &["a/b", "a/b/c"], &["b/a"]);
        check(
            "?[0-9].{xml,json}",
            &["a1.xml", "b2.json"],
            &["a.xml", "aa.xml"],
        );
        check("{a,b{1,2}}/*", &["a/x", "b1/x", "b2/x"], &["b/x", "a/x/y"]);
        check("x{,y}z", &["xz", "xyz"], &["xyyz"]);
        check("[{]a,b}", &["{a,b}"], &["a"]);
    }

    #[test]
    fn depth_is_known_without_stars_for_folders() {
        assert!(!Names::try_new("*/{a,b/c}.xml").unwrap().reaches(3));
        assert!(Names::try_new("*/**/x").unwrap().reaches(100));
    }

    #[test]
    fn wrong_patterns_are_refused() {
        for pattern in ["[a", "{a,b", "a**", "***", &"{a,b}".repeat(30)] {
            let error = Names::try_new(pattern).unwrap_err();
            assert_eq!(error.code(), Code::PlanError, "{pattern}");
        }
    }
}
