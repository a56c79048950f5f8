"""What a value that was read may be."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

import pytest

from fid.files import InputError
from fid.values import LARGEST, Between, Count, check_values, fault, read_checked

OBJECT = {"b": Count}
ALL = [None, True, 3, 3.5, "x", [1], {"a": 1}]


@pytest.mark.parametrize(
    ("kind", "right"),
    [
        (bool, [True]),
        (int, [3]),  # a bool is none, and 3.0 would be none either
        (float, [3, 3.5]),
        (str, ["x"]),
        (str | None, [None, "x"]),
        (Count | None, [None, 3]),
        (list[int], [[1]]),
        (list[str], []),
        (Mapping[str, Any], [{"a": 1}]),
        ({"a": Count}, [{"a": 1}]),
        ({"a": str}, []),
        ({"b": int}, []),
    ],
)
def test_a_value_is_of_its_kind_or_the_fault_is_told(kind, right):
    found = [value for value in ALL if fault("x", value, kind) is None]
    assert found == right
    assert [type(x) for x in found] == [type(x) for x in right]


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (0, Count, "x is 0; it must be >= 1"),
        (5.0, Count, "x is 5.0; it must be a whole number"),
        (LARGEST + 1, Count, f"at most {LARGEST}"),
        (7, Annotated[int, Between(0, 6)], "x is 7; it must be in 0..6"),
        (1, Annotated[float, Between(0, below=1)], "it must be in [0, 1)"),
        (0, Annotated[float, Between(above=0)], "it must be positive"),
        (10**400, float, None),  # exact, and so a number
        (float("nan"), float, "x is nan; it must be finite"),
        (float("-inf"), float, "it must be finite"),
        ("1", float | None, "x is '1'; it must be a number or none"),
        ([1, "b"], list[int], "x[1] is 'b'; it must be a whole number"),
        ([{"b": 1}, {"b": 0}], list[OBJECT], "x[1].b is 0; it must be >= 1"),
        ({"a": {}}, {"a": {"b": int}}, "x.a lacks 'b'"),
    ],
)
def test_the_fault_says_what_was_found_and_expected(value, kind, message):
    found = fault("x", value, kind)
    assert found is None if message is None else message in found


def test_a_long_value_is_told_in_short():
    assert len(fault("x", ["y" * 10_000] * 10_000, int)) < 250


def test_a_file_is_read_or_named_with_the_fix(tmp_path):
    path = tmp_path / "best.json"
    path.write_text(json.dumps({"step": 4, "more": []}))
    assert read_checked(path, {"step": Count}, "Fix.") == {"step": 4, "more": []}
    for text in ('{"step": [1]}', '{"step": "4"}', '{"step": 1e9}'):
        path.write_text(text)
        with pytest.raises(
            InputError, match=r"best.json is damaged: step is .*number\. F"
        ):
            read_checked(path, {"step": Count}, "Fix.")
    path.write_text("{}")
    with pytest.raises(InputError, match="expected a JSON object with step"):
        read_checked(path, {"step": Count}, "Fix.")
    check_values({}, {"step": Count}, path, "Fix.")  # what is missing may be
