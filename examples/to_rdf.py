#!/usr/bin/env python3
"""Turns procurement notices (eForms UBL and standard forms TED_EXPORT) into N-Triples.

A worker command of Sluicegate: it reads one JSON line per source on standard input
(job_id, source_id, uri, output, attempt, params, row), writes one JSON line per source on
standard output, and prints what it did on standard error. A notice that cannot be turned fails
alone, with a code and a reason. Python 3 standard library only.

    CREATE TRANSFORM to_rdf ON notices
      FROM STATUS 'ELIGIBLE_FOR_TRANSFORMATION' TO STATUS 'TRANSFORMED'
      USING COMMAND 'python3 examples/to_rdf.py';

A notice without lots fails, unless the job's parameters allow it:
schedule_job('to_rdf', notice_id, params => '{"allow_no_lots": true}').

By hand: python3 to_rdf.py NOTICE.xml ... prints the triples.

IRIs, all below BASE, stable over runs and machines. P is the publication number without leading
zeros, such as 622691-2023; every part is percent-encoded.

    notice/P                      one published notice
    procedure/ID                  eForms: ContractFolderID, the same in all notices of a procedure
    procedure/P0                  standard forms: P0 is the notice that a later one refers to
                                  (PROCEDURE/NOTICE_NUMBER_OJ), else the notice itself
    notice/P/organisation/ORG     an organisation *as this notice describes it*, for ORG-0001 of
                                  one notice is not that of the next; below it /buyer, the role,
                                  and /address. Standard forms have one, called "buyer"
    procedure/.../lot/LOT         a lot; LOT is LOT-0001, PAR-0001 or the lot number
    .../purpose, .../term         what a procedure or lot is for, and its terms
    notice/P/location/NUTS        a place of performance, with the region from the NUTS authority
    notice/P/outcome/RES          the result of a lot

Vocabularies: the eProcurement Ontology, ORG, LOCN, Dublin Core and SKOS. Two properties are our
own, below BASE term/: subtype (a code) and tenderDeadline (xsd:dateTime).
"""

import json
import os
import re
import sys
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ElementTree

BASE = "https://example.org/sluicegate/"
EPO = "http://data.europa.eu/a4g/ontology#"
OWN = BASE + "term/"
ORG = "http://www.w3.org/ns/org#"
LEGAL = "http://www.w3.org/ns/legal#"
LOCN = "http://www.w3.org/ns/locn#"
DCT = "http://purl.org/dc/terms/"
SKOS = "http://www.w3.org/2004/02/skos/core#"
RDF_TYPE = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"
XSD = "http://www.w3.org/2001/XMLSchema#"
AUTHORITY = "http://publications.europa.eu/resource/authority/"
CPV = "http://data.europa.eu/cpv/cpv/"
NUTS = "http://data.europa.eu/nuts/code/"

# Bytes of a notice that are read. The largest known real one has 2.8 MB.
NOTICE_BYTES_MAX = 64 << 20

# Three-letter codes of the EU's language authority to BCP 47 tags.
LANGUAGES = dict(pair.split("=") for pair in (
    "BUL=bg CES=cs DAN=da DEU=de ELL=el ENG=en EST=et FIN=fi FRA=fr GLE=ga HRV=hr HUN=hu ISL=is "
    "ITA=it LAV=lv LIT=lt MKD=mk MLT=mt NLD=nl NOR=no NOB=nb NNO=nn POL=pl POR=pt RON=ro SLK=sk "
    "SLV=sl SPA=es SWE=sv TUR=tr UKR=uk SRP=sr CNR=cnr SQI=sq BOS=bs CAT=ca EUS=eu GLG=gl"
).split())
LANGUAGES_REVERSE = {tag.upper(): code for code, tag in LANGUAGES.items()}

# Countries whose three-letter code is not guessed: what standard forms name with two letters.
COUNTRIES = dict(pair.split("=") for pair in (
    "AT=AUT BE=BEL BG=BGR CH=CHE CY=CYP CZ=CZE DE=DEU DK=DNK EE=EST EL=GRC GR=GRC ES=ESP FI=FIN "
    "FR=FRA HR=HRV HU=HUN IE=IRL IS=ISL IT=ITA LI=LIE LT=LTU LU=LUX LV=LVA MK=MKD MT=MLT NL=NLD "
    "NO=NOR PL=POL PT=PRT RO=ROU RS=SRB SE=SWE SI=SVN SK=SVK TR=TUR UA=UKR UK=GBR GB=GBR US=USA "
    "AL=ALB BA=BIH ME=MNE XK=XKX MD=MDA GE=GEO TN=TUN ZM=ZMB"
).split())


class Unusable(Exception):
    """A notice that cannot be turned: a code to select by, and a reason for a person."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


# ---------------------------------------------------------------- N-Triples

def escape(text):
    """A literal's text by the grammar of N-Triples; what XML cannot hold cannot come here."""
    out = []
    for char in text:
        if char in '\\"':
            out.append("\\" + char)
        elif char == "\n":
            out.append("\\n")
        elif char == "\r":
            out.append("\\r")
        elif char == "\t":
            out.append("\\t")
        elif ord(char) < 0x20 or ord(char) == 0x7F or 0xD800 <= ord(char) <= 0xDFFF:
            out.append("\\u%04X" % ord(char))
        else:
            out.append(char)
    return "".join(out)


def part(text):
    """One path segment of an IRI."""
    return urllib.parse.quote(text.strip(), safe="-._~")


class Graph:
    """Triples in the order of their making, without repetitions."""

    def __init__(self):
        self.lines = {}

    def link(self, subject, predicate, target):
        self.lines["<%s> <%s> <%s> ." % (subject, predicate, target)] = None

    def text(self, subject, predicate, value, language=None):
        value = value and " ".join(value.split())
        if value:
            tag = "@" + language if language else ""
            self.lines['<%s> <%s> "%s"%s .' % (subject, predicate, escape(value), tag)] = None

    def typed(self, subject, predicate, value, kind):
        if value:
            self.lines['<%s> <%s> "%s"^^<%s%s> .'
                       % (subject, predicate, escape(value), XSD, kind)] = None

    def dump(self):
        return "".join(line + "\n" for line in self.lines)


# ---------------------------------------------------------------- XML by local names

def local(element):
    tag = element.tag
    return tag.rsplit("}", 1)[-1] if isinstance(tag, str) else ""


def children(element, path):
    """The elements at a path of local names, in document order."""
    found = [element] if element is not None else []
    for name in path.split("/"):
        found = [child for one in found for child in one if local(child) == name]
    return found


def child(element, path):
    found = children(element, path)
    return found[0] if found else None


def own(element):
    """The text of an element that has no child elements worth reading."""
    text = (element.text or "").strip() if element is not None else ""
    return text or None


def value_of(element, path):
    return own(child(element, path))


def all_text(element):
    """The text of an element with markup inside, paragraphs separated by blanks."""
    if element is None:
        return None
    return " ".join(" ".join(element.itertext()).split()) or None


def date_of(text):
    """The calendar date of a lexical value; its offset is dropped, never shifted."""
    match = re.match(r"\s*(\d{4})-?(\d{2})-?(\d{2})", text or "")
    return "-".join(match.groups()) if match else None


def moment_of(day, time):
    """An xsd:dateTime of two UBL values; the offset of the time counts, else that of the day."""
    date = date_of(day)
    clock = re.match(r"\s*(\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?)(Z|[+-]\d{2}:\d{2})?", time or "")
    if not date or not clock:
        return None
    seconds = clock.group(1) if clock.group(1).count(":") == 2 else clock.group(1) + ":00"
    offset = clock.group(2) or (re.search(r"(Z|[+-]\d{2}:\d{2})\s*$", day) or [None, ""])[1]
    return "%sT%s%s" % (date, seconds, offset)


def language_tag(code):
    code = (code or "").strip().upper()
    if code in LANGUAGES:
        return LANGUAGES[code]
    return code.lower() if re.fullmatch(r"[A-Z]{2,3}", code) else None


def country_code(code):
    code = (code or "").strip().upper()
    if len(code) == 3:
        return code
    return COUNTRIES.get(code)


def publication_number(text):
    match = re.fullmatch(r"\s*0*(\d+)-(\d{4})\s*", text or "")
    if not match:
        raise Unusable("no-publication-number", "the notice has no publication number")
    return "%s-%s" % match.groups()


# ---------------------------------------------------------------- what both kinds share

class Notice:
    """A notice's triples and how many lots it has."""

    def __init__(self, number):
        self.graph = Graph()
        self.number = number
        self.iri = BASE + "notice/" + part(number)
        self.lots = 0
        self.graph.link(self.iri, RDF_TYPE, EPO + "Notice")
        self.graph.text(self.iri, DCT + "identifier", number)

    def procedure(self, identifier):
        procedure = BASE + "procedure/" + part(identifier)
        self.graph.link(procedure, RDF_TYPE, EPO + "Procedure")
        self.graph.text(procedure, DCT + "identifier", identifier)
        self.graph.link(self.iri, EPO + "refersToProcedure", procedure)
        return procedure

    def buyer(self, identifier):
        """The organisation that plays the buyer of this notice."""
        organisation = "%s/organisation/%s" % (self.iri, part(identifier))
        role = organisation + "/buyer"
        self.graph.link(self.iri, EPO + "announcesRole", role)
        self.graph.link(role, RDF_TYPE, EPO + "Buyer")
        self.graph.link(role, EPO + "playedBy", organisation)
        self.graph.link(organisation, RDF_TYPE, ORG + "Organization")
        return organisation

    def lot(self, procedure, identifier):
        lot = "%s/lot/%s" % (procedure, part(identifier))
        self.graph.link(lot, RDF_TYPE, EPO + "Lot")
        self.graph.text(lot, DCT + "identifier", identifier)
        self.graph.link(procedure, EPO + "hasProcurementScopeDividedIntoLot", lot)
        self.graph.link(self.iri, EPO + "refersToLot", lot)
        self.lots += 1
        return lot

    def purpose(self, subject, main, additional):
        """CPV codes of a procedure or a lot."""
        purpose = subject + "/purpose"
        for property_name, codes in (("hasMainClassification", main),
                                     ("hasAdditionalClassification", additional)):
            for code in codes:
                if code and re.match(r"\d{8}", code):
                    concept = CPV + code[:8]
                    self.graph.link(subject, EPO + "hasPurpose", purpose)
                    self.graph.link(purpose, RDF_TYPE, EPO + "Purpose")
                    self.graph.link(purpose, EPO + property_name, concept)
                    self.graph.text(concept, SKOS + "notation", code[:8])

    def place(self, subject, code):
        if code and re.fullmatch(r"[A-Z]{2}[0-9A-Z]{0,3}", code):
            place = "%s/location/%s" % (self.iri, code)
            term = subject + "/term"
            self.graph.link(subject, EPO + "foreseesContractSpecificTerm", term)
            self.graph.link(term, RDF_TYPE, EPO + "ContractTerm")
            self.graph.link(term, EPO + "definesSpecificPlaceOfPerformance", place)
            self.graph.link(place, RDF_TYPE, DCT + "Location")
            self.graph.link(place, EPO + "hasNutsCode", NUTS + code)
            self.graph.text(NUTS + code, SKOS + "notation", code)


# ---------------------------------------------------------------- eForms

def eforms(root):
    extension = child(root, "UBLExtensions/UBLExtension/ExtensionContent/EformsExtension")
    published = children(extension, "Publication")
    numbers = [own(one) for publication in published
               for one in children(publication, "NoticePublicationID")
               if one.get("schemeName", "ojs-notice-id") == "ojs-notice-id"]
    notice = Notice(publication_number(next(iter(numbers), None)))
    graph = notice.graph
    language = language_tag(value_of(root, "NoticeLanguageCode"))
    subtype = value_of(extension, "NoticeSubType/SubTypeCode")
    if not subtype:
        raise Unusable("no-subtype", "the notice has no subtype")

    folder = value_of(root, "ContractFolderID")
    if not folder:
        raise Unusable("no-procedure", "the notice has no procedure identifier (ContractFolderID)")
    procedure = notice.procedure(folder)
    eforms_notice(notice, root, published, subtype)

    project = child(root, "ProcurementProject")
    eforms_project(notice, procedure, project, language)
    procedure_code = value_of(root, "TenderingProcess/ProcedureCode")
    if procedure_code:
        graph.link(procedure, EPO + "hasProcedureType",
                   AUTHORITY + "procurement-procedure-type/" + part(procedure_code))

    buyers = [own(one) for one in
              children(root, "ContractingParty/Party/PartyIdentification/ID")]
    for organisation in children(extension, "Organizations/Organization"):
        eforms_organisation(notice, organisation, buyers, language)

    for element in children(root, "ProcurementProjectLot"):
        identifier = value_of(element, "ID")
        # Groups of lots and notices without an identifier of the lot name nothing to buy.
        scheme = (child(element, "ID").get("schemeName") or "Lot") if identifier else ""
        if scheme not in ("Lot", "Part"):
            continue
        lot = notice.lot(procedure, identifier)
        eforms_project(notice, lot, child(element, "ProcurementProject"), language)
        eforms_deadline(graph, lot, element)
    for result in children(extension, "NoticeResult/LotResult"):
        eforms_result(notice, procedure, result)
    return notice


def eforms_notice(notice, root, published, subtype):
    graph, iri = notice.graph, notice.iri
    graph.text(iri, OWN + "subtype", subtype)
    graph.typed(iri, EPO + "hasPublicationDate",
                date_of(next((value_of(one, "PublicationDate") for one in published
                              if value_of(one, "PublicationDate")), None)), "date")
    day, time = value_of(root, "IssueDate"), value_of(root, "IssueTime")
    graph.typed(iri, EPO + "hasDispatchDate", moment_of(day, time), "dateTime")
    graph.text(iri, DCT + "hasVersion", value_of(root, "VersionID"))
    for uuid in children(root, "ID"):
        graph.text(iri, DCT + "alternative", own(uuid))
    code = value_of(root, "NoticeLanguageCode")
    for one in [code] + [own(element) for element in
                         children(root, "AdditionalNoticeLanguage/ID")]:
        if one:
            graph.link(iri, DCT + "language", AUTHORITY + "language/" + part(one))
    kind = child(root, "NoticeTypeCode")
    if own(kind):
        graph.link(iri, EPO + "hasNoticeType", AUTHORITY + "notice-type/" + part(own(kind)))
        if kind.get("listName"):
            graph.link(iri, EPO + "hasFormType",
                       AUTHORITY + "form-type/" + part(kind.get("listName")))
    basis = value_of(root, "RegulatoryDomain")
    if basis:
        graph.link(iri, EPO + "hasLegalBasis", AUTHORITY + "legal-basis/" + part(basis))


def eforms_project(notice, subject, project, language):
    graph = notice.graph
    for predicate, name in (("title", "Name"), ("description", "Description")):
        for element in children(project, name):
            graph.text(subject, DCT + predicate, own(element),
                       language_tag(element.get("languageID")) or language)
    nature = value_of(project, "ProcurementTypeCode")
    if nature:
        purpose = subject + "/purpose"
        graph.link(subject, EPO + "hasPurpose", purpose)
        graph.link(purpose, RDF_TYPE, EPO + "Purpose")
        graph.link(purpose, EPO + "hasContractNatureType",
                   AUTHORITY + "contract-nature/" + part(nature))
    codes = "%sCommodityClassification/ItemClassificationCode"
    notice.purpose(subject, [own(one) for one in children(project, codes % "Main")],
                   [own(one) for one in children(project, codes % "Additional")])
    for element in children(project, "RealizedLocation/Address/CountrySubentityCode"):
        notice.place(subject, own(element))


def eforms_organisation(notice, organisation, buyers, language):
    graph, company = notice.graph, child(organisation, "Company")
    identifier = value_of(company, "PartyIdentification/ID")
    if not identifier or identifier not in buyers:
        return
    buyer = notice.buyer(identifier)
    for name in children(company, "PartyName/Name"):
        graph.text(buyer, EPO + "hasLegalName", own(name),
                   language_tag(name.get("languageID")) or language)
    address(graph, buyer, value_of(company, "PostalAddress/CityName"),
            value_of(company, "PostalAddress/Country/IdentificationCode"),
            value_of(company, "PostalAddress/CountrySubentityCode"))
    graph.text(buyer, DCT + "identifier", value_of(company, "PartyLegalEntity/CompanyID"))


def eforms_deadline(graph, lot, element):
    period = child(element, "TenderingProcess/TenderSubmissionDeadlinePeriod")
    day, time = value_of(period, "EndDate"), value_of(period, "EndTime")
    graph.typed(lot, OWN + "tenderDeadline", moment_of(day, time), "dateTime")


def eforms_result(notice, procedure, result):
    graph = notice.graph
    identifier, lot = value_of(result, "ID"), value_of(result, "TenderLot/ID")
    if not identifier or not lot:
        return
    outcome = "%s/outcome/%s" % (notice.iri, part(identifier))
    graph.link(outcome, RDF_TYPE, EPO + "LotAwardOutcome")
    graph.link(outcome, EPO + "describesLot", "%s/lot/%s" % (procedure, part(lot)))
    code = value_of(result, "TenderResultCode")
    if code:
        graph.link(outcome, EPO + "hasAwardStatus",
                   AUTHORITY + "winner-selection-status/" + part(code))


def address(graph, organisation, city, country, nuts):
    where, code = organisation + "/address", country_code(country)
    if nuts and not re.fullmatch(r"[A-Z]{2}[0-9A-Z]{0,3}", nuts):
        nuts = None
    if city or code or nuts:
        graph.link(organisation, LEGAL + "registeredAddress", where)
        graph.link(where, RDF_TYPE, LOCN + "Address")
        graph.text(where, LOCN + "postName", city)
    if code:
        graph.link(where, EPO + "hasCountryCode", AUTHORITY + "country/" + part(code))
    if nuts:
        graph.link(where, EPO + "hasNutsCode", NUTS + nuts)


# ---------------------------------------------------------------- standard forms

def standard_form(root):
    notice = Notice(publication_number(root.get("DOC_ID")))
    coded = child(root, "CODED_DATA_SECTION")
    data, codif = child(coded, "NOTICE_DATA"), child(coded, "CODIF_DATA")
    form = original_form(root, value_of(data, "LG_ORIG"))
    language = language_tag(form.get("LG") or value_of(data, "LG_ORIG"))
    if not form.get("FORM"):
        raise Unusable("no-form", "the notice has no form number")
    first = all_text(child(form, "PROCEDURE/NOTICE_NUMBER_OJ")) or ""
    match = re.search(r"(\d{4})/S\s*\d+-0*(\d+)", first)
    procedure = notice.procedure("%s-%s" % (match[2], match[1]) if match else notice.number)
    standard_notice(notice, coded, data, codif, form)
    standard_translations(notice, procedure, root)
    codes = [one.get("CODE") for one in children(data, "ORIGINAL_CPV")]
    notice.purpose(procedure, codes[:1], codes[1:])
    for name in ("PERFORMANCE_NUTS", "ORIGINAL_NUTS"):
        for element in children(data, name):
            notice.place(procedure, element.get("CODE"))
    standard_buyer(notice, form, data, root, language)
    standard_lots(notice, procedure, form, language)
    return notice


def original_form(root, language):
    """The form in its original language; translations hold no more than it does."""
    forms = [one for one in children(root, "FORM_SECTION")
             for one in one if one.get("FORM") or one.get("CATEGORY")]
    if not forms:
        raise Unusable("no-form", "the notice has no form")
    for one in forms:
        if one.get("CATEGORY") == "ORIGINAL":
            return one
    return next((one for one in forms if one.get("LG") == language), forms[0])


def standard_notice(notice, coded, data, codif, form):
    graph, iri = notice.graph, notice.iri
    graph.text(iri, OWN + "subtype", form.get("FORM"))
    graph.typed(iri, EPO + "hasPublicationDate",
                date_of(value_of(coded, "REF_OJS/DATE_PUB")), "date")
    sent = date_of(value_of(codif, "DS_DATE_DISPATCH"))
    graph.typed(iri, EPO + "hasDispatchDate", sent and sent + "T00:00:00", "dateTime")
    code = LANGUAGES_REVERSE.get((value_of(data, "LG_ORIG") or "").split(" ")[0])
    if code:
        graph.link(iri, DCT + "language", AUTHORITY + "language/" + code)
    basis = child(form, "LEGAL_BASIS")
    if basis is not None and basis.get("VALUE"):
        graph.link(iri, EPO + "hasLegalBasis",
                   AUTHORITY + "legal-basis/" + part(basis.get("VALUE")))


def standard_translations(notice, procedure, root):
    for title in children(root, "TRANSLATION_SECTION/ML_TITLES/ML_TI_DOC"):
        notice.graph.text(procedure, DCT + "title", all_text(child(title, "TI_TEXT")),
                          language_tag(title.get("LG")))


def standard_buyer(notice, form, data, root, language):
    graph = notice.graph
    # Current forms name it in ADDRESS_CONTRACTING_BODY, older ones deeper and elsewhere.
    body = first_below(form, "ADDRESS_CONTRACTING_BODY")
    names = [(all_text(one), language_tag(one.get("LG")))
             for one in children(root, "TRANSLATION_SECTION/ML_AA_NAMES/AA_NAME")]
    official = all_text(first_below(body if body is not None else form, "OFFICIALNAME"))
    if official and not any(name == official for name, _ in names):
        names.append((official, language))
    if not names:
        return
    buyer = notice.buyer("buyer")
    for name, tag in names:
        graph.text(buyer, EPO + "hasLegalName", name, tag or language)
    where = body if body is not None else form
    country = first_below(where, "COUNTRY")
    if country is None:
        country = child(data, "ISO_COUNTRY")
    nuts = child(body, "NUTS") if body is not None else None
    address(graph, buyer, all_text(first_below(where, "TOWN")),
            country.get("VALUE") if country is not None else None,
            nuts.get("CODE") if nuts is not None else None)
    graph.text(buyer, DCT + "identifier", all_text(first_below(where, "NATIONALID")))


def first_below(element, name):
    return next((one for one in element.iter() if local(one) == name), None)


def standard_lots(notice, procedure, form, language):
    """Lots are the OBJECT_DESCR elements; forms before 2014 and forms without them buy one thing.

    A corrigendum (F14) buys nothing: it has no lots, so it cannot be turned.
    """
    graph = notice.graph
    objects = children(form, "OBJECT_CONTRACT")
    described = [(one, description) for one in objects
                 for description in children(one, "OBJECT_DESCR")]
    old = [] if objects else [one for one in form.iter() if local(one).startswith("OBJECT_")][:1]
    if objects:
        standard_title(graph, procedure, objects[0], language)
    for number, (_, description) in enumerate(described, 1):
        identifier = (all_text(child(description, "LOT_NO")) or description.get("ITEM")
                      or str(number))
        lot = notice.lot(procedure, identifier)
        standard_title(graph, lot, description, language)
        notice.purpose(lot, [], [one.get("CODE") for one in
                                 children(description, "CPV_ADDITIONAL/CPV_CODE")])
        for element in children(description, "NUTS"):
            notice.place(lot, element.get("CODE"))
    for element in old:
        lot = notice.lot(procedure, "1")
        graph.text(lot, DCT + "title", all_text(first_below(element, "TITLE_CONTRACT")), language)
    deadline = moment_of(value_of(form, "PROCEDURE/DATE_RECEIPT_TENDERS"),
                         value_of(form, "PROCEDURE/TIME_RECEIPT_TENDERS") or "00:00")
    graph.typed(procedure, OWN + "tenderDeadline", deadline, "dateTime")


def standard_title(graph, subject, element, language):
    graph.text(subject, DCT + "title", all_text(child(element, "TITLE")), language)
    graph.text(subject, DCT + "description", all_text(child(element, "SHORT_DESCR")), language)


# ---------------------------------------------------------------- worker

UBL_ROOTS = ("ContractNotice", "ContractAwardNotice", "PriorInformationNotice",
             "BusinessRegistrationInformationNotice")


def transform(content, allow_no_lots=False):
    """The graph of a notice given as bytes."""
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise Unusable("broken-xml", "the notice is not well-formed XML: %s" % error) from error
    if "TED_EXPORT" in root.tag:
        notice = standard_form(root)
    elif local(root) in UBL_ROOTS:
        notice = eforms(root)
    else:
        raise Unusable("unknown-root", "the root element is %s, not a notice" % local(root))
    if notice.lots == 0 and not allow_no_lots:
        raise Unusable("no-lots", "the notice has no lots")
    return notice.graph


def read(uri):
    if uri is None:
        raise Unusable("no-uri", "the source has no uri")
    parts = urllib.parse.urlsplit(uri)
    if parts.scheme == "file":
        path = urllib.request.url2pathname(parts.path)
    elif parts.scheme and not os.path.exists(uri):
        raise Unusable("unsupported-uri", "only files can be read, not %s" % uri)
    else:
        path = uri
    try:
        with open(path, "rb") as file:
            content = file.read(NOTICE_BYTES_MAX + 1)
    except OSError as error:
        raise Unusable("unreadable", "the notice cannot be read: %s" % error) from error
    if len(content) > NOTICE_BYTES_MAX:
        raise Unusable("too-large", "the notice has more than %d bytes" % NOTICE_BYTES_MAX)
    return content


def write(output, text):
    """Writes below the attempt's folder, or to the path itself where it has a file's ending."""
    if output.startswith("file://"):
        output = urllib.request.url2pathname(urllib.parse.urlsplit(output).path)
    path = output if output.endswith(".nt") else os.path.join(output, "notice.nt")
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path + ".part", "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
    os.replace(path + ".part", path)
    return path


def answer(source):
    reply = {"job_id": source.get("job_id"), "source_id": source.get("source_id")}
    try:
        allowed = (source.get("params") or {}).get("allow_no_lots", False)
        graph = transform(read(source.get("uri")), allowed)
        reply["output"] = write(source["output"], graph.dump())
        triples = len(graph.lines)
        print("%s: %d triples" % (source.get("source_id"), triples), file=sys.stderr)
    except Unusable as error:
        reply["error"] = {"code": error.code, "message": str(error)}
    except Exception as error:  # one notice never ends the group
        reply["error"] = {"code": "bug", "message": "%s: %s" % (type(error).__name__, error)}
    if "error" in reply:
        print("%s: %s" % (source.get("source_id"), reply["error"]["message"]), file=sys.stderr)
    return reply


def main():
    if len(sys.argv) > 1:
        failed = False
        for path in sys.argv[1:]:
            try:
                sys.stdout.buffer.write(transform(read(path)).dump().encode("utf-8"))
            except Unusable as error:
                failed = True
                print("%s: %s (%s)" % (path, error, error.code), file=sys.stderr)
        return 1 if failed else 0
    for line in sys.stdin.buffer:
        if line.strip():
            print(json.dumps(answer(json.loads(line)), ensure_ascii=True), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
