-- 18. Why is a job not running?
-- Change: the job; without that condition, the answer for every waiting job.
SELECT j.job_id, j.source_id, j.transform, j.state,
       CASE
         WHEN j.ended_at IS NOT NULL THEN j.state || ': ' || coalesce(j.error, 'it is done')
         WHEN j.state = 'running' THEN 'it runs on ' || j.worker
         WHEN j.run_at > now() AND j.state = 'retryable'
           THEN 'it failed and is tried again at ' || CAST(j.run_at AS TEXT)
         WHEN j.run_at > now() THEN 'its time comes at ' || CAST(j.run_at AS TEXT)
         WHEN l.resource IS NOT NULL
           THEN l.resource || ' is locked by ' || l.owner || ' until ' || CAST(l.expires_at AS TEXT)
         WHEN t.running >= t.group_size * t.concurrency
           THEN 'as many jobs of its transform run as may run at once'
         ELSE 'it waits for a worker'
       END AS why
  FROM jobs AS j
  LEFT JOIN transforms AS t ON t.name = j.transform
  LEFT JOIN locks AS l
    ON l.resource = j.source_table OR l.resource = j.source_table || '/' || j.source_id
 WHERE j.ended_at IS NULL AND j.state <> 'running'
 ORDER BY j.job_id;
