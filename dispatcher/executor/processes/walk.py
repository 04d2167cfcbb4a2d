"""A walk through the tree of one run, in parts that fit into a tick."""

from collections.abc import Callable

from dispatcher.executor.system.kernel import Kernel
from dispatcher.executor.system.procfs import Identity, Process
from dispatcher.times import Instant

#: Processes that all walks together look at in one tick, and that are signalled in it. A look takes
#: 20 to 200 us.
LOOKS_PER_TICK = 128

#: The same of one run, however many runs end in the tick: a tree of a few processes needs no more.
LEAST_SHARE = 8


class Walk:
    """Finds each process of a tree once, parents before their children.

    It continues where it stopped, and ends whatever the tree forks meanwhile: it lists the children
    only of processes that are older than the walk, and there is a limited number of those. It finds
    the younger ones as children, and the next walk lists theirs. `stop` is called with each process
    before its children are listed: a stopped process gets no more of them.
    """

    def __init__(
        self, kernel: Kernel, at: Instant, stop: Callable[[Process], None] | None = None
    ) -> None:
        self._kernel = kernel
        self._stop = stop
        self.began_at = at
        self._began = kernel.ticks()
        self.found: list[Process] = []
        self.passed = 0
        """How many of `found`, from the front, have had all their children looked at."""
        self.signalled = 0
        """How many of those had their turn to be signalled."""
        self.group_signalled = False
        self.held_up = False
        """The host was short of what the last signal needed: it is tried again."""
        self.whole = False
        self.parts = 0
        """In how many ticks it has gone on."""
        self._identities: set[Identity] = set()
        self._pids: set[int] = set()
        self._own: list[int] = []
        self._takes_left = 2
        self._children: list[int] | None = None

    @property
    def found_at_once(self) -> bool:
        """Whether one tick sufficed to find the whole tree."""
        return self.whole and self.parts <= 1

    def go_on(self, own: Callable[[], list[int]], looks: int) -> list[Process]:
        """Look at so many more processes; return those it found.

        `own` returns our own children that are known to be of the run by now. It is called at the
        beginning, and again at the end: a parent that has died since left us its children.
        """
        self.parts += 1
        before = len(self.found)
        while looks > 0 and not self.whole:
            if self._own:
                looks -= self._look_at_own(looks)
            elif self.passed < len(self.found):
                looks -= self._look_below(self.found[self.passed], looks)
            elif self._takes_left:
                self._takes_left -= 1
                self._own = [pid for pid in own() if pid not in self._pids]
            else:
                self.whole = True
        return self.found[before:]

    def take(self, most: int, group: int | None) -> list[Process]:
        """Return the next to be signalled, each once: its children are found already.

        `most` limits those outside `group`, which is signalled by one call.
        """
        begin, self.held_up = self.signalled, False
        while self.signalled < self.passed and most > 0:
            most -= self.found[self.signalled].group != group
            self.signalled += 1
        return self.found[begin : self.signalled]

    def give_back(self, number: int) -> None:
        """Return the last `number` that were taken, to be taken again later."""
        self.signalled -= number
        self.held_up = True

    def signal_children_first(self) -> None:
        """Reverse the order of a whole walk.

        A stopped group that loses its last parent outside gets SIGCONT from the kernel.
        """
        self.found.reverse()

    def _look_at_own(self, looks: int) -> int:
        """Look at children of ours: they may have left their group and session since."""
        pids, self._own = self._own[:looks], self._own[looks:]
        for pid in pids:
            if (process := self._kernel.look(pid)) is not None:
                self._find(process._replace(parent=self._kernel.pid))
        return len(pids)

    def _look_below(self, parent: Process, looks: int) -> int:
        """Look at children of `parent`; it is passed when there are no more of them."""
        used = 0
        if self._children is None:
            if self._stop is not None:
                self._stop(parent)
            young = parent.start_ticks > self._began
            self._children = [] if young else self._kernel.children(parent.pid)
            used = 1
        pids, self._children = self._children[: looks - used], self._children[looks - used :]
        if pids:
            children = [self._kernel.look(pid) for pid in pids]
            # If the parent is still itself, they were listed as its children; if they still name
            # it as their parent, they are.
            now = self._kernel.look(parent.pid)
            if now is None or now.start_ticks != parent.start_ticks:
                children, self._children = [], []
            for child in children:
                if child is not None and (child.opaque or child.parent == parent.pid):
                    self._find(child._replace(parent=parent.pid))
        if not self._children:
            self._children = None
            self.passed += 1
        return used + len(pids)

    def _find(self, process: Process) -> None:
        if process.identity not in self._identities:
            self._identities.add(process.identity)
            self._pids.add(process.pid)
            self.found.append(process)
