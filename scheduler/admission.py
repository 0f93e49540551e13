"""Whether new jobs are taken, and who was told that they are not. Rules of this file: a pure book.

What is full pushes back: a session whose submission finds no room is told so (``Hold``), keeps what was not taken, and
hands it in again when it is told that there is room (``GoOn``). What it had sent before it knew of that does not count,
or of two submissions the later one would be taken alone.
"""

from __future__ import annotations

from cluster.config import CoordinatorLimits
from scheduler.clients import Client
from scheduler.lifecycle import Job

ROOM = 0.95
"""Share of a limit below which there is room again, so that it is not said job by job."""


class Admission:
    def __init__(self, limits: CoordinatorLimits) -> None:
        self._limits = limits
        self.jobs = 0
        """Unfinished."""
        self.bytes = 0
        """Of their payloads, wherever these are."""
        self.volatile_bytes = 0
        """Of those that are in memory alone, and of what running jobs have saved, which is there too."""
        self.disk_full = ""
        """Why nothing can be kept for now."""
        self.held: dict[Client, None] = {}
        """Who was told to wait."""

    def taken(self, *jobs: Job) -> None:
        self.jobs += len(jobs)
        for job in jobs:
            self.bytes += job.size
            if not job.record.spec.durable:
                self.volatile_bytes += job.size

    def saved(self, job: Job, state: bytes) -> None:
        """It keeps this for its next attempt. That takes room as arguments do."""
        more = len(state) - len(job.saved)
        job.saved = state
        self.bytes += more
        self.volatile_bytes += more

    def ended(self, job: Job) -> None:
        if job.saved:
            self.saved(job, b"")
        self.jobs -= 1
        self.bytes -= job.size
        if not job.record.spec.durable:
            self.volatile_bytes -= job.size

    def full(self, share: float = 1.0) -> str:
        """Why no job can be taken, with the figure; empty if one can. ``share``: of the limits."""
        limits = self._limits
        if self.disk_full:
            return self.disk_full
        if self.jobs >= limits.max_jobs * share:
            return f"the queue is full: {self.jobs} unfinished jobs (max_jobs {limits.max_jobs})"
        if self.bytes > limits.max_job_bytes * share:
            return f"the queue is full: {self.bytes} bytes of arguments (max_job_bytes {limits.max_job_bytes})"
        if self.volatile_bytes > limits.payload_memory_bytes * share:
            return (
                f"memory is full: {self.volatile_bytes} bytes of arguments that are not durable and of saved states"
                f" (payload_memory_bytes {limits.payload_memory_bytes})"
            )
        return ""

    def near(self, jobs: int, size: int) -> bool:
        """Whether a limit may be met within so many more jobs, with so many bytes of arguments in all."""
        limits = self._limits
        return bool(
            self.disk_full
            or self.jobs + jobs > limits.max_jobs
            or self.bytes + size > limits.max_job_bytes
            or self.volatile_bytes + size > limits.payload_memory_bytes
        )

    def go_on(self) -> list[Client]:
        """Those who may hand in again, if there is room."""
        if not self.held or self.full(ROOM):
            return []
        held, self.held = self.held, {}
        return list(held)
