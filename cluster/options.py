"""What ``client.options`` takes. Rules of this file: shell; names, checks and defaults, and how they travel.

A duration is a number of seconds or a ``timedelta``; it is kept as seconds. What jobs of one twin share goes into their
spec as ``Rules``, what concerns one job alone goes beside it as ``About``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from types import ModuleType
from typing import Any, Literal, Protocol, get_args

from cluster.config import MAX_SUMMARY_CHARS
from cluster.errors import UnknownOption
from cluster.ids import parse_job
from cluster.jobs import (
    AS_USUAL,
    FINGERPRINT_BYTES,
    LATEST,
    LEAST_AMOUNT,
    LONGEST_S,
    MOST_BYTES,
    MOST_CPUS,
    MOST_FILES,
    MOST_PARENTS,
    MOST_PRIORITY,
    MOST_RETRIES,
    MOST_WORDS,
    NOTHING_SPECIAL,
    RESOURCES,
    WORD_CHARS,
    About,
    Rules,
    in_devices,
)
from cluster.payload import by_value_names

Delivery = Literal["at_least_once", "at_most_once"]
Lifetime = Literal["durable", "client"]
AfterFailure = Literal["fail", "run"]
Isolation = Literal["process", "contained"]
ISOLATION = "isolation"
"""The label of nodes that have proved to be more than the usual; nobody can give it to one."""


class HasJobId(Protocol):
    """A future of a job."""

    @property
    def job_id(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Webhook:
    """A web server that is told what became of a job: a POST of its record as JSON, by a job of its own.

    With a ``secret`` it has a header ``Ganger-Signature``: ``t=<seconds>,v1=<hex>``, the HMAC-SHA256 of the seconds, a
    dot and the body.
    """

    url: str
    secret: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        _check_text("url", self.url, 2_000)
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"a webhook's url begins with http:// or https://, not {self.url[:40]!r}")
        if type(self.secret) is not str or len(self.secret) > 500:
            raise ValueError("secret is a text of up to 500 characters")


HOOKS = ("on_success", "on_failure", "on_dead")


@dataclass(frozen=True, slots=True)
class Options:
    """What ``client.options`` takes. Each concerns jobs submitted through that twin and no others."""

    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels a node must have to run the job."""
    isolation: Isolation = "process"
    """``contained``: only on nodes that have proved that their jobs are closed in."""
    prefer: Mapping[str, str] = field(default_factory=dict)
    """Labels a node should have: of the nodes with a free slot those with most of them. It keeps no job waiting."""
    anti_affinity: str | None = None
    """A key: no two jobs under one have the same node at the same time."""
    name: str | None = None
    """The name people see; the function's own unless given."""
    block: bool = True
    """Whether ``submit`` waits when too much is unacknowledged; otherwise it raises :class:`errors.Full`."""
    durable: bool = True
    """Whether the job outlives the coordinator: it and its outcome are on its disk before anybody hears of them.
    Without it a job is quicker, and lost if the coordinator is restarted."""
    delivery: Delivery = "at_least_once"
    """``at_most_once``: it never starts twice, and is lost where nobody can tell whether it has started. It must be
    durable, and is never run again."""
    retries: int = AS_USUAL.retries
    """How often it runs again after its function raised or ran too long (0 to 100)."""
    retry_on: Iterable[type[BaseException] | str] = ()
    """Only after these exceptions, and those derived from them; given as classes or names. Empty: after any."""
    give_up_on: Iterable[type[BaseException] | str] = ()
    """Never after these."""
    retry_delay_s: float | timedelta = AS_USUAL.retry_delay_s
    """Pause before the first retry,"""
    backoff: float = AS_USUAL.backoff
    """...which each further one has this many times over,"""
    retry_max_delay_s: float | timedelta = AS_USUAL.retry_max_delay_s
    """...up to this."""
    jitter: float = AS_USUAL.jitter
    """Share of each pause that is left to chance (0 to 1), so that what failed together does not return together."""
    crash_retries: int = AS_USUAL.crash_retries
    """How often it runs again after its worker died under it (0 to 100),"""
    memory_retries: int = AS_USUAL.memory_retries
    """...and after that happened because memory ran out."""
    timeout_s: float | timedelta | None = None
    """How long one attempt may run before ``SoftTimeout`` is raised in it,"""
    grace_s: float | timedelta = AS_USUAL.grace_s
    """...and how long it may unwind then, or when it is cancelled, before it is killed with all its processes."""
    memory_bytes: int | None = None
    """Memory it may take with all its processes, beyond what its worker had; its node must have so much free."""
    cpus: float | None = None
    """Processors it may use with all its processes, in parts too; its node must have so many free."""
    gpus: float | None = None
    """Graphics processors its node must have free, and the only ones it sees: whole ones, or a part of one."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """The same of what nodes offer under names of your own (``cluster node --resource licence=2``)."""
    open_files: int | None = None
    """Descriptors each of its processes may have open."""
    processes: int | None = None
    """Processes and threads it may have, its worker's among them."""
    delay_s: float | timedelta = 0.0
    """Not before this time has passed since the coordinator took it,"""
    at: datetime | None = None
    """...or not before this moment, which has a time zone."""
    expires_s: float | timedelta | None = None
    """Time within which it must have begun, else it has ``expired``. What runs again has begun."""
    priority: int = AS_USUAL.priority
    """Higher goes first in its queue (-10 to 10). A step is worth 30 s of waiting, so nothing waits for ever."""
    queue: str = AS_USUAL.queue
    """Name of the queue it waits in."""
    fair_key: str = AS_USUAL.fair_key
    """Tenant it belongs to: those with jobs ready in a queue take turns."""
    key: str | None = None
    """Idempotency key: as long as it is taken, whoever submits under it gets the outcome of the same job."""
    fingerprint: str | bytes | None = None
    """What two submissions under one key must have in common, instead of the name of their function."""
    key_ttl_s: float | timedelta = AS_USUAL.key_ttl_s
    """How long the key is taken after its job has ended (not at all if that is not durable)."""
    after: Iterable[HasJobId | str] = ()
    """Futures or ids of jobs that must have succeeded before it may run."""
    after_failure: AfterFailure = "fail"
    """What becomes of it where one of them did not: ``fail``, or ``run`` all the same."""
    tags: Iterable[str] = ()
    """Words people find it by."""
    result_ttl_s: float | timedelta | None = None
    """How long its result is kept at most."""
    lifetime: Lifetime = "durable"
    """``client``: it is cancelled when its client's session ends, unless it runs by then."""
    on_success: Callable[..., Any] | Webhook | str | None = None
    """What is run when it has succeeded: a function, as a job of its own whose argument is the record of this one, or a
    :class:`Webhook`, or the URL of one;"""
    on_failure: Callable[..., Any] | Webhook | str | None = None
    """...when it has failed, expired or is lost;"""
    on_dead: Callable[..., Any] | Webhook | str | None = None
    """...when its budget is spent, and it is set aside as a dead letter."""
    summary: bool | str = True
    """What people see of its arguments: a short text made of them (names such as ``password`` and ``token`` hide
    theirs), none with ``False``, or this text."""
    by_value: Iterable[str | ModuleType] = ()
    """Modules, or their names, whose functions and classes travel with the job, for nodes that do not have them;
    their submodules too. They must be imported here, and be Python code. Kept as names."""

    def __post_init__(self) -> None:
        for name in ("labels", "prefer"):
            _check_labels(name, getattr(self, name))
        for name in ("name", "key", "anti_affinity"):
            if getattr(self, name) is not None:
                _check_text(name, getattr(self, name), 500 if name == "name" else WORD_CHARS)
        _check_text("queue", self.queue, WORD_CHARS)
        if self.fair_key:
            _check_text("fair_key", self.fair_key, WORD_CHARS)
        for name in ("block", "durable"):
            if type(getattr(self, name)) is not bool:
                raise TypeError(f"{name} is True or False, not {getattr(self, name)!r}")
        for name, choices in (
            ("delivery", Delivery),
            ("lifetime", Lifetime),
            ("after_failure", AfterFailure),
            ("isolation", Isolation),
        ):
            if getattr(self, name) not in get_args(choices):
                first, second = get_args(choices)
                raise ValueError(f"{name} is {first!r} or {second!r}, not {getattr(self, name)!r}")
        for name in ("crash_retries", "memory_retries", "retries"):
            _check_number(name, getattr(self, name), int, 0, MOST_RETRIES)
        _check_number("priority", self.priority, int, -MOST_PRIORITY, MOST_PRIORITY)
        _check_number("backoff", self.backoff, float, 1, 100)
        _check_number("jitter", self.jitter, float, 0, 1)
        for name in (
            "retry_delay_s",
            "retry_max_delay_s",
            "delay_s",
            "key_ttl_s",
            "expires_s",
            "result_ttl_s",
            "timeout_s",
            "grace_s",
        ):
            object.__setattr__(self, name, _seconds(name, getattr(self, name)))
        for name, least, most in (
            ("memory_bytes", 1, MOST_BYTES),
            ("open_files", 8, MOST_FILES),
            ("processes", 1, MOST_FILES),
        ):
            if getattr(self, name) is not None:
                _check_number(name, getattr(self, name), int, least, most)
        for name in ("cpus", "gpus"):
            if getattr(self, name) is not None:
                _check_number(name, getattr(self, name), float, 0.01, MOST_CPUS)
        if self.gpus is not None and not in_devices(self.gpus):
            raise ValueError(f"gpus is a part of one graphics processor or whole ones, not {self.gpus}")
        _check_resources(self.resources)
        self._check_moment()
        for name in HOOKS:
            value = getattr(self, name)
            if isinstance(value, str):
                object.__setattr__(self, name, Webhook(value))
            elif value is not None and not isinstance(value, Webhook) and not callable(value):
                raise TypeError(f"{name} is a function, a Webhook or a URL, not {type(value).__name__}")
        if self.summary not in (True, False):
            _check_text("summary", self.summary, MAX_SUMMARY_CHARS)
        fingerprint = self.fingerprint.encode() if isinstance(self.fingerprint, str) else self.fingerprint
        size = len(fingerprint) if type(fingerprint) is bytes else 0
        if fingerprint is not None and not 0 < size <= FINGERPRINT_BYTES:
            raise ValueError(f"fingerprint is text or bytes, 1 to {FINGERPRINT_BYTES} bytes of it")
        if fingerprint is not None and self.key is None:
            raise ValueError("fingerprint says what submissions under one key have in common: it needs key")
        if self.isolation == "contained" and self.labels.get(ISOLATION, "contained") != "contained":
            raise ValueError("isolation='contained' and the label 'isolation' contradict each other")
        if self.delivery == "at_most_once" and not self.durable:
            raise ValueError("delivery='at_most_once' needs durable=True: without it a restart could start it twice")
        if self.delivery == "at_most_once" and self.retries:
            raise ValueError("delivery='at_most_once' and retries contradict each other: a retry is another start")
        object.__setattr__(self, "fingerprint", fingerprint)
        for name in ("labels", "prefer", "resources"):
            object.__setattr__(self, name, dict(getattr(self, name)))
        object.__setattr__(self, "retry_on", _exceptions("retry_on", self.retry_on))
        object.__setattr__(self, "give_up_on", _exceptions("give_up_on", self.give_up_on))
        object.__setattr__(self, "tags", _words("tags", self.tags))
        object.__setattr__(self, "after", _job_ids(self.after))
        object.__setattr__(self, "by_value", by_value_names(self.by_value))

    def _check_moment(self) -> None:
        if self.at is None:
            return
        if not isinstance(self.at, datetime):
            raise TypeError(f"at is a datetime with a time zone, not {type(self.at).__name__}")
        if self.at.utcoffset() is None:
            raise ValueError("at needs a time zone, such as datetime.now(timezone.utc) has; or use delay_s")
        if not 0 <= self.at.timestamp() <= LATEST:
            raise ValueError(f"at is a moment between 1970 and 5138, not in {self.at.year}")
        if self.delay_s:
            raise ValueError("at and delay_s say the same thing twice: give one of them")

    @property
    def demanded(self) -> tuple[tuple[str, str], ...]:
        """Labels a node must have, with those that other options stand for."""
        also = {ISOLATION: "contained"} if self.isolation == "contained" else {}
        return tuple(sorted({**self.labels, **also}.items()))

    @property
    def rules(self) -> Rules:
        """What goes into the spec."""
        said = {f.name: getattr(self, f.name) for f in fields(Rules) if f.name in _OPTIONS and f.name not in HOOKS}
        said["at_most_once"] = self.delivery == "at_most_once"
        said["client_bound"] = self.lifetime == "client"
        said["expires_s"] = self.expires_s or 0.0
        for name in ("result_ttl_s", "timeout_s", "memory_bytes", "cpus", "gpus", "open_files", "processes"):
            said[name] = getattr(self, name) or 0
        said["resources"], said["prefer"] = tuple(sorted(self.resources.items())), tuple(sorted(self.prefer.items()))
        said["anti_affinity"] = self.anti_affinity or ""
        return Rules(**said)

    @property
    def about(self) -> About:
        """What concerns each job by itself."""
        if self.key is None and self.at is None and not self.delay_s and not self.after:
            return NOTHING_SPECIAL
        assert isinstance(self.delay_s, float) and isinstance(self.after, tuple)
        return About(
            at=0.0 if self.at is None else self.at.timestamp(),
            delay_s=self.delay_s,
            key=self.key or "",
            fingerprint=self.fingerprint if isinstance(self.fingerprint, bytes) else b"",
            after=self.after,
        )

    def changed(self, wanted: dict[str, Any]) -> Options:
        known = [f.name for f in fields(self)]
        for name in wanted:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1, 0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
                raise UnknownOption(f"no option is called {name!r}; {hint}")
        return replace(self, **wanted)


_OPTIONS = frozenset(f.name for f in fields(Options))


def _check_text(what: str, value: object, limit: int) -> None:
    if type(value) is not str:
        raise TypeError(f"{what} is a text, not {type(value).__name__}")
    if not 0 < len(value) <= limit:
        raise ValueError(f"{what} has 1 to {limit} characters, not {len(value)}")


def _check_labels(what: str, labels: object) -> None:
    if not isinstance(labels, Mapping):
        raise TypeError(f"{what} is a mapping of text to text, not {type(labels).__name__}")
    for pair in labels.items():
        for text in pair:
            _check_text("a label", text, WORD_CHARS if what == "prefer" else 256)
    if what == "prefer" and len(labels) > MOST_WORDS:
        raise ValueError(f"prefer takes up to {MOST_WORDS} labels, not {len(labels)}")


def _check_resources(resources: object) -> None:
    if not isinstance(resources, Mapping):
        raise TypeError(f"resources is a mapping of names to amounts, not {type(resources).__name__}")
    for name, amount in resources.items():
        _check_text("a resource", name, WORD_CHARS)
        if name in RESOURCES:
            raise ValueError(f"{name} is an option by itself: {name}={amount!r}")
        _check_number(f"resource {name}", amount, float, LEAST_AMOUNT, MOST_BYTES)
    if len(resources) > MOST_WORDS:
        raise ValueError(f"resources takes up to {MOST_WORDS} names, not {len(resources)}")


def _check_number(what: str, value: object, kind: type, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
        raise TypeError(f"{what} is {'an integer' if kind is int else 'a number'}, not {type(value).__name__}")
    if not least <= value <= most:
        raise ValueError(f"{what} is {least:g} to {most:g}, not {value}")


def _seconds(what: str, value: object) -> float | None:
    if value is None and what in ("expires_s", "result_ttl_s", "timeout_s"):
        return None
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{what} is a number of seconds or a timedelta, not {type(value).__name__}")
    least = 1e-3 if what in ("expires_s", "result_ttl_s", "timeout_s") else 0.0
    if not least <= value <= LONGEST_S:
        raise ValueError(f"{what} is {least:g} to {LONGEST_S:.0f} seconds, not {value}")
    return float(value)


def _listed(what: str, values: object, of: str) -> list[Any]:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError(f"{what} is a list of {of}, not {type(values).__name__}")
    return list(values)


def _words(what: str, values: object) -> tuple[str, ...]:
    words = tuple(dict.fromkeys(_listed(what, values, "texts")))
    for word in words:
        _check_text(f"each of {what}", word, WORD_CHARS)
    if len(words) > MOST_WORDS:
        raise ValueError(f"{what} takes up to {MOST_WORDS}, not {len(words)}")
    return words


def _exceptions(what: str, values: object) -> tuple[str, ...]:
    """Their names, as workers tell them."""
    if isinstance(values, type):
        raise TypeError(f"{what} is a list of exceptions: {what}=[{values.__name__}]")
    names = []
    for value in _listed(what, values, "exceptions"):
        if isinstance(value, type) and issubclass(value, BaseException):
            names.append(value.__name__)
        elif isinstance(value, str):
            names.append(value)
        else:
            raise TypeError(f"{what} lists classes of exceptions or their names, not {value!r}")
    return _words(what, names)


def _job_ids(values: object) -> tuple[bytes, ...]:
    ids: dict[bytes, None] = {}
    for value in _listed("after", values, "futures or job ids"):
        if isinstance(value, bytes) and len(value) == 16:  # of the options this is a change of
            ids[value] = None
            continue
        text = value if isinstance(value, str) else getattr(value, "job_id", value)
        if text is None:
            raise ValueError("after: one of the jobs was never handed in; its future says why")
        if not isinstance(text, str):
            raise TypeError(f"after lists futures of jobs or their ids, not {type(value).__name__}")
        ids[parse_job(text)] = None
    if len(ids) > MOST_PARENTS:
        raise ValueError(f"after takes up to {MOST_PARENTS} jobs, not {len(ids)}")
    return tuple(ids)
