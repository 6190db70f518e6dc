"""The report of `bench.py` as Markdown."""

import textwrap

NOTE = (
    "One step is forward, backward and AdamW of all parameters, f32, with the same weights, "
    "pictures and captions; batch normalisation uses the batch's statistics. Before the clock "
    "started, the losses and gradients of every contestant were within {tolerance:g} of ours. "
    "Our text batch is cut to its longest caption, as our loader does; PyTorch's is padded to the "
    "context, which open_clip's text tower asks for. PyTorch runs open_clip's model class and its "
    "own fused AdamW. Images/s: median of the rounds, in parentheses each round. Peak memory is "
    "that of the contestant's process, with its libraries and whatever compiling takes."
)
MIB = 1024 * 1024
# Cores that other work may keep busy on a machine where figures mean something.
BUSY_MAX = 0.2


def peers(configuration):
    """Contestants of PyTorch that were timed, fastest first."""
    timed = {
        name: found
        for name, found in configuration.get("contestants", {}).items()
        if name != "ours" and "failed" not in found
    }
    return sorted(timed.items(), key=lambda item: -item[1]["images_per_second"])


def ours(configuration):
    """What ours came to, or `None`."""
    found = configuration.get("contestants", {}).get("ours", {"failed": ""})
    return None if "failed" in found else found


def ratio(configuration):
    """Our images per second by those of PyTorch's fastest, or `None`."""
    mine, theirs = ours(configuration), peers(configuration)
    if not mine or not theirs:
        return None
    return mine["images_per_second"] / theirs[0][1]["images_per_second"]


def is_incomplete(report):
    """Whether something differs, failed while it was timed, or had nothing to compare with."""
    return any(
        "failed" in found
        or any(
            "failed" in answer and "failed" not in found["agreement"].get(name, {})
            for name, answer in found.get("contestants", {}).items()
        )
        for found in report["configurations"]
    )


def title(found):
    image, captions = found["config"]["image"], found["captions"]
    tokens = f"{captions['min']}-{captions['max']} of {found['config']['text']['context_length']}"
    side = image["image_size"]
    return f"{found['name']}, {side} px, batch {found['batch']}, captions of {tokens} tokens"


def row(*cells):
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def overview(configurations):
    lines = [
        row("configuration", "threads", "ours, images/s", "fastest PyTorch", "ours / PyTorch"),
        row("---", "---:", "---:", "---", "---:"),
    ]
    for found in configurations:
        mine, theirs = ours(found), peers(found)
        cells = [f"{mine['images_per_second']:.1f}" if mine else "-"]
        cells += [f"{theirs[0][0]}, {theirs[0][1]['images_per_second']:.1f}" if theirs else "-"]
        cells += [f"{ratio(found):.2f}" if mine and theirs else "-"]
        lines.append(row(title(found), found["threads"], *cells))
    return lines


def details(found):
    lines = [
        f"**{title(found)}, threads {found['threads']}**",
        "",
        row("contestant", "images/s", "CPU s per step", "peak MiB", "ours / it", "apart from ours"),
        row("---", "---:", "---:", "---:", "---:", "---"),
    ]
    mine, agreement = ours(found), found["agreement"]
    for name, answer in found.get("contestants", dict.fromkeys(agreement)).items():
        timed = answer and "failed" not in answer
        cells = measured(answer, mine) if timed else ("not timed", "", "", "")
        lines.append(row(name, *cells, apart(name, agreement.get(name, {}), answer)))
    return lines + (["", f"Not timed: {found['failed']}."] if "failed" in found else [])


def measured(answer, mine):
    """Speed with its rounds, processor, memory, how much faster ours is."""
    rounds = ", ".join(f"{turn['images_per_second']:.1f}" for turn in answer["rounds"])
    share = f"{mine['images_per_second'] / answer['images_per_second']:.2f}" if mine else "-"
    return (
        f"{answer['images_per_second']:.1f} ({rounds})",
        f"{answer['cpu_seconds_per_step']:.3f}",
        f"{answer['peak_bytes'] / MIB:.0f}",
        "" if answer is mine else share,
    )


def apart(name, agreement, answer):
    """How far its gradients are from ours, or why it was not timed."""
    problem = agreement.get("failed") or (answer or {}).get("failed")
    if problem:
        return problem.replace("|", "/")
    if name == "ours":
        return ""
    worst = f"{agreement['gradient_relative']:.0e} (`{agreement['worst_parameter']}`)"
    return f"loss {agreement['loss_relative']:.0e}, gradient {worst}"


def busyness(configurations):
    """What else the machine did. PyTorch's threads wait by spinning, and so lose most by it."""
    busy = [
        turn["busy_cores_before"]
        for found in configurations
        for answer in found.get("contestants", {}).values()
        for turn in answer["rounds"]
    ]
    if not busy:
        return []
    line = f"Other work kept {max(busy):.1f} cores busy at most, looked at before each turn"
    if max(busy) < BUSY_MAX:
        return [f"{line}."]
    return [f"{line}: **too many**, most of all for PyTorch with several threads."]


def markdown(report):
    machine = report["machine"]
    agreements = (found.get("agreement", {}) for found in report["configurations"])
    answers = (answer for agreement in agreements for answer in agreement.values())
    versions = next((answer["versions"] for answer in answers if "versions" in answer), {})
    made_by = {"roclip": machine["commit"], **versions, "Python": machine["python"]}
    software = ", ".join(f"{name} {version}" for name, version in made_by.items())
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores; {software}.",
        *busyness(report["configurations"]),
        "",
        textwrap.fill(NOTE.format(tolerance=report["tolerance"]), 100),
        "",
        *overview(report["configurations"]),
    ]
    for found in report["configurations"]:
        lines += ["", *details(found)]
    return "\n".join(lines)
