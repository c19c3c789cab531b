-- 5. Published notices that were transformed with a suite that is outdated by now.
-- Change: the statuses that count as published.
WITH transformed AS (
  SELECT source_id, params,
         row_number() OVER (PARTITION BY source_id ORDER BY job_id DESC) AS place
    FROM jobs
   WHERE source_table = 'notices' AND transform = 'to_rdf' AND state = 'completed'
)
SELECT n.notice_id, n.status,
       json_text(t.params, 'suite') AS suite, json_text(t.params, 'suite_version') AS transformed,
       e.suite_version AS newest
  FROM notices AS n
  JOIN transformed AS t ON t.source_id = n.notice_id AND t.place = 1
  JOIN eligible_notices AS e ON e.notice_id = n.notice_id
 WHERE n.status IN ('PUBLISHED', 'PUBLICLY_AVAILABLE', 'PUBLICLY_UNAVAILABLE')
   AND (json_text(t.params, 'suite') <> e.mapping_suite
        OR json_text(t.params, 'suite_version') <> e.suite_version)
 ORDER BY n.notice_id;
