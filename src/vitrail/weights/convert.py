"""A model -> the files of another library, which opens them with its own ordinary call."""

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.errors import UserError
from vitrail.weights import embedded, replace
from vitrail.weights.folder import check_target, write_json, write_tensors
from vitrail.weights.formats import writers
from vitrail.weights.formats.format import Format
from vitrail.weights.found import is_model_file
from vitrail.weights.names import Tensors, to_theirs

if TYPE_CHECKING:
    from vitrail.model import Model


def convert(model: "Model", origin: str, out: str | Path) -> Format:
    """Write a model as its equal in another library.

    Args:
        model: any model; its answers are the same there to rounding.
        origin: ``timm``, ``transformers``, ``google`` ... (see ``formats.origins``).
        out: a folder, created or replaced where it holds a model already; for an origin whose models are one file,
            such as Google's ``.npz``, that file.

    Returns:
        The format that was written.

    Raises:
        UserError: the origin has no equal of this model, with the reason; or ``out`` is something else.
    """
    known, tensors = _fitting(model, origin)
    out = Path(out)
    documents = known.documents(model.config, model.labels, model.preprocess)
    if documents:
        check_target(out)
        _refuse_other_files(out)
        with replace.folder(out) as staging:
            write_tensors(tensors, staging / known.weights_file)
            for name, values in documents.items():
                write_json(values, staging / name)
        return known
    suffix = Path(known.weights_file).suffix
    if out.suffix != suffix:
        raise UserError(f"--out {out}: the format {known.name} is one file, whose name must end in {suffix}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with replace.file(out) as staging:
        if suffix == ".npz":
            _write_npz(tensors, staging, embedded.comment(embedded.write(model)))
        else:
            write_tensors(tensors, staging, **{embedded.KEY: embedded.write(model)})
    return known


def _refuse_other_files(folder: Path) -> None:
    """Refuse a folder that holds more than a model, since the new model takes the place of all that is in it."""
    others = [path.name for path in folder.iterdir() if not is_model_file(path)] if folder.is_dir() else []
    if others:
        raise UserError(f"{folder} holds other files too ({', '.join(sorted(others)[:3])}): choose another place")


def _fitting(model: "Model", origin: str) -> tuple[Format, Tensors]:
    """The first format whose tensors can hold the model's values, and these tensors."""
    problem: UserError | None = None
    for known in writers(origin, model.config):
        try:
            return known, tensors_for(known, model)
        except UserError as error:  # a value that has no place in this format, such as a bias that must be zero
            problem = problem or error
    assert problem is not None
    raise problem


def tensors_for(known: Format, model: "Model") -> Tensors:
    """The model's tensors under a format's names."""
    from vitrail.weights.build import shapes

    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    state = known.before_writing(state, model.config)
    return to_theirs(known.entries(model.config, {}, shapes(model)), state)


def _write_npz(tensors: Tensors, path: Path, comment: bytes) -> None:
    import numpy as np

    with path.open("wb") as file:  # a file, since NumPy would append a suffix to a name
        arrays: dict[str, Any] = {name: tensor.contiguous().numpy() for name, tensor in tensors.items()}
        np.savez(file, **arrays)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = comment
