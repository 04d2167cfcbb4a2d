"""Mistakes of who submits."""

from collections.abc import Mapping, Sequence

from tests.mistakes.kinds import Mistake

GROUPS: Mapping[str, Sequence[Mistake]] = {
    "Profiles": (
        Mistake(
            name="a profile that does not exist",
            typed="submit --profile reprot",
            config='[profiles.report]\ncommand = ["report", "--month", "{month}"]\n',
            text="profile: there is no 'reprot'; did you mean 'report'?",
            exits=2,
        ),
        Mistake(
            name="a profile with a mistake",
            typed="submit --profile report",
            config='[profiles.report]\ncommand = ["report"]\nrun_timeout = "1 h"\n',
            text=(
                "/etc/dispatcher/dispatcher.toml:3: profiles.report.run_timeout: '1 h' is not a "
                "duration; write a number and ms, s, m, h, d or w (profile report is left out)\n"
                "profile: 'report' has a mistake in /etc/dispatcher/dispatcher.toml: dispatcher "
                "check-config names it"
            ),
            exits=78,
        ),
        Mistake(
            name="a profile whose file of secrets is missing",
            typed="submit --profile report",
            config='[profiles.report]\ncommand = ["report"]\nenv_file = "/nowhere.env"\n',
            text=(
                "profile: the env_file of 'report': /nowhere.env is missing; make it, or write "
                "-/nowhere.env if it may be"
            ),
            exits=78,
        ),
        Mistake(
            name="a payload without a key that the command needs",
            typed='submit --profile report --payload \'{"mnth": "2026-08"}\'',
            config='[profiles.report]\ncommand = ["report", "--month", "{month}"]\n',
            text="payload: has no 'month', which the command needs; did you mean 'mnth'?",
            exits=2,
        ),
        Mistake(
            name="no payload at all",
            typed="submit --profile report",
            config='[profiles.report]\ncommand = ["report", "--month", "{month}"]\n',
            text="payload: is missing; give a JSON object with month, which the command needs",
            exits=2,
        ),
        Mistake(
            name="a payload that is not an object",
            typed="submit --profile report --payload '[1]'",
            config='[profiles.report]\ncommand = ["report", "--month", "{month}"]\n',
            text="payload: is not a JSON object; give one with month, which the command needs",
            exits=2,
        ),
        Mistake(
            name="a list where an argument belongs",
            typed="submit --profile report --payload '{\"month\": [8]}'",
            config='[profiles.report]\ncommand = ["report", "--month", "{month}"]\n',
            text="payload: 'month' must be a text, a number, true or false to be an argument",
            exits=2,
        ),
        Mistake(
            name="a command together with a profile",
            typed="submit --profile report -- true",
            config='[profiles.report]\ncommand = ["report", "--month", "{month}"]\n',
            text="command: profile 'report' brings its own; leave the command out",
            exits=2,
        ),
        Mistake(
            name="a command where only profiles may run",
            typed="submit -- true",
            config=(
                '[defaults]\nallow_commands = false\n\n[profiles.report]\ncommand = ["report", '
                '"--month", "{month}"]\n'
            ),
            text="command: only profiles may be run here; known are: report; add --profile",
            exits=2,
        ),
    ),
    "Submitting": (
        Mistake(
            name="a verb misspelt",
            typed="sumbit -- true",
            text="no verb 'sumbit'; did you mean 'submit'? (see: dispatcher --help)",
            exits=2,
        ),
        Mistake(
            name="a verb of another program",
            typed="squeue",
            text="no verb 'squeue'; here it is `dispatcher list` (see: dispatcher --help)",
            exits=2,
        ),
        Mistake(
            name="no command",
            typed="submit",
            text="command: is empty; name a program, for example: -- echo hello",
            exits=2,
        ),
        Mistake(
            name="a line for a shell as one word",
            typed="submit 'make && make install'",
            text=(
                "command: 'make && make install' is not a program;"
                " write: sh -c 'make && make install'"
            ),
            exits=2,
        ),
        Mistake(
            name="an option misspelt",
            typed="submit --que ci -- true",
            text=(
                "No such option '--que'. (Did you mean one of: '--key', '--queue', '--urgent'?) "
                "(see: dispatcher submit --help)"
            ),
            exits=2,
        ),
        Mistake(
            name="a command that is too long",
            typed="submit -- echo " + "x" * 140000,
            text=(
                "command: 140006 bytes are more than 131072; pass what is long as the payload, "
                "or in a file"
            ),
            exits=2,
        ),
        Mistake(
            name="a payload that is not JSON",
            typed="submit --payload {month:8} -- true",
            text=(
                "payload: not JSON: expected '\"' (byte 1); write for "
                'example: \'{"month": "2026-08"}\''
            ),
            exits=2,
        ),
        Mistake(
            name="a payload file that does not exist",
            typed="submit --payload @job.json -- true",
            text="payload: job.json: No such file or directory; name a file to read",
            exits=2,
        ),
        Mistake(
            name="a payload that is not UTF-8",
            typed="submit --payload - -- true",
            stdin=b'"gr\xfc\xdfe"',
            text="payload: is not UTF-8; encode it so",
            exits=2,
        ),
        Mistake(
            name="a payload above its limit",
            typed="submit --payload - -- true",
            stdin=b'"' + b"x" * 1048577 + b'"',
            text=(
                "payload: 1048577 bytes are more than 1048576; name a file in it that holds them"
            ),
            exits=2,
        ),
        Mistake(
            name="a queue with a blank in its name",
            typed="submit --queue 'my queue' -- true",
            text="queue: 'my queue' is not a name; use up to 100 letters, digits and _ . : / @ + -",
            exits=2,
        ),
        Mistake(
            name="a label without a value",
            typed="submit --label team -- true",
            text="label: 'team' has no value; write team=VALUE",
            exits=2,
        ),
        Mistake(
            name="a variable that is not set",
            typed="submit --env NOT_SET_HERE -- true",
            text="env: NOT_SET_HERE is not set here; set it, or write NOT_SET_HERE=VALUE",
            exits=2,
        ),
        Mistake(
            name="a variable that the dispatcher sets",
            typed="submit --env DISPATCHER_FENCE=1 -- true",
            text="env: DISPATCHER_FENCE is set by the dispatcher itself; use another name",
            exits=2,
        ),
        Mistake(
            name="no attempt at all",
            typed="submit --max-attempts 0 -- true",
            text="max_attempts: must be from 1 to 2147483647, not 0",
            exits=2,
        ),
        Mistake(
            name="a negative delay",
            typed="submit --delay -5s -- true",
            text=(
                "Invalid value for '--delay': '-5s' is not a duration; write a number and ms, s, "
                "m, h, d or w (see: dispatcher submit --help)"
            ),
            exits=2,
        ),
        Mistake(
            name="a number without its unit",
            typed="submit --run-timeout 90 -- true",
            text=(
                "Invalid value for '--run-timeout': 90 is a plain number; add its unit, e.g. "
                '"90s" (see: dispatcher submit --help)'
            ),
            exits=2,
        ),
        Mistake(
            name="a delay beyond the time for it all",
            typed="submit --delay 2h --total-timeout 1h -- true",
            text=(
                "delay: 2h leaves nothing of total_timeout (1h), which counts from now; lower "
                "it or raise that"
            ),
            exits=2,
        ),
        Mistake(
            name="a first heartbeat of who need not beat",
            typed="submit --start-timeout 1m -- true",
            text=(
                "start_timeout: waits for a first heartbeat, which a task with liveness "
                "process need not give; add liveness worker, or use run_timeout"
            ),
            exits=2,
        ),
        Mistake(
            name="a liveness that does not exist",
            typed="submit --liveness proces -- true",
            text=(
                "Invalid value for '--liveness': 'proces' is not one of 'process', 'worker' "
                "(see: dispatcher submit --help)"
            ),
            exits=2,
        ),
        Mistake(
            name="a broken line among many",
            typed="submit --from -",
            stdin=b'{"command": ["true"]}\n{"command": ["true"}\n',
            text="line 2: not JSON: expected ',' or ']' (byte 19)",
            exits=2,
        ),
        Mistake(
            name="an unknown key in a line",
            typed="submit --from -",
            stdin=b'{"comand": ["true"]}\n',
            text="line 1: comand: unknown key; did you mean 'command'?",
            exits=2,
        ),
        Mistake(
            name="a command together with --from",
            typed="submit --from - -- true",
            text=(
                "with --from, command and key stand in the file's lines (see: dispatcher "
                "submit --help)"
            ),
            exits=2,
        ),
        Mistake(
            name="a priority in words",
            typed="submit --priority high -- true",
            text=(
                "Invalid value for '--priority' / '-p': 'high' is not a valid integer (see: "
                "dispatcher submit --help)"
            ),
            exits=2,
        ),
        Mistake(
            name="a signal misspelt",
            typed="submit --kill-signal TREM -- true",
            text=(
                "Invalid value for '--kill-signal': 'TREM' is not a signal; `kill -l` lists them, "
                "for example INT or 2 (see: dispatcher submit --help)"
            ),
            exits=2,
        ),
        Mistake(
            name="a lease that is too short",
            typed="submit --lease-ttl 1ms -- true",
            text="lease_ttl: must be from 200ms to 3650d, not 1ms",
            exits=2,
        ),
        Mistake(
            name="a variable without a name",
            typed="submit --env '' -- true",
            text="env: '' is not a name of a variable; use letters, digits and _",
            exits=2,
        ),
        Mistake(
            name="an empty key",
            typed="submit --key '' -- true",
            text="key: is empty; leave it out, or name what must happen only once",
            exits=2,
        ),
        Mistake(
            name="an empty name",
            typed="submit --name '' -- true",
            text="name: is empty; leave it out",
            exits=2,
        ),
        Mistake(
            name="an array instead of lines",
            typed="submit --from -",
            stdin=b'[{"command": ["true"]}]\n',
            text=(
                'line 1: must be a JSON object, for example {"command": ["true"]}; make a line of '
                "each item: jq -c '.[]' FILE"
            ),
            exits=2,
        ),
        Mistake(
            name="JSON among lines of shell",
            typed="submit --from -",
            stdin=b'make all\n{"command": ["true"]}\n',
            text="line 2: is JSON, after lines of shell; submit both in files of their own",
            exits=2,
        ),
        Mistake(
            name="a command on two lines",
            typed="submit --from -",
            stdin=b"make \\\n  all\n",
            text="line 1: ends with a backslash; write each command whole, on one line",
            exits=2,
        ),
        Mistake(
            name="a script without its interpreter",
            typed="submit --script job.sh",
            files={"job.sh": b"echo hello\n"},
            text="script: job.sh has no #! line; begin it with one, for example #!/bin/sh",
            exits=2,
        ),
        Mistake(
            name="an option misspelt in a script",
            typed="submit --script job.sh",
            files={"job.sh": b"#!/bin/sh\n#DISPATCHER --max-atempts 5\necho hello\n"},
            text="script: job.sh:2: No such option '--max-atempts'. Did you mean '--max-attempts'?",
            exits=2,
        ),
        Mistake(
            name="a command in the comments of a script",
            typed="submit --script job.sh",
            files={"job.sh": b"#!/bin/sh\n#DISPATCHER make all\n"},
            text="script: job.sh:2: 'make' does not belong into this line; write options in it",
            exits=2,
        ),
        Mistake(
            name="a script and lines",
            typed="submit --script job.sh --from -",
            files={"job.sh": b"#!/bin/sh\n"},
            text=(
                "--script and --from both give commands; use one (see: dispatcher submit --help)"
            ),
            exits=2,
        ),
    ),
}
