-- One row per time that a resource was held, by an explicit lock or by a running job: by whom,
-- since when, until when, and how it ended. A lease ends when it ran out, even where that was
-- noticed later.
WITH taken AS (
  SELECT coalesce(resource, source_table || '/' || source_id) AS resource,
         coalesce(mode, 'exclusive') AS mode,
         coalesce(owner, worker) AS owner,
         token, job_id, attempt,
         CASE WHEN job_id IS NULL THEN message END AS reason,
         at AS acquired_at, expires_at
    FROM events
   WHERE kind IN ('lock-acquired', 'job-started')
), renewed AS (
  SELECT token, max(expires_at) AS expires_at
    FROM events
   WHERE kind IN ('lock-renewed', 'job-renewed')
   GROUP BY token
), ended AS (
  SELECT token, at,
         CASE kind WHEN 'lock-expired' THEN 'expired'
                   WHEN 'job-crashed' THEN 'expired'
                   ELSE 'released' END AS ending
    FROM events
   WHERE kind IN ('lock-released', 'lock-expired', 'job-completed', 'job-failed', 'job-crashed',
                  'job-released', 'job-cancelled')
     AND token IS NOT NULL
)
SELECT taken.resource, taken.mode, taken.owner, taken.token, taken.job_id, taken.attempt,
       taken.reason, taken.acquired_at,
       coalesce(renewed.expires_at, taken.expires_at) AS expires_at,
       CASE WHEN ended.ending = 'expired'
              OR (ended.at IS NULL AND coalesce(renewed.expires_at, taken.expires_at) <= now())
            THEN coalesce(renewed.expires_at, taken.expires_at)
            ELSE ended.at
       END AS ended_at,
       CASE WHEN ended.at IS NULL AND coalesce(renewed.expires_at, taken.expires_at) <= now()
            THEN 'expired'
            ELSE coalesce(ended.ending, 'held')
       END AS ending
  FROM taken
  LEFT JOIN renewed ON renewed.token = taken.token
  LEFT JOIN ended ON ended.token = taken.token
