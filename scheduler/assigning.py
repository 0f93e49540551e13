"""Assignments of one turn for one node, on their way into messages. Rules of this file: a pure book.

What jobs share is in a message once, and a function's code goes to a node once a link.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgpack

from cluster.config import BATCH_BYTES, MAX_BATCH
from cluster.jobs import NOTHING_SPECIAL
from cluster.messages import Assign
from scheduler.functions import Record
from scheduler.lifecycle import Job


@dataclass(slots=True)
class Batch:
    specs: dict[int, int] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    spec_of: list[int] = field(default_factory=list)
    size: int = 0

    def add(self, job: Job) -> None:
        record = job.record
        index = self.specs.get(id(record))
        if index is None:
            index = self.specs[id(record)] = len(self.records)
            self.records.append(record)
            self.size += len(record.raw) + len(record.code)
        self.spec_of.append(index)
        self.jobs.append(job)
        self.size += len(job.payload) + len(job.saved)

    @property
    def full(self) -> bool:
        return self.size >= BATCH_BYTES or len(self.jobs) >= MAX_BATCH

    def message(self, sent_code: set[bytes]) -> Assign:
        """The message for a node that has been sent ``sent_code`` on its link, which is added to."""
        code = []
        for record in self.records:
            if record.spec.by_value and record.code and record.spec.code not in sent_code:
                sent_code.add(record.spec.code)
                code.append([record.spec.code, record.code])
        jobs = self.jobs
        return Assign(
            [r.raw for r in self.records],
            [int(r.time.mean_s * 1e6) for r in self.records],
            self.spec_of,
            [j.id for j in jobs],
            [j.attempt for j in jobs],
            [j.token for j in jobs],
            [j.payload for j in jobs],
            [[i, *j.large] for i, j in enumerate(jobs) if j.large is not None],
            code,
            [[i, _told(j)] for i, j in enumerate(jobs) if j.saved or j.about is not NOTHING_SPECIAL or j.record.told],
        )


def _told(job: Job) -> bytes:
    """What it may know of itself (``cluster.current_job``)."""
    said: dict[str, Any] = {**job.record.told}
    if job.about.key:
        said["key"] = job.about.key
    if job.about.schedule:
        said["schedule"], said["nominal_us"] = job.about.schedule, job.about.nominal_us
    if job.about.parent:
        said["parent"] = job.about.parent
    if job.about.root:
        said["root"] = job.about.root
    if job.saved:
        said["saved"] = job.saved
    return bytes(msgpack.packb(said)) if said else b""
