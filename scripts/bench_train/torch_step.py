"""One training step in PyTorch: open_clip's model on a folder that `side_by_side prepare` wrote.

    torch_step.py check FOLDER --variant NAME --threads N
        Losses of the first steps and gradients of the first, against those in the folder.
    torch_step.py time FOLDER … --warmup STEPS --seconds S --steps-min STEPS [--batch PAIRS]
        Times steps; with --batch on the folder's pairs over and over.
    torch_step.py serve FOLDER … as `time`
        Warms all variants up and says so, then times whichever is named on a line of its input.

With --cuda on the first GPU, in bf16 by autocast. Prints one line of JSON for each variant. A
process of its own per run: its peak memory is the answer's.
"""

import argparse
import json
import math
import os
import sys
import time
import warnings
from pathlib import Path

import open_clip
import torch
from safetensors.torch import load_file

# Whether the whole of model and loss is compiled, and how pictures lie in memory.
VARIANTS = {
    "eager": (False, torch.contiguous_format),
    "compile": (True, torch.contiguous_format),
    "eager-channels-last": (False, torch.channels_last),
    "compile-channels-last": (True, torch.channels_last),
}


def load(folder):
    return json.loads((folder / "case.json").read_text())


def build(config):
    """open_clip's model class in the sizes of a `ClipConfig`, in training mode."""
    image, text = config["image"], config["text"]
    channels = image["width"] * (32 if image["kind"] == "resnet" else 1)
    vision = {name: image[name] for name in ("image_size", "layers", "width")}
    vision |= {"head_width": channels // image["heads"], "patch_size": image.get("patch_size")}
    shared = ("context_length", "vocab_size", "width", "heads", "layers")
    return open_clip.model.CLIP(
        embed_dim=config["dim"],
        quick_gelu=config["activation"] == "quick_gelu",
        vision_cfg=vision,
        text_cfg={name: text[name] for name in shared},
    ).train()


class Step:
    """Forward, backward, AdamW of everything, clamp of the logit scale."""

    def __init__(self, folder, variant, cuda=False, batch=None):
        case = load(folder)
        self.folder = folder
        compiled, self.layout = VARIANTS[variant]
        device = "cuda" if cuda else "cpu"
        self.model = build(case["config"]).to(device, memory_format=self.layout)
        pairs = load_file(folder / "batch.safetensors")
        repeated = torch.arange(batch or case["batch"]) % case["batch"]
        pixels, self.ids = (pairs[name][repeated].to(device) for name in ("pixels", "ids"))
        self.pixels = pixels.contiguous(memory_format=self.layout)
        self.settings = case["optimizer"]
        self.optimizer = self.adamw(set(case["decays"]))
        criterion = open_clip.ClipLoss()

        def forward(pixels, ids):
            with torch.autocast(device, torch.bfloat16, enabled=cuda):
                return criterion(*self.model(pixels, ids))

        self.loss = torch.compile(forward) if compiled else forward

    def fill(self, name):
        """Takes weights under OpenAI's names; all that may be missing is a counter of batches."""
        missing, surplus = self.model.load_state_dict(load_file(self.folder / name), strict=False)
        missing = [name for name in missing if not name.endswith("num_batches_tracked")]
        if missing or surplus:
            raise ValueError(f"open_clip lacks {surplus[:3]} and has no value for {missing[:3]}")

    def adamw(self, decays):
        named = list(self.model.named_parameters())
        groups = [
            {"params": [p for name, p in named if name in decays]},
            {"params": [p for name, p in named if name not in decays], "weight_decay": 0.0},
        ]
        if len(groups[0]["params"]) != len(decays):
            raise ValueError("open_clip has other parameters with weight decay")
        asked = self.settings
        return torch.optim.AdamW(
            groups,
            lr=asked["lr"],
            betas=(asked["beta1"], asked["beta2"]),
            eps=asked["epsilon"],
            weight_decay=asked["weight_decay"],
            fused=True,  # the fastest of PyTorch's three
        )

    def backward(self):
        """Leaves the gradients in the parameters; returns the loss, in nats."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.pixels, self.ids)
        loss.backward()
        return loss

    def __call__(self):
        """One step; returns the loss before it, in nats."""
        loss = self.backward()
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, self.settings["logit_scale_max"])
        return loss.item()


def check(folder, step):
    """How far losses and gradients are from ours, as shares of PyTorch's."""
    case, expected = load(folder), load_file(folder / "gradients.safetensors")
    step.fill("weights-checked.safetensors")
    losses = [step.backward().item()]
    gradients = {name: p.grad.clone() for name, p in step.model.named_parameters()}
    if gradients.keys() != expected.keys():
        raise ValueError(f"other parameters: {sorted(gradients.keys() ^ expected.keys())[:3]}")
    step.fill("weights.safetensors")
    losses += [step() for _ in case["losses"]]
    ours = [case["checked_loss"], *case["losses"]]
    apart = distances(gradients, expected)
    # What is no number counts as worst.
    worst = max(apart, key=lambda name: apart[name] if apart[name] == apart[name] else math.inf)
    return {
        "losses_ours": ours,
        "losses": losses,
        "loss_relative": max(abs(a - b) / abs(b) for a, b in zip(ours, losses)),
        "worst_parameter": worst,
        "gradient_relative": apart[worst],
    }


def distances(gradients, expected):
    """Greatest difference of each parameter's gradient, as a share of its greatest element.

    A bias is measured by its layer's weight where that has the greater gradient: the bias of
    attention's keys and those before a batch normalisation do not change the loss, and what is
    computed for them is rounding.
    """
    greatest = {name: float(gradient.abs().max()) for name, gradient in gradients.items()}
    apart = {}
    for name, gradient in gradients.items():
        scale = greatest[name]
        if name.endswith("bias"):
            scale = max(scale, greatest.get(name.removesuffix("bias") + "weight", 0.0))
        difference = float((gradient - expected[name]).abs().max())
        apart[name] = difference / scale if scale > 0 else difference
    return apart


def peak_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def measure(step, options):
    first_loss = warm_up(step, options.warmup)
    began, processor, seconds = time.perf_counter(), time.process_time(), []
    while len(seconds) < options.steps_min or time.perf_counter() - began < options.seconds:
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return {
        "threads": torch.get_num_threads(),
        "step_seconds": seconds,
        "cpu_seconds_per_step": (time.process_time() - processor) / len(seconds),
        "first_loss": first_loss,
        "peak_bytes": peak_bytes(),
    }


def warm_up(step, steps):
    """Returns the first loss."""
    step.fill("weights.safetensors")
    first_loss = step()
    for _ in range(1, steps):
        step()
    return first_loss


def serve(options):
    """One line of JSON when all variants are warm, and one for each line of the input."""
    steps = {}
    for variant in options.variant:
        steps[variant] = Step(options.folder, variant, options.cuda, options.batch)
        warm_up(steps[variant], options.warmup)
        torch.cuda.empty_cache()  # nothing without a GPU
    print(json.dumps({"warm": options.variant}), flush=True)
    for line in sys.stdin:
        answer = measure(steps[line.strip()], options)
        torch.cuda.empty_cache()  # a contestant has its turn
        print(json.dumps(answer), flush=True)


def main():
    parser = argparse.ArgumentParser(description="One training step in PyTorch.")
    parser.add_argument("what", choices=("check", "time", "serve"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--variant", choices=VARIANTS, nargs="+", required=True)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--steps-min", type=int, default=3)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.what == "serve":
        return serve(options)
    for variant in options.variant:
        step = Step(options.folder, variant, options.cuda, options.batch)
        answer = check(options.folder, step) if options.what == "check" else measure(step, options)
        answer["versions"] = {"torch": torch.__version__, "open_clip": open_clip.__version__}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    os.environ.update(HF_HUB_OFFLINE="1")
    warnings.simplefilter("ignore")
    try:
        main()
    except Exception as error:  # torch.compile alone raises a dozen kinds
        text = " ".join(str(error).split()).split(" Set TORCH")[0]  # advice of torch follows
        print(f"error: {type(error).__name__}: {text[:300]}", file=sys.stderr)
        sys.exit(2)
