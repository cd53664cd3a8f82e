"""Read MARS: tracklets of people in bbox_train and bbox_test, with or without its lists."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from gcl_fast.data.layouts.image_names import files_below, image_files
from gcl_fast.data.layouts.query_gallery import build_query_gallery
from gcl_fast.data.layouts.reading import JUNK, UNNAMED, Reading, Row, locate, records_of, text_of
from gcl_fast.data.records import ReIDDataset

MARS_NAME = re.compile(r"(?P<identity>\d{4}|00-1)C(?P<camera>\d+)T(?P<tracklet>\d+)F(?P<frame>\d+)")
FORM = "PPPPCcTttttFfff.jpg"
INFOS = ("info", "MARS-evaluation/info", "MARS-evaluation-master/info")  # as its evaluation code is unpacked
FILES = ("train_name.txt", "test_name.txt", "tracks_train_info.mat", "tracks_test_info.mat", "query_IDX.mat")


def read_mars(root: Path, reading: Reading) -> ReIDDataset:
    """Read bbox_train and bbox_test, each with PERSON/PPPPCcTttttFfff.jpg; archives may have doubled the folder.

    The five lists of MARS's evaluation code are read where they are in `info`. A line of tracks_*_info.mat is assumed
    to be first and last image (from 1, in *_name.txt), identity and camera; query_IDX.mat counts test tracklets
    from 1. Without the lists, tracklets are read from the names, and queries are chosen by tracklet.
    Frames count within a tracklet, so that times are unknown.
    """
    marker = "bbox_train"
    home = locate(reading, root, lambda folder: (folder / marker).is_dir(), marker, ("MARS", "mars", "MARS-v160809"))
    folders = [_undoubled(home / name) for name in ("bbox_train", "bbox_test")]
    tested_on = not reading.lacks(folders[1])
    info = next((home / name for name in INFOS if (home / name).is_dir()), None)
    if info is None:
        reading.notes.append(f"{reading.name}: no folder info in {home}, so tracklets are read from the file names")
        train = _from_names(folders[0], reading, first=0)
        first = 1 + max((row.tracklet for row in train), default=-1)
        test = _from_names(folders[1], reading, first) if tested_on else []
        query, gallery = build_query_gallery(test, reading, "bbox_test")
    else:
        if missing := [name for name in FILES if not (info / name).is_file()]:
            raise reading.error(f"no {missing[0]} in {info}")
        tracks = [_matrix(info / name, reading) for name in FILES[2:]]
        train = [row for rows in _from_lists(folders[0], info / FILES[0], tracks[0], 0, reading) for row in rows]
        tested = _from_lists(folders[1], info / FILES[1], tracks[1], len(tracks[0]), reading)
        queries = set(tracks[2].ravel().tolist())
        if queries and not 1 <= min(queries) <= max(queries) <= len(tested):
            raise reading.refusal(f"{info / FILES[4]} names tracklets beyond the {len(tested)} of {FILES[3]}")
        tested = tested if tested_on else []
        query = [row for number, rows in enumerate(tested, 1) if number in queries for row in rows]
        gallery = [row for number, rows in enumerate(tested, 1) if number not in queries for row in rows]
    return reading.dataset(home, *records_of(reading, [folders[0], folders[1], folders[1]], [train, query, gallery]))


def _undoubled(folder: Path) -> Path:
    """Return the folder of the same name in `folder` where there is one, else `folder`."""
    return folder / folder.name if (folder / folder.name).is_dir() else folder


def _from_names(folder: Path, reading: Reading, first: int) -> list[Row]:
    """Read identity, camera and tracklet from the file names; tracklets are numbered from `first`."""
    rows, tracklets = [], dict[tuple[int, int, int], int]()
    for path in image_files(files_below(folder, reading), reading):
        match = MARS_NAME.match(path.name)
        if match is None:
            reading.pass_over(f"{UNNAMED}, unlike {FORM}", path.name)
        elif match["identity"] == "00-1":
            reading.pass_over(JUNK)
        else:
            identity, camera, number = (int(match[key]) for key in ("identity", "camera", "tracklet"))
            tracklet = tracklets.setdefault((identity, camera, number), first + len(tracklets))
            rows.append(Row(path, identity, camera, tracklet=tracklet))
    return rows


def _from_lists(folder: Path, file: Path, tracks: np.ndarray, first: int, reading: Reading) -> list[list[Row]]:
    """Return the rows of each tracklet in the lists; a tracklet of junk has none."""
    names, tracklets = text_of(file, reading).split(), []
    if tracks.shape[1:] != (4,):
        raise reading.refusal(
            f"the tracklets of {file} are a matrix of {' x '.join(map(str, tracks.shape))}; expected four columns:"
            " first and last image, identity, camera"
        )
    for number, (begin, end, identity, camera) in enumerate(tracks.tolist(), first):
        if not 1 <= begin <= end <= len(names):
            raise reading.refusal(f"a tracklet has images {begin} to {end}, but {file} has {len(names)} names")
        images = names[begin - 1 : end]
        if identity == -1:
            reading.pass_over(JUNK, count=len(images))
            images = []
        for place, name in enumerate(images, begin):
            if not MARS_NAME.match(name) or "/" in name:
                raise reading.refusal(f"{file}, name {place} is {name!r}; expected {FORM}")
        rows = [Row(folder / name[:4] / name, identity, camera, tracklet=number) for name in images]
        tracklets.append(rows)
    return tracklets


def _matrix(file: Path, reading: Reading) -> np.ndarray:
    """Return the one matrix of integers in a .mat file."""
    from scipy.io import loadmat

    try:
        matrices = [value for name, value in loadmat(file).items() if not name.startswith("__")]
    except Exception as error:  # a damaged file raises errors of many types in scipy
        raise reading.refusal(f"{file} cannot be read as a .mat file ({error})") from error
    if len(matrices) != 1 or not np.issubdtype(matrices[0].dtype, np.number):
        raise reading.refusal(f"{file} holds {len(matrices)} variables, expected one matrix of numbers")
    return matrices[0].astype(np.int64)
