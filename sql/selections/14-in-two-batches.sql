-- 14. Notices that are in two unfinished batches.
-- Change: nothing.
SELECT source_id AS notice_id, array_agg(DISTINCT batch_id ORDER BY batch_id) AS batch_ids
  FROM jobs
 WHERE source_table = 'notices' AND ended_at IS NULL
 GROUP BY source_id
HAVING count(DISTINCT batch_id) > 1
 ORDER BY notice_id;
