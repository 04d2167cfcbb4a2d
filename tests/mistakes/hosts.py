"""Faults of the store, the disk, the user, or other processes."""

from collections.abc import Mapping, Sequence

from dispatcher.store.migrate import MIGRATIONS
from tests.mistakes.kinds import Mistake

GROUPS: Mapping[str, Sequence[Mistake]] = {
    "The store": (
        Mistake(
            name="a truncated database",
            typed="list",
            before=("submit -- true",),
            scene="truncated",
            text=(
                "/var/lib/dispatcher/tasks.db is damaged, or not a dispatcher database "
                "(database disk image is malformed); restore it from a backup, or let "
                "store.url name another file"
            ),
            exits=78,
        ),
        Mistake(
            name="an empty file in its place",
            typed="list",
            before=("submit -- true",),
            scene="emptied",
            text=(
                "/var/lib/dispatcher/tasks.db is empty, and an existing file is never "
                "replaced; restore it from a backup, or remove it"
            ),
            exits=78,
        ),
        Mistake(
            name="a file of another program",
            typed="list",
            before=("submit -- true",),
            scene="replaced",
            text=(
                "/var/lib/dispatcher/tasks.db is damaged, or not a dispatcher database (no "
                "such table: meta); restore it from a backup, or let store.url name another "
                "file"
            ),
            exits=78,
        ),
        Mistake(
            name="a database that vanished",
            typed="list",
            before=("submit -- true",),
            scene="removed",
            text=(
                "/var/lib/dispatcher/tasks.db is missing, and /var/lib/dispatcher/store-id "
                "remembers its store 00000000-…; restore it from a backup, or remove that file "
                "to start again without its tasks"
            ),
            exits=78,
        ),
        Mistake(
            name="a database of a newer version",
            typed="list",
            before=("submit -- true",),
            scene="newer",
            text=(
                "/var/lib/dispatcher/tasks.db was made by a newer dispatcher (schema 99, this "
                f"one knows {len(MIGRATIONS)}); upgrade this dispatcher"
            ),
            exits=78,
        ),
        Mistake(
            name="a database of an older version",
            typed="list",
            before=("submit -- true",),
            scene="older",
            text=(
                "/var/lib/dispatcher/tasks.db was made by an older dispatcher (schema 0, this "
                f"one works with {len(MIGRATIONS)}); restart the daemon, or run: dispatcher "
                "migrate"
            ),
            exits=78,
        ),
        Mistake(
            name="a database on a network filesystem",
            typed="list",
            scene="network filesystem",
            text=(
                "/var/lib/dispatcher/tasks.db is on nfs4, a network filesystem, where SQLite "
                "loses data; let store.url name a file on a local disk"
            ),
            exits=78,
        ),
        Mistake(
            name="a database with two names",
            typed="list",
            before=("submit -- true",),
            scene="second name",
            text=(
                "/var/lib/dispatcher/tasks.db has 2 names (hard links), and a commit made through "
                "one name is lost to users of the other; keep the name that the daemon uses and "
                "remove the others; find them with: find / -xdev -inum 4711"
            ),
            exits=78,
        ),
        Mistake(
            name="a backup into a file that exists",
            typed="backup copy.db",
            before=("submit -- true",),
            files={"copy.db": b"of yesterday"},
            text="/home/me/copy.db exists; name another file, or add --overwrite",
            exits=1,
        ),
        Mistake(
            name="a backup over a file that is none",
            typed="backup --overwrite dispatcher.toml",
            before=("submit -- true",),
            files={"dispatcher.toml": b"[node]\nslots = 4\n"},
            text=(
                "/home/me/dispatcher.toml is not overwritten, as it is not a dispatcher database "
                "that can be written (file is not a database); remove it, or name another file"
            ),
            exits=1,
        ),
        Mistake(
            name="a backup into a directory that is not there",
            typed="backup missing/copy.db",
            before=("submit -- true",),
            text=(
                "cannot write copy.db in /home/me/missing: No such file or directory; this needs a "
                "directory that this user may write"
            ),
            exits=1,
        ),
        Mistake(
            name="a backup without a name",
            typed="backup ''",
            text=(
                "Invalid value for 'FILE': it is empty; name a file (see: dispatcher backup --help)"
            ),
            exits=2,
        ),
        Mistake(
            name="a backup where no task was ever submitted",
            typed="backup copy.db",
            text=("/var/lib/dispatcher/tasks.db does not exist; there is nothing to back up yet"),
            exits=78,
        ),
        Mistake(
            name="a restore from a file that is not there",
            typed="restore copy.db",
            before=("submit -- true",),
            text="/home/me/copy.db does not exist, or is not a file; name a backup",
            exits=1,
        ),
        Mistake(
            name="a restore from a file of another program",
            typed="restore copy.db",
            before=("submit -- true",),
            files={"copy.db": b"no database" * 100},
            text=(
                "/home/me/copy.db is damaged, or not a dispatcher database (file is not a "
                "database); name another backup"
            ),
            exits=78,
        ),
        Mistake(
            name="a directory in place of the database",
            typed="list",
            scene="directory",
            text="/var/lib/dispatcher/tasks.db is not a file; let store.url name one",
            exits=78,
        ),
        Mistake(
            name="a database that another program keeps locked",
            typed="submit -- true",
            before=("submit -- true",),
            scene="locked",
            text=(
                "/var/lib/dispatcher/tasks.db: another process has held the write lock for "
                "more than 5 s; try again, or look for it: fuser -v "
                "/var/lib/dispatcher/tasks.db"
            ),
            exits=69,
        ),
        Mistake(
            name="a database that this user may not write",
            typed="submit -- true",
            before=("submit -- true",),
            scene="read-only",
            text=(
                "/var/lib/dispatcher/tasks.db cannot be written (permission denied); give this "
                "user write permission on the file and its directory"
            ),
            exits=78,
        ),
        Mistake(
            name="a database of another user",
            typed="status",
            before=("submit -- true",),
            scene="another user's",
            text=(
                "/var/lib/dispatcher/tasks.db: Permission denied; /var/lib/dispatcher belongs to "
                "user root; run this as that user: sudo -u root"
            ),
            exits=78,
        ),
        Mistake(
            name="a filesystem that takes no writes",
            typed="submit -- true",
            before=("submit -- true",),
            scene="read-only filesystem",
            text=(
                "/var/lib/dispatcher/tasks.db cannot be written (permission denied): Read-only "
                "file system; mount it for writing, and try again"
            ),
            exits=75,
        ),
        Mistake(
            name="a state directory that this user may not make",
            typed="submit -- true",
            scene="forbidden",
            text=(
                "/var/lib/dispatcher: Permission denied; the store and its state directory "
                "need this user's permission to write"
            ),
            exits=78,
        ),
        Mistake(
            name="a full disk",
            typed="submit --payload - -- true",
            before=("submit -- true",),
            stdin=b'"' + b"x" * 1000000 + b'"',
            scene="full disk",
            text=(
                "/var/lib/dispatcher/tasks.db: database or disk is full; make room on its disk, "
                "which is full"
            ),
            exits=69,
        ),
        Mistake(
            name="a full disk at the first start",
            typed="submit -- true",
            scene="tiny disk",
            text="/var/lib/dispatcher/tasks.db could not be made; is there room on its disk?",
            exits=69,
        ),
        Mistake(
            name="a damaged node-id",
            typed="status",
            before=("submit -- true",),
            scene="damaged node-id",
            text=(
                "/var/lib/dispatcher/node-id: damaged, it holds 'node 1' instead of a UUID; "
                "restore it from a backup, or, when nothing that this node started still runs, "
                "delete it"
            ),
            exits=78,
        ),
    ),
    "Daemon and executor": (
        Mistake(
            name="reload where no daemon runs",
            typed="reload",
            text="no daemon runs here; it reads its file when it starts",
            exits=1,
        ),
        Mistake(
            name="reload with another file than the daemon's",
            typed="reload --config new.toml",
            scene="reload other file",
            text=(
                "nothing was reloaded: the daemon reads /etc/dispatcher/dispatcher.toml "
                "(dispatcher reload --config /etc/dispatcher/dispatcher.toml), not "
                "/home/me/new.toml; to change that: dispatcher restart --config "
                "/home/me/new.toml"
            ),
            exits=1,
        ),
        Mistake(
            name="a daemon in the background while one runs",
            typed="run --detach",
            scene="second in background",
            text="the daemon runs already (pid 4711); dispatcher restart replaces it",
            exits=75,
        ),
        Mistake(
            name="a second daemon on a state directory",
            typed="run",
            scene="second daemon",
            text=(
                "state directory /var/lib/dispatcher is in use by pid 4711 (lock "
                "/var/lib/dispatcher/lock); stop that one, or configure another place"
            ),
            exits=75,
        ),
        Mistake(
            name="a second daemon on a database",
            typed="run",
            scene="second on database",
            text=(
                "the database /var/lib/dispatcher/tasks.db is in use by pid 4711, state "
                "directory /var/lib/dispatcher (lock /var/lib/dispatcher/tasks.db.lock); stop "
                "that one, or configure another place"
            ),
            exits=75,
        ),
        Mistake(
            name="a second daemon in a runtime directory",
            typed="run",
            scene="second in runtime dir",
            text=(
                "runtime directory /run/dispatcher is in use by pid 4711, state directory "
                "/var/lib/dispatcher (lock /run/dispatcher/daemon.lock); stop that one, or "
                "configure another place"
            ),
            exits=75,
        ),
        Mistake(
            name="a second executor",
            typed="executor",
            scene="second executor",
            text=(
                "another executor, pid 4711, holds /var/lib/dispatcher/executor.lock; one is "
                "enough, and stopping it ends its runs"
            ),
            exits=75,
        ),
        Mistake(
            name="a directory in place of the executor's journal",
            typed="executor",
            scene="journal directory",
            text=(
                "the journal /var/lib/dispatcher/executor.journal is not a regular file; let the "
                "executor's user read it or, when none of its runs lives, move it away"
            ),
            exits=78,
        ),
        Mistake(
            name="the executor of another node",
            typed="run",
            scene="other executor",
            text=(
                "the executor at this socket is of another node: its state directory is "
                "/var/lib/dispatcher (node 00000000-…), ours is /srv/other (node 00000000-…); "
                "give each its own [node] runtime_dir"
            ),
            exits=78,
        ),
        Mistake(
            name="another store while runs of the one before live",
            typed="run",
            scene="other store",
            text=(
                "the store is 00000000-…, but runs of the store 00000000-… still live on this "
                "node (1, executor pid 4711); point store.url at that store until they are "
                "done, or end them with a SIGTERM to the executor"
            ),
            exits=78,
        ),
        Mistake(
            name="a mistake in the file that is read again",
            typed="reload",
            scene="reload mistake",
            text=(
                "/etc/dispatcher/dispatcher.toml:2: node.slots: expected an integer >= 1; "
                "write for example: slots = 4"
            ),
            exits=78,
        ),
        Mistake(
            name="a runtime directory that cannot be made",
            typed="run",
            scene="no runtime dir",
            text=(
                "cannot make the runtime directory /proc/dispatcher: No such file or "
                "directory; set [node] runtime_dir to one that this user may write"
            ),
            exits=78,
        ),
        Mistake(
            name="a runtime directory of another user",
            typed="run",
            scene="other owner",
            text=(
                "cannot lock runtime directory /run/dispatcher: /run/dispatcher/daemon.lock: "
                "Permission denied; this user must be able to write there"
            ),
            exits=78,
        ),
        Mistake(
            name="root in a user's state directory, without the right to become that user",
            typed="list",
            scene="weak root",
            text=(
                "the state directory /var/lib/dispatcher belongs to uid 1000, and root does not "
                "work in another user's directory: sudo -u '#1000' dispatcher ..."
            ),
            exits=78,
        ),
        Mistake(
            name="a file that only root may write, in a user's state directory",
            typed="backup /home/me/copy.db",
            scene="root denied",
            text=(
                "cannot write copy.db in /home/me: Permission denied; this needs a directory "
                "that this user may write\n"
                "this process became uid 1000, because /var/lib/dispatcher belongs to that user"
            ),
            exits=1,
        ),
        Mistake(
            name="a directory in place of the control socket",
            typed="run",
            scene="socket taken",
            text=(
                "cannot listen at /run/dispatcher/control.sock: Is a directory; move away what "
                "is there"
            ),
            exits=78,
        ),
        Mistake(
            name="a daemon that starts on a full disk",
            typed="run",
            scene="full at start",
            text=(
                "cannot write /var/lib/dispatcher/node-id: No space left on device; make room "
                "on its disk"
            ),
            exits=69,
        ),
        Mistake(
            name="a filesystem that takes no writes, for the daemon",
            typed="run",
            scene="read only at start",
            text=(
                "cannot write /var/lib/dispatcher/node-id: Read-only file system; mount it for "
                "writing, and try again"
            ),
            exits=75,
        ),
        Mistake(
            name="a file in place of the output directory",
            typed="run",
            scene="output file",
            text=(
                "cannot make the output directory /var/lib/dispatcher/output: File exists; "
                "move away what is there, or set [node] state_dir to another directory"
            ),
            exits=78,
        ),
    ),
    "The service": (
        Mistake(
            name="a name that no instance can have",
            typed="install-service --user --instance a/b",
            text=(
                "--instance: 'a/b' is not a name of an instance; use up to 30 letters, digits, _, ."
                " and -, and begin with none of the last two (see: dispatcher install-service"
                " --help)"
            ),
            exits=2,
        ),
        Mistake(
            name="another user for a service of one's own",
            typed="install-service --user --run-as backup",
            text=(
                "--run-as: a service of your own runs as you; leave it out (see: dispatcher"
                " install-service --help)"
            ),
            exits=2,
        ),
    ),
}
