-- One row per stay of a source in a status: since when, until when (NULL: it is there still).
WITH changes AS (
  SELECT version, ordinal, at, source_table, source_id, to_status, job_id, actor
    FROM events
   WHERE to_status IS NOT NULL OR kind = 'source-deleted'
)
SELECT source_table, source_id, status, began_at, ended_at, job_id, actor, version
  FROM (SELECT source_table, source_id, to_status AS status, at AS began_at,
               lead(at) OVER (PARTITION BY source_table, source_id ORDER BY version, ordinal)
                 AS ended_at,
               job_id, actor, version
          FROM changes)
 WHERE status IS NOT NULL
