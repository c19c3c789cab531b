-- 12. Progress and expected end of the running batches: as fast as so far.
-- Change: add AND batch_id = ...
WITH progress AS (
  SELECT batch_id, name, jobs, completed + cancelled + discarded AS done, created_at,
         CAST(date_part('epoch', now()) - date_part('epoch', created_at) AS DOUBLE) AS seconds
    FROM batches
   WHERE ended_at IS NULL
)
SELECT batch_id, name, jobs, done, round(100.0 * done / jobs, 1) AS done_percent,
       CASE WHEN done > 0
            THEN to_timestamp(CAST(date_part('epoch', now())
                                   + seconds / done * (jobs - done) AS BIGINT))
       END AS expected_end_at
  FROM progress
 ORDER BY batch_id;
