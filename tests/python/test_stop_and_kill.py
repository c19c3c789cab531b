"""A short share of `stop_and_kill.py`, whose own command goes on for as long as it is told."""

import json
import os
import random

from stop_and_kill import disturbed

SECONDS = 15


def test_processes_that_are_killed_and_stopped_lose_nothing(tmp_path):
    seed = int(os.environ.get("SLUICEGATE_SEED") or random.randrange(1 << 32))
    print("seed", seed)
    counts, wrong = disturbed(tmp_path, SECONDS, seed)
    print(json.dumps(counts, indent=1))
    assert wrong == []
    assert counts["acknowledged effects"] > 20
    assert any(name.endswith("killed") for name in counts)
    assert any(name.endswith("stopped") for name in counts)
