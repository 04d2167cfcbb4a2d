"""The text of the units: the shipped ones, changed for one installation."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from dispatcher.config.config import Config
from dispatcher.logs.journald import INSTANCE_VARIABLE
from dispatcher.store.open import database_path
from dispatcher.store.schema import is_shared

#: The units as they are shipped, `user/` those of one user's manager.
SHIPPED = Path(__file__).parents[1] / "systemd"

#: The user of the shipped units, which has no other processes.
ACCOUNT = "dispatcher"

#: The names of the shipped units, in the order of their start.
NAMES = ("dispatcher-executor.service", "dispatcher.service")

#: Below these systemd makes the directories of a service.
_MADE_BELOW = {"StateDirectory": Path("/var/lib"), "RuntimeDirectory": Path("/run")}

#: The first systemd that knows a directive (systemd.exec(5)), for those that a host with pidfds may
#: lack: an older systemd would warn at each start.
FIRST_KNOWN: Mapping[str, int] = {"ProtectProc": 247}

#: What lets the daemon's unit reach a server's store, or other nodes; None: the directive goes.
_WITH_NETWORK = {
    "PrivateNetwork": None,
    "IPAddressDeny": None,
    "RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6 AF_NETLINK",
}

_EXEC = re.compile(r"^(Exec\w+)=\S+ (\w+) --config \S+$", re.MULTILINE)


class Installation(Struct, frozen=True, kw_only=True):
    command: Sequence[str]
    """The command of this dispatcher; its program is an absolute path."""
    config: Config
    instance: str | None
    account: tuple[str, str] | None
    """User and group of the service; None: those of the user manager."""
    documentation: Path
    systemd: int
    """The version of the systemd that reads the units."""


def names(instance: str | None) -> Sequence[str]:
    """Return the names of an instance's units; None: of the service without an instance."""
    return NAMES if instance is None else [instanced(name, instance) for name in NAMES]


def instanced(text: str, instance: str = "%i") -> str:
    """Return a unit, or its name, as that of an instance."""
    text = re.sub(r"\b(dispatcher(?:-executor)?)\.service", rf"\1@{instance}.service", text)
    text = text.replace("/dispatcher/dispatcher.toml", f"/dispatcher/{instance}.toml")
    text = re.sub(r"^((?:State|Runtime)Directory=.*)$", rf"\1-{instance}", text, flags=re.MULTILINE)
    text = text.replace("HOME=/var/lib/dispatcher/", f"HOME=/var/lib/dispatcher-{instance}/")
    named = rf"\1@{instance}\nEnvironment={INSTANCE_VARIABLE}={instance}"
    text = re.sub(r"^(SyslogIdentifier=.*)$", named, text, flags=re.MULTILINE)
    return re.sub(r"^(Description=.*)$", rf"\1 ({instance})", text, flags=re.MULTILINE)


def unit_texts(one: Installation) -> Mapping[str, str]:
    """Return the units of an installation by their names."""
    shipped = SHIPPED / "user" if one.account is None else SHIPPED
    made = {}
    for name, own in zip(NAMES, names(one.instance), strict=True):
        text = (shipped / name).read_text("utf-8")
        text = text if one.instance is None else instanced(text)
        made[own] = _filled_in(text, one, is_daemon=name == NAMES[-1])
    return made


def _filled_in(text: str, one: Installation, *, is_daemon: bool) -> str:
    program, *words = one.command
    # Variables are not replaced in the program (systemd.service(5)).
    started = " ".join([quoted(program), *(map(argument, words))])
    file = argument(str(one.config.file))
    text = _EXEC.sub(lambda line: f"{line[1]}={started} {line[2]} --config {file}", text)
    page = one.documentation.as_uri().replace("%", "%%") if one.documentation.exists() else None
    text = _set(text, "Documentation", page)
    if one.account is not None:
        user, group = one.account
        text = _set(_set(text, "User", user), "Group", group)
        text = _with_directories(text, one.config, is_daemon=is_daemon)
        if is_daemon and _needs_network(one.config):
            for directive, value in _WITH_NETWORK.items():
                text = _set(text, directive, value)
        home = f"Environment={quoted(f'HOME={one.config.worker_home}')}\n"
        if user != ACCOUNT:  # it has a home, and other programs, which share what RemoveIPC removes
            home = ""
            text = _set(text, "RemoveIPC", None)
        text = re.sub(r"^Environment=HOME=.*\n", _literal(home), text, flags=re.MULTILINE)
    for directive, version in FIRST_KNOWN.items():
        if one.systemd < version:
            text = _set(text, directive, None)
    return text


def _needs_network(config: Config) -> bool:
    return is_shared(config.store_url) or config.peers.listen is not None


def _with_directories(text: str, config: Config, *, is_daemon: bool) -> str:
    """Set the directories that systemd makes, and those that the service may write to."""
    for directive, base in _MADE_BELOW.items():
        made = made_by_systemd(config)[directive]
        text = _set(text, directive, None if made is None else quoted(str(made.relative_to(base))))
        if made is None:
            text = re.sub(rf"^(?:#.*\n)?{directive}\w+=.*\n", "", text, flags=re.MULTILINE)
    places = other_places(config) if is_daemon else _other(config, _written_by_both(config))
    # "-": one that is missing costs what is written there, not the start.
    opened = "".join(f"ReadWritePaths={quoted(f'-{place}')}\n" for place in places)
    return re.sub(r"^ProtectSystem=.*\n", rf"\g<0>{_literal(opened)}", text, flags=re.MULTILINE)


def made_by_systemd(config: Config) -> Mapping[str, Path | None]:
    """Return the directories that systemd makes for a service, by directive; None: it cannot."""
    wanted = {"StateDirectory": config.state_dir, "RuntimeDirectory": config.runtime_dir}
    return {
        directive: directory if base in directory.parents else None
        for directive, base in _MADE_BELOW.items()
        for directory in (wanted[directive],)
    }


def other_places(config: Config) -> Sequence[Path]:
    """Return the directories that the daemon writes to, and that systemd does not make."""
    return _other(config, [*_written_by_both(config), figures_directory(config)])


def figures_directory(config: Config) -> Path | None:
    """Return the directory of `[metrics] textfile`, to which the daemon alone writes."""
    textfile = config.metrics.textfile
    return None if textfile is None else Path(textfile).parent


def _other(config: Config, places: Sequence[Path | None]) -> Sequence[Path]:
    """Return those of some directories that systemd does not make."""
    made = [place for place in made_by_systemd(config).values() if place is not None]
    return [
        place
        for place in dict.fromkeys(places)
        if place is not None and not any(place.is_relative_to(one) for one in made)
    ]


def _written_by_both(config: Config) -> Sequence[Path]:
    """Return the directories to which daemon and workers write."""
    database = database_path(config.store_url)
    return [config.state_dir, config.runtime_dir, *([] if database is None else [database.parent])]


def _set(text: str, directive: str, value: str | None) -> str:
    """Replace the value of a directive in the text; None: remove the directive."""
    line = "" if value is None else f"{directive}={value}\n"
    return re.sub(rf"^{directive}=.*\n", _literal(line), text, flags=re.MULTILINE)


def _literal(text: str) -> str:
    return text.replace("\\", r"\\")


def quoted(word: str) -> str:
    """Return a word in the syntax of systemd.syntax(7), without specifiers."""
    word = word.replace("%", "%%")
    if re.fullmatch(r"[^\s\"'\\;]+", word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def argument(word: str) -> str:
    """Return an argument of a command line, where a single `$` begins a variable."""
    return quoted(word.replace("$", "$$"))
