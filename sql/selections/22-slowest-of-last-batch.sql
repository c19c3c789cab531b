-- 22. The slowest notices of the last batch of a transform, and how large they are.
-- Change: the transform, LIMIT.
SELECT a.source_id AS notice_id, a.duration_ms, n.bytes
  FROM attempts AS a
  JOIN notices AS n ON n.notice_id = a.source_id
 WHERE a.batch_id = (SELECT max(batch_id) FROM attempts WHERE transform = 'normalise')
   AND a.duration_ms IS NOT NULL
 ORDER BY a.duration_ms DESC, notice_id
 LIMIT 20;
