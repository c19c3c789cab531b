-- Tour, 6 of 8: batches, history, events. Needs files 1 to 5.

-- The jobs that one statement scheduled are a batch.
SELECT batch_id, name, actor, jobs, completed, discarded, cancelled, ended_at IS NOT NULL AS ended
  FROM batches ORDER BY batch_id;

-- Which sources of the first batch are where by now?
SELECT n.status, count(*) AS notices
  FROM jobs AS j JOIN notices AS n ON n.notice_id = j.source_id
 WHERE j.batch_id = 1 AND j.source_table = 'notices'
 GROUP BY n.status ORDER BY n.status;

-- One row per stay of a source in a status.
SELECT status, job_id, actor, ended_at IS NULL AS still_there FROM status_history
 WHERE source_table = 'notices' AND source_id = '103-2024' ORDER BY began_at;

-- The ledger is the table events: every fact, in the order of the commits. All other tables
-- follow from it.
SELECT version, kind, job_id, attempt, token, to_state, to_status, error_code FROM events
 WHERE source_id = '103-2024' ORDER BY version, ordinal;

-- What did one statement do? Table statements has its text; events has the rest.
SELECT s.version, s.sql, count(*) AS events
  FROM statements AS s JOIN events AS e ON e.statement_id = s.statement_id
 WHERE s.sql LIKE '%retry_job%' GROUP BY s.version, s.sql;

-- Tables are Parquet below, and a version is a number: what changed since version 20?
SELECT kind, count(*) AS events FROM events WHERE version > 20 GROUP BY kind ORDER BY kind;
