"""``vitrail resize``: a model brought to another image size or patch size, written as a model folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitrail.cli.models import Settings
from vitrail.cli.pixels import CropFraction, Interpolation, Mean, Mode, Std
from vitrail.errors import UserError

if TYPE_CHECKING:
    from vitrail.model import Model, ModelConfig, ViTConfig

_PATCH_METHODS = {"pseudo_inverse": "by pseudo-inverse", "interpolate": "by plain interpolation"}


def resize(
    model: Annotated[str, typer.Argument(help="A run, a model folder, a file of weights, hf:owner/name or timm:NAME.")],
    out: Annotated[Path, typer.Option(help="The model folder to write.")],
    image_size: Annotated[
        str | None, typer.Option(help="The new image size: 384, or 384x256 for height x width.")
    ] = None,
    patch_size: Annotated[int | None, typer.Option(help="The new side of a patch in pixels.")] = None,
    method: Annotated[
        str | None,
        typer.Option(help="How positions are interpolated, such as bicubic; without it, the model's own way."),
    ] = None,
    patch_method: Annotated[
        str | None,
        typer.Option(help="How the patch kernel is resized: pseudo_inverse (default) keeps its tokens; interpolate."),
    ] = None,
    mean: Mean = None,
    std: Std = None,
    mode: Mode = None,
    crop_fraction: CropFraction = None,
    interpolation: Interpolation = None,
    set_: Settings = None,
) -> None:
    """Bring a model to another image size, patch size, or both, say what that changes, and write a model folder."""
    from vitrail.cli.console import console, note
    from vitrail.cli.models import describe, say_notes
    from vitrail.cli.pixels import pixels
    from vitrail.cli.sizes import image_size as parse_size
    from vitrail.weights.folder import check_target, save
    from vitrail.weights.load import load_found
    from vitrail.weights.resize import resize as run

    said = pixels(mean, std, mode, crop_fraction, interpolation)
    wanted = Wanted(parse_size(image_size) if image_size is not None else None, patch_size, method, patch_method)
    description = describe(model, set_)
    new = wanted.check(description.config)  # before any weights are read
    check_target(out)
    if out.exists() and out.resolve() == description.found.path.resolve():
        raise UserError(f"--out {out} is the model itself: choose another place")
    say_notes(description, said)
    source = load_found(description, said.of(description, model) if said.changes else None)
    resized = run(source, wanted.image_size, patch_size, method=method, patch_method=patch_method or "pseudo_inverse")
    save(resized, out)
    result = console()
    for line in _changes(source, resized, wanted):
        result.print(line, markup=False)
    result.print(f"written:   {out}", markup=False)
    if resized.preprocess is None:
        note("no pixel contract is written, as none is known: --mean and --std give one")
    if new != description.config:
        note(
            f"its accuracy is another now: vitrail evaluate {out} DATA measures it, vitrail train --init {out} mends it"
        )


@dataclass(frozen=True)
class Wanted:
    """What a person asks for; None leaves it as it is."""

    image_size: tuple[int, int] | None
    patch_size: int | None
    method: str | None
    patch_method: str | None

    def check(self, config: "ModelConfig") -> "ModelConfig":
        """The configuration wanted, of a model with this one.

        Raises:
            UserError: nothing to do, a size that is not possible, or a method with nothing to do.
        """
        from vitrail.cli.sizes import require_sizes
        from vitrail.errors import did_you_mean
        from vitrail.model import ViTConfig
        from vitrail.model.config import INTERPOLATIONS
        from vitrail.model.fields import size_text

        for option, value, valid in (
            ("--method", self.method, INTERPOLATIONS),
            ("--patch-method", self.patch_method, _PATCH_METHODS),
        ):
            if value is not None and value not in valid:
                raise UserError(f"{option} {value}: {did_you_mean(value, valid)}")
        if self.image_size is None and self.patch_size is None:
            raise UserError("nothing to do: give --image-size, --patch-size or both")
        if self.patch_size is not None and self.patch_size < 1:
            raise UserError(f"--patch-size {self.patch_size}: give the side of a patch in pixels, 1 or more")
        size, grid = self.image_size or config.image_size, config.grid
        if not isinstance(config, ViTConfig):
            for unusable, given in (("--patch-size", self.patch_size), ("--method", self.method)):
                if given is not None:
                    raise UserError(
                        f"{unusable} {given}: this model is a ResNet, without patches or positions; leave it out"
                    )
        if self.patch_method is not None and self.patch_size is None:
            raise UserError(f"--patch-method {self.patch_method} has nothing to do: give --patch-size too")
        if isinstance(config, ViTConfig) and self.patch_size is not None:
            config = config.with_changes(patch_size=self.patch_size, image_size=size)
        if self.method is not None and not _interpolated(config):
            raise UserError(f"--method {self.method} has nothing to do: positions of this model are not interpolated")
        require_sizes(config, [size], batch_size=0, device="cpu")
        new = config.with_changes(image_size=size)
        if self.method is not None and new.grid == grid:
            raise UserError(f"--method {self.method} has nothing to do: the grid of {size_text(grid)} stays as it is")
        return new


def _interpolated(config: "ModelConfig") -> bool:
    """Whether the model has tables of positions that are interpolated, and not computed or none at all."""
    return getattr(config, "position", "none") in ("learned", "learned2d", "relative", "relative_bias")


def _changes(source: "Model", resized: "Model", wanted: Wanted) -> list[str]:
    """What was done to the model and what an image costs it now, a line each."""
    from vitrail.model import ViTConfig
    from vitrail.model.cost import Cost, readable
    from vitrail.model.fields import size_text

    old, new = source.config, resized.config
    lines = [f"image:     {_from_to(size_text(old.image_size), size_text(new.image_size))} pixels"]
    tokens = ""
    if isinstance(old, ViTConfig) and isinstance(new, ViTConfig):
        kernel = f", kernel resized {_PATCH_METHODS[wanted.patch_method or 'pseudo_inverse']}"
        same = old.patch_size == new.patch_size
        lines.append(
            f"patches:   {_from_to(f'{old.patch_size}', f'{new.patch_size}')} pixels a side{'' if same else kernel}"
        )
        lines.append(f"positions: {_positions(old, new, wanted.method)}")
        tokens = f"{_from_to(f'{old.tokens:,}', f'{new.tokens:,}')} tokens, "
    before, after = Cost(old).flops, Cost(new).flops
    times = f"{after / before:.2f}"
    ratio = "" if times == "1.00" else f", {times} times"
    flops = _from_to(readable(before, "FLOPs"), readable(after, "FLOPs"))
    return [*lines, f"an image:  {tokens}{flops}{ratio}"]


def _positions(old: "ViTConfig", new: "ViTConfig", method: str | None) -> str:
    from vitrail.model.fields import size_text

    grids = _from_to(size_text(old.grid), size_text(new.grid))
    if old.position == "none":
        return f"a grid of {grids}; the model has none"
    if not _interpolated(old):
        return f"a grid of {grids}, computed"
    return f"a grid of {grids}" + (
        "" if old.grid == new.grid else f", interpolated ({method or old.position_interpolation})"
    )


def _from_to(old: str, new: str) -> str:
    return old if old == new else f"{old} -> {new}"
