"""What jobs do. Rules of this file: a payload alone says how long its job runs and what comes of it.

So whoever knows the payload knows the right answer, and a worker needs no memory of its own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import msgpack

from cluster.jobs import End, Failure, Outcome, Rules, Spec
from tests.simulation.plans import Plan

ECHO, LARGE, RAISE, POISON, FLAKY, SNOOZER, QUITTER, HOG = range(8)
"""``POISON`` kills every worker that runs it, and ``HOG`` takes more memory than it may."""

ENDLESS_PER_SLOT = 3
"""Jobs of half a minute that one client hands in at most, or a small world would work on them when it is to be over."""

GRACES_S = (0.1, 1.0)
HOGGED = 1 << 30
"""Bytes of a hog; others take a thousandth."""

OLD = "it has rules unknown here"
"""What a node of an earlier release says of jobs with budgets."""

LABEL = ("gpu", "yes")
"""What some functions demand of a node."""

OFFERS = {"cpus": 2.0, "memory_bytes": 2.5 * HOGGED, "licence": 1.0, "gpus": 2.0}
"""What a node has to share out,"""
GPUS = ("3", "GPU-5")
"""...and its graphics processors by their ids."""

ECHOED = b"echo"
"""How small results begin."""

LARGE_BYTES = 512
"""Above, code travels as a blob; blobs are a few chunks of ``scale.SIZES``."""


@dataclass(frozen=True, slots=True)
class Work:
    """One job as its user sees it."""

    spec: bytes
    code: bytes
    """Pickled function where it goes by value."""
    payload: bytes
    large: bool
    """Whether the payload travels as a blob."""
    key: str = ""
    """Under which it is handed in."""
    delay_s: float = 0.0
    block: bool = True
    """Whether it waits where the coordinator takes nothing."""

    @property
    def picky(self) -> bool:
        """Whether it demands a label."""
        return bool(Spec.decode(self.spec).labels)

    @property
    def durable(self) -> bool:
        return Spec.decode(self.spec).durable

    @property
    def rules(self) -> Rules:
        return Spec.decode(self.spec).rules


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def noise(word: str, size: int) -> bytes:
    """Always the same bytes for the same word, without pieces that repeat."""
    out = bytearray()
    while len(out) < size:
        out += sha(f"{word} {len(out)}".encode())
    return bytes(out[:size])


class Workload:
    """Draws jobs as the plan has them."""

    def __init__(self, plan: Plan, chance: Random) -> None:
        self._plan = plan
        self._chance = chance
        self._drawn = self._endless = 0
        self._functions = [self._function(n) for n in range(8)]

    def _function(self, number: int) -> tuple[bytes, bytes, float]:
        chance = self._chance
        mean_s = (0.0001, 0.0005, 0.002, 0.01, 0.05, 0.2)[number % 6] * chance.uniform(0.5, 2)
        labels = (LABEL,) if chance.random() < self._plan.scarce else ()
        durable = chance.random() < self._plan.durable
        rules = Rules(at_most_once=durable and chance.random() < self._plan.once)
        if chance.random() < self._plan.ruled:
            rules = replace(
                rules,
                retries=0 if rules.at_most_once else chance.randint(0, 3),
                retry_delay_s=chance.choice((0.0, 0.05, 0.5)),
                queue=chance.choice(("default", "other", "capped")),
                fair_key=chance.choice(("", "a", "b")),
                priority=chance.choice((0, 0, 1, -3)),
                expires_s=chance.choice((0.0, 0.0, 0.3, 3.0)),
                after_failure=chance.choice(("fail", "run")),
            )
        plan = self._plan
        if plan.timeouts and chance.random() < plan.timeouts:
            rules = replace(rules, timeout_s=chance.choice((0.3, 1.0)), grace_s=chance.choice(GRACES_S))
        if plan.memory and chance.random() < plan.memory:
            rules = replace(rules, memory_bytes=HOGGED // 2)
        if plan.claims and chance.random() < plan.claims:
            rules = replace(
                rules,
                cpus=chance.choice((0.0, 0.3, 1.0, 2.0)),
                gpus=chance.choice((0.0, 0.0, 0.4, 0.6, 0.8, 1.0, 2.0)),
                resources=chance.choice(((), (), (("licence", 1),))),
                anti_affinity=chance.choice(("", "", "a", "b")),
                prefer=chance.choice(((), (LABEL,), (("node", "node0"),))),
            )
        if plan.ends:
            rules = replace(rules, grace_s=chance.choice(GRACES_S))
        if chance.random() < self._plan.budgets:
            rules = replace(rules, crash_retries=chance.randint(0, 3), memory_retries=chance.choice((0, 2)))
        if chance.random() >= self._plan.by_value:
            spec = Spec(f"user:f{number}", False, b"f%d" % number, labels=labels, durable=durable, rules=rules)
            return spec.encode(), b"", mean_s
        size = LARGE_BYTES // 2 if number % 2 else chance.randint(LARGE_BYTES + 1, 5 * 1024)
        code = noise(f"code {number}", size)
        spec = Spec(f"user:f{number}", True, sha(code), len(code), labels=labels, durable=durable, rules=rules)
        return spec.encode(), code, mean_s

    def burst(self, count: int) -> list[Work]:
        """Jobs of one call of ``map``, or of several functions mixed."""
        chance = self._chance
        one = chance.choice(self._functions)
        mixed = chance.random() < 0.3
        return [self._job(*(chance.choice(self._functions) if mixed else one)) for _ in range(count)]

    def _job(self, spec: bytes, code: bytes, mean_s: float) -> Work:
        chance, plan = self._chance, self._plan
        self._drawn += 1
        seconds = chance.expovariate(1 / mean_s)
        if chance.random() < plan.long:
            seconds = 10 ** chance.uniform(0, 1.2)
        if chance.random() < plan.endless:
            half_a_minute = chance.uniform(20, 40)
            self._endless += 1
            if self._endless <= ENDLESS_PER_SLOT * plan.nodes * plan.slots:
                seconds = half_a_minute
        what = RAISE if chance.random() < plan.raises else LARGE if chance.random() < plan.large_result else ECHO
        result = chance.randint(1, 3) if chance.random() < plan.shared else 1000 + self._drawn
        large = chance.random() < plan.large
        number = self._drawn
        if large and chance.random() < plan.shared:
            number = -chance.randint(1, 3)
            seconds, what = 0.01, LARGE if number == -1 else ECHO
            result = 1
        if chance.random() < plan.poison:
            what = POISON
        if chance.random() < plan.moody:
            what = chance.choice((FLAKY, SNOOZER, QUITTER))
        key = ""
        if chance.random() < plan.keys:
            place = chance.randint(1, 4)
            key = f"{Spec.decode(spec).name} {place}"
            number, seconds, what, result, large = -1000 - place, 0.05, ECHO, 1, False
        rules = Spec.decode(spec).rules if plan.timeouts or plan.memory else Rules()
        if rules.timeout_s and not key:
            seconds = rules.timeout_s + chance.uniform(1, 3) if chance.random() < 0.3 else min(seconds, 0.1)
        if rules.memory_bytes and not key and chance.random() < 0.3:
            what, seconds = HOG, max(seconds, 1.0)
        saves = int(bool(plan.saves) and chance.random() < plan.saves and not key)
        delay_s = chance.uniform(0.01, 2) if chance.random() < plan.delays else 0.0
        block = chance.random() >= plan.impatient
        head: bytes = msgpack.packb([number, int(seconds * 1e6), what, result, *([saves] if saves else [])])
        size = len(head)
        if large:
            size = Random(f"size {number}").choice((300, 1024, 2048, 9_000, 40_000))
        payload = head + noise(f"payload {number}", size - len(head))
        return Work(spec, code, payload, large, key, delay_s, block)


def seconds_of(payload: bytes) -> float:
    return float(_head(payload)[1]) / 1e6


def saves(payload: bytes) -> bool:
    """Whether it saves a state in each attempt."""
    return len(_head(payload)) > 4


def is_stubborn(payload: bytes) -> bool:
    """Whether it takes no notice of an interruption."""
    return bool(_head(payload)[0] % 3 == 0)


def memory_of(payload: bytes) -> int:
    return HOGGED if _head(payload)[2] == HOG else HOGGED // 1000


def is_poison(payload: bytes) -> bool:
    return bool(_head(payload)[2] == POISON)


def outcome_of(payload: bytes, code: bytes) -> tuple[Outcome, bytes, bool]:
    """How a job of this payload and function ends by itself: outcome, bytes, whether they are a blob."""
    number, _, what, result = _head(payload)[:4]
    if what == RAISE:
        return Outcome.FAILED, Failure("ValueError", f"no luck with {number}").encode(), False
    if what == QUITTER:
        return Outcome.FAILED, Failure("GiveUp", "it is of no use").encode(), False
    if what == LARGE:
        size = Random(f"result {result}").choice((200, 1024, 5_000, 30_000))
        return Outcome.SUCCEEDED, noise(f"result {result}", size), True
    return Outcome.SUCCEEDED, ECHOED + sha(payload + code) + payload[:32], False


def wish_of(payload: bytes, attempt: int) -> tuple[End, bytes] | None:
    """How this attempt ends if it is not the job's last one by itself."""
    number, _, what = _head(payload)[:3]
    if what == QUITTER:
        return End.GIVE_UP, outcome_of(payload, b"")[1]
    if attempt > 1 + abs(number) % 3:
        return None
    if what == FLAKY:
        return End.RAISED, Failure("ValueError", f"no luck with {number}", bases=("ValueError", "Exception")).encode()
    if what == SNOOZER:
        return End.SNOOZE, Failure("Snooze", "not yet", delay_s=0.05 * (1 + abs(number) % 5)).encode()
    return None


def signed(data: bytes, token: int) -> bytes:
    """A small result tells which attempt it is of."""
    return data + token.to_bytes(8, "big") if data.startswith(ECHOED) else data


def unsigned(data: bytes) -> tuple[bytes, int]:
    """The result and its attempt's token; 0 where it says none."""
    return (data[:-8], int.from_bytes(data[-8:], "big")) if data.startswith(ECHOED) else (data, 0)


def _head(payload: bytes) -> list[Any]:
    unpacker = msgpack.Unpacker()
    unpacker.feed(payload[:64])
    head: list[Any] = unpacker.unpack()
    return head
