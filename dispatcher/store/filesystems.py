"""Filesystems on which SQLite loses data: its locks and shared memory work on one host only."""

import re
from pathlib import Path

from dispatcher.errors import StoreUnusable

MOUNTINFO = Path("/proc/self/mountinfo")

_NETWORK = frozenset(
    {
        "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs2", "glusterfs",
        "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb2",
        "smb3", "smbfs", "vboxsf", "virtiofs", "vmhgfs",
    }
)  # fmt: skip

# Any other fuse.* may be a network filesystem, such as sshfs.
_LOCAL_FUSE = frozenset({"fuse.fuse-overlayfs"})

_OCTAL = re.compile(r"\\([0-7]{3})")


def refuse_place(path: Path, mountinfo: Path = MOUNTINFO) -> None:
    """Raise `StoreUnusable` for a place where SQLite would lose data."""
    real, mounts = path.resolve(), mountinfo.read_text("utf-8", errors="surrogateescape")
    if (filesystem := network_filesystem(real, mounts)) is not None:
        raise StoreUnusable(
            f"{path} is on {filesystem}, a network filesystem, where SQLite loses data; "
            "let store.url name a file on a local disk"
        )
    if is_mounted_alone(real, mounts):
        raise StoreUnusable(
            f"{path} is mounted without its directory, and so without its newest commits, which are"
            " in another file; mount the directory that it is in"
        )


def network_filesystem(path: Path, mountinfo: str) -> str | None:
    """Return the type of the network filesystem of a path; None if it is local.

    `path` is absolute and free of symbolic links; `mountinfo` is the text of /proc/self/mountinfo.
    """
    above = {str(place) for place in (path, *path.parents)}
    kind, longest = "", 0
    for line in mountinfo.splitlines():
        point = _point(line)
        # The last of several mounts on one point hides the others.
        if point in above and len(point) >= longest:
            kind, longest = line.partition(" - ")[2].split(" ")[0], len(point)
    network = kind in _NETWORK or (kind.startswith("fuse.") and kind not in _LOCAL_FUSE)
    return kind if network else None


def is_mounted_alone(path: Path, mountinfo: str) -> bool:
    """Return whether a file is mounted without its directory, and so without its neighbours."""
    return any(str(path) == _point(line) for line in mountinfo.splitlines())


def _point(line: str) -> str:
    """Return the mount point of a line of mountinfo."""
    escaped = line.partition(" - ")[0].split(" ")[4]
    return _OCTAL.sub(lambda code: chr(int(code[1], 8)), escaped)
