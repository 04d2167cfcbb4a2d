"""The parts by which the executor reaches the outside of its process."""

from msgspec import Struct

from dispatcher.executor.notices import Notices
from dispatcher.executor.output.files import OutputFiles
from dispatcher.executor.reports import Reporter
from dispatcher.executor.server import Server
from dispatcher.executor.starting.spawn import Spawner
from dispatcher.executor.system.kernel import Kernel


class Outside(Struct, frozen=True):
    """Made once, before the executor; shared by its inner parts."""

    kernel: Kernel
    spawner: Spawner
    outputs: OutputFiles
    server: Server
    notices: Notices
    report: Reporter
