//! Writes the facts of a notice as eForms: UBL 2.3 with the eForms extension.

use crate::demo::corpus::words::{Country, LANGUAGES};
use crate::demo::corpus::xml::Xml;
use crate::demo::corpus::{Facts, Flaw, Lot};

/// One of the notice subtypes of eForms.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subtype {
    pub(super) code: &'static str,
    form_type: &'static str,
    notice_type: &'static str,
    basis: &'static str,
    root: &'static str,
    /// The subtype of the notice that ends the procedure.
    pub(super) result: Option<&'static str>,
}

type Day = (i32, u32, u32);

/// With weights: notices of 2021 in hundreds, mapped to eForms subtypes (OP-TED/ted-rdf-mapping,
/// `test_data/sampling_2021`: 267,219 of subtype 29 and so on); rare ones are raised to 10, so
/// that a small corpus has them.
#[rustfmt::skip]
pub(super) const SUBTYPES: [(u32, Subtype); 17] = [
    (2415, subtype("16", "competition", "cn-standard", "32014L0024", CN, Some("29"))),
    (2672, subtype("29", "result", "can-standard", "32014L0024", CAN, None)),
    (294, subtype("30", "result", "can-standard", "32014L0025", CAN, None)),
    (242, subtype("17", "competition", "cn-standard", "32014L0025", CN, Some("30"))),
    (214, subtype("38", "cont-modif", "can-modif", "32014L0024", CAN, None)),
    (77, subtype("4", "planning", "pin-only", "32014L0024", PIN, None)),
    (75, subtype("25", "dir-awa-pre", "veat", "32014L0024", CAN, None)),
    (62, subtype("20", "competition", "cn-social", "32014L0024", CN, Some("33"))),
    (56, subtype("33", "result", "can-social", "32014L0024", CAN, None)),
    (40, subtype("7", "planning", "pin-rtl", "32014L0024", PIN, None)),
    (19, subtype("19", "competition", "cn-standard", "32014L0023", CN, None)),
    (18, subtype("18", "competition", "cn-standard", "32009L0081", CN, None)),
    (16, subtype("23", "competition", "cn-desg", "32014L0024", CN, Some("36"))),
    (10, subtype("36", "result", "can-desg", "32014L0024", CAN, None)),
    (10, subtype("10", "competition", "pin-cfc-standard", "32014L0024", CN, None)),
    (10, subtype("12", "competition", "pin-cfc-social", "32014L0024", CN, None)),
    (10, subtype("21", "competition", "cn-social", "32014L0025", CN, None)),
];

const CN: &str = "ContractNotice";
const CAN: &str = "ContractAwardNotice";
const PIN: &str = "PriorInformationNotice";

const fn subtype(
    code: &'static str,
    form_type: &'static str,
    notice_type: &'static str,
    basis: &'static str,
    root: &'static str,
    result: Option<&'static str>,
) -> Subtype {
    Subtype {
        code,
        form_type,
        notice_type,
        basis,
        root,
        result,
    }
}

/// SDK versions with the days between which notices of each were published, weighted by how many
/// were seen (95 published eForms in the OP-TED repositories; 1.4 was not among them).
pub(super) const SDKS: [(u32, (&str, Day, Day)); 7] = [
    (9, ("eforms-sdk-1.3", (2022, 11, 15), (2023, 10, 26))),
    (3, ("eforms-sdk-1.5", (2023, 10, 27), (2023, 12, 1))),
    (7, ("eforms-sdk-1.6", (2023, 3, 16), (2023, 12, 26))),
    (18, ("eforms-sdk-1.7", (2023, 5, 25), (2024, 4, 2))),
    (23, ("eforms-sdk-1.8", (2023, 8, 14), (2024, 10, 10))),
    (18, ("eforms-sdk-1.9", (2023, 10, 13), (2024, 4, 15))),
    (16, ("eforms-sdk-1.10", (2023, 12, 6), (2024, 9, 2))),
];

/// The publication number.
pub(super) fn number(facts: &Facts) -> String {
    format!("{:08}-{}", facts.number, facts.published.format("%Y"))
}

/// The notice as XML.
pub(super) fn write(facts: &Facts) -> String {
    let subtype = facts.subtype;
    let main = format!(
        "urn:oasis:names:specification:ubl:schema:xsd:{}-2",
        subtype.root
    );
    let ubl = |name: &str| format!("urn:oasis:names:specification:ubl:schema:xsd:Common{name}-2");
    let own = |name: &str| format!("http://data.europa.eu/p27/eforms-ubl-extension{name}/1");
    let names = [
        ("xmlns", main),
        ("xmlns:cac", ubl("AggregateComponents")),
        ("xmlns:cbc", ubl("BasicComponents")),
        ("xmlns:ext", ubl("ExtensionComponents")),
        ("xmlns:efac", own("-aggregate-components")),
        ("xmlns:efbc", own("-basic-components")),
        ("xmlns:efext", own("s")),
    ];
    let names: Vec<(&str, &str)> = names
        .iter()
        .map(|(name, uri)| (*name, uri.as_str()))
        .collect();
    let mut xml = Xml::new();
    xml.node(subtype.root, &names, |xml| {
        xml.path(EXTENSION, |xml| extension(xml, facts));
        header(xml, facts);
        contracting_party(xml);
        xml.path("cac:TenderingProcess", |xml| {
            let list = [("listName", "procurement-procedure-type")];
            xml.leaf("cbc:ProcedureCode", &list, "open");
        });
        xml.path("cac:ProcurementProject", |xml| {
            let whole = Lot {
                subject: facts.subject,
                town: facts.town,
                sentences: vec![0, 4],
                value: facts.lots.iter().map(|lot| lot.value).sum(),
                firm: "",
            };
            project(xml, facts, &whole, &format!("PRJ-{}", facts.number));
        });
        if facts.flaw != Some(Flaw::NoLots) {
            for (index, one) in facts.lots.iter().enumerate() {
                xml.path("cac:ProcurementProjectLot", |xml| {
                    lot(xml, facts, one, index)
                });
            }
        }
    });
    xml.finish()
}

const EXTENSION: &str =
    "ext:UBLExtensions/ext:UBLExtension/ext:ExtensionContent/efext:EformsExtension";

/// The offset that dates of a country carry; Ireland writes UTC.
fn offset(country: &Country) -> &'static str {
    if country.two == "IE" { "Z" } else { "+01:00" }
}

fn extension(xml: &mut Xml, facts: &Facts) {
    if awarded(facts) {
        xml.path("efac:NoticeResult", |xml| result(xml, facts));
    }
    xml.path("efac:NoticeSubType", |xml| {
        let code = match facts.flaw {
            Some(Flaw::UnknownSubtype) => "E5",
            Some(_) | None => facts.subtype.code,
        };
        xml.leaf("cbc:SubTypeCode", &[("listName", "notice-subtype")], code);
    });
    xml.path("efac:Organizations", |xml| {
        organisation(xml, facts, 1, &facts.buyer, facts.town);
        let review = format!("Review Chamber of {}", facts.country.towns[0].0);
        organisation(xml, facts, 2, &review, facts.country.towns[0]);
        if awarded(facts) {
            for (index, lot) in facts.lots.iter().enumerate() {
                organisation(xml, facts, index + 3, lot.firm, lot.town);
            }
        }
    });
    xml.path("efac:Publication", |xml| {
        if facts.flaw != Some(Flaw::NoPublicationNumber) {
            let scheme = [("schemeName", "ojs-notice-id")];
            xml.leaf("efbc:NoticePublicationID", &scheme, &number(facts));
        }
        let issue = format!("{}/{}", facts.issue(), facts.published.format("%Y"));
        xml.leaf("efbc:GazetteID", &[("schemeName", "ojs-id")], &issue);
        xml.leaf(
            "efbc:PublicationDate",
            &[],
            &facts.published.format("%Y-%m-%dZ").to_string(),
        );
    });
}

fn awarded(facts: &Facts) -> bool {
    facts.subtype.root == CAN
}

fn organisation(xml: &mut Xml, facts: &Facts, id: usize, name: &str, town: (&str, &str)) {
    let language = [("languageID", facts.language().three)];
    let host = format!("org-{}-{id}.example", buyer_key(facts));
    xml.path("efac:Organization/efac:Company", |xml| {
        xml.leaf("cbc:WebsiteURI", &[], &format!("https://www.{host}"));
        xml.path("cac:PartyIdentification", |xml| {
            xml.leaf(
                "cbc:ID",
                &[("schemeName", "organization")],
                &format!("ORG-{id:04}"),
            );
        });
        xml.path("cac:PartyName", |xml| xml.leaf("cbc:Name", &language, name));
        xml.path("cac:PostalAddress", |xml| {
            xml.leaf("cbc:StreetName", &[], &format!("Platz {id}"));
            xml.leaf("cbc:CityName", &[], town.0);
            xml.leaf(
                "cbc:PostalZone",
                &[],
                &format!("{:05}", facts.number % 90_000),
            );
            xml.leaf("cbc:CountrySubentityCode", &[("listName", "nuts")], town.1);
            xml.path("cac:Country", |xml| {
                let list = [("listName", "country")];
                xml.leaf("cbc:IdentificationCode", &list, facts.country.three);
            });
        });
        xml.path("cac:PartyLegalEntity", |xml| {
            xml.leaf("cbc:CompanyID", &[], &format!("X{}-{id}", buyer_key(facts)));
        });
        xml.path("cac:Contact", |xml| {
            xml.leaf("cbc:ElectronicMail", &[], &format!("tenders@{host}"));
        });
    });
}

/// The same in all notices of a procedure.
fn buyer_key(facts: &Facts) -> &str {
    &facts.procedure_uuid[..8]
}

fn result(xml: &mut Xml, facts: &Facts) {
    let total: u32 = facts.lots.iter().map(|lot| lot.value).sum();
    xml.leaf(
        "cbc:TotalAmount",
        &[("currencyID", "EUR")],
        &total.to_string(),
    );
    for index in 1..=facts.lots.len() {
        xml.path("efac:LotResult", |xml| {
            xml.leaf(
                "cbc:ID",
                &[("schemeName", "result")],
                &format!("RES-{index:04}"),
            );
            let list = [("listName", "winner-selection-status")];
            xml.leaf("cbc:TenderResultCode", &list, "selec-w");
            xml.path("efac:LotTender", |xml| {
                xml.leaf(
                    "cbc:ID",
                    &[("schemeName", "tender")],
                    &format!("TEN-{index:04}"),
                );
            });
            xml.path("efac:TenderLot", |xml| {
                xml.leaf(
                    "cbc:ID",
                    &[("schemeName", "Lot")],
                    &format!("LOT-{index:04}"),
                );
            });
        });
    }
    for (index, lot) in facts.lots.iter().enumerate() {
        xml.path("efac:LotTender", |xml| {
            let id = format!("TEN-{:04}", index + 1);
            xml.leaf("cbc:ID", &[("schemeName", "tender")], &id);
            xml.path("cac:LegalMonetaryTotal", |xml| {
                let currency = [("currencyID", "EUR")];
                xml.leaf("cbc:PayableAmount", &currency, &lot.value.to_string());
            });
        });
        xml.path("efac:TenderingParty", |xml| {
            let id = format!("TPA-{:04}", index + 1);
            xml.leaf("cbc:ID", &[("schemeName", "tendering-party")], &id);
            xml.path("efac:Tenderer", |xml| {
                let id = format!("ORG-{:04}", index + 3);
                xml.leaf("cbc:ID", &[("schemeName", "organization")], &id);
            });
        });
    }
}

fn header(xml: &mut Xml, facts: &Facts) {
    let offset = offset(facts.country);
    xml.leaf("cbc:UBLVersionID", &[], "2.3");
    xml.leaf("cbc:CustomizationID", &[], facts.sdk);
    xml.leaf("cbc:ID", &[("schemeName", "notice-id")], &facts.notice_uuid);
    xml.leaf("cbc:ContractFolderID", &[], &facts.procedure_uuid);
    xml.leaf("cbc:IssueDate", &[], &format!("{}{offset}", facts.sent));
    xml.leaf(
        "cbc:IssueTime",
        &[],
        &format!("{:02}:15:00{offset}", 8 + facts.number % 9),
    );
    xml.leaf("cbc:VersionID", &[], &format!("{:02}", facts.version));
    xml.leaf("cbc:RegulatoryDomain", &[], facts.subtype.basis);
    let list = [("listName", facts.subtype.form_type)];
    xml.leaf("cbc:NoticeTypeCode", &list, facts.subtype.notice_type);
    let list = [("listName", "language")];
    xml.leaf("cbc:NoticeLanguageCode", &list, facts.language().three);
    for &more in &facts.more_languages {
        xml.path("cac:AdditionalNoticeLanguage", |xml| {
            xml.leaf("cbc:ID", &[], LANGUAGES[more].three);
        });
    }
}

fn contracting_party(xml: &mut Xml) {
    xml.path("cac:ContractingParty", |xml| {
        xml.path("cac:ContractingPartyType", |xml| {
            xml.leaf(
                "cbc:PartyTypeCode",
                &[("listName", "buyer-legal-type")],
                "la",
            );
        });
        xml.path("cac:ContractingActivity", |xml| {
            xml.leaf(
                "cbc:ActivityTypeCode",
                &[("listName", "authority-activity")],
                "gen-pub",
            );
        });
        xml.path("cac:Party/cac:PartyIdentification", |xml| {
            xml.leaf("cbc:ID", &[("schemeName", "organization")], "ORG-0001");
        });
    });
}

fn project(xml: &mut Xml, facts: &Facts, lot: &Lot, id: &str) {
    let languages = || std::iter::once(facts.language).chain(facts.more_languages.clone());
    xml.leaf("cbc:ID", &[("schemeName", "InternalID")], id);
    for language in languages() {
        let known = [("languageID", LANGUAGES[language].three)];
        let title = format!("{} - {}", lot.subject.titles[language], lot.town.0);
        xml.leaf("cbc:Name", &known, &title);
    }
    for language in languages() {
        let known = [("languageID", LANGUAGES[language].three)];
        xml.leaf(
            "cbc:Description",
            &known,
            &facts.describe(&lot.sentences, language),
        );
    }
    xml.leaf(
        "cbc:ProcurementTypeCode",
        &[("listName", "contract-nature")],
        lot.subject.nature,
    );
    xml.path("cac:RequestedTenderTotal", |xml| {
        let currency = [("currencyID", "EUR")];
        xml.leaf(
            "cbc:EstimatedOverallContractAmount",
            &currency,
            &lot.value.to_string(),
        );
    });
    xml.path("cac:MainCommodityClassification", |xml| {
        xml.leaf(
            "cbc:ItemClassificationCode",
            &[("listName", "cpv")],
            lot.subject.cpv,
        );
    });
    for code in lot.subject.more_cpv {
        xml.path("cac:AdditionalCommodityClassification", |xml| {
            xml.leaf("cbc:ItemClassificationCode", &[("listName", "cpv")], code);
        });
    }
    xml.path("cac:RealizedLocation/cac:Address", |xml| {
        xml.leaf("cbc:CityName", &[], lot.town.0);
        xml.leaf(
            "cbc:CountrySubentityCode",
            &[("listName", "nuts")],
            lot.town.1,
        );
        xml.path("cac:Country", |xml| {
            let list = [("listName", "country")];
            xml.leaf("cbc:IdentificationCode", &list, facts.country.three);
        });
    });
}

fn lot(xml: &mut Xml, facts: &Facts, lot: &Lot, index: usize) {
    let id = format!("LOT-{:04}", index + 1);
    xml.leaf("cbc:ID", &[("schemeName", "Lot")], &id);
    xml.path("cac:TenderingTerms", |xml| {
        xml.leaf(
            "cbc:FundingProgramCode",
            &[("listName", "eu-funded")],
            "no-eu-funds",
        );
        xml.path("cac:AwardingTerms/cac:AwardingCriterion", |xml| {
            xml.path("cac:SubordinateAwardingCriterion", |xml| {
                let list = [("listName", "award-criterion-type")];
                xml.leaf("cbc:AwardingCriterionTypeCode", &list, "price");
            });
        });
        xml.path(
            "cac:AppealTerms/cac:AppealReceiverParty/cac:PartyIdentification",
            |xml| {
                xml.leaf("cbc:ID", &[], "ORG-0002");
            },
        );
        xml.path("cac:Language", |xml| {
            xml.leaf("cbc:ID", &[], facts.language().three)
        });
    });
    xml.path("cac:TenderingProcess", |xml| {
        if facts.subtype.form_type == "competition" {
            let offset = offset(facts.country);
            xml.leaf(
                "cbc:SubmissionMethodCode",
                &[("listName", "esubmission")],
                "required",
            );
            xml.path("cac:TenderSubmissionDeadlinePeriod", |xml| {
                xml.leaf("cbc:EndDate", &[], &format!("{}{offset}", facts.deadline));
                xml.leaf("cbc:EndTime", &[], &format!("12:00:00{offset}"));
            });
        }
        xml.path("cac:ContractingSystem", |xml| {
            let list = [("listName", "framework-agreement")];
            xml.leaf("cbc:ContractingSystemTypeCode", &list, "none");
        });
    });
    xml.path("cac:ProcurementProject", |xml| {
        project(xml, facts, lot, &id)
    });
}
