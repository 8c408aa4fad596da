"""The page: complete in itself, escaped, and with pictures that show the masks where they are."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.figure import Figure as Plot
from matplotlib.image import imread

from nnunet_ext.evaluation.evaluate import evaluate
from nnunet_ext.evaluation.masks import Labels
from nnunet_ext.evaluation.montage import STRUCTURE_COLOURS, montage
from nnunet_ext.evaluation.page import evaluation_page
from nnunet_ext.evaluation.report import Cell, Page, Section, Table, Text, render, themed, write_report


class Reader(HTMLParser):
    """Collects tags and checks that they are nested as they were opened."""

    VOID = frozenset({"meta", "img", "source"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def save(path: Path, array: np.ndarray, spacing: tuple[float, ...] = (1.0, 1.0, 1.0), **geometry: object) -> Path:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[: array.ndim])
    if "direction" in geometry:
        image.SetDirection(geometry["direction"])
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, path)
    return path


def box(shape: tuple[int, ...], where: tuple[slice, ...], value: int = 1) -> np.ndarray:
    array = np.zeros(shape, np.uint8)
    array[where] = value
    return array


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    tmp_path = tmp_path_factory.mktemp("page")
    shape = (4, 20, 20)
    for i, case in enumerate("abcd"):
        where = (slice(1, 3), slice(5, 14), slice(5, 14))
        save(tmp_path / "labelsTr" / f"{case}.nii.gz", box(shape, where))
        for method, shift in (("one", i), ("two & more", 5 * (i > 1))):
            moved = (slice(1, 3), slice(5, 14), slice(5 + shift, 14 + shift))
            mask = box(shape, moved) if not (method == "one" and i == 3) else np.zeros(shape, np.uint8)
            save(tmp_path / method / f"{case}.nii.gz", mask)
    evaluation = evaluate(
        [tmp_path / "one", tmp_path / "two & more"],
        tmp_path / "labelsTr",
        label=["organ <1>=1"],
        names=["one", "<two>"],
    )
    write_report(evaluation_page(evaluation, title="A & B"), tmp_path / "page.html")
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def test_page_is_well_formed_and_loads_nothing(page: str) -> None:
    tags = Reader(page).tags
    names = {name for name, _ in tags}
    assert not names & {"link", "iframe", "object", "embed"}
    links = [a[k] for _, a in tags for k in ("src", "srcset", "href", "data") if k in a]
    assert links
    assert all(link is not None and link.startswith("data:image/png;base64,") for link in links)
    without_pictures = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"https?://|url\(|@import|fetch\(", without_pictures)
    assert all(attributes.get("alt") for name, attributes in tags if name == "img")


def test_names_are_escaped(page: str) -> None:
    assert "<two>" not in page
    assert "&lt;two&gt;" in page
    assert "organ &lt;1&gt;" in page
    assert "<title>A &amp; B</title>" in page


def test_page_names_best_median_and_worst_case(page: str) -> None:
    headings = re.findall(r"<h3>((?:Best|Median|Worst): .*?)</h3>", page)
    assert headings == ["Best: a", "Median: c", "Worst: d"]


def test_page_tells_misses_and_definitions(page: str) -> None:
    assert re.search(r'<span class="bad">missed</span>', page)
    for word in ("95th percentile", "missed", "Holm", "bootstrap"):
        assert word in page


def test_page_of_one_case_and_of_a_structure_that_is_nowhere(tmp_path: Path) -> None:
    mask = save(tmp_path / "t" / "a.nii.gz", box((2, 9, 9), (slice(0, 1), slice(2, 6), slice(2, 6))))
    evaluation = evaluate([mask.parent, mask.parent], mask.parent, label=["here=1", "nowhere=2"], names=["x", "y"])
    html = render(evaluation_page(evaluation))
    Reader(html)
    assert re.findall(r"<h3>((?:Best|Median|Worst): .*?)</h3>", html) == ["Best: a"]
    assert "nan" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", html)


def test_rows_under_a_spanning_cell_keep_their_columns() -> None:
    table = Table(["A", "B", "#C"], [[Cell("x", rows=2), "y", "1"], ["z", "2"]])
    html = render(Page("t", [Section("s", [table])]))
    assert re.findall(r"<td[^>]*>[^<]*", html) == [
        '<td rowspan="2">x',
        "<td>y",
        '<td class="number">1',
        "<td>z",
        '<td class="number">2',
    ]


def test_any_stage_can_make_a_page(tmp_path: Path) -> None:
    figure = themed(lambda: Plot(figsize=(1, 1)), alt="an empty plot", caption="c")
    assert figure.dark is not None
    light, dark = (imread(io.BytesIO(data))[0, 0, :3] for data in (figure.png, figure.dark))
    assert light.min() > 0.9
    assert dark.max() < 0.2
    blocks = [Text("a < b"), figure, Table(["x"], [["1"]], sortable=True)]
    write_report(Page("t", [Section("s", blocks, folded=True)]), tmp_path / "t.html")
    tags = Reader((tmp_path / "t.html").read_text(encoding="utf-8")).tags
    assert ("table", {"data-sortable": None}) in tags
    assert "details" in {name for name, _ in tags}


def tinted(png: bytes, colour: str) -> np.ndarray:
    """Where a montage has the colour of a structure, line or fill: pixels of its hue."""
    picture = imread(io.BytesIO(png))[..., :3]
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    length = np.linalg.norm(picture, axis=-1)
    cosine = (picture @ wanted) / (np.maximum(length, 1e-6) * np.linalg.norm(wanted))
    return (cosine > 0.99) & (length > 0.15)


def extent(where: np.ndarray) -> tuple[int, int]:
    rows, columns = np.nonzero(where)
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


LABEL = Labels({"organ": (1,)})


def one_panel(path: Path, truth: np.ndarray, spacing: tuple[float, ...], **geometry: object) -> np.ndarray:
    """Pixels of the structure in the montage of a volume that has it on one slice (legend cut off)."""
    mask = save(path, truth, spacing, **geometry)
    where = tinted(montage(mask, {"m": mask}, None, LABEL), STRUCTURE_COLOURS[0])
    return where[: int(where.shape[0] * 0.85)]


def test_montage_keeps_true_proportions(tmp_path: Path) -> None:
    """20 rows of 1 mm by 10 columns of 3 mm: 20 mm high and 30 mm wide."""
    truth = box((3, 40, 40), (slice(1, 2), slice(10, 30), slice(10, 20)))
    high, wide = extent(one_panel(tmp_path / "a.nii.gz", truth, (3.0, 1.0, 8.0)))
    assert wide / high == pytest.approx(1.5, rel=0.05)


def test_montage_cuts_across_the_thick_slices(tmp_path: Path) -> None:
    """Sagittal slices of 8 mm: the square in the plane of 1 mm voxels must look like a square."""
    truth = box((40, 40, 3), (slice(10, 30), slice(10, 30), slice(1, 2)))
    high, wide = extent(one_panel(tmp_path / "a.nii.gz", truth, (8.0, 1.0, 1.0)))
    assert wide / high == pytest.approx(1.0, rel=0.05)


def test_montage_shows_the_patient_the_same_way_round(tmp_path: Path) -> None:
    """The same anatomy stored with both in-plane axes flipped gives the same picture."""
    truth = box((3, 40, 40), (slice(1, 2), slice(10, 24), slice(10, 16)))
    truth[1, 10:14, 16:26] = 1
    upright = one_panel(tmp_path / "a.nii.gz", truth, (1.0, 1.0, 5.0))
    flipped = np.ascontiguousarray(truth[:, ::-1, ::-1])
    turned = one_panel(tmp_path / "b.nii.gz", flipped, (1.0, 1.0, 5.0), direction=(-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))
    assert (upright != turned).mean() < 0.002
    assert (upright != upright[:, ::-1]).mean() > 0.002


def test_montage_of_2d_images_and_of_empty_masks(tmp_path: Path) -> None:
    flat = save(tmp_path / "a.png", box((30, 30), (slice(5, 20), slice(5, 20))))
    assert tinted(montage(flat, {"m": flat}, flat, LABEL), STRUCTURE_COLOURS[0]).any()
    photograph = tmp_path / "p.png"
    sitk.WriteImage(sitk.GetImageFromArray(np.full((30, 30, 3), 90, np.uint8), isVector=True), photograph)
    assert tinted(montage(flat, {"m": flat}, photograph, LABEL), STRUCTURE_COLOURS[0]).any()
    empty = save(tmp_path / "e.nii.gz", np.zeros((3, 9, 9), np.uint8))
    assert montage(empty, {"m": empty}, None, LABEL).startswith(b"\x89PNG")
