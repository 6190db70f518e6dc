"""The report of `suite.py` as Markdown."""

import statistics

# Greatest cost of an epoch of `roclip`, in epochs of `clip`, that is a goal.
POOL_MAX = 1.02


def row(*cells):
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def markdown(report):
    machine, parts = report["machine"], report["parts"]
    lines = [
        f"# {report['card'] or 'Not measured'}",
        "",
        f"{machine['cpu']}, {machine['cores']} cores; roclip {machine['commit']}, Python "
        f"{machine['python']}; {report['seconds']:.0f} s in all.",
    ]
    if report["lacks"]:
        lines += ["", f"No figure of a GPU: {report['lacks']}."]
    for name, (title, show) in SECTIONS.items():
        if name in parts:
            lines += ["", f"## {title}", "", *section(parts[name], show)]
    return "\n".join(lines)


def section(outcome, show):
    """What was measured, or why it was not."""
    lines = []
    if "failed" in outcome:
        lines += [f"**Failed:** {outcome['failed']}.", ""]
    if "not_measured" in outcome:
        if "rehearsed" not in outcome:
            return [*lines, f"Not measured: {outcome['not_measured']}."]
        return [*lines, "Not measured; rehearsed on the CPU.", *kept(outcome["rehearsed"])]
    try:
        return lines + show(outcome)
    except KeyError:
        return lines[:-1]  # it failed before there was anything to show


def kept(rehearsed):
    """Proofs hold on the emulator, too."""
    if "proofs" not in rehearsed:
        return []
    return ["", f"On the emulator: {proofs(rehearsed)}"]


def proofs(outcome):
    good = sum(outcome["proofs"].values())
    return f"{good} of {len(outcome['proofs'])} proofs hold."


def kernels(outcome):
    return [proofs(outcome)]


def ceiling(outcome):
    lines = [row("matrices, bf16", "TFLOP/s"), row("---", "---:")]
    for rate in outcome["rates"]:
        side, rate = rate["side"], rate["flop_per_second"] / 1e12
        lines.append(row(f"{side} x {side}", f"{rate:.0f}"))
    return lines


def gradients(outcome):
    lines = [
        row("model", "loss apart", "gradient apart", "the parameter farthest apart"),
        row("---", "---:", "---:", "---"),
    ]
    for model, found in outcome["models"].items():
        worst = f"`{found['worst_parameter']}`, {found['worst_relative']:.1e}"
        apart = (f"{found[key]:.1e}" for key in ("loss_relative", "gradient_relative"))
        lines.append(row(model, *apart, worst))
    return lines


def curve(outcome):
    lines = [row("epoch", *outcome["losses"]), row("---", *("---:" for _ in outcome["losses"]))]
    for epoch, losses in enumerate(zip(*outcome["losses"].values()), 1):
        lines.append(row(epoch, *(f"{loss:.4f}" for loss in losses)))
    return lines + ["", f"At most {100 * outcome['off']:.1f}% apart."]


def pool(outcome):
    lines = [row("steps", "ms"), row("---", "---:")]
    lines += [row(kind["steps"], f"{1e3 * kind['seconds']:.1f}") for kind in outcome["steps"]]
    lines += [
        "",
        f"A look-up of a batch alone: {1e3 * outcome['look_up_seconds']:.2f} ms.",
        f"An epoch of `roclip` (K = 2) by one of `clip`: {outcome['epoch_ratio']:.3f}; goal: at "
        f"most {POOL_MAX}. A matching step moves the image tower alone.",
        "",
        row("pictures", "the loader alone (varied later, on the card), pairs/s", "steps wait for it"),
        row("---", "---:", "---:"),
    ]
    for found in outcome["loader"]:
        rate, wait = f"{found['pairs_per_second']:.0f}", f"{100 * found['wait']:.1f}%"
        lines.append(row(found["pictures"], rate, wait))
    if sending := outcome["sending"]:
        mb, ms = sending["bytes"] / 1e6, 1e3 * sending["seconds"]
        lines += ["", f"A batch of pictures, {mb:.0f} MB, is with a card that does nothing else after {ms:.1f} ms."]
    return lines


def share(answer):
    return f"{100 * answer['utilisation']:.1f}%" if answer.get("utilisation") else "-"


def largest(outcome):
    lines = [row("model", "batch", "images/s", "FLOP utilisation"), row("---", *3 * ["---:"])]
    for model, found in outcome["models"].items():
        lines.append(row(model, found["batch"], f"{found['images_per_second']:.0f}", share(found)))
    return lines


def compared(outcome):
    timed = {name: rounds for name, rounds in outcome["rounds"].items() if rounds}
    rates = {name: [turn["images_per_second"] for turn in turns] for name, turns in timed.items()}
    median = {name: statistics.median(turns) for name, turns in rates.items()}
    lines = [
        row("contestant", "images/s (rounds)", "FLOP utilisation", "ours / it"),
        row("---", "---:", "---:", "---:"),
    ]
    for name, turns in timed.items():
        label = "ours" if name == "ours" else f"PyTorch {name}"
        cells = f"{median[name]:.0f} ({', '.join(f'{rate:.0f}' for rate in rates[name])})"
        ratio = "" if name == "ours" else f"{median['ours'] / median[name]:.2f}"
        lines.append(row(label, cells, share(middle(turns)), ratio))
    lines += ["", f"Batch {outcome['rounds']['ours'][0]['batch']}."]
    if outcome.get("lacks"):
        more = "not measured further" if len(timed) > 1 else "not measured"
        lines += ["", f"PyTorch: {more}: {outcome['lacks']}."]
    if outcome.get("cut"):
        lines += ["", f"The rounds were cut short: {outcome['cut']}."]
    return lines


def middle(turns):
    """The round of the median."""
    return sorted(turns, key=lambda turn: turn["images_per_second"])[len(turns) // 2]


def prepared(outcome):
    batches = (f"{model} at batch {batch}" for model, batch in outcome["batches"].items())
    return [f"Compared: {', '.join(batches)}."]


SECTIONS = {
    "ceiling": ("How fast the card multiplies", ceiling),
    "prepare": ("What is compared", prepared),
    "kernels": ("Kernels and small towers against f64", kernels),
    "gradients": ("Whole towers in bf16 against f32 on the CPU", gradients),
    "curve": ("A real run: `rn-micro` on 512 generated pictures, loss by epoch", curve),
    "pool": ("A pool of 20,000 x 512, and the loader", pool),
    "largest": ("The largest batch that fits", largest),
    "ViT": ("ViT-B/32, steps of ours and of open_clip's in turns", compared),
    "RN50": ("RN50, steps of ours and of open_clip's in turns", compared),
}
