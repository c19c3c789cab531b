"""Four processes on one local store, killed and stopped at any moment: nothing may be lost.

    python tests/python/stop_and_kill.py --seconds 600 --seed 7

SIGKILL, or SIGSTOP for up to a quarter of the time and so for longer than any lease, then SIGCONT.
A process that is stopped is a machine that sleeps: between any two of its steps, for any time. Prints
counts, and exits with 1 where something is wrong; the folder with all logs stays then.
"""

import argparse
import json
import math
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time

from crew import DONE_MIN, SLOW_SECONDS, Crew, Season
from verdict import Verdict

MEMBERS = ["server-0", "server-1", "worker", "prompt"]

# So many may be stopped at once, so that somebody still commits.
STOPPED_MAX = 2


class Disturbance:
    """Kills and stops members by its chance."""

    def __init__(self, crew, seed, longest):
        self.crew, self.longest = crew, longest
        self.chance = random.Random(f"{seed}-disturbance")
        # What is stopped: its process, and when it goes on.
        self.stopped = {}

    def run(self, seconds, enough):
        """Goes on for so long, and on a slow machine until enough has come of it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end + (0 if enough() else SLOW_SECONDS):
            time.sleep(self.chance.uniform(0.05, 0.6))
            self.wake(time.monotonic())
            name = self.chance.choice(MEMBERS)
            if self.chance.random() < 0.25:
                self.kill(name)
            else:
                self.stop(name)
        self.wake(math.inf)

    def kill(self, name):
        if self.crew.send(name, signal.SIGKILL):
            self.stopped.pop(name, None)
            self.crew.counts[f"{name} killed"] += 1

    def stop(self, name):
        if name in self.stopped or len(self.stopped) >= STOPPED_MAX:
            return
        if not self.crew.send(name, signal.SIGSTOP):
            return
        # As many short as long ones: from a tenth of a second on, in orders of magnitude.
        length = 0.1 * (self.longest / 0.1) ** self.chance.random()
        self.stopped[name] = time.monotonic() + length
        self.crew.counts[f"{name} stopped"] += 1
        self.crew.counts["stops of seconds" if length > 1 else "short stops"] += 1
        if length > 10:
            self.crew.counts["stops longer than every lease"] += 1

    def wake(self, now):
        for name, until in list(self.stopped.items()):
            if until <= now:
                self.crew.send(name, signal.SIGCONT)
                del self.stopped[name]


def disturbed(folder, seconds, seed):
    """A season of disturbances on a store in a folder; the counts, and what is wrong."""
    folder = pathlib.Path(folder)
    crew = Crew(folder, folder / "store")
    crew.start()
    season = Season(crew, seed)
    season.start()
    disturbance = Disturbance(crew, seed, longest=max(8, seconds / 4))
    disturbance.run(seconds, enough=lambda: season.done() >= DONE_MIN)
    wrong = season.end(90)
    wrong += [f"{name} does not end" for name in crew.dismiss()]
    # Told before the verdict, which may take long.
    print(json.dumps(crew.counts), flush=True)
    verdict = Verdict(crew).judge()
    return {**verdict.counts, **crew.counts}, wrong + verdict.wrong


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seconds", type=float, default=600)
    arguments.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    arguments.add_argument("--folder", help="for the store and all logs; a new one by default")
    given = arguments.parse_args()
    folder = given.folder or tempfile.mkdtemp(prefix="sluicegate-")
    pathlib.Path(folder).mkdir(exist_ok=True)
    print("seed", given.seed, "in", folder, flush=True)
    counts, wrong = disturbed(folder, given.seconds, given.seed)
    print(json.dumps(counts, indent=1))
    for each in wrong:
        print("WRONG", each)
    print(len(wrong), "wrong")
    if not wrong and not given.folder:
        shutil.rmtree(folder)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
