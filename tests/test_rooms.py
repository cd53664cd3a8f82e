"""The rooms of the package stand on floors; no import goes upward, in a circle or out of the package."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "gcl_fast"
# From the ground up: a room imports from the floors below its own. docs/architecture.md says what each is for.
FLOORS = [
    {"console", "errors", "intervals", "process", "random_streams", "table"},
    {"atomic", "cache_folder", "settings", "versions"},
    {"csrc", "distributed", "entry"},
    {"arguments", "kernels"},
    {"data", "memory", "models", "pseudo_labels", "render"},
    {"bodies", "losses"},
    {"evaluation"},
    {"synthetic"},
    {"inputs", "optim"},
    {"assessment", "command_line", "estimator_training"},
    {"stages"},
    {"run"},
    {"inference"},
    {"gallery", "reports"},
    {
        "compare",
        "crops",
        "embed",
        "estimate",
        "evaluate",
        "export",
        "generate",
        "inspect_data",
        "report",
        "search",
        "train",
    },
    {"__main__"},
]


# What the package must not import: the folders beside it, and the scripts that these put on the path
OUTSIDE = {
    path.stem
    for folder in (REPOSITORY, REPOSITORY / "benchmarks", REPOSITORY / "tests")
    for path in folder.iterdir()
    if path.suffix == ".py" or (path.is_dir() and not path.name.startswith((".", "_")))
} - {"gcl_fast"}


def modules() -> dict[str, Path]:
    """Return the path of each module of the package by its name within the package, such as `data.loaders`."""
    paths = [*PACKAGE.rglob("*.py"), *(PACKAGE / "kernels").glob("*.py"), *(PACKAGE / "csrc").glob("*.py")]
    names = {path: path.relative_to(PACKAGE).with_suffix("").parts for path in paths}
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts): path for path, parts in names.items()}


MODULES = modules()
PACKAGES = {name for name, path in MODULES.items() if path.name == "__init__.py"}


def full_names(source: str, module: str) -> set[str]:
    """Return the full names that the source of `module` imports, inside functions as well.

    A string that is the name of a module counts as an import, as `importlib.import_module` takes it.
    """
    names = set()
    here = ["gcl_fast", *filter(None, module.split("."))]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            # One dot is the package of the module, or the package itself
            parents = here[: len(here) - node.level + (module in PACKAGES)] if node.level else []
            base = ".".join([*parents, *filter(None, [node.module])])
            submodules = {a.name for a in node.names if f"{base}.{a.name}".removeprefix("gcl_fast.") in MODULES}
            names |= {f"{base}.{name}" for name in submodules}
            if len(submodules) < len(node.names):
                names.add(base)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value
            if name.startswith("gcl_fast.") and name.removeprefix("gcl_fast.") in MODULES:
                names.add(name)
    return names


def imports(module: str) -> set[str]:
    """Return the modules of the package that `module` imports, by their names within the package."""
    names = full_names(MODULES[module].read_text(), module)
    return {name.removeprefix("gcl_fast.") for name in names if name.startswith("gcl_fast.")} - {module}


def floor(module: str) -> int:
    """Return the number of the floor that the module's room is on."""
    room = module.partition(".")[0]
    (number,) = [n for n, rooms in enumerate(FLOORS) if room in rooms]
    return number


@pytest.mark.parametrize(
    ("module", "source", "names"),
    [
        ("data.loaders", "def f():\n    from ..run.loop import run_stage", {"gcl_fast.run.loop"}),
        ("data.loaders", "from . import cache", {"gcl_fast.data.cache"}),
        ("data.loaders", "from .. import data", {"gcl_fast.data"}),
        ("data", "from .cache import DecodedCache", {"gcl_fast.data.cache"}),
        ("data", "from . import cache, Records", {"gcl_fast.data.cache", "gcl_fast.data"}),
        ("atomic", "from .run import loop", {"gcl_fast.run.loop"}),
        ("atomic", "from gcl_fast import __version__, run", {"gcl_fast", "gcl_fast.run"}),
        ("atomic", "import gcl_fast.run.loop as l, benchmarks.lib", {"gcl_fast.run.loop", "benchmarks.lib"}),
        ("atomic", "import_module('gcl_fast.run.loop'); x = 'gcl_fast.no_module'", {"gcl_fast.run.loop"}),
    ],
)
def test_every_way_to_import_is_seen(module, source, names):
    assert full_names(source, module) == names


def test_every_room_is_on_one_floor():
    rooms = sorted(room for rooms in FLOORS for room in rooms)
    assert rooms == sorted({name.partition(".")[0] for name in MODULES} - {""})


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {""}))
def test_imports_come_from_the_same_room_or_from_below(module):
    room = module.partition(".")[0]
    others = {name for name in imports(module) if name.partition(".")[0] != room}
    assert {name for name in others if floor(name) >= floor(module)} == set()


def test_the_package_itself_imports_its_public_face_alone():
    assert {name.partition(".")[0] for name in imports("")} == {"inference"}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_nothing_is_imported_from_beside_the_package(module):
    first = {name.partition(".")[0] for name in full_names(MODULES[module].read_text(), module)}
    assert {"benchmarks", "tests", "lib", "kernels", "trainer"} <= OUTSIDE
    assert first & OUTSIDE == set()


def test_no_circle_of_modules():
    # The __init__ of a package is a module here: a module of the package that imports a name from it makes a circle
    graph = {name: imports(name) for name in MODULES.keys() - {""}}
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError
