"""The demonstration: the standard library analysed file by file while a node is killed. Rules of this file:

- The upper half, ``analyse`` and what it returns, runs inside jobs: standard library only, no state.
- The lower half, ``run``, is an ordinary user of ``LocalCluster`` and ``Client``: it knows nothing a user does not.
- It shows nothing itself: a ``Screen`` is told, so that a terminal, a pipe and a test can each listen in their way.

A file is one job. Complexity is McCabe's count: one, and one more for every place where the path may fork.
"""

from __future__ import annotations

import ast
import gc
import os
import platform
import queue
import random
import signal
import sysconfig
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from cluster.local import LocalCluster

# ------------------------------------------------------------------------------------ one file: runs in a job


class Function(NamedTuple):
    """One function or method: its dotted name in the file, its line, its complexity."""

    name: str
    line: int
    complexity: int


class Analysis(NamedTuple):
    """What is found in one file; the same wherever it is computed. ``problem`` says why it does not parse."""

    path: str
    lines: int
    classes: int
    functions: tuple[Function, ...]
    problem: str | None = None


class Done(NamedTuple):
    """An analysis, and who made it."""

    analysis: Analysis
    node: str
    pid: int
    seconds: float


def analyse(path: str) -> Analysis:
    """Parse one file and measure it. A file that cannot be read or parsed is a finding too, and no error."""
    try:
        source = Path(path).read_bytes()
    except OSError as e:
        return Analysis(path, 0, 0, (), f"{type(e).__name__}: {e.strerror}")
    lines = source.count(b"\n") + (not source.endswith(b"\n") and source != b"")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        # MemoryError is how the parser says that brackets are nested too deep.
        why = e.msg if isinstance(e, SyntaxError) else str(e)
        return Analysis(path, lines, 0, (), f"{type(e).__name__}: {why}")
    classes, functions = _measure(tree)
    return Analysis(path, lines, classes, functions)


def examine(path: str, journal: str) -> Done:
    """The job: say in the journal that it starts, then analyse. Lines in the journal are executions."""
    began = time.perf_counter()
    node = os.environ.get("GANGER_NODE", "?")
    fd = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, f"{node} {os.getpid()}\n".encode())
    finally:
        os.close(fd)
    found = analyse(path)
    return Done(found, node, os.getpid(), time.perf_counter() - began)


_ONE_FORK = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler)


def _measure(tree: ast.Module) -> tuple[int, tuple[Function, ...]]:
    """Classes and functions of a module, in order of their lines.

    The walk keeps its own stack, so that no depth of nesting can exhaust the interpreter's. ``owner`` is the
    index of the function a node's forks belong to: lambdas count for the function around them, inner
    functions for themselves.
    """
    classes = 0
    places: list[tuple[str, int]] = []
    counts: list[int] = []
    stack: list[tuple[ast.AST, int, str]] = [(tree, -1, "")]
    while stack:
        node, owner, inside = stack.pop()
        kind = type(node)
        if kind is ast.FunctionDef or kind is ast.AsyncFunctionDef or kind is ast.ClassDef:
            assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            # Decorators, defaults and annotations run outside the new function.
            body = set(map(id, node.body))
            outer = (owner, inside)
            inside = f"{inside}.{node.name}" if inside else node.name
            if kind is ast.ClassDef:
                classes += 1
            else:
                owner = len(counts)
                places.append((inside, node.lineno))
                counts.append(1)
            for child in ast.iter_child_nodes(node):
                stack.append((child, owner, inside) if id(child) in body else (child, *outer))
            continue
        if owner >= 0:
            counts[owner] += _forks(node)
        for child in ast.iter_child_nodes(node):
            stack.append((child, owner, inside))
    functions = [Function(*place, count) for place, count in zip(places, counts, strict=True)]
    return classes, tuple(sorted(functions, key=lambda f: (f.line, f.name)))


def _forks(node: ast.AST) -> int:
    if isinstance(node, _ONE_FORK):
        return 1
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    if isinstance(node, ast.match_case):
        pattern = node.pattern
        certain = isinstance(pattern, ast.MatchAs) and pattern.pattern is None and node.guard is None
        return 0 if certain else 1
    return 0


# ------------------------------------------------------------------------------------ the whole library


def library_files(root: Path | None = None) -> tuple[Path, list[str]]:
    """The standard library's directory and its ``.py`` files, sorted; what was installed into it is left out."""
    root = root or Path(sysconfig.get_path("stdlib"))
    files = []
    for directory, names, entries in os.walk(root):
        names[:] = [n for n in names if n not in ("site-packages", "dist-packages", "__pycache__")]
        files += [os.path.join(directory, e) for e in entries if e.endswith(".py")]
    return root, sorted(files)


class Totals(NamedTuple):
    files: int
    lines: int
    classes: int
    functions: int
    complexity: int
    """Sum over all functions."""
    unparsed: int


def totals(found: Iterable[Analysis]) -> Totals:
    files = lines = classes = functions = complexity = unparsed = 0
    for one in found:
        files += 1
        lines += one.lines
        classes += one.classes
        functions += len(one.functions)
        complexity += sum(f.complexity for f in one.functions)
        unparsed += one.problem is not None
    return Totals(files, lines, classes, functions, complexity, unparsed)


class Share(NamedTuple):
    """What one worker process did."""

    node: str
    pid: int
    jobs: int
    busy_s: float


@dataclass
class Report:
    """The outcome of a run. ``problems`` is empty if, and only if, nothing was lost, doubled or changed."""

    python: str
    seed: int
    totals: Totals
    worst: list[tuple[str, Function]]
    """File (relative to the library) and function, the most complex first."""
    unparsed: list[tuple[str, str]]
    shares: list[Share]
    results: int
    executions: int
    """How often a job began to run, counted by the jobs themselves; above ``results`` after a crash."""
    cluster_s: float
    loop_s: float
    killed: str | None = None
    killed_at_s: float | None = None
    held: int | None = None
    """Jobs the killed node was running or holding at the last look before."""
    noticed_after_s: float | None = None
    replacement: str | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def jobs_per_s(self) -> float:
        return self.results / self.cluster_s if self.cluster_s else 0.0

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "problems": self.problems,
            "python": self.python,
            "seed": self.seed,
            "totals": self.totals._asdict(),
            "most_complex": [{"file": path, **f._asdict()} for path, f in self.worst],
            "unparsed": [{"file": path, "problem": why} for path, why in self.unparsed],
            "shares": [s._asdict() for s in self.shares],
            "results": self.results,
            "executions": self.executions,
            "run_again": self.executions - self.results,
            "cluster_s": round(self.cluster_s, 3),
            "loop_s": round(self.loop_s, 3),
            "jobs_per_s": round(self.jobs_per_s, 1),
            "killed": self.killed,
            "killed_at_s": self.killed_at_s,
            "noticed_after_s": self.noticed_after_s,
            "replacement": self.replacement,
        }


class Screen(Protocol):
    """Who is told what happens."""

    def say(self, text: str) -> None:
        """A thing happened, in one line."""

    def bad(self, text: str) -> None:
        """The same, of things one would rather not see happen."""

    def progress(self, phase: str, done: int, total: int, nodes: Sequence[dict[str, Any]]) -> None:
        """The state at this moment; called often."""


LOST_WITHIN_S = 30.0
"""The killed node must be known as lost by then; ten times its lease."""

REPLACE_BY = 0.9
"""A new node is not worth its start when more than this part of the jobs is done."""

STUCK_S = 60.0
"""No job ended for so long: the run is given up. No file takes a second."""

LOOK_EVERY_S = 0.25
WORST = 10


def run(
    cluster: LocalCluster, screen: Screen, *, seed: int = 0, limit: int | None = None, root: Path | None = None
) -> Report:
    """Analyse the library on that cluster of at least two nodes, kill one of them on the way, check everything.

    ``seed`` chooses the order of the files, the node that is killed, and when. ``limit`` is a number of files.
    """
    rng = random.Random(seed)
    root, files = library_files(root)
    rng.shuffle(files)
    files = files[:limit]
    screen.say(f"the standard library of Python {platform.python_version()}: {len(files):,} files, one job each")
    with tempfile.TemporaryDirectory(prefix="ganger-demo-") as scratch:
        journal = os.path.join(scratch, "journal")
        story = _Story(cluster, screen, rng, len(files))
        done = story.play(files, journal)
        executions = Path(journal).read_bytes().count(b"\n") if os.path.exists(journal) else 0
    gc.freeze()  # what is here stays; the loop need not look through it again and again
    began = time.perf_counter()
    expected = []
    for i, path in enumerate(files):
        expected.append(analyse(path))
        if i % 16 == 0 or i == len(files) - 1:
            screen.progress("check", i + 1, len(files), story.nodes)
    loop_s = time.perf_counter() - began
    gc.unfreeze()

    found = [d.analysis for d in done]

    def short(path: str) -> str:
        return os.path.relpath(path, root)

    every = [(short(a.path), f) for a in found for f in a.functions]
    every.sort(key=lambda e: (-e[1].complexity, e[0], e[1].line))
    return Report(
        python=platform.python_version(),
        seed=seed,
        totals=totals(found),
        worst=every[:WORST],
        unparsed=sorted((short(a.path), a.problem) for a in found if a.problem is not None),
        shares=_shares(done),
        results=len(done),
        executions=executions,
        cluster_s=story.cluster_s,
        loop_s=loop_s,
        killed=story.killed,
        killed_at_s=story.killed_at_s,
        held=story.held,
        noticed_after_s=story.noticed_after_s,
        replacement=story.replacement,
        problems=story.problems + compare(expected, found, executions, short),
    )


def compare(expected: Sequence[Analysis], found: Sequence[Analysis], executions: int, short: Any = str) -> list[str]:
    """What is wrong with what the cluster found, against a plain loop; empty if nothing is."""
    problems = []
    wanted = {a.path: a for a in expected}
    got = Counter(a.path for a in found)
    for path in wanted:
        if got[path] != 1:
            problems.append(f"{short(path)} has {got[path]} results instead of one")
    problems += [f"{short(path)} was never asked for" for path in got if path not in wanted]
    problems += [f"{short(a.path)} was analysed differently" for a in found if wanted.get(a.path, a) != a]
    if totals(expected) != totals(found):
        problems.append(f"the totals differ: {totals(found)} instead of {totals(expected)}")
    if executions < len(found):
        problems.append(f"{len(found)} results out of only {executions} executions")
    return problems


def _shares(done: Iterable[Done]) -> list[Share]:
    jobs: Counter[tuple[str, int]] = Counter()
    busy: dict[tuple[str, int], float] = {}
    for one in done:
        who = one.node, one.pid
        jobs[who] += 1
        busy[who] = busy.get(who, 0.0) + one.seconds
    return [Share(node, pid, n, busy[node, pid]) for (node, pid), n in sorted(jobs.items())]


class _Story:
    """The part on the cluster: submit, collect, kill, notice, replace."""

    def __init__(self, cluster: LocalCluster, screen: Screen, rng: random.Random, total: int) -> None:
        self._cluster = cluster
        self._screen = screen
        self._total = total
        self._victim = rng.choice(cluster.nodes)
        self._kill_at = max(1, int(total * rng.uniform(0.25, 0.4)))
        self._began = 0.0
        self._looked = 0.0
        self.nodes: list[dict[str, Any]] = []
        self.problems: list[str] = []
        self.cluster_s = 0.0
        self.killed: str | None = None
        self.killed_at_s: float | None = None
        self.held: int | None = None
        self.noticed_after_s: float | None = None
        self.replacement: str | None = None

    def play(self, files: Sequence[str], journal: str) -> list[Done]:
        with self._cluster.client() as client:
            self._look(client, 0)
            self._began = time.perf_counter()
            finished: queue.SimpleQueue[Future[Done]] = queue.SimpleQueue()
            for path in files:
                client.submit(examine, path, journal).add_done_callback(finished.put)
            done: list[Done] = []
            ended = 0
            moved = self._began
            while ended < len(files) or self.noticed_after_s is None:
                try:
                    future = finished.get(timeout=LOOK_EVERY_S)
                except queue.Empty:
                    pass
                else:
                    ended += 1
                    moved = time.perf_counter()
                    self.cluster_s = moved - self._began
                    self._take(future, done)
                if self.killed is None and ended >= self._kill_at:
                    self._look(client, ended)
                    self._kill(ended)
                if time.perf_counter() - self._looked >= LOOK_EVERY_S:
                    self._look(client, ended)
                    self._notice(ended)
                if self._overdue():
                    self.problems.append(f"{self.killed} was not noticed as lost in {LOST_WITHIN_S:.0f} s")
                    break
                if ended < len(files) and time.perf_counter() - moved > STUCK_S:
                    self.problems.append(f"no job ended for {STUCK_S:.0f} s; {len(files) - ended} are open")
                    break
            self._look(client, ended)
            committed = client.status()["jobs"]["finished"].get("succeeded", 0)
            if committed != len(files):
                self.problems.append(f"the coordinator counts {committed} succeeded jobs, not {len(files)}")
        return done

    def _take(self, future: Future[Done], done: list[Done]) -> None:
        try:
            done.append(future.result())
        except Exception as e:
            self.problems.append(f"a job failed: {type(e).__name__}: {e}")

    def _look(self, client: Any, ended: int) -> None:
        self._looked = time.perf_counter()
        before = self._row(self.killed) if self.killed else None
        self.nodes = client.nodes()
        if before is not None and self._row(before["name"]) is None:
            # A lost node leaves the roster; who watches shall see that it is lost.
            self.nodes.append({**before, "state": "lost", "busy": 0, "queued": 0})
        self._screen.progress("cluster", ended, self._total, self.nodes)

    def _kill(self, ended: int) -> None:
        victim = self._victim
        row = self._row(victim.name)
        self.held = row["busy"] + row["queued"] if row else None
        os.kill(victim.pid, signal.SIGKILL)
        self.killed = victim.name
        self.killed_at_s = round(time.perf_counter() - self._began, 3)
        self._screen.bad(
            f"{ended:,} of {self._total:,} jobs are done: killed {victim.name} with signal 9 (process {victim.pid})"
        )

    def _row(self, name: str) -> dict[str, Any] | None:
        return next((n for n in self.nodes if n["name"] == name), None)

    def _since_kill(self) -> float:
        assert self.killed_at_s is not None
        return time.perf_counter() - self._began - self.killed_at_s

    def _overdue(self) -> bool:
        return self.killed is not None and self.noticed_after_s is None and self._since_kill() > LOST_WITHIN_S

    def _notice(self, ended: int) -> None:
        """The coordinator gives the node up: from here its jobs run elsewhere, and a new node may help."""
        if self.killed is None or self.noticed_after_s is not None:
            return
        row = self._row(self.killed)
        if row is not None and row["state"] != "lost":
            return
        self.noticed_after_s = round(self._since_kill(), 3)
        self._screen.say(f"{self.killed} is known as lost after {self.noticed_after_s:.1f} s; its jobs run elsewhere")
        if ended < REPLACE_BY * self._total:
            self.replacement = self._cluster.add_node().name
            self._screen.say(f"{self.replacement} was added")
