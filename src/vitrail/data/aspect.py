"""The grid of patches that an image of any shape has for a model that keeps aspect ratios (mode native)."""

import math


def grid_of(size: tuple[int, int], most: int) -> tuple[int, int]:
    """Rows and columns of patches for an image of ``size``: at most so many together, of its aspect ratio as nearly as goes."""
    height, width = size

    def beside(exact: float) -> set[int]:
        return {min(max(1, number), most) for number in (math.floor(exact), math.ceil(exact))}

    heights, widths = beside(math.sqrt(most * height / width)), beside(math.sqrt(most * width / height))
    # to each number of rows and of columns the other that suits it; where there would be too many, it gives way
    grids = {(h, min(w, most // h)) for h in heights for w in widths | beside(h * width / height)}
    grids |= {(min(h, most // w), w) for w in widths for h in heights | beside(w * height / width)}

    def loss(grid: tuple[int, int]) -> tuple[float, int]:
        h, w = grid
        # a patch that is missing costs half of what the same share of distortion does
        return abs(math.log(h * width / (w * height))) + 0.5 * math.log(most / (h * w)), w

    return min(grids, key=loss)
