"""Tables of what a trained model is worth: the demo's runs, ablations, adaptation, precision, generated views."""

from __future__ import annotations

from page_tables.rows import MACHINE, Files, decimal, mean_and_interval, newest, one, percent, points, table

STAGES = {"initial": "random initialization", "warmup": "warm-up", "generative": "generative", "joint": "joint"}


def demo(files: Files) -> str:
    """Return quality and seconds of each stage for seed 0, of the whole command."""
    rows = newest([r for r in files.rows("demo") if r["seed"] == "0" and "--init" not in r["command"]], ["part"])
    lines = [
        (name, f"{int(r['steps']):,}", percent(r["mAP"]), percent(r["rank1"]), r["seconds"])
        for part, name in STAGES.items()
        for r in [one(rows, part=part)]
    ]
    whole = one(rows, part="whole command")
    text = table(("after stage", "steps", "mAP", "rank-1", "seconds"), lines)
    return f"{text}\n\n*2 cores of {whole['machine']} in {whole['precision']}, {whole['date']}, `{whole['command']}`.*"


def demo_seeds(files: Files) -> str:
    """Return quality after each stage over the seeds, of the runs since the warm-up of seed 0 was measured last."""
    since = one(newest(files.rows("demo"), ["seed", "part"]), seed="0", part="warmup")["date"]
    rows = newest([r for r in files.rows("demo") if r["date"] >= since], ["seed", "part"])
    seeds = sorted({r["seed"] for r in rows})
    lines = []
    for part in ("warmup", "generative", "joint"):
        of_part = [one(rows, part=part, seed=seed) for seed in seeds]
        cells = (", ".join(f"{100 * float(r[name]):.1f}" for r in of_part) + " %" for name in ("mAP", "rank1"))
        ssim = ", ".join(decimal(r["ssim"]) for r in of_part) if part != "warmup" else ""
        lines.append((STAGES[part], *cells, ssim))
    return table(("after stage", f"mAP, seeds {', '.join(seeds)}", "rank-1", "SSIM of novel views"), lines)


def demo_without_bfloat16(files: Files) -> str:
    """Return the demo on cores that lack bfloat16 instructions."""
    rows = newest(files.rows("demo"), ["part"], "AVX2")
    lines = [
        (STAGES[part], percent(r["mAP"]), percent(r["rank1"]), decimal(r["ssim"]), r["seconds"])
        for part in ("warmup", "generative", "joint")
        for r in [one(rows, part=part)]
    ]
    text = table(("after stage", "mAP", "rank-1", "SSIM of novel views", "seconds"), lines)
    return f"{text}\n\n*2 cores of {rows[0]['machine']} in float32, {rows[0]['date']}, `{rows[0]['command']}`.*"


def demo_minutes(files: Files, machine: str = MACHINE) -> str:
    """Return the minutes of the whole command."""
    rows = newest([r for r in files.rows("demo") if r["seed"] == "0"], ["part"], machine)
    return f"{float(one(rows, part='whole command')['seconds']) / 60:.0f} minutes"


def ssim_of_copy(files: Files) -> str:
    """Return the SSIM that copying the input crop reaches."""
    return one(newest(files.rows("demo"), ["seed", "part"]), seed="0", part="joint")["ssim_copy"]


# What each part is worth


MORE_WARM_UP = "more warm-up for the seconds of both stages"
COLOURS_TO_THE_END = "0.7012"  # mAP of the warm-up whose labels used clothing colours to its end


def joint_variants(files: Files) -> str:
    """Return what variants of the joint stage by clusters make of one warm-up."""
    rows = [row for row in files.rows("joint_variants") if row["warmup_mAP"] == COLOURS_TO_THE_END]
    lines = [(row["variant"], f"{int(row['steps']):,}", percent(row["mAP"]), decimal(row["ssim"])) for row in rows]
    return table(("stage", "steps", "mAP", "SSIM of novel views"), lines)


def more_warm_up(files: Files) -> str:
    """Return the mAP of more warm-up for the seconds of the generative and the joint stage, over seeds."""
    rows = [row for row in files.rows("joint_variants") if row["variant"] == MORE_WARM_UP]
    return " and ".join(percent(row["mAP"]) for row in sorted(rows, key=lambda row: row["seed"]))


def view_variants(files: Files) -> str:
    """Return what variants of the generative and the joint stage make of the demo's warm-ups, over seeds."""
    rows = [row for row in files.rows("joint_variants") if row["warmup_mAP"] != COLOURS_TO_THE_END]
    lines = []
    for variant in dict.fromkeys(row["variant"] for row in rows):
        of_variant = sorted((row for row in rows if row["variant"] == variant), key=lambda row: row["seed"])
        seeds = ", ".join(row["seed"] for row in of_variant)
        forms = (("mAP", percent), ("ssim", decimal))
        values = [", ".join(form(row[name]) for row in of_variant if row[name]) for name, form in forms]
        lines.append((variant, seeds, f"{int(of_variant[0]['steps']):,}", *values))
    return table(("stage", "seeds", "steps", "mAP", "SSIM of novel views"), lines)


# Name, and the rows of ablation.csv with the joint stage and with as many steps of more warm-up
WARMUPS = (
    ("cluster memory", "full", "cluster warm-up for as long"),
    ("MMCL", "GCL over MMCL", "MMCL for as long"),
    ("JVTC", "GCL over JVTC", "JVTC for as long"),
)


def warmups(files: Files) -> str:
    """Return what the joint stage adds to each warm-up, beside as many steps of more warm-up."""
    rows, lines = files.rows("ablation"), []
    for name, joint, longer in WARMUPS:
        with_joint, with_more = one(rows, row=joint), one(rows, row=longer)
        reached = float(with_joint["mAP"]) - float(with_joint["over_warmup"])
        added = (
            f"{100 * float(r['over_warmup']):.1f} ± {100 * float(r['over_warmup_half']):.1f}"
            for r in (with_joint, with_more)
        )
        lines.append((name, percent(reached), *added))
    return table(("warm-up", "mAP it reaches", "points the joint stage adds", "points more warm-up adds"), lines)


# Row of ablation.csv: what the page calls it, and its settings by their names of today
ABLATIONS = {
    "no view-invariant loss": ("without the view-invariant loss", "generative.weights.view=0"),
    "novel view with own entry alone": ("first term alone", "joint.terms=[1,0,0]"),
    "novel view with its cluster alone": ("second term alone", "joint.terms=[0,1,0]"),
    "real crops alone: f with its cluster": ("third term alone", "joint.terms=[0,0,1]"),
    "without the own entry": ("without the first term", "joint.terms=[0,1,1]"),
    "without the novel view's cluster": ("without the second term", "joint.terms=[1,0,1]"),
    "without the crop's cluster": ("without the third term", "joint.terms=[1,1,0]"),
    "no image loss": ("without the image loss", "generative.weights.image=0"),
    "no feature loss": ("without the feature loss", "generative.weights.feature=0"),
    "no adversarial loss": ("without the adversarial loss", "generative.weights.adversarial=0"),
    "feature loss on x_new (paper's figure)": (
        "feature loss on the novel view, as in the paper's figure",
        "generative.weights.feature_loss_on=novel_view",
    ),
    "live own entry (paper's figure)": (
        "first term against the live embedding, as in the paper's figure",
        "joint.own_entry=live",
    ),
    "negatives of f (paper's figure)": (
        "third term against negatives of the crop, as in the paper's figure",
        "joint.negatives_of=crop",
    ),
    "yaws without 315 (code)": ("novel views up to 270 degrees, as in the official code", "generative.last_yaw=270"),
    "decay of E_id alone (code)": (
        "only the identity encoder's learning rate decays, as in the official code",
        "joint.decay=identity",
    ),
    "outliers embedded anew": ("outliers are embedded again at each epoch", "joint.refresh_outliers=true"),
    "mixup (GCL+)": ("with mixup (GCL+)", "generative.weights.mixup=1"),
    "camera proxies, warm-up alone (CAP)": ("warm-up alone, with camera proxies (CAP)", "warmup.memory=cameras"),
}


def ablation(files: Files) -> str:
    """Return points of mAP that each change costs or gives against the full method of the same seed."""
    lines = []
    for key, (name, switch) in ABLATIONS.items():
        row = one(files.rows("ablation"), row=key)
        half = f" ± {100 * float(row['gain_half']):.1f}" if row["gain_half"] else ""
        lines.append((name, f"`{switch}`", points(float(row["gain"])) + half, row["seeds"]))
    return table(("change", "setting", "points of mAP", "seeds"), lines)


def adaptation(files: Files, machine: str) -> str:
    """Return mAP on the target after each part of training on a labelled source first."""
    names = {
        "source only": "source, with its own batch norms",
        "source": "source, with the target's batch norms",
        "warmup": "warm-up",
        "joint": "joint",
    }
    rows = newest(files.rows("adaptation"), ["seed", "part"], machine)
    lines = [
        (name, mean_and_interval(values) + " %")
        for part, name in names.items()
        if (values := [float(r["mAP"]) for r in rows if r["part"] == part])
    ]
    first, text = rows[0], table(("after", "mAP"), lines)
    command = first["command"].replace("--seed 0", "--seed S")
    return f"{text}\n\n*{first['machine']}, {first['precision']}, {first['date']}, `{command}`, seeds 0 to 2.*"


def precision_quality(files: Files) -> str:
    """Return mAP with and without --amp over the seeds."""
    rows, lines = newest(files.rows("precision_quality"), ["seed", "part", "precision"]), []
    for part in dict.fromkeys(r["part"] for r in rows):
        for precision in ("bfloat16", "float32"):
            values = [f"{100 * float(r['mAP']):.1f}" for r in rows if (r["part"], r["precision"]) == (part, precision)]
            lines.append((part, precision, ", ".join(values) + " %"))
    return table(("stage", "precision", "mAP, seeds 0, 1, 2"), lines)


def precision_loss(files: Files) -> str:
    """Return how far the smoothed loss is from float32's, with --amp and after one rounding."""
    rows = newest(files.rows("precision"), ["stage", "window"])
    share = lambda text: f"{float(text.rstrip('%')):.2f} %"
    lines = [
        (
            r["stage"],
            r["seeds"],
            f"{r['window']} steps",
            share(r["largest_difference"]),
            share(r["largest_by_rounding"]),
        )
        for r in sorted(rows, key=lambda r: (r["stage"], int(r["window"])))
        if r["largest_by_rounding"]
    ]
    return table(("stage", "seeds", "smoothed over", "`--amp`", "one rounding"), lines)


def views(files: Files) -> str:
    """Return what generated views are worth as queries."""
    rows = newest([r for r in files.rows("evaluate") if r["frechet"]], ["stage", "what"], "")
    lines = [
        (
            f"{r['what']}, {STAGES[r['stage']]} stage",
            percent(r["mAP"]),
            percent(r["rank1"]),
            decimal(r["ssim"]),
            r["frechet"],
        )
        for r in rows
    ]
    return table(("queries", "mAP", "rank-1", "SSIM to the true view", "Fréchet distance"), lines)


def ways_to_rank(files: Files) -> str:
    """Return mAP of the demo's joint stage for each way to rank."""
    rows = newest([r for r in files.rows("evaluate") if r["what"].startswith("crops")], ["what"], "")
    return table(("ranking", "mAP", "command"), [(r["what"], percent(r["mAP"]), f"`{r['command']}`") for r in rows])


def published(files: Files) -> str:
    """Return what the paper reports."""
    return table(
        ("dataset", "mAP", "rank-1"),
        [(r["dataset"], percent(r["mAP"]), percent(r["rank1"])) for r in files.rows("published")],
    )


def estimator(files: Files, what: str, crops_of: str) -> str:
    """Return one figure of the body estimator."""
    rows = [r for r in files.rows("estimator") if r["crops_of"].startswith(crops_of)]
    value = float(one(rows, what=what)["value"])
    return f"{value:.1f} degrees" if what.endswith("error, degrees") else percent(value)


def span(files: Files, name: str) -> str:
    """Return the range of tried versions of a package."""
    versions = sorted({tuple(map(int, r[name].split(".")[:2])) for r in files.rows("versions")})
    first, last = (".".join(map(str, version)) for version in (versions[0], versions[-1]))
    return f"{first} to {last}"
