"""A study from its plan to its page. The order of a study stands here, in ``study``."""

import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from pydantic import ValidationError

from vitrail.data.workers import cores
from vitrail.device import best_device
from vitrail.errors import Failure, UserError
from vitrail.model.fields import size_text
from vitrail.studies import figures, files, page, table
from vitrail.studies.budget import measured, share_of_steps
from vitrail.studies.conclusions import advise, conclude
from vitrail.studies.findings import Findings, Setting
from vitrail.studies.outcome import Kept, Outcome, SizeOutcome
from vitrail.studies.plan import StudyPlan, make_plan, shortened
from vitrail.studies.schedule import Schedule
from vitrail.studies.size_points import size_points
from vitrail.studies.study import Study
from vitrail.studies.summary import summarise
from vitrail.studies.workers import Share, StoppedRun, Workers, working
from vitrail.training.decide import short_name
from vitrail.training.interrupt import Stopped, StopRequest, stop_requests
from vitrail.training.memory import free_bytes, gigabytes
from vitrail.training.progress import clock
from vitrail.weights import replace as replacing

_PLAN, _LOCK = "study.json", "study.lock"
_OF_PROCESS = 1.2e9  # bytes that a worker takes beside its training step: torch, and decoded images
_ON_A_GPU = 4  # runs of small models that share one GPU

Say = Callable[[str], None]


def study(
    name: str | Path | Study,
    data: str | Path | None = None,
    *,
    out: str | Path | None = None,
    recipe: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
    init: Sequence[str] = (),
    seeds: int | None = None,
    lr: Sequence[float] | None = None,
    budget: float | None = None,
    jobs: int | None = None,
    say: Say | None = None,
    command: str = "",
) -> Findings:
    """Train every run of a study, and write what they say: a table, a figure, a page.

    The same call goes on with a study that was stopped or killed: finished runs are kept, begun ones go on from their
    checkpoints.

    Args:
        name: a shipped study, the path of a YAML file, or a Study.
        data: DATA, as for ``open_data``; None for the built-in digits.
        out: the study's folder; None for ``studies/NAME-DATA``.
        recipe, changes, init: what all arms share, and start models, as for ``studies.plan.make_plan``.
        seeds, lr: in place of the study's own. An arm with learning rates of its own keeps them.
        budget: seconds that all of it may take; longer runs are made shorter, all by the same factor.
        jobs: runs side by side; None chooses from cores, GPUs and memory.
        say: called with lines for the person; None is silent.
        command: what the page shows as the way to make it again.

    Returns:
        The study with its numbers; ``results.csv``, ``results.json``, ``figure.svg``, ``figure.png`` and ``index.html``
        are in the folder, and ``sizes.csv`` of a study of sizes.

    Raises:
        UserError: unusable input; a folder that holds another study; a budget that is too small.
        Stopped: a signal came, and every run has saved its state.
        Failure: a run failed; the others are done, and kept.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("a study shares the machine out itself: start it without torchrun")
    say = say or _silent
    asked = _asked(name, seeds, lr)
    plan = make_plan(asked, data if data is not None else "digits", recipe=recipe, changes=changes, init=init)
    title = _name(name)
    folder = Path(out) if out is not None else folder_of(name, data)
    shares = _shares(plan, jobs)
    for line in (*plan.notes, *(f"left out: {reason}" for reason in plan.left_out)):
        say(line)
    _refuse_a_full_folder(folder)
    with _alone(folder):
        plan = _fitted(plan, folder, budget, shares, say)
        schedule = Schedule(plan, folder / "runs")
        say(f"{_work(plan)}, {len(shares)} side by side")
        _run(plan, schedule, shares, say)
        setting = _setting(plan, schedule, shares, command)
        found = findings(title, plan, schedule.outcomes, setting, schedule.transferred)
        write(found, folder)
    return found


def folder_of(name: str | Path | Study, data: str | Path | None) -> Path:
    """Where a study of this name on these data is kept if no folder is named."""
    return Path("studies") / f"{_name(name)}-{short_name(str(data or 'digits'))}"


def findings(
    name: str,
    plan: StudyPlan,
    outcomes: Sequence[Outcome],
    setting: Setting,
    transferred: Sequence[SizeOutcome] = (),
) -> Findings:
    """What the outcomes of a study's runs, and of its transfers to other sizes, say."""
    costs = {(planned.arm, planned.along): planned.size for planned in plan.cells}
    points = summarise(plan.study, costs, outcomes)
    sizes = size_points(plan.study, plan.resized, points, outcomes, transferred)
    conclusions, cautions = conclude(plan.study, setting, points, sizes)
    changes = {planned.arm: planned.changes for planned in plan.cells}
    changes |= {name: arm.changes for name, arm in plan.study.arms.items() if arm.of}
    advice = advise(plan.study, points, sizes)
    return Findings(name, plan.study, setting, points, conclusions, cautions, changes, sizes, advice)


def write(found: Findings, folder: Path) -> None:
    """The table, the figure and the page of a study, into its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    table.write_csv(found, folder / "results.csv")
    table.write_json(found, folder / "results.json")
    if found.sizes:
        table.write_sizes_csv(found, folder / "sizes.csv")
    figures.save(found, folder)
    page.write_page(found, folder)


def _silent(line: str) -> None:
    pass


def _name(name: str | Path | Study) -> str:
    return short_name(name.title) if isinstance(name, Study) else Path(name).stem


def _asked(name: str | Path | Study, seeds: int | None, lr: Sequence[float] | None) -> Study:
    """The study with the seeds and learning rates that were asked for."""
    own = name if isinstance(name, Study) else files.load(name)
    values: dict[str, Any] = {}
    if seeds is not None:
        values |= {"seeds": seeds, "sweep_seeds": None if own.sweep_seeds is None else min(own.sweep_seeds, seeds)}
    if lr is not None:
        values["lr"] = tuple(lr)
    try:
        return Study(**{**own.model_dump(), **values})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"--{first['loc'][0]}: {first['msg']}, not {first['input']!r}") from error


def _shares(plan: StudyPlan, jobs: int | None) -> list[Share]:
    """How the machine is shared out: one run a core, a few on each GPU, fewer where memory does not suffice."""
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs {jobs}: at least 1")
    device = best_device()
    needs = {planned.arm: planned.size.training_bytes for planned in plan.cells}
    needs |= {f"{each.arm} at {size_text(each.image_size)} pixels": each.training_bytes for each in plan.resized}
    largest = max(needs, key=lambda name: needs[name])
    free = free_bytes(device)
    if needs[largest] > 0.9 * free:
        raise UserError(
            f"{largest} needs about {gigabytes(needs[largest])} for a training step, and {gigabytes(free)} are free: take "
            "a smaller batch_size, cut it up with --set optimizer.accumulate, or leave that out"
        )
    need = needs[largest] + _OF_PROCESS
    own = cores()
    names: list[str | None] = [None]
    possible = 1  # a GPU of another kind
    if device.type == "cuda":
        forced = os.environ.get("VITRAIL_DEVICE", "cuda")
        names = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if forced == "cuda" else [forced]
        room = min(int(0.9 * free_bytes(torch.device(name or device)) // need) for name in names)
        possible = min(own, len(names) * max(1, min(_ON_A_GPU, room)))
    elif device.type == "cpu":
        possible = min(own, max(1, int(0.8 * free_bytes(device) // need)))
    count = min(jobs or possible, plan.runs)
    return [Share(max(1, own // count), count, names[i % len(names)]) for i in range(count)]


def _fitted(plan: StudyPlan, folder: Path, budget: float | None, shares: list[Share], say: Say) -> StudyPlan:
    """The plan within its budget; a study that goes on keeps the length that it began with."""
    saved = _saved(folder)
    identity = json.loads(json.dumps(plan.identity()))
    if saved is not None:
        _refuse_another(identity, saved["plan"], folder)
        share = saved["share"]
        length = "" if share == 1 and budget is None else f", with {share:.0%} of its steps as it began"
        say(f"going on with the study in {folder}{length}")
    else:
        share = 1.0
        if budget is not None:
            say("trying out how fast this machine is")
            started = time.monotonic()
            pace = measured(plan, shares)
            share = share_of_steps(plan, pace, len(shares), budget - (time.monotonic() - started))
            whole, part = (clock(pace.seconds(plan, len(shares), part)) for part in (1.0, share))
            say(f"about {part}" + (f", with {share:.0%} of the steps, which would take {whole}" if share < 1 else ""))
        with replacing.file(folder / _PLAN) as staging:
            staging.write_text(json.dumps({"share": share, "plan": identity}, indent=1) + "\n", encoding="utf-8")
    if share == 1:
        return plan
    note = f"every run has {share:.0%} of its steps, to stay within the budget"
    return replace(shortened(plan, share), notes=(*plan.notes, note))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """The folder, made if need be, and closed to other processes that would work on the same study."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / _LOCK, blocking=False):
            yield
    except Timeout as error:
        raise UserError(
            f"another process works on the study in {folder}: wait for it, or choose another --out"
        ) from error


def _refuse_a_full_folder(folder: Path) -> None:
    if (folder / _PLAN).is_file() or not folder.exists():
        return
    if not folder.is_dir() or any(not path.name.startswith(".") and path.name != _LOCK for path in folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no study: choose another --out")


def _saved(folder: Path) -> dict[str, Any] | None:
    path = folder / _PLAN
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {"share": float(values["share"]), "plan": dict(values["plan"])}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read: choose another --out, or delete {folder}") from error


def _refuse_another(asked: Any, saved: Any, folder: Path) -> None:
    difference = _difference(asked, saved)
    if difference is not None:
        raise UserError(f"{folder} holds another study ({difference}): choose another --out, or delete it")


def _difference(asked: Any, saved: Any, where: str = "") -> str | None:
    """The first place where two nested values differ, in words; None where they are equal."""
    if isinstance(asked, dict) and isinstance(saved, dict):
        arm = saved.get("arm")
        for key in dict.fromkeys([*saved, *asked]):
            inside = f"{arm}: {key}" if isinstance(arm, str) and key != "arm" else f"{where}.{key}" if where else key
            found = _difference(asked.get(key), saved.get(key), inside.removeprefix("cells."))
            if found:
                return found
        return None
    if isinstance(asked, list) and isinstance(saved, list) and len(asked) == len(saved):
        differences = (_difference(a, b, where) for a, b in zip(asked, saved, strict=True))
        return next((text for text in differences if text), None)
    if asked == saved:
        return None
    if isinstance(asked, list) and isinstance(saved, list):
        return f"{where}: {len(saved)} there, {len(asked)} asked for"
    return f"{where} is {saved} there, and {asked} asked for"


def _run(plan: StudyPlan, schedule: Schedule, shares: list[Share], say: Say) -> None:
    """Every run that is not done yet. One that fails does not keep the others from their end."""
    started, before = time.monotonic(), schedule.flops_done
    failed: list[BaseException] = []
    with stop_requests() as stop, stop.deferred(), working(shares) as workers:
        at_work = 0
        while True:
            while workers.idle and stop.exit_code is None and (job := schedule.next_job()) is not None:
                workers.start(job)
                at_work += 1
            if not at_work:
                break
            for _, result in workers.wait(0.5):
                at_work -= 1
                if isinstance(result, Outcome | SizeOutcome):
                    schedule.done(result)
                    passed = time.monotonic() - started
                    left = (plan.training_flops - schedule.flops_done) * passed / (schedule.flops_done - before)
                    say(_line(result, schedule.ended, plan.runs + plan.transfers, left))
                elif not isinstance(result, StoppedRun):
                    failed.append(result)
                    say(f"failed: {result}")
            if stop.exit_code is not None:
                _stop(workers, stop, f"{schedule.ended} of {_work(plan)}")
    if failed:
        more = f" ({len(failed)} runs failed)" if len(failed) > 1 else ""
        raise Failure(f"{failed[0]}{more}; {schedule.ended} of {_work(plan)} are done, and kept") from failed[0]


def _work(plan: StudyPlan) -> str:
    """How much there is to do."""
    transfers = f" and {plan.transfers} transfers to a size" if plan.transfers else ""
    return f"{plan.runs} runs{transfers}"


def _line(result: Kept, done: int, total: int, left: float) -> str:
    cell = result.cell
    after = f", about {clock(left)} left" if done < total else ""
    if isinstance(result, SizeOutcome):
        (h, w), (as_trained, tuned) = result.cell.image_size, result.correct.mean(1)
        how = f"{as_trained:.1%}, fine-tuned {tuned:.1%}"
        return f"{done}/{total}  {cell.arm} at {h}x{w}, seed {cell.seed}: {how}{after}"
    along = "" if result.cell.along is None else f", {result.cell.along}"
    how = "diverged" if result.diverged else f"{result.top1:.1%}"
    return f"{done}/{total}  {cell.arm}{along}, rate {cell.lr:g}, seed {cell.seed}: {how}{after}"


def _stop(workers: Workers, stop: StopRequest, done: str) -> None:
    saved = sum(isinstance(result, StoppedRun | Outcome | SizeOutcome) for _, result in workers.stop())
    raise Stopped(
        stop.exit_code or 143,
        f"stopped, {done} done, the state of {saved} saved: the same command goes on",
    )


def _setting(plan: StudyPlan, schedule: Schedule, shares: Sequence[Share], command: str) -> Setting:
    own = plan.data
    size = plan.base.image_size or plan.cells[0].config.image_size
    device = best_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()}, {cores()} cores"
    return Setting(
        data=plan.source,
        classes=len(own.labels),
        train=plan.reference.size.images,
        val=len(own.val or ()),
        reported=len(own.test or ()),
        reported_split="test",
        image_size=size,
        recipe=plan.base.to_dict(),
        jobs=len(shares),
        machine=f"{name}; vitrail {version('vitrail')}, torch {torch.__version__}, Python {platform.python_version()}",
        seconds=sum(run.seconds for run in schedule.outcomes) + sum(tuning.seconds for tuning in schedule.transferred),
        command=command,
        left_out=plan.left_out,
        notes=plan.notes,
    )
