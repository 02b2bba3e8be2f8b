"""Builds whose only way out is the index: what passes, what does not, and who is told what."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import pytest

from actors.images import BuildFailed
from actors.images.index_network import allowed_hosts
from actors.settings import BuildSettings
from events.work import FailureClass
from tests.engine_fixtures import TestBench
from tests.images.contexts import bare_context

VENV = "python3 -m venv /tmp/v && /tmp/v/bin/pip install --retries 0"


def test_allowed_are_the_indexes_their_files_the_mirrors_and_what_is_named() -> None:
    plain = allowed_hosts(BuildSettings())
    assert {("pypi.org", 443), ("files.pythonhosted.org", 443), ("deb.debian.org", 80)} <= plain
    own = BuildSettings(
        index_url="http://Index.Example:8080/simple",
        extra_index_urls=["https://more.example/simple"],
        debian_mirror="http://mirror.example/debian",
        index_hosts=["files.example", "other.example:8443"],
    )
    allowed = allowed_hosts(own)
    assert {("index.example", 8080), ("more.example", 443), ("mirror.example", 80)} <= allowed
    assert {("files.example", 443), ("files.example", 80), ("other.example", 8443)} <= allowed
    assert not {("index.example", 443), ("other.example", 443), ("pypi.org", 443), ("", 80)} & allowed


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    """A web server on all addresses of this host that answers every request with its path."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"page {self.path} for {self.headers['Host']}\n".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Keeps the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


@pytest.fixture
def only_index(bench: TestBench) -> BuildSettings:
    return msgspec.structs.replace(bench.settings, network="index")


@pytest.mark.engine
def test_pip_and_apt_reach_the_index_and_the_mirror(bench: TestBench, only_index: BuildSettings) -> None:
    project = bench.project()
    order = bench.order(project, project.commit({"a": "1"}))
    steps = [f"RUN {VENV} tabulate==0.9.0 && /tmp/v/bin/python -c 'import tabulate; print(tabulate.__file__)'"]
    steps += ["RUN apt-get update -q && apt-get install -y -q --no-install-recommends hello && hello"]
    built, output = bench.build(order, bare_context(*steps), settings=only_index)
    assert "site-packages/tabulate" in output
    assert "Hello, world!" in output
    _, left = bench.run(built.image_id, "env")
    assert "proxy" not in left.lower()


@pytest.mark.engine
@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            f"{VENV} --index-url https://elsewhere.example/simple tabulate",
            "asked for elsewhere.example:443, which is no index or mirror",
        ),
        ("git clone https://github.com/python/cpython", "403.*asked for github.com:443"),
        (
            "env -u https_proxy -u HTTPS_PROXY -u http_proxy -u HTTP_PROXY python3 -c "
            "\"import urllib.request as u; u.urlopen('https://pypi.org/simple/')\"",
            "Temporary failure in name resolution",
        ),
        (
            "python3 -c \"import socket; socket.create_connection(('1.1.1.1', 443), timeout=3)\"",
            "TimeoutError|unreachable|timed out",
        ),
    ],
)
def test_everything_else_is_refused_and_the_recipe_answers_for_it(
    bench: TestBench, only_index: BuildSettings, command: str, words: str
) -> None:
    project = bench.project()
    order = bench.order(project, project.commit({"a": "1"}))
    with pytest.raises(BuildFailed, match=words) as caught:
        bench.build(order, bare_context(f"RUN {command}"), settings=only_index)
    assert caught.value.failure_class is FailureClass.RECIPE


@pytest.mark.engine
def test_plain_requests_go_to_named_hosts_and_to_no_other_port_of_them(
    bench: TestBench, only_index: BuildSettings, server: ThreadingHTTPServer
) -> None:
    port = server.server_address[1]
    settings = msgspec.structs.replace(only_index, index_hosts=[f"localhost:{port}"])
    project = bench.project()
    order = bench.order(project, project.commit({"a": "1"}))
    fetch = "import os, urllib.request as u; os.environ['no_proxy'] = ''; print(u.urlopen(u.Request('{}')).read())"
    wanted = fetch.format(f"http://localhost:{port}/a/b?c=d")
    refused = fetch.format(f"http://localhost:{port + 1}/")
    with pytest.raises(BuildFailed, match="403"):
        bench.build(order, bare_context(f'RUN python3 -c "{wanted}"', f'RUN python3 -c "{refused}"'), settings=settings)
    assert f"page /a/b?c=d for localhost:{port}" in bench.output(order)
