"""Ganger's front door: ``from cluster import Client, LocalCluster``.

Names are loaded when they are first used, so that a worker that imports ``cluster.payload`` gets no socket.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.client import Client
    from cluster.config import ClientLimits
    from cluster.errors import (
        BadJobId,
        BadTrigger,
        Cancelled,
        ClientClosed,
        ClusterError,
        CommandFailed,
        ConfigError,
        CoordinatorUnreachable,
        DependencyFailed,
        Full,
        GiveUp,
        Interrupted,
        JobCancelled,
        JobError,
        JobExited,
        JobExpired,
        JobLost,
        JobRefused,
        JobTimeout,
        KeyConflict,
        NoConnection,
        NotRunAgain,
        Refused,
        RemoteError,
        RemoteTraceback,
        ResultExpired,
        Retry,
        SerializationError,
        Snooze,
        SoftTimeout,
        TooLarge,
        UnknownJob,
        UnknownOption,
        WorkerCrashed,
    )
    from cluster.futures import Future
    from cluster.job_context import CurrentJob, current_job, shield
    from cluster.jobs import Outcome
    from cluster.local import LocalCluster
    from cluster.options import Options, Webhook
    from cluster.schedules import Schedule
    from cluster.triggers import Trigger, at, cron, every, holidays

__all__ = [
    "BadJobId",
    "BadTrigger",
    "Cancelled",
    "Client",
    "ClientClosed",
    "ClientLimits",
    "ClusterError",
    "CommandFailed",
    "ConfigError",
    "CoordinatorUnreachable",
    "CurrentJob",
    "DependencyFailed",
    "Full",
    "Future",
    "GiveUp",
    "Interrupted",
    "JobCancelled",
    "JobError",
    "JobExited",
    "JobExpired",
    "JobLost",
    "JobRefused",
    "JobTimeout",
    "KeyConflict",
    "LocalCluster",
    "NoConnection",
    "NotRunAgain",
    "Options",
    "Outcome",
    "Refused",
    "RemoteError",
    "RemoteTraceback",
    "ResultExpired",
    "Retry",
    "Schedule",
    "SerializationError",
    "Snooze",
    "SoftTimeout",
    "TooLarge",
    "Trigger",
    "UnknownJob",
    "UnknownOption",
    "Webhook",
    "WorkerCrashed",
    "at",
    "cron",
    "current_job",
    "every",
    "holidays",
    "shield",
]

_HOMES = {
    "CurrentJob": "cluster.job_context",
    "shield": "cluster.job_context",
    "current_job": "cluster.job_context",
    "Client": "cluster.client",
    "Future": "cluster.futures",
    "Options": "cluster.options",
    "Webhook": "cluster.options",
    "ClientLimits": "cluster.config",
    "LocalCluster": "cluster.local",
    "Outcome": "cluster.jobs",
    "Schedule": "cluster.schedules",
    "Trigger": "cluster.triggers",
    "at": "cluster.triggers",
    "cron": "cluster.triggers",
    "every": "cluster.triggers",
    "holidays": "cluster.triggers",
}
"""Where a name lives, if not with the errors."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES.get(name, "cluster.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
