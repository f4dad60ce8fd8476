"""The 90/10 split: shares, whole groups, the same rows every time."""

import pytest

from empathy_trl.data.tables import split_rows
from empathy_trl.errors import DataError


@pytest.mark.parametrize(
    ("rows", "sizes"), [(1000, (810, 90, 100)), (100, (81, 9, 10)), (12, (10, 1, 1)), (11095, (8986, 999, 1110))]
)
def test_a_split_by_row_gives_81_9_10(rows, sizes):
    parts = split_rows(range(rows))
    assert tuple(len(parts[part]) for part in ("train", "valid", "test")) == pytest.approx(sizes, abs=1)
    assert sorted(parts["train"] + parts["valid"] + parts["test"]) == list(range(rows))
    assert all(numbers == sorted(numbers) for numbers in parts.values())


def test_conversations_stay_whole_and_the_shares_are_near():
    groups = [f"c{number}" for number in range(60) for _ in range(5 + number % 7)]
    parts = split_rows(groups)
    of_part = {part: {groups[number] for number in numbers} for part, numbers in parts.items()}
    assert not of_part["train"] & of_part["test"]
    assert not of_part["valid"] & (of_part["train"] | of_part["test"])
    assert len(parts["test"]) == pytest.approx(0.1 * len(groups), abs=6)
    assert len(parts["valid"]) == pytest.approx(0.09 * len(groups), abs=6)


def test_data_with_a_test_part_gives_up_a_tenth_only_once():
    parts = split_rows(range(100), held_out=("valid",))
    assert {part: len(numbers) for part, numbers in parts.items()} == {"train": 90, "valid": 10}


def test_a_giant_conversation_does_not_fill_the_test_part():
    groups = [*"abcdefghijklmnopqrst", *["giant"] * 100]
    parts = split_rows(groups)
    assert {groups[number] for number in parts["train"]} >= {"giant"}
    assert (len(parts["test"]), len(parts["valid"])) == (12, 8)  # the giant is all of train


def test_the_split_is_the_same_on_every_machine_and_another_for_another_seed():
    # Published figures depend on these numbers.
    assert split_rows(range(30))["test"] == [10, 14, 19]
    assert split_rows(range(30))["valid"] == [6, 22, 26]
    assert split_rows(range(30), seed=1)["test"] != [10, 14, 19]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (range(3), r"3 rows in 3 groups are too few for a 90/10 split: no row is left for valid and test"),
        (["a"] * 100, r"100 rows in 1 groups are too few"),
        ([], r"0 rows in 0 groups .* no row is left for train and valid and test"),
    ],
)
def test_a_part_without_rows_is_an_error(groups, message):
    with pytest.raises(DataError, match=message):
        split_rows(groups)
