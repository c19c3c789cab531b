-- 6. The 100 notices that have been failing longest: since their first failure after their last
-- success.
-- Change: LIMIT.
SELECT a.source_id AS notice_id, min(a.ended_at) AS failing_since, count(*) AS failures,
       last_value(a.error ORDER BY a.ended_at) AS last_error
  FROM attempts AS a
  LEFT JOIN (SELECT source_id, max(ended_at) AS completed_at
               FROM attempts WHERE source_table = 'notices' AND outcome = 'completed'
              GROUP BY source_id) AS good ON good.source_id = a.source_id
 WHERE a.source_table = 'notices' AND a.outcome = 'failed'
   AND (good.completed_at IS NULL OR a.ended_at > good.completed_at)
 GROUP BY a.source_id
 ORDER BY failing_since, notice_id
 LIMIT 100;
