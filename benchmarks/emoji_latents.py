"""Distillation of latent models of emoji, 32×32: a class-conditional DiT, and a text-conditional U-Net.

    python benchmarks/emoji_latents.py --source emoji-datasource-google-16.0.0.tgz --work FOLDER --seeds 0 1 2

Trains a small VAE (once) and both teachers (for each seed) with diffusers alone, saves them as stock pipelines, runs
progdistill's own commands: import, encode, and a ladder from 32 to 4 steps, with full weights and as LoRAs. Reports how
far the students' images are from the teacher's at 64 steps, from the same noise, beside the teacher itself at 4 steps.
What FOLDER has is not made again; `progdistill` has to be on the PATH. Nothing uses more than one core.
"""

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from progdistill.data.columns import CAPTION, IMAGE, LABEL, captions_of
from progdistill.data.dataset import find_dataset
from progdistill.data.loader import normalized
from progdistill.data.reading import SplitReader
from progdistill.images import decode_contact_sheet, encode_png, grid

TOKENS = 24
STEPS, LADDER = 4, "32:4"
COMPARED = 128
"""Images that students are compared on."""
UPDATES = {"vae": 1500, "dit": 4000, "unet": 3000, "stage": 400}
SETTINGS = {
    "distill.batch_size": 32,
    "distill.warmup_updates": 20,
    "evaluation.teacher_samples": COMPARED,
    "evaluation.shown_samples": 24,
    "evaluation.max_sampling_steps": 1,  # measured once, below
    "compute.threads_per_rank": 1,
}
STUDENTS = {"full": {"distill.learning_rate": 3e-4}, "lora": {"distill.learning_rate": 2e-3, "distill.lora.rank": 16}}


class Emoji:
    """The training split: images in [−1, 1], classes and names."""

    def __init__(self, root: Path) -> None:
        info = find_dataset("emoji", root)
        reader = SplitReader(info, "train", info.stored_columns)
        rows = reader.read(0, info.splits["train"])
        reader.close()
        self.images = normalized(torch.from_numpy(rows[IMAGE]).permute(0, 3, 1, 2))
        self.labels, self.captions = torch.from_numpy(rows[LABEL]), captions_of(rows[CAPTION])
        self.class_names = info.class_names


def fit(
    module: nn.Module, loss: Callable[[Tensor], Tensor], samples: int, updates: int, rate: float, seed: int
) -> nn.Module:
    """Train in batches of 32 with AdamW, the rate falling to 0; `loss` takes indices. Returns the moving average."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, updates, pct_start=0.05)
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.995), use_buffers=True)
    began, recent = time.monotonic(), 0.0
    for update in range(1, updates + 1):
        value = loss(torch.randint(samples, (32,), generator=generator))
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(module)
        recent = 0.98 * recent + 0.02 * value.item() if update > 1 else value.item()
        if update % 100 == 0:
            print(f"  {update:,} of {updates:,}: loss {recent:.4f}, {time.monotonic() - began:.0f} s", flush=True)
    found: nn.Module = average.module
    return found.eval()


def train_vae(emoji: Emoji, folder: Path) -> Any:
    """A VAE of 4 channels of 8×8, on squared errors."""
    import diffusers

    if not folder.is_dir():
        torch.manual_seed(0)
        vae = diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 16, 32),
            layers_per_block=1,
            norm_num_groups=4,
            latent_channels=4,
            sample_size=32,
        )

        def loss(index: Tensor) -> Tensor:
            found = vae.encode(emoji.images[index]).latent_dist
            restored = vae.decode(found.sample()).sample
            error = (restored - emoji.images[index]).square().mean()
            total: Tensor = error + 1e-5 * found.kl().mean() / found.mean[0].numel()
            return total

        trained: Any = fit(vae, loss, len(emoji.images), UPDATES["vae"], 2e-3, seed=0)
        with torch.no_grad():
            latents = trained.encode(emoji.images[:512]).latent_dist.sample()
        trained.register_to_config(scaling_factor=round(float(1 / latents.std()), 5))
        trained.save_pretrained(folder)
    return diffusers.AutoencoderKL.from_pretrained(folder).eval().requires_grad_(False)


def latent_moments(vae: Any, emoji: Emoji) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each image's latent, scaled."""
    with torch.no_grad():
        found = [vae.encode(batch).latent_dist for batch in torch.split(emoji.images, 256)]
    scale = vae.config.scaling_factor
    return torch.cat([one.mean for one in found]) * scale, torch.cat([one.std for one in found]) * scale


def noise_schedule() -> Any:
    """Scaled-linear betas and v-prediction, as Stable Diffusion 2.1."""
    import diffusers

    return diffusers.DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        clip_sample=False,
        timestep_spacing="trailing",
    )


def train_teacher(
    network: nn.Module,
    answer: Callable[[Tensor, Tensor, Tensor], Tensor],
    moments: tuple[Tensor, Tensor],
    updates: int,
    seed: int,
) -> nn.Module:
    """Train a network to predict v; `answer` takes noisy latents, times and indices."""
    mean, std = moments
    scheduler = noise_schedule()

    def loss(index: Tensor) -> Tensor:
        x = mean[index] + std[index] * torch.randn_like(mean[index])
        noise, t = torch.randn_like(x), torch.randint(1000, (len(x),))
        wanted = scheduler.get_velocity(x, noise, t)
        error: Tensor = answer(scheduler.add_noise(x, noise, t), t, index) - wanted
        return error.square().mean()

    return fit(network, loss, len(mean), updates, 1e-3, seed)


def dit(emoji: Emoji, vae: Any, moments: tuple[Tensor, Tensor], seed: int, folder: Path) -> None:
    """A DiT of classes, as a stock DiTPipeline."""
    import diffusers

    torch.manual_seed(seed)
    network: Any = diffusers.DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=32,
        num_layers=6,
        in_channels=4,
        out_channels=4,
        patch_size=2,
        sample_size=8,
        num_embeds_ada_norm=len(emoji.class_names),
    )

    def answer(z: Tensor, t: Tensor, index: Tensor) -> Tensor:
        answered: Tensor = network(z, timestep=t, class_labels=emoji.labels[index]).sample
        return answered

    trained = train_teacher(network, answer, moments, UPDATES["dit"], seed)
    names = dict(enumerate(emoji.class_names))
    diffusers.DiTPipeline(trained, vae, noise_schedule(), id2label=names).save_pretrained(folder)


def tokenizer_of(captions: list[str]) -> Any:
    """CLIP's, with byte pairs of the emoji's names."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    learned = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learned.pre_tokenizer = pre_tokenizers.Whitespace()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2000, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False
    )
    learned.train_from_iterator(captions, trainer)
    model = json.loads(learned.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    words = list(dict.fromkeys([*words, "<|startoftext|>", "<|endoftext|>"]))
    vocabulary = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)


class TextUNet(nn.Module):
    """A U-Net and the text encoder that is trained with it."""

    def __init__(self, tokenizer: Any) -> None:
        import diffusers
        import transformers

        super().__init__()
        self.unet = diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(48, 96),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            attention_head_dim=4,
            norm_num_groups=16,
            cross_attention_dim=64,
        )
        config = transformers.CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            projection_dim=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        self.text_encoder = transformers.CLIPTextModel(config)


def text_unet(emoji: Emoji, vae: Any, moments: tuple[Tensor, Tensor], seed: int, folder: Path) -> None:
    """A U-Net of prompts, as a stock StableDiffusionPipeline. A tenth of its prompts are empty."""
    import diffusers

    tokenizer = tokenizer_of(emoji.captions)
    torch.manual_seed(seed)
    network = TextUNet(tokenizer)
    padded: dict[str, Any] = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    tokens = tokenizer(emoji.captions, **padded).input_ids
    empty = tokenizer([""], **padded).input_ids

    def answer(z: Tensor, t: Tensor, index: Tensor) -> Tensor:
        prompts = torch.where(torch.rand(len(index), 1) < 0.1, empty, tokens[index])
        answered: Tensor = network.unet(z, t, network.text_encoder(prompts).last_hidden_state).sample
        return answered

    trained: Any = train_teacher(network, answer, moments, UPDATES["unet"], seed)
    diffusers.StableDiffusionPipeline(
        vae, trained.text_encoder, tokenizer, trained.unet, noise_schedule(), None, None, requires_safety_checker=False
    ).save_pretrained(folder)


TEACHERS = {"dit": dit, "unet": text_unet}


def progdistill(work: Path, *arguments: str) -> Any:
    """Run a command in FOLDER; its JSON, if it prints that."""
    environment = os.environ | {"PROGDISTILL_DATA": str(work / "data")}
    print("$ progdistill", *arguments, flush=True)
    done = subprocess.run(
        ["progdistill", *arguments], cwd=work, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout) if "--json" in arguments else None


def distilled(work: Path, teacher: str, student: str, seed: int) -> dict[str, Any]:
    """Run the ladder, and read how the last student compares with the teacher."""
    found = work / f"{teacher}-{student}.json"
    if not found.is_file():
        changes = SETTINGS | STUDENTS[student] | {"distill.updates": UPDATES["stage"]}
        options = [part for name, value in changes.items() for part in ("--set", f"{name}={value}")]
        options += ["--dataset", f"{teacher}-data", "--ladder", LADDER, "--seed", str(seed), "--store", "store"]
        progdistill(work, "run", "--from", teacher, *options)
        last = f"DistillFlow/{(work / 'runs' / 'latest').resolve().name}/{STEPS}"
        record = progdistill(work, "evaluate", last, "--store", "store", "--json")
        found.write_text(json.dumps(record["to_teacher"]))
    compared = json.loads(found.read_text())
    return {
        "teacher": teacher,
        "student": student,
        "seed": seed,
        "steps": STEPS,
        "images": compared["samples"],
        "student_distance": compared["distance"],
        "teacher_distance_at_4_steps": compared["teacher_distance"],
        "ratio": compared["distance"] / compared["teacher_distance"],
        "pictures": [compared["teacher_shown"], compared["shown"]],
    }


def picture(work: Path, results: list[dict[str, Any]], columns: int = 12) -> bytes:
    """Rows: the teacher at 64 steps, then its students at 4, from the same noise."""
    rows = []
    for number, result in enumerate(results):
        for sheet in result["pictures"][bool(number) :]:
            path = next((work / "store").rglob(sheet["file"]["sha256"]))
            rows.append(decode_contact_sheet(path.read_bytes(), sheet["images"])[:columns])
    return encode_png(grid(np.concatenate(rows), columns, scale=2))


def measured(work: Path, emoji: Emoji, seeds: list[int], teachers: list[str]) -> Iterator[dict[str, Any]]:
    """The results of all seeds."""
    vae = train_vae(emoji, work / "vae")
    moments = latent_moments(vae, emoji)
    for seed in seeds:
        for kind in teachers:
            name = f"{kind}{seed}"
            if not (work / name).is_dir():
                print(f"teacher {name}", flush=True)
                TEACHERS[kind](emoji, vae, moments, seed, work / name)
            if not (work / "data" / f"{name}-data").is_dir():
                progdistill(work, "import", name, "--name", name, "--store", "store")
                encode = ["--pipeline", name, "--name", f"{name}-data", "--store", "store"]
                progdistill(work, "data", "encode", "emoji", *encode)
            results = [distilled(work, name, student, seed) for student in STUDENTS]
            (work / f"{name}.png").write_bytes(picture(work, results))
            yield from results


def spread(values: list[float]) -> str:
    """Mean ± standard deviation; of one value, that."""
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")


def table(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of every teacher and kind of student, mean ± standard deviation over the seeds."""
    names = ("student_distance", "teacher_distance_at_4_steps", "ratio")
    rows, pictures = [], {}
    for kind in TEACHERS:
        for student in STUDENTS:
            own = [one for one in results if one["teacher"].rstrip("0123456789") == kind and one["student"] == student]
            if own:
                columns = [[one[name] for one in own] for name in names]
                rows.append([kind, student, *map(spread, columns)])
                pictures[f"{kind}: the teacher at 64 steps, the student, the LoRA at 4"] = f"emoji_{kind}.png"
    seeds = sorted({one["seed"] for one in results})
    counts = ", ".join(f"{name} {updates:,}" for name, updates in UPDATES.items())
    return {
        "seeds": len(seeds),
        "note": f"Seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}; updates: {counts}; {COMPARED} images.",
        "header": ["network", "student", "student at 4 steps", "teacher at 4 steps", "ratio"],
        "rows": rows,
        "pictures": pictures,
        "settings": SETTINGS | STUDENTS,
        "results": results,
    }


def main() -> None:
    """Run everything, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="emoji-datasource-google-16.0.0.tgz")
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--teachers", nargs="+", choices=TEACHERS, default=list(TEACHERS))
    parser.add_argument("--share", type=float, default=1.0, help="of all updates, for a shorter trial")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/emoji_latents.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    UPDATES.update({name: round(updates * args.share) for name, updates in UPDATES.items()})
    work = args.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "data" / "emoji").is_dir():
        prepare = ["--source", str(args.source.absolute()), "--image-size", "32", "--subcategories"]
        progdistill(work, "data", "prepare", "emoji", *prepare)
    results = []
    for result in measured(work, Emoji(work / "data"), args.seeds, args.teachers):
        results.append({name: value for name, value in result.items() if name != "pictures"})
        print(json.dumps(results[-1]), flush=True)
    args.out.write_text(json.dumps(table(results), indent=2) + "\n")
    for kind in args.teachers:
        picture = (work / f"{kind}{args.seeds[0]}.png").read_bytes()
        Path("docs", f"emoji_{kind}.png").write_bytes(picture)


if __name__ == "__main__":
    main()
