//! Writes the facts of a notice as a standard form: `TED_EXPORT` of schema R2.0.8 or R2.0.9.

use chrono::Datelike;

use crate::demo::corpus::words::LANGUAGES;
use crate::demo::corpus::xml::Xml;
use crate::demo::corpus::{Facts, Flaw, Lot};

/// A standard form.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    code: &'static str,
    /// `NOTICE/@TYPE`, where the form has it.
    notice_type: Option<&'static str>,
    basis: &'static str,
    /// Kind of document: its code and text.
    document: (&'static str, &'static str),
    /// Written in the older schema.
    pub(super) defence: bool,
    awarded: bool,
}

const NOTICE: (&str, &str) = ("3", "Contract notice");
const AWARD: (&str, &str) = ("7", "Contract award notice");
const PRIOR: (&str, &str) = ("0", "Prior information notice without call for competition");
const CHANGE: (&str, &str) = ("2", "Additional information");

/// With weights: notices of 2021 by form in hundreds (OP-TED/ted-rdf-mapping,
/// `test_data/sampling_2021`: 267,219 of F03 and so on), those of several notice types split;
/// rare ones are raised to 10. F14 stands apart: it has no eForms subtype.
#[rustfmt::skip]
pub(super) const FORMS: [(u32, Form); 15] = [
    (2672, form("F03", None, "32014L0024", AWARD)),
    (2415, form("F02", None, "32014L0024", NOTICE)),
    (334, form("F20", None, "32014L0024", ("K", "Modification of a contract"))),
    (294, form("F06", None, "32014L0025", AWARD)),
    (242, form("F05", None, "32014L0025", NOTICE)),
    (77, form("F01", Some("PRI_ONLY"), "32014L0024", PRIOR)),
    (45, form("F01", Some("PRI_CALL_COMPETITION"), "32014L0024", PRIOR)),
    (62, form("F21", Some("CONTRACT"), "32014L0024", NOTICE)),
    (56, form("F21", Some("AWARD_CONTRACT"), "32014L0024", AWARD)),
    (22, form("F18", None, "32009L0081", AWARD)),
    (18, form("F17", None, "32009L0081", NOTICE)),
    (12, form("F25", None, "32014L0023", AWARD)),
    (10, form("F13", None, "32014L0024", ("R", "Results of design contests"))),
    (10, form("F22", Some("CONTRACT"), "32014L0025", NOTICE)),
    (10, form("F23", Some("CONCESSION_AWARD_CONTRACT"), "32014L0023", AWARD)),
];

const fn form(
    code: &'static str,
    notice_type: Option<&'static str>,
    basis: &'static str,
    document: (&'static str, &'static str),
) -> Form {
    let number = code.as_bytes();
    let defence = number[1] == b'1' && (number[2] == b'7' || number[2] == b'8');
    let awarded = matches!(document.0.as_bytes(), b"7" | b"K");
    Form {
        code,
        notice_type,
        basis,
        document,
        defence,
        awarded,
    }
}

/// Schema versions of R2.0.9 by their first day of publication (3,545 notices of the OP-TED
/// repositories).
const SCHEMAS: [((i32, u32, u32), &str); 5] = [
    ((2021, 11, 26), "R2.0.9.S05.E01"),
    ((2021, 3, 1), "R2.0.9.S04.E01"),
    ((2018, 7, 5), "R2.0.9.S03.E01"),
    ((2017, 6, 16), "R2.0.9.S02.E01"),
    ((2016, 1, 8), "R2.0.9.S01.E01"),
];

/// The publication number.
pub(super) fn number(facts: &Facts) -> String {
    format!("{:06}-{}", facts.number, facts.published.format("%Y"))
}

/// The notice as XML.
pub(super) fn write(facts: &Facts, form: &Form) -> String {
    let form = match facts.flaw {
        Some(Flaw::UnknownSubtype) => Form {
            code: "F14",
            notice_type: None,
            document: CHANGE,
            defence: false,
            ..*form
        },
        Some(_) | None => *form,
    };
    let day = (
        facts.published.year(),
        facts.published.month(),
        facts.published.day(),
    );
    let schema = SCHEMAS
        .iter()
        .find(|(first, _)| day >= *first)
        .map_or("R2.0.9.S01.E01", |s| s.1);
    // Regions got a new namespace with the classification of 2021.
    let nuts = if day >= (2021, 3, 1) {
        "n2021"
    } else {
        "n2016"
    };
    let regions = format!(
        "http://publications.europa.eu/resource/schema/ted/20{}/nuts",
        &nuts[3..]
    );
    let release = if form.defence { "R2.0.8" } else { "R2.0.9" };
    let main = format!("http://publications.europa.eu/resource/schema/ted/{release}/publication");
    let prefix = format!("xmlns:{nuts}");
    let shown = number(facts);
    let mut names = vec![
        ("xmlns", main.as_str()),
        (prefix.as_str(), regions.as_str()),
        ("xmlns:xlink", "http://www.w3.org/1999/xlink"),
        ("EDITION", "2020001"),
    ];
    if facts.flaw != Some(Flaw::NoPublicationNumber) {
        names.push(("DOC_ID", shown.as_str()));
    }
    if !form.defence {
        names.push(("VERSION", schema));
    }
    let mut xml = Xml::new();
    xml.node("TED_EXPORT", &names, |xml| {
        xml.path("TECHNICAL_SECTION", |xml| {
            xml.leaf(
                "RECEPTION_ID",
                &[],
                &format!("{:02}-{:06}-001", day.0 % 100, facts.number),
            );
            xml.leaf("FORM_LG_LIST", &[], &format!("{} ", facts.language().two));
        });
        xml.path("CODED_DATA_SECTION", |xml| coded(xml, facts, &form, nuts));
        xml.path("TRANSLATION_SECTION", |xml| translations(xml, facts));
        xml.path("FORM_SECTION", |xml| {
            if form.defence {
                old_form(xml, facts, &form)
            } else {
                new_form(xml, facts, &form, nuts)
            }
        });
    });
    xml.finish()
}

fn coded(xml: &mut Xml, facts: &Facts, form: &Form, nuts: &str) {
    let compact = |day: chrono::NaiveDate| day.format("%Y%m%d").to_string();
    let year = facts.published.format("%Y");
    xml.path("REF_OJS", |xml| {
        xml.leaf("COLL_OJ", &[], "S");
        xml.leaf("NO_OJ", &[], &facts.issue().to_string());
        xml.leaf("DATE_PUB", &[], &compact(facts.published));
    });
    xml.path("NOTICE_DATA", |xml| {
        let shown = format!("{year}/S {:03}-{:06}", facts.issue(), facts.number);
        xml.leaf("NO_DOC_OJS", &[], &shown);
        xml.leaf("LG_ORIG", &[], facts.language().two);
        xml.leaf("ISO_COUNTRY", &[("VALUE", facts.country.two)], "");
        xml.leaf(
            "IA_URL_GENERAL",
            &[],
            &format!("https://www.org{}.example", facts.number),
        );
        for code in std::iter::once(&facts.subject.cpv).chain(facts.subject.more_cpv) {
            xml.leaf("ORIGINAL_CPV", &[("CODE", code)], facts.subject.titles[0]);
        }
        let mut regions: Vec<_> = facts.lots.iter().map(|lot| lot.town).collect();
        regions.sort_unstable_by_key(|town| town.1);
        regions.dedup();
        let name = if form.defence {
            "ORIGINAL_NUTS".to_owned()
        } else {
            format!("{nuts}:PERFORMANCE_NUTS")
        };
        for (town, code) in regions {
            xml.leaf(&name, &[("CODE", code)], town);
        }
    });
    xml.path("CODIF_DATA", |xml| {
        xml.leaf("DS_DATE_DISPATCH", &[], &compact(facts.sent));
        if form.document == NOTICE {
            let deadline = format!("{} 12:00", compact(facts.deadline));
            xml.leaf("DT_DATE_FOR_SUBMISSION", &[], &deadline);
        }
        xml.leaf(
            "AA_AUTHORITY_TYPE",
            &[("CODE", "3")],
            "Regional or local authority",
        );
        xml.leaf(
            "TD_DOCUMENT_TYPE",
            &[("CODE", form.document.0)],
            form.document.1,
        );
        let nature = match facts.subject.nature {
            "works" => ("1", "Works"),
            "supplies" => ("2", "Supplies"),
            _ => ("4", "Services"),
        };
        xml.leaf("NC_CONTRACT_NATURE", &[("CODE", nature.0)], nature.1);
        xml.leaf("PR_PROC", &[("CODE", "1")], "Open procedure");
        xml.leaf(
            "MA_MAIN_ACTIVITIES",
            &[("CODE", "S")],
            "General public services",
        );
        // Written as 2014/24/EU where 32014L0024 is meant; before 2010 it was the EC.
        let (year, number) = (&form.basis[1..5], form.basis[6..].trim_start_matches('0'));
        let body = if year < "2010" { "EC" } else { "EU" };
        let basis = format!("{year}/{number}/{body}");
        xml.leaf("DIRECTIVE", &[("VALUE", &basis)], "");
    });
}

fn translations(xml: &mut Xml, facts: &Facts) {
    xml.path("ML_TITLES", |xml| {
        for (index, language) in LANGUAGES.iter().enumerate() {
            xml.node("ML_TI_DOC", &[("LG", language.two)], |xml| {
                xml.leaf("TI_CY", &[], facts.country.name);
                xml.leaf("TI_TOWN", &[], facts.town.0);
                xml.paragraph("TI_TEXT", facts.subject.titles[index]);
            });
        }
    });
    xml.path("ML_AA_NAMES", |xml| {
        xml.leaf("AA_NAME", &[("LG", facts.language().two)], &facts.buyer);
    });
}

fn new_form(xml: &mut Xml, facts: &Facts, form: &Form, nuts: &str) {
    let name = format!("{}_2014", form.code);
    let language = facts.language().two;
    let names = [
        ("CATEGORY", "ORIGINAL"),
        ("FORM", form.code),
        ("LG", language),
    ];
    let empty = facts.flaw == Some(Flaw::NoLots) || form.code == "F14";
    xml.node(&name, &names, |xml| {
        xml.leaf("LEGAL_BASIS", &[("VALUE", form.basis)], "");
        if let Some(kind) = form.notice_type {
            xml.leaf("NOTICE", &[("TYPE", kind)], "");
        }
        xml.path("CONTRACTING_BODY", |xml| {
            xml.path("ADDRESS_CONTRACTING_BODY", |xml| {
                address(xml, facts, &facts.buyer, nuts)
            });
            xml.leaf("CA_TYPE", &[("VALUE", "REGIONAL_AUTHORITY")], "");
            xml.leaf("CA_ACTIVITY", &[("VALUE", "GENERAL_PUBLIC_SERVICES")], "");
        });
        xml.path("OBJECT_CONTRACT", |xml| {
            let title = facts.subject.titles[facts.language];
            xml.paragraph("TITLE", &format!("{title} - {}", facts.town.0));
            xml.leaf("REFERENCE_NUMBER", &[], &format!("REF/{}", facts.number));
            xml.path("CPV_MAIN", |xml| {
                xml.leaf("CPV_CODE", &[("CODE", facts.subject.cpv)], "");
            });
            let nature = facts.subject.nature.to_uppercase();
            xml.leaf("TYPE_CONTRACT", &[("CTYPE", &nature)], "");
            xml.paragraph("SHORT_DESCR", &facts.describe(&[0, 4], facts.language));
            if !empty {
                let divided = if facts.lots.len() > 1 {
                    "LOT_DIVISION"
                } else {
                    "NO_LOT_DIVISION"
                };
                xml.leaf(divided, &[], "");
                for (index, lot) in facts.lots.iter().enumerate() {
                    let item = (index + 1).to_string();
                    xml.node("OBJECT_DESCR", &[("ITEM", &item)], |xml| {
                        object(xml, facts, lot, &item, nuts);
                    });
                }
            }
        });
        xml.path("PROCEDURE", |xml| {
            xml.leaf("PT_OPEN", &[], "");
            if form.document == NOTICE {
                xml.leaf("DATE_RECEIPT_TENDERS", &[], &facts.deadline.to_string());
                xml.leaf("TIME_RECEIPT_TENDERS", &[], "12:00");
            }
        });
        if form.awarded && !empty {
            for (index, lot) in facts.lots.iter().enumerate() {
                let item = (index + 1).to_string();
                xml.node("AWARD_CONTRACT", &[("ITEM", &item)], |xml| {
                    award(xml, facts, lot, nuts)
                });
            }
        }
        xml.path("COMPLEMENTARY_INFO", |xml| {
            xml.leaf("DATE_DISPATCH_NOTICE", &[], &facts.sent.to_string());
        });
    });
}

fn address(xml: &mut Xml, facts: &Facts, name: &str, nuts: &str) {
    xml.leaf("OFFICIALNAME", &[], name);
    xml.leaf("NATIONALID", &[], &format!("X{:06}", facts.number));
    xml.leaf("TOWN", &[], facts.town.0);
    xml.leaf("COUNTRY", &[("VALUE", facts.country.two)], "");
    xml.leaf(
        "E_MAIL",
        &[],
        &format!("tenders@org{}.example", facts.number),
    );
    xml.leaf(&format!("{nuts}:NUTS"), &[("CODE", facts.town.1)], "");
}

fn object(xml: &mut Xml, facts: &Facts, lot: &Lot, item: &str, nuts: &str) {
    let title = lot.subject.titles[facts.language];
    xml.paragraph("TITLE", &format!("{title} - {}", lot.town.0));
    xml.leaf("LOT_NO", &[], item);
    for code in lot.subject.more_cpv {
        xml.path("CPV_ADDITIONAL", |xml| {
            xml.leaf("CPV_CODE", &[("CODE", code)], "")
        });
    }
    xml.leaf(&format!("{nuts}:NUTS"), &[("CODE", lot.town.1)], "");
    xml.paragraph(
        "SHORT_DESCR",
        &facts.describe(&lot.sentences, facts.language),
    );
    xml.path("AC", |xml| xml.leaf("AC_PRICE", &[], ""));
    xml.leaf("DURATION", &[("TYPE", "MONTH")], "24");
    xml.leaf("NO_EU_PROGR_RELATED", &[], "");
}

fn award(xml: &mut Xml, facts: &Facts, lot: &Lot, nuts: &str) {
    xml.paragraph("TITLE", lot.subject.titles[facts.language]);
    xml.path("AWARDED_CONTRACT", |xml| {
        xml.leaf("DATE_CONCLUSION_CONTRACT", &[], &facts.sent.to_string());
        xml.path("CONTRACTORS/CONTRACTOR/ADDRESS_CONTRACTOR", |xml| {
            xml.leaf("OFFICIALNAME", &[], lot.firm);
            xml.leaf("TOWN", &[], lot.town.0);
            xml.leaf("COUNTRY", &[("VALUE", facts.country.two)], "");
            xml.leaf(&format!("{nuts}:NUTS"), &[("CODE", lot.town.1)], "");
        });
        xml.path("VALUES", |xml| {
            xml.leaf(
                "VAL_TOTAL",
                &[("CURRENCY", "EUR")],
                &format!("{}.00", lot.value),
            );
        });
    });
}

/// The layout of defence notices before 2014: one object, its lots in an annex.
fn old_form(xml: &mut Xml, facts: &Facts, form: &Form) {
    let (name, object, description) = if form.awarded {
        (
            "CONTRACT_AWARD_DEFENCE",
            "OBJECT_CONTRACT_INFORMATION_CONTRACT_AWARD_NOTICE_DEFENCE",
            "DESCRIPTION_AWARD_NOTICE_INFORMATION_DEFENCE",
        )
    } else {
        (
            "CONTRACT_DEFENCE",
            "OBJECT_CONTRACT_INFORMATION_DEFENCE",
            "DESCRIPTION_CONTRACT_INFORMATION_DEFENCE",
        )
    };
    let names = [
        ("CATEGORY", "ORIGINAL"),
        ("FORM", &form.code[1..]),
        ("LG", facts.language().two),
        ("VERSION", "R2.0.8.S05.E01"),
    ];
    xml.node(name, &names, |xml| {
        xml.path(&format!("FD_{name}"), |xml| {
            xml.path("AUTHORITY_INFORMATION/NAME_ADDRESSES_CONTACT", |xml| {
                xml.path("ORGANISATION", |xml| {
                    xml.leaf("OFFICIALNAME", &[], &facts.buyer)
                });
                xml.leaf("TOWN", &[], facts.town.0);
                xml.leaf("COUNTRY", &[("VALUE", facts.country.two)], "");
            });
            if facts.flaw != Some(Flaw::NoLots) {
                xml.path(&format!("{object}/{description}"), |xml| {
                    let title = facts.subject.titles[facts.language];
                    xml.paragraph("TITLE_CONTRACT", title);
                    for lot in &facts.lots {
                        let text = facts.describe(&lot.sentences, facts.language);
                        xml.paragraph("SHORT_CONTRACT_DESCRIPTION", &text);
                    }
                    xml.path("CPV/CPV_MAIN", |xml| {
                        xml.leaf("CPV_CODE", &[("CODE", facts.subject.cpv)], "");
                    });
                });
            }
        });
    });
}
