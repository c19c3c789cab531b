-- One row per attempt of a job: when it began, how it ended, why it failed.
SELECT started.job_id,
       started.attempt,
       started.token,
       started.transform,
       started.transform_version,
       started.source_table,
       started.source_id,
       started.batch_id,
       started.worker,
       started.at AS started_at,
       ended.at AS ended_at,
       -- Microseconds, as an integer: EXTRACT drops the fraction from 2.2 seconds on.
       CAST(ended.at - started.at AS BIGINT) / 1000 AS duration_ms,
       CASE ended.kind
            WHEN 'job-completed' THEN 'completed'
            WHEN 'job-failed' THEN 'failed'
            WHEN 'job-crashed' THEN 'crashed'
            WHEN 'job-released' THEN 'handed-back'
            WHEN 'job-cancelled' THEN 'cancelled'
            ELSE 'running'
       END AS outcome,
       ended.error_code,
       ended.message AS error,
       -- Events hold the path; the job, which ended with this attempt, has the address.
       CASE ended.kind WHEN 'job-completed' THEN jobs.output_uri END AS output_uri
  FROM events AS started
  LEFT JOIN events AS ended
    ON ended.job_id = started.job_id
   AND ended.attempt = started.attempt
   AND ended.kind IN ('job-completed', 'job-failed', 'job-crashed', 'job-released', 'job-cancelled')
  LEFT JOIN jobs
    ON jobs.job_id = started.job_id
 WHERE started.kind = 'job-started'
