"""An ε-model trained with diffusers is imported, and its v-students need fewer steps."""

import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
import torch

from progdistill.data.dataset import find_dataset
from progdistill.data.loader import TrainingLoader
from tests.end_to_end.running import environment, report_of, run_flow


def pretrain(folder: Path, updates: int) -> None:
    """Train a pipeline as diffusers' own example does: ε, the linear schedule of 1000 steps, Adam."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        num_class_embeds=10,
    )
    noise_scheduler = diffusers.DDPMScheduler()
    loader = TrainingLoader(find_dataset("digits", folder / "data"), batch_size=64, seed=0, flip=False)
    optimizer = torch.optim.AdamW(unet.parameters(), 2e-3)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, updates)
    for update in range(updates):
        images, conditioning = loader.batch(update)
        noise, timesteps = torch.randn(images.shape), torch.randint(0, 1000, (len(images),))
        noisy = noise_scheduler.add_noise(images, noise, timesteps)
        found = unet(noisy, timesteps, class_labels=conditioning["label"]).sample
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(found, noise).backward()
        optimizer.step()
        decay.step()
    diffusers.DDPMPipeline(unet=unet, scheduler=noise_scheduler).save_pretrained(folder / "pretrained")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_distilling_an_imported_eps_model_improves_its_samples_of_4_steps(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    pretrain(tmp_path, updates=1500)
    words = ("import", "pretrained", "--name", "pretrained", "--dataset", "digits")
    imported = subprocess.run(
        [sys.executable, "-m", "progdistill.cli.main", *words],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert imported.returncode == 0, imported.stderr[-3000:]
    done = run_flow(tmp_path, "run", "--from", "pretrained", "--ladder", "32:4")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    checkpoints = report_of(tmp_path)["checkpoints"]
    assert [(c["sampling_steps"], c["kind"]) for c in checkpoints][:2] == [(32, "imported"), (16, "student")]
    last = checkpoints[-1]
    assert last["sampling_steps"] == 4
    assert last["distance"] < 0.8 * last["baseline_ddim"]
