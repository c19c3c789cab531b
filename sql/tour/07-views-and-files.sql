-- Tour, 7 of 8: views, files, external tables. Needs files 1 to 6.

-- A view keeps a selection under a name. It is planned anew each time, on the newest snapshot.
CREATE OR REPLACE VIEW ready AS
  SELECT notice_id, form, title FROM notices
   WHERE status = 'NORMALISED' AND NOT locked AND live_job_id IS NULL;

SELECT * FROM ready ORDER BY notice_id;

-- COPY writes rows to a file: Parquet, CSV, JSON or Arrow, by the name's end. Statements read and
-- write below the working folder, and below folders that were given as --allow-root.
COPY (SELECT * FROM ready ORDER BY notice_id) TO 'tour-files/ready.csv';
COPY (SELECT * FROM ready ORDER BY notice_id) TO 'tour-files/ready.parquet';

SELECT name, bytes > 0 AS has_content FROM list_files('tour-files/ready.*');

SELECT read_text('tour-files/ready.csv') AS text;

-- An external table is a file, or a folder of files, under a name. It is read anew each time.
CREATE EXTERNAL TABLE exported STORED AS PARQUET LOCATION 'tour-files/ready.parquet';

SELECT e.notice_id, e.title, n.status
  FROM exported AS e JOIN notices AS n ON n.notice_id = e.notice_id
 ORDER BY e.notice_id;

-- Selections may use it like any table: what is not exported yet goes back to be transformed.
PREVIEW SELECT n.notice_id, set_status('notices', n.notice_id, 'RAW')
  FROM notices AS n LEFT ANTI JOIN exported AS e ON e.notice_id = n.notice_id
 ORDER BY n.notice_id;

-- XML is read with XPath.
SELECT xpath_text('<notice id="7"><title>Roof</title></notice>', '/notice/@id') AS id,
       xpath_text('<notice id="7"><title>Roof</title></notice>', '/notice/title') AS title;

DROP TABLE exported;
DROP VIEW ready;
