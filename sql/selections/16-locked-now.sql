-- 16. What is locked now, by whom, since when, until when.
-- Change: nothing, or add WHERE resource LIKE 'notices/%'.
SELECT resource, mode, owner, reason, acquired_at, expires_at, job_id
  FROM locks
 ORDER BY resource, acquired_at;
