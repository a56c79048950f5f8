"""Where runs are done: shares that are whole and apart, and what is refused."""

import pytest

from fid.files import InputError
from fid.program import Flags
from tf_ttur.studies import machines
from tf_ttur.studies.machines import Machines, Shard
from tf_ttur.studies.workers import Workers


@pytest.mark.parametrize("count", [1, 2, 3, 7, 12])
@pytest.mark.parametrize("total", [0, 1, 7, 12])
def test_each_item_is_in_one_shard_and_shards_differ_by_one_at_most(count, total):
    shares = [Shard(i, count).of(range(total)) for i in range(1, count + 1)]
    assert sorted(x for share in shares for x in share) == list(range(total))
    assert all(x % count == i for i, share in enumerate(shares) for x in share)
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def parsed(*arguments):
    flag = Flags()
    machines.define(flag)
    flag.values(["x", *arguments])
    return machines.chosen(flag.values)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--shard=0/4"], "no shard 0/4: the first number must be in 1..N"),
        (["--shard=5/4"], "no shard 5/4: the first number must be in 1..N"),
        (["--shard=0/0"], "no shard 0/0"),
        (["--shard=a/b"], "--shard=a/b: expected I/N, such as --shard=1/4"),
        (["--shard=1"], "--shard=1: expected I/N"),
        (["--shard=-1/4"], "--shard=-1/4: expected I/N"),
        (["--shard="], "--shard=: expected I/N"),
        (["--shard=1/4", "--ray=auto"], "--shard=1/4 and --ray exclude each other"),
        (["--ray=here"], "--ray=here: expected auto, or HOST:PORT"),
        (["--ray="], "--ray=: expected auto, or HOST:PORT"),
        (["--ray=ray://head:10001"], "expected auto, or HOST:PORT of the cluster's"),
        (["--processes=0"], "number of processes is 0; it must be >= 1"),
        (["--ray=auto", "--cores_per_run=0"], "number of cores per run is 0"),
        (["--ray=auto", "--gpus_per_run=-1"], "number of GPUs per run is -1"),
        (["--ray=auto", "--gpus_per_run=nan"], "number of GPUs per run is nan"),
        (["--cores_per_run=2"], "--cores_per_run is for the nodes of a Ray cluster"),
        (["--gpus_per_run=1"], "--gpus_per_run is for the nodes of a Ray cluster"),
    ],
)
def test_what_cannot_be_is_refused(flags, message):
    with pytest.raises(InputError) as error:
        parsed(*flags)
    assert message in str(error.value)


def test_flags_say_where_runs_are_done(tmp_path):
    assert parsed() == Machines()
    assert parsed("--shard=2/3", "--processes=2") == Machines(2, Shard(2, 3))
    assert parsed("--ray=a:6379", "--cores_per_run=2", "--gpus_per_run=0.5") == (
        Machines(ray="a:6379", cores_per_run=2, gpus_per_run=0.5)
    )


def test_there_are_no_more_workers_than_tasks(tmp_path):
    def count(number, *_):
        return number

    assert isinstance(Machines().workers(3, tmp_path, print), Workers)
    for wanted, left, made in ((None, 3, 1), (2, 3, 2), (5, 3, 3)):
        assert Machines(wanted).workers(left, make=count) == made
    for wanted, left, made in ((None, 3, 3), (2, 3, 2), (5, 3, 3)):
        there = Machines(wanted, ray="auto")
        assert there.workers(left, make=count) == made
