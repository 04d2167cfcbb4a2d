"""The logger of the daemon's modules: structlog's own takes twice as long."""

from typing import Any

from structlog import BoundLoggerBase, DropEvent


class Logger(BoundLoggerBase):
    """Makes a line of an event by the processors. An event is no format, and takes no arguments."""

    def debug(self, event: str, **fields: object) -> None:
        self._write("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._write("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._write("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._write("error", event, fields)

    def exception(self, event: str, **fields: object) -> None:
        """Write an error with the exception that is being handled."""
        self._write("error", event, {"exc_info": True, **fields})

    def _write(self, level: str, event: str, fields: dict[str, object]) -> None:
        line: Any = {**self._context, **fields, "event": event}
        try:
            for process in self._processors:
                line = process(self._logger, level, line)
        except DropEvent:
            return
        self._logger.write(line)
