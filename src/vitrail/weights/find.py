"""A name given by a person -> the model folder or weights file that it means: a path, a run, or a hub id."""

import difflib
from pathlib import Path

from vitrail.errors import UserError
from vitrail.model.variants import variant
from vitrail.weights import replace
from vitrail.weights.files.untrusted import shown
from vitrail.weights.folder import RUN_MODEL
from vitrail.weights.found import CARD, CONFIG, PROCESSOR, PROCESSOR_OF_ALL, SUFFIXES, is_model_folder

HUB, TIMM = "hf:", "timm:"
_DOCUMENTS = [CONFIG, PROCESSOR, PROCESSOR_OF_ALL]
# What is fetched from a repository, the first that it has: safetensors (whole, or in parts with their index), else pickles.
_WEIGHTS = (
    ["model*.safetensors", "model.safetensors.index.json"],
    ["pytorch_model*.bin", "pytorch_model.bin.index.json"],
)


def find(name: str | Path) -> Path:
    """The model folder, or the file of weights, that a name means.

    Args:
        name: a model folder; a run folder (its ``model/``); a file of weights (``.safetensors``, ``.pth``, ``.pt``,
            ``.bin``, ``.ckpt``, ``.npz``); ``hf:owner/name`` or ``hf:owner/name@revision`` for the Hugging Face Hub; or
            ``timm:NAME.TAG`` for the weights that timm publishes there.

    Raises:
        UserError: nothing of the kind is there.
    """
    if str(name).startswith(HUB):
        return _from_hub(str(name), str(name).removeprefix(HUB))
    if str(name).startswith(TIMM):
        model = str(name).removeprefix(TIMM)
        if "." not in model:
            raise UserError(
                f"{name}: timm's weights are called NAME.TAG, such as {TIMM}vit_base_patch16_224.augreg_in21k"
            )
        return _from_hub(str(name), f"timm/{model}")
    try:
        path = Path(name).expanduser()
        replace.recover(path)
        replace.recover(path / RUN_MODEL)
        if path.is_file():
            return _file(path)
        if path.is_dir():
            return _folder(path)
        problem = _nothing_at(str(name), path)
    except (OSError, RuntimeError, ValueError) as error:  # no such user, a name too long, a folder that may not be read
        raise UserError(f"{str(name)[:200]!r} cannot be looked at: {str(error)[:200]}") from None
    raise problem


def _folder(path: Path) -> Path:
    if is_model_folder(path):
        return path
    if is_model_folder(path / RUN_MODEL):
        return path / RUN_MODEL
    if (path / "recipe.yaml").is_file():
        raise UserError(f"{path} is a run that has no model yet: it writes {path / RUN_MODEL} at its first evaluation")
    raise UserError(f"{path} is neither a model folder ({CONFIG} in it) nor a run ({RUN_MODEL}/{CONFIG} in it)")


def _file(path: Path) -> Path:
    if path.name in (*_DOCUMENTS, CARD):
        return _folder(path.parent)
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} does not open here: weights are files that end in {', '.join(sorted(SUFFIXES))}")
    return path


def _nothing_at(name: str, path: Path) -> UserError:
    try:
        variant(name)
    except UserError:
        pass
    else:
        return UserError(f"{name} is a variant, which has no weights: give a run, a model folder or {HUB}owner/name")
    parent = path.parent
    siblings = [p.name for p in parent.iterdir() if not p.name.startswith(".")] if parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=3)
    if near:
        hint = f"did you mean {' or '.join(str(parent / n) for n in near)}?"
    elif not parent.is_dir():
        hint = f"there is no folder {parent} either"
    else:
        hint = f"{HUB}owner/name takes one from the Hugging Face Hub"
    return UserError(f"no model at {name}: looked for a model folder, a run or a file of weights; {hint}")


def _from_hub(name: str, identifier: str) -> Path:
    """Download ``owner/name`` (or ``owner/name@revision``) into the Hub's cache, or find it there.

    Weights are fetched as safetensors where the repository has them, else pickled.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, _, revision = identifier.partition("@")
    try:
        for weights in _WEIGHTS:
            patterns = [*_DOCUMENTS, *weights]
            folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=patterns))
            if any(folder.glob(weights[0])):
                break
    except HFValidationError as error:
        raise UserError(
            f"{name} is not a hub id: write {HUB}owner/name or {HUB}owner/name@revision ({error})"
        ) from None
    except GatedRepoError:
        raise UserError(f"{name} is gated: ask for access on its page, then log in with `hf auth login`") from None
    except RepositoryNotFoundError:
        raise UserError(f"{name}: the Hub has no such public repository; if it is private, `hf auth login`") from None
    except RevisionNotFoundError:
        raise UserError(f"{name}: the repository has no revision {revision!r}") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise UserError(f"{name} is not in the local cache, and the Hub cannot be reached: check the network") from None
    except Exception as error:  # every other failure of the network or of the disk, of whichever library below
        raise UserError(f"{name} cannot be fetched: {shown(error)}") from None
    if not is_model_folder(folder):
        raise UserError(f"{name} holds no {CONFIG}: it is not a model folder")
    return folder
