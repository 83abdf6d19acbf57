"""Batched resizing equals clean-fid's, image by image."""

import numpy as np
import pytest
import torch

from progdistill.features.inception import resizer


@pytest.mark.parametrize(("height", "width"), [(8, 8), (32, 32), (64, 48), (400, 320)])
def test_it_equals_clean_fids_resizer(height: int, width: int) -> None:
    from cleanfid.resize import build_resizer

    images = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    expected = np.stack([build_resizer("clean")(image) for image in images]).transpose(0, 3, 1, 2)
    resized = resizer(299)(torch.from_numpy(images).permute(0, 3, 1, 2))
    np.testing.assert_array_equal(resized.numpy(), expected)
