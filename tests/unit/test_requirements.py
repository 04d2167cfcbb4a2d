"""Each requirement names a test that exists, and each id in a test's name is a requirement's."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "requirements.md").read_text("utf-8")
NOT_BUILT = "not built yet"

#: A row's id, and the cell that names its proof.
ROWS = dict(re.findall(r"^\| ((?:AC|R)-\d+) \|.*\| (\S[^|]*) \|$", PAGE, re.MULTILINE))


def ids_of(test: str) -> list[str]:
    """Return the ids with which a test's name begins, as the rows have them."""
    found = []
    rest = test.removeprefix("test_")
    while (match := re.match(r"(ac|r)(\d+)_", rest)) is not None:
        found.append(f"{match[1].upper()}-{match[2]}")
        rest = rest[match.end() :]
    return found


@pytest.fixture(scope="module")
def tests() -> set[str]:
    files = (ROOT / "tests").rglob("test_*.py")
    return {
        name
        for file in files
        for name in re.findall(r"^ *def (test_\w+)", file.read_text("utf-8"), re.MULTILINE)
    }


def test_each_row_is_proved_by_a_test_that_has_its_id(tests: set[str]) -> None:
    built = {row: proof.strip("`") for row, proof in ROWS.items() if proof != NOT_BUILT}

    assert len(built) > 90
    assert {} == {row: proof for row, proof in built.items() if proof not in tests}
    assert {} == {row: proof for row, proof in built.items() if row not in ids_of(proof)}


def test_each_id_in_the_name_of_a_test_has_a_row_that_is_built(tests: set[str]) -> None:
    named = {id_: test for test in tests for id_ in ids_of(test)}

    assert {} == {id_: test for id_, test in named.items() if ROWS.get(id_, NOT_BUILT) == NOT_BUILT}


def test_ids_have_one_style_in_the_names_of_tests(tests: set[str]) -> None:
    anywhere = re.compile(r"(?<=_)(?:r|ac)_?\d+(?=_|$)", re.IGNORECASE)

    assert [] == [test for test in tests if len(ids_of(test)) != len(anywhere.findall(test))]


def test_each_row_that_the_code_or_a_test_cites_exists() -> None:
    cited = {
        (str(path.relative_to(ROOT)), row)
        for folder in ("dispatcher", "tests", "docs")
        for path in (ROOT / folder).rglob("*.*")
        if path.suffix in {".py", ".md"}
        for row in re.findall(r"\b(?:R|AC)-\d+\b", path.read_text("utf-8"))
    }

    assert set() == {(path, row) for path, row in cited if row not in ROWS}
