"""The book of graphics processors: who has which, and that nobody has what another one has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.devices import WHOLE, Devices, named, shared_out

AMOUNTS = st.integers(1, WHOLE) | st.integers(1, 4).map(lambda n: n * WHOLE)


def test_whole_devices_are_of_one_job_alone() -> None:
    book = Devices(["a", "b", "c"])
    assert book.take(1, 2 * WHOLE) == ("a", "b")
    assert not book.fits(2 * WHOLE)
    assert book.take(3, WHOLE) == ("c",)
    assert not book.fits(1)
    book.give_back(1)
    assert book.take(2, 2 * WHOLE) == ("a", "b")


def test_a_part_goes_where_the_least_is_left_that_still_takes_it() -> None:
    book = Devices(["a", "b", "c"])
    assert book.take(1, 600) == ("a",)
    assert book.take(2, 500) == ("b",), "it does not fit on the one that is shared"
    assert book.take(3, 400) == ("a",)
    assert book.take(4, 100) == ("b",)
    assert book.take(5, WHOLE) == ("c",), "a whole one has stayed whole"
    assert not book.fits(500) and book.take(7, 400) == ("b",)


def test_what_the_sum_has_room_for_may_fit_no_device() -> None:
    book = Devices(["a", "b"])
    assert (book.take(1, 600), book.take(2, 600)) == (("a",), ("b",))
    assert not book.fits(800) and book.could(800)
    book.give_back(1)
    assert book.take(3, 800) == ("a",)


def test_of_an_amount_in_parts_the_last_device_is_shared_out_in_part() -> None:
    book = Devices(["a", "b"], 1.5)
    assert book.could(WHOLE) and not book.could(2 * WHOLE)
    assert book.take(1, 500) == ("b",) and book.take(2, 500) == ("a",)
    half = Devices(["a"], 0.5)
    assert not half.could(501) and half.could(500)


def test_where_there_is_none_nothing_can_be_had() -> None:
    assert not Devices().could(1) and not Devices().fits(1)


@given(st.integers(0, 4), st.integers(0, WHOLE), st.data())
def test_no_device_is_ever_given_away_twice_and_all_is_free_in_the_end(
    whole: int, part: int, data: st.DataObject
) -> None:
    sizes = {str(n): WHOLE for n in range(whole)} | ({"part": part} if part else {})
    book = Devices(list(sizes), sum(sizes.values()) / WHOLE)
    held: dict[int, tuple[int, tuple[str, ...]]] = {}
    for slot in range(data.draw(st.integers(1, 30))):
        if data.draw(st.booleans()) and held:
            gone = data.draw(st.sampled_from(sorted(held)))
            book.give_back(gone)
            del held[gone]
        amount = data.draw(AMOUNTS)
        used = {one: sum(share for share, ids in held.values() if one in ids) for one in sizes}
        if not book.fits(amount):
            free = [size - used[one] for one, size in sizes.items()]
            whole_free = [one for one, size in sizes.items() if size == WHOLE and not used[one]]
            assert max(free, default=0) < amount if amount < WHOLE else len(whole_free) * WHOLE < amount
            assert held or not book.could(amount)
            continue
        ids = book.take(slot, amount)
        assert book.could(amount) and len(set(ids)) == len(ids) == -(-amount // WHOLE)
        if amount >= WHOLE:
            assert not any(used[one] for one in ids), "a whole device is shared"
        held[slot] = min(amount, WHOLE), ids
        assert all(used[one] + held[slot][0] <= sizes[one] for one in ids), "more is given away than there is"
    for slot in held:
        book.give_back(slot)
    assert book._free == sizes and not book._held


@pytest.mark.parametrize(
    ("environ", "ids"),
    [
        ({}, None),
        ({"CUDA_VISIBLE_DEVICES": "2,0"}, ("2", "0")),
        ({"CUDA_VISIBLE_DEVICES": "GPU-8932f937, MIG-1/2/3"}, ("GPU-8932f937", "MIG-1/2/3")),
        ({"CUDA_VISIBLE_DEVICES": ""}, ()),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, ()),
        ({"CUDA_VISIBLE_DEVICES": "1,-1,2"}, ("1",)),
        ({"HIP_VISIBLE_DEVICES": "-1"}, ()),
        ({"HIP_VISIBLE_DEVICES": "1,1"}, ("1",)),
        ({"HIP_VISIBLE_DEVICES": "1", "CUDA_VISIBLE_DEVICES": "3"}, ("3",)),
    ],
)
def test_the_variables_of_the_agent_name_what_it_shares_out(
    environ: dict[str, str], ids: tuple[str, ...] | None
) -> None:
    assert named(environ) == ids


def test_as_many_are_shared_out_as_the_node_offers() -> None:
    assert shared_out(2, None) == ("0", "1") and shared_out(1.5, None) == ("0", "1") and shared_out(0, None) == ()
    assert shared_out(1, ("7", "9")) == ("7",) and shared_out(0, ("7", "9")) == ()
    with pytest.raises(ValueError, match="gpus=3 is more than the 2 that CUDA_VISIBLE_DEVICES or HIP_VISIBLE_DEVICES"):
        shared_out(3, ("7", "9"))
