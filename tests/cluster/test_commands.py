"""What options of commands make of texts."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from cluster.commands import Size, amounts


@click.command()
@click.option("--resource", "resources", multiple=True, callback=amounts, envvar="RESOURCES")
def shown(resources: dict[str, float]) -> None:
    click.echo(repr(resources))


def told(*values: str, **env: str) -> Any:
    return CliRunner().invoke(shown, [f"--resource={value}" for value in values], env=env)


def test_amounts_are_numbers_with_or_without_a_unit() -> None:
    said = told("licence=2", "cpus=0.5", "memory_bytes=8GiB", "scratch=1.5 KiB")
    assert said.exit_code == 0
    assert eval(said.output) == {"licence": 2.0, "cpus": 0.5, "memory_bytes": float(8 << 30), "scratch": 1536.0}
    assert eval(told(RESOURCES="licence=2 gpus=0").output) == {"licence": 2.0, "gpus": 0.0}


@pytest.mark.parametrize("wrong", ["licence", "=2", "licence=", "licence=-1", "licence=two", "m=1GB", "m=1e3", "n=1=2"])
def test_what_is_no_amount_is_refused_with_an_example(wrong: str) -> None:
    said = told(wrong)
    assert said.exit_code == 2 and "is not NAME=AMOUNT, as licence=2 or memory_bytes=8GiB" in said.output


@pytest.mark.parametrize("wrong", ["m=9999999TiB", "n" * 201 + "=1"])
def test_what_is_too_much_is_refused(wrong: str) -> None:
    assert told(wrong).exit_code == 2


@click.command()
@click.option("--memory", type=Size())
def sized(memory: int | None) -> None:
    click.echo(repr(memory))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GiB", 8 << 30),
        ("512MiB", 512 << 20),
        ("1.5 KiB", 1536),
        (" 2TiB ", 2 << 40),
        ("1000000", 1_000_000),
        ("1", 1),
        ("1048576TiB", 1 << 60),
    ],
)
def test_a_size_is_a_number_of_bytes_with_or_without_a_unit(text: str, size: int) -> None:
    said = CliRunner().invoke(sized, [f"--memory={text}"])
    assert (said.exit_code, said.output) == (0, f"{size}\n")
    assert type(Size().convert(text, None, None)) is int and Size().convert(size, None, None) == size


@pytest.mark.parametrize("wrong", ["", "8GB", "8G", "8gib", "eight", "-1", "1e9", "MiB", "inf", "nan"])
def test_what_is_no_size_is_refused_with_an_example(wrong: str) -> None:
    said = CliRunner().invoke(sized, [f"--memory={wrong}"])
    assert said.exit_code == 2 and "is no size; write 512MiB, 8GiB or a number of bytes" in said.output


@pytest.mark.parametrize("wrong", ["0", "0.9", "0GiB", "1048577TiB", "9" * 400])
def test_a_size_is_neither_none_nor_more_than_there_can_be(wrong: str) -> None:
    said = CliRunner().invoke(sized, [f"--memory={wrong}"])
    assert said.exit_code == 2 and "is not from 1 byte to 1048576TiB" in said.output
