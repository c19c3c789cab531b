-- 13. Retry only the failed part of a batch, with the same parameters. PREVIEW first; without it,
-- the same statement does it.
-- Change: the batch.
PREVIEW
SELECT job_id AS failed_job_id, source_id, retry_job(job_id, batch => 'again')
  FROM jobs
 WHERE batch_id = 2 AND state = 'discarded'
 ORDER BY failed_job_id;
