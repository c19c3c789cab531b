-- Tour, 2 of 8: select sources, and see what would happen. Needs file 1.

-- A transform is a named, versioned way to process the sources of one table: SQL, a command, or
-- an outside worker. It says from which statuses it takes a source and which ones it may set.
-- The query sees the table input: the sources of a group. It returns a row per source, by key;
-- columns that the source table has are written back; a text in error fails that source alone.
CREATE TRANSFORM normalise ON notices
  FROM STATUS 'RAW' TO STATUS 'NORMALISED'
  WITH (group_size 100, max_attempts 2, backoff '1 second')
  AS SELECT notice_id,
            upper(title) AS title,
            CASE WHEN title = '' THEN 'the notice has no title' END AS error
       FROM input;

SELECT name, kind, from_status, to_status, max_attempts FROM transforms;

-- A selection is a SELECT. Any criterion will do.
SELECT notice_id, form, published FROM notices
 WHERE form IN ('F03', 'F06') AND published >= DATE '2023-01-01'
 ORDER BY notice_id;

-- PREVIEW in front of an effect: what would happen to each row, and why not. Nothing is done.
PREVIEW SELECT notice_id, schedule_job('normalise', notice_id) FROM notices
 WHERE form IN ('F03', 'F06') AND published >= DATE '2023-01-01'
 ORDER BY notice_id;

-- EXPLAIN of an effect runs nothing either. The effect is the root of the plan, above the query
-- that finds the rows; it is never a function that the planner could move or repeat.
EXPLAIN SELECT schedule_job('normalise', notice_id) FROM notices WHERE locked;

-- Neither of them left a job.
SELECT count(*) AS jobs FROM jobs;
