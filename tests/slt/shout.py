"""A worker command of the SQL tests: makes titles loud, and refuses those that begin with "not"."""

import json
import sys

for line in sys.stdin:
    source = json.loads(line)
    reply = {"source_id": source["source_id"]}
    title = source["row"]["title"]
    if title.startswith("not"):
        reply["error"] = {"code": "shy", "message": "it does not want to"}
    else:
        reply["columns"] = {"title": title.upper()}
    print("seen", source["source_id"], file=sys.stderr)
    print(json.dumps(reply), flush=True)
