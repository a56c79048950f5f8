"""The mixture game in NumPy and double precision, one run, with derivatives by hand.

Optimizers are written here as their papers and packages write them, one by one, and not
in the one formula of `tf_ttur.theory.vector_optimizers`.
"""

import math

import numpy as np
import rounding

# adabelief-pytorch 0.2.0 and tf_ttur.ttur.
BELIEF_EPSILON, EPSILON = 1e-16, 1e-8


class Optimizer:
    """One of six optimizers of one array."""

    def __init__(self, name, rate, beta_1, beta_2):
        self.name, self.rate, self.betas = name, rate, (beta_1, beta_2)
        self.n, self.m, self.v, self.top = 0, 0.0, 0.0, 0.0

    def step(self, weights, g):
        """The weights after a step."""
        self.n += 1
        n, rate, (b1, b2) = self.n, self.rate, self.betas
        if self.name == "sgd":
            return weights - rate * g
        if self.name == "momentum":
            self.m = b1 * self.m - rate * g
            return weights + self.m
        if self.name == "rmsprop":
            self.v = b2 * self.v + (1 - b2) * g**2
            return weights - rate * g / np.sqrt(self.v + EPSILON**2)
        self.m = b1 * self.m + (1 - b1) * g
        if self.name in ("adam", "amsgrad"):
            self.v = b2 * self.v + (1 - b2) * g**2
            self.top = np.maximum(self.top, self.v)
            v = self.top if self.name == "amsgrad" else self.v
            rate *= math.sqrt(1 - b2**n) / (1 - b1**n)
            return weights - rate * self.m / (np.sqrt(v) + EPSILON)
        assert self.name == "adabelief"
        self.v = b2 * self.v + (1 - b2) * (g - self.m) ** 2 + BELIEF_EPSILON
        longest = 2 / (1 - b2) - 1
        length = longest - 2 * n * b2**n / (1 - b2**n)
        if length < 5:
            return weights - rate / (1 - b1**n) * self.m
        size = math.sqrt(
            (1 - b2**n)
            * ((length - 4) / (longest - 4))
            * ((length - 2) / length)
            * (longest / (longest - 2))
        ) / (1 - b1**n)
        return weights - rate * size * self.m / (np.sqrt(self.v) + BELIEF_EPSILON)


# Of each loss, the derivatives of its terms by the logits: real ones and generated ones
# of the discriminator's, and the generator's.
SLOPES = {
    "non_saturating": (
        lambda x: -1 / (1 + np.exp(x)),
        lambda x: 1 / (1 + np.exp(-x)),
        lambda x: -1 / (1 + np.exp(x)),
    ),
    "wasserstein": (
        lambda x: -np.ones_like(x),
        lambda x: np.ones_like(x),
        lambda x: -np.ones_like(x),
    ),
    "hinge": (lambda x: -1.0 * (x < 1), lambda x: 1.0 * (x > -1), lambda x: 0 * x - 1),
}


class Game:
    """One run of the game.

    With `random`, every product is changed as much as rounding to float32 changes two
    programs' results (`rounding.random_sums`), and so are weights after a step.
    """

    def __init__(self, game, run, weights, random=None):
        self.relu = game.activation == "relu"
        self.slopes = SLOPES[game.loss]
        self.shapes = game.discriminator_shapes, game.generator_shapes
        self.weights = [np.asarray(each, np.float64) for each in weights]
        self.random = random
        rates = run.discriminator_rate, run.generator_rate
        self.optimizers = [
            Optimizer(run.optimizer, rate, run.beta_1, run.beta_2) for rate in rates
        ]

    def _rounded(self, values, count=1):
        if self.random is None:
            return values
        size = math.sqrt(np.square(values).mean()) * rounding.random_sums(count)
        return values + size * self.random.standard_normal(values.shape)

    def _product(self, a, b):
        return self._rounded(a @ b, a.shape[1])

    def _parts(self, player):
        parts, at = [], 0
        for shape in self.shapes[player]:
            parts.append(self.weights[player][at : at + math.prod(shape)])
            parts[-1] = parts[-1].reshape(shape)
            at += math.prod(shape)
        return parts

    def forward(self, player, inputs):
        """The inputs of all layers, and the outputs of the last."""
        w = self._parts(player)
        layers = [inputs]
        for i in (0, 2):
            z = self._product(layers[-1], w[i]) + w[i + 1]
            hidden = np.maximum(z, 0) if self.relu else np.tanh(z)
            layers.append(self._rounded(hidden, rounding.FUNCTION))
        return layers, self._product(layers[-1], w[4]) + w[5]

    def backward(self, player, layers, upstream):
        """The gradients by the weights, flat, and by the inputs."""
        w = self._parts(player)
        found = []
        for i in (4, 2, 0):
            inputs = layers[i // 2]
            kernel = self._product(inputs.T, upstream)
            bias = self._rounded(upstream.sum(axis=0), len(upstream))
            found = [kernel.ravel(), bias, *found]
            upstream = self._product(upstream, w[i].T)
            if i:
                slope = inputs > 0 if self.relu else 1 - inputs**2
                upstream = upstream * slope
        return np.concatenate(found), upstream

    def discriminator_gradient(self, real, latents):
        """Of the discriminator's loss, a mean over examples of each kind."""
        b = len(real)
        _, fake = self.forward(1, latents)
        layers, logits = self.forward(0, np.concatenate([real, fake]))
        of_real, of_fake, _ = self.slopes
        upstream = np.concatenate([of_real(logits[:b]), of_fake(logits[b:])]) / b
        return self.backward(0, layers, upstream)[0]

    def generator_gradient(self, latents):
        """Of the generator's loss, a mean over examples."""
        theirs, fake = self.forward(1, latents)
        layers, logits = self.forward(0, fake)
        upstream = self.slopes[2](logits) / len(latents)
        _, upstream = self.backward(0, layers, upstream)
        return self.backward(1, theirs, upstream)[0]

    def step(self, real, discriminator_latents, generator_latents):
        """Makes a step; returns the squared norms of both gradients."""
        data = [np.asarray(real, np.float64)]
        data += [
            np.asarray(each, np.float64)
            for each in (discriminator_latents, generator_latents)
        ]
        norms = []
        for player in (0, 1):
            if player == 0:
                gradient = self.discriminator_gradient(*data[:2])
            else:
                gradient = self.generator_gradient(data[2])
            norms.append(gradient @ gradient)
            moved = self.optimizers[player].step(self.weights[player], gradient)
            self.weights[player] = self._rounded(moved)
        return norms
