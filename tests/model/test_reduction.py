"""How many tokens the blocks see: schedules of merging, and what is refused before anything is computed."""

import subprocess
import sys
from typing import Any

import pytest

from vitrail.errors import UserError
from vitrail.model import variant
from vitrail.model.cost import flops
from vitrail.model.reduction import Merging, block_tokens, kept_patches


def test_a_whole_number_is_merged_in_every_block() -> None:
    assert Merging(8).counts(196, 12) == (8,) * 12
    assert Merging(0).counts(196, 12) == (0,) * 12


def test_a_share_is_gone_behind_the_last_block() -> None:
    for patches, depth, share in [(196, 12, 0.5), (49, 12, 0.3), (256, 24, 0.75), (15, 4, 0.2)]:
        counts = Merging(share).counts(patches, depth)
        assert sum(counts) == round(patches * share)
        assert max(counts) - min(counts) <= 1


def test_falling_merges_as_many_and_most_of_them_first() -> None:
    counts = Merging(8, falling=True).counts(196, 12)
    assert sum(counts) == 96
    assert counts[0] == 16
    assert counts[-1] == 0
    assert list(counts) == sorted(counts, reverse=True)
    assert Merging(5, falling=True).counts(20, 1) == (5,)
    config = variant("S/16")
    assert sum(flops(config, Merging(8, falling=True)).values()) < sum(flops(config, Merging(8)).values())


def test_no_block_merges_more_than_half() -> None:
    assert Merging(100).counts(49, 4) == (24, 12, 6, 3)
    assert Merging(3).counts(1, 2) == (0, 0)


@pytest.mark.parametrize("amount", [-1, 1.0, 0.0, 1.5, -0.5, float("nan"), True])
def test_impossible_amounts_are_refused(amount: Any) -> None:
    with pytest.raises(UserError, match="the patches that a block merges, such as 8"):
        Merging(amount)


def test_merging_stands_between_attention_and_mlp() -> None:
    config = variant("S/16", depth=3)
    assert block_tokens(config, Merging(10)) == [(197, 187), (187, 177), (177, 167)]
    assert block_tokens(config, dropped=0.5) == [(99, 99)] * 3


@pytest.mark.parametrize(("patches", "share", "left"), [(196, 0.0, 196), (196, 0.5, 98), (10, 0.25, 8), (4, 0.99, 1)])
def test_a_share_of_the_patches_is_dropped_and_never_all(patches: int, share: float, left: int) -> None:
    assert kept_patches(patches, share) == left


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_an_impossible_share_to_drop_is_refused(share: float) -> None:
    with pytest.raises(UserError, match="patch_drop"):
        kept_patches(10, share)


def test_counting_needs_no_torch() -> None:
    code = "import sys; from vitrail.model import variant; from vitrail.model.reduction import Merging; "
    code += "Merging(8).counts(196, 12); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
