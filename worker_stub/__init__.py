"""The worker's half of the dispatcher: standard library only.

from worker_stub import Worker
"""

from worker_stub.worker import Refused as Refused
from worker_stub.worker import Worker as Worker
