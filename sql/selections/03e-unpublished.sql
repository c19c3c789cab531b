-- 3e. The old selection "unpublished": its statuses, and a form, a version and dates.
-- Change: any of the conditions; leave out those that do not matter. Each date counts alone.
SELECT notice_id, status, form_number, eforms_subtype, publication_date
  FROM notices
 WHERE status IN ('ELIGIBLE_FOR_PUBLISHING', 'INELIGIBLE_FOR_PUBLISHING', 'PACKAGED',
                  'PUBLICLY_UNAVAILABLE')
   AND (form_number = 'F03' OR eforms_subtype = '16')
   AND (xsd_version >= 'R2.0.9.S01.E01' OR eform_sdk_version = 'eforms-sdk-1.10')
   AND publication_date >= DATE '2023-01-01'
   AND publication_date < DATE '2025-01-01'
 ORDER BY notice_id;
