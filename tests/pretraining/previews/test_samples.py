"""Contact sheets are valid pictures and are written atomically."""

import numpy as np
import pytest
from matplotlib.image import imread

from pretraining.engine.synthesis import EngineConfig
from pretraining.previews.samples import contact_sheet
from pretraining.templates.procedural import procedural_bank


@pytest.mark.parametrize("count", [1, 3])
def test_contact_sheet(tmp_path, count):
    contact_sheet(procedural_bank(count=8), EngineConfig(side=32), tmp_path / "sheet.png", count=count)
    picture = imread(tmp_path / "sheet.png")
    assert picture.ndim == 3 and min(picture.shape[:2]) > 200
    assert picture[..., :3].std() > 0.1 and np.ptp(picture[..., :3], axis=-1).max() > 0.3
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


def test_a_sheet_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet(procedural_bank(count=1), EngineConfig(side=16), tmp_path / "sheet.png", count=0)
    assert not list(tmp_path.iterdir())
