-- 25. Jobs that were refused, and why.
-- Change: the function; LIMIT.
SELECT at, actor, source_id, transform, outcome, message AS reason
  FROM events
 WHERE kind = 'effect-refused' AND function IN ('schedule_job', 'retry_job')
 ORDER BY version, ordinal
 LIMIT 100;
