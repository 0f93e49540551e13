"""The standing orders: when each schedule fires, and what becomes of each of its times. Rules of this room: pure.

``schedule`` is what a user wants, ``fired`` the times that must not fire again, ``past`` what became of the last ones,
``standing`` all that is known of one schedule, ``values`` what is said; ``book`` decides. Nothing here reads a clock,
knows a job queue or a client: it is told moments and ends of jobs, and says what shall be fired, skipped or stopped,
and which rows change.
"""

from scheduler.schedules.book import Schedules
from scheduler.schedules.past import Kind, Reason, Run
from scheduler.schedules.schedule import CatchUp, Overlap, Schedule
from scheduler.schedules.values import (
    Decision,
    Fire,
    Key,
    Rows,
    Skip,
    Stop,
    Upserted,
    View,
)
from scheduler.store import FiringRow, ScheduleRow, StandingRow

__all__ = [
    "CatchUp",
    "Decision",
    "Fire",
    "FiringRow",
    "Key",
    "Kind",
    "Overlap",
    "Reason",
    "Rows",
    "Run",
    "Schedule",
    "ScheduleRow",
    "Schedules",
    "Skip",
    "StandingRow",
    "Stop",
    "Upserted",
    "View",
]
