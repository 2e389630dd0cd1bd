"""Images looked at before a command computes with them: the bad ones are an error with the way out, or left out."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitrail.data.cache import Checked
    from vitrail.data.preprocess import Preprocess
    from vitrail.data.samples import Samples


def checked(
    samples: "Samples",
    preprocess: "Preprocess",
    *,
    skip_bad: bool,
    keep: bool = False,
    at_most: int | None = None,
    neighbours: int = 1,
    quiet: bool = False,
) -> "Checked":
    """The samples that can be decoded; how many are left out is said.

    Args:
        keep: keep them decoded, if they fit into the memory for that.
        at_most: as for ``check_images``.
        neighbours: processes on this machine that look at images at the same time.
        quiet: say nothing.

    Raises:
        UserError: how many cannot be decoded and which are the first, unless ``skip_bad``.
    """
    from vitrail.cli.console import note
    from vitrail.cli.progress import progress
    from vitrail.data.cache import CACHE_BYTES, cache_bytes, check_images
    from vitrail.data.workers import cores

    with progress("looking at images") as tell:
        found = check_images(
            samples,
            preprocess,
            workers=max(1, cores() // neighbours),
            skip_bad=skip_bad,
            keep=keep and cache_bytes(len(samples), preprocess) <= CACHE_BYTES,
            at_most=at_most,
            progress=tell,
        )
    if found.bad and not quiet:
        note(f"{len(found.bad)} of {len(samples)} images cannot be used and are left out: {found.bad[0].message}")
    return found
