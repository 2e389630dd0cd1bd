"""Which of the models in a checkpoint is meant, and its tensors under the names that the model gives them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vitrail.errors import UserError
from vitrail.weights.files.pickled_names import Placeholder, SavedTensor
from vitrail.weights.files.untrusted import shown

# The keys under which published checkpoints keep a model. Averaged weights come first, as they predict better: the
# moving average of supervised training, and the teacher of self-supervised training, which is one.
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "teacher", "target_encoder")
_PLAIN = ("state_dict", "model", "model_state_dict", "model_state", "module", "net", "network", "backbone", "encoder")
_WRAPPERS = (*_AVERAGED, *_PLAIN, "student")
# Words in the keys of tensors that are no model.
_NO_MODEL = ("optim", "schedule", "scaler", "loss", "criterion", "random", "rng")
_DEPTH = 4

_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")  # of every name, left by what wrapped the model
_BACKBONE, _PROJECTIONS = "backbone.", ("head.", "dino_head.", "ibot_head.")
_TEACHER, _STUDENT = "teacher.", "student."


@dataclass(frozen=True)
class State:
    """A model's tensors by name, and sentences for the person on which were taken."""

    tensors: Mapping[str, SavedTensor]
    notes: tuple[str, ...]


def choose(content: object, source: object) -> State:
    """The model of a checkpoint: averaged weights or the teacher's before others, from under whatever keys they lie.

    Raises:
        UserError: there is no tensor, there are several models to choose from, or one with tensors of unknown kinds.
    """
    if not isinstance(content, dict):
        raise UserError(f"{source} holds no weights by name: it must be a state_dict() that torch.save wrote")
    state, trail, others = content, list[str](), list[str]()
    while len(trail) < _DEPTH:
        models = [key for key, value in state.items() if type(key) is str and _has_tensors(value)]
        taken = next((key for key in _WRAPPERS if key in models), None)
        if taken is None and not any(isinstance(value, SavedTensor) and value.shape for value in state.values()):
            candidates = [key for key in models if not any(word in key.lower() for word in _NO_MODEL)]
            if len(candidates) > 1:
                names = shown(", ".join(candidates))
                raise UserError(
                    f"{source} holds several models ({names}): save the state_dict() of one in a file of its own"
                )
            taken = candidates[0] if candidates else None
        if taken is None:
            break
        trail.append(taken)
        others += [key for key in models if key != taken]
        state = state[taken]
    tensors = _tensors(state, source)
    if not trail:
        return State(tensors, ())
    also = f"; the file also has tensors under {shown(', '.join(others))}" if others else ""
    averaged = " (averaged weights)" if any(key in _AVERAGED for key in trail) else ""
    return State(tensors, (f"took the weights under {shown('.'.join(trail))}{averaged}{also}",))


def _has_tensors(value: object) -> bool:
    """Whether a value is a dictionary with tensors by name, or one of such dictionaries."""
    seen = set[int]()  # the same dictionary may lie in a thousand places

    def look(value: object, depth: int) -> bool:
        if not isinstance(value, dict) or id(value) in seen or depth == _DEPTH:
            return False
        seen.add(id(value))
        named = [inner for key, inner in value.items() if type(key) is str]
        return any(isinstance(inner, SavedTensor) for inner in named) or any(look(inner, depth + 1) for inner in named)

    return look(value, 0)


def _tensors(state: Mapping[object, object], source: object) -> dict[str, SavedTensor]:
    tensors = {}
    for name, value in state.items():
        if isinstance(name, str) and isinstance(value, SavedTensor):
            tensors[name] = value
        elif isinstance(value, Placeholder) and value.is_tensor:
            raise UserError(
                f"{source}: {shown(name)} is a tensor of a kind that does not open here "
                f"({value.name.removeprefix('torch._utils._rebuild_')}): save it as an ordinary one"
            )
    if not tensors:
        raise UserError(f"{source} holds no tensors by name: it must be a state_dict() that torch.save wrote")
    return tensors


def without_wrappers(names: Iterable[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The names that belong to the model, with what wrapped the model taken off them, and notes on what was left out.

    Returns:
        Name -> name in the model. A prefix is taken off only if all have it; beside ``backbone.`` there may be the
        projection heads of self-supervised training, and beside ``teacher.`` the ``student.``: these are left out.
    """
    kept, notes = {name: name for name in names}, []
    while True:
        inner = list(kept.values())
        if any(name.startswith(_TEACHER) for name in inner) and any(name.startswith(_STUDENT) for name in inner):
            prefix, left_out = _TEACHER, [name for name in inner if not name.startswith(_TEACHER)]
        elif any(name.startswith(_BACKBONE) for name in inner):
            prefix, left_out = _BACKBONE, [name for name in inner if not name.startswith(_BACKBONE)]
            if not all(name.startswith(_PROJECTIONS) for name in left_out):
                break
        else:
            prefix, left_out = next((p for p in _PREFIXES if all(name.startswith(p) for name in inner)), ""), []
        stripped = {whole: name.removeprefix(prefix) for whole, name in kept.items() if name.startswith(prefix)}
        if not prefix or "" in stripped.values():
            break
        kept = stripped
        if left_out:
            heads = sorted({name.partition(".")[0] for name in left_out})
            notes.append(f"left out {len(left_out)} tensors beside {prefix}* ({shown(', '.join(heads))})")
    return kept, tuple(notes)
