"""No-op tasks of Huey, for `peers.py`: `fill TASKS`, or `consume TASKS SLOTS`, printing seconds."""

import os
import sys
import threading
import time

from huey import SqliteHuey

huey = SqliteHuey(filename=os.environ["HUEY_DATABASE"], fsync=True)
ended = threading.Semaphore(0)


@huey.task()
def run() -> None:
    """Run a command, and wait for it."""
    os.waitpid(os.posix_spawn("/bin/true", ["/bin/true"], os.environ), 0)
    ended.release()


def main(verb: str, tasks: int, slots: int = 0) -> None:
    """Fill the queue, or run all that is in it."""
    if verb == "fill":
        for _ in range(tasks):
            run()
        return
    consumer = huey.create_consumer(workers=slots, periodic=False, initial_delay=0.001)
    begin = time.monotonic()
    consumer.start()
    for _ in range(tasks):
        ended.acquire()
    print(time.monotonic() - begin)
    consumer.stop(graceful=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
