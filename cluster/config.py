"""Limits and times, each with its reason. Rules of this file: numbers only; shells read the environment.

Every bound of the system that has no better home stands here, so that one page tells what is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass

PROTOCOL = 1
"""Version of the wire; peers of another are refused in words."""

# -- sizes -------------------------------------------------------------------------------------------

INLINE_BYTES = 64 * 1024
"""Payloads and results up to this travel inside messages; larger ones as chunks of their own."""

CHUNK_BYTES = 256 * 1024
"""One chunk: large enough to be cheap, small enough that a heartbeat behind it is not late."""

CHUNKS_IN_FLIGHT = 16
"""Chunks of one blob sent ahead of the receiver's word: 4 MiB hide a round trip of some ms at 1 GB/s."""

BLOBS_IN_FLIGHT = 4
"""Blobs one session sends at the same time, which bounds its chunks under way to 16 MiB."""

MAX_BLOB_BYTES = 1 << 30
"""Largest payload or result unless set otherwise."""

BATCH_BYTES = 512 * 1024
"""A message of many jobs is closed when its payloads reach this."""

MAX_BATCH = 5_000
"""Rows in one message, so that no message takes a turn of its own to handle."""

MAX_HELD = 100_000
"""Rows of any column. A node's hello names all it holds: half of this may be placed on it, the rest be owed."""

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""No frame of ours reaches this; a larger one is cut by the socket before it is buffered."""

SUMMARY_CHARS = 200
"""Bound of any text made for people out of a user's values."""

MAX_SUMMARY_CHARS = 1_000
"""Bound of one that the user gives himself."""

FAILURE_CHARS = 16 * 1024
"""Bound of an error's text and of its traceback, each; longer ones are cut in the middle, and say so."""

# -- times -------------------------------------------------------------------------------------------

ACK_DELAY_S = 0.02
"""An acknowledgement waits so long for a message to ride on."""

ACCEPT_DELAY_S = 0.005
"""The word that jobs are accepted waits so long for their results to ride with."""

ACK_EVERY = 16
"""...and no longer than so many messages."""

HELLO_RETRY_S = 0.25
HELLO_RETRY_MAX_S = 2.0
"""A hello without an answer is sent again, doubling between these."""

SILENCE_WORD_S = 2.0
"""People are told of the coordinator's silence after this, or two heartbeats if that is longer: once, and never
of a shorter one."""

LEASE_MARGIN = 0.02
"""Share of a lease that a node does not use, since no two clocks run alike."""

WAIT_WORD_S = 5.0
"""A client is told why its jobs wait after this, if no node there is can take them."""

HASTY_LINKS, LINK_HOLDS_S, LINK_PAUSE_S = 4, 1.0, 0.02
"""After so many links in a row that did not hold so long, the next hello waits; the wait doubles up to
``HELLO_RETRY_MAX_S``. Else a message that the other side cannot read would go to and fro as fast as it can."""


@dataclass(frozen=True, slots=True)
class Times:
    """Times both sides share; the coordinator's are sent to everyone who joins. All in seconds."""

    heartbeat_s: float = 1.0
    """Agents and waiting clients show themselves this often."""
    suspect_s: float = 3.5
    """Silence after which a peer gets nothing new: three heartbeats and a half."""
    lease_s: float = 10.0
    """Silence after which a node's attempts are ended and their jobs queued again."""
    gone_s: float = 3.0
    """The same where the connection is known to be closed, as after a crash of the agent."""
    session_s: float = 600.0
    """How long results wait in memory for a client that is away."""


@dataclass(frozen=True, slots=True)
class ClientLimits:
    max_unacknowledged_jobs: int = 20_000
    """Jobs handed in and not yet accepted; ``submit`` waits past this."""
    max_unacknowledged_bytes: int = 64 * 1024 * 1024
    """The same in bytes. One larger payload alone may pass."""
    max_blob_bytes: int = MAX_BLOB_BYTES
    reconnect_timeout_s: float = 60.0
    """Silence of the coordinator after which the futures fail with ``CoordinatorUnreachable``."""


@dataclass(frozen=True, slots=True)
class CoordinatorLimits:
    max_jobs: int = 2_000_000
    """Unfinished jobs; above, submissions wait, or are refused where they must not."""
    max_job_bytes: int = 64 * 1024**3
    """Inline payload bytes of unfinished jobs, most of them on the disk; above, the same."""
    payload_memory_bytes: int = 512 * 1024**2
    """...and of those in memory; above, durable ones are read again before their turn, and others have to wait."""
    max_sessions: int = 10_000
    max_nodes: int = 10_000
    max_owed_bytes: int = 1024**3
    """Results waiting in memory for clients; above, the longest absent client is forgotten."""
    results_in_flight: int = 64
    """Messages of results one client may leave unacknowledged."""
    prefill_s: float = 0.005
    """Work placed on a slot beyond what it runs, by the observed run time of the function."""
    prefill_max: int = 512
    """...and never more jobs a slot than this."""
    load_weight: float = 1.0
    """What others use of a node's processors counts as if that share of its slots, times this, were taken; 0: not."""
    lost_node_retries: int = 3
    """How often a job is queued again after its node was lost, before it is lost itself."""
    keep_outcomes_s: float = 7 * 86_400.0
    """Outcomes of durable jobs are kept so long,"""
    keep_outcomes: int = 1_000_000
    """...and no more of them than this: the oldest go first, and are ``ResultExpired`` from then on."""
    min_free_bytes: int = 256 * 1024**2
    """With less free on the store's disk, submissions wait; what is left lets outcomes still be written."""


@dataclass(frozen=True, slots=True)
class AgentLimits:
    max_blob_bytes: int = MAX_BLOB_BYTES
    give_s: float = 0.004
    """Work lying ready in a worker's pipe, by expected run time, so that it never waits for the agent."""
    give_max: int = 256
    stuck_s: float = 0.02
    """A worker silent so long with work behind its attempt loses that work to its neighbours."""
    started_after_s: float = 0.05
    """An attempt running so long is reported as started; a shorter one reports by its result."""
    cached_blobs: int = 512
    """Functions and payloads kept on disk for the next job that names them,"""
    cached_bytes: int = 256 * 1024 * 1024
    """...and their bytes."""
    spawn_retry_s: float = 1.0
    """Pause before a worker that would not start is tried again; doubles up to 30 s."""
    start_within_s: float = 60.0
    """A worker that is not ready after this, with all that it imports and initialises, is killed and tried again."""
    interrupt_every_s: float = 0.1
    """A job that shall end is interrupted again and again, since it may not have noticed."""
    look_every_s: float = 0.1
    """Memory and processes of a job with limits are looked at so often, where no control group holds them."""
    max_jobs_per_worker: int = 0
    """A worker is replaced after so many jobs; 0: never,"""
    max_worker_age_s: float = 86_400.0
    """...or at this age,"""
    max_left_bytes: int = 1024**3
    """...or when so much more memory than at its start stays with it between jobs."""
    idle_s: float = 600.0
    """A worker without work for so long is let go, and comes back on demand,"""
    min_workers: int = 1
    """...but for so many."""
