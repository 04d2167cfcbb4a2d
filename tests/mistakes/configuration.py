"""Mistakes in the configuration file."""

from collections.abc import Mapping, Sequence

from tests.mistakes.kinds import Mistake


def _checked(name: str, config: str, text: str) -> Mistake:
    """Return the row of a mistake that `check-config` finds; `text` begins with its line."""
    found = f"/etc/dispatcher/dispatcher.toml:{text}"
    return Mistake(name, "check-config", found, config=config, exits=78)


GROUPS: Mapping[str, Sequence[Mistake]] = {
    "The configuration file": (
        Mistake(
            "the file that `--config` names does not exist",
            "check-config --config nowhere.toml",
            "/home/me/nowhere.toml: No such file or directory; let --config or "
            "$DISPATCHER_CONFIG name a file that this user may read",
            exits=78,
        ),
        Mistake(
            "a directory in its place",
            "check-config --config .",
            "/home/me: Is a directory; let --config or $DISPATCHER_CONFIG name a file that this "
            "user may read",
            exits=78,
        ),
        Mistake(
            "this user may not read it",
            "check-config",
            "/etc/dispatcher/dispatcher.toml: Permission denied; it is for user root: sudo -u "
            "root dispatcher ...; or let --config or $DISPATCHER_CONFIG name a file that this "
            "user may read",
            scene="unreadable configuration",
            exits=78,
        ),
        Mistake(
            "it is not UTF-8",
            "check-config --config latin1.toml",
            "/home/me/latin1.toml:2: not UTF-8; save the file in that encoding",
            files={"latin1.toml": b"[node]\n# gr\xfc\xdfe\n"},
            exits=78,
        ),
        _checked(
            "a text without its quotes",
            "[store]\nurl = sqlite:///x/y.db\n",
            "2:7: not TOML: Invalid value; put texts in quotes",
        ),
        _checked(
            "a bracket that is not closed",
            "[node\nslots = 4\n",
            "1:6: not TOML: Expected ']' at the end of a table declaration",
        ),
        _checked(
            "a key given twice",
            "[node]\nslots = 4\nslots = 5\n",
            "3:10: not TOML: Cannot overwrite a value",
        ),
        _checked(
            "an unknown section",
            '[lease]\nttl = "1m"\n',
            "1: lease: unknown section; did you mean 'leases'?",
        ),
        _checked(
            "an unknown key",
            "[node]\nslot = 4\n",
            "2: node.slot: unknown key; did you mean 'slots'?",
        ),
        _checked(
            "a key in the wrong section",
            '[node]\nttl = "1m"\n',
            "2: node.ttl: unknown key; it belongs under [leases]",
        ),
        _checked(
            "a key outside of any section",
            "slots = 4\n",
            "1: slots: unknown key; it belongs under [node]",
        ),
        Mistake(
            "several mistakes at once",
            "check-config",
            "/etc/dispatcher/dispatcher.toml:2: node.slots: expected an integer, got a text in "
            "quotes; write for example: slots = 4\n"
            "/etc/dispatcher/dispatcher.toml:5: leases.ttl: 60 is a plain number; add its unit, "
            'e.g. "60s"',
            config='[node]\nslots = "4"\n\n[leases]\nttl = 60\n',
            exits=78,
        ),
    ),
    "A broken file while a daemon works on with the old one": (
        Mistake(
            "a verb that only needs to know where the store is",
            "cancel 42",
            "/etc/dispatcher/dispatcher.toml:2: leases.ttl: 60 is a plain number; add its unit, "
            'e.g. "60s"\n'
            "going on with the rest of it\n"
            "no task 42; `dispatcher list` shows those there are",
            config="[leases]\nttl = 60\n",
            exits=1,
        ),
        Mistake(
            "one that needs all of it",
            "submit -- true",
            "/etc/dispatcher/dispatcher.toml:2: leases.ttl: 60 is a plain number; add its unit, "
            'e.g. "60s"',
            config="[leases]\nttl = 60\n",
            exits=78,
        ),
        Mistake(
            "a store whose place is uncertain",
            "status",
            "/etc/dispatcher/dispatcher.toml:1: nod: unknown section; did you mean 'node'?\n"
            "until that is mended, a file with only [node] state_dir in it (and [store] url, if "
            "it has one) reaches the daemon: --config PATH",
            config='[nod]\nstate_dir = "/elsewhere"\n',
            exits=78,
        ),
        Mistake(
            "it is not TOML at all",
            "status",
            "/etc/dispatcher/dispatcher.toml:1:6: not TOML: Expected ']' at the end of a table "
            "declaration\n"
            "until that is mended, a file with only [node] state_dir in it (and [store] url, if "
            "it has one) reaches the daemon: --config PATH",
            config="[node\n",
            exits=78,
        ),
    ),
    "Schedules and hooks": (
        _checked(
            "a cron line that never fires",
            '[schedules.nightly]\ncron = "30 2 31 2 *"\ncommand = ["true"]\n',
            "2: schedules.nightly.cron: '30 2 31 2 *' is no cron line: the day of month cannot be; "
            "correct it",
        ),
        _checked(
            "a time zone that nobody knows",
            '[schedules.nightly]\ncron = "0 3 * * *"\ntime_zone = "Europe/Berlim"\n'
            'command = ["true"]\n',
            "3: schedules.nightly.time_zone: this host knows no time zone 'Europe/Berlim'; write "
            "for example Europe/Berlin or UTC, or install tzdata",
        ),
        Mistake(
            "a schedule whose profile is not there",
            "check-config",
            "/etc/dispatcher/dispatcher.toml: schedules.nightly.profile: there is no profile "
            "'report'; add [profiles.report], or correct the name",
            config='[schedules.nightly]\ncron = "0 3 * * *"\nprofile = "report"\n',
            exits=78,
        ),
        Mistake(
            "a hook whose profile is not there",
            "check-config",
            "/etc/dispatcher/dispatcher.toml: hooks.failed: there is no profile 'post'; add "
            "[profiles.post], or correct the name",
            config='[hooks]\nfailed = "post"\n',
            exits=78,
        ),
        Mistake(
            "pause a schedule misspelt",
            "schedules pause nigthly",
            "there is no schedule 'nigthly'; did you mean 'nightly'?",
            config='[schedules.nightly]\ncron = "0 3 * * *"\ncommand = ["true"]\n',
            exits=1,
        ),
    ),
    "Values and combinations": (
        _checked(
            "a text where a number belongs",
            '[node]\nslots = "4"\n',
            "2: node.slots: expected an integer, got a text in quotes; write for example: slots "
            "= 4",
        ),
        _checked(
            "a number out of range",
            "[node]\nslots = 0\n",
            "2: node.slots: expected an integer >= 1; write for example: slots = 4",
        ),
        _checked(
            "a duration without its unit",
            "[leases]\nttl = 60\n",
            '2: leases.ttl: 60 is a plain number; add its unit, e.g. "60s"',
        ),
        _checked(
            "a duration in another form",
            '[leases]\nttl = "1 week"\n',
            "2: leases.ttl: '1 week' is not a duration; write a number and ms, s, m, h, d or w",
        ),
        _checked(
            "a size in another form",
            '[output]\nrun_budget = "64MB"\n',
            "2: output.run_budget: '64MB' is not a size; write a number and KiB, MiB, GiB or TiB",
        ),
        _checked(
            "a choice misspelt",
            '[executor]\nmode = "embeded"\n',
            '2: executor.mode: \'embeded\' is not "embedded" or "external"; did you mean '
            "'embedded'?",
        ),
        _checked(
            "a relative path",
            '[node]\nstate_dir = "state"\n',
            " node.state_dir: 'state' is not an absolute path; begin it with / or ~/",
        ),
        _checked(
            "a database server of another kind",
            '[store]\nurl = "mysql://user:secret@host/db"\n',
            " store.url: only SQLite and PostgreSQL are known; write for example: url = "
            '"sqlite:///var/lib/dispatcher/tasks.db"',
        ),
        _checked(
            "a password in the store's URL",
            '[store]\nurl = "postgresql://user:secret@host/db"\n',
            " store.url: it holds a password, and every task would see it in its environment; put"
            " it into a password file (~/.pgpass or PGPASSFILE), or a service file",
        ),
        _checked(
            "a signal that does not exist",
            '[queues.ci]\nkill_signal = "TREM"\n',
            "2: queues.ci.kill_signal: 'TREM' is not a signal; `kill -l` lists them, for example "
            "INT or 2",
        ),
        Mistake(
            "a socket's path that is too long",
            "check-config",
            "/etc/dispatcher/dispatcher.toml: node.runtime_dir: /tmp/"
            + "x" * 100
            + (
                "/notify/<run uid> has 145 bytes and a socket's path at most 107; set [node] "
                "runtime_dir to a shorter directory"
            ),
            config=('[node]\nruntime_dir = "/tmp/' + "x" * 100 + '"\n'),
            exits=78,
        ),
        Mistake(
            "lists within lists without an end",
            "check-config",
            "/etc/dispatcher/dispatcher.toml: is nested too deeply; no key has a list within a "
            "list",
            config=("x = " + "[" * 5000 + "\n"),
            exits=78,
        ),
        _checked(
            "a lease that is shorter than any may be",
            '[leases]\nttl = "1ms"\n',
            "2: leases.ttl: 1ms is less than 200ms; raise it",
        ),
        _checked(
            "a reaper slower than the leases",
            '[leases]\nttl = "4s"\nreap_interval = "3s"\n',
            "3: leases.reap_interval: 3s is more than half of ttl (4s); lower it to at most 2s, "
            "or leave it out",
        ),
        _checked(
            "runs that a server's node could not confirm in time",
            '[store]\nurl = "postgresql://db/tasks"\n[executor]\nabsence_limit = "1s"\n',
            " executor.absence_limit: 1s is less than 2s, which a healthy daemon may need to "
            "confirm its claims on a server; raise it",
        ),
        _checked(
            "runs that another node would take over while they end",
            '[store]\nurl = "postgresql://db/tasks"\n[leases]\ntakeover_margin = "1s"\n',
            " leases.takeover_margin: 1s is less than 3300ms, 3 s and a thousandth of "
            "absence_limit (5m), in which the executor of a node that was cut off may still be "
            "ending its runs; raise it",
        ),
        _checked(
            "a shortest back-off above the longest",
            '[retry]\nbackoff_min = "20m"\nbackoff_max = "10m"\n',
            "2: retry.backoff_min: 20m is more than backoff_max (10m); lower it or raise that",
        ),
        _checked(
            "a time-out that another one always precedes",
            '[queues.ci]\nstall_timeout = "2h"\nrun_timeout = "1h"\n',
            "2: queues.ci.stall_timeout: 2h is longer than run_timeout (1h), which would come "
            "first; lower it or raise run_timeout",
        ),
        _checked(
            "a profile without its command",
            '[profiles.report]\nqueue = "nightly"\n',
            '1: profiles.report: needs a command; write for example: command = ["convert", '
            '"{input}", "-resize", "{size}"]',
        ),
        _checked(
            "a variable of a profile that the dispatcher sets",
            '[profiles.report]\ncommand = ["report"]\nenv = { DISPATCHER_FENCE = "1" }\n',
            "3: profiles.report.env: DISPATCHER_FENCE is set by the dispatcher itself; use "
            "another name",
        ),
        _checked(
            "less output in all than for one run",
            '[output]\ntotal_budget = "1MiB"\n',
            "2: output.total_budget: 1MiB is less than run_budget (64MiB); raise it or lower that",
        ),
        _checked(
            "a file of figures that the node exporter would not read",
            '[metrics]\ntextfile = "/var/lib/figures.txt"\n',
            "2: metrics.textfile: '/var/lib/figures.txt' is not an absolute path that ends with "
            ".prom, which the node exporter needs; write for example "
            '"/var/lib/node_exporter/dispatcher.prom"',
        ),
        _checked(
            "a listener that other hosts reach, without TLS",
            '[peers]\nlisten = "db1.example:7373"\ntoken_file = "/etc/dispatcher/peers.token"\n',
            "2: peers.listen: db1.example:7373 is reached by other hosts, so it needs TLS; set "
            'certificate and key, or listen on "127.0.0.1:PORT"',
        ),
        Mistake(
            "a profile with mistakes of every kind, and a file that is missing",
            "check-config",
            "/etc/dispatcher/dispatcher.toml:4: profiles.report.exit_codes: 'hld' is not "
            '"succeeded" or "failed" or "deferred" or "held"; did you mean \'held\'?\n'
            "/etc/dispatcher/dispatcher.toml:5: profiles.report.env: LEVEL: expected a text in "
            'quotes, got an integer; write for example: env = { "LEVEL" = "3" }\n'
            "/etc/dispatcher/dispatcher.toml:3: profiles.report.cwd: 'here' is not absolute; "
            "begin it with /\n"
            "/etc/dispatcher/dispatcher.toml: profiles.b.env_file: /nowhere.env is missing; make "
            "it, or write -/nowhere.env if it may be",
            config=(
                '[profiles.report]\ncommand = ["report"]\ncwd = "here"\n'
                'exit_codes = { "3" = "hld" }\n'
                'env = { LEVEL = 3 }\n[profiles.b]\ncommand = ["b"]\nenv_file = "/nowhere.env"\n'
            ),
            exits=78,
        ),
        _checked(
            "a umask that is not octal",
            '[defaults]\numask = "28"\n',
            "2: defaults.umask: '28' is not a umask; write three octal digits, for example 022",
        ),
        _checked(
            "a lone brace in a profile's command",
            '[profiles.report]\ncommand = ["report", "{month"]\n',
            "2: profiles.report.command: '{month' has a lone brace; write {key}, or {{ for a brace",
        ),
    ),
}
