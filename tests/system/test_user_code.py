"""Whatever a user writes, from wherever: scripts, notebooks, modules, other Pythons. Real programs, a real cluster."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cluster as package
from cluster import LocalCluster

pytestmark = pytest.mark.system

SOON_S = 60.0
ROOT = Path(package.__file__).parent.parent
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"

ON_THE_NODE = """
def closure():
    n = 5
    return lambda: n

class Known(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")

def fails():
    raise Known(1, 2)

def fails_locally():
    class Local(Exception):
        pass
    raise Local("of this place")

def imports_what_is_not_there():
    import nowhere_at_all
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Its node has a module ``on_the_node``, and nothing of what lies beside the scripts."""
    library = tmp_path_factory.mktemp("library")
    (library / "on_the_node.py").write_text(ON_THE_NODE)
    sys.path.insert(0, str(library))
    try:
        cluster = LocalCluster(slots=2, transport="tcp")
    finally:
        sys.path.remove(str(library))
    with cluster:
        yield cluster


def environment(cluster: LocalCluster | None) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("GANGER_") and k != "PYTHONPATH"}
    return env if cluster is None else {**env, "GANGER_CONNECTION": str(cluster.connection_file)}


def run(
    directory: Path, source: str, cluster: LocalCluster | None = None, python: str = sys.executable
) -> subprocess.CompletedProcess[str]:
    """``python script.py`` as a user calls it; without ``cluster`` the script brings its own."""
    (directory / "script.py").write_text(textwrap.dedent(source))
    return subprocess.run(
        [python, "script.py"],
        cwd=directory,
        env=environment(cluster),
        capture_output=True,
        text=True,
        timeout=2 * SOON_S,
        check=False,
    )


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.splitlines()


# ------------------------------------------------------------------------------------ scripts

DEFINITIONS = """
import enum, functools, math
from abc import ABC, abstractmethod
from collections import namedtuple
from dataclasses import dataclass
from typing import NamedTuple

@dataclass(order=True)
class Point:
    x: int
    y: int = 0
    def shifted(self, by):
        return Point(self.x + by, self.y)

class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"

class TooBig(Exception):
    def __init__(self, value, limit):
        super().__init__(f"{value} is above {limit}")
        self.value, self.limit = value, limit

class Shape(ABC):
    @abstractmethod
    def area(self): ...

class Circle(Shape):
    class Unit:
        name = "cm"
    def __init__(self, r): self.r = r
    def area(self): return round(math.pi * self.r ** 2, 2)

Pair = namedtuple("Pair", "left right")
class Named(NamedTuple):
    a: int
    b: str = "b"

factor = 3
def times(x): return x * factor
def factorial(n): return 1 if n < 2 else n * factorial(n - 1)
def checked(x, limit):
    if x > limit:
        raise TooBig(x, limit)
    return x
def identity(x): return x
def adder(n):
    return lambda x: x + n
@functools.cache
def cached(x): return times(x)
"""

USES = """
def get(fn, *args, **kwargs): return client.submit(fn, *args, **kwargs).result(60)

assert get(times, 2) == 6
factor = 5
assert get(times, 2) == 10, "globals are those of now"
assert get(lambda x: x + factor, 1) == 6
assert get(adder(10), 1) == 11 and get(adder, 1)(2) == 3
assert get(factorial, 10) == math.factorial(10)
assert get(cached, 2) == 10
assert list(client.map(times, range(5), chunksize=2)) == [0, 5, 10, 15, 20]

assert get(Point(1, 2).shifted, 1) == Point(2, 2)
assert get(functools.partial(Point, 1), y=3) == Point(1, 3)
assert sorted(client.map(Point, [3, 1])) == [Point(1), Point(3)]
assert get(identity, Color.RED) is Color.RED and get(lambda: {Color.BLUE: 1}) == {Color.BLUE: 1}
assert get(identity, Pair(1, 2)) == Pair(1, 2) and type(get(Named, 1)) is Named
assert isinstance(get(identity, Circle(1)), Shape) and get(Circle(2).area) == 12.57
assert type(get(Circle.Unit)) is Circle.Unit and get(lambda: Circle.Unit) is Circle.Unit

try:
    get(checked, 7, limit=5)
except TooBig as e:
    assert (e.value, e.limit, str(e)) == (7, 5, "7 is above 5")
    assert "in checked" in str(e.__cause__)
else:
    raise SystemExit("nothing was raised")

Point.label = "later"
assert get(lambda: Point.label) == "later"
"""


def test_a_script_without_a_main_guard(tmp_path: Path) -> None:
    source = f"""
from cluster import LocalCluster
{DEFINITIONS}
local = LocalCluster(slots=2)
client = local.client()
{USES}
print("all there")
"""
    assert said(run(tmp_path, source)) == ["all there"]


def test_what_cannot_be_sent_is_said_in_words(cluster: LocalCluster, tmp_path: Path) -> None:
    source = """
    import ctypes, re, threading
    from cluster import Client

    class Struct(ctypes.Structure):
        _fields_ = [("a", ctypes.c_int)]
    lock = threading.Lock()
    def locked():
        with lock: return 1
    def caller(): return locked()
    def generator(): yield 1

    with Client() as client:
        for future in [
            client.submit(print, lock),
            client.submit(caller),
            client.submit(generator),
            client.submit(print, Struct(1)),
            client.submit(print, ctypes.pointer(ctypes.c_int(1))),
            client.submit(print, client),
        ]:
            error = future.exception(60)
            print(type(error).__name__, error)
    """
    lock, function, generator, struct, pointer, client = said(run(tmp_path, source, cluster))
    start = "SerializationError argument 1 "
    assert lock == f"{start}(_thread.lock) cannot be pickled: TypeError: cannot pickle '_thread.lock' object"
    assert "function __main__:caller cannot be pickled" in function
    assert function.endswith("its global 'locked' (function); the cause is its global 'lock' (_thread.lock)")
    assert generator.endswith("return a list of what it yields")
    assert struct.startswith(f"{start}(__main__.Struct) cannot be pickled: ")
    assert "ctypes objects containing pointers cannot be pickled" in pointer
    assert client.endswith("a client belongs to its process and cannot go into a job")


def test_a_class_in_a_job_is_as_it_was_when_handed_in_and_stays_as_it_is_here(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    source = """
    from cluster import Client
    seen = []
    class Plugin:
        def __init_subclass__(cls): seen.append(cls.__name__)
    class Settings(Plugin):
        value = 0
        def greeting(self): return hello
    hello = "good morning"
    def value(): return Settings.value
    def value_of(settings): return settings.value
    with Client() as client:
        futures = []
        for Settings.value in [1, 2, 1, 2, 2, 1]:
            futures += [client.submit(value), client.submit(value_of, Settings())]
        print([f.result(60) for f in futures])
        future = client.submit(Settings)
        assert future.accepted(60)
        hello = "good evening"
        Settings.value = 7
        came = future.result(60)
        print(type(came) is Settings, Settings.value, came.greeting(), seen)
    """
    assert said(run(tmp_path, source, cluster)) == [
        "[1, 1, 2, 2, 1, 1, 2, 2, 2, 2, 1, 1]",
        "True 7 good evening ['Settings']",
    ]


def test_objects_of_extensions(cluster: LocalCluster, tmp_path: Path) -> None:
    source = """
    import decimal, re
    import numpy as np
    from cluster import Client
    def get(fn, *args): return client.submit(fn, *args).result(60)
    with Client() as client:
        rng = np.random.default_rng(7)
        assert get(lambda g: g.integers(0, 99, 5).tolist(), rng) == np.random.default_rng(7).integers(0, 99, 5).tolist()
        assert get(np.random.Generator.integers, rng, 1) == 0
        assert get(re.compile, "a+").match("aa") and get(lambda p: p.pattern, re.compile("b")) == "b"
        assert get(decimal.Decimal.sqrt, decimal.Decimal(4)) == 2
        record = np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])
        assert (get(lambda r: r, record) == record).all()
        assert get(np.linalg.norm, np.array([3.0, 4.0])) == 5.0
        frame = get(np.ma.masked_array, [1, 2], [True, False])
        assert frame.sum() == 2
        objects = get(np.array, [{"a": 1}, None], object)
        assert objects[0] == {"a": 1}
        assert get(np.add.reduce, np.arange(5)) == 10
    print("all there")
    """
    assert said(run(tmp_path, source, cluster)) == ["all there"]


# ------------------------------------------------------------------------------------ notebooks


def test_a_notebook(cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jupyter_client.manager import KernelManager

    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    kernel = KernelManager(kernel_name="python3")
    kernel.start_kernel(cwd=str(tmp_path), env=environment(cluster))
    notebook = kernel.blocking_client()
    try:
        notebook.start_channels()
        notebook.wait_for_ready(SOON_S)

        def cell(code: str) -> str:
            """What the cell printed, and its value. What it raised fails the test."""
            out: list[str] = []

            def take(message: dict[str, Any]) -> None:
                content = message["content"]
                out.append(content.get("text") or content.get("data", {}).get("text/plain", ""))
                assert message["msg_type"] != "error", "\n".join(content["traceback"])

            notebook.execute_interactive(code, timeout=SOON_S, output_hook=take)
            return "".join(out)

        assert cell("from cluster import Client\nclient = Client()") == ""
        assert cell(DEFINITIONS) == ""
        assert cell(USES) == ""
        assert cell("client.submit(times, 2).result(60)") == "10"
        cell("def times(x): return -x")  # a cell is edited and run again
        assert cell("client.submit(times, 2).result(60)") == "-2"
        cell("class Point:\n    def __init__(self, x): self.new = x")
        assert cell("type(client.submit(Point, 2).result(60)) is Point") == "True"
        assert cell("await client.submit(lambda: 5)") == "5"
        assert cell("%time client.submit(abs, -1).result(60)").endswith("1")
        cell("client.shutdown()")
    finally:
        notebook.stop_channels()
        kernel.shutdown_kernel(now=True)
        kernel.cleanup_resources()


# ------------------------------------------------------------------------------------ modules


def library(directory: Path) -> None:
    """A module and a package as people write them, beside the script."""
    (directory / "single.py").write_text("K = 2\ndef f(x): return x * K\nclass Thing:\n    def __eq__(self, o):"
                                         " return type(o) is type(self)\n")  # fmt: skip
    package = directory / "mylib"
    (package / "sub").mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from . import sub\nfrom .core import Model, run\n__all__ = ['Model', 'run']\n"
    )
    (package / "core.py").write_text(
        "import threading\nimport mylib\nfrom mylib.sub import deep\nlock = threading.Lock()\n"
        "class Model:\n    def __init__(self, w): self.w = w\n    def predict(self, x): return deep.scale(self.w * x)\n"
        "class Odd(Exception):\n    def __init__(self, x, why): super().__init__(why); self.x = x\n"
        "def run(x):\n    if x % 2: raise Odd(x, 'odd')\n    return Model(2).predict(x)\n"
    )
    (package / "sub" / "__init__.py").write_text("")
    (package / "sub" / "deep.py").write_text("BASE = 100\ndef scale(x): return x + BASE\n")


LIBRARY_USES = """
import mylib, single
from mylib.core import Odd
from mylib.sub import deep
def get(fn, *args): return client.submit(fn, *args).result(60)
assert get(single.f, 3) == 6 and get(single.Thing) == single.Thing()
assert get(mylib.run, 4) == 108 and list(client.map(mylib.run, [2, 4])) == [104, 108]
assert type(get(mylib.Model, 1)) is mylib.Model and get(mylib.Model(3).predict, 1) == 103
assert get(lambda x: mylib.run(x) + single.f(x), 2) == 108
try:
    get(mylib.run, 3)
except Odd as e:
    assert e.x == 3
"""


def test_modules_and_packages_beside_the_script(tmp_path: Path) -> None:
    library(tmp_path)
    source = (
        f"from cluster import LocalCluster\nclient = LocalCluster(slots=1).client()\n{LIBRARY_USES}\nprint('there')"
    )
    assert said(run(tmp_path, source)) == ["there"]


def test_a_module_the_node_lacks_is_named_and_the_advice_works(cluster: LocalCluster, tmp_path: Path) -> None:
    """The script does what the error says, word by word."""
    library(tmp_path)
    source = r"""
    import re
    import mylib, mylib.core, single
    from cluster import Client, SerializationError
    client = Client()
    def advised(fn, *args):
        error = client.submit(fn, *args).exception(60)
        print(type(error).__name__, error)
        return eval(re.search(r"install it there, or .*: (client.options\(.*\))$", str(error))[1])
    assert advised(single.f, 1).submit(single.f, 1).result(60) == 2
    twin = advised(mylib.run, 2)
    assert twin.submit(mylib.run, 2).result(60) == 104
    model = mylib.Model(2)
    assert type(twin.submit(lambda: mylib.core.Model(1)).exception(60)).__name__ == "SerializationError"
    assert type(advised(type, model).submit(model.predict, 1).result(60)) is int
    assert type(twin.submit(mylib.Model, 5).result(60)) is mylib.Model
    try:
        twin.submit(mylib.run, 3).result(60)
    except mylib.core.Odd as e:
        assert e.x == 3
    mylib.sub.deep.BASE = 0
    assert twin.submit(mylib.run, 2).result(60) == 4
    assert isinstance(client.submit(mylib.run, 2).exception(60), SerializationError), "the twin alone"
    """
    lines = said(run(tmp_path, source, cluster))
    text = (
        "SerializationError the {} cannot be {}: the module {!r} cannot be imported on node node-1; install it there, "
    )
    assert [line.partition("or send")[0] for line in lines] == [
        text.format("function", "loaded", "single"),
        text.format("function", "loaded", "mylib"),
        text.format("arguments", "unpickled", "mylib"),
    ]


def test_an_import_in_a_job_that_fails_names_the_node(cluster: LocalCluster, tmp_path: Path) -> None:
    source = """
    from cluster import Client
    def job(): import nowhere_at_all
    with Client() as client:
        client.submit(job).result(60)
    """
    done = run(tmp_path, source, cluster)
    assert done.returncode == 1
    last, note = done.stderr.splitlines()[-2:]
    assert last == "ModuleNotFoundError: No module named 'nowhere_at_all'"
    assert note.startswith(
        "the module 'nowhere_at_all' cannot be imported on node node-1; install it there, or import it"
    )


def test_a_directory_with_a_node_and_a_scheduler_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "node.py").write_text("import scheduler\ndef name(): return 'my ' + scheduler.WORD\n")
    (tmp_path / "scheduler.py").write_text("WORD = 'node'\nclass Plan:\n    pass\n")
    source = """
    import importlib.util, node, scheduler
    from cluster import LocalCluster
    with LocalCluster(slots=1) as local, local.client() as client:
        print(client.submit(node.name).result(60))
        print(type(client.submit(scheduler.Plan).result(60)) is scheduler.Plan)
        print(client.submit(lambda: node.name() + " again").result(60))
        print(client.options(by_value=[node, scheduler]).submit(node.name).result(60))
    """
    assert said(run(tmp_path, source)) == ["my node", "True", "my node again", "my node"]


@pytest.mark.parametrize("line", ["from cluster import Client", "import cluster\ncluster.Client()"])
def test_a_cluster_of_the_users_own_is_named_by_python(tmp_path: Path, line: str) -> None:
    own = tmp_path / "cluster.py"
    own.write_text("MINE = True\n")
    done = run(tmp_path, line)
    assert done.returncode == 1
    assert "Client" in done.stderr and "cluster" in done.stderr
    if line.startswith("from"):
        assert f"cannot import name 'Client' from 'cluster' ({own})" in done.stderr


# ------------------------------------------------------------------------------------ large arrays

ARRAYS = """
import json, resource, sys, time
import numpy as np
import psutil
from cluster import LocalCluster

def peak(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024

with LocalCluster(slots=1, transport=%(transport)r) as local, local.client() as client:
    client.submit(abs, 1).result(60)
    array = np.random.default_rng(0).integers(0, 256, %(mib)d << 20, dtype="u1")
    before = {"client": peak("self")}
    began = time.monotonic()
    back = client.submit(np.invert, array).result(300)
    took = time.monotonic() - began
    assert (back[::4096] == ~array[::4096]).all() and back.flags.writeable and len(back) == len(array)
    pids = {"client": "self", "coordinator": local.coordinator.pid, "agent": local.nodes[0].pid}
    pids["worker"] = psutil.Process(local.nodes[0].pid).children()[0].pid
    print(json.dumps({"took_s": took, "before": before["client"]} | {name: peak(pid) for name, pid in pids.items()}))
"""


@pytest.mark.parametrize(
    ("mib", "transport"), [(64, "tcp"), (64, "ipc"), pytest.param(500, "tcp", marks=pytest.mark.long)]
)
def test_a_large_array_there_and_back_in_bounded_time_and_memory(mib: int, transport: str, tmp_path: Path) -> None:
    done = run(tmp_path, ARRAYS % {"mib": mib, "transport": transport})
    assert done.returncode == 0, done.stderr  # a busy machine may be told of a stall there
    figures = json.loads(done.stdout)
    print(mib, transport, figures)
    # there is the caller's array and the snapshot of it; the result as it comes; a margin for the program itself
    assert figures["client"] <= 2.3 * mib + 120
    # the argument is a mapped file, the result an array
    assert figures["worker"] <= 2.3 * mib + 120
    # what only passes by is never held as a whole
    assert figures["coordinator"] <= 0.3 * mib + 120 and figures["agent"] <= 0.3 * mib + 120
    assert figures["took_s"] < 10 + mib / 5


# ------------------------------------------------------------------------------------ other Pythons


def interpreter(version: str) -> str | None:
    found = [shutil.which(f"python{version}")]
    found += sorted(map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}")))
    for python in filter(None, found):
        with contextlib.suppress(OSError):
            said = subprocess.run([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
                                  capture_output=True, text=True, check=False)  # fmt: skip
            if said.stdout.strip() == version:
                return python
    return None


def pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"],
        capture_output=True,
        text=True,
        check=False,
    )
    if re.search("Could not find a version|No matching distribution|connection", done.stderr):
        pytest.skip(f"the package index does not give what it takes: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def python_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """An interpreter of that minor version into which the project is installed; made once."""
    made: dict[str, str] = {}
    wheels: list[str] = []

    def python_of(version: str) -> str:
        if version in made:
            return made[version]
        found = interpreter(version)
        if found is None:
            pytest.skip(f"there is no Python {version} on PATH or under ~/.pyenv/versions")
        if not wheels:
            built = tmp_path_factory.mktemp("wheel")
            pip("wheel", "--no-deps", "--wheel-dir", str(built), str(ROOT))
            wheels.extend(map(str, built.glob("ganger-*.whl")))
        venv = tmp_path_factory.mktemp(f"python{version}")
        subprocess.run([found, "-m", "venv", "--without-pip", venv], check=True, capture_output=True)
        python = str(venv / "bin" / "python")
        pip("--python", python, "install", *wheels)
        made[version] = python
        return python

    return python_of


OTHERS = [version for version in ("3.12", "3.13", "3.11") if version != HERE][:2]


@contextlib.contextmanager
def node(cluster: LocalCluster, python: str, name: str) -> Iterator[None]:
    """A node more, of that interpreter, once it has joined."""
    ready, theirs = os.pipe()
    command = [python, "-P", "-m", "node", "--connection", str(cluster.directory / "node.json"), "--name", name]
    command += ["--slots", "1", "--directory", str(cluster.directory / "nodes" / name), "--ready-fd", str(theirs)]
    process = subprocess.Popen(command, pass_fds=(theirs,), env=environment(None))
    try:
        os.close(theirs)
        with open(ready) as said:
            assert said.readline()
        yield
    finally:
        process.terminate()
        process.wait(SOON_S)


@pytest.mark.parametrize("version", OTHERS)
def test_another_python_calls_what_both_have_by_name(
    cluster: LocalCluster, tmp_path: Path, python_of: Callable[[str], str], version: str
) -> None:
    (tmp_path / "on_the_node.py").write_text(ON_THE_NODE)
    source = """
    import functools, math, sys
    import on_the_node
    from cluster import Client
    with Client() as client:
        def get(fn, *args): return client.submit(fn, *args).result(60)
        print(*sys.version_info[:2], *get(eval, "__import__('sys').version_info[:2]"))
        assert get(math.hypot, 3, 4) == 5 and get(sorted, {"__main__", "a"}) == ["__main__", "a"]
        assert get(functools.partial(len, bytes(200_000))) == 200_000
        try:
            get(on_the_node.fails)
        except on_the_node.Known as e:
            print(e)
        for fn in (on_the_node.closure, on_the_node.fails_locally):
            error = client.submit(fn).exception(60)
            print(type(error).__name__, error, *getattr(error, "__notes__", ()))
    """
    versions, known, result, local = said(run(tmp_path, source, cluster, python_of(version)))
    assert versions == f"{version} {HERE}".replace(".", " ")
    assert known == "1 and 2"
    words = f"by value, as Python {HERE} has them, and this is Python {version}; run both on one version, or"
    assert result.startswith("SerializationError the result cannot be unpickled: it holds functions or classes")
    assert words in result
    assert local.startswith("RemoteError on_the_node.fails_locally.<locals>.Local: of this place not raised as")
    assert words in local


@pytest.mark.parametrize("version", OTHERS)
def test_code_of_another_python_waits_for_a_node_of_it(
    cluster: LocalCluster, tmp_path: Path, python_of: Callable[[str], str], version: str
) -> None:
    python = python_of(version)
    (tmp_path / "script.py").write_text(
        textwrap.dedent("""
        import sys
        from cluster import Client
        class Own:
            def __init__(self, n): self.n = n
            def __index__(self): return self.n
        def where(): return sys.version_info[:2]
        with Client() as client:
            by_value = [client.submit(where), client.submit(bytes, Own(3)), client.submit(Own, 4)]
            assert all(future.accepted(60) for future in by_value)
            assert list(client.map(abs, range(50))) == list(range(50))
            assert not any(future.done() for future in by_value)
            print("they wait", flush=True)
            there, zeros, own = [future.result(60) for future in by_value]
            assert (there, zeros, type(own)) == (sys.version_info[:2], bytes(3), Own)
            print("they ran", flush=True)
        """)
    )
    with subprocess.Popen(
        [python, "script.py"], cwd=tmp_path, env=environment(cluster), stdout=subprocess.PIPE, text=True
    ) as script:
        assert script.stdout is not None
        assert script.stdout.readline() == "they wait\n"
        with node(cluster, python, f"python-{version}"):
            assert script.stdout.readline() == "they ran\n"
            assert script.wait(SOON_S) == 0
