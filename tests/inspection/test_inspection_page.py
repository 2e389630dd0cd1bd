"""The page of an inspection is one file that runs no one's text, and whose attention is that of the model."""

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import made_up_inspection as made_up
import numpy as np
import pytest
from browser import CHROMIUM, browser
from PIL import Image

from vitrail.inspection import drawings, packing, page
from vitrail.inspection.inspection import Heads, Inspection, Map, Picture
from vitrail.inspection.page import html, write_page
from vitrail.model import ResNetConfig

BAD = "</script><img src=x onerror=\"document.title='run'\">'\"&\u202eabc‮ " + "long" * 80
NODE = shutil.which("node")
VOID = {"meta", "img", "br", "input"}


class Page(HTMLParser):
    """Tags, attributes, text and data of a page, in which every tag must be closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.data: dict[str, Any] = {}
        self.script = ""
        self._id = ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "script":
            self._id = dict(attrs).get("id") or ""
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            if self._id:
                self.data[self._id] = json.loads(data)
            else:
                self.script += data
        elif not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def values(self, attribute: str) -> list[str]:
        return [value or "" for name, value in self.attributes if name == attribute]


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))))


def hostile() -> Inspection:
    """Every text of an inspection is a stranger's."""
    shown = made_up.picture(0)
    maps = tuple(replace(each, name=BAD) for each in shown.maps)
    top = tuple((BAD, share) for _, share in shown.top)
    shown = replace(shown, name=BAD, top=top, maps=maps, label=BAD)
    made = made_up.inspection([shown], model=BAD, labels=(BAD,), notes=(BAD,))
    assert made.filters is not None
    positions = tuple(replace(each, what=BAD) for each in made.positions)
    return replace(made, filters=replace(made.filters, what=BAD), positions=positions)


def resnet_picture() -> Picture:
    return made_up.picture(
        0, (7, 7), 32, attention=None, prefix=0, norms=np.zeros((0, 0), np.float32), maps=made_up.picture(0).maps[:2]
    )


def test_the_page_needs_nothing_from_outside_and_runs_its_own_script_alone() -> None:
    text = html(made_up.inspection())
    shown = Page(text)
    assert not {"link", "iframe", "object", "form"} & set(shown.tags)
    assert not shown.values("href")
    assert all(source.startswith("data:image/") for source in shown.values("src"))
    assert not re.search(r"https?:|url\(|@import|fetch\(|eval\(|innerHTML", text)
    digest = base64.b64encode(hashlib.sha256(shown.script.encode()).digest()).decode()
    policy = next(value for value in shown.values("content") if "default-src" in value)
    assert policy.startswith("default-src 'none';")
    assert f"script-src 'sha256-{digest}';" in policy


def test_texts_of_strangers_stay_texts(tmp_path: Path) -> None:
    made = hostile()
    text = html(made)
    shown, plain = Page(text), Page(html(made_up.inspection([made_up.picture(0)])))
    assert shown.tags == plain.tags or len(set(shown.tags) - set(plain.tags)) == 0
    assert shown.tags.count("script") == plain.tags.count("script")
    assert not shown.values("onerror")
    assert shown.text.count("onerror") >= 10
    assert BAD not in json.dumps(shown.data)
    # a file name may be bytes that are no text
    path = write_page(replace(made, model="\udcff.jpg", pictures=()), tmp_path / "index.html")
    assert "Inside <bdi>?.jpg" in path.read_text("utf-8")


def test_bytes_are_off_by_half_a_scale_at_most() -> None:
    vectors = np.random.default_rng(0).normal(0, 3, (4, 50, 24)).astype(np.float32)
    vectors[0, 0] = 0
    packed = packing.pack(vectors)
    assert (np.abs(packed.values - vectors) <= packed.scales[..., None] * 0.5001).all()
    largest = np.abs(vectors).max(-1)
    assert (np.abs(packed.values - vectors).max(-1) <= largest / 253).all()


def test_one_large_component_does_not_cost_the_others_their_bytes() -> None:
    rng = np.random.default_rng(1)
    kept = made_up.attention(rng, (8, 8), 1, layers=1, heads=2, width=32)
    kept.keys[..., 3] += 300
    kept.queries[..., 5] *= 30
    layer, error = packing.pack_layer(kept, 0, 1)
    rows = list(range(65))
    exact = packing.attention(kept.queries[0], kept.keys[0].astype(np.float64), None, rows)
    off = np.abs(layer.weights(rows) - exact)
    assert off.mean() < 5e-4
    assert error <= off.max() * 1.01
    plain = packing.attention(packing.pack(kept.queries[0]).values, packing.pack(kept.keys[0]).values, None, rows)
    assert off.mean() < np.abs(plain - exact).mean() / 5


@pytest.mark.skipif(NODE is None, reason="needs node")
@pytest.mark.parametrize("biased", [False, True])
def test_the_script_computes_the_attention_of_the_model(biased: bool) -> None:
    rng = np.random.default_rng(2)
    grid, prefix, count = (5, 6), 3, 33
    kept = made_up.attention(rng, grid, prefix, layers=2, heads=3, width=16)
    if biased:
        kept = replace(kept, bias=(rng.normal(0, 2, (2, 3, count, count)) + 40).astype(np.float32))
    shown = made_up.picture(0, grid, attention=kept, prefix=prefix, norms=np.ones((2, count), np.float32))
    data = Page(html(made_up.inspection([shown]))).data
    numbers = (Path(page.__file__).parent / "numbers.js").read_text("utf-8")
    harness = """
      const { block, features } = JSON.parse(require("fs").readFileSync(0));
      const layer = openLayer(block, 3, 33, 16);
      const rows = [];
      for (let row = 0; row < 33; row++) rows.push(attentionOf(layer, row).map((r) => Array.from(r)));
      const mean = attentionOf(layer, "mean").map((r) => Array.from(r));
      const cosines = Array.from(cosinesWith(codesOf(features.codes), 48, 7));
      console.log(JSON.stringify({ rows, mean, cosines }));
    """
    given = json.dumps({"block": data["picture-0-layer-1"], "features": data["picture-0-features"]})
    done = subprocess.run([NODE, "-e", numbers + harness], input=given, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    found = np.array(answer["rows"]).swapaxes(0, 1)  # (A, N, N)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-12)
    packed, error = packing.pack_layer(kept, 1, prefix)
    everything = list(range(count))
    # the same numbers as numpy from the same bytes, to float32 rounding
    np.testing.assert_allclose(found, packed.weights(everything), atol=5e-6)
    bias = None if kept.bias is None else kept.bias[1]
    exact = packing.attention(kept.queries[1], kept.keys[1], bias, everything)
    assert np.abs(found - exact).max() < max(3 * error, 1e-4)
    assert error < 0.02
    np.testing.assert_allclose(answer["mean"], exact[:, prefix:].mean(1), atol=1e-6)
    patches = shown.features.reshape(30, 48)
    unit = patches / np.linalg.norm(patches, axis=1, keepdims=True)
    np.testing.assert_allclose(answer["cosines"], unit @ unit[7], atol=0.01)  # vectors of 48 in 8 bits


def test_attention_that_does_not_fit_is_left_out_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    full = Page(html(made_up.inspection()))
    assert sum("-layer-" in name for name in full.data) == 12
    monkeypatch.setattr(page, "LIVE_BYTES", 600_000)
    heads = (Heads("attention of layer 6", 5, np.random.default_rng(0).random((3, 16, 20), np.float32)),)
    pictures = [made_up.picture(0), made_up.picture(1, (16, 20), heads=heads)]
    short = Page(html(made_up.inspection(pictures)))
    assert {name[:9] for name in short.data if "-layer-" in name} == {"picture-0"}
    assert "picture-1-features" in short.data
    assert "No live view of attention" in short.text
    assert "attention of layer 6 , every head" in short.text
    assert "every head" not in full.text


def test_a_small_model_at_518_pixels_stays_below_30_megabytes() -> None:
    shown = made_up.picture(0)
    assert shown.attention is not None
    expected = packing.attention_bytes(shown.attention)
    blocks = sum(len(packing.pack_layer(shown.attention, layer, 3)[0].block()) for layer in range(6))
    assert blocks == pytest.approx(expected, rel=0.01)
    tokens = np.broadcast_to(np.float32(0), (12, 6, 1370, 64))
    attention = packing.attention_bytes(replace(shown.attention, queries=tokens, keys=tokens))
    features, positions = 1369 * (384 + 3) * 4 // 3, 2 * page.POSITION_BYTES
    assert attention + features + positions < page.LIVE_BYTES < 30e6


def test_many_positions_are_thinned_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "POSITION_BYTES", 20_000)
    grid = (14, 14)
    shown = Page(html(made_up.inspection([], positions=(made_up.positions(grid),))))
    assert shown.data["page-data"]["positions"][0]["stride"] == 2
    codes = np.frombuffer(base64.b64decode(shown.data["positions-0"]["codes"]), np.uint8)
    assert codes.size == 7 * 7 * 14 * 14
    assert "One position in 2" in shown.text


@pytest.mark.parametrize(
    "case", ["no picture", "resnet", "grey", "no head", "no class token", "one patch", "nothing"], ids=str
)
def test_pages_of_other_models(case: str) -> None:
    made = {
        "no picture": lambda: made_up.inspection([]),
        "resnet": lambda: made_up.inspection(
            [resnet_picture()], config=ResNetConfig(), distances=None, positions=(), notes=()
        ),
        "grey": lambda: made_up.inspection(config=made_up.config(channels=1), filters=made_up.filters(1)),
        "no head": lambda: made_up.inspection([made_up.picture(0, top=(), maps=(), label=None)]),
        "no class token": lambda: made_up.inspection(config=made_up.config(class_token=False, pool="avg", registers=3)),
        "one patch": lambda: made_up.inspection([made_up.picture(0, (1, 1))], positions=(made_up.positions((1, 1)),)),
        "nothing": lambda: made_up.inspection([], distances=None, positions=(), filters=None, notes=()),
    }[case]()
    shown = Page(html(made))
    assert "nan" not in shown.text.lower().split()
    assert ("Under the mouse" in shown.text) == bool(made.pictures)
    assert ("the class token" in shown.text) == (case in {"grey", "no head", "one patch"})
    assert ("What it attends to" in shown.text) == (case not in {"no picture", "nothing", "resnet"})
    assert ("layer-said" in shown.values("class")) == (case not in {"no picture", "nothing", "resnet"})
    assert ("How far the heads look" in shown.text) == (case not in {"nothing", "resnet"})


def test_a_true_label_says_whether_the_model_is_right() -> None:
    right = Page(html(made_up.inspection([made_up.picture(0)]))).text
    wrong = Page(html(made_up.inspection([made_up.picture(0, label="dog")]))).text
    assert "cat ✓" in right
    assert "as the model says" in right
    assert "dog ✓" in wrong
    assert "the model is wrong here" in wrong


def test_a_map_is_judged_against_random_ones() -> None:
    shown = made_up.picture(0)
    text = Page(html(made_up.inspection([shown]))).text
    done = shown.maps[1].faithfulness
    assert done is not None
    areas = [curve.area for curve in done.random_deletion]
    assert f"deletion {done.deletion.area:.3f} random {min(areas):.3f}–{max(areas):.3f} better than 5 of 5" in text


def test_maps_are_drawn_by_value_and_by_sign() -> None:
    values = np.linspace(-1, 1, 200, dtype=np.float32).reshape(10, 20)
    signed = pixels(drawings.overlay_uri(values, True))
    assert signed.shape == (10, 20, 4)
    assert tuple(signed[0, 0, :3]) == drawings.AGAINST
    assert tuple(signed[-1, -1, :3]) == drawings.FOR
    assert signed[5, 0, 3] < 10 < 200 < signed[-1, -1, 3]
    plain = pixels(drawings.overlay_uri(values, False))
    assert tuple(plain[0, 0, :3]) == tuple(drawings.ramp()[0])
    assert tuple(plain[-1, -1, :3]) == tuple(drawings.ramp()[255])
    for flat in (np.zeros((2, 2), np.float32), np.full((2, 2), np.nan, np.float32)):
        assert pixels(drawings.overlay_uri(flat, False)).shape == pixels(drawings.overlay_uri(flat, True)).shape
    speck = np.zeros((20, 20), np.float32)
    speck[3, 3] = 1
    assert tuple(pixels(drawings.overlay_uri(speck, False))[3, 3, :3]) == tuple(drawings.ramp()[255])


def test_dots_stand_where_their_values_are() -> None:
    chart = drawings.scatter(np.array([[10, 20], [30, 90]], np.float32), "px")
    assert [tick.text for tick in chart.y_ticks] == ["0", "20", "40", "60", "80", "100"]
    assert [tick.text for tick in chart.x_ticks] == ["0", "1"]
    zero, hundred = chart.y_ticks[0].at, chart.y_ticks[-1].at
    for dot, value in zip(chart.dots, (10, 20, 30, 90), strict=True):
        assert dot.y == pytest.approx(zero + (hundred - zero) * value / 100)
    assert chart.dots[3].text == "layer 1, head 1: 90 px"


def test_the_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write_page(made_up.inspection([]), tmp_path / "index.html")
    before = path.read_text("utf-8")
    broken = made_up.inspection([made_up.picture(0, maps=(Map("flat", np.zeros((0, 0), np.float32)),))])
    with pytest.raises(ValueError, match="zero-size"):
        write_page(broken, path)
    assert path.read_text("utf-8") == before
    assert [found.name for found in tmp_path.iterdir()] == ["index.html"]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1200, 390])
def test_the_live_views_follow_mouse_keys_and_slider_in_a_browser(width: int, tmp_path: Path) -> None:
    path = write_page(hostile(), tmp_path / "index.html")
    with browser(tmp_path / "user") as shown:
        shown.open(path, width, 900)
        said = "document.querySelector('.attention-said').textContent"
        canvas = "canvas.attention"
        shown.value("document.querySelector('.live').scrollIntoView()")
        assert shown.until(said).startswith("Patch (7, 7): token 108, rows 112–127")
        shown.at(canvas, 3.5 / 14, 8.5 / 14)
        shown.until(f"{said}.startsWith('Patch (8, 3): token 118, rows 128–143 and columns 48–63')")
        shown.click(canvas, 3.5 / 14, 8.5 / 14)
        shown.until(f"{said}.includes('(held)')")
        shown.at(canvas, 0.9, 0.9)
        shown.key("ArrowRight")  # the click gave it the focus
        shown.until(f"{said}.startsWith('Patch (8, 4) (held): token 119')")
        shown.click(canvas, 4.5 / 14, 8.5 / 14)
        shown.until(f"!{said}.includes('(held)')")
        before = shown.value("document.querySelector('canvas.attention').toDataURL()")
        shown.click(".layer", 0.2)
        shown.until("document.querySelector('.layer-said').textContent === '1 (0 to 5)'")
        assert shown.value("document.querySelector('canvas.attention').toDataURL()") != before
        shown.click("input[value=class]")
        shown.until(f"{said}.startsWith('The class token: token 0.')")
        shown.click(".heads button:nth-child(3)")
        shown.until("document.querySelector('.head-choice').value === '1'")
        for kind, words in {"alike": "Most alike: (", "colours": "Patches of", "norms": "This patch: "}.items():
            shown.value(
                f"(() => {{ const e = document.querySelector('.second-choice'); e.value = '{kind}';"
                " e.dispatchEvent(new Event('change', {bubbles: true})); })()"
            )
            shown.until(f"document.querySelector('.second-said').textContent.startsWith('{words}')")
        shown.at("canvas.all", 0.01, 0.01)
        shown.until("document.querySelector('.one-said').textContent.startsWith('Position (0, 0); most like it: ')")
        assert shown.value("document.title").startswith("Inside </script><img")  # a hostile name would have changed it
        assert shown.value("document.documentElement.scrollWidth") <= width
        assert shown.errors == []
