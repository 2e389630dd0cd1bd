"""Weights rounded so that their errors cancel: nearer in the products than each by itself, and on the grid."""

import numpy as np

from vitrail.runtimes.rounding import Product, rounded


def product(outputs: int = 24, inputs: int = 300) -> tuple[Product, np.ndarray]:
    """Weights with their steps, and inputs that go together, as those of a network do."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(outputs, inputs)).astype(np.float32)
    seen = (
        rng.normal(size=(800, 40)) @ rng.normal(size=(40, inputs)) + 0.3 * rng.normal(size=(800, inputs)) + 1
    ).astype(np.float32)
    return Product(matrix, (np.abs(matrix).max(1) / 127).astype(np.float32)), seen


def test_errors_of_products_are_a_fraction_of_those_of_plain_rounding() -> None:
    weights, seen = product()
    numbers = rounded(weights, seen.T @ seen)
    plain = np.rint(weights.matrix / weights.steps[:, None])

    def error(whole: np.ndarray) -> float:
        return float(np.linalg.norm(seen @ (whole * weights.steps[:, None] - weights.matrix).T))

    assert numbers.dtype == np.int8
    assert np.abs(numbers).max() <= 127
    assert error(numbers) < 0.5 * error(plain)
    assert np.abs(numbers - plain).mean() < 2  # in steps: the weights are still the weights


def test_weights_on_the_grid_stay_as_they_are() -> None:
    weights, seen = product()
    whole = np.random.default_rng(1).integers(-127, 128, weights.matrix.shape)
    exact = Product((whole * weights.steps[:, None]).astype(np.float32), weights.steps)
    assert np.array_equal(rounded(exact, seen.T @ seen), whole)


def test_inputs_that_are_never_there_do_no_harm() -> None:
    weights, seen = product()
    seen[:, 7] = 0
    for squares in (seen.T @ seen, np.zeros((300, 300), np.float32)):
        numbers = rounded(weights, squares)
        assert np.abs(numbers[:, 7] - weights.matrix[:, 7] / weights.steps).max() <= 0.5 + 1e-4
