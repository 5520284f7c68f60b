"""The pictures of chunk grids: the right cells are coloured, and whatever a file holds gives a small, well-formed SVG."""

import math
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import h5py
import numpy as np
import pytest

from activestore import Active
from activestore.results.html import chunk_grid_svg, page

SVG = "{http://www.w3.org/2000/svg}"
RECTANGLE = re.compile(r"M(\d+) (\d+)h(\d+)v1")


def variable(folder, shape, chunks, *, dims=None, written=None):
    """Return an Active of a new file's variable "v"; `written` is the part of it that has chunks."""
    path = folder / "grid.h5"
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("v", shape, "f4", chunks=chunks, maxshape=(None,) * len(shape) if chunks else None)
        for i, name in enumerate(dims or ()):
            scale = file.create_dataset(name, (shape[i],), "f4")
            scale.make_scale(name)
            dataset.dims[i].attach_scale(scale)
        if math.prod(shape) <= 20_000:
            dataset[... if written is None else written] = 1
    return Active(path, "v")


def picture(active):
    return ET.fromstring(chunk_grid_svg(active.plan("mean")))  # noqa: S314  # our own


def coloured(active, kind="touched"):
    """Return the (row, column) of every coloured cell of each face."""
    faces = [group for group in picture(active).iter(f"{SVG}g") if group.get("class") == "face"]
    found = []
    for face in faces:
        paths = [path.get("d") for path in face.iter(f"{SVG}path") if kind in (path.get("class") or "").split()]
        runs = [tuple(map(int, run)) for path in paths for run in RECTANGLE.findall(path)]
        cells = [(row, column + i) for column, row, length in runs for i in range(length)]
        assert len(cells) == len(set(cells))
        found.append(set(cells))
    return found


def test_a_row_of_chunks(tmp_path):
    tas = variable(tmp_path, (100,), (10,))
    assert coloured(tas[25:60]) == [{(0, i) for i in (2, 3, 4, 5)}]


def test_a_plane_of_chunks(tmp_path):
    tas = variable(tmp_path, (40, 60), (10, 20))
    assert coloured(tas[5:15, 20:]) == [{(row, column) for row in (0, 1) for column in (1, 2)}]


def test_a_box_shows_what_is_behind_each_cell(tmp_path):
    tas = variable(tmp_path, (4, 6, 8), (1, 2, 2))
    front, top, side = coloured(tas[2, :2, ::4])
    assert front == {(0, 0), (0, 2)}
    assert top == {(2, 0), (2, 2)}
    assert side == {(0, 2)}


def test_more_of_the_chunks_behind_give_a_stronger_colour(tmp_path):
    tas = variable(tmp_path, (9, 2, 2), (1, 1, 1))
    opacity = [
        float(next(path.get("fill-opacity") for path in picture(part).iter(f"{SVG}path") if path.get("class") == "touched"))
        for part in (tas[:1], tas[:4], tas[:7], tas)
    ]
    assert opacity == sorted(set(opacity))
    assert opacity[-1] == 1


def test_dimensions_before_the_last_three_are_told_in_words(tmp_path):
    tas = variable(tmp_path, (5, 4, 6, 8), (1, 2, 2, 2), dims=("member", "time", "lat", "lon"))
    texts = [text.text for text in picture(tas[:2]).iter(f"{SVG}text")]
    assert "not drawn: member 5, 2 of 5 chunks touched" in texts
    assert {"time 4", "lat 6", "lon 8"} <= set(texts)


def test_a_scalar(tmp_path):
    assert coloured(variable(tmp_path, (), None)) == [{(0, 0)}]


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0,), (3, 0, 2)])
def test_a_dimension_of_no_length(tmp_path, shape):
    assert not any(coloured(variable(tmp_path, shape, (1,) * len(shape))))


def test_an_empty_selection_touches_nothing(tmp_path):
    assert coloured(variable(tmp_path, (4, 6), (2, 2))[3:3]) == [set()]


def test_pieces_of_a_contiguous_variable_are_a_grid_too(tmp_path):
    assert coloured(variable(tmp_path, (4, 6), None)) == [{(0, 0)}]


def test_chunks_that_were_never_written_are_marked(tmp_path):
    tas = variable(tmp_path, (40, 60), (10, 20), written=np.s_[:20])
    assert coloured(tas[15:25], "unwritten") == [{(row, column) for row in (2, 3) for column in range(3)}]
    assert coloured(tas[15:25]) == [{(row, column) for row in (1, 2) for column in range(3)}]
    assert any("6 never written" in text.text for text in picture(tas).iter(f"{SVG}text"))


def test_a_complete_variable_has_no_cell_marked_as_unwritten(tmp_path):
    assert coloured(variable(tmp_path, (4, 6, 8), (1, 2, 2))[:1], "unwritten") == [set(), set(), set()]


@pytest.mark.parametrize(
    ("shape", "chunks", "key"),
    [
        ((10**6,), (1,), np.s_[::100]),
        ((1000, 1000), (1, 1), np.s_[::3, ::7]),
        ((1000, 1000, 4), (1, 1, 4), np.s_[100:200, 5]),
        ((100, 100, 100), (1, 1, 1), np.s_[::2, ::3, 1::40]),
        ((24, 24, 24), (1, 1, 1), np.s_[::2, ::2, ::2]),
        ((10, 40, 50, 50), (1, 1, 1, 1), ...),
    ],
)
def test_the_picture_of_a_large_grid_is_small(tmp_path, shape, chunks, key):
    tas = variable(tmp_path, shape, chunks)[key]
    assert len(chunk_grid_svg(tas.plan("mean"))) < 30_000
    assert all(face and len(face) <= 24 * 24 for face in coloured(tas))


def test_a_large_grid_is_drawn_with_several_chunks_to_a_cell(tmp_path):
    tas = variable(tmp_path, (240, 3), (1, 1), dims=("y", "x"))
    assert coloured(tas[:10]) == [{(0, 0), (0, 1), (0, 2)}]
    titles = [title.text for title in picture(tas).iter(f"{SVG}title")]
    assert "y x x: a cell is up to 10 x 1 chunks" in titles


def test_it_says_in_words_what_it_shows(tmp_path):
    root = picture(variable(tmp_path, (40, 60), (10, 20), dims=("lat", "lon"))[:1])
    assert root.get("role") == "img"
    assert root.get("aria-label") == "Chunk grid of v: 3 of 12 chunks touched"
    titles = [title.text for title in root.iter(f"{SVG}title")]
    assert {"lat x lon", "lat: 40 long, 1 of 4 chunks touched", "lon: 60 long, 3 of 3 chunks touched"} <= set(titles)


def test_text_and_lines_take_the_colour_of_the_notebook(tmp_path):
    root = picture(variable(tmp_path, (4, 6), (2, 2)))
    assert {text.get("fill") for text in root.iter(f"{SVG}text")} == {"currentColor"}
    assert {path.get("stroke") for path in root.iter(f"{SVG}path")} <= {"currentColor", None}


def test_names_are_escaped(tmp_path):
    name = "<script>alert('\"&\x01\x1f')"
    tas = variable(tmp_path, (4,), (2,), dims=(name,))
    svg = chunk_grid_svg(tas.plan("mean"))
    assert "<script" not in svg
    assert "\x01" not in svg
    hints = [title.text for title in ET.fromstring(svg).iter(f"{SVG}title")]  # noqa: S314  # our own
    assert any(hint.startswith(name.replace("\x01", "\ufffd").replace("\x1f", "\ufffd")) for hint in hints)


def test_long_names_are_cut(tmp_path):
    texts = [text.text for text in picture(variable(tmp_path, (4,), (2,), dims=("n" * 500,))).iter(f"{SVG}text")]
    assert texts[0] == f"{'n' * 23}… 4"


def test_a_page_holds_the_text_escaped_and_the_picture():
    found = page("<Active 'a' & \x00>", "<svg/>")
    element = ET.fromstring(found)  # noqa: S314  # our own
    assert element.find("pre").text == "<Active 'a' & \ufffd>"
    assert element.find("svg") is not None


@pytest.mark.parametrize("of", [lambda tas: tas, lambda tas: tas.explain("mean"), lambda tas: tas.run("mean")])
def test_notebooks_show_it(tmp_path: Path, of):
    tas = variable(tmp_path, (40, 60), (10, 20))
    assert ET.fromstring(of(tas)._repr_html_()).find(f"{SVG}svg") is not None  # noqa: S314  # our own
