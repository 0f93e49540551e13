"""Every error a user can meet. Rules of this file: names, meaning and what to do; no imports of ours.

``ClusterError`` is the root. Errors of one job (``JobError``) arrive in that job's future and nowhere else;
the others are raised where the mistake was made. What is raised *in* a job is of two kinds: words of its own to the
cluster (``Retry``, ``Snooze``, ``GiveUp``), and interruptions that it is not to swallow (``Interrupted``).
"""

from __future__ import annotations

import concurrent.futures
from datetime import timedelta


class ClusterError(Exception):
    """Root of everything this package raises by itself."""


# --------------------------------------------------------------------------- setting up


class ConfigError(ClusterError):
    """A setting, a connection file or a directory is not as it has to be; the text says what to do."""


class NoConnection(ConfigError):
    """No connection file was given or found."""


class Refused(ClusterError):
    """The coordinator does not let this peer in: key, role, version or name. The text says which."""


class CoordinatorUnreachable(ClusterError):
    """The coordinator was not heard for ``reconnect_timeout_s``. ``job_ids`` are those left open."""

    def __init__(self, text: str, job_ids: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.job_ids = job_ids


# --------------------------------------------------------------------------- using a client


class BadJobId(ClusterError, ValueError):
    """Not the text of a job id."""


class UnknownOption(ClusterError, TypeError):
    """``client.options`` has no such option; the text names the nearest."""


class BadTrigger(ClusterError, ValueError):
    """No trigger can be made of this: ``field`` is the part that is wrong, ``reason`` says why."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}"


class Full(ClusterError):
    """The bound on unacknowledged work is reached and this thread must not wait."""


class ClientClosed(ClusterError, RuntimeError):
    """The client was shut down, or belongs to the process this one was forked from."""


class NotRunAgain(ClusterError):
    """Of the jobs that were to be run again, some cannot be. ``made`` has the ids of the new jobs of the others, and
    ``refused`` the reasons, both by the ids of the old ones."""

    def __init__(self, made: dict[str, str], refused: dict[str, str]) -> None:
        job, why = next(iter(refused.items()))
        super().__init__(f"{len(refused)} of {len(made) + len(refused)} jobs cannot be run again; {job}: {why}")
        self.made = made
        self.refused = refused

    def __reduce__(self) -> tuple[type[NotRunAgain], tuple[dict[str, str], dict[str, str]]]:
        return type(self), (self.made, self.refused)


# --------------------------------------------------------------------------- raised by a job, about itself


class Retry(ClusterError):
    """Raised by a job: run me again, after ``delay_s`` seconds or a ``timedelta``; without it after the pause that its
    options say. It counts as one of the job's ``retries``, and is its error when these are spent."""

    def __init__(self, text: str = "it asked to be run again", *, delay_s: float | timedelta | None = None) -> None:
        super().__init__(text)
        self.delay_s = delay_s.total_seconds() if isinstance(delay_s, timedelta) else delay_s


class Snooze(ClusterError):
    """Raised by a job: not yet; run me again after ``delay_s`` seconds or a ``timedelta``. It costs no retry."""

    def __init__(self, delay_s: float | timedelta, text: str = "it asked for a pause") -> None:
        super().__init__(text)
        self.delay_s = delay_s.total_seconds() if isinstance(delay_s, timedelta) else delay_s


class GiveUp(ClusterError):
    """Raised by a job: it is of no use to run me again, whatever ``retries`` are left."""


# --------------------------------------------------------------------------- what became of one job


class JobError(ClusterError):
    """A job did not succeed for a reason other than an exception of its own function."""


class SerializationError(JobError, TypeError):
    """A function, argument, result or exception cannot be pickled or unpickled; the text says which."""


class TooLarge(JobError, ValueError):
    """A payload or result is above the limit, which the text names."""


class WorkerCrashed(JobError):
    """The worker process died under the job; the text says how (signal, exit code)."""


class JobExited(JobError):
    """The job ended its process on purpose: ``sys.exit`` or ``KeyboardInterrupt``."""


class CommandFailed(JobError):
    """A command that was run as a job did not end with exit code 0."""

    def __init__(self, text: str, exit_code: int = 1, output: str = "") -> None:
        super().__init__(text, exit_code, output)
        self.exit_code = exit_code
        """As a shell has it: 128 and the signal's number for one that was killed."""
        self.output = output
        """What it wrote: the first and the last of it."""

    def __str__(self) -> str:
        return str(self.args[0])


class JobLost(JobError):
    """The cluster no longer knows the job, or gave up on it after losing its node too often."""


class ResultExpired(JobError):
    """The job is done, and what became of it is not kept any more."""


class UnknownJob(JobError):
    """No job of that id is known here, or it is none of this key's business."""


class JobRefused(JobError):
    """The coordinator did not take the job; the text says why."""


class JobExpired(JobError):
    """The job had not begun within its ``expires_s``."""


class DependencyFailed(JobError):
    """A job that this one was to run after did not succeed; the text names it."""


class KeyConflict(JobError):
    """The job's ``key`` belongs to another job that asks for something else; the text names it. It did not run."""


class RemoteError(JobError):
    """The job raised an exception whose class cannot be rebuilt here.

    ``type_name`` is its class, ``remote_traceback`` the text of its traceback.
    """

    def __init__(self, text: str, type_name: str = "", remote_traceback: str = "") -> None:
        super().__init__(text)
        self.type_name = type_name
        self.remote_traceback = remote_traceback


class RemoteTraceback(Exception):
    """Cause of an exception that came from a worker: prints as the traceback seen there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


class Cancelled(JobError, concurrent.futures.CancelledError):
    """The job was cancelled."""


class JobTimeout(JobError):
    """The job ran longer than its own ``timeout_s``. Not the ``TimeoutError`` of ``future.result``."""


# --------------------------------------------------------------------------- raised in a job, by the cluster


class Interrupted(BaseException):
    """The job is to end now. It is no ``Exception``, so that a job does not swallow it by accident."""


class JobCancelled(Interrupted):
    """The job was cancelled while it ran."""


class SoftTimeout(Interrupted):
    """The job has run for its ``timeout_s``; after ``grace_s`` more its processes are killed."""


JOB_ERRORS: dict[str, type[JobError]] = {
    c.__name__: c
    for c in (
        SerializationError,
        TooLarge,
        WorkerCrashed,
        JobExited,
        JobLost,
        ResultExpired,
        UnknownJob,
        JobRefused,
        JobExpired,
        DependencyFailed,
        KeyConflict,
        Cancelled,
        JobTimeout,
    )
}
"""Errors of ours that may travel by name in a job's failure."""
