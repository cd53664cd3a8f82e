"""Read trees with a folder for each person, and trees with a folder for each tracklet in it."""

from __future__ import annotations

from pathlib import Path

from gcl_fast.data.layouts.image_names import BODIES, IMAGE_SUFFIXES, files_below, files_in, image_files
from gcl_fast.data.layouts.labels import camera_in, number_labels
from gcl_fast.data.layouts.query_gallery import build_query_gallery
from gcl_fast.data.layouts.reading import JUNK, Reading, Row, locate, make_records, visible_folders
from gcl_fast.data.records import ReIDDataset

SPLITS = {  # names of the folders of a split; the first that exists is read
    "train": ("train_all", "train", "bounding_box_train"),
    "query": ("query", "probe"),
    "gallery": ("gallery", "bounding_box_test"),
    "test": ("test", "val"),
}
LOOSE = "outside the folder of a person"
EMPTY = "empty folder of a person"
SAMPLE = 32  # folders of a level that are opened to recognize a tree


def read_person_folders(root: Path, reading: Reading) -> ReIDDataset:
    """Read PERSON/*.jpg, or train, query and gallery with these; people are named by their folders.

    A camera is read from the image's name or the folder below the person's, such as c1, cam1 or cam_a. Times are
    unknown. Without folders of splits all crops are for training, and query and gallery are chosen among them.
    """
    return _read_tree(root, reading, with_tracklets=False)


def read_tracklet_folders(root: Path, reading: Reading) -> ReIDDataset:
    """Read PERSON/TRACKLET/*.jpg as `read_person_folders` reads people; a tracklet is a folder below a person's.

    An image that lies in the person's folder itself has no tracklet.
    """
    return _read_tree(root, reading, with_tracklets=True)


def _read_tree(root: Path, reading: Reading, with_tracklets: bool) -> ReIDDataset:
    """Read people, cameras and, where asked for, tracklets from the names of folders and images."""
    marker = "folders of images in PERSON/TRACKLET" if with_tracklets else "folders of images"
    holds = holds_tracklets if with_tracklets else holds_people
    home = locate(reading, root, holds, marker, above=lambda folder: root in split_folders(folder).values())
    if loose := images_in_splits(home):
        raise reading.error(f"{loose} holds images and no folders of people")
    folders = split_folders(home) or {"": home}
    paths: list[tuple[str, Path, tuple[str, ...]]] = []  # split, image, names of the folders from the person's on
    for split, folder in folders.items():
        paths += [(split, path, path.relative_to(folder).parts) for path in _images_of_people(folder, reading)]
    if not paths:
        raise reading.error(f"no crops in {home}")
    people, note = number_labels([parts[0] for _, _, parts in paths], unknown=-1)
    cameras, camera_note = number_labels([camera_in(*reversed(parts[1:])) for _, _, parts in paths], unknown=0)
    reading.notes += [f"{reading.name}: people are {note}"] * bool(note)
    reading.notes += [f"{reading.name}: cameras are {camera_note}"] * bool(camera_note)
    if not any(cameras):
        reading.notes.append(f"{reading.name}: no name of an image or folder gives a camera, such as c1 or cam_a")
    tracklets: dict[tuple[str, ...], int] = {}
    rows: dict[str, list[Row]] = {}
    for (split, path, parts), person, camera in zip(paths, people, cameras):
        tracklet = -1
        if with_tracklets and len(parts) > 2:
            tracklet = tracklets.setdefault((split, *parts[:-1]), len(tracklets))
        if person < 0:
            reading.pass_over(JUNK)
        else:
            rows.setdefault(split, []).append(Row(path, person, camera, tracklet=tracklet))
    return _divide(home, folders, rows, reading)


def _divide(home: Path, folders: dict[str, Path], rows: dict[str, list[Row]], reading: Reading) -> ReIDDataset:
    """Return the dataset of the rows of each split; "" stands for a tree without splits."""
    train, query, gallery = (rows.get(split, []) for split in ("train", "query", "gallery"))
    roots = [folders.get(split, home) for split in ("train", "query", "gallery")]
    if "" in folders:
        train = rows[""]
        query, gallery = build_query_gallery(train, reading, "the training crops")
    elif not query and not gallery and "test" in rows:
        roots[1:] = [folders["test"]] * 2
        query, gallery = build_query_gallery(rows["test"], reading, folders["test"].name)
    elif bool(query) != bool(gallery):
        there, other = ("query", "gallery") if query else ("gallery", "query")
        reading.notes.append(f"{reading.name}: there is a {there} folder in {home} and no {other} folder")
    return reading.dataset(home, *make_records(roots, [train, query, gallery]))


def split_folders(root: Path) -> dict[str, Path]:
    """Return the folders of splits in `root` that hold people, by split."""
    folders: dict[str, Path] = {}
    for split, names in SPLITS.items():
        for folder in (root / name for name in names):
            if split not in folders and (_has_images_at(folder, 1) or _has_images_at(folder, 2)):
                folders[split] = folder
    return folders


def images_in_splits(root: Path) -> Path | None:
    """Return a folder of a split in `root` that holds images itself, as in Market-1501."""
    folders = (root / name for names in SPLITS.values() for name in names)
    return next((folder for folder in folders if folder.is_dir() and has_image(folder)), None)


def holds_people(root: Path) -> bool:
    """Return whether a folder holds PERSON/*.jpg or PERSON/FOLDER/*.jpg of several people, or splits of these."""
    several = sum(_has_images_at(child, 1) for child in _folders_of_crops(root)[:SAMPLE]) > 1
    return bool(split_folders(root)) or _has_images_at(root, 1) or several


def holds_tracklets(root: Path) -> bool:
    """Return whether a folder holds PERSON/TRACKLET/*.jpg, or splits with these."""
    return any(_has_images_at(top, 2) for top in (root, *split_folders(root).values()))


def tracklet_names(root: Path) -> list[str]:
    """Return some names of folders two levels below `root`, or below its splits."""
    tops = [*split_folders(root).values()] or [root]
    people = [person for top in tops for person in _folders_of_crops(top)[:SAMPLE]]
    return [child.name for person in people[:SAMPLE] for child in visible_folders(person)]


def _has_images_at(root: Path, depth: int) -> bool:
    """Return whether a folder `depth` levels below `root` holds an image; some folders of each level are opened."""
    level = _folders_of_crops(root)
    for _ in range(depth - 1):
        level = [child for folder in level[:SAMPLE] for child in visible_folders(folder)]
    return any(has_image(folder) for folder in level[:SAMPLE])


def _folders_of_crops(root: Path) -> list[Path]:
    """Return the visible folders in `root` but for that of body parameters; none where there is no such folder."""
    return [folder for folder in visible_folders(root) if folder.name != BODIES] if root.is_dir() else []


def has_image(folder: Path) -> bool:
    """Return whether there is an image in a folder itself."""
    return any(path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != "." for path in files_in(folder))


def _images_of_people(folder: Path, reading: Reading) -> list[Path]:
    """Return the images in the folders of people; others, and folders without images, are counted."""
    for path in image_files(files_in(folder), reading):
        reading.pass_over(LOOSE, path.name)
    images = []
    for person in _folders_of_crops(folder):
        of_person = image_files(files_below(person, reading), reading)
        if not of_person:
            reading.pass_over(EMPTY, person.name)
        images += of_person
    return images
