"""The rooms of the package stand on floors, and no import goes upward or in a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "gcl_fast"
# From the ground up: a room imports from the floors below its own. docs/architecture.md says what each is for.
FLOORS = [
    {"atomic", "cache_folder", "console", "errors", "process", "random_streams", "table"},
    {"versions"},
    {"csrc", "distributed", "entry"},
    {"kernels"},
    {"data", "memory", "models", "pseudo_labels", "render"},
    {"bodies", "losses"},
    {"evaluation"},
    {"synthetic"},
    {"settings"},
    {"inputs", "optim"},
    {"assessment", "command_line", "estimator_training"},
    {"stages"},
    {"run"},
    {"estimate", "evaluate", "generate", "train"},
]


def modules() -> dict[str, Path]:
    """Return the path of each module of the package by its name within the package, such as `data.loaders`."""
    paths = [*PACKAGE.rglob("*.py"), *(PACKAGE / "kernels").glob("*.py"), *(PACKAGE / "csrc").glob("*.py")]
    names = {path: path.relative_to(PACKAGE).with_suffix("").parts for path in paths}
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts): path for path, parts in names.items()}


MODULES = modules()


def imports(module: str) -> set[str]:
    """Return the modules of the package that `module` imports, inside functions as well."""
    names = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "gcl_fast":
            base = (node.module or "").removeprefix("gcl_fast").lstrip(".")
            for alias in node.names:
                name = f"{base}.{alias.name}".lstrip(".")
                names.add(name if name in MODULES else base)
        elif isinstance(node, ast.Import):
            names |= {a.name.removeprefix("gcl_fast.") for a in node.names if a.name.startswith("gcl_fast.")}
    return names - {"", module}


def floor(module: str) -> int:
    """Return the number of the floor that the module's room is on."""
    room = module.partition(".")[0]
    (number,) = [n for n, rooms in enumerate(FLOORS) if room in rooms]
    return number


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {""}))
def test_imports_come_from_the_same_room_or_from_below(module):
    room = module.partition(".")[0]
    others = {name for name in imports(module) if name.partition(".")[0] != room}
    assert {name for name in others if floor(name) >= floor(module)} == set()


def test_no_circle_of_modules():
    # A package's __init__ imports its modules, which import one another: names of packages are no modules here
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    graph = {name: imports(name) - packages for name in MODULES.keys() - packages}
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError
