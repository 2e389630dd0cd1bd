"""The errors that are told to a person in one line, and what goes into them: the nearest valid name, whether a disk is full."""

import errno
from collections.abc import Iterable
from difflib import get_close_matches

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(Exception):
    """Wrong usage or unusable input: one or two lines that name the file, key or shape, and the way out.

    The command line prints the message alone and exits with code 2; inside the library it is raised like any other.
    """


class Failure(Exception):
    """Work that was rightly asked for and did not succeed; the command line prints the message and exits with code 1."""


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """A hint that names the valid names nearest to ``name``, or all of them where none is near.

    >>> did_you_mean("lerning_rate", ["learning_rate", "epochs"])
    'did you mean learning_rate?'
    """
    valid = list(valid)
    folded = {v.lower(): v for v in valid}
    near = [folded[n] for n in get_close_matches(name.lower(), folded, n=3, cutoff=0.6)]
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"valid names: {', '.join(valid)}"


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk, or a quota, is full; those of libraries say it in their text alone."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _NO_SPACE
    text = str(error).lower()
    if "iostream error" in text:  # OpenVINO, which writes through C++, gives no better sign
        return True
    return any(f"os error {number})" in text or f"errno {number}]" in text for number in _NO_SPACE)
