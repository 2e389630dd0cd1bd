"""Every tensor is placed, excused by name, or listed."""

import pytest
import torch

from vitrail.errors import UserError
from vitrail.weights.names import (
    TRANSPOSED,
    UNBATCHED,
    Entry,
    entry,
    joined,
    module,
    plan,
    to_ours,
    to_theirs,
    zeros,
)

OURS = {"qkv.weight": (6, 4), "qkv.bias": (6,), "positions": (1, 5, 4), "proj.weight": (4, 2), "proj.bias": (4,)}
ENTRIES = [
    *joined("qkv", "q", "k", "v"),
    entry("positions", "table", layout=UNBATCHED),
    *module("proj", "out", layout=TRANSPOSED),
    entry("of another model", "elsewhere"),
]


def theirs() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    shapes = {f"{name}.weight": (2, 4) for name in "qkv"} | {f"{name}.bias": (2,) for name in "qkv"}
    shapes |= {"table": (5, 4), "out.weight": (2, 4), "out.bias": (4,)}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def read(tensors: dict[str, torch.Tensor], excuses: dict[str, str] | None = None) -> dict[str, torch.Tensor]:
    chosen, report = plan(ENTRIES, {name: tuple(t.shape) for name, t in tensors.items()}, OURS, excuses or {})
    return to_ours(chosen, report, dict(tensors), OURS, "file.pth")


def test_tensors_go_there_and_back_to_the_bit() -> None:
    tensors = theirs()
    state = read(tensors)
    assert {name: tuple(t.shape) for name, t in state.items()} == OURS
    torch.testing.assert_close(state["qkv.weight"][2:4], tensors["k.weight"], rtol=0, atol=0)
    torch.testing.assert_close(state["proj.weight"], tensors["out.weight"].T, rtol=0, atol=0)
    back = to_theirs(ENTRIES, state)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) and back[name].is_contiguous() for name in tensors)


def test_an_excused_tensor_is_left_out_and_the_reason_is_kept() -> None:
    tensors = theirs() | {"decoder.0.weight": torch.randn(1)}
    excuses = {"decoder.*": "it is of the pre-training"}
    assert read(tensors, excuses).keys() == OURS.keys()
    _, report = plan(ENTRIES, {name: tuple(t.shape) for name, t in tensors.items()}, OURS, excuses)
    assert report.excused == {"decoder.0.weight": "it is of the pre-training"}
    assert (("q.bias", "k.bias", "v.bias"), "qkv.bias") in report.placed


def test_what_does_not_fit_is_listed_with_the_names_of_both_sides() -> None:
    tensors = theirs()
    tensors["out.wieght"] = tensors.pop("out.weight")
    with pytest.raises(UserError, match=r"file\.pth: .*1 missing \(out\.weight, nearest is out\.wieght\); 1 left over"):
        read(tensors)
    tensors = theirs() | {"table": torch.randn(6, 4)}
    with pytest.raises(UserError, match=r"1 of another shape \(positions 1x6x4 instead of 1x5x4\)"):
        read(tensors)
    tensors = theirs() | {"k.weight": torch.randn(2, 3)}
    with pytest.raises(UserError, match=r"1 of another shape \(qkv\.weight 2x4 instead of 6x4\)"):
        read(tensors)


def test_of_several_names_the_one_that_the_file_has_is_taken_and_the_first_is_written() -> None:
    entries = [entry("a", "new"), entry("a", "old")]
    chosen, report = plan(entries, {"old": (1,)}, {"a": (1,)}, {})
    assert (chosen, report.problem) == ([Entry("a", ("old",))], None)
    assert list(to_theirs(entries, {"a": torch.randn(1)})) == ["new"]


def test_a_tensor_that_the_origin_has_not_got_is_zero_and_must_be_zero_to_be_written() -> None:
    entries = [entry("bias", layout=zeros("a bias"))]
    chosen, report = plan(entries, {}, {"bias": (3,)}, {})
    assert torch.equal(to_ours(chosen, report, {}, {"bias": (3,)}, "file")["bias"], torch.zeros(3))
    assert to_theirs(entries, {"bias": torch.zeros(3)}) == {}
    with pytest.raises(UserError, match="the model has a bias, which has no place in that format"):
        to_theirs(entries, {"bias": torch.ones(3)})


def test_a_tensor_of_ours_without_a_place_is_an_error() -> None:
    with pytest.raises(UserError, match=r"1 tensors have no place in that format \(b\)"):
        to_theirs([entry("a", "a")], {"a": torch.randn(1), "b": torch.randn(1)})


def test_one_tensor_may_be_read_twice() -> None:
    whole = torch.randn(2, 3)
    from vitrail.weights.names import Layout

    def row(i: int) -> Layout:
        return Layout(lambda tensors, shape: tensors[0][i], lambda tensor: [tensor])

    entries = [entry(f"block {i}", "stack", layout=row(i)) for i in range(2)]
    wanted = {"block 0": (3,), "block 1": (3,)}
    chosen, report = plan(entries, {"stack": (2, 3)}, wanted, {})
    state = to_ours(chosen, report, {"stack": whole}, wanted, "file")
    torch.testing.assert_close(torch.stack(list(state.values())), whole, rtol=0, atol=0)


def test_names_of_a_stranger_stay_on_one_short_line() -> None:
    tensors = theirs() | {"qkv" + chr(27) + "[2J\n" + "x" * 10**6: torch.randn(1)}
    del tensors["table"]
    with pytest.raises(UserError, match=r"1 missing \(table\); 1 left over \(qkv\?\[2J x") as error:
        read(tensors)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1000


def test_very_many_names_are_not_compared_with_each_missing_one() -> None:
    wanted = {f"block.{i}.weight": (1,) for i in range(5000)}
    shapes = {f"block.{i}.wieght": (1,) for i in range(5000)}
    _, report = plan([entry(name, name) for name in wanted], shapes, wanted, {})
    assert report.problem is not None
    assert "5000 missing (block.0.weight, block.1.weight, block.2.weight, block.3.weight, ...)" in report.problem
