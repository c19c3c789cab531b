-- 29. Who scheduled what in the last 30 days, with which SQL, and how it ended.
-- Change: the days.
SELECT b.created_at, b.actor, b.batch_id, b.name, b.jobs, b.completed, b.cancelled, b.discarded,
       b.ended_at, s.sql
  FROM batches AS b
  JOIN statements AS s ON s.statement_id = b.statement_id
 WHERE b.created_at >= now() - INTERVAL '30 days'
 ORDER BY b.created_at, b.batch_id;
