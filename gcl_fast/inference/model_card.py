"""Write the model card of an exported file: data, metrics, settings, calls, licences, intended use and its limits.

The headings are those of Hugging Face's model cards. The facts come from the metadata of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gcl_fast.inference.model import Model
from gcl_fast.settings import OWN_DATASETS
from gcl_fast.table import is_fraction, markdown_text

# What the publishers of a dataset ask for. Whoever passes weights on must read their terms
DATA_TERMS = {
    "synthetic": "The people of the synthetic dataset are drawn by gcl_fast, and no terms of a third party apply.",
    **dict.fromkeys(
        ("market1501", "market1501-500k"),
        "Market-1501 shows real people, and its authors offer it for academic research.",
    ),
    **dict.fromkeys(
        ("dukemtmc", "occluded-duke"),
        "DukeMTMC-reID shows real people who did not agree to it. Its authors withdrew it in 2019."
        " Do not pass these weights on.",
    ),
    "msmt17": "MSMT17 shows real people, and its authors offer it for research under an agreement.",
    **dict.fromkeys(
        ("cuhk03", "cuhk03-np"), "CUHK03 shows real people, and its authors offer it for academic research."
    ),
    "personx": "PersonX shows people drawn by a computer; the terms of its authors apply.",
    "veri776": "VeRi-776 shows vehicles in real streets, and its authors give it for non-commercial use.",
    "mars": "MARS shows real people; the terms of its authors apply.",
    **dict.fromkeys(OWN_DATASETS, "The crops come from the person who trained; that person knows their terms."),
}
UNKNOWN_TERMS = "The terms of the data are not known."


def model_card(model: Model, name: str, container: str, snippet: str, agreement: str) -> str:
    """Return the model card of an exported file as Markdown.

    Args:
        model: the networks whose encoder the file holds.
        name: name of the file.
        container: format of the file, with its version.
        snippet: lines of Python that turn `images` into `rows`; imports first.
        agreement: how near the file's rows are to PyTorch's, as "rows differ ...".
    """
    metadata, (height, width) = model.metadata, model.size
    data, settings = metadata.get("data", {}), metadata.get("settings", {})
    facts = {
        "file": container,
        "digest of the weights": model.digest,
        "gcl_fast": metadata.get("gcl_fast"),
        "commit": metadata.get("commit"),
    }
    crops = {
        "data": data.get("name"),
        "labelled source": metadata.get("source"),
        **{f"crops in {split}": data.get(split) for split in ("train", "query", "gallery")},
        **{f"left out: {reason}": count for reason, count in data.get("left_out", {}).items()},
        "digest of the names of the training crops": data.get("digest"),
    }
    training = {
        "stage": metadata.get("stage"),
        "preset": settings.get("preset"),
        "mixed precision": settings.get("amp"),
    }
    identity = settings.get("model", {}).get("identity", {})
    if ":" in identity.get("backbone", ""):  # a library's network: the sizes of residual networks do not count
        identity = {key: identity[key] for key in ("backbone", "output_stride", "pooling", "projection", "parts")}
    sizes = {f"encoder: {key}": value for key, value in identity.items()}
    datasets = [data.get("name"), *([metadata["source"]] if metadata.get("source") else [])]
    terms = " ".join(dict.fromkeys(DATA_TERMS.get(dataset, UNKNOWN_TERMS) for dataset in datasets))
    return f"""\
# {_plain(name)}

## Model Details

This network turns crops, images of one person each, into rows. Rows of one person have a high cosine.
It is the identity encoder of GCL (Chen et al., CVPR 2021). gcl_fast exported it from PyTorch.

{_table(facts)}

## How to Get Started with the Model

```python
{example(model.size, snippet)}
```

| | |
| --- | --- |
| input | `images`, (N, {height}, {width}, 3) uint8, RGB, N >= 1 |
| resize | bicubic with antialiasing, as in Pillow |
| normalization | by ImageNet's mean and deviation, inside the file |
| output | `rows`, (N, {model.dim}) float32, each of length 1 |

Before the file was written, it ran on test images: its {agreement}.
Another resize or another order of the channels changes the rows, and no error shows it.

## Uses

The network ranks the crops of a gallery by their similarity to a query. A person must check each match.
It sees clothes and shapes. It does not find a person who has changed clothes.

### Out-of-Scope Use

A match does not prove who somebody is. No decision about a person may depend on a match alone.
Re-identification can harm people; use it lawfully.

## Bias, Risks, and Limitations

The network may fail on cameras, clothes and people that the training data lack.
Its errors were not measured for groups of people.
Each query has a nearest crop, even if the gallery does not show the person. Choose a threshold on crops of your own.
Compare rows of files with the same digest alone.

## Training Details

{_table(crops | training | sizes)}

## Evaluation

{_evaluation(metadata.get("metrics", {}))}

## Licences

The code of gcl_fast has the licence Apache-2.0.
{terms} Terms of the data may bind the weights as well.
{_initial_weights(metadata.get("init"))}
"""


def example(size: tuple[int, int], snippet: str) -> str:
    """Return a whole example in Python: image files are read and resized, and their rows compared.

    Args:
        size: (H, W) of the images.
        snippet: lines of Python that turn `images` into `rows`; imports first.
    """
    imports, _, calls = snippet.partition("\n\n")
    return f"""\
import numpy as np
{imports}
from PIL import Image

crops = [Image.open(name).convert("RGB") for name in ("query.jpg", "candidate.jpg")]
images = np.stack([crop.resize(({size[1]}, {size[0]}), Image.Resampling.BICUBIC) for crop in crops])
{calls}
print(rows @ rows.T)  # cosines"""


def _evaluation(metrics: Mapping[str, Any]) -> str:
    """Return the metrics of the run as a table, or a sentence where there are none."""
    if not metrics:
        return "The weights carry no metrics."
    shown = {name: f"{100 * value:.2f} %" if is_fraction(name) else value for name, value in metrics.items()}
    return f"{_table(shown)}\n\nThey were measured in PyTorch at the end of the stage, on query and gallery."


def _initial_weights(name: str | None) -> str:
    """Return a sentence on the licence of the weights that the training started from."""
    if name is None:
        return "The weights do not name the weights that their training started from, whose licence applies as well."
    if not name:
        return "The training started from random weights."
    return f"The training started from {_plain(name)}, whose licence applies as well."


def _table(facts: Mapping[str, Any]) -> str:
    """Return a Markdown table of two columns, without the facts that are not known."""
    known = [f"| {_plain(name)} | {_plain(value)} |" for name, value in facts.items() if value is not None]
    return "\n".join(["| | |", "| --- | --- |", *known])


def _plain(value: object) -> str:
    """Return a fact as text that Markdown shows as it is."""
    return markdown_text(", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
