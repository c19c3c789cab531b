-- 7b. Only the newest version of each notice.
-- Change: add conditions before QUALIFY.
SELECT notice_id, x_procedure_id, x_notice_uuid, x_notice_version, status
  FROM notices
 WHERE x_notice_uuid IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY x_notice_uuid
                           ORDER BY x_notice_version DESC, publication_date DESC) = 1
 ORDER BY notice_id;
