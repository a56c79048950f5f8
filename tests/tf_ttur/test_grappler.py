"""`grappler.keep_order` in graphs as TensorFlow runs them."""

import contextlib

import graph_order
import keras
import numpy as np
import tensorflow as tf

import tf_ttur


@contextlib.contextmanager
def dependency_optimization(on):
    options = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options({"dependency_optimization": on})
    try:
        yield
    finally:
        before = options.get("dependency_optimization", True)
        tf.config.optimizer.set_experimental_options(
            {"dependency_optimization": before}
        )


def gan(**options):
    """A critic whose loss is linear in the output of a last layer without a bias."""
    dense = keras.layers.Dense
    generator = keras.Sequential([keras.Input((3,)), dense(5, "elu"), dense(3)])
    discriminator = keras.Sequential(
        [keras.Input((3,)), dense(5, "elu"), dense(1, use_bias=False)]
    )
    made = tf_ttur.GAN(generator, discriminator, tf_ttur.NormalLatent(3))
    made.compile(
        **tf_ttur.ttur(discriminator=1e-2, generator=1e-2),
        loss="wasserstein",
        discriminator_steps=2,
        **options,
    )
    return made


def unordered_in_a_step(made):
    rows = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
    with graph_order.collected() as graphs:
        made.fit(rows, batch_size=16, verbose=0)
    steps = [graph for graph in graphs if len(graph_order.operations(graph)) > 10]
    assert steps, "no graph of a step was collected"
    return set().union(*map(graph_order.unordered, steps))


def test_reads_and_updates_of_every_variable_have_an_order_in_a_step():
    made = gan(jit_compile=False)
    assert unordered_in_a_step(made) == set()


def test_tensorflow_alone_leaves_a_read_and_an_update_without_an_order():
    # Should this fail on another TensorFlow, the module may not be needed any more.
    made = gan(jit_compile=False)
    with dependency_optimization(True):
        pairs = unordered_in_a_step(made)
    assert any("AssignSubVariableOp" in update for update, _ in pairs)


def test_a_step_by_xla_leaves_the_pass_on():
    with dependency_optimization(True):
        gan(jit_compile=True)
        options = tf.config.optimizer.get_experimental_options()
        assert options["dependency_optimization"]


def test_the_check_finds_what_has_no_order():
    variable = tf.Variable(1.0)

    @tf.function
    def ordered():
        before = variable.read_value()
        variable.assign_sub(2.0)
        return before

    with graph_order.collected() as graphs:
        assert ordered() == 1.0
    (graph,) = [each for each in graphs if graph_order.operations(each)]
    assert graph_order.unordered(graph) == set()
    (update,) = [each for each in graph.node if each.op.startswith("AssignSub")]
    kept = [given for given in update.input if not given.startswith("^")]
    assert len(kept) < len(update.input)
    del update.input[:]
    update.input.extend(kept)
    assert len(graph_order.unordered(graph)) == 1
