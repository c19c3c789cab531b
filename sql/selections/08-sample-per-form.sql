-- 8. A random sample of 50 notices per form type, to try a new mapping on. It differs each time;
-- md5(notice_id || 'seed') in place of random() gives the same sample again.
-- Change: the number, what the sample is taken of.
SELECT notice_id, form_type
  FROM notices
 WHERE form_type IS NOT NULL AND NOT locked
QUALIFY row_number() OVER (PARTITION BY form_type ORDER BY random()) <= 50
 ORDER BY form_type, notice_id;
