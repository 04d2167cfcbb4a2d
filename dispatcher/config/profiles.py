"""The profile that a submit names: usable, with a file of secrets that can be read."""

from dispatcher.config.config import Config
from dispatcher.config.task_settings import Profile
from dispatcher.errors import ConfigError, InvalidTask, did_you_mean


def named(config: Config, name: str) -> Profile:
    """Return a profile.

    Raises `InvalidTask` if there is none of this name, `ConfigError` if it or its `env_file` has a
    mistake: the task would run without what it needs.
    """
    if name in config.mistaken_profiles:
        raise ConfigError(
            f"profile: {name!r} has a mistake in {config.file}: dispatcher check-config names it"
        )
    if (profile := config.profiles.get(name)) is None:
        near = did_you_mean(name, config.profiles) or known(config)
        raise InvalidTask(f"profile: there is no {name!r}{near}")
    if profile.env_file is not None:
        from dispatcher.config import environment_file  # noqa: PLC0415 - few profiles have a file

        try:
            environment_file.check(profile.env_file)
        except ValueError as error:
            raise ConfigError(f"profile: the env_file of {name!r}: {error}") from None
    return profile


def known(config: Config) -> str:
    """Return the end of a message that lists the profiles."""
    return f"; known are: {', '.join(config.profiles) or 'none'}"
