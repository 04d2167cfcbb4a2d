"""The shape of the code: sizes, one name for each class, and who may import whom."""

import ast
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: Lines of a file, and of a function with its docstring: its decorators are declarations.
MOST_OF_FILE, MOST_OF_FUNCTION = 300, 40

#: Longer files, and why.
LONG_FILES = {
    "dispatcher/logs/catalogue.py": "a table: one entry for each event",
    "dispatcher/store/migrations.py": "released steps of the schema, which nobody edits",
    "dispatcher/store/tables.py": "the tables of a new database, with their checks",
    "dispatcher/store/api.py": "a contract: one sentence for each method, and no code",
}

#: Class names that two programs share, as they mean the same.
SHARED_NAMES = {"Refused": "worker_stub stands alone"}


@cache
def parsed() -> dict[str, ast.Module]:
    files = [file for part in ("dispatcher", "worker_stub") for file in (ROOT / part).rglob("*.py")]
    return {str(file.relative_to(ROOT)): ast.parse(file.read_text("utf-8")) for file in files}


def functions() -> Iterator[tuple[str, int]]:
    """Yield the place of each function, and its lines."""
    for name, tree in parsed().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                yield f"{name}:{node.name}", (node.end_lineno or 0) - node.lineno + 1


def test_no_file_is_longer_than_a_screenful_of_ideas() -> None:
    lengths = {name: len((ROOT / name).read_text("utf-8").splitlines()) for name in parsed()}

    assert set(LONG_FILES) == {name for name, lines in lengths.items() if lines > MOST_OF_FILE}


def test_no_function_is_longer_than_a_screen() -> None:
    assert {} == {place: lines for place, lines in functions() if lines > MOST_OF_FUNCTION}


def test_each_class_has_a_name_of_its_own() -> None:
    names = Counter(
        node.name
        for tree in parsed().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    )

    assert set(SHARED_NAMES) == {name for name, times in names.items() if times > 1}


def test_every_room_has_an_import_contract_that_leaves_out_no_module() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
    layers = [one for one in tools["importlinter"]["contracts"] if one["type"] == "layers"]
    rooms = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for program in ("dispatcher", "worker_stub")
        for depth in ("", "*/")
        for file in (ROOT / program).glob(f"{depth}__init__.py")
    }

    assert [] == [one["name"] for one in layers if not one.get("exhaustive")]
    assert rooms == {container for one in layers for container in one["containers"]}
