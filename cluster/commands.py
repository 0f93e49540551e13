"""What all commands have in common: options, errors, and who they ask. Rules of this file: no command is here."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
from click.core import ParameterSource

from cluster.errors import ClusterError
from cluster.jobs import LONGEST_S, MOST_BYTES, WORD_CHARS

if TYPE_CHECKING:
    from cluster.client import Client

F = TypeVar("F", bound=Callable[..., Any])

# ------------------------------------------------------------------------------------ options and errors


def option(*names: str, **settings: Any) -> Callable[[F], F]:
    """``click.option`` that is also read from ``GANGER_`` and its long name."""
    long = next(n for n in names if n.startswith("--")).partition("/")[0]
    settings.setdefault("envvar", "GANGER_" + long.removeprefix("--").replace("-", "_").upper())
    settings.setdefault("show_envvar", not settings.get("hidden", False))
    return click.option(*names, **settings)


def _leave_to_keys(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """``find_connection`` reads the variable itself, and says in its errors that it was the variable."""
    given = parameter.name is not None and ctx.get_parameter_source(parameter.name)
    return None if given == ParameterSource.ENVIRONMENT else value


connection_option = option(
    "--connection",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    callback=_leave_to_keys,
    help="Connection file. Without it, that of the coordinator of this machine and user.",
)

json_option = option("--json", "as_json", is_flag=True, help="Print a JSON document.")


def log_level_option(default: str) -> Callable[[F], F]:
    levels = click.Choice(["debug", "info", "warning", "error"])
    return option("--log-level", type=levels, default=default, show_default=True, help="What is worth a log line.")


def metrics_options(command: F) -> F:
    """Where a process serves its metrics; the command gets them as ``metrics``."""

    @functools.wraps(command)
    def called(
        metrics_host: str,
        metrics_port: int | None,
        metrics_cert: Path | None,
        metrics_key: Path | None,
        metrics_token: Path | None,
        **others: Any,
    ) -> Any:
        from cluster.health import Listen

        metrics = Listen(metrics_host, metrics_port, metrics_cert, metrics_key, metrics_token)
        return command(metrics=metrics, **others)

    file = click.Path(path_type=Path, dir_okay=False)
    for names, settings in reversed(
        (
            (("--metrics-host",), {"default": "127.0.0.1", "show_default": True,
              "help": "Address for /metrics, /healthz and /readyz."}),
            (("--metrics-port",), {"type": click.IntRange(0, 65535),
              "help": "Their port; 0 for any free one. Without it they are not served."}),
            (("--metrics-cert",), {"type": file, "help": "Certificate, with its chain: TLS."}),
            (("--metrics-key",), {"type": file, "help": "Its private key."}),
            (("--metrics-token",), {"type": file,
              "help": "File with a token that /metrics asks for; needed beyond loopback."}),
        )
    ):  # fmt: skip
        called = option(*names, **settings)(called)
    return cast(F, called)


_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*(s|sec|m|min|h|d|w)?")
_UNITS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Age(click.ParamType[timedelta]):
    """``90``, ``90s``, ``15min``, ``2h``, ``3d``, ``1w``: a duration."""

    name = "AGE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        found = _AGE.fullmatch(str(value).strip())
        if isinstance(value, timedelta):
            return value
        if found is None:
            self.fail(f"{value!r} is no duration; write 90s, 15min, 2h, 3d or 1w", param, ctx)
        seconds = float(found[1]) * _UNITS[found[2] or "s"]
        if seconds > LONGEST_S:
            self.fail(f"{value!r} is more than ten years; write 90s, 15min, 2h, 3d or 1w", param, ctx)
        return timedelta(seconds=seconds)


_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*(KiB|MiB|GiB|TiB)?")
_SIZES = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def _amount(text: str) -> float | None:
    """Of ``2``, ``0.5``, ``8GiB``; None if it is none."""
    found = _AMOUNT.fullmatch(text.strip())
    return None if found is None else float(found[1]) * _SIZES[found[2] or ""]


class Size(click.ParamType[int]):
    """``1000000``, ``512MiB``, ``8GiB``: bytes, at least one."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        size = _amount(str(value))
        if size is None:
            self.fail(f"{value!r} is no size; write 512MiB, 8GiB or a number of bytes", param, ctx)
        if not 1 <= size <= MOST_BYTES:
            self.fail(f"{str(value)[:60]!r} is not from 1 byte to {MOST_BYTES >> 40}TiB", param, ctx)
        return int(size)


def amounts(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    """Of ``NAME=AMOUNT``, repeated: ``licence=2``, ``cpus=0.5``, ``memory_bytes=8GiB``; how much of each."""
    out: dict[str, float] = {}
    for value in values:
        name, _, amount = value.partition("=")
        much = _amount(amount)
        if not name or much is None:
            raise click.BadParameter(f"{value!r} is not NAME=AMOUNT, as licence=2 or memory_bytes=8GiB", ctx, param)
        out[name] = much
        if len(name) > WORD_CHARS or out[name] > MOST_BYTES:
            raise click.BadParameter(f"{value[:60]!r} is too long or too much", ctx, param)
    return out


class Failure(click.ClickException):
    """One line on standard error, and exit code 1."""

    def show(self, file: Any = None) -> None:
        click.echo(f"{click.style('cluster:', fg='red', bold=True)} {self.message.strip()}", err=True)


class UnknownCommand(click.UsageError):
    def show(self, file: Any = None) -> None:
        click.echo(self.message, err=True)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turns what is foreseen to go wrong into :class:`Failure`."""
    try:
        yield
    except ClusterError as e:
        raise Failure(str(e) or type(e).__name__) from e
    except OSError as e:
        if e.filename is None:
            raise
        raise Failure(f"{e.filename}: {e.strerror}") from e


ANSWER_WITHIN_S = 5.0
"""A person waits no longer than this for a coordinator that does not answer."""


def client_of(connection: str | None) -> Client:
    from cluster import Client
    from cluster.config import ClientLimits

    limits = ClientLimits(reconnect_timeout_s=ANSWER_WITHIN_S)
    return Client(connection, limits=limits, connect_timeout_s=ANSWER_WITHIN_S)
