"""Whether new towers of ours are drawn as open_clip draws its own.

Ours come out of a run of one step whose learning rate moves nothing. Each parameter of either
software is a sample: means, deviations and shapes must differ by no more than chance allows, and
what one leaves constant must be that constant in the other.
"""

import shutil

PRESETS = ("ViT-B-32", "RN50")
# With three questions about each of 300 parameters of two models, one pair of seeds in 1,000 would
# be told apart by chance, if samples were large. Some biases are too few to tell a normal law from
# an even one of the same deviation.
SIGMAS = 5.0
LEAST = 24  # values that say something


def compare(run, built, place):
    """Prints one line per preset; returns whether all parameters are drawn alike."""
    good = True
    for preset in PRESETS:
        folder = place / preset
        wrong, count = differences(*state_dicts(run, built, place, folder, preset))
        good = good and not wrong
        name = f"{preset}, new"
        print(f"{'DIFFERS' if wrong else 'ok':8}{name:44}{'open_clip':14}{count} parameters")
        for line in wrong:
            print(f"        {line}")
        shutil.rmtree(folder)
    return good


def state_dicts(run, built, place, folder, preset):
    """Ours and open_clip's, by open_clip's names."""
    import open_clip
    import torch

    settings = [f"model.preset={preset}", "optim.epochs=1", "optim.lr=1e-30"]
    settings = [word for setting in settings for word in ("--set", setting)]
    train = (built / "roclip-train", "run", "--config", place / "run.toml", "--quiet")
    run(*train, *settings, "--out", folder / "run")
    model, out = folder / "run/model", folder / "export"
    run(built / "roclip-export", "--model", model, "--out", out, "--layout", "open-clip")
    ours, _ = open_clip.create_model_from_pretrained(f"local-dir:{out}")
    for file in out.glob("*.safetensors"):
        file.unlink()
    torch.manual_seed(1)
    theirs = open_clip.create_model(f"local-dir:{out}")  # the same towers, without weights
    return dict(ours.named_parameters()), dict(theirs.named_parameters())


def differences(ours, theirs):
    """What is not alike, a line each, and the number of parameters that were compared."""
    if ours.keys() != theirs.keys():
        return [f"other names: {sorted(ours.keys() ^ theirs.keys())}"], 0
    lines = []
    for name, values in ours.items():
        pair = (one.detach().double().flatten() for one in (values, theirs[name]))
        found = unlike(*pair)
        lines += [f"{name}: {found}"] if found else []
    return lines, len(ours)


def unlike(ours, theirs):
    """How two samples differ, if by more than chance."""
    both = (ours, theirs)
    deviations = [float(values.std(correction=0)) for values in both]
    if min(deviations) < 1e-7:  # a learning rate of nearly nothing, and float32
        means = [float(values.mean()) for values in both]
        same = max(deviations) < 1e-7 and abs(means[0] - means[1]) < 1e-6
        return None if same else f"deviations {deviations}, means {means}"
    count = len(ours)
    if count < LEAST:
        return None
    shapes = [float((((values - values.mean()) / values.std()) ** 4).mean()) for values in both]
    scale = max(deviations)
    # Of the laws that are drawn from here, the normal one has the greatest errors.
    for what, apart, error in (
        ("means", float(ours.mean() - theirs.mean()) / scale, (2 / count) ** 0.5),
        ("deviations", (deviations[0] - deviations[1]) / scale, (1 / count) ** 0.5),
        ("fourth moments", shapes[0] - shapes[1], (48 / count) ** 0.5),
    ):
        if not abs(apart) <= SIGMAS * error:
            return f"{what} {apart:.4f} apart, {SIGMAS * error:.4f} by chance"
    return None
