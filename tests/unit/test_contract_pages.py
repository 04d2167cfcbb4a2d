"""The pages that hold the contracts name what the code has: states, outcomes, messages, files."""

import re
from pathlib import Path
from typing import get_args

import pytest

from dispatcher import wire
from dispatcher.model import MOVES, Outcome, TaskState
from dispatcher.policy import COUNTED

ROOT = Path(__file__).parents[2]
DESIGN = (ROOT / "docs" / "design.md").read_text("utf-8")
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text("utf-8")
CONTRACTS = ("design.md", "protocol.md", "architecture.md")
HAND_WRITTEN = [
    ROOT / "CONTRIBUTING.md",
    *(ROOT / "docs" / name for name in CONTRACTS),
]


def rows(page: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, without its head."""
    below = page.partition(f"\n{heading}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert table is not None, heading
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in table[0].splitlines()[2:]
    ]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_the_table_of_states_is_the_table_of_moves() -> None:
    found = {quoted(row[0])[0]: quoted(row[2]) for row in rows(DESIGN, "### 4.1 States")}

    assert {one.value: {*map(str, MOVES[one])} for one in TaskState} == {
        state: {*moves} for state, moves in found.items()
    }


def test_the_table_of_outcomes_names_each_with_what_it_charges() -> None:
    found = {quoted(row[0])[0]: row[2] for row in rows(DESIGN, "### 5.1 The closed list")}

    assert {*map(str, Outcome)} == {*found}
    assert {*map(str, COUNTED)} == {
        outcome for outcome, charged in found.items() if charged.startswith("an attempt")
    }


@pytest.mark.parametrize(
    ("sender", "kinds"), [("daemon", wire.ToExecutor), ("executor", wire.FromExecutor)]
)
def test_the_table_of_messages_names_each_with_its_sender(sender: str, kinds: object) -> None:
    found = {
        message
        for row in rows(PROTOCOL, "## 2. Daemon and executor")
        for message, source in zip(quoted(row[0]), row[1].split(", "), strict=True)
        if source == sender
    }

    assert {kind.__struct_config__.tag for kind in get_args(kinds)} == found


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=lambda page: page.name)
def test_each_file_of_the_code_that_a_page_names_exists(page: Path) -> None:
    files = {f"/{path.relative_to(ROOT)}" for path in ROOT.glob("[a-z]*/**/*.py")}
    named = re.findall(r"`([a-z_/]+\.py)`", page.read_text("utf-8"))

    assert [] == [name for name in named if not any(one.endswith(f"/{name}") for one in files)]


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=lambda page: page.name)
def test_each_test_that_a_page_names_exists(page: Path) -> None:
    tests = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^ *def (test_\w+)", file.read_text("utf-8"), re.MULTILINE)
    }
    named = re.findall(r"`(test_[a-z0-9_]{20,})`", page.read_text("utf-8"))

    assert [] == [name for name in named if name not in tests]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


def test_each_link_to_a_heading_leads_to_one() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    links = [
        (page.name, target, anchor)
        for page in pages
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text("utf-8"))
        if anchor not in anchors(page.parent / target if target else page)
    ]

    assert [] == links


def test_each_section_of_the_protocol_that_is_cited_exists() -> None:
    sections = {*re.findall(r"^#+ (\d(?:\.\d+)?)\.? ", PROTOCOL, re.MULTILINE)}
    cited = {
        (str(path.relative_to(ROOT)), number)
        for pattern in ("dispatcher/**/*.py", "tests/**/*.py", "docs/**/*.md", "*.md")
        for path in ROOT.glob(pattern)
        for number in re.findall(r"[Pp]rotocol(?:\.md)? (\d(?:\.\d+)?)", path.read_text("utf-8"))
    }

    assert cited
    assert set() == {(path, number) for path, number in cited if number not in sections}
