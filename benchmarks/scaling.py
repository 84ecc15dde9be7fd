"""Where the stores saturate: a simulation with the costs that benchmarks/stores.py measures.

Workers claim trials one at a time under a lock, train, and write to a database whose cores are
shared; every claim also reads what others finished since. The driver copies trials to MLflow one
by one; that delays nobody, but the copy lags behind. Printed: trials an hour as a share of what so
many workers could do, and how far the copy lags at the end.

    uv run python benchmarks/scaling.py --claim-ms 10 --write-ms 12 --read-ms 0.3 --copy-ms 300
"""

import argparse
import heapq
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Costs:
    """Seconds; ``cores`` of the database server."""

    claim: float
    write: float
    read: float
    copy: float
    cores: int
    proxy: bool


class Queue:
    """Servers that take whoever came first."""

    def __init__(self, number: int) -> None:
        self._free = [0.0] * number

    def serve(self, now: float, seconds: float) -> float:
        begun = max(now, heapq.heappop(self._free))
        heapq.heappush(self._free, begun + seconds)
        return begun + seconds


def simulate(costs: Costs, workers: int, trial_seconds: float) -> tuple[float, float]:
    """Return the share of the ideal throughput, and the copy's lag in seconds."""
    rng = random.Random(0)
    trials = max(3000, 10 * workers)
    lock, database, copier = Queue(1), Queue(costs.cores), Queue(1)
    # (time, what happens, worker); workers do not begin all at once.
    events = [(rng.random() * trial_seconds, "claim", index) for index in range(workers)]
    heapq.heapify(events)
    known, ended, claimed = [0] * workers, 0, 0
    copied = now = 0.0
    # Rates are those between these two moments: not while workers come, nor while they leave.
    moments: list[tuple[float, int]] = []
    while events:
        now, what, index = heapq.heappop(events)
        if what == "claim":
            if claimed >= trials:
                continue
            claimed += 1
            if claimed in (trials // 3, trials):
                moments.append((now, ended))
            unread = 0 if costs.proxy else ended - known[index]
            known[index] = ended
            held = database.serve(lock.serve(now, costs.claim), unread * costs.read)
            length = trial_seconds * rng.lognormvariate(-0.08, 0.4)
            heapq.heappush(events, (held + length, "end", index))
        elif what == "end":
            done = database.serve(now, costs.write)
            heapq.heappush(events, (done, "told", index))
        else:
            ended += 1
            copied = copier.serve(now, costs.copy)
            heapq.heappush(events, (now, "claim", index))
    (first, before), (last, after) = moments
    rate = (after - before) / (last - first)
    return min(1.0, rate * trial_seconds / workers), copied - now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--claim-ms", type=float, required=True, help="the lock is held")
    parser.add_argument("--write-ms", type=float, required=True, help="server's processor a trial")
    parser.add_argument("--read-ms", type=float, required=True, help="server's, a trial and reader")
    parser.add_argument("--copy-ms", type=float, required=True, help="a trial to MLflow")
    parser.add_argument("--cores", type=int, default=8, help="of the database server")
    parser.add_argument("--proxy", action="store_true", help="a storage proxy reads for all")
    words = parser.parse_args()
    costs = Costs(
        words.claim_ms / 1000, words.write_ms / 1000, words.read_ms / 1000, words.copy_ms / 1000,
        words.cores, words.proxy,
    )  # fmt: skip
    lengths = (5.0, 60.0, 600.0, 3600.0)
    print("workers " + "".join(f"{f'{length:.0f} s a trial':>22}" for length in lengths))
    for workers in (4, 16, 64, 256, 1024, 4096):
        row = ""
        for length in lengths:
            share, lag = simulate(costs, workers, length)
            row += f"{f'{100 * share:.0f} %, lag {lag:.0f} s':>22}"
        print(f"{workers:7} {row}")


if __name__ == "__main__":
    main()
