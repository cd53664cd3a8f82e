"""No file of the package reads what strangers wrote by a call that runs code, and docs/security.md cites real tests."""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SOURCES = sorted(path for room in ("gcl_fast", "kernels", "csrc") for path in (REPOSITORY / room).rglob("*.py"))
UNSAFE = {"eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "torch.jit.load"}
UNSAFE |= {"yaml.load", "yaml.full_load", "yaml.unsafe_load", "shelve.open", "marshal.loads", "joblib.load"}
NEEDED = {  # keywords without which a call is one that runs code, or opens formats that other programs decode
    "torch.load": {"weights_only": True},
    "np.load": {"allow_pickle": False},
    "Image.open": {"formats": "FORMATS"},
}
ALLOWED = {
    "gcl_fast/bodies/smpl.py": ["class of _Unpickler", "_ModelUnpickler"],  # its find_class admits arrays alone
    "gcl_fast/inference/exported_program.py": ["torch.export.load"],  # of the file that it has just written
}


def faults(text: str) -> list[str]:
    """Return the calls of a source that run code of what they read."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            found += [f"class of {base}" for base in map(ast.unparse, node.bases) if base.endswith("Unpickler")]
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name in UNSAFE or name.endswith("Unpickler") or name == "torch.export.load":
            found.append(name)
        if keywords.get("shell", "False") != "False" or keywords.get("trust_remote_code", "False") != "False":
            found.append(f"{name} with a shell or remote code")
        found += [f"{name} without {k}={v}" for k, v in NEEDED.get(name, {}).items() if keywords.get(k) != str(v)]
    return found


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("torch.load(path)", "torch.load without weights_only=True"),
        ("torch.load(path, weights_only=False)", "torch.load without weights_only=True"),
        ("np.load(path)", "np.load without allow_pickle=False"),
        ("Image.open(path)", "Image.open without formats=FORMATS"),
        ("yaml.load(text, Loader=yaml.Loader)", "yaml.load"),
        ("subprocess.run(name, shell=True)", "subprocess.run with a shell or remote code"),
        ("class Reader(pickle.Unpickler): pass", "class of pickle.Unpickler"),
        ("pickle.loads(data)", "pickle.loads"),
    ],
)
def test_calls_that_run_code_are_noticed(text, fault):
    assert faults(text) == [fault]


def test_no_file_of_the_package_makes_such_a_call():
    found = {str(path.relative_to(REPOSITORY)): faults(path.read_text()) for path in SOURCES}
    assert len(found) > 200
    assert {name: sorted(some) for name, some in found.items() if some} == {k: sorted(v) for k, v in ALLOWED.items()}


def test_every_test_and_file_that_the_page_on_security_cites_exists():
    page = (REPOSITORY / "docs" / "security.md").read_text()
    cited = re.findall(r"`(tests/[\w/]+\.py)(?:: (\w+))?`", page)
    assert len(cited) > 25
    for file, name in cited:
        assert not name or f"def {name}(" in (REPOSITORY / file).read_text(), (file, name)
    files = re.findall(
        r"`((?:csrc|kernels|gallery|data|models|run|bodies|reports|settings|inference)/[\w/]+\.py)", page
    )
    assert files
    for file in files:
        assert (REPOSITORY / "gcl_fast" / file).is_file(), file
