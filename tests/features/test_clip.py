"""CLIP scores, of a small CLIP model that is saved as transformers saves it."""

import json
from pathlib import Path

import pytest
import torch

from progdistill.errors import UsageError
from progdistill.features.clip import ClipScorer
from progdistill.features.weights import check_clip
from tests.models.pipelines import clip_tokenizer

TEXTS = ["a red fish", "two green boats"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import transformers

    torch.manual_seed(0)
    tokenizer, width = clip_tokenizer(), {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    text = {
        "vocab_size": len(tokenizer),
        "num_attention_heads": 2,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {"image_size": 16, "patch_size": 4, "num_attention_heads": 2}
    config = transformers.CLIPConfig(text_config=width | text, vision_config=width | vision, projection_dim=8)
    folder = tmp_path_factory.mktemp("clip")
    transformers.CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def images(size: int) -> torch.Tensor:
    return torch.randint(256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_scores_are_those_of_the_stock_model(folder: Path) -> None:
    import transformers

    model = transformers.CLIPModel.from_pretrained(folder).eval()
    tokens = clip_tokenizer()(TEXTS, padding=True, return_tensors="pt")
    prepared = transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16)(
        images(16), return_tensors="pt"
    )
    with torch.no_grad():
        found = model(**tokens, **prepared)
    expected = 100 * found.logits_per_image.diagonal() / model.logit_scale.exp()
    torch.testing.assert_close(ClipScorer(str(folder), "cpu")(images(16), TEXTS), expected, rtol=1e-3, atol=1e-3)


def test_images_of_other_sizes_and_gray_ones_are_scored(folder: Path) -> None:
    scorer = ClipScorer(str(folder), "cpu")
    assert scorer(images(40)[:, :1], TEXTS).shape == (2,)
    assert bool((scorer(images(40), TEXTS) != scorer(images(40), TEXTS[::-1])).all())


def test_what_is_no_clip_model_is_refused_in_one_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no model\.safetensors; give the folder"):
        check_clip(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UsageError, match="of type bert"):
        check_clip(str(tmp_path))
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(UsageError, match="cannot be read"):
        ClipScorer(str(tmp_path), "cpu")
