"""SQLite is refused where its locks and its shared memory stop at the host."""

from pathlib import Path

import pytest

from dispatcher.store.filesystems import network_filesystem

MOUNTS = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:21 / /proc rw,nosuid - proc proc rw
40 22 0:50 / /net rw,relatime shared:9 master:3 - nfs4 server:/export rw,vers=4.2
41 40 254:1 / /net/local rw,relatime - xfs /dev/vdb rw
42 22 0:51 / /with\040space rw - cifs //server/share rw
43 22 0:52 / /hidden rw - nfs server:/old rw
44 22 254:2 / /hidden rw - btrfs /dev/vdc rw
45 22 0:53 / /ssh rw - fuse.sshfs me@server:/ rw
46 22 0:54 / /rootless rw - fuse.fuse-overlayfs fuse-overlayfs rw
47 22 8:33 / /usb rw - fuseblk /dev/sdc1 rw
48 22 0:55 / /guest rw - virtiofs tag rw
49 22 0:56 / /wsl rw - 9p drvfs rw
50 22 0:57 / /ceph rw - ceph mon:/ rw
51 22 0:58 / /overlay rw - overlay overlay rw
52 22 0:59 / /tmp rw - tmpfs tmpfs rw
""".strip()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/net/tasks.db", "nfs4"),
        ("/net/deep/er/tasks.db", "nfs4"),
        ("/with space/tasks.db", "cifs"),
        ("/ssh/tasks.db", "fuse.sshfs"),
        ("/guest/tasks.db", "virtiofs"),
        ("/wsl/tasks.db", "9p"),
        ("/ceph/tasks.db", "ceph"),
    ],
)
def test_r54_a_network_filesystem_is_named(path: str, kind: str) -> None:
    assert kind == network_filesystem(Path(path), MOUNTS)


@pytest.mark.parametrize(
    "path",
    [
        "/var/lib/tasks.db",
        "/network/tasks.db",
        "/net/local/tasks.db",
        "/hidden/tasks.db",
        "/rootless/tasks.db",
        "/usb/tasks.db",
        "/overlay/tasks.db",
        "/tmp/tasks.db",
    ],
)
def test_a_local_filesystem_is_none(path: str) -> None:
    assert network_filesystem(Path(path), MOUNTS) is None


def test_a_host_that_names_no_mounts_has_no_network_filesystem() -> None:
    assert network_filesystem(Path("/tasks.db"), "") is None
