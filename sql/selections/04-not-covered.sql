-- 4. Notices that no mapping suite covers, by subtype and version.
-- Change: nothing, or add a status.
SELECT n.eforms_subtype, coalesce(n.eform_sdk_version, n.xsd_version) AS notice_version,
       count(*) AS notices
  FROM notices AS n
  LEFT ANTI JOIN eligible_notices AS e ON e.notice_id = n.notice_id
 WHERE n.eforms_subtype IS NOT NULL
 GROUP BY n.eforms_subtype, notice_version
 ORDER BY notices DESC, n.eforms_subtype, notice_version;
