"""`replicas` on two logical devices, against the global batch taken as a whole.

Logical devices have to be made before TensorFlow starts, so this file runs itself as a
program, once.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import rounding
from repository import ROOT

ROWS = np.arange(10, dtype="float32").reshape(5, 2)
PARTS = {"even": (2, 2), "uneven": (3, 2), "none": (5, 0)}


def main():
    import keras
    import tensorflow as tf

    from tf_ttur import replicas

    cpu = tf.config.list_physical_devices("CPU")[0]
    devices = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, devices)
    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    found = {"multi_worker": replicas.multi_worker(strategy)}

    def both(value):
        each = strategy.experimental_local_results(value)
        return [np.asarray(x).tolist() for x in each]

    for name, sizes in PARTS.items():
        bounds = strategy.experimental_distribute_values_from_function(
            lambda context, sizes=sizes: tf.constant(
                [(0, sizes[0]), (sizes[0], sum(sizes))][
                    context.replica_id_in_sync_group
                ]
            )
        )

        @tf.function
        def use(bounds):
            # The number of rows is known when the step runs, as at the end of a set.
            rows = tf.constant(ROWS)[bounds[0] : bounds[1]]
            share = replicas.share(rows)
            mean = tf.reduce_mean(rows)
            return {
                "rows": share.rows(lambda n: tf.range(100, 100 + n)[:, None]),
                "mean": share.mean(mean),
                "scaled": share.scale(mean),
                "average": replicas.average([mean, None])[0],
            }

        try:
            result = strategy.run(use, args=(bounds,))
            found[name] = {key: both(value) for key, value in result.items()}
        except tf.errors.InvalidArgumentError as error:
            found[name] = str(error)
    with strategy.scope():
        number = keras.Variable(0.0, trainable=False, aggregation="none", name="a")
        count = keras.Variable(7, dtype="int32", trainable=False, name="b")
    found["distributed"] = [
        replicas.is_distributed(number),
        replicas.is_distributed(keras.Variable(0.0)),
    ]

    @tf.function
    def assign():
        context = tf.distribute.get_replica_context()
        number.assign(tf.cast(context.replica_id_in_sync_group, "float32"))
        replicas.average_variables([number, count])

    strategy.run(assign)
    found["averaged"] = [both(number.value), both(count.value)]
    print(json.dumps(found))


@pytest.fixture(scope="module")
def found():
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), *sys.path])
    process = subprocess.run(
        [sys.executable, __file__],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["even", "uneven"])
def test_replicas_take_their_rows_of_one_draw(found, name):
    drawn = np.concatenate([np.ravel(rows) for rows in found[name]["rows"]])
    np.testing.assert_array_equal(drawn, 100 + np.arange(sum(PARTS[name])))
    assert [len(rows) for rows in found[name]["rows"]] == list(PARTS[name])


@pytest.mark.parametrize("name", ["even", "uneven"])
def test_means_are_those_of_the_global_batch(found, name):
    expected = ROWS[: sum(PARTS[name])].mean()
    # Sums of a few numbers in float32.
    few = {
        "rel": 0,
        "abs": 2 * rounding.gamma(8, "float32") * float(np.abs(ROWS).max()),
    }
    assert found[name]["mean"] == pytest.approx([expected] * 2, **few)
    assert sum(found[name]["scaled"]) == pytest.approx(expected, **few)


def test_an_average_weighs_replicas_alike(found):
    parts = ROWS[:3].mean(), ROWS[3:].mean()
    few = 2 * rounding.gamma(8, "float32") * float(np.abs(ROWS).max())
    assert found["uneven"]["average"] == pytest.approx([np.mean(parts)] * 2, abs=few)


def test_a_replica_without_rows_is_an_error(found):
    assert "leaves some of 2 replicas without images" in found["none"]


def test_variables_become_their_mean_where_they_are_floats(found):
    assert found["averaged"] == [[0.5, 0.5], [7, 7]]


def test_what_has_a_copy_on_each_replica_is_told_from_what_has_not(found):
    assert found["distributed"] == [True, False]
    assert found["multi_worker"] is False


def test_on_one_device_a_share_is_everything():
    import tensorflow as tf

    from tf_ttur import replicas

    share = replicas.share(tf.zeros((5, 2)))
    np.testing.assert_array_equal(share.rows(tf.range), np.arange(5))
    assert float(share.scale(tf.constant(3.0))) == 3.0
    assert float(share.mean(tf.constant(3.0))) == 3.0
    assert replicas.average([1.0, None]) == [1.0, None]


if __name__ == "__main__":
    main()
