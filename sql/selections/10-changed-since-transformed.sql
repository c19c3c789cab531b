-- 10. Notices whose content changed since they were last transformed. Jobs of to_rdf carry the
-- hash of what they transform in their parameters.
-- Change: nothing.
WITH transformed AS (
  SELECT source_id, json_text(params, 'content_hash') AS content_hash, ended_at,
         row_number() OVER (PARTITION BY source_id ORDER BY job_id DESC) AS place
    FROM jobs
   WHERE source_table = 'notices' AND transform = 'to_rdf' AND state = 'completed'
)
SELECT n.notice_id, n.status, t.ended_at AS transformed_at
  FROM notices AS n
  JOIN transformed AS t ON t.source_id = n.notice_id AND t.place = 1
 WHERE t.content_hash <> n.content_hash
 ORDER BY n.notice_id;
