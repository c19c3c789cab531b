-- Extracts the metadata of notices, standard forms (TED_EXPORT) and eForms (UBL) alike.
--
-- Needs the tables of schema.sql. A notice that cannot be normalised fails alone, with the class
--   no_content, not_xml           there is no text, or it is no XML
--   no_eforms_mapping             eForms: the subtype is missing or unknown
--   no_standard_form_mapping      standard forms: the form is missing, or fits no subtype
--   no_publication_section        eForms: it was not published
--   no_publication_number         it has no publication number
--
-- How paths are written:
--   *:Name       standard forms have another default namespace in each version, or none
--   /text()      an element's text; NULL, not '', where the element is empty
--   (a, b)[1]    a, else b
--   descendant::Name   as //Name, but read in one pass
--   /normalize-space(.)[.]   codes, numbers and dates: without the blanks and line ends
--                around them; NULL where nothing else is there
-- Dates are the calendar date that is written there; an offset is dropped, never shifted.
-- country_of_buyer_code is the code of the URI, ISO 3166 with three letters, in both kinds: POL.
CREATE OR REPLACE TRANSFORM normalise ON notices
  FROM STATUS 'RAW', 'INDEXED', 'NORMALISED_METADATA', 'INELIGIBLE_FOR_TRANSFORMATION',
    'ELIGIBLE_FOR_TRANSFORMATION'
  TO STATUS 'NORMALISED_METADATA'
  -- What is wrong with a notice is wrong the second time too; what was wrong with its file may not.
  WITH (group_size 100, timeout '10 minutes', max_attempts 2, backoff '1 second', concurrency 4)
AS
WITH checked AS (
  SELECT notice_id, content, xml_error(content) AS flaw FROM input
),
documents AS (
  -- The paths below are NULL where their document is NULL.
  SELECT notice_id, content IS NULL AS empty, flaw,
         CASE WHEN flaw IS NULL THEN content END AS document
    FROM checked
),
kinds AS (
  SELECT notice_id, empty, flaw, document,
         xpath_exists(document, '/*[contains(local-name(), "TED_EXPORT")]') AS standard
    FROM documents
),
split AS (
  SELECT notice_id, empty, flaw, document, standard,
         CASE WHEN standard THEN document END AS sf,
         CASE WHEN NOT standard THEN document END AS ef
    FROM kinds
),
extracted AS (
  SELECT notice_id, empty, flaw, standard,
    xpath_text(document, '/*/local-name()') AS root_element,
    xpath_text(document, '/*/namespace-uri()') AS schema_namespace,

    -- Standard forms.
    xpath_text(sf, '/*/@DOC_ID/normalize-space(.)[.]') AS sf_number,
    xpath_text(sf, '/*/*:CODED_DATA_SECTION/*:REF_OJS/*:DATE_PUB/text()/normalize-space(.)[.]') AS sf_published,
    xpath_text(sf, '/*/*:CODED_DATA_SECTION/*:REF_OJS/*:COLL_OJ/text()/normalize-space(.)[.]') AS sf_ojs_type,
    xpath_text(sf, '/*/*:CODED_DATA_SECTION/*:REF_OJS/*:NO_OJ/text()/normalize-space(.)[.]') AS sf_ojs_issue,
    xpath_text(sf, '/*/*:CODED_DATA_SECTION/*:CODIF_DATA/*:DS_DATE_DISPATCH/text()/normalize-space(.)[.]') AS sf_sent,
    xpath_text(sf, '/*/*:CODED_DATA_SECTION/*:CODIF_DATA/*:DT_DATE_FOR_SUBMISSION/text()/normalize-space(.)[.]')
      AS sf_deadline,
    upper(xpath_text(sf, '/descendant::*[@FORM][1]/@FORM/normalize-space(.)[.]')) AS sf_form,
    xpath_text(sf, '(/*/*:FORM_SECTION/*/*:NOTICE/@TYPE)[1]/normalize-space(.)[.]') AS sf_notice_type,
    xpath_text(sf, '/*/*:CODED_DATA_SECTION/*:CODIF_DATA/*:TD_DOCUMENT_TYPE/@CODE/normalize-space(.)[.]')
      AS document_type_code,
    xpath_text(sf, '(/*/@VERSION, /descendant::*[@FORM][1]/@VERSION)[1]/normalize-space(.)[.]') AS xsd_version,
    xpath_text(sf, '(/*/*:CODED_DATA_SECTION/*:CODIF_DATA/*:DIRECTIVE/@VALUE,
                          /*/*:FORM_SECTION/*/*:LEGAL_BASIS/@VALUE,
                          /*/*:FORM_SECTION/*/*:LEGAL_BASIS_OTHER/*:P/*:FT/text())[1]/normalize-space(.)[.]')
      AS sf_legal_basis,
    xpath_text(sf, '/*/*:CODED_DATA_SECTION/*:NOTICE_DATA/*:LG_ORIG/text()/normalize-space(.)[.]') AS sf_language,
    xpath_text(sf, '/*/*:CODED_DATA_SECTION/*:NOTICE_DATA/*:ISO_COUNTRY/@VALUE/normalize-space(.)[.]')
      AS sf_country,
    xpath_exists(sf, '/*/*:CODED_DATA_SECTION/*:CODIF_DATA/*:AA_AUTHORITY_TYPE/@CODE = "5"')
      AS eu_institution,
    xpath_text(sf, '/*/*:CODED_DATA_SECTION/*:NOTICE_DATA/*:IA_URL_GENERAL/text()')
      AS sf_internet_address,
    xpath_list(sf, '/*/*:TRANSLATION_SECTION/*:ML_TITLES/*[@LG]/@LG/normalize-space(.)[.]') AS sf_title_languages,
    -- The text before a first element inside, as all text of standard forms.
    xpath_list(sf, 'for $title in /*/*:TRANSLATION_SECTION/*:ML_TITLES/*[@LG]
                    return string(($title/*:TI_TEXT/*:P, $title/*:TI_TEXT)[1]
                                  /text()[not(preceding-sibling::*)][1])') AS sf_titles,
    xpath_text(sf, 'let $title := /*/*:TRANSLATION_SECTION/*:ML_TITLES/*[@LG = "EN"][1]
                    return ($title/*:TI_TEXT/*:P, $title/*:TI_TEXT)[1]
                           /text()[not(preceding-sibling::*)][1]') AS sf_title_en,
    xpath_text(sf, '/*/*:TRANSLATION_SECTION/*:ML_TITLES/*[@LG = "EN"]/*:TI_CY/text()')
      AS country_en,
    xpath_text(sf, '/*/*:TRANSLATION_SECTION/*:ML_TITLES/*[@LG = "EN"]/*:TI_TOWN/text()')
      AS city_en,
    xpath_text(sf, '/*/*:TRANSLATION_SECTION/*:ML_AA_NAMES/*/text()') AS buyer_name,
    xpath_list(sf, 'let $notice := /*/*:CODED_DATA_SECTION/*:NOTICE_DATA
                    return if ($notice/*:PERFORMANCE_NUTS)
                           then $notice/*:PERFORMANCE_NUTS/@CODE/normalize-space(.)[.]
                           else $notice/*:ORIGINAL_NUTS/@CODE/normalize-space(.)[.]') AS sf_places,
    xpath_list(sf, '/*/*:CODED_DATA_SECTION/*:NOTICE_DATA/*:ORIGINAL_CPV/@CODE/normalize-space(.)[.]') AS sf_cpv_codes,
    xpath_text(sf, '/*/*:CODED_DATA_SECTION/*:CODIF_DATA/*:NC_CONTRACT_NATURE/@CODE/normalize-space(.)[.]')
      AS sf_contract,
    xpath_text(sf, '/*/*:CODED_DATA_SECTION/*:CODIF_DATA/*:PR_PROC/@CODE/normalize-space(.)[.]') AS sf_procedure,

    -- eForms.
    xpath_exists(ef, '/*/ext:UBLExtensions/descendant::efac:Publication') AS published,
    xpath_text(ef, '/*/ext:UBLExtensions/descendant::efac:Publication
                         /efbc:NoticePublicationID[@schemeName = "ojs-notice-id"]/text()/normalize-space(.)[.]')
      AS ef_number,
    xpath_text(ef, '/*/ext:UBLExtensions/descendant::efac:Publication/efbc:PublicationDate/text()/normalize-space(.)[.]')
      AS ef_published,
    xpath_text(ef, '/*/ext:UBLExtensions/descendant::efac:Publication/efbc:GazetteID/text()/normalize-space(.)[.]')
      AS ef_ojs_issue,
    xpath_text(ef, '/*/cbc:IssueDate/text()/normalize-space(.)[.]') AS ef_sent,
    xpath_text(ef, '/*/cbc:CustomizationID/text()/normalize-space(.)[.]') AS eform_sdk_version,
    xpath_text(ef, 'let $codes := /*/ext:UBLExtensions/descendant::efac:NoticeSubType/cbc:SubTypeCode
                         return ($codes[@listName = "notice-subtype"], $codes)[1]/text()/normalize-space(.)[.]')
      AS ef_subtype,
    xpath_text(ef, '/*/cbc:RegulatoryDomain/text()/normalize-space(.)[.]') AS ef_legal_basis,
    xpath_text(ef, '/*/cbc:NoticeTypeCode/@listName/normalize-space(.)[.]') AS raw_form_type,
    xpath_text(ef, '/*/cbc:NoticeTypeCode/text()/normalize-space(.)[.]') AS raw_notice_type,
    xpath_text(ef, '/*/cbc:NoticeLanguageCode/text()/normalize-space(.)[.]') AS ef_language,
    xpath_list(ef, '/*/cac:ProcurementProject/cbc:Name/string(@languageID)')
      AS ef_title_languages,
    xpath_list(ef, '/*/cac:ProcurementProject/cbc:Name/string()') AS ef_titles,
    xpath_text(ef, '/*/cac:ProcurementProject/cbc:Name[@languageID = "ENG"]/text()')
      AS ef_title_en,
    xpath_text(ef, '/*/cac:ProcurementProject/cbc:Name[1]/text()') AS title_first,
    xpath_text(ef, '(/*/cac:ProcurementProjectLot/cac:TenderingTerms
                     /cac:CallForTendersDocumentReference/cac:Attachment
                     /cac:ExternalReference/cbc:URI)[1]/text()') AS ef_internet_address,
    xpath_list(ef, '(/*/cac:ProcurementProject, /*/cac:ProcurementProjectLot/cac:ProcurementProject)
                    /cac:RealizedLocation/cac:Address
                    /cbc:CountrySubentityCode[@listName = ("nuts", "nuts-lvl3")]/text()/normalize-space(.)[.]')
      AS ef_places,
    xpath_list(ef, '/descendant::cbc:ItemClassificationCode[@listName = "cpv"]/text()/normalize-space(.)[.]') AS ef_cpv_codes,
    xpath_text(ef, '/*/cac:ProcurementProject/cbc:ProcurementTypeCode/text()/normalize-space(.)[.]') AS ef_contract,
    xpath_text(ef, '/*/cac:TenderingProcess/cbc:ProcedureCode/text()/normalize-space(.)[.]') AS ef_procedure,
    xpath_text(ef, '/*/cbc:ID[@schemeName = "notice-id"]/text()/normalize-space(.)[.]') AS x_notice_uuid,
    xpath_text(ef, '/*/cbc:VersionID/text()/normalize-space(.)[.]') AS x_notice_version,
    xpath_text(ef, '/*/cbc:ContractFolderID/text()/normalize-space(.)[.]') AS x_procedure_id,
    xpath_text(ef, '/*/cac:ProcurementProject/cac:MainCommodityClassification
                    /cbc:ItemClassificationCode/text()/normalize-space(.)[.]') AS ef_main_cpv,
    xpath_text(ef, 'count(/*/cac:ProcurementProjectLot[cbc:ID/@schemeName = "Lot"])')
      AS x_lot_count,
    xpath_text(ef, 'count(/*/ext:UBLExtensions/descendant::efac:Organization)') AS x_organisation_count,
    xpath_text(ef, 'min(/descendant::cac:TenderSubmissionDeadlinePeriod/cbc:EndDate
                        /substring(normalize-space(.), 1, 10))') AS ef_deadline,
    -- The buyer is the organisation that the first contracting party names.
    xpath_text(ef, '(/*/cac:ContractingParty/cac:Party/cac:PartyIdentification/cbc:ID)[1]/text()/normalize-space(.)[.]')
      AS x_buyer_org_id,
    xpath_text(ef, 'let $buyer := (/*/cac:ContractingParty/cac:Party
                                   /cac:PartyIdentification/cbc:ID)[1]/normalize-space(.)
                    return (/*/ext:UBLExtensions/descendant::efac:Organization/efac:Company
                              [cac:PartyIdentification/cbc:ID/normalize-space(.) = $buyer])[1]
                           /cac:PartyName/cbc:Name/text()') AS x_buyer_name,
    xpath_text(ef, 'let $buyer := (/*/cac:ContractingParty/cac:Party
                                   /cac:PartyIdentification/cbc:ID)[1]/normalize-space(.)
                    return (/*/ext:UBLExtensions/descendant::efac:Organization/efac:Company
                              [cac:PartyIdentification/cbc:ID/normalize-space(.) = $buyer])[1]
                           /cac:PostalAddress/cbc:CityName/text()') AS x_buyer_city,
    xpath_text(ef, 'let $buyer := (/*/cac:ContractingParty/cac:Party
                                   /cac:PartyIdentification/cbc:ID)[1]/normalize-space(.)
                    return (/*/ext:UBLExtensions/descendant::efac:Organization/efac:Company
                              [cac:PartyIdentification/cbc:ID/normalize-space(.) = $buyer])[1]
                           /cac:PostalAddress/cac:Country/cbc:IdentificationCode/text()/normalize-space(.)[.]')
      AS x_buyer_country_code,
    xpath_text(ef, 'let $buyer := (/*/cac:ContractingParty/cac:Party
                                   /cac:PartyIdentification/cbc:ID)[1]/normalize-space(.)
                    return (/*/ext:UBLExtensions/descendant::efac:Organization/efac:Company
                              [cac:PartyIdentification/cbc:ID/normalize-space(.) = $buyer])[1]
                           /cac:PostalAddress/cbc:CountrySubentityCode/text()/normalize-space(.)[.]') AS x_buyer_nuts
  FROM split
),
coded AS (
  SELECT *,
    coalesce(sf_legal_basis, ef_legal_basis) AS raw_legal_basis,
    -- 2014/24/EU is 32014L0024; what is not of this form is a code already.
    CASE WHEN standard AND regexp_like(sf_legal_basis, '^[0-9]{4}/[0-9]{1,4}/[A-Z]+$')
         THEN '3' || split_part(sf_legal_basis, '/', 1) || 'L'
              || lpad(split_part(sf_legal_basis, '/', 2), 4, '0')
         ELSE coalesce(sf_legal_basis, ef_legal_basis) END AS said_legal_basis,
    -- 2 is F02, T1 is T01; CEI stays.
    CASE WHEN regexp_like(sf_form, '^[A-Z]*[0-9]$')
         THEN coalesce(nullif(left(sf_form, -1), ''), 'F') || '0' || right(sf_form, 1)
         WHEN regexp_like(sf_form, '^[0-9]+$') THEN 'F' || sf_form
         ELSE sf_form END AS form_number,
    array_distinct(coalesce(sf_places, ef_places)) AS place_of_performance_codes,
    coalesce(sf_title_languages, ef_title_languages) AS title_languages,
    coalesce(sf_titles, ef_titles) AS titles
  FROM extracted
),
mapped AS (
  SELECT coded.*,
    coalesce(ef_subtype, forms.eforms_subtype) AS eforms_subtype,
    legal.uri AS extracted_legal_basis_directive,
    CASE WHEN standard THEN language.uri
         ELSE 'http://publications.europa.eu/resource/authority/language/' || ef_language
         END AS original_language,
    CASE WHEN standard THEN country.uri
         ELSE 'http://publications.europa.eu/resource/authority/country/' || x_buyer_country_code
         END AS country_of_buyer,
    translate_list(place_of_performance_codes, nuts.codes, nuts.uris) AS place_of_performance
  FROM coded
  LEFT JOIN ted_standard_forms AS forms
    ON forms.form_number = coded.form_number
   AND (forms.notice_type IS NULL OR forms.notice_type = coded.sf_notice_type)
   AND (forms.legal_basis IS NULL OR forms.legal_basis = coded.said_legal_basis)
  LEFT JOIN ted_codes AS legal ON legal.code_id = 'legal-basis/' || said_legal_basis
  LEFT JOIN ted_codes AS language ON language.code_id = 'language/' || sf_language
  LEFT JOIN ted_codes AS country ON country.code_id = 'country/' || sf_country
  CROSS JOIN (SELECT array_agg(code) AS codes, array_agg(uri) AS uris
                FROM ted_codes WHERE list = 'nuts') AS nuts
)
SELECT
  notice_id,
  CASE WHEN empty THEN 'no_content: the notice has no file'
       WHEN flaw IS NOT NULL THEN 'not_xml: ' || flaw
       WHEN standard AND subtypes.eforms_subtype IS NULL
       THEN 'no_standard_form_mapping: no subtype for form ' || coalesce(form_number, '(none)')
            || ', notice type ' || coalesce(sf_notice_type, '(none)')
            || ', legal basis ' || coalesce(raw_legal_basis, '(none)')
       WHEN subtypes.eforms_subtype IS NULL
       THEN 'no_eforms_mapping: unknown subtype ' || coalesce(mapped.eforms_subtype, '(none)')
       WHEN NOT standard AND NOT published
       THEN 'no_publication_section: the notice was not published'
       WHEN coalesce(sf_number, ef_number, '') = ''
       THEN 'no_publication_number: the notice has no publication number'
       END AS error,

  CASE WHEN standard THEN 'standard_forms' ELSE 'eforms' END AS notice_source,
  root_element,
  schema_namespace,
  coalesce(sf_number, ef_number) AS notice_publication_number,
  coalesce(TRY_CAST(regexp_replace(sf_published, '^([0-9]{4})([0-9]{2})([0-9]{2}).*$', '\1-\2-\3')
                    AS DATE),
           TRY_CAST(ef_published AS DATE)) AS publication_date,
  coalesce(sf_ojs_type, 'S') AS ojs_type,
  coalesce(sf_ojs_issue, ef_ojs_issue) AS ojs_issue_number,
  coalesce(TRY_CAST(regexp_replace(sf_sent, '^([0-9]{4})([0-9]{2})([0-9]{2}).*$', '\1-\2-\3')
                    AS DATE),
           TRY_CAST(ef_sent AS DATE)) AS document_sent_date,
  TRY_CAST(regexp_replace(sf_deadline, '^([0-9]{4})([0-9]{2})([0-9]{2}).*$', '\1-\2-\3')
           AS DATE) AS deadline_for_submission,

  form_number,
  sf_notice_type,
  document_type_code,
  xsd_version,
  eform_sdk_version,
  mapped.eforms_subtype,
  'http://publications.europa.eu/resource/authority/form-type/' || form_type AS form_type,
  form_type AS form_type_code,
  'http://publications.europa.eu/resource/authority/notice-type/' || notice_type AS notice_type,
  notice_type AS notice_type_code,
  'http://publications.europa.eu/resource/authority/legal-basis/' || legal_basis
    AS legal_basis_directive,
  legal_basis AS legal_basis_code,
  extracted_legal_basis_directive,
  raw_legal_basis,
  raw_form_type,
  raw_notice_type,

  original_language,
  coalesce(sf_language, ef_language) AS original_language_code,
  title_languages,
  titles,
  coalesce(sf_title_en, ef_title_en) AS title_en,
  title_first,
  nullif(concat_ws(' :: ', country_en, city_en, sf_title_en), '') AS long_title_en,

  coalesce(buyer_name, x_buyer_name) AS name_of_buyer,
  coalesce(city_en, x_buyer_city) AS city_of_buyer,
  country_of_buyer,
  regexp_replace(country_of_buyer, '^.*/', '') AS country_of_buyer_code,
  buyer_name,
  city_en,
  eu_institution,
  coalesce(sf_internet_address, ef_internet_address) AS internet_address,

  place_of_performance,
  place_of_performance_codes,
  coalesce(sf_cpv_codes, ef_cpv_codes) AS cpv_codes,
  coalesce(sf_contract, ef_contract) AS type_of_contract,
  coalesce(sf_procedure, ef_procedure) AS type_of_procedure,

  x_notice_uuid,
  x_notice_version,
  x_procedure_id,
  coalesce(ef_main_cpv, sf_cpv_codes[1]) AS x_main_cpv,
  CAST(x_lot_count AS INT) AS x_lot_count,
  CAST(x_organisation_count AS INT) AS x_organisation_count,
  TRY_CAST(ef_deadline AS DATE) AS x_tender_deadline_min,
  x_buyer_org_id,
  x_buyer_name,
  x_buyer_city,
  x_buyer_country_code,
  x_buyer_nuts
FROM mapped
LEFT JOIN ted_subtypes AS subtypes ON subtypes.eforms_subtype = mapped.eforms_subtype;
