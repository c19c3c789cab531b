-- 15. What a batch did: how its attempts ended, the first error of each kind, and durations.
-- Change: the batch.
SELECT outcome, error_code, count(*) AS attempts, count(DISTINCT job_id) AS jobs,
       first_value(error ORDER BY ended_at) AS first_error,
       CAST(approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ms) AS BIGINT) AS p50_ms,
       CAST(approx_percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms) AS BIGINT) AS p95_ms
  FROM attempts
 WHERE batch_id = 1
 GROUP BY outcome, error_code
 ORDER BY attempts DESC, error_code;
