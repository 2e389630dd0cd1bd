"""Which files of a folder hold the weights."""

from pathlib import Path

from vitrail.errors import UserError
from vitrail.weights.files.untrusted import inside, read_json, shown

_SAFETENSORS = ".safetensors"
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_INDEX = ".index.json"
_OTHERS = (".npz", ".pth", ".pt", ".bin", ".ckpt")
# What training leaves beside the weights, in files of the same kinds.
_NO_WEIGHTS = ("training_args.", "optimizer.", "scheduler.", "scaler.", "rng_state")


def weights_files(folder: Path) -> tuple[Path, ...]:
    """The files of a folder that hold the weights: one, or the parts that an index names.

    ``model.safetensors`` or its parts come first, then ``pytorch_model.bin`` or its parts, then the only safetensors
    file, then the only file of another kind.

    Raises:
        UserError: there is none, or more than one to choose from; a part is missing; a file is a link out of the folder.
    """
    for name in _WHOLE:
        if (folder / name).is_file() or (folder / name).is_symlink():
            return (inside(folder, folder / name),)
        index = folder / f"{name}{_INDEX}"
        if index.is_file() or index.is_symlink():
            return _parts(folder, inside(folder, index), Path(name).suffix)
    try:
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith((".", *_NO_WEIGHTS)))
    except OSError as error:
        raise UserError(f"{shown(folder)} cannot be looked into: {shown(error)}") from None
    for suffixes in ((_SAFETENSORS,), _OTHERS):
        found = [name for name in names if name.endswith(suffixes)]
        if len(found) > 1:
            raise UserError(
                f"{shown(folder)} holds several files of weights ({shown(', '.join(found))}): name one of them itself"
            )
        if found:
            return (inside(folder, folder / found[0]),)
    there = f"it holds {shown(', '.join(names))}" if names else "it is empty"
    raise UserError(
        f"{shown(folder)} has no weights, such as {_WHOLE[0]}, nor one file of {_SAFETENSORS}, {', '.join(_OTHERS)}: {there}"
    )


def _parts(folder: Path, index: Path, suffix: str) -> tuple[Path, ...]:
    """The files that an index names, each once."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise UserError(f'{shown(index)} has no "weight_map" that names the files of weights')
    parts = {}
    for name in names.values():
        # A name alone, in the sense of any system: no folder, no drive, nothing that leads elsewhere.
        if not isinstance(name, str) or not name.endswith(suffix) or any(c in name for c in "/\\:\0") or name == suffix:
            raise UserError(f"{shown(index)} names {shown(name)}, which is no file of weights in its folder")
        if name not in parts:
            parts[name] = inside(folder, folder / name)
            if not parts[name].is_file():
                raise UserError(f"{shown(folder)} has no {shown(name)}, which {shown(index.name)} says holds weights")
    return tuple(parts[name] for name in sorted(parts))
