"""Every public call has an example in its docstring, and every example in a docstring is right."""

import ast
import doctest
import inspect
import pkgutil
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path

import pytest

import gcl_fast
from gcl_fast import kernels

PACKAGE = Path(gcl_fast.__file__).parent


def public_calls() -> list[tuple[str, str]]:
    """Return (module, name) of each function and class in the `__all__` of a package, of an op's file, or of the bank.

    Dataclasses, named tuples and exceptions are left out: calls return or raise them, and their fields say the rest.
    """
    calls = []
    ops = pkgutil.iter_modules(kernels.__path__, "gcl_fast.kernels.")
    modules = [info.name for info in pkgutil.iter_modules(gcl_fast.__path__, "gcl_fast.") if info.ispkg]
    for module in ("gcl_fast", *modules, "gcl_fast.memory", *(info.name for info in ops)):
        package = import_module(module)
        for name in getattr(package, "__all__", ()):
            value = getattr(package, name)
            kinds = (Exception, tuple)
            plain = inspect.isclass(value) and (is_dataclass(value) or issubclass(value, kinds))
            if callable(value) and not plain:
                calls.append((module, name))
    return calls


def examples() -> list[tuple[str, str]]:
    """Return (module, name) of each function and class at the top of a module whose docstring has an example."""
    calls = []
    for path in sorted({*PACKAGE.rglob("*.py"), *(PACKAGE / "kernels").glob("*.py"), *(PACKAGE / "csrc").glob("*.py")}):
        module = ".".join(("gcl_fast", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and ">>> " in (ast.get_docstring(node) or ""):
                calls.append((module, node.name))
    return calls


EXAMPLES = examples()


def test_examples_are_found():
    assert {("gcl_fast.inference.load", "load"), ("gcl_fast.kernels.merge_top_k", "merge_top_k")} <= {*EXAMPLES}


@pytest.mark.parametrize(("package", "name"), public_calls())
def test_a_public_call_has_an_example(package, name):
    value = getattr(import_module(package), name)
    assert ">>> " in (value.__doc__ or ""), f"{package}.{name} has no example"


@pytest.mark.parametrize(("module", "name"), EXAMPLES)
def test_an_example_runs(module, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an example may write files
    scope = import_module(module)
    (test,) = doctest.DocTestFinder(recurse=False).find(getattr(scope, name), name, scope, globs={**vars(scope)})
    assert test.examples
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    failures: list[str] = []
    runner.run(test, out=failures.append)
    assert not failures, "".join(failures)
