"""``vitrail`` with a witness: which samples each step takes, and what is held at one step and right after going on.

    torchrun --nproc-per-node 2 -m torture.observed FOLDER STEP train digits ...

Writes rank-R.jsonl, a line a step with the samples of this process, held-R.safetensors, the weights and the optimiser's
tensors after STEP steps, and found-R.safetensors, those after going on; each whole, also where processes hold parts.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any


def watch(folder: Path, held_at: int) -> None:
    """Put the witness beside the step and the going on of a run."""
    from safetensors.torch import save_file

    from vitrail.training.state import RunState
    from vitrail.training.step import TrainStep

    rank = os.environ.get("RANK", "0")
    take, restore = TrainStep.__call__, RunState.restore

    def held(of: Any, name: str) -> None:
        tensors = {f"weights {key}": value for key, value in of.model.named_parameters()}
        tensors.update({f"optimiser {key}": value for key, value in of.optimisers.state().items()})
        whole = {key: _whole(value.detach()).cpu().contiguous() for key, value in tensors.items()}
        save_file(whole, folder / f"{name}-{rank}.safetensors")

    def watched_step(self: TrainStep, step: int, batch: Any) -> Any:
        line = {"step": step, "samples": list(zip(batch.epochs.tolist(), batch.indices.tolist(), strict=True))}
        with (folder / f"rank-{rank}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        result = take(self, step, batch)
        if step + 1 == held_at:
            held(self, "held")
        return result

    def watched_restore(self: RunState, *args: Any, **more: Any) -> None:
        restore(self, *args, **more)
        held(self, "found")

    setattr(TrainStep, "__call__", watched_step)  # noqa: B010, as no method is assigned to
    setattr(RunState, "restore", watched_restore)  # noqa: B010


def _whole(tensor: Any) -> Any:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def samples(folder: Path, step: int) -> list[list[int]]:
    """(epoch, index) of every sample of a step, the processes one after another."""
    found: list[list[int]] = []
    for path in sorted(folder.glob("rank-*.jsonl")):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        found += next((line["samples"] for line in reversed(lines) if line["step"] == step), [])
    return found


if __name__ == "__main__":
    where = Path(sys.argv[1])
    where.mkdir(exist_ok=True)
    watch(where, int(sys.argv[2]))
    sys.argv = ["vitrail", *sys.argv[3:]]
    from vitrail.cli import main

    main()
