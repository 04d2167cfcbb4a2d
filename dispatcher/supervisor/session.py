"""Who a daemon is among others on a shared store."""

from msgspec import Struct


class NodeSession(Struct, frozen=True, kw_only=True):
    """A daemon on a shared store, and what distinguishes its host from others of its identity."""

    uid: str
    """Random, so new with each daemon."""
    boot_id: str
    pid_namespace: str
    state_dir: str

    @property
    def remedy(self) -> str:
        """What makes this state directory a node of its own."""
        return (
            f"to use both, delete {self.state_dir}/node-id and {self.state_dir}/executor.journal"
            " here, where nothing that this node started may still run, and start this daemon again"
        )
