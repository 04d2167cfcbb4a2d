"""The checks of the configuration, and of the files that it names."""

import os
import shlex
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dispatcher.config import environment_file, of_service
from dispatcher.config.config import Config
from dispatcher.config.file import given_by
from dispatcher.doctor.finding import Finding, bad, from_error, ok, warning
from dispatcher.errors import DispatcherError
from dispatcher.host import owner
from dispatcher.peers import trust


def configuration(config: Config) -> Finding:
    """Check that the daemon sees what the file names, and that its user may read the file too."""
    if config.file is None:
        return ok("configuration", "built-in defaults: no file")
    if not os.access(config.file, os.R_OK, effective_ids=True):
        text = f"{config.file}: the daemon's user may not read it when it starts or reloads"
        return bad("configuration", text, _let_read(config.file))
    for path in _places_in(config.file, config) if of_service.is_hosts(config) else ():
        if (hidden := of_service.hidden_by(path)) is not None:
            text = f"{path} is below {hidden}, which the daemon's unit hides"
            return bad("configuration", text, "name a place elsewhere, as below /var/lib")
    return ok("configuration", str(config.file))


def _places_in(file: Path, config: Config) -> Iterator[Path]:
    """Yield the places that the file names: the unit gives the others, as this user has its own."""
    given = given_by(file)
    places = {
        ("node", "state_dir"): config.state_dir,
        ("node", "runtime_dir"): config.runtime_dir,
        ("store", "url"): config.other_places["database"],
    }
    yield from (path for key, path in places.items() if key in given)


def profiles(config: Config) -> Iterator[Finding]:
    """Yield the mistakes of profiles, which alone cannot be used."""
    for mistake in config.mistakes:
        yield from_error("profile", DispatcherError(mistake))


def secrets(config: Config) -> Iterator[Finding]:
    """Check the files of profiles' secrets as the daemon does, and who may read them."""
    for mistake in environment_file.read_all(config).unread:
        yield from_error("env_file", DispatcherError(mistake))
    named = (profile.env_file for profile in config.profiles.values())
    for path in sorted({name.removeprefix("-") for name in named if name is not None}):
        with suppress(OSError):  # it is missing, or reported above
            status = Path(path).stat()
            mode = stat.S_IMODE(status.st_mode)
            text = f"{path}, mode {mode:04o}"
            if mode & 0o007:
                remedy = f"chmod o= {path}" if _may_read_as_own(status) else _let_read(path)
                yield warning(
                    "env_file", f"{text}: every user may open it, and it holds secrets", remedy
                )
            else:
                yield ok("env_file", text)


def _may_read_as_own(found: os.stat_result) -> bool:
    """Return whether the daemon's user, as which this process runs, may read a closed file."""
    if os.geteuid() in {0, found.st_uid}:
        return True
    return found.st_gid in {os.getegid(), *os.getgroups()} and bool(found.st_mode & stat.S_IRGRP)


def _let_read(path: Path | str) -> str:
    """Return the command with which the daemon's user may enter the file's way, or read it."""
    if (closed := closed_above(path)) is not None:
        return of_service.enter(closed)
    named = shlex.quote(str(path))
    return f"chgrp {owner.group_name(os.getegid())} {named} && chmod 640 {named}"


def closed_above(path: Path | str) -> Path | None:
    """Return the first directory on a file's way that the daemon's user may not enter."""
    for part in reversed(Path(os.path.realpath(path)).parents):
        if not os.access(part, os.X_OK, effective_ids=True):
            return part if part.is_dir() else None
    return None


def peers(config: Config) -> Iterator[Finding]:
    """Check the token and the certificates with which nodes read each other's output."""
    section = config.peers
    if section.token_file is None:
        return
    try:
        trust.token(section.token_file)
        trust.reader_context(section)
        trust.listener_context(section)
    except DispatcherError as error:
        yield from_error("peers", error)
    else:
        listens = "does not listen" if section.listen is None else f"listens at {section.announced}"
        yield ok("peers", f"{section.token_file} holds the token, and this node {listens}")


def textfile(config: Config) -> Iterator[Finding]:
    """Check that the file of metrics can be written: its directory takes the draft."""
    if config.metrics.textfile is None:
        return
    directory = Path(config.metrics.textfile).parent
    what = f"{directory}, for [metrics] textfile,"
    if of_service.is_hosts(config) and (hidden := of_service.hidden_by(directory)) is not None:
        text = f"{what} is below {hidden}, which the daemon's unit hides"
        yield bad("metrics", text, "name a file elsewhere, for example below /var/lib")
    elif (closed := closed_above(directory)) is not None:
        text = f"{what} is below {closed}, which the daemon's user may not enter"
        yield bad("metrics", text, of_service.enter(closed))
    elif not directory.is_dir():
        anew = ", and restart the daemon" if of_service.is_hosts(config) else ""
        user, named = owner.installable_name(os.geteuid()), shlex.quote(str(directory))
        remedy = f"make it{anew}: install -d -m 755 -o {user} {named}"
        yield bad("metrics", f"{what} is not there", remedy)
    elif not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        remedy = of_service.remedy_if_closed(directory, os.geteuid())
        remedy = f"{remedy}; or run this as the daemon's user"
        yield bad("metrics", f"nothing can be written in {what.removesuffix(',')}", remedy)
    else:
        yield ok("metrics", f"{config.metrics.textfile} can be written")
