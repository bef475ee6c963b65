"""The servers that answer: nginx for speed, the delay server for latency. Loopback only."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Final

from benchmarks.environments import ROOT, interpreter
from benchmarks.scenes import BIG_BODY_SIZE, JSON_BODY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

STARTUP_SECONDS: Final = 10

NGINX_CONFIG: Final = Template("""\
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid $folder/nginx.pid;
error_log stderr error;
events {
    worker_connections 8192;
}
http {
    access_log off;
    sendfile on;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    client_body_temp_path $folder/client_body;
    proxy_temp_path $folder/proxy;
    fastcgi_temp_path $folder/fastcgi;
    uwsgi_temp_path $folder/uwsgi;
    scgi_temp_path $folder/scgi;
    server {
        listen 127.0.0.1:$port backlog=4096;
        root $folder;
        location = /json {
            default_type application/json;
            return 200 '$body';
        }
    }
}
""")


class ServerMissing(Exception):
    """A server the benchmarks need is not installed or did not start."""


@contextmanager
def nginx(files: Sequence[Path] = ()) -> Iterator[str]:
    """Run nginx with one worker and a generated configuration in a temporary folder.

    Args:
        files: More files to serve, each under its name.

    Yields:
        The base URL: `/json` answers 66 bytes, `/1MiB` a file of 1 MiB.

    Raises:
        ServerMissing: nginx is not installed, or stopped right away.
    """
    program = shutil.which(
        "nginx", path="/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/bin:/opt/homebrew/bin"
    )
    if program is None:
        raise ServerMissing(
            "nginx is not installed; try: apt-get install nginx-light (or: brew install nginx)"
        )
    with tempfile.TemporaryDirectory(prefix="benchmark-nginx-") as name:
        folder = Path(name)
        # Started by root, nginx serves as nobody, who has to get in.
        folder.chmod(0o755)
        (folder / "1MiB").write_bytes(b"x" * BIG_BODY_SIZE)
        for file in files:
            shutil.copy(file, folder)
        port = _free_port()
        config = folder / "nginx.conf"
        config.write_text(NGINX_CONFIG.substitute(folder=folder, port=port, body=JSON_BODY.decode()))
        command = [program, "-e", "stderr", "-p", name, "-c", str(config)]
        with _running(command, stderr=subprocess.PIPE) as process:
            _wait_until_listening(process, port)
            yield f"http://127.0.0.1:{port}"


@contextmanager
def delay_server() -> Iterator[str]:
    """Run the delay server in its own environment.

    Yields:
        The base URL; every path answers 100 ms late.

    Raises:
        ServerMissing: It stopped right away.
    """
    command = [str(interpreter("delay-server")), "-m", "benchmarks.delay_server"]
    with _running(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        if not port:
            raise ServerMissing("the delay server stopped right away")
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _running(
    command: list[str], *, stdout: int | None = None, stderr: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, cwd=ROOT, stdout=stdout, stderr=stderr, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def _wait_until_listening(process: subprocess.Popen[str], port: int) -> None:
    until = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            assert process.stderr is not None
            raise ServerMissing(f"nginx stopped right away: {process.stderr.read().strip()}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
        else:
            return
    raise ServerMissing(f"nginx does not listen on port {port} after {STARTUP_SECONDS} s")
