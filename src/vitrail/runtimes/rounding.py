"""Rounding: int8 weights whose errors cancel in products with what calibration pictures bring (GPTQ: Frantar et al., 2023).

Column after column is rounded, and what is lost is made up for in the columns that are still to come, as far as inputs go
together. Shapes: O outputs of a product, I its inputs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

_LARGEST = 127
_DAMPING = 0.01  # of the mean square of inputs, so that those that are always alike do not blow up
_COLUMNS = 128  # at a time; the others are brought up to date afterwards
_TOGETHER = 1 << 26  # numbers in the squares of inputs that are kept at a time

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Product:
    """The weights of a matrix product, before they are rounded."""

    matrix: Floats
    """(O, I)."""
    steps: Floats
    """(O,): what one step of the whole numbers is worth."""


class Rounded(Protocol):
    """A quantised model whose weights are still to be rounded."""

    @property
    def products(self) -> Mapping[str, Product]:
        """By name."""
        ...

    def inputs(self, names: Sequence[str]) -> Callable[[NDArray[np.uint8]], Sequence[Floats]]:
        """What gives the inputs (..., I) of these products for images."""
        ...

    def put(self, name: str, numbers: NDArray[np.int8]) -> None:
        """The weights of a product in whole numbers, (O, I)."""
        ...

    def finish(self) -> None:
        """Round all other weights, those of convolutions, each to the nearest number."""
        ...


def round_weights(model: Rounded, batches: Sequence[NDArray[np.uint8]]) -> None:
    """Round the weights of all products of a model.

    Args:
        model: changed.
        batches: of images, as the model takes them.
    """
    for names in _groups(model.products):
        squares = [np.zeros((model.products[name].matrix.shape[1],) * 2, np.float32) for name in names]
        run = model.inputs(names)
        for images in batches:
            for square, values in zip(squares, run(images), strict=True):
                rows = values.reshape(-1, values.shape[-1])
                square += rows.T @ rows
        for name, square in zip(names, squares, strict=True):
            model.put(name, rounded(model.products[name], square))
    model.finish()


def rounded(product: Product, squares: Floats) -> NDArray[np.int8]:
    """The weights in whole numbers, (O, I).

    Args:
        product: weights and steps.
        squares: (I, I), the sum of x x^T over inputs x.
    """
    # the largest inputs first: most columns are left then to make up for their errors
    order = np.argsort(-np.diag(squares), kind="stable")
    weights = product.matrix[:, order].astype(np.float64)
    steps = product.steps.astype(np.float64)
    factor = _factor(squares[np.ix_(order, order)].astype(np.float64))
    numbers = np.zeros(weights.shape, np.int8)
    inputs = weights.shape[1]
    for start in range(0, inputs, _COLUMNS):
        stop = min(start + _COLUMNS, inputs)
        errors = np.zeros((len(weights), stop - start))
        for column in range(start, stop):
            wanted = weights[:, column]
            numbers[:, column] = np.clip(np.rint(wanted / steps), -_LARGEST, _LARGEST)
            error = (wanted - numbers[:, column] * steps) / factor[column, column]
            weights[:, column + 1 : stop] -= np.outer(error, factor[column, column + 1 : stop])
            errors[:, column - start] = error
        weights[:, stop:] -= errors @ factor[start:stop, stop:]
    return numbers[:, np.argsort(order)]


def _factor(squares: NDArray[np.float64]) -> NDArray[np.float64]:
    """U, upper triangular, of the inverse U^T U: what an error in one column asks of those behind it."""
    diagonal = np.diag_indices(len(squares))
    squares[diagonal] += _DAMPING * squares[diagonal].mean() + np.finfo(np.float32).tiny
    return np.linalg.cholesky(np.linalg.inv(squares)).T


def _groups(products: Mapping[str, Product]) -> list[list[str]]:
    """The products in their order, so many together as memory is meant for."""
    groups: list[list[str]] = []
    room = 0
    for name, product in products.items():
        numbers = product.matrix.shape[1] ** 2
        if not groups or numbers > room:
            groups.append([])
            room = _TOGETHER
        groups[-1].append(name)
        room -= numbers
    return groups
