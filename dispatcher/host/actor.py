"""The user of this process, as events name who did something (`events.Actor`)."""

import os
import re
from typing import Final

from dispatcher.host import owner

#: What a name may hold: what else the environment says is no name.
_NAME: Final = re.compile(r"[^\s:\0]{1,64}")


def acting_user() -> str:
    """Return the user who started this process, and who called sudo, as a text.

    Root who became the owner of a state directory is still root.
    """
    uid = os.getuid() if owner.became() is None else 0
    name = owner.name_of(uid)
    before = os.environ.get("SUDO_USER", "")
    is_other = before != name and _NAME.fullmatch(before) is not None
    return f"user:{uid}:{name}" + f":{before}" * is_other
