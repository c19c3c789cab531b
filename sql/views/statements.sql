-- One row per statement that changed something: who ran it, when, and what it did.
SELECT statement_id,
       version,
       at,
       actor,
       message AS sql,
       params AS idempotency_key,
       payload AS summary
  FROM events
 WHERE kind = 'statement-committed'
