"""Which package may import which: data flows from zoo through training to export, never back."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def imports(folder: Path) -> dict[Path, set[str]]:
    """Absolute module names that each file of a package imports."""
    found = {}
    for path in folder.rglob("*.py"):
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: imports are absolute"
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
        found[path.relative_to(ROOT)] = names
    return found


def reaches(names: set[str], package: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for name in names)


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("zoo", "export"),
        ("zoo", "short_bp_zoo"),
        ("zoo", "tests"),
        ("export", "zoo.training"),
        ("export", "short_bp_zoo"),
        ("export", "tests"),
    ],
)
def test_imports_point_one_way(package, forbidden):
    wrong = [str(p) for p, names in imports(ROOT / package).items() if reaches(names, forbidden)]
    assert wrong == []


# Each room of zoo may import those before it.
ROOMS = (
    "validation",
    "console",
    "neurons",
    "layers",
    "models",
    "deployment",
    "hub",
    "factory",
    "inference",
    "data",
    "diagnostics",
    "training",
)


def test_rooms_of_zoo_import_only_rooms_before_them():
    for path, names in imports(ROOT / "zoo").items():
        room = path.parts[1].removesuffix(".py")
        if room in ROOMS:  # __init__ stands above them all
            for later in ROOMS[ROOMS.index(room) + 1 :]:
                assert not reaches(names, f"zoo.{later}"), f"{path} imports zoo.{later}"


def test_zoo_has_no_other_rooms():
    found = {path.parts[1].removesuffix(".py") for path in imports(ROOT / "zoo")}
    assert found == {*ROOMS, "__init__"}


def test_nothing_stands_on_a_peer():
    for package in ("zoo", "export"):
        for path, names in imports(ROOT / package).items():
            for peer in ("spikingjelly", "snntorch", "norse"):
                assert not reaches(names, peer), path
