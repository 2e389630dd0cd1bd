"""The start of fine-tuning: the backbone of a trained model, other classes, another resolution."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from vitrail.model import ViT, ViTConfig
from vitrail.model.resize import resize_positions
from vitrail.weights.load import load
from vitrail.weights.match import build

# What may differ without a word: it is fine-tuning's own business.
_OF_TRAINING = {"image_size", "classes", "representation", "dropout", "attention_dropout", "drop_path"}
_HEAD, _REPRESENTATION = "head.", "pre_logits."


def start_from(
    config: ViTConfig, init: ViT | str | Path, *, labels: Sequence[str] = (), method: str = "bicubic_antialias"
) -> tuple[ViT, list[str]]:
    """A model to fine-tune: the weights of ``init`` in the shape of ``config``.

    The head is kept if ``labels`` are exactly those of ``init`` (and its input is the same), else it starts at zero, as
    in the paper (Dosovitskiy et al., 2021, section 3.2), and a representation layer is dropped unless ``config`` asks
    for the one that is there. Learned positions are interpolated to the new grid; fixed ones are computed for it.

    Args:
        config: the model wanted; usually ``read(init).config.with_changes(classes=..., image_size=...)``.
        init: a model, or the name of one (see ``find``).
        labels: class names in the order of the new head's outputs.
        method: how positions are interpolated (see ``resize_positions``).

    Returns:
        The model in training mode, with ``init``'s pixel contract at the new image size, and ``labels``; and a list of
        sentences for the person that say what was taken, changed and started afresh.

    Raises:
        UserError: ``init`` cannot be loaded, or its parameters do not have the shapes that ``config`` needs.
    """
    source = init if isinstance(init, ViT) else load(init)
    name = "the start model" if isinstance(init, ViT) else str(init)
    state: dict[str, Tensor] = {key: tensor.detach().clone() for key, tensor in source.state_dict().items()}
    notes = _changed_function(source.config, config)
    notes += _fit_positions(state, source.config, config, method)
    notes += _fit_head(state, source, config, tuple(labels))
    model = build(config, state, name)
    model.labels = tuple(labels)
    if source.preprocess is not None:
        model.preprocess = dataclasses.replace(source.preprocess, image_size=config.image_size)
    taken = sum(p.numel() for key, p in model.named_parameters() if not key.startswith((_HEAD, _REPRESENTATION)))
    return model.train(), [f"started from {name}: {taken:,} parameters of the backbone", *notes]


def _fit_positions(state: dict[str, Tensor], old: ViTConfig, new: ViTConfig, method: str) -> list[str]:
    if "pos_embed" not in state or old.grid == new.grid:
        return []
    if new.position == "learned":
        state["pos_embed"] = resize_positions(
            state["pos_embed"], old.grid, new.grid, prefix=old.prefix_tokens, method=method
        )
        how = f"interpolated ({method})"
    else:
        fresh = ViT(dataclasses.replace(new, depth=1, classes=0)).pos_embed  # fixed: a function of grid and width
        assert fresh is not None
        state["pos_embed"] = fresh.detach()
        how = "computed"
    (h, w), (h2, w2) = old.grid, new.grid
    return [f"position embedding {how} from a grid of {h}x{w} to {h2}x{w2}"]


def _fit_head(state: dict[str, Tensor], source: ViT, new: ViTConfig, labels: tuple[str, ...]) -> list[str]:
    old = source.config
    same_input = new.representation == old.representation
    if same_input and labels and labels == source.labels and new.classes == old.classes:
        return [f"head kept: the {new.classes} labels are the same"]
    notes = []
    for key in [key for key in state if key.startswith(_HEAD)]:
        del state[key]
    if not same_input:
        for key in [key for key in state if key.startswith(_REPRESENTATION)]:
            del state[key]
        if old.representation is not None:
            notes.append(f"representation layer of width {old.representation} dropped")
    if new.classes:
        state["head.weight"] = torch.zeros(new.classes, new.representation or new.width)
        state["head.bias"] = torch.zeros(new.classes)
        notes.append(f"head of {new.classes} classes starts at zero")
    return notes


def _changed_function(old: ViTConfig, new: ViTConfig) -> list[str]:
    """What differs beyond size and regularisation, and yet fits the parameters: the person should know."""
    names = [field.name for field in dataclasses.fields(ViTConfig) if field.name not in _OF_TRAINING]
    return [
        f"model.{name} was {getattr(old, name)} in the start model and is {getattr(new, name)} now"
        for name in names
        if getattr(old, name) != getattr(new, name)
    ]
