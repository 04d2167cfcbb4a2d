"""Tasks from text: lines of shell, or of JSON whose keys are `submit`'s options.

Also NAME=VALUE pairs.
"""

from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import msgspec

from dispatcher.cli.line_keys import LineKeys
from dispatcher.complaints import UNREADABLE, in_words
from dispatcher.config import limits
from dispatcher.config.config import Config
from dispatcher.dependency import ParentFailure
from dispatcher.errors import InvalidTask, did_you_mean
from dispatcher.model import Liveness
from dispatcher.named_limits import MOST
from dispatcher.new_task import URGENT, NewTask
from dispatcher.quantities import durations
from dispatcher.submission import TaskOptions, new_task
from dispatcher.task_checks import check_variable
from dispatcher.times import WallTime, coming, wall_clock
from dispatcher.wire import KillMode

#: The type of each key of a line.
_KINDS: Mapping[str, Any] = {
    "command": list[str],
    "profile": str,
    "queue": str,
    "priority": int,
    "urgent": bool,
    "max_attempts": int,
    "cwd": str,
    "env": dict[str, str] | list[str],
    "clean_env": bool,
    "key": str,
    "concurrency_key": str,
    "after": int | str | list[int | str],
    "after_any": int | str | list[int | str],
    "on_parent_failure": ParentFailure,
    "delay": object,
    "at": str,
    "liveness": Liveness,
    "notify": bool,
    "lease_ttl": object,
    **dict.fromkeys(limits.TIMEOUTS, object),
    "kill_signal": str | int,
    "kill_mode": KillMode,
    **dict.fromkeys(("kill_grace", *limits.DELAYS), object),
    **dict.fromkeys(limits.BUDGETS, int),
    "payload": msgspec.Raw,
    "label": dict[str, str] | list[str],
    "require": dict[str, str] | list[str],
    "limit": dict[str, int] | list[str],
    "name": str,
}

#: What a file of JSON begins with: an object, or what a mistaken file has in the place of one.
_JSON = (b"{", b"[", b'"')

#: The label that --name and the key `name` give.
NAME = "name"

#: Bytes of a line: more than any task needs, even with every character escaped.
LONGEST = 16 * 1024 * 1024

#: Keys by the names that `list --json` prints.
_ALSO = {"labels": "label", "requires": "require", "limits": "limit"}

_DURATIONS = frozenset({"delay", "lease_ttl", "kill_grace", *limits.TIMEOUTS, *limits.DELAYS})


def read(
    lines: Iterable[bytes], config: Config, options: TaskOptions, environ: Mapping[str, str]
) -> Iterator[NewTask]:
    """Yield a task for each line; `options` hold for keys that a line leaves out.

    The first line that is neither blank nor a comment of a shell decides whether all are JSON.
    Raises `InvalidTask`, which names the first line with a mistake.
    """
    fields_of: Callable[[bytes], dict[str, Any]] | None = None
    keys = LineKeys()
    for number, line in enumerate(lines, start=1):
        text = line.removeprefix(BOM_UTF8) if number == 1 else line
        if not text.strip() or (fields_of is not _fields and _is_comment(text)):
            continue
        fields_of = fields_of or (_fields if text.lstrip().startswith(_JSON) else _shell)
        try:
            task = keys.check(number, _task(fields_of(text), config, options, environ))
        except InvalidTask as error:
            raise InvalidTask(f"line {number}: {error}") from None
        yield task


def _task(
    fields: dict[str, Any], config: Config, options: TaskOptions, environ: Mapping[str, str]
) -> NewTask:
    command, name = fields.pop("command", []), fields.pop(NAME, None)
    for key in ("label", "require", "limit", "env"):
        refuse_repeated(key, fields.get(key, ()), name if key == "label" else None)
    if fields.pop("urgent", False):
        if "priority" in fields:
            raise InvalidTask("urgent: sets the priority too; give one of them")
        fields["priority"] = URGENT
    for key in fields.keys() & {"after", "after_any"}:
        fields[key] = fields[key] if isinstance(fields[key], list) else [fields[key]]
    own = _options(fields, environ)
    if "delay_ms" in own or "start_at" in own:  # one of them sets what both set
        options = {**options, "delay_ms": None, "start_at": None}
    wanted: TaskOptions = {**options, **own}
    if name is not None:
        wanted["labels"] = named(name, wanted.get("labels") or {})
    return new_task(config, command, wanted)


def _is_comment(line: bytes) -> bool:
    return line.lstrip().startswith(b"#")


def _shell(line: bytes) -> dict[str, Any]:
    text = line.strip()
    if text.startswith(b'{"'):
        raise InvalidTask("is JSON, after lines of shell; submit both in files of their own")
    if (len(text) - len(text.rstrip(b"\\"))) % 2:
        raise InvalidTask("ends with a backslash; write each command whole, on one line")
    return {"command": ["sh", "-c", text.decode(errors="surrogateescape")]}


def named(name: str | None, labels: Mapping[str, str]) -> dict[str, str]:
    """Return labels with the one that holds a task's name. Raises `InvalidTask`."""
    if name is None:
        return {**labels}
    if not name.strip():
        raise InvalidTask("name: is empty; leave it out")
    return {**labels, NAME: name}


def refuse_repeated(option: str, texts: Iterable[str], name: str | None = None) -> None:
    """Refuse NAME[=VALUE] texts of which two have one name: only the last would count.

    `name` gives the label `name`. Raises `InvalidTask`.
    """
    names = Counter(text.partition("=")[0] for text in texts)
    if name is not None and NAME in names:
        raise InvalidTask(f"{option}: the option name sets the label {NAME} too; give one of them")
    for one, times in names.items():
        if times > 1:
            raise InvalidTask(f"{option}: {one} is given twice; give it once")


def start_of(text: str) -> WallTime:
    """Return the time of a start: a date, or the next time of a day.

    Raises ValueError with the remedy.
    """
    now = wall_clock()
    try:
        moment = coming(text, now)
    except (ValueError, OverflowError):
        remedy = 'write a time of the day, e.g. "23:00", or a date, e.g. "2026-08-01T06:00"'
        raise ValueError(f"{text!r} is not a time; {remedy}") from None
    if moment < now:
        raise ValueError(f"{text!r} is over; leave it out, or write a time to come")
    if moment - now > limits.LONGEST:
        raise ValueError(f"{text!r} is more than {limits.LONGEST} from now; write an earlier time")
    return moment


def pairs(option: str, texts: Iterable[str]) -> dict[str, str]:
    """Return NAME=VALUE texts as a mapping. Raises `InvalidTask`."""
    found = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise InvalidTask(f"{option}: {text!r} has no value; write {text}=VALUE")
        found[name] = value
    return found


def units(texts: Iterable[str]) -> dict[str, int]:
    """Return NAME[=N] texts as a mapping; a mere NAME takes one. Raises `InvalidTask`."""
    found = {}
    for text in texts:
        name, separator, many = text.partition("=")
        if separator and not (many.isascii() and many.isdigit() and len(many) < len(str(MOST)) + 1):
            raise InvalidTask(f"limit: {text!r} is not a limit; write {name}=N, or {name} for one")
        found[name] = int(many) if separator else 1
    return found


def variables(texts: Iterable[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return NAME=VALUE texts as a mapping; a mere NAME takes the caller's value."""
    found = {}
    for text in texts:
        name, separator, value = text.partition("=")
        check_variable(name)
        if not separator and name not in environ:
            raise InvalidTask(f"env: {name} is not set here; set it, or write {name}=VALUE")
        found[name] = value if separator else environ[name]
    return found


def _fields(line: bytes) -> dict[str, Any]:
    """Return a line's fields, each of its right type, without those that are null."""
    if len(line) > LONGEST:
        raise InvalidTask(f"is longer than {LONGEST} bytes; give each task a line of its own")
    try:
        raw = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        wrong = 'must be a JSON object, for example {"command": ["true"]}'
        raise InvalidTask(wrong + _made_of(line)) from None
    except UNREADABLE as error:
        raise InvalidTask(in_words(error, text=line) + _made_of(line)) from None
    fields = {}
    for written, value in raw.items():
        key = _ALSO.get(key := written.replace("-", "_"), key)
        if key not in _KINDS:
            raise InvalidTask(f"{written}: unknown key{did_you_mean(key, _KINDS) or _known()}")
        if key in fields:
            raise InvalidTask(f"{key}: is given twice; give it once")
        if bytes(value) != b"null":
            fields[key] = _value(key, value)
    return fields


def _made_of(line: bytes) -> str:
    """Return how to make lines of other input: of an array, or of JSON and shell."""
    match line.lstrip()[:1]:
        case b"{" | b'"':
            return ""
        case b"[":
            return "; make a line of each item: jq -c '.[]' FILE"
    return "; the lines before are JSON: submit lines of shell in a file of their own"


def _known() -> str:
    return f"; known are: {', '.join(_KINDS)}"


def _value(key: str, raw: msgspec.Raw) -> Any:
    value = None
    try:
        if _KINDS[key] is msgspec.Raw:
            return raw
        value = msgspec.json.decode(raw)
        return msgspec.convert(value, _KINDS[key])
    except UNREADABLE as error:
        choices = list(_KINDS[key]) if isinstance(_KINDS[key], type(Liveness)) else ()
        wrong = f"{key}: {in_words(error, value, choices=choices, text=bytes(raw))}"
        if key == "command" and isinstance(value, str):
            from dispatcher.cli import render  # noqa: PLC0415 - only mistakes pay for it

            words = ["sh", "-c", value] if " " in value else [value]
            wrong += f"; write {render.short(msgspec.json.encode(words).decode())}"
        raise InvalidTask(wrong) from None


def _options(fields: dict[str, Any], environ: Mapping[str, str]) -> TaskOptions:
    """Return a line's fields as the options of the command line."""
    if {"at", "delay"} <= fields.keys():
        raise InvalidTask("at: delay sets when the task starts too; give one of them")
    for key in fields.keys() & {"at", *_DURATIONS}:
        try:
            if key == "at":
                fields["start_at"] = start_of(fields.pop(key))
            else:
                fields[f"{key}_ms"] = durations.parse(fields.pop(key))
        except ValueError as error:
            raise InvalidTask(f"{key}: {error}") from None
    if "payload" in fields:
        try:
            fields["payload"] = bytes(fields["payload"]).decode()
        except UnicodeDecodeError:
            raise InvalidTask("payload: is not UTF-8; encode it so") from None
    if isinstance(fields.get("env"), list):
        fields["env"] = variables(fields["env"], environ)
    for key in fields.keys() & {"label", "require"}:
        given = fields.pop(key)
        fields[f"{key}s"] = pairs(key, given) if isinstance(given, list) else given
    if "limit" in fields:
        given = fields.pop("limit")
        fields["limits"] = units(given) if isinstance(given, list) else given
    return cast("TaskOptions", fields)
