-- One row per statement that changed something: who ran it, when, and what it did.
SELECT statement_id,
       version,
       at,
       actor,
       message AS sql,
       -- As it was sent; before it the ledger keeps whose it is.
       split_part(params, chr(10), -1) AS idempotency_key,
       payload AS summary
  FROM events
 WHERE kind = 'statement-committed'
