"""The order of a variable's reads and updates in steps that XLA does not compile.

`tf.function` orders the operations on each variable by control edges: an update waits
for the reads before it. Grappler, which rewrites the graph before it runs, has a pass
that drops a control edge where a longer way through the graph seems to make it
superfluous. It counts ways that only ask for a tensor's shape, and later passes take
such ways out when they learn the shape otherwise. Then neither is left. In TensorFlow
2.21 the update of a critic's last layer may so come before the read that its hidden
layers' gradients are computed from, where the loss is linear in the critic's output
(Wasserstein) and the layer has no bias; with several discriminator steps Adam's
moments lose their order, too. Results then differ by chance, from run to run.
Without that pass every edge stays. XLA keeps the order itself.
"""

from __future__ import annotations

import tensorflow as tf

__all__ = ["keep_order"]


def keep_order() -> None:
    """Keeps every control edge of the graphs that this process runs from now on.

    It turns off Grappler's `dependency_optimization`, which TensorFlow knows for the
    process only. What is learnt stays the same bit for bit where the order was right; a
    logged loss, which Grappler adds up in another order then, may differ in its last
    digit.
    """
    tf.config.optimizer.set_experimental_options({"dependency_optimization": False})
