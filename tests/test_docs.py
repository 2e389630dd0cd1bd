"""The docs are true: their commands and their Python run, their links lead somewhere, and what they name exists."""

import io
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

import vitrail
from vitrail.cli import app, main
from vitrail.recipes.recipe import known_keys

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GUIDE = [page for page in PAGES if page.name != "log.md"]  # the log says what was run then, not what to run now
SLOW = {
    "README.md",
    "evaluate.md",
    "inspect.md",
    "model.md",
    "python.md",
    "train.md",
    "studies.md",
    "resolution.md",
    "export.md",
}
OPTIONS_OF_OTHERS = {"--nproc-per-node", "--max-restarts", "--signal"}  # of torchrun and Slurm


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: a language, words after it, and text that begins in line ``line`` (from 1)."""

    language: str
    words: tuple[str, ...]
    line: int
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    info, first, inside = "", 0, None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.startswith("```"):
            if inside is not None:
                inside.append(line)
        elif inside is None:
            info, first, inside = line[3:], number + 1, []
        else:
            language, *words = info.split() or [""]
            yield Block(language, tuple(words), first, "\n".join(inside) + "\n")
            inside = None
    assert inside is None, f"{page.name}: the block that begins in line {first - 1} has no end"


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def code_spans(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


@pytest.fixture
def example_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder that every page begins in: photos, photos.csv and new. The pictures are digits in disguise."""
    digits = vitrail.open_data("digits", val_fraction=0).train
    assert digits is not None
    assert digits.targets is not None

    def write(path: Path, index: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.open(io.BytesIO(digits.encoded(index))).convert("RGB")
        picture.resize((20, 24), Image.Resampling.BICUBIC).save(path)

    rows = ["file_name,label"]
    for target, name in enumerate(("cat", "dog", "owl")):
        members = np.flatnonzero(digits.targets == target).tolist()
        for number, index in enumerate(members[:24], start=1):
            write(tmp_path / "photos" / name / f"{number:03d}.jpg", index)
            rows.append(f"photos/{name}/{number:03d}.jpg,{name}")
        write(tmp_path / "new" / f"{target + 1}.jpg", members[24])
    (tmp_path / "photos.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_commands(block: Block, page: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the lines that begin with ``vitrail``, each as a person's shell would; the number of them."""
    lines = [line for line in block.text.splitlines() if line.startswith("vitrail ")]
    for line in lines:
        assert not re.search(r"[|>&;$\\]", line), f"{page.name}: the test has no shell, which this needs: {line}"
        monkeypatch.setattr(sys, "argv", shlex.split(line, comments=True))
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code in (None, 0), f"{page.name}, below line {block.line}: exit code {end.value.code}: {line}"
    return len(lines)


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=pytest.mark.slow if p.name in SLOW else [], id=p.name) for p in GUIDE],
)
def test_what_a_page_says_can_be_done(page: Path, example_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared: dict[str, object] = {"__name__": "__main__"}  # the Python of a page is one program
    done = 0
    for block in blocks(page):
        if "no-run" in block.words:
            continue
        if block.language == "sh":
            done += run_commands(block, page, monkeypatch)
        elif block.language == "python":
            # blank lines before it, so that a traceback shows the line of the page
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), shared)
            done += 1
        elif block.language == "yaml" and block.words:
            (example_folder / block.words[0]).write_text(block.text, encoding="utf-8")
    assert done or page.name in {"index.md", "contributing.md", "benchmarks.md"}, f"nothing on {page.name} was run"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        goal = page.parent / path if path else page
        assert goal.exists(), f"{page.name} links to {target}"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", prose(goal), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}, target


def keys_named(page: Path) -> set[str]:
    """Recipe keys: those in a table's column "recipe key", those of --set, and every `group.key` in the text."""
    text = page.read_text(encoding="utf-8")
    found = set(re.findall(r"--set ([\w.]+)=", text))
    groups = {key.split(".")[0] for key in known_keys() if "." in key} - {"model"}  # a model's attributes look alike
    found |= {span for span in code_spans(prose(page)) if re.fullmatch(rf"({'|'.join(groups)})\.[a-z_]+", span)}
    column = None
    for line in prose(page).splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if not cells:
            column = None
        elif "recipe key" in cells:
            column = cells.index("recipe key")
        elif column is not None:
            found |= {span for span in code_spans(cells[column]) if re.fullmatch(r"[a-z_]+(\.[a-z_]+)?", span)}
    return found


def test_the_recipe_keys_that_are_named_exist() -> None:
    named = {(page.name, key) for page in GUIDE for key in keys_named(page)}
    assert len({key for _, key in named}) > 40, "the pages' tables are no longer understood"
    assert {(page, key) for page, key in named if key not in known_keys()} == set()


def test_the_options_that_are_named_exist() -> None:
    group = typer.main.get_command(app)
    commands = [group, *group.commands.values()]
    known = {option for command in commands for parameter in command.params for option in parameter.opts}
    known |= {"--help", *OPTIONS_OF_OTHERS}
    for page in GUIDE:
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", page.read_text(encoding="utf-8")))
        assert named <= known, f"{page.name} names {sorted(named - known)}"


def test_the_picture_of_the_layout_shows_every_module() -> None:
    text = next(block.text for block in blocks(ROOT / "docs" / "contributing.md") if "src/vitrail/" in block.text)
    shown: set[str] = set()
    parents: list[str] = []
    for line in filter(None, text.splitlines()):
        depth = (len(line) - len(line.lstrip())) // 2
        names = [word for word in line.split() if word.endswith((".py", "/"))]
        parents[depth:] = [names[0].rstrip("/")]
        shown |= {"/".join([*parents[:depth], name]) for name in names if name.endswith(".py")}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "src" / "vitrail").rglob("*.py")}
    packages = {path for path in modules if path.endswith("/__init__.py")}
    assert shown - packages == modules - packages
