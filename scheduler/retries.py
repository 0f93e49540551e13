"""When a job is tried again. Rules of this file: pure policy; causes are counted apart."""

from __future__ import annotations

from scheduler.lifecycle import Job


def after_lost_node(job: Job, budget: int) -> bool:
    """Count one lost node against the job; whether it may be queued again."""
    job.lost_nodes += 1
    return job.lost_nodes <= budget
