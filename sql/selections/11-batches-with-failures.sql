-- 11. Batches of which more than 5 % failed.
-- Change: the share.
SELECT batch_id, name, actor, created_at, jobs, discarded,
       round(100.0 * discarded / jobs, 1) AS failed_percent
  FROM batches
 WHERE discarded > 0.05 * jobs
 ORDER BY failed_percent DESC, batch_id;
