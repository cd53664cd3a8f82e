"""Read a dataset by its name as `Records`: the table of layouts, and the one function that reads them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from gcl_fast.data.layouts import market
from gcl_fast.data.layouts.cuhk03 import read_cuhk03
from gcl_fast.data.layouts.detection import detect
from gcl_fast.data.layouts.folder import read_folder
from gcl_fast.data.layouts.image_names import IMAGE_SUFFIXES
from gcl_fast.data.layouts.manifest import read_manifest
from gcl_fast.data.layouts.mars import read_mars
from gcl_fast.data.layouts.msmt17 import read_msmt17
from gcl_fast.data.layouts.person_folders import read_person_folders, read_tracklet_folders
from gcl_fast.data.layouts.reading import READABLE, LayoutError, Reading
from gcl_fast.data.records import ReIDDataset
from gcl_fast.errors import UserError

Reader = Callable[[Path, Reading], ReIDDataset]

READERS: dict[str, Reader] = {
    "synthetic": partial(market.read_market_like, market.SYNTHETIC),
    "market1501": partial(market.read_market_like, market.MARKET),
    "market1501-500k": market.read_market_500k,
    "dukemtmc": partial(market.read_market_like, market.DUKE),
    "occluded-duke": partial(market.read_market_like, market.OCCLUDED_DUKE),
    "msmt17": read_msmt17,
    "cuhk03": read_cuhk03,
    "cuhk03-np": market.read_cuhk03_np,
    "personx": market.read_personx,
    "veri776": partial(market.read_market_like, market.VERI),
    "mars": read_mars,
    "manifest": read_manifest,
    "person-folders": read_person_folders,
    "tracklet-folders": read_tracklet_folders,
    "folder": read_folder,
}

LAYOUTS = {
    "synthetic": "DIR/{bounding_box_train,query,bounding_box_test}/PPPP_cCsS_FFFFFF_NN.jpg"
    " (gcl-fast synthetic --out DIR makes it)",
    "market1501": "DIR/Market-1501-v15.09.15/{bounding_box_train,query,bounding_box_test}/PPPP_cCsS_FFFFFF_NN.jpg",
    "market1501-500k": "the folders of market1501, and the distractors in DIR/Market-1501-v15.09.15/images",
    "dukemtmc": "DIR/DukeMTMC-reID/{bounding_box_train,query,bounding_box_test}/PPPP_cC_fFFFFFFF.jpg",
    "occluded-duke": "DIR/Occluded_Duke/{bounding_box_train,query,bounding_box_test}/PPPP_cC_fFFFFFFF.jpg",
    "msmt17": "DIR/MSMT17_V1/{train,test}/ or DIR/MSMT17_V2/{mask_train_v2,mask_test_v2}/ and"
    " list_{train,val,query,gallery}.txt",
    "cuhk03": "DIR/images_{labeled,detected}/PAIR_PERSON_VIEW_NUMBER.png and"
    " splits_{classic,new}_{labeled,detected}.json, or"
    " DIR/{bounding_box_train,query,bounding_box_test}/PPPP_cC_N.png; without a split use the dataset 'folder'",
    "cuhk03-np": "DIR/cuhk03-np/{detected,labeled}/{bounding_box_train,query,bounding_box_test}/PPPP_cC_N.png",
    "personx": "DIR/{bounding_box_train,query,bounding_box_test}/PPPP_cC....jpg, or these three in DIR/1, DIR/2, ...",
    "veri776": "DIR/VeRi/{image_train,image_query,image_test}/VVVV_cCCC_TTTTTTTT_N.jpg",
    "mars": "DIR/{bbox_train,bbox_test}/PPPP/PPPPCcTttttFfff.jpg, and DIR/info with its five lists for its own queries",
    "manifest": "DIR/manifest.csv or .parquet with the columns path, split, identity, camera, frame, tracklet"
    " (path alone is needed)",
    "person-folders": "DIR/PERSON/*.jpg or DIR/{train,query,gallery}/PERSON/*.jpg, with cameras in the names (c1,"
    " cam_a)",
    "tracklet-folders": "DIR/PERSON/TRACKLET/*.jpg or DIR/{train,query,gallery}/PERSON/TRACKLET/*.jpg, with cameras in"
    " the names (c1, cam_a)",
    "folder": f"DIR/**/* ending in {', '.join(IMAGE_SUFFIXES)}",
}

# published numbers of crops: train, query, gallery without junk; CUHK03-NP has a line for `detected` and `labeled`
COUNTS = {
    "market1501": [(12_936, 3_368, 15_913)],
    "dukemtmc": [(16_522, 2_228, 17_661)],
    "occluded-duke": [(15_618, 2_210, 17_661)],
    "msmt17": [(32_621, 11_659, 82_161)],
    "cuhk03-np": [(7_365, 1_400, 5_332), (7_368, 1_400, 5_328)],
    "personx": [(9_840, 5_136, 30_816)],
    "veri776": [(37_778, 1_678, 11_579)],
}


def open_dataset(name: str, root: str | Path) -> ReIDDataset:
    """Read the file names of a dataset; no image is opened.

    Args:
        name: one of `READERS`, such as "market1501", "manifest", or "folder" for unlabelled crops.
        root: the dataset's folder, one above it or one below it; for "manifest" also the file.

    Returns:
        The dataset; "folder" has training crops only.

    Raises:
        UserError: `name` is unknown, or the folder is missing, incomplete or empty. The message names the expected
            layout, and the one that the folder looks like.

    Example:
        >>> from PIL import Image
        >>> Image.new("RGB", (64, 128)).save("someone.jpg")
        >>> dataset = open_dataset("folder", ".")
        >>> dataset.train.names, len(dataset.query), len(dataset.gallery)
        (['someone.jpg'], 0, 0)
    """
    if name not in READERS:
        raise UserError(f"unknown dataset {name!r}; choose one of {', '.join(sorted(READERS))}")
    root = Path(root).expanduser().resolve()
    if not root.is_dir() and not (name == "manifest" and root.is_file()):
        there = "there is no folder" if not root.is_file() else "no folder, but a file:"
        raise UserError(f"{name}: {there} {root}; expected {LAYOUTS[name]}")
    if not os.access(root, READABLE if root.is_dir() else os.R_OK):
        raise UserError(f"{name}: {root} cannot be read; ask for its permissions")
    try:
        dataset = READERS[name](root, Reading(name, LAYOUTS[name]))
    except LayoutError as error:
        other = detect(root)
        if other is None or other == name:
            raise
        raise UserError(f"{error}; {root} looks like --dataset {other}") from error
    counts = tuple(len(split) for split in (dataset.train, dataset.query, dataset.gallery))
    published = COUNTS.get(name, [counts])
    if counts in published:
        return dataset
    expected = " or ".join(map(_with_commas, published))
    note = f"{name}: {_with_commas(counts)} crops for training, query and gallery; as published: {expected}"
    return replace(dataset, notes=(*dataset.notes, note))


def _with_commas(counts: tuple[int, ...]) -> str:
    """Format numbers of crops for a message."""
    return " / ".join(f"{n:,}" for n in counts)
