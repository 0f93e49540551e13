"""``python -m tests.simulation``: many seeds, one scoreboard.

Ends with 1 if a promise is broken, with the command that replays it; and, of as many seeds as should show everything,
if some fault or some move of a life cycle never happened.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.progress import track

from tests.simulation.exercised import missing
from tests.simulation.plans import STORIES, differences, drawn
from tests.simulation.world import Report, simulate

ENOUGH_SEEDS = 200
"""So many must exercise every fault and every move,"""
RARE, ENOUGH_FOR_THE_RARE = frozenset({"move of a job: LEASED ADOPTED", "move of a job: RUNNING ADOPTED"}), 2_000
"""...but for these, which take so many: two nodes hold one job of an earlier life, and that of the later token comes
home last."""


def replay_command(report: Report) -> str:
    story = f' --story "{report.plan.name}"' if report.plan.name in STORIES else ""
    return f"python -m tests.simulation{story} --from {report.seed} --seeds 1 -v"


def scoreboard(reports: Sequence[Report], seconds: float) -> str:
    def total(name: str) -> int:
        return sum(getattr(r, name) for r in reports)

    def counts(name: str) -> str:
        return ", ".join(f"{n:,} {word}" for word, n in sorted(sums(reports, name).items())) or "none"

    def score(name: str) -> str:
        return f"{sum(getattr(r.score, name) for r in reports):,}"

    seconds = max(seconds, 1e-9)
    hours = sum(r.virtual_s for r in reports) / 3600
    rows = [
        ("seeds", f"{len(reports):,} in {seconds:.1f} s ({len(reports) / seconds:.1f} a second)"),
        ("simulated", f"{hours:.1f} hours ({hours * 60 / seconds:.1f} hours a minute)"),
        ("events", f"{total('happenings'):,} in {total('turns'):,} turns"),
        ("messages", f"{total('messages'):,} of {total('bytes') / 1e6:,.0f} MB on {total('hellos'):,} links"),
        ("faults", f"{counts('faults')}, {counts('slow')}"),
        ("jobs", f"{total('jobs'):,}"),
        ("executions", f"{total('executions'):,}, of them again {total('excess'):,} ({counts('excuses')})"),
        ("commits", f"{total('commits'):,}"),
        ("on disk", f"{total('rows'):,} outcomes by {total('disk_commits'):,} commits"),
        ("recovered", f"{total('recovered'):,} jobs, of them {total('left_over'):,} that no node had"),
        ("settled", counts("outcomes")),
        ("given up", f"{counts('losses')}: outcomes 'lost' that the rules allow"),
        ("late", f"{total('discarded'):,} messages with results that were refused"),
        ("settling", f"at most {max(r.settle_s for r in reports):.1f} s after the last fault"),
        ("moves", f"of jobs: {counts('job_moves')}"),
        ("", f"of attempts: {counts('attempt_moves')}"),
        ("lost", score("lost")),
        ("duplicate", f"{score('duplicate_commits')} commits"),
        ("at most once", f"{score('second_starts')} starts over one"),
        ("stuck", score("stuck")),
        ("failed", f"{sum(bool(r.failure) for r in reports):,}"),
    ]
    return "\n".join(f"{name:>12}  {text}" for name, text in rows)


def sums(reports: Iterable[Report], name: str) -> Counter[str]:
    out: Counter[str] = Counter()
    for report in reports:
        out.update(getattr(report, name))
    return out


def never_exercised(reports: Sequence[Report]) -> list[str]:
    faults = sums(reports, "faults") + sums(reports, "slow")
    return missing(faults, sums(reports, "job_moves"), sums(reports, "attempt_moves"))


def watched(seeds: Sequence[int]) -> Iterator[int]:
    """With a bar for whoever looks on."""
    console = Console(stderr=True)
    yield from track(seeds, "worlds", console=console, transient=True) if console.is_terminal else seeds


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, metavar="N", help="how many worlds (default 100)")
    parser.add_argument("--from", type=int, default=0, dest="first", metavar="K", help="the first seed (default 0)")
    parser.add_argument("--story", choices=sorted(STORIES), help="a named plan, instead of one drawn from each seed")
    parser.add_argument("--keep-going", action="store_true", help="do not end at the first failure")
    parser.add_argument("--trace", action="store_true", help="print only each seed's hash of all messages")
    parser.add_argument("-v", "--verbose", action="store_true", help="a line for each seed, and the story of failures")
    args = parser.parse_args(argv)
    reports: list[Report] = []
    began = time.perf_counter()
    for seed in watched(range(args.first, args.first + args.seeds)):
        plan = STORIES[args.story] if args.story else drawn(seed)
        report = simulate(seed, plan, tail=400 if args.verbose else 0)
        reports.append(report)
        if args.trace:
            print(seed, report.trace)
        elif args.verbose:
            print(
                f"{seed}: {report.jobs} jobs, {report.virtual_s:.0f} s, {report.happenings} events; {differences(plan)}"
            )
        if report.failure:
            print("\n".join(report.story))
            print(f"seed {seed} FAILED: {report.failure}\nreplay: {replay_command(report)}", flush=True)
            if not args.keep_going:
                break
    if args.trace:
        return int(any(r.failure for r in reports))
    print(scoreboard(reports, time.perf_counter() - began))
    never: list[str] = []
    if len(reports) >= ENOUGH_SEEDS and not args.story:
        never = never_exercised(reports)
        if len(reports) < ENOUGH_FOR_THE_RARE:
            never = [word for word in never if word not in RARE]
        print("\n".join(f"never exercised: {word}" for word in never), end="\n" if never else "")
    return int(bool(never) or any(r.failure for r in reports))


if __name__ == "__main__":
    sys.exit(main())
