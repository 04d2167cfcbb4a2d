"""The store of the configuration that the command line names."""

from pathlib import Path

from dispatcher.cli.configuration import config_as_owner
from dispatcher.client import Client
from dispatcher.config.config import Config
from dispatcher.errors import ConfigError
from dispatcher.store.open import database_path


def database_of(config: Config) -> Path:
    path = database_path(config.store_url)
    if path is None:
        raise ConfigError(
            "store.url names a server, and this is for a database file; use the server's own tools:"
            f" pg_dump --schema={config.store_schema}, and to restore pg_restore, then"
            " `dispatcher restore` without a file"
        )
    return path


def open_client() -> Client:
    """Open the store, for verbs that need nothing of the configuration but its places."""
    return Client(config_as_owner(whole=False))
