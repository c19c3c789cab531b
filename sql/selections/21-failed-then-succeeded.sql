-- 21. Notices that failed, and then succeeded in the same transform.
-- Change: nothing, or the transform.
SELECT bad.source_id AS notice_id, bad.transform, count(DISTINCT bad.token) AS failures,
       max(bad.ended_at) AS last_failed_at, max(good.ended_at) AS completed_at
  FROM attempts AS bad
  JOIN attempts AS good
    ON good.source_table = bad.source_table AND good.source_id = bad.source_id
   AND good.transform = bad.transform AND good.outcome = 'completed'
   AND good.token > bad.token
 WHERE bad.source_table = 'notices' AND bad.outcome IN ('failed', 'crashed')
 GROUP BY bad.source_id, bad.transform
 ORDER BY notice_id, bad.transform;
