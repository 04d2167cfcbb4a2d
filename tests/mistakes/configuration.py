"""Mistakes in the configuration file."""

from collections.abc import Mapping, Sequence

from tests.mistakes.kinds import Mistake

GROUPS: Mapping[str, Sequence[Mistake]] = {
    "The configuration file": (
        Mistake(
            name="the file that `--config` names does not exist",
            typed="check-config --config nowhere.toml",
            text=(
                "/home/me/nowhere.toml: No such file or directory; let --config or "
                "$DISPATCHER_CONFIG name a file that this user may read"
            ),
            exits=78,
        ),
        Mistake(
            name="a directory in its place",
            typed="check-config --config .",
            text=(
                "/home/me: Is a directory; let --config or $DISPATCHER_CONFIG name a file that "
                "this user may read"
            ),
            exits=78,
        ),
        Mistake(
            name="this user may not read it",
            typed="check-config",
            scene="unreadable configuration",
            text=(
                "/etc/dispatcher/dispatcher.toml: Permission denied; it is for user root: sudo -u "
                "root dispatcher ...; or let --config or $DISPATCHER_CONFIG name a file that this "
                "user may read"
            ),
            exits=78,
        ),
        Mistake(
            name="it is not UTF-8",
            typed="check-config --config latin1.toml",
            files={"latin1.toml": b"[node]\n# gr\xfc\xdfe\n"},
            text="/home/me/latin1.toml:2: not UTF-8; save the file in that encoding",
            exits=78,
        ),
        Mistake(
            name="a text without its quotes",
            typed="check-config",
            config="[store]\nurl = sqlite:///x/y.db\n",
            text=(
                "/etc/dispatcher/dispatcher.toml:2:7: not TOML: Invalid value; put texts in quotes"
            ),
            exits=78,
        ),
        Mistake(
            name="a bracket that is not closed",
            typed="check-config",
            config="[node\nslots = 4\n",
            text=(
                "/etc/dispatcher/dispatcher.toml:1:6: not TOML: Expected ']' at the end of a "
                "table declaration"
            ),
            exits=78,
        ),
        Mistake(
            name="a key given twice",
            typed="check-config",
            config="[node]\nslots = 4\nslots = 5\n",
            text="/etc/dispatcher/dispatcher.toml:3:10: not TOML: Cannot overwrite a value",
            exits=78,
        ),
        Mistake(
            name="an unknown section",
            typed="check-config",
            config='[lease]\nttl = "1m"\n',
            text=(
                "/etc/dispatcher/dispatcher.toml:1: lease: unknown section; did you mean 'leases'?"
            ),
            exits=78,
        ),
        Mistake(
            name="an unknown key",
            typed="check-config",
            config="[node]\nslot = 4\n",
            text=(
                "/etc/dispatcher/dispatcher.toml:2: node.slot: unknown key; did you mean 'slots'?"
            ),
            exits=78,
        ),
        Mistake(
            name="a key in the wrong section",
            typed="check-config",
            config='[node]\nttl = "1m"\n',
            text=(
                "/etc/dispatcher/dispatcher.toml:2: node.ttl: unknown key; it belongs under "
                "[leases]"
            ),
            exits=78,
        ),
        Mistake(
            name="a key outside of any section",
            typed="check-config",
            config="slots = 4\n",
            text="/etc/dispatcher/dispatcher.toml:1: slots: unknown key; it belongs under [node]",
            exits=78,
        ),
        Mistake(
            name="several mistakes at once",
            typed="check-config",
            config='[node]\nslots = "4"\n\n[leases]\nttl = 60\n',
            text=(
                "/etc/dispatcher/dispatcher.toml:2: node.slots: expected an integer, got a "
                "text in quotes; write for example: slots = "
                "4\n/etc/dispatcher/dispatcher.toml:5: leases.ttl: 60 is a plain number; add "
                'its unit, e.g. "60s"'
            ),
            exits=78,
        ),
    ),
    "A broken file while a daemon works on with the old one": (
        Mistake(
            name="a verb that only needs to know where the store is",
            typed="cancel 42",
            config="[leases]\nttl = 60\n",
            text=(
                "/etc/dispatcher/dispatcher.toml:2: leases.ttl: 60 is a plain number; add its "
                'unit, e.g. "60s"\n'
                "going on with the rest of it\n"
                "no task 42; `dispatcher list` shows those there are"
            ),
            exits=1,
        ),
        Mistake(
            name="one that needs all of it",
            typed="submit -- true",
            config="[leases]\nttl = 60\n",
            text=(
                "/etc/dispatcher/dispatcher.toml:2: leases.ttl: 60 is a plain number; add its "
                'unit, e.g. "60s"'
            ),
            exits=78,
        ),
        Mistake(
            name="a store whose place is uncertain",
            typed="status",
            config='[nod]\nstate_dir = "/elsewhere"\n',
            text=(
                "/etc/dispatcher/dispatcher.toml:1: nod: unknown section; did you mean 'node'?\n"
                "until that is mended, a file with only [node] state_dir in it (and [store] url, "
                "if it has one) reaches the daemon: --config PATH"
            ),
            exits=78,
        ),
        Mistake(
            name="it is not TOML at all",
            typed="status",
            config="[node\n",
            text=(
                "/etc/dispatcher/dispatcher.toml:1:6: not TOML: Expected ']' at the end of a "
                "table declaration\n"
                "until that is mended, a file with only [node] state_dir in it (and [store] url, "
                "if it has one) reaches the daemon: --config PATH"
            ),
            exits=78,
        ),
    ),
    "Values and combinations": (
        Mistake(
            name="a text where a number belongs",
            typed="check-config",
            config='[node]\nslots = "4"\n',
            text=(
                "/etc/dispatcher/dispatcher.toml:2: node.slots: expected an integer, got a "
                "text in quotes; write for example: slots = 4"
            ),
            exits=78,
        ),
        Mistake(
            name="a number out of range",
            typed="check-config",
            config="[node]\nslots = 0\n",
            text=(
                "/etc/dispatcher/dispatcher.toml:2: node.slots: expected an integer >= 1; "
                "write for example: slots = 4"
            ),
            exits=78,
        ),
        Mistake(
            name="a duration without its unit",
            typed="check-config",
            config="[leases]\nttl = 60\n",
            text=(
                "/etc/dispatcher/dispatcher.toml:2: leases.ttl: 60 is a plain number; add its "
                'unit, e.g. "60s"'
            ),
            exits=78,
        ),
        Mistake(
            name="a duration in other words",
            typed="check-config",
            config='[leases]\nttl = "1 week"\n',
            text=(
                "/etc/dispatcher/dispatcher.toml:2: leases.ttl: '1 week' is not a duration; write "
                "a number and ms, s, m, h, d or w"
            ),
            exits=78,
        ),
        Mistake(
            name="a size in other words",
            typed="check-config",
            config='[output]\nrun_budget = "64MB"\n',
            text=(
                "/etc/dispatcher/dispatcher.toml:2: output.run_budget: '64MB' is not a size; "
                "write a number and KiB, MiB, GiB or TiB"
            ),
            exits=78,
        ),
        Mistake(
            name="a choice misspelt",
            typed="check-config",
            config='[executor]\nmode = "embeded"\n',
            text=(
                "/etc/dispatcher/dispatcher.toml:2: executor.mode: 'embeded' is not \"embedded\" "
                "or \"external\"; did you mean 'embedded'?"
            ),
            exits=78,
        ),
        Mistake(
            name="a relative path",
            typed="check-config",
            config='[node]\nstate_dir = "state"\n',
            text=(
                "/etc/dispatcher/dispatcher.toml: node.state_dir: 'state' is not an absolute "
                "path; begin it with / or ~/"
            ),
            exits=78,
        ),
        Mistake(
            name="a database server",
            typed="check-config",
            config='[store]\nurl = "mysql://user:secret@host/db"\n',
            text=(
                "/etc/dispatcher/dispatcher.toml: store.url: only SQLite is known; write for "
                'example: url = "sqlite:///var/lib/dispatcher/tasks.db"'
            ),
            exits=78,
        ),
        Mistake(
            name="a signal that does not exist",
            typed="check-config",
            config='[queues.ci]\nkill_signal = "TREM"\n',
            text=(
                "/etc/dispatcher/dispatcher.toml:2: queues.ci.kill_signal: 'TREM' is not a "
                "signal; `kill -l` lists them, for example INT or 2"
            ),
            exits=78,
        ),
        Mistake(
            name="a socket's path that is too long",
            typed="check-config",
            config='[node]\nruntime_dir = "/tmp/' + "x" * 100 + '"\n',
            text="/etc/dispatcher/dispatcher.toml: node.runtime_dir: /tmp/"
            + "x" * 100
            + (
                "/notify/<run uid> has 145 bytes and a socket's path at most 107; set [node] "
                "runtime_dir to a shorter directory"
            ),
            exits=78,
        ),
        Mistake(
            name="lists within lists without an end",
            typed="check-config",
            config="x = " + "[" * 5000 + "\n",
            text=(
                "/etc/dispatcher/dispatcher.toml: is nested too deeply; no key has a list within a "
                "list"
            ),
            exits=78,
        ),
        Mistake(
            name="a lease that is shorter than any may be",
            typed="check-config",
            config='[leases]\nttl = "1ms"\n',
            text="/etc/dispatcher/dispatcher.toml:2: leases.ttl: 1ms is less than 200ms; raise it",
            exits=78,
        ),
        Mistake(
            name="a reaper slower than the leases",
            typed="check-config",
            config='[leases]\nttl = "4s"\nreap_interval = "3s"\n',
            text=(
                "/etc/dispatcher/dispatcher.toml:3: leases.reap_interval: 3s is more than half "
                "of ttl (4s); lower it to at most 2s, or leave it out"
            ),
            exits=78,
        ),
        Mistake(
            name="a shortest back-off above the longest",
            typed="check-config",
            config='[retry]\nbackoff_min = "20m"\nbackoff_max = "10m"\n',
            text=(
                "/etc/dispatcher/dispatcher.toml:2: retry.backoff_min: 20m is more than "
                "backoff_max (10m); lower it or raise that"
            ),
            exits=78,
        ),
        Mistake(
            name="a time-out that another one always precedes",
            typed="check-config",
            config='[queues.ci]\nstall_timeout = "2h"\nrun_timeout = "1h"\n',
            text=(
                "/etc/dispatcher/dispatcher.toml:2: queues.ci.stall_timeout: 2h is longer than "
                "run_timeout (1h), which would come first; lower it or raise run_timeout"
            ),
            exits=78,
        ),
        Mistake(
            name="a profile without its command",
            typed="check-config",
            config='[profiles.report]\nqueue = "nightly"\n',
            text=(
                "/etc/dispatcher/dispatcher.toml:1: profiles.report: needs a command; write "
                'for example: command = ["convert", "{input}", "-resize", "{size}"]'
            ),
            exits=78,
        ),
        Mistake(
            name="a variable of a profile that the dispatcher sets",
            typed="check-config",
            config='[profiles.report]\ncommand = ["report"]\nenv = { DISPATCHER_FENCE = "1" }\n',
            text=(
                "/etc/dispatcher/dispatcher.toml:3: profiles.report.env: DISPATCHER_FENCE is set "
                "by the dispatcher itself; use another name"
            ),
            exits=78,
        ),
        Mistake(
            name="less output in all than for one run",
            typed="check-config",
            config='[output]\ntotal_budget = "1MiB"\n',
            text=(
                "/etc/dispatcher/dispatcher.toml:2: output.total_budget: 1MiB is less than "
                "run_budget (64MiB); raise it or lower that"
            ),
            exits=78,
        ),
        Mistake(
            name="a file of figures that the node exporter would not read",
            typed="check-config",
            config='[metrics]\ntextfile = "/var/lib/figures.txt"\n',
            text=(
                "/etc/dispatcher/dispatcher.toml:2: metrics.textfile: '/var/lib/figures.txt' is "
                "not an absolute path that ends with .prom, which the node exporter needs; "
                'write for example "/var/lib/node_exporter/dispatcher.prom"'
            ),
            exits=78,
        ),
        Mistake(
            name="a profile with mistakes of every kind, and a file that is missing",
            typed="check-config",
            config=(
                '[profiles.report]\ncommand = ["report"]\ncwd = "here"\n'
                'exit_codes = { "3" = "hld" }\n'
                'env = { LEVEL = 3 }\n[profiles.b]\ncommand = ["b"]\nenv_file = "/nowhere.env"\n'
            ),
            text=(
                "/etc/dispatcher/dispatcher.toml:4: profiles.report.exit_codes: 'hld' is not "
                '"succeeded" or "failed" or "deferred" or "held"; did you mean \'held\'?\n'
                "/etc/dispatcher/dispatcher.toml:5: profiles.report.env: LEVEL: expected a text in "
                'quotes, got an integer; write for example: env = { "LEVEL" = "3" }\n'
                "/etc/dispatcher/dispatcher.toml:3: profiles.report.cwd: 'here' is not absolute; "
                "begin it with /\n"
                "/etc/dispatcher/dispatcher.toml: profiles.b.env_file: /nowhere.env is missing; "
                "make it, or write -/nowhere.env if it may be"
            ),
            exits=78,
        ),
        Mistake(
            name="a umask that is not octal",
            typed="check-config",
            config='[defaults]\numask = "28"\n',
            text=(
                "/etc/dispatcher/dispatcher.toml:2: defaults.umask: '28' is not a umask; write "
                "three octal digits, for example 022"
            ),
            exits=78,
        ),
        Mistake(
            name="a lone brace in a profile's command",
            typed="check-config",
            config='[profiles.report]\ncommand = ["report", "{month"]\n',
            text=(
                "/etc/dispatcher/dispatcher.toml:2: profiles.report.command: '{month' has a "
                "lone brace; write {key}, or {{ for a brace"
            ),
            exits=78,
        ),
    ),
}
