"""Counts the words of documents, as a worker at a server.

    CREATE TABLE notices (notice_id TEXT, uri TEXT, words BIGINT, PRIMARY KEY (notice_id));
    CREATE TRANSFORM count_words ON notices FROM STATUS 'RAW' TO STATUS 'COUNTED', 'EMPTY'
      USING OUTSIDE WORKER;

    SLUICEGATE_SERVER=http://127.0.0.1:8080 python3 examples/outside_worker.py
"""

import sys

from sluicegate_worker import Failed, worker


@worker("count_words", claim=20, parallel=4)
def count_words(source):
    if source.uri is None:
        raise Failed("the source has no uri", code="no-document")
    words = len(source.read().split())
    return {"columns": {"words": words}, "status": "COUNTED" if words else "EMPTY"}


if __name__ == "__main__":
    count_words.run(until_idle="--until-idle" in sys.argv)
