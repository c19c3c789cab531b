-- The tables of the procurement domain: the notices, and the code tables that normalising needs.
--
-- The rows of the code tables are in data/ted/: codes.csv, subtypes.csv, standard_forms.csv,
-- mapping_suites.csv.

-- One row per notice. The first four columns are given when a notice is registered; transform
-- `normalise` fills in the rest. Names that begin with x_ are known for eForms only, unless their
-- comment says otherwise.
CREATE TABLE IF NOT EXISTS notices (
  notice_id TEXT,
  uri TEXT,
  content_hash TEXT,
  bytes BIGINT,

  notice_source TEXT,                     -- standard_forms or eforms
  root_element TEXT,
  schema_namespace TEXT,
  notice_publication_number TEXT,
  publication_date DATE,
  ojs_type TEXT,
  ojs_issue_number TEXT,
  document_sent_date DATE,
  deadline_for_submission DATE,           -- standard forms; see x_tender_deadline_min

  form_number TEXT,                       -- standard forms, such as F03
  sf_notice_type TEXT,
  document_type_code TEXT,
  xsd_version TEXT,
  eform_sdk_version TEXT,
  eforms_subtype TEXT,                    -- of both kinds: what eligibility asks for
  form_type TEXT,                         -- URIs, and beside each the code in it
  form_type_code TEXT,
  notice_type TEXT,
  notice_type_code TEXT,
  legal_basis_directive TEXT,
  legal_basis_code TEXT,
  extracted_legal_basis_directive TEXT,   -- as the notice says; NULL where no table knows it
  raw_legal_basis TEXT,
  raw_form_type TEXT,
  raw_notice_type TEXT,

  original_language TEXT,
  original_language_code TEXT,
  title_languages TEXT[],                 -- titles[n] is in the language title_languages[n]
  titles TEXT[],
  title_en TEXT,
  title_first TEXT,                       -- eForms
  long_title_en TEXT,                     -- standard forms: country :: town :: title

  name_of_buyer TEXT,                     -- of both kinds
  city_of_buyer TEXT,
  country_of_buyer TEXT,
  country_of_buyer_code TEXT,
  buyer_name TEXT,                        -- standard forms: the first of several languages
  city_en TEXT,                           -- standard forms
  eu_institution BOOLEAN,                 -- standard forms
  internet_address TEXT,

  place_of_performance TEXT[],            -- URIs of NUTS regions that are known
  place_of_performance_codes TEXT[],      -- all codes
  cpv_codes TEXT[],
  type_of_contract TEXT,
  type_of_procedure TEXT,

  x_notice_uuid TEXT,
  x_notice_version TEXT,
  x_procedure_id TEXT,
  x_main_cpv TEXT,                        -- of both kinds
  x_lot_count INT,
  x_organisation_count INT,
  x_tender_deadline_min DATE,
  x_buyer_org_id TEXT,
  x_buyer_name TEXT,
  x_buyer_city TEXT,
  x_buyer_country_code TEXT,
  x_buyer_nuts TEXT,

  PRIMARY KEY (notice_id)
);

-- Codes and their URIs in the lists country, language, legal-basis and nuts.
CREATE TABLE IF NOT EXISTS ted_codes (
  code_id TEXT,                           -- list/code
  list TEXT,
  code TEXT,
  uri TEXT,
  PRIMARY KEY (code_id)
);

-- What a subtype of eForms says of a notice.
CREATE TABLE IF NOT EXISTS ted_subtypes (
  eforms_subtype TEXT,
  form_type TEXT,
  notice_type TEXT,
  legal_basis TEXT,
  PRIMARY KEY (eforms_subtype)
);

-- Which subtype a standard form corresponds to. Where a column is NULL, it does not count for
-- the form. No two rows of a form can fit the same notice.
CREATE TABLE IF NOT EXISTS ted_standard_forms (
  form_id TEXT,                           -- form/notice type/legal basis, or *
  form_number TEXT,
  notice_type TEXT,
  legal_basis TEXT,
  eforms_subtype TEXT,
  PRIMARY KEY (form_id)
);

-- Which suite of mappings covers which notices; eligibility.sql says how. NULL: no bound.
CREATE TABLE IF NOT EXISTS mapping_suites (
  suite_id TEXT,                          -- suite/version/subtype/SDK version/least XSD version; or *
  mapping_suite TEXT,
  suite_version TEXT,
  kind TEXT,                              -- eforms or standard
  eforms_subtype TEXT,
  sdk_version TEXT,                       -- eForms
  min_xsd TEXT,                           -- standard forms
  max_xsd TEXT,
  start_date DATE,
  end_date DATE,
  active BOOLEAN,
  PRIMARY KEY (suite_id)
);
