-- Tour, 1 of 8: sources and tables.
--
-- The files of the tour go one after the other over one store, which must be empty at the start:
--   sluicegate --store tour-store --create --actor anna -f sql/tour/01-sources-and-tables.sql
--   sluicegate --store tour-store --actor anna -f sql/tour/02-select-and-preview.sql
-- and so on; or all at once, with one -f after the other. They leave ./tour-store and
-- ./tour-files behind. What they print is in tests/tour/.

-- A table with a primary key is a source table. Each row is a source: something that will be
-- transformed again and again. The key is one TEXT or BIGINT column.
CREATE TABLE notices (
  notice_id TEXT,
  form TEXT,
  published DATE,
  title TEXT,
  PRIMARY KEY (notice_id)
);

INSERT INTO notices (notice_id, form, published, title) VALUES
  ('101-2023', 'F03', DATE '2023-11-20', 'Bridge over the Leam'),
  ('102-2023', 'F02', DATE '2023-12-01', 'School meals'),
  ('103-2024', 'F03', DATE '2024-01-08', ''),
  ('104-2024', 'F03', DATE '2024-01-09', 'Street lamps'),
  ('105-2024', 'F02', DATE '2024-02-14', 'Library roof');

-- Every source table has system columns, which nobody declares: status (where the source stands
-- in the life cycle of its table; RAW at first), status_at, locked, live_job_id, last_job_id and
-- version (the commit that changed the row or its status last).
SELECT notice_id, title, status, locked, live_job_id, version FROM notices ORDER BY notice_id;

-- INSERT refuses a key that is there; REPLACE INTO replaces the row and keeps its status.
REPLACE INTO notices (notice_id, form, published, title) VALUES
  ('102-2023', 'F02', DATE '2023-12-01', 'School meals, corrected');

UPDATE notices SET form = 'F06' WHERE notice_id = '105-2024';

-- The status is no column to write: set_status() is an effect function. It stands as an item of
-- the SELECT list and acts once per row, and all rows together are one commit.
SELECT notice_id, set_status('notices', notice_id, 'ARCHIVED') AS done
  FROM notices WHERE published < DATE '2023-12-01';

SELECT status, count(*) AS notices FROM notices GROUP BY status ORDER BY status;

-- Each statement that changes something is one commit. Versions are 1, 2, 3 ... without holes.
SELECT version, actor, summary FROM statements ORDER BY version;
