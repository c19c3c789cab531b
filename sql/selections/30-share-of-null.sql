-- 30. Share of NULL per metadata column and kind of notice, in percent.
-- Change: the columns.
SELECT CASE WHEN eform_sdk_version IS NULL THEN 'standard form' ELSE 'eForms' END AS notice_kind,
       count(*) AS notices,
       round(100.0 * (count(*) - count(publication_date)) / count(*), 1) AS publication_date,
       round(100.0 * (count(*) - count(name_of_buyer)) / count(*), 1) AS name_of_buyer,
       round(100.0 * (count(*) - count(country_of_buyer)) / count(*), 1) AS country_of_buyer,
       round(100.0 * (count(*) - count(eforms_subtype)) / count(*), 1) AS eforms_subtype,
       round(100.0 * (count(*) - count(place_of_performance)) / count(*), 1)
         AS place_of_performance,
       round(100.0 * (count(*) - count(x_main_cpv)) / count(*), 1) AS x_main_cpv
  FROM notices
 GROUP BY notice_kind
 ORDER BY notice_kind;
