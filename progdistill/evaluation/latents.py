"""What stands around the network when a latent model is sampled: prompts before it, the VAE after it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from progdistill.data.columns import CAPTION, LABEL, captions_of
from progdistill.data.dataset import DatasetInfo
from progdistill.data.reading import SplitReader, read_unconditional
from progdistill.errors import UsageError
from progdistill.models.codec import LatentCodec, PromptEncoder, say_cut
from progdistill.models.conditioning import Conditioning
from progdistill.models.config import DenoiserConfig
from progdistill.registry.pipeline import fetch_pipeline, load_pipeline
from progdistill.store.base import Store


class Surroundings(NamedTuple):
    """How samples of a latent model are conditioned, and how they become images."""

    decode: Callable[[Tensor], Tensor]
    """Latents [batch, channels, height, width] to images in about [−1, 1], [batch, 3, height, width]."""
    prompts: Conditioning | None = None
    """One row per prompt; sample i has that of prompt i mod the number of prompts. None: no prompts are taken."""
    unconditional: Conditioning | None = None
    """One row: what guidance leads away from."""
    texts: tuple[str, ...] = ()
    """What the prompts say; empty where that is not known."""

    @property
    def prompt_count(self) -> int:
        """Number of prompts."""
        return 0 if self.prompts is None else len(next(iter(self.prompts.values())))

    def rows(self, indices: Sequence[int]) -> Conditioning | None:
        """The columns of samples, by their indices."""
        if self.prompts is None:
            return None
        places = torch.tensor([index % self.prompt_count for index in indices])
        return {name: column[places.to(column.device)] for name, column in self.prompts.items()}


def surroundings_of(
    store: Store, config: DenoiserConfig, prompts: Sequence[str] = (), device: torch.device | str = "cpu"
) -> Surroundings | None:
    """Load what a latent model needs; the text encoders are dropped as soon as the prompts are encoded.

    Args:
        store: Holds the model's pipeline.
        config: Of the model.
        prompts: What to draw; must be empty for a model without prompts.
        device: Where prompts are encoded and latents decoded.

    Returns:
        None for a model of pixels.

    Raises:
        UsageError: Prompts are missing, or the model takes none.
    """
    text = [column for column in config.network.columns if column.name in _text_columns(config)]
    if prompts and not text:
        raise UsageError("this model takes no prompts: leave them out")
    if text and not prompts:
        raise UsageError("this model draws what prompts say: give prompts=[…] (command line: --prompts FILE)")
    if config.pipeline is None:
        return None
    folder, facts = fetch_pipeline(store, config.pipeline), load_pipeline(store, config.pipeline).facts
    decode = LatentCodec(folder, facts, device).decode
    if not text:
        return Surroundings(decode)
    pixels = config.network.image_size * facts.vae_factor
    width = next(column.shape[-1] for column in text if column.name == "prompt_embeds")
    encoder = PromptEncoder(folder, facts, device, prompt_width=width)
    say_cut(sum(encoder.too_long(prompts)), len(prompts))
    without = encoder.unconditional(image_size=pixels)
    return Surroundings(decode, encoder.encode(prompts, pixels), without, tuple(prompts))


def surroundings_in_data(
    store: Store, config: DenoiserConfig, info: DatasetInfo, prompts: int, device: torch.device | str = "cpu"
) -> Surroundings | None:
    """As `surroundings_of`, with the dataset's first `prompts` conditioning rows; no text encoder is needed.

    They are of a split that was not trained on, if there is one. Their texts are captions, or names of classes.
    """
    if config.pipeline is None:
        return None
    folder, facts = fetch_pipeline(store, config.pipeline), load_pipeline(store, config.pipeline).facts
    decode = LatentCodec(folder, facts, device).decode
    names = _text_columns(config)
    if not names:
        return Surroundings(decode)
    columns = [column for column in info.stored_columns if column.name in (*names, LABEL, CAPTION)]
    split = next((name for name in ("test", "validation") if info.splits.get(name)), "train")
    with closing(SplitReader(info, split, columns)) as reader:
        rows = reader.read(0, min(prompts, info.splits[split]))
    texts = (
        captions_of(rows[CAPTION])
        if CAPTION in rows
        else [info.class_names[n] for n in rows[LABEL] if n < info.num_classes]
    )
    without = read_unconditional(info)
    return Surroundings(
        decode,
        _tensors(rows, names, device),
        None if without is None else _tensors(without, names, device),
        tuple(texts),
    )


def _text_columns(config: DenoiserConfig) -> list[str]:
    return [column.name for column in config.network.columns if column.name != LABEL]


def _tensors(rows: Mapping[str, NDArray[Any]], names: Sequence[str], device: torch.device | str) -> Conditioning:
    tensors = {name: torch.from_numpy(rows[name]).to(device) for name in names}
    return {name: column.float() if column.is_floating_point() else column for name, column in tensors.items()}
