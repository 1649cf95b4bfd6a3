"""The kept images: what a page shows of them, and PNG files against an independent reader."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from synthetic import DENSE, fill, make_cell, make_curve, make_request, make_result

from saplab.attacks import eps_of
from saplab.evaluation.pictures import MOST_CURVES, examples, stretched
from saplab.report.png import data_uri, encode
from saplab.runs import Request
from saplab.runs.results import join


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_is_read_back_by_another_reader(channels):
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    with image.open(io.BytesIO(encode(pixels))) as opened:
        np.testing.assert_array_equal(np.asarray(opened).reshape(pixels.shape), pixels)
    assert base64.b64decode(data_uri(pixels).removeprefix("data:image/png;base64,")) == encode(pixels)


def test_images_of_other_channels_are_shown_by_their_mean():
    pixels = np.zeros((2, 2, 2), np.uint8)
    pixels[..., 0] = 100
    assert encode(pixels) == encode(np.full((2, 2, 1), 50, np.uint8))


def test_a_perturbation_is_stretched_to_full_colour():
    clean = np.array([[[100, 100, 100, 0]]], np.uint8)
    moved = np.array([[[104, 96, 100, 8]]], np.uint8)
    assert stretched(moved, clean, 4.0).tolist() == [[[255, 1, 128, 255]]]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    request = replace(make_request(), classes=("plane", "car"))
    return fill(tmp_path_factory.mktemp("runs") / "done", request)


def test_examples_are_the_first_images_under_each_curve(store):
    curves = store.request.curves
    found = examples(store, curves)
    assert [(example.number, example.label) for example in found] == [(0, "plane"), (1, "car")]
    assert [label for label, _ in found[0].rows] == [curve.label for curve in curves]
    result = store.load(curves[1].cells[0])
    picture = found[1].rows[1][1][4.0]
    assert picture.image == data_uri(result.pictures[3, 1])
    assert picture.change == data_uri(stretched(result.pictures[3, 1], result.pictures[0, 1], 4.0))
    assert picture.confidence == pytest.approx(result.probs[3, 1].max())
    assert picture.right == (result.probs[3, 1].argmax() == 1)
    assert picture.predicted == ("car" if picture.right else "class 2")
    assert found[1].rows[1][1][0.0].change == ""


def test_curves_of_other_strengths_share_a_table(tmp_path):
    curves = (
        make_curve("a", defender=DENSE, eps=tuple(map(eps_of, (0.0, 2.0)))),
        make_curve("b", eps=tuple(map(eps_of, (0.0, 8.0)))),
    )
    (example, _) = examples(fill(tmp_path, Request("t", curves)), curves)
    assert example.strengths == [0.0, 2.0, 8.0]
    assert example.rows[1][1].keys() == {0.0, 8.0}


def test_few_curves_are_shown_each_cell_once_and_the_missing_left_out(tmp_path):
    many = [make_curve(f"curve {k}", seed=k // 2) for k in range(2 * MOST_CURVES + 4)]
    store = fill(tmp_path, Request("t", tuple(many)), cells=2 * (MOST_CURVES + 1))
    store.path(many[0].cells[0]).unlink()
    (example, _) = examples(store, many)
    assert [label for label, _ in example.rows] == [f"curve {2 * k}" for k in range(1, MOST_CURVES + 1)]
    assert examples(store, many[:2]) == ()


def test_joined_results_keep_the_first_pictures():
    first, second = (make_result(make_cell(start=k, stop=k + 20)) for k in (0, 20))
    np.testing.assert_array_equal(join([first, second]).pictures, first.pictures)


@pytest.mark.parametrize("shape", [(6, 2, 8, 8), (5, 2, 8, 8, 3)])
def test_pictures_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"`pictures` must be uint8 \(L=6, P="):
        replace(make_result(make_cell()), pictures=np.zeros(shape, np.uint8))


def test_more_pictures_than_examples_are_refused():
    with pytest.raises(ValueError, match="`pictures` must be of at most 40 examples, got 41"):
        replace(make_result(make_cell()), pictures=np.zeros((6, 41, 8, 8, 3), np.uint8))
