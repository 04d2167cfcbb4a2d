"""Hooks: the profile of docs/operations.md posts what happens, signed, until it is taken."""

import hmac
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from tests.e2e.world import World
from tests.eventually import eventually

SCRIPT = Path(__file__).parents[2] / "docs" / "post-event.sh"


class Receiver(HTTPServer):
    """Keeps what is posted to it; refuses the first request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.posts: list[tuple[bytes, str | None]] = []


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server: Any = self.server
        server.posts.append((body, self.headers["X-Hub-Signature-256"]))
        self.send_response(503 if len(server.posts) == 1 else 204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_what_happens_is_posted_with_a_signature_again_until_it_is_taken(world: World) -> None:
    secrets = world.directory / "hooks.env"
    with receiver() as server:
        secrets.write_text(f"SECRET=s3 cret\nURL=http://127.0.0.1:{server.server_port}/x\n")
        secrets.chmod(0o600)
        post = {"command": ["sh", str(SCRIPT)], "env_file": str(secrets), "queue": "hooks"}
        world.configure(**{"profiles.post": post, "hooks": {"failed": "post", "held": "post"}})
        with world.daemon():
            failing = world.submit("sh", "-c", "exit 3", max_attempts=1, name="Bücher")
            world.until(failing, "failed")
            hook = world.until(failing + 1, "succeeded")
            held = world.submit("true", delay="1h")
            world.cli("hold", held, "--reason", "wrong input")
            world.until(held + 1, "succeeded")

        (first, again, other) = eventually(lambda: server.posts)
    assert first == again
    body, signature = first
    expected = hmac.new(b"s3 cret", body, "sha256").hexdigest()
    assert f"sha256={expected}" == signature
    event = json.loads(body)
    assert ("failed", failing, 3, "Bücher") == (
        event["event"],
        event["task_id"],
        event["exit_code"],
        event["name"],
    )
    assert ("held", "wrong input") == (
        json.loads(other[0])["event"],
        json.loads(other[0])["reason"],
    )
    assert (["failed", "succeeded"], "hook:failed") == (
        [run["outcome"] for run in hook["runs"]],
        hook["origin"],
    )


def test_a_hook_that_can_make_no_task_is_reported_and_changes_nothing_else(world: World) -> None:
    post = {"command": ["true"], "env_file": str(world.directory / "missing.env")}
    world.configure(**{"profiles.post": post, "hooks": {"failed": "post"}})
    with world.daemon() as daemon:
        failing = world.submit("false", max_attempts=1)
        world.until(failing, "failed")
        refused = daemon.expect("hook.refused", hook="failed", profile="post", task_id=failing)

    assert "missing.env" in refused["error"]
    assert [(1,)] == world.stored("SELECT count(*) FROM tasks")
