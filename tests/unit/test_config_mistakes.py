import re
from pathlib import Path

import pytest

from dispatcher.config import toml
from dispatcher.config.config import Config, Mistaken, load
from dispatcher.errors import ConfigError

HOME = {"HOME": "/home/somebody"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "dispatcher.toml"


def read(file: Path, text: str, environ: dict[str, str] | None = None) -> Config:
    file.write_text(text, "utf-8")
    return load(str(file), environ or {})


#: As the lines of a file: a comment may hold line ends of Unicode, and a text lines of its own.
SCRIPT = """[profiles.x]
command = ["sh", "-c", '''
[ -f x ] || exit
[leases]
ttl = 5
''']
# a\u2028b\u0085c
"""

MISTAKES = [
    (
        '["profiles.gpu"]\ncommand = ["x"]',
        ':1: "profiles.gpu": unknown section; write it without q',
    ),
    (
        '"metrics.textfile" = "/x.prom"\n[metrics]\ntextfile = "/y.prom"',
        ':1: "metrics.textfile": unknown key; write it without quotes',
    ),
    ('\n["queues.a"]', ':2: "queues.a": unknown section; write it without quotes'),
    ("['daemon.x']", ':1: "daemon.x": unknown section'),
    ('"node.runtime_dir" = "/x"', ':1: "node.runtime_dir": unknown key'),
    ('"" = 1', ':1: "": unknown key; known here: node, store'),
    ("[node]\n'' = 1", ':2: node."": unknown key; known here: state_dir'),
    (f"{SCRIPT}[leases]\nttl = 5", ":9: leases.ttl: 5 is a plain number"),
    ("[daemon]\npoll = [\n[1, 2],\n]", ":2: daemon.poll: "),
    ("[zzz]", ":1: zzz: unknown section; known here: node, store, daemon, executor, leases"),
    ("node = 4", ":1: node: is a section; write [node] on a line of its own"),
    ("[[node]]", "node: is a section"),
    ("[leases]\nreap_intervall = '1s'", ":2: leases.reap_intervall: unknown key; did you mean 're"),
    ("[node]\n\nttl = '1s'", ":3: node.ttl: unknown key; it belongs under [leases]"),
    ("[node]\nqqq = 1", "node.qqq: unknown key; known here: state_dir, runtime_dir, slots"),
    ("leases.tttl = '1s'", ": leases.tttl: unknown key; did you mean 'ttl'?"),
    ("[node]\nslots = -3", "node.slots: expected an integer >= 1"),
    ("[node]\nslots = 99999", "node.slots: expected an integer <= 10000"),
    ("[node]\nslots = 1.5", "node.slots: expected an integer, got a number with a fraction"),
    ("[node]\nslots = true", "node.slots: expected an integer, got true or false"),
    (
        "[node]\nstate_dir = 4",
        "expected a text in quotes, got an integer; write for example: state",
    ),
    ("[node]\nstate_dir = 'here'", "node.state_dir: 'here' is not an absolute path; begin it with"),
    ("[node]\nruntime_dir = ''", "node.runtime_dir: '' is not an absolute path"),
    (
        "[store]\nurl = 'sqlite:///tasks.db'",
        "store.url: 'tasks.db' is not the whole path of a file",
    ),
    ("[store]\nurl = 'sqlite://'", "store.url: only SQLite and PostgreSQL are known"),
    ("[store]\nurl = 'postgresql://me:x@h/d'", "store.url: it holds a password, and every task"),
    ("[store]\nurl = 'postgres://h/d?password='", "store.url: it holds a password, and every task"),
    ("[store]\nurl = 'postgresql://h/d?host=\u00a0'", "store.url: it is not printable"),
    ("[store]\nschema = 'Night'", "store.schema: 'Night' is not a name for a schema; begin with"),
    ("[store]\nschema = 'pg_night'", "store.schema: 'pg_night' is not a name for a schema"),
    (f"x = {'[' * 5_000}{']' * 5_000}", ": is nested too deeply; no key has a list within a list"),
    ("a." * 40_000 + "b=1", ":1: a key of more than 32 names; none has so many"),
    ("[a]\n[a" + ". 'b'" * 33 + "]", ":2: a key of more than 32 names"),
    ("[a]\nx = 1\ny = {b=1, " + '"c".' * 33 + "d = 1}", ":3: a key of more than 32 names"),
    ("#" * toml.MOST_BYTES + "#", ": has more than 1048576 bytes; let --config or"),
    (f"[node]\nslots = {'9' * 5_000}", ": a number is too long; shorten it"),
    ("[store]\nurl = 'sqlite:///a\u00a0/b.db'", "store.url: 'a\\xa0/b.db' is not printable UTF-8"),
    ("[leases]\nttl = '60'", 'leases.ttl: 60 is a plain number; add its unit, e.g. "60s"'),
    ("[leases]\nttl = '-5s'", "leases.ttl: '-5s' is not a duration"),
    ("[leases]\nttl = '0.2ms'", "leases.ttl: '0.2ms' is shorter than a millisecond"),
    ("[leases]\nttl = '99999d'", "leases.ttl: '99999d' is longer than 36500 days"),
    ("[leases]\nttl = true", "leases.ttl: True is not a duration"),
    ("[leases]\nttl = '199ms'", ":2: leases.ttl: 199ms is less than 200ms; raise it"),
    ("[leases]\nworker_ttl = '0s'", "leases.worker_ttl: 0s is less than 200ms; raise it"),
    ("[leases]\nreap_interval = '0s'", "leases.reap_interval: 0s is less than 20ms; raise it"),
    (
        "[output]\nrun_budget = '2GiB'\ntotal_budget = '1GiB'",
        ":3: output.total_budget: 1GiB is less than run_budget (2GiB); raise it or lower that",
    ),
    (
        "[output]\nretention = 'forever'",
        "output.retention: 'forever' is not a duration; write a",
    ),
    (
        "[output]\nretention = '0s'",
        "output.retention: 0s is less than 1s, so that nobody could se",
    ),
    (
        "[output]\nfree_floor = '5%'",
        "output.free_floor: '5%' is not a size; write a number",
    ),
    ("[queues.a]\nageing = '999ms'", ":2: queues.a.ageing: 999ms is less than 1s; raise it"),
    ("[queues.a]\nageing = '9999d'", ":2: queues.a.ageing: 9999d is longer than 3650d; lower it"),
    ("[queues.a]\nweight = 0", "queues.a.weight: "),
    ("[daemon]\npoll = '19ms'", "daemon.poll: 19ms is less than 20ms; raise it"),
    (
        "[leases]\nworker_ttl = '1s'\nreap_interval = '600ms'",
        "leases.reap_interval: 600ms is more than half of worker_ttl (1s); lower it to at most",
    ),
    (
        "[retry]\nmax_attempts = 0",
        "retry.max_attempts: expected an integer >= 1; write for example",
    ),
    ("[retry]\nmax_orphans = -1", "retry.max_orphans: expected an integer >= 0"),
    ("[executor]\nmode = 1", 'executor.mode: 1 is not "embedded" or "external"'),
    (
        "[executor]\nabsence_limit = 'nevr'",
        "executor.absence_limit: 'nevr' is not a duration",
    ),
    ("[executor]\nabsence_limit = '999ms'", "absence_limit: 999ms is less than 1s"),
    ("[daemon]\non_stop = 'stop'", 'daemon.on_stop: \'stop\' is not "drain" or "leave"'),
    ("[logs]\nlevel = 'trace'", 'logs.level: \'trace\' is not "debug" or "info" or "warning" or'),
    ("[logs]\nformat = 'jsn'", "did you mean 'json'?"),
    ("[defaults]\nqueue = 'a b'", "defaults.queue: 'a b' is not a name; use up to 100"),
    ("[defaults]\npriority = 3000000000", "defaults.priority: expected an integer <= 2147483647"),
    (
        "[queues]\nconcurrency = 3",
        ":2: queues.concurrency: is not a table; write [queues.NAME]",
    ),
    ("queues = 3", ":1: queues: is a section; write [queues.NAME] on a line of its own"),
    (
        "[queues.a]\n[queues.b]\nconcurency = 3",
        ":3: queues.b.concurency: unknown key; did you mean 'c",
    ),
    ("[queues.a]\nslots = 3", ":2: queues.a.slots: unknown key; it belongs under [node]"),
    (
        "[defaults]\nlease_ttl = '1s'",
        ":2: defaults.lease_ttl: unknown key; it belongs under [queues.N",
    ),
    (
        "[queues.a]\nconcurrency = -1",
        ":2: queues.a.concurrency: expected an integer >= 0; write for",
    ),
    (
        "[queues.'a.b']\nlease_ttl = 5",
        ':2: queues."a.b".lease_ttl: 5 is a plain number; add its unit',
    ),
    ("[queues.'a b']\nconcurrency = 1", ':1: queues."a b": is not a name; use up to 100 letter'),
    ("[queues.a]\nlease_ttl = '199ms'", ":2: queues.a.lease_ttl: 199ms is less than 200ms"),
    (
        "[queues.a]\nrun_timeout = '9999d'",
        "queues.a.run_timeout: 9999d is longer than 3650d; lower",
    ),
    (
        "[queues.a]\nkill_signal = 'TREM'",
        "queues.a.kill_signal: 'TREM' is not a signal; `kill -l` lists",
    ),
    ("[queues.a]\nliveness = 'proces'", "did you mean 'process'?"),
    (
        "[metrics]\ntextfile = '/tmp/figures.txt'",
        ":2: metrics.textfile: '/tmp/figures.txt' is not an absolute path that ends with .prom",
    ),
    ("[metrics]\ninterval = '10ms'", ":2: metrics.interval: 10ms is less than 1s; raise it"),
    (
        "[peers]\nlisten = 'db1'\ntoken_file = '/t'",
        ":2: peers.listen: 'db1' is no address; write H",
    ),
    (
        "[peers]\nlisten = 'db1:7373'\ntoken_file = '/t'",
        ":2: peers.listen: db1:7373 is reached by other hosts, so it needs TLS; set cert",
    ),
    (
        "[peers]\nlisten = '127.0.0.1:7373'",
        ":2: peers.listen: needs a token; let token_file name its file",
    ),
    ("[peers]\ntoken_file = 'token'", ":2: peers.token_file: 'token' is not absolute; begin it"),
    (
        "[peers]\ncertificate = '/peer.crt'",
        ":2: peers.certificate: needs the file of its key; set key too",
    ),
    (
        "[peers]\nclient_certificates = true",
        ":2: peers.client_certificates: needs a certificate of this node, and the authority that",
    ),
    ("[node]\nslots = four", ":2:9: not TOML: Invalid value; put texts in quotes"),
]


@pytest.mark.parametrize(("text", "expected"), MISTAKES, ids=[text for text, _ in MISTAKES])
def test_a_mistake_is_reported_with_its_file_place_and_remedy(
    file: Path, text: str, expected: str
) -> None:
    with pytest.raises(ConfigError) as error:
        read(file, text, HOME)

    message = str(error.value)
    assert message.startswith(f"{file}:")
    assert expected in message
    assert 1 == len(message.splitlines())


@pytest.mark.parametrize("header", ["[metrics]", "[ metrics ] # again", '[queues."a.b"]'])
def test_a_table_that_is_there_twice_is_reported_with_the_line_of_the_first(
    file: Path, header: str
) -> None:
    with pytest.raises(ConfigError) as error:
        read(file, f"# first\n{header}\n[logs]\n{header}\ntextfile = '/x/d.prom'\n")

    path = 'queues."a.b"' if "queues" in header else "metrics"
    expected = f"{file}:4:"
    assert str(error.value).startswith(expected)
    assert f"not TOML: line 2 has the table [{path}] already; write the keys there" in str(
        error.value
    )


def test_all_mistakes_are_reported_at_once(file: Path) -> None:
    with pytest.raises(ConfigError) as error:
        read(file, "[node]\nslots = 0\nslot = 1\n[leases]\nttl = 5\n[zzz]\n", HOME)

    places = [
        line.removeprefix(f"{file}:").split(": ")[:2] for line in str(error.value).split("\n")
    ]
    assert [["2", "node.slots"], ["3", "node.slot"], ["5", "leases.ttl"], ["6", "zzz"]] == places


MANY = """\
[node]
slots = 0
state_dir = "here"
[store]
url = "mysql://h/d"
[leases]
ttl = "0s"
worker_ttl = 5
[profiles.a]
command = ["x", "{"]
cwd = "here"
exit_codes = { "300" = "held", "9" = "hld" }
env = { A = "a", LEVEL = 3 }
env_file = "there"
[profiles.b]
queue = "a b"
cwd = "here"
"""


def test_mistakes_of_every_kind_are_reported_in_one_round(file: Path) -> None:
    with pytest.raises(ConfigError) as error:
        read(file, MANY, HOME)

    lines = (line.removeprefix(f"{file}:") for line in error.value.args[0].split("\n"))
    places = {found.groups() for line in lines if (found := re.match(r"(\d*):? ([\w.]+): ", line))}
    assert {
        ("2", "node.slots"),
        ("7", "leases.ttl"),
        ("8", "leases.worker_ttl"),
        ("10", "profiles.a.command"),
        ("11", "profiles.a.cwd"),
        ("12", "profiles.a.exit_codes"),
        ("13", "profiles.a.env"),
        ("14", "profiles.a.env_file"),
        ("15", "profiles.b"),
        ("16", "profiles.b.queue"),
        ("17", "profiles.b.cwd"),
        ("", "node.state_dir"),
        ("", "store.url"),
    } == places
    assert "env: LEVEL: expected a text in quotes, got an integer; write" in str(error.value)


def test_texts_with_many_dots_are_not_keys(file: Path) -> None:
    dots = "." * 100 + "a.b" * 100
    profile = f"[profiles.p]\ncommand = ['{dots}', 'a{dots}'] # {dots}\n# {dots}\n"

    assert (dots, f"a{dots}") == read(file, profile).profiles["p"].command


def test_the_first_of_very_many_mistakes_are_explained(file: Path) -> None:
    text = "".join(f"a{number} = 1\n" for number in range(101))

    with pytest.raises(ConfigError) as caught:
        read(file, text)

    expected = str(caught.value).splitlines()
    assert expected[99].startswith(f"{file}:100: a99: unknown key")
    assert [f"{file}: more than 100 mistakes"] == expected[100:]


def test_a_parser_without_memory_is_a_mistake_and_no_end(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loads(_: str) -> None:
        raise MemoryError

    monkeypatch.setattr(toml.tomllib, "loads", loads)

    with pytest.raises(ConfigError, match="takes more memory than there is; shorten it"):
        read(file, "")


def test_the_correct_keys_of_a_file_with_mistakes_are_known(file: Path) -> None:
    with pytest.raises(Mistaken) as error:
        read(file, "[node]\nslots = 7\n[leases]\nttl = 5\n[queues.a]\nx = 1\n[queues.b]\n", HOME)

    rest = error.value.rest
    assert error.value.places_certain
    assert (7, 60_000, ["a", "b"]) == (rest.slots, rest.leases.ttl_ms, list(rest.queues))


@pytest.mark.parametrize(
    "text",
    [
        "[nod]",
        "state_dir = '/x'",
        "[leases]\nurl = 'x'",
        "[store]\nul = ''",
        "[node]\nurl = 'x'",
        "[node]\nslotz = 4",
        "[slots]\nstate_dir = '/x'",
        "slots = 4\nurl = 'x'",
        "[node]\nstate_dir = '/x'\nruntime_di = '/y'",
        "[node]\nstate_dir = '/x'\nruntime_dir = '/y'\n[store]\nurl = 5",
        "[node]\nstate_dir = '/x'\nruntime_dir = '/y'\nstore = 'sqlite:///x/t.db'",
        "[node]\nstate_dir = '/x'\nruntime_dir = '/y'\nstore_url = '/x/t.db'",
        "[node]\nstate_dir = '/x'\nruntime_dir = '/y'\ntasks = 'sqlite:///x/t.db'",
        "[node]\nstate_dir = '/x'\nruntime_dir = '/y'\nstore.url = '/x/t.db'",
        "[daemon]\nstore_url = '/x/t.db'",
        "[[daemon]]\nurl = 'SQLite:///x/t.db'",
        "[profiles]\nstore = '/x/t.db'",
        "[queues.a]\ntasks = {at = 'sqlite:///x/t.db'}",
    ],
)
def test_a_mistake_that_may_be_about_places_leaves_them_unknown(file: Path, text: str) -> None:
    with pytest.raises(Mistaken) as error:
        read(file, text, HOME)

    assert not error.value.places_certain


@pytest.mark.parametrize(
    "text",
    [
        "[node]\nslots = 0",
        "[node]\nslots = 'many'",
        "[node]\nslots = 4.0",
        "slots = 4\n[node]\nstate_dir = '/x'",
        "[node]\nstate_dir = '/x'\nruntime_dir = '/y'\nslotz = 4",
        "[daemon]\ncurl = 1\nrestored = 1",
    ],
)
def test_a_mistake_in_slots_leaves_the_places_certain(file: Path, text: str) -> None:
    with pytest.raises(Mistaken) as error:
        read(file, text, HOME)

    assert error.value.places_certain


def test_a_password_in_a_store_url_is_not_repeated(file: Path) -> None:
    with pytest.raises(ConfigError) as error:
        read(file, '[store]\nurl = "postgresql://user:hunter2@host/db"')

    assert "hunter2" not in str(error.value)
