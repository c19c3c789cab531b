-- 7. All notices of one procedure, and of each notice whether it is its newest version. Add
-- AND newest to a surrounding query, or use 07b.
-- Change: the procedure.
SELECT notice_id, x_notice_uuid, x_notice_version, publication_date, status,
       row_number() OVER (PARTITION BY x_notice_uuid
                          ORDER BY x_notice_version DESC, publication_date DESC) = 1 AS newest
  FROM notices
 WHERE x_procedure_id = '3f1c2c6e-0001-4000-8000-000000000001'
 ORDER BY x_notice_uuid, x_notice_version;
