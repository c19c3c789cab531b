-- 1. F03 notices published in the first quarter of 2023 that are stuck before TRANSFORMED, and
-- whose mapping suite got a newer version since their last attempt.
-- Change: the form, the dates.
SELECT n.notice_id, n.status,
       json_text(j.params, 'suite_version') AS tried_with, e.suite_version AS newest
  FROM notices AS n
  JOIN jobs AS j ON j.job_id = n.last_job_id AND j.transform = 'to_rdf'
  JOIN eligible_notices AS e ON e.notice_id = n.notice_id
 WHERE n.form_number = 'F03'
   AND n.publication_date BETWEEN DATE '2023-01-01' AND DATE '2023-03-31'
   AND n.status IN ('ELIGIBLE_FOR_TRANSFORMATION', 'PREPROCESSED_FOR_TRANSFORMATION')
   AND j.started_at IS NOT NULL
   AND json_text(j.params, 'suite_version') <> e.suite_version
 ORDER BY n.notice_id;
