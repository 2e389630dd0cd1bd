"""Export: a model to a folder that a runtime runs, checked on images before it is there.

The order: refuse what cannot be; write float32; quantise; compare with the model; write the card; put the folder in place.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from vitrail.data.preprocess import Preprocess
from vitrail.errors import Failure, UserError, did_you_mean, is_full
from vitrail.model import Model, ViTConfig
from vitrail.model.reduction import Merging
from vitrail.runtimes import pictures, quantize
from vitrail.runtimes.card import export_card
from vitrail.runtimes.check import Changed, Check, answers, compare, of_torch
from vitrail.runtimes.engine import ENGINES, installed, missing, open_engine
from vitrail.runtimes.exported import CONFIG, FORMS, Exported, config_values, read_exported
from vitrail.runtimes.graph import Deployed, outputs_of, program
from vitrail.runtimes.pictures import Pictures, Source
from vitrail.runtimes.room import require_disk, require_memory
from vitrail.runtimes.write import WRITERS, Wanted, versions
from vitrail.weights import replace
from vitrail.weights.folder import sha256, write_json
from vitrail.weights.found import CARD
from vitrail.weights.resize import resize

MAX_LOSS = 0.5  # points
CHECKED = (300, 1000, 3000)  # pictures; the next number where fewer do not settle whether too much is lost
_MOST_BYTES = 2**29  # of pictures of a check, in memory
_FEW = 32  # images to calibrate with
_CONTRAST = 8  # levels of 255 between the darkest and the brightest pixel of a picture that shows something
_APART_FROM = 8  # images, from which on those that calibrate and those that check are others

Log = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What is to be exported, and how; refuses what cannot be when it is built."""

    to: str
    """A name in FORMS."""
    int8: bool = False
    calibrate: str | None = None
    """Data to calibrate int8 with."""
    check: str | None = None
    """Data to check on; None for other images of the calibration data, or built-in pictures."""
    trained_on: tuple[str, ...] = ()
    """Those of ``calibrate`` and ``check`` that the model was trained on, to say so."""
    image_size: tuple[int, int] | None = None
    """Height and width; None for the model's own."""
    batch: int | None = None
    """Images at a time; None for any number."""
    merge: Merging | None = None
    """None for the model's own, if it has one."""
    max_loss: float = MAX_LOSS
    """Points of accuracy that int8 may cost, and twice as many of first labels."""

    def __post_init__(self) -> None:
        if self.to not in FORMS:
            raise UserError(f"--to {self.to}: {did_you_mean(self.to, FORMS)}")
        if self.batch is not None and self.batch < 1:
            raise UserError(f"--batch {self.batch}: give dynamic, or 1 or more images")
        if not 0 <= self.max_loss <= 100:
            raise UserError(f"--max-loss {self.max_loss:g}: give points of accuracy, 0 to 100")
        if self.int8 and self.calibrate is None:
            raise UserError("--int8 needs images to calibrate with, such as the model will see: --calibrate DATA")
        if self.calibrate is not None and not self.int8:
            raise UserError(f"--calibrate {self.calibrate} has nothing to do without --int8")
        if self.int8:
            quantize.require_int8(self.to)
        form = FORMS[self.to]
        for package in form.needs:
            if not installed(package):
                raise missing(package, form.extra, f"--to {self.to} writes with it")
        if not self.engines:
            raise missing(
                form.engines[-1], form.extra, f"--to {self.to}: nothing is installed that runs it, to check it"
            )

    @property
    def engines(self) -> list[str]:
        """The installed ones that run what is written."""
        return [name for name in FORMS[self.to].engines if installed(ENGINES[name].package)]


@dataclass(frozen=True)
class Done:
    """What was written."""

    exported: Exported
    checks: tuple[Check, ...]
    """One an engine."""


def export(model: Model, folder: str | Path, plan: Plan, log: Log = lambda text: None) -> Done:
    """Write a model in the form of a runtime, and compare its answers with the model's.

    Args:
        model: with its pixel contract; it stays as it is.
        folder: created; an exported folder that is already there is replaced.
        plan: what is to be written.
        log: told in a line what is being done.

    Raises:
        UserError: a pixel contract that is unknown or lets images keep their sizes; data without readable images; a
            folder that holds something else.
        Failure: the exported model's answers are not the model's, or int8 loses too much. Nothing is written then.
    """
    folder = Path(folder)
    check_target(folder)
    if plan.merge is None:
        plan = dataclasses.replace(plan, merge=getattr(model, "merge", None))  # a ResNet has none
    model = _at_size(model, plan)
    preprocess: Preprocess = model.preprocess
    require_disk(folder, sum(parameter.numel() for parameter in model.parameters()), int8=plan.int8)
    if plan.batch is not None:
        require_memory(plan.batch, (preprocess.channels, *preprocess.image_size))
    work = _Work(model, preprocess, plan, log)
    try:
        with replace.folder(folder) as staging:
            checks = work.write(staging)
            exported = read_exported(staging)
            text = export_card(exported, checks, name=folder.absolute().name)
            (staging / CARD).write_text(text, encoding="utf-8")
    except (OSError, RuntimeError) as error:
        if is_full(error):
            raise Failure(f"no space left to write {folder}: make room; what was there before is whole") from error
        raise
    return Done(dataclasses.replace(exported, folder=folder), checks)


def check_target(folder: Path) -> None:
    """Refuse to write over anything but an exported model."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        read_exported(folder)
    except UserError:
        raise UserError(f"{folder} exists and is not an exported model: choose another place") from None


def _at_size(model: Model, plan: Plan) -> Model:
    """A copy of the model on the CPU, at the size of its images, with positions of that size."""
    preprocess = model.preprocess
    if preprocess is None:
        raise UserError("the model has no pixel contract: give --mean and --std, or set model.preprocess")
    if preprocess.varies:
        raise UserError(
            "an exported model takes images of one size, and the pixel contract of this one, mode native, keeps their own: "
            "add --mode pad, squash or crop"
        )
    if plan.merge is not None and not isinstance(model.config, ViTConfig):
        raise UserError(f"--merge {plan.merge}: a ResNet has no tokens to merge; leave it out")
    return resize(model, plan.image_size or preprocess.image_size).cpu()


class _Work:
    """One export: the model as a graph, and the pictures that it is compared on."""

    def __init__(self, model: Model, preprocess: Preprocess, plan: Plan, log: Log) -> None:
        self.model, self.preprocess, self.plan, self.log = model, preprocess, plan, log
        calibrate, self.source = self._sources()
        self.calibration: Pictures | None = None
        if calibrate is not None:
            self.calibration = calibrate.pictures(preprocess, model.labels, quantize.CALIBRATION)
            self._look_at(self.calibration)
        self.deployed = Deployed(model, preprocess, plan.merge)
        self._compare_on(CHECKED[0])
        self.wanted = Wanted((preprocess.channels, *preprocess.image_size), plan.batch, outputs_of(model))

    def _look_at(self, calibration: Pictures) -> None:
        """Refuse pictures on which no range of activations can be found."""
        flat = calibration.pixels.reshape(len(calibration.pixels), -1)
        plain = int((np.ptp(flat, axis=1) < _CONTRAST).sum())
        if 2 * plain > len(flat):
            raise UserError(
                f"--calibrate {self.plan.calibrate}: {plain} of {len(flat)} images are of one colour: int8 needs images such "
                "as the model will see"
            )
        if len(flat) < _FEW:
            self.log(f"{calibration.source}: few to calibrate int8 with; {quantize.CALIBRATION} are better")

    def _sources(self) -> tuple[Source | None, Source | None]:
        """What to calibrate with, if anything, and what to check on, None for built-in pictures: never the same images."""
        plan = self.plan
        calibrate = None if plan.calibrate is None else self._open(plan.calibrate, ("train", "val", "test"))
        data = plan.check or plan.calibrate
        check = None if data is None else self._open(data, ("test", "val", "train"))
        if calibrate is None or check is None:
            return calibrate, check
        others = calibrate.without(check)
        if len(others) == len(calibrate):
            return calibrate, check
        if len(others) >= _APART_FROM:
            return others.with_note("without those that it is checked on"), check
        if len(check) >= _APART_FROM:
            return check.halves()
        self.log(
            f"{data} has {len(check)} images, too few to be divided: the check is on those that int8 is calibrated with"
        )
        return calibrate, check.with_note("those that it was calibrated with")

    def _open(self, data: str, parts: tuple[str, ...]) -> Source:
        self.log(f"reading images of {data}")
        source = pictures.open_source(data, parts)
        seen = data in self.plan.trained_on and source.part == "train"
        return source.with_note("which the model was trained on") if seen else source

    def _compare_on(self, most: int) -> None:
        """Take up to so many pictures for the check, and the model's answers to them."""
        self.most = most
        if self.source is None:
            self.pictures = pictures.built_in(self.preprocess)
        else:
            self.pictures = self.source.pictures(self.preprocess, self.model.labels, most)
        self.ours = answers(of_torch(self.deployed), self.pictures)

    def _compare_on_more(self, reason: str) -> bool:
        """Take more pictures from here on, as those of before do not settle it; False where there are no more."""
        fit = max(self.most, _MOST_BYTES // self.pictures.pixels[0].size)
        most = min(next((most for most in CHECKED if most > self.most), self.most), fit)
        if self.source is None or most == self.most or len(self.source) <= self.most:
            return False
        self.log(f"{reason}: too few to tell, so that {min(most, len(self.source)):,} are looked at")
        self._compare_on(most)
        return True

    def write(self, folder: Path) -> tuple[Check, ...]:
        """Write the runtime's files and ``config.json``, and check them."""
        plan = self.plan
        self.log(f"writing {plan.to}")
        graph = program(self.deployed, self.wanted.image_shape, plan.batch)
        if not plan.int8:
            details = WRITERS[plan.to](graph, folder, self.wanted)
            self._describe(folder, details)
        else:
            details = self._write_int8(graph, folder)
        checks, reason = self._judged(folder)
        if reason is not None:
            raise Failure(f"the exported model is not written, as it does not answer as its model: {reason}")
        ran = versions(*(ENGINES[name].package for name in plan.engines))
        details = {**details, "versions": {**details["versions"], **ran}, **self._merging()}
        self._describe(folder, {**details, "checks": [check.to_dict() for check in checks]})
        return checks

    def _write_int8(self, graph: ExportedProgram, folder: Path) -> dict[str, Any]:
        assert self.calibration is not None
        with tempfile.TemporaryDirectory() as scratch:
            details = WRITERS[self.plan.to](graph, Path(scratch), self.wanted)
            quantiser = quantize.Quantiser(
                form=self.plan.to,
                source=Path(scratch),
                target=folder,
                wanted=self.wanted,
                transformer=isinstance(self.model.config, ViTConfig),
                merging=self.plan.merge is not None,
                pixels=self.calibration.pixels,
            )

            def judge(quick: bool) -> tuple[str | None, float]:
                self._describe(folder, details)
                checks, reason = self._judged(folder, timed=False, quick=quick)
                return reason, max(check.mean for check in checks)

            kept, used = quantize.quantise(quantiser, graph, judge, self.log)
        details = {
            **details,
            "versions": {**details["versions"], **used},
            "calibration": self.calibration.source,
            "in_float32": kept,
            "max_loss": self.plan.max_loss,
        }
        self._describe(folder, details)
        return details

    def _judged(self, folder: Path, *, timed: bool = True, quick: bool = False) -> tuple[tuple[Check, ...], str | None]:
        """The checks of what is written, and why it is not good enough or None; on more pictures where few leave it open."""
        plan = self.plan
        while True:
            checks = self._checks(folder, timed=timed, quick=quick)
            if not plan.int8 and plan.merge is None:
                return checks, next((reason for check in checks if (reason := check.exact()) is not None), None)
            reason = next((reason for check in checks if (reason := check.within(plan.max_loss)) is not None), None)
            settled = quick or reason is None or any(check.settles(plan.max_loss) for check in checks)
            if settled or not self._compare_on_more(str(reason)):
                return checks, reason

    def _checks(self, folder: Path, *, timed: bool = True, quick: bool = False) -> tuple[Check, ...]:
        """The written model, by every engine that is installed for it, beside the model; by one on few pictures if quick."""
        compared, ours = self.pictures, self.ours
        if quick:
            step = max(1, len(compared.pixels) // quantize.RANKED_ON)
            compared, ours = compared.every(step), {name: values[::step] for name, values in ours.items()}
        found = []
        for name in self.plan.engines[: 1 if quick else None]:
            if timed:
                self.log(f"checking with {name} on {compared.source}")
            engine = open_engine(folder, name, threads=torch.get_num_threads(), cache=False)
            found.append(compare(engine, ours, compared, self.model.labels, self.deployed, timed=timed))
        return tuple(found)

    def _merging(self) -> dict[str, Any]:
        """What merging costs by itself, in torch."""
        if self.plan.merge is None:
            return {}
        plain = answers(of_torch(Deployed(self.model, self.preprocess)), self.pictures)
        changed = Changed.between(plain, self.ours, self.pictures, self.model.labels)
        return {"merging": dataclasses.asdict(changed)}

    def _describe(self, folder: Path, details: Mapping[str, Any]) -> None:
        """``config.json`` for the files that lie there now."""
        plan = self.plan
        files = [name for name in FORMS[plan.to].files if (folder / name).is_file()]
        export = {
            "form": plan.to,
            "precision": "int8" if plan.int8 else "float32",
            "batch": plan.batch,
            "image_size": list(self.preprocess.image_size),
            "outputs": list(outputs_of(self.model)),
            "merge": None if plan.merge is None else str(plan.merge),
            **details,
        }
        digests = {name: sha256(folder / name) for name in files}
        values = config_values(self.model.config, self.preprocess, self.model.labels, export, digests)
        write_json(values, folder / CONFIG)
