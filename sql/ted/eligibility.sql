-- Which mapping suite covers which notice.
--
-- Needs the table `notices` (notice_id, eforms_subtype TEXT, publication_date DATE,
-- eform_sdk_version TEXT, xsd_version TEXT) and `mapping_suites`, the rows of
-- data/ted/mapping_suites.csv: one row per suite, suite version, subtype and version range.
--
-- A suite covers a notice when it is active, lists its subtype, has no dates or has the day of
-- publication between them (both days count), and the version fits:
--   eForms          eforms-sdk-1.10.2 is cut to eforms-sdk-1.10, which must be listed;
--   standard forms  min_xsd <= xsd_version <= max_xsd, compared as text.
-- Of several, the highest semantic version wins; of equals, the first name.
--
-- The versions are written with their prefix in the file, so that no reader takes 1.10 for the
-- number 1.1.

CREATE OR REPLACE VIEW mapping_suite_matches AS
SELECT n.notice_id, s.mapping_suite, s.suite_version, s.kind
  FROM notices AS n
  JOIN mapping_suites AS s ON CAST(s.eforms_subtype AS VARCHAR) = n.eforms_subtype
 WHERE s.active
   AND (s.start_date IS NULL OR n.publication_date >= CAST(s.start_date AS DATE))
   AND (s.end_date IS NULL OR n.publication_date <= CAST(s.end_date AS DATE))
   AND CASE s.kind
         WHEN 'eforms' THEN
           split_part(n.eform_sdk_version, '.', 1) || '.' || split_part(n.eform_sdk_version, '.', 2)
             = s.sdk_version
         WHEN 'standard' THEN
           n.eform_sdk_version IS NULL
             AND n.xsd_version >= s.min_xsd AND n.xsd_version <= s.max_xsd
         ELSE false
       END;

CREATE OR REPLACE VIEW eligible_notices AS
WITH versions AS (
  SELECT notice_id, mapping_suite, suite_version, kind,
         -- What stands after + does not count; what stands after - comes before the release.
         split_part(split_part(suite_version, '+', 1), '-', 1) AS release,
         strpos(split_part(suite_version, '+', 1), '-') = 0 AS released
    FROM mapping_suite_matches
), ranked AS (
  SELECT notice_id, mapping_suite, suite_version, kind,
         row_number() OVER (
           PARTITION BY notice_id
           ORDER BY TRY_CAST(split_part(release, '.', 1) AS BIGINT) DESC NULLS LAST,
                    TRY_CAST(split_part(release, '.', 2) AS BIGINT) DESC NULLS LAST,
                    TRY_CAST(split_part(release, '.', 3) AS BIGINT) DESC NULLS LAST,
                    released DESC, suite_version DESC, mapping_suite) AS place
    FROM versions
)
SELECT notice_id, mapping_suite, suite_version, kind FROM ranked WHERE place = 1;
