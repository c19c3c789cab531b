-- 26. Everything that ever happened to one notice, in order.
-- Change: the notice.
SELECT at, actor, kind, from_status, to_status, transform, job_id, attempt, worker,
       coalesce(outcome, error_code) AS code, message
  FROM events
 WHERE (source_table = 'notices' AND source_id = 'e1') OR resource = 'notices/e1'
 ORDER BY version, ordinal;
