"""The origins of models that open here, and that ours are written for; to add one, write its module and name it here.

Reading a configuration imports neither torch nor the origin's own library, so that ``vitrail info`` is instant.
"""

from functools import cache
from importlib import import_module
from itertools import islice

from vitrail.errors import UserError, did_you_mean
from vitrail.weights.files.untrusted import shown
from vitrail.weights.formats.format import Format
from vitrail.weights.found import Found

# Modules with one FORMAT or several FORMATS each. The first that recognises a model reads it, and the first of an origin
# that has an equal of a model writes it.
_MODULES = ("native", "timm", "transformers", "google", "torchvision", "facebook", "vit_pytorch")


@cache
def formats() -> tuple[Format, ...]:
    """Every format, in the order in which they are asked."""
    modules = [import_module(f"vitrail.weights.formats.{name}") for name in _MODULES]
    return tuple(known for module in modules for known in module.FORMATS)


def origins() -> tuple[str, ...]:
    """The names for ``convert --to``."""
    return tuple(dict.fromkeys(known.origin for known in formats() if known.no_equal is not None))


def recognise(found: Found) -> Format:
    """The first format that knows a model.

    Raises:
        UserError: none does.
    """
    for known in formats():
        if known.recognises(found):
            return known
    if found.config:
        kind = found.config.get("model_type")
        keys = ", ".join(shown(key, 60) for key in islice(found.config, 6))
        what = f"model_type {shown(repr(kind), 100)}" if kind else f"keys {keys}"
        raise UserError(f"{found.document} is not a configuration that opens here ({what}): {_known()}")
    if found.path.is_dir():
        raise UserError(f"{found.document} is not a configuration that opens here (keys none): {_known()}")
    names = ", ".join(shown(name, 100) for name in islice(found.shapes, 3))
    raise UserError(f"{found.path}: names such as {names} are not those of a model that opens here: {_known()}")


def writers(origin: str, config: object) -> tuple[Format, ...]:
    """The formats in which an origin's library has an equal of a configuration, the first choice first.

    Raises:
        UserError: no such origin, or it has no equal of this model, with the reason.
    """
    if origin not in origins():
        raise UserError(f"--to {origin}: {did_you_mean(origin, origins())}")
    reasons = {
        known.name: known.no_equal(config)
        for known in formats()
        if known.origin == origin and known.no_equal is not None
    }
    able = tuple(known for known in formats() if known.name in reasons and reasons[known.name] is None)
    if not able:
        by_reason: dict[str | None, list[str]] = {}
        for name, why in reasons.items():
            by_reason.setdefault(why, []).append(name)
        told = [f"{', '.join(names)}: {why}" if len(reasons) > 1 else str(why) for why, names in by_reason.items()]
        raise UserError(f"{origin} has no equal of this model ({'; '.join(told)})")
    return able


def _known() -> str:
    names = list(dict.fromkeys(known.origin for known in formats()))
    return f"models of {', '.join(names[:-1])} and {names[-1]} do"
