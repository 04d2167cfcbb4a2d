"""Mistakes of submitters."""

from collections.abc import Mapping, Sequence

from tests.mistakes.kinds import Mistake

_REPORT = '[profiles.report]\ncommand = ["report", "--month", "{month}"]\n'

GROUPS: Mapping[str, Sequence[Mistake]] = {
    "Profiles": (
        Mistake(
            "a profile that does not exist",
            "submit --profile reprot",
            "profile: there is no 'reprot'; did you mean 'report'?",
            config=_REPORT,
        ),
        Mistake(
            "a profile with a mistake",
            "submit --profile report",
            "/etc/dispatcher/dispatcher.toml:3: profiles.report.run_timeout: '1 h' is not a "
            "duration; write a number and ms, s, m, h, d or w (profile report is left out)\n"
            "profile: 'report' has a mistake in /etc/dispatcher/dispatcher.toml: dispatcher "
            "check-config names it",
            config='[profiles.report]\ncommand = ["report"]\nrun_timeout = "1 h"\n',
            exits=78,
        ),
        Mistake(
            "a profile whose file of secrets is missing",
            "submit --profile report",
            "profile: the env_file of 'report': /nowhere.env is missing; make it, or write "
            "-/nowhere.env if it may be",
            config='[profiles.report]\ncommand = ["report"]\nenv_file = "/nowhere.env"\n',
            exits=78,
        ),
        Mistake(
            "a payload without a key that the command needs",
            'submit --profile report --payload \'{"mnth": "2026-08"}\'',
            "payload: has no 'month', which the command needs; did you mean 'mnth'?",
            config=_REPORT,
        ),
        Mistake(
            "no payload at all",
            "submit --profile report",
            "payload: is missing; give a JSON object with month, which the command needs",
            config=_REPORT,
        ),
        Mistake(
            "a payload that is not an object",
            "submit --profile report --payload '[1]'",
            "payload: is not a JSON object; give one with month, which the command needs",
            config=_REPORT,
        ),
        Mistake(
            "a list where an argument belongs",
            "submit --profile report --payload '{\"month\": [8]}'",
            "payload: 'month' must be a text, a number, true or false to be an argument",
            config=_REPORT,
        ),
        Mistake(
            "a command together with a profile",
            "submit --profile report -- true",
            "command: profile 'report' brings its own; leave the command out",
            config=_REPORT,
        ),
        Mistake(
            "a command where only profiles may run",
            "submit -- true",
            "command: only profiles may be run here; known are: report; add --profile",
            config=f"[defaults]\nallow_commands = false\n\n{_REPORT}",
        ),
    ),
    "Submitting": (
        Mistake(
            "a verb misspelt",
            "sumbit -- true",
            "no verb 'sumbit'; did you mean 'submit'? (see: dispatcher --help)",
        ),
        Mistake(
            "a verb of another program",
            "squeue",
            "no verb 'squeue'; here it is `dispatcher list` (see: dispatcher --help)",
        ),
        Mistake(
            "no command", "submit", "command: is empty; name a program, for example: -- echo hello"
        ),
        Mistake(
            "a line for a shell as one word",
            "submit 'make && make install'",
            "command: 'make && make install' is not a program; write: sh -c 'make && make install'",
        ),
        Mistake(
            "an option misspelt",
            "submit --que ci -- true",
            "No such option '--que'. (Did you mean one of: '--queue', '--require', '--urgent'?) "
            "(see: dispatcher submit --help)",
        ),
        Mistake(
            "a command that is too long",
            "submit -- echo " + "x" * 140000,
            "command: 140006 bytes are more than 131072; pass what is long as the payload, or in "
            "a file",
        ),
        Mistake(
            "a variable that is too large",
            "submit --env DATA=" + "x" * 131067 + " -- true",
            "env DATA: 131072 bytes with its name are more than 131071; use the payload, or name "
            "a file that holds it",
        ),
        Mistake(
            "an empty directory, as of a variable that is not set",
            "submit --cwd '' -- true",
            "cwd: is empty; name a directory, or leave it out",
        ),
        Mistake(
            "a time too far away",
            "submit --at 9999-12-31 -- true",
            "Invalid value for '--at': '9999-12-31' is more than 3650d from now; write an earlier "
            "time (see: dispatcher submit --help)",
        ),
        Mistake(
            "a payload that is not JSON",
            "submit --payload {month:8} -- true",
            "payload: not JSON: expected '\"' (byte 1); write for example: '{\"month\": "
            '"2026-08"}\'',
        ),
        Mistake(
            "a payload file that does not exist",
            "submit --payload @job.json -- true",
            "payload: job.json: No such file or directory; name a file to read",
        ),
        Mistake(
            "a payload that is not UTF-8",
            "submit --payload - -- true",
            "payload: is not UTF-8; encode it so",
            stdin=b'"gr\xfc\xdfe"',
        ),
        Mistake(
            "a payload above its limit",
            "submit --payload - -- true",
            "payload: 1048577 bytes are more than 1048576; name a file in it that holds them",
            stdin=b'"' + b"x" * 1048577 + b'"',
        ),
        Mistake(
            "a queue with a blank in its name",
            "submit --queue 'my queue' -- true",
            "queue: 'my queue' is not a name; use up to 100 letters, digits and _ . : / @ + -",
        ),
        Mistake(
            "a label without a value",
            "submit --label team -- true",
            "label: 'team' has no value; write team=VALUE",
        ),
        Mistake(
            "a variable that is not set",
            "submit --env NOT_SET_HERE -- true",
            "env: NOT_SET_HERE is not set here; set it, or write NOT_SET_HERE=VALUE",
        ),
        Mistake(
            "a variable that the dispatcher sets",
            "submit --env DISPATCHER_FENCE=1 -- true",
            "env: DISPATCHER_FENCE is set by the dispatcher itself; use another name",
        ),
        Mistake(
            "no attempt at all",
            "submit --max-attempts 0 -- true",
            "max_attempts: must be from 1 to 2147483647, not 0",
        ),
        Mistake(
            "a negative delay",
            "submit --delay -5s -- true",
            "Invalid value for '--delay': '-5s' is not a duration; write a number and ms, s, m, "
            "h, d or w (see: dispatcher submit --help)",
        ),
        Mistake(
            "a number without its unit",
            "submit --run-timeout 90 -- true",
            "Invalid value for '--run-timeout': 90 is a plain number; add its unit, e.g. \"90s\" "
            "(see: dispatcher submit --help)",
        ),
        Mistake(
            "a delay beyond the time for it all",
            "submit --delay 2h --total-timeout 1h -- true",
            "delay: 2h leaves nothing of total_timeout (1h), which counts from now; lower it or "
            "raise that",
        ),
        Mistake(
            "a first heartbeat of a process that sends none",
            "submit --start-timeout 1m -- true",
            "start_timeout: waits for a first heartbeat, which a task with liveness process need "
            "not give; add liveness worker, or use run_timeout",
        ),
        Mistake(
            "a liveness that does not exist",
            "submit --liveness proces -- true",
            "Invalid value for '--liveness': 'proces' is not one of 'process', 'worker' (see: "
            "dispatcher submit --help)",
        ),
        Mistake(
            "a broken line among many",
            "submit --from -",
            "line 2: not JSON: expected ',' or ']' (byte 19)",
            stdin=b'{"command": ["true"]}\n{"command": ["true"}\n',
        ),
        Mistake(
            "an unknown key in a line",
            "submit --from -",
            "line 1: comand: unknown key; did you mean 'command'?",
            stdin=b'{"comand": ["true"]}\n',
        ),
        Mistake(
            "a command together with --from",
            "submit --from - -- true",
            "with --from, command and key stand in the file's lines (see: dispatcher submit "
            "--help)",
        ),
        Mistake(
            "a priority in words",
            "submit --priority high -- true",
            "Invalid value for '--priority' / '-p': 'high' is not a valid integer (see: "
            "dispatcher submit --help)",
        ),
        Mistake(
            "a signal misspelt",
            "submit --kill-signal TREM -- true",
            "Invalid value for '--kill-signal': 'TREM' is not a signal; `kill -l` lists them, "
            "for example INT or 2 (see: dispatcher submit --help)",
        ),
        Mistake(
            "a lease that is too short",
            "submit --lease-ttl 1ms -- true",
            "lease_ttl: must be from 200ms to 3650d, not 1ms",
        ),
        Mistake(
            "a variable without a name",
            "submit --env '' -- true",
            "env: '' is not a name of a variable; use letters, digits and _",
        ),
        Mistake(
            "an empty key",
            "submit --key '' -- true",
            "key: is empty; leave it out, or name what must happen only once",
        ),
        Mistake("an empty name", "submit --name '' -- true", "name: is empty; leave it out"),
        Mistake(
            "an array instead of lines",
            "submit --from -",
            'line 1: must be a JSON object, for example {"command": ["true"]}; make a line of '
            "each item: jq -c '.[]' FILE",
            stdin=b'[{"command": ["true"]}]\n',
        ),
        Mistake(
            "JSON among lines of shell",
            "submit --from -",
            "line 2: is JSON, after lines of shell; submit both in files of their own",
            stdin=b'make all\n{"command": ["true"]}\n',
        ),
        Mistake(
            "a command on two lines",
            "submit --from -",
            "line 1: ends with a backslash; write each command whole, on one line",
            stdin=b"make \\\n  all\n",
        ),
        Mistake(
            "a script without its interpreter",
            "submit --script job.sh",
            "script: job.sh has no #! line; begin it with one, for example #!/bin/sh",
            files={"job.sh": b"echo hello\n"},
        ),
        Mistake(
            "an option misspelt in a script",
            "submit --script job.sh",
            "script: job.sh:2: No such option '--max-atempts'. (Did you mean one of: "
            "'--max-attempts', '--max-orphans'?)",
            files={"job.sh": b"#!/bin/sh\n#DISPATCHER --max-atempts 5\necho hello\n"},
        ),
        Mistake(
            "a command in the comments of a script",
            "submit --script job.sh",
            "script: job.sh:2: 'make' does not belong into this line; write options in it",
            files={"job.sh": b"#!/bin/sh\n#DISPATCHER make all\n"},
        ),
        Mistake(
            "a script and lines",
            "submit --script job.sh --from -",
            "--script and --from both give commands; use one (see: dispatcher submit --help)",
            files={"job.sh": b"#!/bin/sh\n"},
        ),
    ),
}
