"""The files of an installation: their first lines identify them; changed ones are kept."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dispatcher.config.unit_files import MOST_BYTES
from dispatcher.errors import DispatcherError
from dispatcher.host.files import Unfit, read, replace

_HEAD = """\
# Written by "dispatcher install-service"; "dispatcher uninstall-service" removes it.
# Write changes into a drop-in, which neither of them touches: systemctl {edit} {name}
"""
_SEAL = "# What follows has the SHA-256 "


class InstallStep(NamedTuple):
    """One step of an installation: done, or found done."""

    did: str
    what: str


def sealed(name: str, text: str, *, user: bool) -> str:
    """Return a unit after the lines that identify it."""
    head = _HEAD.format(name=name, edit="--user edit" if user else "edit")
    return f"{head}{_SEAL}{_digest(text)}\n{text}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def is_as_written(content: str) -> bool:
    """Return whether a file is as an installation of any release wrote it."""
    head, found, rest = content.partition(_SEAL)
    digest, _, text = rest.partition("\n")
    return bool(found) and head.startswith(_HEAD.partition("\n")[0]) and digest == _digest(text)


def expect_as_written(paths: Sequence[Path]) -> None:
    """Raise `DispatcherError` for a file that was changed by hand, or is not ours."""
    contents = {path: content(path) for path in paths}
    changed = [p for p, text in contents.items() if text is not None and not is_as_written(text)]
    if changed:
        raise DispatcherError(
            "\n".join(
                f"{path} was changed by hand, or does not come from install-service;"
                f" move the changes into a drop-in ({path}.d/*.conf) and give --force"
                for path in changed
            )
        )


def write(texts: Mapping[Path, str]) -> Iterator[InstallStep]:
    """Write the files that differ, each in one step."""
    for path, text in texts.items():
        before = content(path)
        if before == text:
            yield InstallStep("unchanged", str(path))
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, text, mode=0o644)
        yield InstallStep("wrote" if before is None else "replaced", str(path))


def remove(paths: Sequence[Path]) -> Iterator[InstallStep]:
    """Remove the files that exist."""
    for path in paths:
        if content(path) is not None:
            path.unlink()
            yield InstallStep("removed", str(path))


def remove_links(paths: Sequence[Path]) -> Iterator[InstallStep]:
    """Remove the symbolic links by which a unit was enabled."""
    for path in paths:
        if path.is_symlink():
            path.unlink()
            yield InstallStep("removed", str(path))


def content(path: Path) -> str | None:
    """Return a file's content, None without a file.

    A symbolic link never counts as ours, nor does anything but a regular file.
    """
    if path.is_symlink():
        return f"a link to {path.readlink()}"
    try:
        return read(path, MOST_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return None
    except Unfit as error:
        return error.strerror
