-- 2. eForms of subtype 16, SDK 1.10, with a buyer in Poland, that are ineligible.
-- Change: the subtype, the SDK version (1.10.2 counts as 1.10), the country.
SELECT notice_id, publication_date, name_of_buyer
  FROM notices
 WHERE eforms_subtype = '16'
   AND (eform_sdk_version = 'eforms-sdk-1.10' OR eform_sdk_version LIKE 'eforms-sdk-1.10.%')
   AND country_of_buyer = 'http://publications.europa.eu/resource/authority/country/POL'
   AND status = 'INELIGIBLE_FOR_TRANSFORMATION'
 ORDER BY notice_id;
