"""Variants as text: their names and settings, and what is refused."""

import pytest

from fid.files import InputError
from fid.program import Flags
from tf_ttur.studies import variants


def test_the_combinations_are_a_product():
    found = variants.read([], ["a=1,2", "b=x,y,z", "c=0"])
    # By hand; the last key varies fastest.
    assert [*found] == [
        "a=1,b=x,c=0", "a=1,b=y,c=0", "a=1,b=z,c=0",
        "a=2,b=x,c=0", "a=2,b=y,c=0", "a=2,b=z,c=0",
    ]  # fmt: skip
    assert found["a=2,b=y,c=0"] == ["a=2", "b=y", "c=0"]


def test_named_variants_come_before_combinations():
    found = variants.read(["n:a=1,clip=norm:1", "m:b=2"], ["a=3"])
    assert found == {"n": ["a=1", "clip=norm:1"], "m": ["b=2"], "a=3": ["a=3"]}
    assert variants.read([], []) == {}


def test_commas_within_a_value_in_json_separate_nothing():
    options = 'o={"m": [1, 2], "s": "a,]b\\"{,"}'
    found = variants.read([f"n:{options},r=1"], ["m=[1,2],[3]", "x=1"])
    assert found == {
        "n": [options, "r=1"],
        "m=[1,2],x=1": ["m=[1,2]", "x=1"],
        "m=[3],x=1": ["m=[3]", "x=1"],
    }


@pytest.mark.parametrize(
    ("named", "varied", "message"),
    [
        (["a"], [], "--variant=a is not of the form NAME:KEY=VALUE,KEY=VALUE"),
        (["a:"], [], "--variant=a: is not of the form"),
        ([], ["a"], "--vary=a is not of the form KEY=VALUE,VALUE"),
        ([], ["a="], "--vary=a= is not of the form"),
        (["x:a=1", "x:a=2"], [], "The variant x is there twice"),
        ([], ["a=1,2,1"], "The variant a=1 is there twice"),
        (["a=1,b=2:c=3"], ["a=1", "b=2"], "The variant a=1,b=2 is there twice"),
    ],
)
def test_other_forms_are_refused(named, varied, message):
    with pytest.raises(InputError, match=message):
        variants.read(named, varied)


@pytest.mark.parametrize(
    "name", ["", ".", "../x", "a/b", "clip=norm:1", "x" * 201, "sweep.json", "table.md"]
)
def test_a_name_names_a_folder(name):
    assert not variants.is_name(name)
    with pytest.raises(InputError, match="A variant is called .* names a folder"):
        variants.check_name(name)
    variants.check_name("ratio=1,student_lr=1e-4")
    variants.check_name("x" * 200)


def test_the_flags_may_be_given_several_times():
    flag = Flags()
    variants.define(flag)
    flag.values(["x.py", "--vary=a=1,2", "--vary=b=3", "--variant=n:a=1,b=2"])
    assert flag.values.vary == ["a=1,2", "b=3"]
    assert flag.values.variant == ["n:a=1,b=2"]
