"""The live page and its pictures."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.image import imread

from nnunet_anatomix.finetuning.dataset import RawDataset
from nnunet_anatomix.fit.folder import FitFolder
from nnunet_anatomix.fit.page import PageState, live_page
from nnunet_anatomix.fit.slices import draw_slices


@pytest.fixture
def state(tmp_path) -> PageState:
    dataset = RawDataset(name="Dataset001_Any", folder=tmp_path, description={}, cases={})
    return PageState(FitFolder(tmp_path / "fit", dataset.name), dataset)


def test_the_page_reloads_itself_until_the_fit_ends(state):
    page, seen = state.folder.path / "fit.html", ""
    training = state.folder.training(100, 1)
    training.mkdir(parents=True)
    epoch = "t: Epoch 0 \nt: train_loss 0.5 \nt: val_loss 0.25 \nt: Pseudo dice [0.75] \n"
    log = f"{epoch}t: epoch 1 of 2: iteration 3 of 9\n"
    (training / "training_log_1.txt").write_text(log)
    state.state, state.current = "training <fold 1>", (100, (0, 1))
    with live_page(state, every_s=0.05):
        while "iteration 3 of 9" not in seen:
            seen = page.read_text() if page.is_file() else ""
        state.state = "finished"
    assert 'http-equiv="refresh"' in seen and "training &lt;fold 1&gt;" in seen
    assert seen.count("data:image/png") == 1, "the curves of fold 1; fold 0 has no log"
    assert "finished" in page.read_text() and "refresh" not in page.read_text()


def test_a_page_that_cannot_be_drawn_does_not_end_the_training(state, caplog):
    (state.folder.path / "fit.html").mkdir(parents=True)
    with live_page(state):
        pass
    assert "the page could not be drawn" in caplog.text


def write(path: Path, array: np.ndarray, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Path:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))
    return path


def test_a_picture_shows_the_slice_where_label_maps_differ_most(tmp_path):
    one = np.zeros((4, 110, 220), np.uint8)
    one[2] = 1  # the slice with most labels
    other = one.copy()
    other[1, 20:90, 30:200] = 1  # where both differ
    scan = np.random.default_rng(0).random(one.shape, dtype=np.float32)
    files = [write(tmp_path / f"{name}.nii.gz", array) for name, array in (("s", scan), ("a", one), ("b", other))]
    picture = imread(BytesIO(draw_slices(files[0], files[1:])))[..., :3]
    assert picture.shape == (110, 3 * 220, 3)
    panels = picture[:, :220], picture[:, 220:440], picture[:, 440:]
    grey = [np.ptp(panel, axis=-1) < 0.01 for panel in panels]
    assert grey[0].all() and grey[1].all(), "the first map has no label there"
    assert not grey[2][20:90, 30:200].any() and grey[2][:20].all()


def test_pixels_of_a_picture_are_square(tmp_path):
    scan = np.random.default_rng(0).random((3, 100, 120), dtype=np.float32)
    files = [write(tmp_path / f"{number}.nii.gz", scan.round(), (1.0, 2.0, 3.0)) for number in range(2)]
    assert imread(BytesIO(draw_slices(files[0], files[1:]))).shape[:2] == (200, 2 * 120)
