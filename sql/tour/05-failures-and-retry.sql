-- Tour, 5 of 8: failures, parameters, retry, cancel. Needs files 1 to 4.

-- A job that failed on its last attempt is discarded. Its reason is selectable.
SELECT job_id, source_id, transform_version, failures, error_code, error FROM jobs
 WHERE state = 'discarded' ORDER BY job_id;

-- A new version of the transform reads a parameter: a title for notices that have none.
-- Jobs that run keep the version with which they began.
CREATE OR REPLACE TRANSFORM normalise ON notices
  FROM STATUS 'RAW' TO STATUS 'NORMALISED'
  WITH (group_size 100, max_attempts 2, backoff '1 second')
  AS SELECT notice_id,
            upper(CASE title WHEN '' THEN json_text(params, 'title') ELSE title END) AS title,
            CASE WHEN title = '' AND json_text(params, 'title') IS NULL
                 THEN 'the notice has no title' END AS error
       FROM input;

-- A final job never changes. retry_job() makes a new one, with the old one as its parent.
SELECT job_id, retry_job(job_id, params => '{"title": "untitled"}', batch => 'again') AS new_job
  FROM jobs WHERE state = 'discarded' AND error LIKE '%no title%';

CALL run_jobs();

SELECT job_id, parent_job_id, source_id, transform_version, state, params FROM jobs
 ORDER BY job_id;

-- Every attempt has a row. The attempts of one source, whatever job they belong to:
SELECT job_id, attempt, transform_version, outcome, error FROM attempts
 WHERE source_id = '103-2024' ORDER BY job_id, attempt;

-- A job for later, which is cancelled before its time has come. All arguments are constants, so
-- there is no FROM; CALL schedule_job(...) would do the same.
INSERT INTO notices (notice_id, form, published, title) VALUES
  ('106-2024', 'F02', DATE '2024-03-01', 'Snow ploughs');
SELECT schedule_job('normalise', '106-2024', run_at => TIMESTAMP '2099-01-01T00:00:00Z') AS job_id;
SELECT job_id, state, cancel_job(job_id) AS cancelled FROM jobs WHERE state = 'scheduled';
SELECT job_id, source_id, state, error FROM jobs ORDER BY job_id DESC LIMIT 1;

-- What is final cannot be cancelled: FALSE.
SELECT cancel_job(1) AS cancelled;
