//! A corpus of procurement notices of our own making: eForms and standard forms, good and broken.
//!
//! Invariants: the same seed and count give the same bytes on every machine; nobody and nothing
//! named in a notice exists; every 25th notice is broken, in one of five ways, and another one of
//! 125 has no lots. Called by the demonstrator's command and by tests.

use std::fs;
use std::path::{Path, PathBuf};

use chrono::{Datelike, Days, NaiveDate};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::error::{Code, Error, Result};

mod eforms;
mod standard;
mod words;
mod xml;

use crate::demo::corpus::eforms::Subtype;
use crate::demo::corpus::standard::Form;
use crate::demo::corpus::words::{
    COUNTRIES, Country, FIRMS, LANGUAGES, Language, SUBJECTS, Subject,
};

/// What is wrong with a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flaw {
    /// The file ends in the middle.
    Truncated,
    /// The file is a web page of an error.
    NotXml,
    /// The publication number is missing.
    NoPublicationNumber,
    /// A subtype that no table knows: eForms E9, or the corrigendum F14.
    UnknownSubtype,
    /// XML, but no notice.
    WrongRoot,
    /// Normalises, but has no lots: the mapping to RDF must fail.
    NoLots,
}

/// The two kinds of notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// UBL with the eForms extension.
    Eforms,
    /// `TED_EXPORT`.
    Standard,
}

/// One notice of a corpus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The file, within the corpus's folder.
    pub file: String,
    /// The publication number, also that of a notice that does not show it.
    pub number: String,
    /// Which kind.
    pub kind: Kind,
    /// What is wrong with it; `None` for a good one.
    pub flaw: Option<Flaw>,
}

/// A corpus on disk.
#[derive(Debug)]
pub struct Corpus {
    /// Its folder.
    pub folder: PathBuf,
    /// Its notices, in the order of their making.
    pub notices: Vec<Notice>,
}

/// Writes `count` notices as files into a folder, which is made where it is missing.
///
/// # Errors
/// `SG6002 file-unreadable`: the folder or a file cannot be written.
///
/// # Guarantees
/// Deterministic by `count` and `seed`; files of the same name are overwritten.
pub fn generate(folder: &Path, count: usize, seed: u64) -> Result<Corpus> {
    let unwritable = |path: &Path, cause: std::io::Error| {
        Error::new(
            Code::FileUnreadable,
            format!("file \"{}\" cannot be written", path.display()),
        )
        .with_hint("Choose a folder that you may write to, with room for the corpus.")
        .with_source(cause)
    };
    fs::create_dir_all(folder).map_err(|cause| unwritable(folder, cause))?;
    let mut notices = Vec::with_capacity(count);
    for (notice, text) in Maker::new(seed).take(count) {
        let path = folder.join(&notice.file);
        fs::write(&path, text).map_err(|cause| unwritable(&path, cause))?;
        notices.push(notice);
    }
    Ok(Corpus {
        folder: folder.to_owned(),
        notices,
    })
}

/// Choices by chance, replayed by the seed.
struct Dice(Xoshiro256PlusPlus);

impl Dice {
    /// From `low` to `high`, both included.
    fn between(&mut self, low: u32, high: u32) -> u32 {
        self.0.random_range(low..=high)
    }

    fn percent(&mut self, share: u32) -> bool {
        self.between(0, 99) < share
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.0.random_range(0..from.len())]
    }

    fn weighted<'a, T>(&mut self, from: &'a [(u32, T)]) -> &'a T {
        let total = from.iter().map(|(weight, _)| weight).sum::<u32>();
        let mut left = self.0.random_range(0..total);
        for (weight, item) in from {
            if left < *weight {
                return item;
            }
            left -= weight;
        }
        &from[0].1
    }

    fn uuid(&mut self) -> String {
        let (high, low): (u64, u64) = (self.0.random(), self.0.random());
        let hex = format!("{high:016x}{low:016x}");
        let (a, b, c, d) = (&hex[..8], &hex[8..12], &hex[13..16], &hex[17..20]);
        format!("{a}-{b}-4{c}-a{d}-{}", &hex[20..])
    }

    fn day(&mut self, first: (i32, u32, u32), last: (i32, u32, u32)) -> NaiveDate {
        let at = |(year, month, day)| NaiveDate::from_ymd_opt(year, month, day).unwrap_or_default();
        let days = (at(last) - at(first)).num_days();
        at(first) + Days::new(u64::from(self.between(0, u32::try_from(days).unwrap_or(0))))
    }
}

/// One lot.
#[derive(Debug, Clone)]
struct Lot {
    subject: &'static Subject,
    town: (&'static str, &'static str),
    /// Indexes of sentences of the description.
    sentences: Vec<usize>,
    value: u32,
    firm: &'static str,
}

/// What a notice tells, in either format.
#[derive(Debug, Clone)]
struct Facts {
    number: u32,
    published: NaiveDate,
    sent: NaiveDate,
    deadline: NaiveDate,
    country: &'static Country,
    /// Index in `LANGUAGES`.
    language: usize,
    /// Further languages of the notice.
    more_languages: Vec<usize>,
    buyer: String,
    town: (&'static str, &'static str),
    subject: &'static Subject,
    lots: Vec<Lot>,
    notice_uuid: String,
    procedure_uuid: String,
    version: u32,
    subtype: &'static Subtype,
    sdk: &'static str,
    flaw: Option<Flaw>,
}

impl Facts {
    fn language(&self) -> &'static Language {
        &LANGUAGES[self.language]
    }

    fn describe(&self, sentences: &[usize], language: usize) -> String {
        let known = LANGUAGES[language].sentences;
        let chosen: Vec<&str> = sentences.iter().map(|&index| known[index]).collect();
        chosen.join(" ")
    }

    /// The number of the issue of the Official Journal: about five a week.
    fn issue(&self) -> u32 {
        self.published.ordinal() * 5 / 7 + 1
    }
}

/// Makes notices, one after the other, without end.
struct Maker {
    dice: Dice,
    made: u32,
    /// Late eForms notices, to be followed by another version or by a result.
    earlier: Vec<Facts>,
}

/// Earlier notices that may be followed. Chosen: keeps versions of a procedure near each other.
const EARLIER_MAX: usize = 64;

impl Maker {
    fn new(seed: u64) -> Self {
        Self {
            dice: Dice(Xoshiro256PlusPlus::seed_from_u64(seed)),
            made: 0,
            earlier: Vec::new(),
        }
    }

    /// Of 125 notices, five are broken (4 %) and one has no lots.
    fn flaw(index: u32) -> Option<Flaw> {
        match index % 125 {
            7 => Some(Flaw::Truncated),
            31 => Some(Flaw::NoPublicationNumber),
            56 => Some(Flaw::UnknownSubtype),
            81 => Some(Flaw::WrongRoot),
            99 => Some(Flaw::NotXml),
            40 => Some(Flaw::NoLots),
            _ => None,
        }
    }

    fn make(&mut self) -> (Notice, String) {
        let index = self.made;
        self.made += 1;
        let number = 10_000 + index * 3 + self.dice.between(0, 2);
        let flaw = Self::flaw(index);
        // Chosen: 60 % eForms, so that both kinds are common in a small corpus.
        let (kind, number, text) = if self.dice.percent(60) {
            let facts = self.eforms(number, flaw);
            let text = eforms::write(&facts);
            if facts.flaw.is_none() {
                if self.earlier.len() == EARLIER_MAX {
                    self.earlier.remove(0);
                }
                self.earlier.push(facts.clone());
            }
            (Kind::Eforms, eforms::number(&facts), text)
        } else {
            let form = self.dice.weighted(&standard::FORMS);
            let facts = self.standard(number, form, flaw);
            let text = standard::write(&facts, form);
            (Kind::Standard, standard::number(&facts), text)
        };
        let text = self.damage(text, flaw);
        (
            Notice {
                file: format!("{number}.xml"),
                number,
                kind,
                flaw,
            },
            text,
        )
    }

    fn eforms(&mut self, number: u32, flaw: Option<Flaw>) -> Facts {
        if flaw.is_none() && !self.earlier.is_empty() && self.dice.percent(15) {
            return self.follow(number);
        }
        let (sdk, first, last) = *self.dice.weighted(&eforms::SDKS);
        let published = self.dice.day(first, last);
        let subtype = self.dice.weighted(&eforms::SUBTYPES);
        let mut facts = self.facts(number, published, flaw);
        facts.sdk = sdk;
        facts.subtype = subtype;
        facts
    }

    /// The next version of an earlier notice, or the result of its procedure.
    fn follow(&mut self, number: u32) -> Facts {
        let mut facts = self.dice.pick(&self.earlier).clone();
        let days = Days::new(u64::from(self.dice.between(7, 60)));
        facts.number = number;
        facts.published = facts.published + days;
        facts.sent = facts.sent + days;
        let mut subtypes = eforms::SUBTYPES.iter().map(|(_, subtype)| subtype);
        match subtypes.find(|one| Some(one.code) == facts.subtype.result) {
            Some(result) if self.dice.percent(60) => {
                facts.subtype = result;
                facts.version = 1;
                facts.notice_uuid = self.dice.uuid();
            }
            Some(_) | None => facts.version += 1,
        }
        facts
    }

    fn standard(&mut self, number: u32, form: &Form, flaw: Option<Flaw>) -> Facts {
        let published = if form.defence {
            // Schema R2.0.8 was in use for defence only, in these years.
            self.dice.day((2021, 1, 5), (2022, 7, 4))
        } else {
            self.dice.day((2016, 1, 8), (2023, 2, 27))
        };
        self.facts(number, published, flaw)
    }

    fn facts(&mut self, number: u32, published: NaiveDate, flaw: Option<Flaw>) -> Facts {
        let dice = &mut self.dice;
        let country = dice.weighted(&COUNTRIES);
        let language = country.languages[0];
        let mut more_languages = country.languages[1..].to_vec();
        if language != 0 && dice.percent(12) {
            more_languages.push(0);
        }
        let town = *dice.pick(country.towns);
        let buyer = dice.pick(&LANGUAGES[language].buyers).replace("{}", town.0);
        let subject = dice.pick(&SUBJECTS);
        // Chosen: sizes from 5 to 60 KB, the median near the 14 and 21 KB of real notices.
        let lot_count = *dice.weighted(&[(50, 1), (20, 3), (15, 5), (10, 8), (5, 12)]);
        let lots = (0..lot_count)
            .map(|_| Lot {
                subject: if dice.percent(70) {
                    subject
                } else {
                    dice.pick(&SUBJECTS)
                },
                town: *dice.pick(country.towns),
                sentences: (0..dice.between(2, 6))
                    .map(|_| dice.between(0, 5) as usize)
                    .collect(),
                value: dice.between(20, 9000) * 1000,
                firm: dice.pick::<&str>(&FIRMS),
            })
            .collect();
        Facts {
            number,
            published,
            sent: published - Days::new(u64::from(dice.between(2, 6))),
            deadline: published + Days::new(u64::from(dice.between(20, 60))),
            country,
            language,
            more_languages,
            buyer,
            town,
            subject,
            lots,
            notice_uuid: dice.uuid(),
            procedure_uuid: dice.uuid(),
            version: 1,
            subtype: &eforms::SUBTYPES[0].1,
            sdk: eforms::SDKS[0].1.0,
            flaw,
        }
    }

    /// What befalls a whole file.
    fn damage(&mut self, text: String, flaw: Option<Flaw>) -> String {
        match flaw {
            Some(Flaw::Truncated) => {
                let share = self.dice.between(30, 90) as usize;
                let end = text.floor_char_boundary(text.len() * share / 100);
                text[..end].to_owned()
            }
            Some(Flaw::NotXml) => "<!DOCTYPE html>\n<html><head><title>503</title><body>\
                <p>The service is busy<br>Please try again & again\n"
                .to_owned(),
            Some(Flaw::WrongRoot) => {
                let mut xml = xml::Xml::new();
                let namespace =
                    "urn:oasis:names:specification:ubl:schema:xsd:ApplicationResponse-2";
                xml.node("ApplicationResponse", &[("xmlns", namespace)], |xml| {
                    xml.leaf("Note", &[], "received");
                });
                xml.finish()
            }
            Some(Flaw::NoPublicationNumber | Flaw::UnknownSubtype | Flaw::NoLots) | None => text,
        }
    }
}

impl Iterator for Maker {
    type Item = (Notice, String);

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.make())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::process::{Command, Stdio};

    use serde_json::Value;
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn same_seed_gives_the_same_bytes_and_another_seed_others() {
        let text = |seed| Maker::new(seed).take(50).collect::<Vec<_>>();
        assert_eq!(text(7), text(7));
        assert_ne!(text(7), text(8));
    }

    #[test]
    fn sizes_kinds_and_flaws_are_as_promised() {
        let made: Vec<_> = Maker::new(1).take(500).collect();
        let broken = |one: &&(Notice, String)| !matches!(one.0.flaw, None | Some(Flaw::NoLots));
        assert_eq!(made.iter().filter(broken).count(), 20);
        for (notice, text) in made.iter().filter(|(notice, _)| notice.flaw.is_none()) {
            assert!(
                (3_000..80_000).contains(&text.len()),
                "{notice:?}: {} bytes",
                text.len()
            );
        }
        let mut numbers: Vec<_> = made.iter().map(|(notice, _)| &notice.number).collect();
        numbers.sort();
        numbers.dedup();
        assert_eq!(numbers.len(), made.len());
        let eforms = made
            .iter()
            .filter(|(notice, _)| notice.kind == Kind::Eforms)
            .count();
        assert!((200..400).contains(&eforms), "{eforms} eForms");
    }

    #[test]
    fn procedures_have_several_notices() {
        let mut versions: HashMap<String, usize> = HashMap::new();
        for (_, text) in Maker::new(3).take(300) {
            let folder = text.split("<cbc:ContractFolderID>").nth(1);
            if let Some(id) = folder.and_then(|rest| rest.split('<').next()) {
                *versions.entry(id.to_owned()).or_default() += 1;
            }
        }
        assert!(versions.values().any(|&count| count >= 2));
    }

    /// The example worker is the judge: every good notice gives triples, every other one fails
    /// with the code of its flaw.
    #[test]
    fn example_worker_turns_good_notices_and_names_each_flaw() {
        let folder = TempDir::new().unwrap();
        let corpus = generate(folder.path(), 375, 42).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/to_rdf.py");
        let input = folder.path().join("input.jsonl");
        let lines: Vec<String> = corpus
            .notices
            .iter()
            .map(|notice| {
                let uri = corpus.folder.join(&notice.file);
                let output = folder.path().join("out").join(&notice.number);
                serde_json::json!({"job_id": 1, "source_id": notice.file, "uri": uri,
                                   "output": output, "attempt": 1})
                .to_string()
            })
            .collect();
        fs::write(&input, lines.join("\n")).unwrap();
        let run = Command::new("python3")
            .arg(script)
            .stdin(fs::File::open(&input).unwrap())
            .stderr(Stdio::null())
            .output()
            .unwrap();
        let answers = String::from_utf8(run.stdout).unwrap();
        let answers: Vec<Value> = answers
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(answers.len(), corpus.notices.len());
        for (notice, answer) in corpus.notices.iter().zip(&answers) {
            let expected: &[&str] = match notice.flaw {
                None => &["none"],
                Some(Flaw::Truncated | Flaw::NotXml) => &["broken-xml"],
                Some(Flaw::NoPublicationNumber) => &["no-publication-number"],
                Some(Flaw::WrongRoot) => &["unknown-root"],
                Some(Flaw::NoLots) => &["no-lots"],
                // The script does not know the tables of subtypes; a corrigendum has no lots.
                Some(Flaw::UnknownSubtype) => &["none", "no-lots"],
            };
            let code = answer["error"]["code"].as_str().unwrap_or("none");
            assert!(expected.contains(&code), "{notice:?}: {answer}");
        }
    }
}
