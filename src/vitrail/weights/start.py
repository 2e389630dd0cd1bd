"""The start of fine-tuning: the backbone of a trained model, other classes, another resolution."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from vitrail.errors import UserError
from vitrail.model import Model, ModelConfig, ResNet, ViT, ViTConfig
from vitrail.model.positions import KINDS
from vitrail.weights.build import empty, fill, shapes
from vitrail.weights.load import load
from vitrail.weights.names import Entry, plan, to_ours
from vitrail.weights.resize import position_tables, resized_state

# What may differ without a word: it is fine-tuning's own business.
_OF_TRAINING = {
    "image_size",
    "patch_size",
    "position_grid",
    "classes",
    "representation",
    "dropout",
    "attention_dropout",
    "drop_path",
}
_HEADS, _REPRESENTATION = ("head.", "head_dist."), "pre_logits."


def start_from(
    config: ModelConfig,
    init: Model | str | Path,
    *,
    labels: Sequence[str] = (),
    name: str | None = None,
) -> tuple[Model, list[str]]:
    """A model to fine-tune: the weights of ``init`` in the shape of ``config``.

    The head's rows are kept, in the order of ``labels``, if ``init`` knows every one of them by name (and the head's input
    is the same); else it starts at zero, as in the paper (Dosovitskiy et al., 2021, section 3.2), and a representation
    layer is dropped unless ``config`` asks for the one that is there. Learned positions are interpolated to the new grid in the
    start model's own way, as its forward pass does; fixed ones are computed for it. A patch kernel of another size is resized
    by pseudo-inverse.

    Args:
        config: the model wanted; usually ``read(init).config.at_size(...).with_changes(classes=...)``.
        init: a model, or the name of one (see ``find``).
        labels: class names in the order of the new head's outputs.
        name: what a person calls ``init``; None for its own name.

    Returns:
        The model in training mode, with ``init``'s pixel contract at the new image size, and ``labels``; and a list of
        sentences for the person that say what was taken, changed and started afresh.

    Raises:
        UserError: ``init`` cannot be loaded, or its parameters do not have the shapes that ``config`` needs.
    """
    source = init if isinstance(init, ViT | ResNet) else load(init)
    name = name or ("the start model" if isinstance(init, ViT | ResNet) else str(init))
    if type(source.config) is not type(config):
        raise UserError(
            f"{name} is a {type(source).__name__}, and the model wanted is not: leave out what asks for one"
        )
    state: dict[str, Tensor] = {key: tensor.detach().clone() for key, tensor in source.state_dict().items()}
    model = empty(config)
    wanted = shapes(model)
    notes = _changed_function(source.config, config)
    if isinstance(config, ViTConfig) and isinstance(source.config, ViTConfig):
        notes += _fit_positions(state, source.config, config)
        notes += _fit_patches(state, source.config, config)
        notes += _fit_representation(state, source.config, config)
    notes += _fit_heads(state, source, wanted, tuple(labels))
    chosen, report = plan(
        (Entry(key, (key,)) for key in wanted), {k: tuple(v.shape) for k, v in state.items()}, wanted, {}
    )
    fill(model, to_ours(chosen, report, state, wanted, name))
    model.labels = tuple(labels)
    if source.preprocess is not None:
        p = getattr(config, "patch_size", None)  # mode native counts in patches
        model.preprocess = dataclasses.replace(source.preprocess, image_size=config.image_size, patch_size=p)
    taken = sum(p.numel() for key, p in model.named_parameters() if not key.startswith((*_HEADS, _REPRESENTATION)))
    return model.train(), [f"started from {name}: {taken:,} parameters of the backbone", *notes]


def _fit_positions(state: dict[str, Tensor], old: ViTConfig, new: ViTConfig) -> list[str]:
    """Bring every table of positions, of the model or of its blocks, to the new grid; compute a fixed one."""
    if new.position == "sincos2d":
        return _compute_positions(state, old, new)
    tables = position_tables(state)
    alike = old.position == new.position or (old.position, new.position) == ("sincos2d", "learned")
    if not tables or old.grid == new.grid or not alike:
        return []
    kind = KINDS[new.position]
    for key in tables:
        state[key] = kind.resized(state[key], old, new.grid)
    what = "position embedding" if len(tables) == 1 else f"position embeddings of {len(tables)} blocks"
    return [f"{what} interpolated ({old.position_interpolation}) {_grids(old, new)}"]


def _compute_positions(state: dict[str, Tensor], old: ViTConfig, new: ViTConfig) -> list[str]:
    """The table of sines and cosines, unless the start model has the same one: what it learned does not belong there."""
    same = [(c.position, c.grid, c.position_grid or c.grid, c.position_shape) for c in (old, new)]
    if same[0] == same[1]:
        return []
    table = KINDS[new.position].create(new)
    assert table is not None
    state["pos_embed"] = table.detach()
    return [f"position embedding computed {_grids(old, new)}"]


def _grids(old: ViTConfig, new: ViTConfig) -> str:
    (h, w), (h2, w2) = old.grid, new.grid
    return f"for a grid of {h}x{w}" if old.grid == new.grid else f"from a grid of {h}x{w} to {h2}x{w2}"


def _fit_patches(state: dict[str, Tensor], old: ViTConfig, new: ViTConfig) -> list[str]:
    """Bring the patch kernel to the new patch size."""
    if old.patch_size == new.patch_size or old.stem != new.stem:
        return []
    same_grid = old.at_size((old.grid[0] * new.patch_size, old.grid[1] * new.patch_size), new.patch_size)
    state |= resized_state(state, old, same_grid)
    return [f"patch kernel resized (pseudo-inverse) from {old.patch_size} to {new.patch_size} pixels"]


def _fit_representation(state: dict[str, Tensor], old: ViTConfig, new: ViTConfig) -> list[str]:
    if old.representation in (None, new.representation):
        return []
    for key in [key for key in state if key.startswith(_REPRESENTATION)]:
        del state[key]
    return [f"representation layer of width {old.representation} dropped"]


def _fit_heads(
    state: dict[str, Tensor], source: Model, wanted: dict[str, tuple[int, ...]], labels: tuple[str, ...]
) -> list[str]:
    """Keep the head's rows by the names of the classes where all are known, else start every head at zero."""
    old = {key: state.pop(key) for key in list(state) if key.startswith(_HEADS)}
    heads = {key: shape for key, shape in wanted.items() if key.startswith(_HEADS)}
    if not heads:
        return []
    classes = next(iter(heads.values()))[0]
    known = {name: row for row, name in enumerate(source.labels)}
    same_input = all(key in old and old[key].shape[1:] == shape[1:] for key, shape in heads.items())
    if (
        labels
        and same_input
        and len(labels) == classes
        and len(known) == len(source.labels)
        and known.keys() >= set(labels)
    ):
        rows = torch.tensor([known[name] for name in labels])
        state |= {key: old[key][rows] for key in heads}
        if labels == source.labels:
            return [f"head kept: the {classes} labels are the same"]
        return [f"head kept: its rows for the {classes} labels, of {len(known)}, in their order here"]
    state |= {key: torch.zeros(shape) for key, shape in heads.items()}
    return [f"head of {classes} classes starts at zero"]


def _changed_function(old: ModelConfig, new: ModelConfig) -> list[str]:
    """What differs beyond size and regularisation, and yet fits the parameters: the person should know."""
    names = [field.name for field in dataclasses.fields(old) if field.name not in _OF_TRAINING]
    return [
        f"model.{name} was {_choice(old, name)} in the start model and is {_choice(new, name)} now"
        for name in names
        if getattr(old, name) != getattr(new, name) and _choice(old, name) != _choice(new, name)
    ]


def _choice(config: ModelConfig, name: str) -> object:
    """A field's value; of ``position_site`` the place itself, as null and the usual place's name are the same."""
    return config.site if isinstance(config, ViTConfig) and name == "position_site" else getattr(config, name)
