"""The agents that are known, by the name of their kind."""

from collections.abc import Mapping

from worker_stub.agent.facts import Kind
from worker_stub.agent.kinds import claude, codex, gemini, lines, opencode

KINDS: Mapping[str, Kind] = {
    "claude": claude.KIND,
    "codex": codex.KIND,
    "gemini": gemini.KIND,
    "opencode": opencode.KIND,
    "lines": lines.KIND,
}
