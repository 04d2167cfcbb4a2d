"""Generated files: complete, true, and not older than the code."""

import importlib.util
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dispatcher.config import reference
from dispatcher.config.config import Config, load
from dispatcher.config.file import written
from dispatcher.config.section import NAME
from dispatcher.config.settings import Settings
from dispatcher.config.tables import named_tables
from dispatcher.obstacles import Obstacle
from dispatcher.quantities import durations

ROOT = Path(__file__).parents[2]


def _generated() -> dict[Path, str]:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(module.generated())


def test_generated_files_are_not_older_than_the_code() -> None:
    for path, text in _generated().items():
        assert text == path.read_text("utf-8"), f"{path.name} is old: run make docs"


def test_every_key_is_explained_and_has_an_example() -> None:
    for key in reference.every_key():
        assert key.text.strip().endswith((".", ")")), key
        assert key.example, key


def test_the_commented_file_names_every_key_once_and_changes_nothing(tmp_path: Path) -> None:
    text = reference.commented_file()
    file = tmp_path / "dispatcher.toml"
    file.write_text(text)
    environ = {"STATE_DIRECTORY": "/var/lib/dispatcher", "RUNTIME_DIRECTORY": "/run/dispatcher"}

    assert msgspec.structs.replace(load(str(file), environ), file=None) == _of("", tmp_path)
    uncommented = tomllib.loads(
        "\n".join(line.removeprefix("#") for line in text.splitlines() if line[:2] != "# ")
    )
    for name in named_tables():
        uncommented |= {f"{name}.{own}": keys for own, keys in uncommented.pop(name).items()}
    named = {(section, key) for section, keys in uncommented.items() for key in keys}
    assert {(key.section, key.name) for key in reference.every_key()} == named


#: What the other keys of a section need.
NEEDED = {
    "profiles.NAME": {"command": '["true"]'},
    "queues.NAME": {"breaker": '"5 in 10m"'},
    "schedules.NAME": {"cron": '"0 3 * * *"', "command": '["true"]'},
    "peers": dict.fromkeys(("token_file", "certificate", "key", "authority"), '"/file"'),
}


#: The other sections that it needs.
OTHERS = {
    "hooks": "[profiles.notify]\ncommand = ['true']\n",
    **dict.fromkeys(("queues.NAME", "profiles.NAME"), "[limits.provider]\n"),
    "schedules.NAME": "[profiles.report]\ncommand = ['true']\n",
}


def test_every_example_and_default_is_accepted(tmp_path: Path) -> None:
    for key in reference.every_key():
        for value in filter(None, (key.default, key.example)):
            given = {**NEEDED.get(key.section, {}), key.name: value}
            if (key.section, key.name) == ("schedules.NAME", "profile"):
                del given["command"]  # the profile brings one
            lines = [f"{name} = {value}" for name, value in given.items()]
            _of("\n".join((f"[{key.section}]", *lines, OTHERS.get(key.section, ""))), tmp_path)


def test_the_schema_describes_every_key_of_the_file() -> None:
    schema = reference.schema()

    assert list(Settings.__struct_fields__) == list(schema["properties"])
    leases = schema["properties"]["leases"]
    assert leases["additionalProperties"] is False
    assert ("1m", "string") == tuple(leases["properties"]["ttl"][k] for k in ("default", "type"))
    assert "default" not in leases["properties"]["reap_interval"]
    assert ["drain", "leave"] == schema["properties"]["daemon"]["properties"]["on_stop"]["enum"]


#: What a pattern of Python's may hold and one of ECMA 262, which schemas have, may not: anchors and
#: classes of other names, named groups and references, flags, comments, conditions, atomic groups
#: and possessive repeats, braces and brackets that mean something else.
NOT_ECMA = re.compile(
    r"\\[AZzaGhHRXQE]|\(\?P|\(\?[aiLmsux-]|\(\?#|\(\?\(|\(\?>|[*+?}]\+|\{,|\[\[:|\[\^?\]"
)


def _with_patterns(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield every part of a schema that has a pattern."""
    if isinstance(schema, dict):
        if isinstance(schema.get("pattern"), str):
            yield schema
        schema = list(schema.values())
    if isinstance(schema, list):
        for part in schema:
            yield from _with_patterns(part)


@pytest.mark.parametrize(
    ("key", "text", "fits"),
    [
        *(("ttl", text, True) for text in ("1m30s", "2w", "1.5s", "200ms", "1w2d3h4m5s6ms")),
        *(("ttl", text, False) for text in ("", "5", "30s1m", "1m ", "s", "1y")),
    ],
)
def test_the_schema_takes_the_durations_that_the_file_takes(
    key: str, text: str, fits: bool
) -> None:
    described = reference.schema()["properties"]["leases"]["properties"][key]

    assert fits == bool(re.search(described["pattern"], text))
    if not fits:
        with pytest.raises(ValueError, match=r"duration|plain number"):
            durations.parse(text)


def test_patterns_in_the_schema_are_those_of_editors_and_fit_their_own_examples() -> None:
    found = list(_with_patterns(reference.schema()))

    assert len(found) > 20
    for part in found:
        assert not NOT_ECMA.search(part["pattern"]), part
        assert part["pattern"][0] + part["pattern"][-1] == "^$", part
        for value in (*part.get("examples", ()), *filter(None, [part.get("default")])):
            assert re.search(part["pattern"], value), part
    assert NOT_ECMA.search(NAME), "what is a name, as it is written for Python"


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("[leases]\nttl = '5s'", "leases.ttl", ('"5s"', "file")),
        ("[leases]\nttl = '5s'", "leases.worker_ttl", ('"15m"', "default")),
        ("[leases]\nttl = '5s'", "leases.reap_interval", ('"2500ms"', "derived")),
        ("", "node.state_dir", ('"/var/lib/dispatcher"', "derived")),
        ("[executor]\nmode = 'external'", "daemon.on_stop", ('"leave"', "derived")),
    ],
)
def test_each_value_names_its_source(
    tmp_path: Path, text: str, key: str, expected: tuple[str, str]
) -> None:
    found = {
        f"{known.section}.{known.name}": (written(value), source)
        for known, value, source in reference.effective(_of(text, tmp_path, keep_file=True))
    }

    assert expected == found[key]


def test_a_value_from_a_workers_environment_names_that_source(tmp_path: Path) -> None:
    config = _of("[node]\nstate_dir = '/var/lib/dispatcher'", tmp_path, keep_file=True)
    places = {"DISPATCHER_STATE_DIR": "/s", "DISPATCHER_STORE_URL": "sqlite:///s/t.db"}

    ours = {"DISPATCHER_RUN_CONFIG": str(config.file), **places}
    others = {"DISPATCHER_RUN_CONFIG": "/another.toml", **places}

    assert {"state_dir", "url"} == {
        key.name for key, _, source in reference.effective(config, ours) if source == "environment"
    }
    assert "environment" not in {source for *_, source in reference.effective(config, others)}


def _of(text: str, directory: Path, *, keep_file: bool = False) -> Config:
    file = directory / "one.toml"
    file.write_text(text)
    environ = {"STATE_DIRECTORY": "/var/lib/dispatcher", "RUNTIME_DIRECTORY": "/run/dispatcher"}
    config = load(str(file), environ)
    return config if keep_file else msgspec.structs.replace(config, file=None)


def test_every_obstacle_is_in_the_page_for_operators() -> None:
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")

    assert [] == [obstacle for obstacle in Obstacle if f"`{obstacle}`" not in page]


def test_every_room_of_the_code_is_in_the_architecture() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    product = ROOT / "dispatcher"
    inside = ("daemon", "supervisor", "config", "logs", "executor", ".")
    rooms = [room.name for where in inside for room in (product / where).glob("[a-z]*.py")]
    rooms += [f"{room.parent.name}/" for room in product.glob("*/__init__.py")]

    assert [] == [room for room in rooms if f"`{room}`" not in page]
