"""The sections and named tables of the configuration file, and their keys."""

from functools import cache
from typing import get_args, get_origin

import msgspec

from dispatcher.config.section import Section
from dispatcher.config.settings import Settings


@cache
def sections() -> dict[str, type[Section]]:
    """Return the type of each section that is written under its own name."""
    every = {field.name: field.type for field in msgspec.structs.fields(Settings)}
    return {name: kind for name, kind in every.items() if name not in named_tables()}


@cache
def named_tables() -> dict[str, type[Section]]:
    """Return the type of the tables `[section.NAME]`, for sections of named tables."""
    every = {field.name: field.type for field in msgspec.structs.fields(Settings)}
    return {name: get_args(kind)[1] for name, kind in every.items() if get_origin(kind) is dict}


def key_types(section: type[Section]) -> dict[str, object]:
    return {field.encode_name: field.type for field in msgspec.structs.fields(section)}
