"""The whole store: one SQL text, on any engine."""

from dispatcher.store.api import Store
from dispatcher.store.operators import SqlOperator
from dispatcher.store.submits import SqlSubmitter
from dispatcher.store.supervision import SqlSupervisor


class SqlStore(SqlSubmitter, SqlOperator, SqlSupervisor):
    """`Store` on an engine."""

    def close(self) -> None:
        self.bell.close()
        self.engine.close()


fits: type[Store] = SqlStore
