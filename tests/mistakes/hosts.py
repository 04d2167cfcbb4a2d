"""Faults of the store, the disk, the user, or other processes."""

from collections.abc import Mapping, Sequence

from dispatcher.store.migrate import MIGRATIONS
from tests.mistakes.kinds import SUBMITTED, Mistake

GROUPS: Mapping[str, Sequence[Mistake]] = {
    "The store": (
        Mistake(
            "a truncated database",
            "list",
            "/var/lib/dispatcher/tasks.db is damaged, or not a dispatcher database (database "
            "disk image is malformed); restore it from a backup, or let store.url name another "
            "file",
            scene="truncated",
            before=SUBMITTED,
            exits=78,
        ),
        Mistake(
            "an empty file in its place",
            "list",
            "/var/lib/dispatcher/tasks.db is empty, and an existing file is never replaced; "
            "restore it from a backup, or remove it",
            scene="emptied",
            before=SUBMITTED,
            exits=78,
        ),
        Mistake(
            "a file of another program",
            "list",
            "/var/lib/dispatcher/tasks.db is damaged, or not a dispatcher database (no such "
            "table: meta); restore it from a backup, or let store.url name another file",
            scene="replaced",
            before=SUBMITTED,
            exits=78,
        ),
        Mistake(
            "a database that vanished",
            "list",
            "/var/lib/dispatcher/tasks.db is missing, and /var/lib/dispatcher/store-id remembers "
            "its store 00000000-…; restore it from a backup, or remove that file to start again "
            "without its tasks",
            scene="removed",
            before=SUBMITTED,
            exits=78,
        ),
        Mistake(
            "a database of a newer version",
            "list",
            "/var/lib/dispatcher/tasks.db was made by a newer dispatcher (schema 99, this "
            f"one knows {len(MIGRATIONS)}); upgrade this dispatcher",
            scene="newer",
            before=SUBMITTED,
            exits=78,
        ),
        Mistake(
            "a database of an older version",
            "list",
            "/var/lib/dispatcher/tasks.db was made by an older dispatcher (schema 0, this "
            f"one works with {len(MIGRATIONS)}); restart the daemon, or run: dispatcher "
            "migrate",
            scene="older",
            before=SUBMITTED,
            exits=78,
        ),
        Mistake(
            "a database on a network filesystem",
            "list",
            "/var/lib/dispatcher/tasks.db is on nfs4, a network filesystem, where SQLite loses "
            "data; let store.url name a file on a local disk",
            scene="network filesystem",
            exits=78,
        ),
        Mistake(
            "a database with two names",
            "list",
            "/var/lib/dispatcher/tasks.db has 2 names (hard links), and a commit made through "
            "one name is lost to users of the other; keep the name that the daemon uses and "
            "remove the others; find them with: find / -xdev -inum 4711",
            scene="second name",
            before=SUBMITTED,
            exits=78,
        ),
        Mistake(
            "a backup into a file that exists",
            "backup copy.db",
            "/home/me/copy.db exists; name another file, or add --overwrite",
            files={"copy.db": b"of yesterday"},
            before=SUBMITTED,
            exits=1,
        ),
        Mistake(
            "a backup over a file of another kind",
            "backup --overwrite dispatcher.toml",
            "/home/me/dispatcher.toml is not overwritten, as it is not a dispatcher database "
            "that can be written (file is not a database); remove it, or name another file",
            files={"dispatcher.toml": b"[node]\nslots = 4\n"},
            before=SUBMITTED,
            exits=1,
        ),
        Mistake(
            "a backup into a directory that is not there",
            "backup missing/copy.db",
            "cannot write copy.db in /home/me/missing: No such file or directory; this needs a "
            "directory that this user may write",
            before=SUBMITTED,
            exits=1,
        ),
        Mistake(
            "a backup without a name",
            "backup ''",
            "Invalid value for 'FILE': it is empty; name a file (see: dispatcher backup --help)",
        ),
        Mistake(
            "a backup where no task was ever submitted",
            "backup copy.db",
            "/var/lib/dispatcher/tasks.db does not exist; there is nothing to back up yet",
            exits=78,
        ),
        Mistake(
            "a restore from a file that is not there",
            "restore copy.db",
            "/home/me/copy.db does not exist, or is not a file; name a backup",
            before=SUBMITTED,
            exits=1,
        ),
        Mistake(
            "a restore from a file of another program",
            "restore copy.db",
            "/home/me/copy.db is damaged, or not a dispatcher database (file is not a database); "
            "name another backup",
            files={"copy.db": b"no database" * 100},
            before=SUBMITTED,
            exits=78,
        ),
        Mistake(
            "a directory in place of the database",
            "list",
            "/var/lib/dispatcher/tasks.db is not a file; let store.url name one",
            scene="directory",
            exits=78,
        ),
        Mistake(
            "a database that another program keeps locked",
            "submit -- true",
            "/var/lib/dispatcher/tasks.db: another process has held the write lock for more than "
            "5 s; try again, or look for it: fuser -v /var/lib/dispatcher/tasks.db",
            scene="locked",
            before=SUBMITTED,
            exits=69,
        ),
        Mistake(
            "a database that this user may not write",
            "submit -- true",
            "/var/lib/dispatcher/tasks.db cannot be written (permission denied); give this user "
            "write permission on the file and its directory",
            scene="read-only",
            before=SUBMITTED,
            exits=78,
        ),
        Mistake(
            "a database of another user",
            "status",
            "/var/lib/dispatcher/tasks.db: Permission denied; /var/lib/dispatcher belongs to "
            "user root; run this as that user: sudo -u root",
            scene="another user's",
            before=SUBMITTED,
            exits=78,
        ),
        Mistake(
            "a filesystem that takes no writes",
            "submit -- true",
            "/var/lib/dispatcher/tasks.db cannot be written (permission denied): Read-only file "
            "system; mount it for writing, and try again",
            scene="read-only filesystem",
            before=SUBMITTED,
            exits=75,
        ),
        Mistake(
            "a state directory that this user may not make",
            "submit -- true",
            "/var/lib/dispatcher: Permission denied; the store and its state directory need this "
            "user's permission to write",
            scene="forbidden",
            exits=78,
        ),
        Mistake(
            "a full disk",
            "submit --payload - -- true",
            "/var/lib/dispatcher/tasks.db: database or disk is full; make room on its disk, "
            "which is full",
            scene="full disk",
            stdin=b'"' + b"x" * 1000000 + b'"',
            before=SUBMITTED,
            exits=69,
        ),
        Mistake(
            "a full disk at the first start",
            "submit -- true",
            "/var/lib/dispatcher/tasks.db could not be made; is there room on its disk?",
            scene="tiny disk",
            exits=69,
        ),
        Mistake(
            "a damaged node-id",
            "status",
            "/var/lib/dispatcher/node-id: damaged, it holds 'node 1' instead of a UUID; restore "
            "it from a backup, or, when nothing that this node started still runs, delete it",
            scene="damaged node-id",
            before=SUBMITTED,
            exits=78,
        ),
    ),
    "Daemon and executor": (
        Mistake(
            "reload where no daemon runs",
            "reload",
            "no daemon runs here; it reads its file when it starts",
            exits=1,
        ),
        Mistake(
            "reload with another file than the daemon's",
            "reload --config new.toml",
            "nothing was reloaded: the daemon reads /etc/dispatcher/dispatcher.toml (dispatcher "
            "reload --config /etc/dispatcher/dispatcher.toml), not /home/me/new.toml; to change "
            "that: dispatcher restart --config /home/me/new.toml",
            scene="reload other file",
            exits=1,
        ),
        Mistake(
            "a daemon in the background while one runs",
            "run --detach",
            "the daemon runs already (pid 4711); dispatcher restart replaces it",
            scene="second in background",
            exits=75,
        ),
        Mistake(
            "a second daemon on a state directory",
            "run",
            "state directory /var/lib/dispatcher is in use by pid 4711 (lock "
            "/var/lib/dispatcher/lock); stop that one, or configure another place",
            scene="second daemon",
            exits=75,
        ),
        Mistake(
            "a second daemon on a database",
            "run",
            "the database /var/lib/dispatcher/tasks.db is in use by pid 4711, state directory "
            "/var/lib/dispatcher (lock /var/lib/dispatcher/tasks.db.lock); stop that one, or "
            "configure another place",
            scene="second on database",
            exits=75,
        ),
        Mistake(
            "a second daemon in a runtime directory",
            "run",
            "runtime directory /run/dispatcher is in use by pid 4711, state directory "
            "/var/lib/dispatcher (lock /run/dispatcher/daemon.lock); stop that one, or configure "
            "another place",
            scene="second in runtime dir",
            exits=75,
        ),
        Mistake(
            "a second executor",
            "executor",
            "another executor, pid 4711, holds /var/lib/dispatcher/executor.lock; one is enough, "
            "and stopping it ends its runs",
            scene="second executor",
            exits=75,
        ),
        Mistake(
            "a directory in place of the executor's journal",
            "executor",
            "the journal /var/lib/dispatcher/executor.journal is not a regular file; let the "
            "executor's user read it or, when none of its runs lives, move it away",
            scene="journal directory",
            exits=78,
        ),
        Mistake(
            "the executor of another node",
            "run",
            "the executor at this socket is of another node: its state directory is "
            "/var/lib/dispatcher (node 00000000-…), ours is /srv/other (node 00000000-…); give "
            "each its own [node] runtime_dir",
            scene="other executor",
            exits=78,
        ),
        Mistake(
            "another store while runs of the one before live",
            "run",
            "the store is 00000000-…, but runs of the store 00000000-… still live on this node "
            "(1, executor pid 4711); point store.url at that store until they are done, or end "
            "them with a SIGTERM to the executor",
            scene="other store",
            exits=78,
        ),
        Mistake(
            "a mistake in the file that is read again",
            "reload",
            "/etc/dispatcher/dispatcher.toml:2: node.slots: expected an integer >= 1; write for "
            "example: slots = 4",
            scene="reload mistake",
            exits=78,
        ),
        Mistake(
            "a runtime directory that cannot be made",
            "run",
            "cannot make the runtime directory /proc/dispatcher: No such file or directory; set "
            "[node] runtime_dir to one that this user may write",
            scene="no runtime dir",
            exits=78,
        ),
        Mistake(
            "a runtime directory of another user",
            "run",
            "cannot lock runtime directory /run/dispatcher: /run/dispatcher/daemon.lock: "
            "Permission denied; this user must be able to write there",
            scene="other owner",
            exits=78,
        ),
        Mistake(
            "root in a user's state directory, without the right to become that user",
            "list",
            "the state directory /var/lib/dispatcher belongs to uid 1000, and root does not work "
            "in another user's directory: sudo -u '#1000' dispatcher ...",
            scene="weak root",
            exits=78,
        ),
        Mistake(
            "a file that only root may write, in a user's state directory",
            "backup /home/me/copy.db",
            "cannot write copy.db in /home/me: Permission denied; this needs a directory that "
            "this user may write\n"
            "this process became uid 1000, because /var/lib/dispatcher belongs to that user",
            scene="root denied",
            exits=1,
        ),
        Mistake(
            "a directory in place of the control socket",
            "run",
            "cannot listen at /run/dispatcher/control.sock: Is a directory; move away what is "
            "there",
            scene="socket taken",
            exits=78,
        ),
        Mistake(
            "a daemon that starts on a full disk",
            "run",
            "cannot write /var/lib/dispatcher/node-id: No space left on device; make room on its "
            "disk",
            scene="full at start",
            exits=69,
        ),
        Mistake(
            "a filesystem that takes no writes, for the daemon",
            "run",
            "cannot write /var/lib/dispatcher/node-id: Read-only file system; mount it for "
            "writing, and try again",
            scene="read only at start",
            exits=75,
        ),
        Mistake(
            "a file in place of the output directory",
            "run",
            "cannot make the output directory /var/lib/dispatcher/output: File exists; move away "
            "what is there, or set [node] state_dir to another directory",
            scene="output file",
            exits=78,
        ),
    ),
    "The service": (
        Mistake(
            "a name that no instance can have",
            "install-service --user --instance a/b",
            "--instance: 'a/b' is not a name of an instance; use up to 30 letters, digits, _, . "
            "and -, and begin with none of the last two (see: dispatcher install-service --help)",
        ),
        Mistake(
            "another user for a service of one's own",
            "install-service --user --run-as backup",
            "--run-as: a service of your own runs as you; leave it out (see: dispatcher "
            "install-service --help)",
        ),
    ),
}
