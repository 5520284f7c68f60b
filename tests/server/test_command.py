"""`activestore serve` as its operators meet it: what it says, what it refuses, how it starts and how it stops."""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
import urllib3

from activestore import Active
from activestore.cli import main as cli
from activestore.cli import serve as serving
from activestore.errors import BackendUnavailableError, ConfigurationError
from activestore.server.command import settings_of
from activestore.server.settings import ServerSettings

TOKEN = "correct-horse-battery"  # noqa: S105  # of the tests
SECONDS = 30


def refused(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """What `activestore serve` says where it does not start: one line, with the exit code of wrong usage."""
    try:
        code = cli.main(["serve", *options])
    except SystemExit as end:  # argparse's own
        code = end.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("activestore: error: ")
    assert err.count("\n") == 1
    return err.removeprefix("activestore: error: ").rstrip()


def parsed(*options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    serving.add_serve(parser)
    return parser.parse_args(options)


def read(*options: str) -> ServerSettings:
    return settings_of(parsed(*options))


@dataclass
class Started:
    """A server in a process of its own."""

    url: str
    process: subprocess.Popen[str]
    said: list[str]
    """Its lines before the address."""

    def get(self, path: str, *, ca_file: Path | None = None, **headers: str) -> urllib3.BaseHTTPResponse:
        trusted = None if ca_file is None else str(ca_file)
        with urllib3.PoolManager(ca_certs=trusted, retries=False, timeout=SECONDS) as http:
            return http.request("GET", self.url + path, headers=headers)

    def end(self, *signals: int) -> tuple[int, str]:
        """Its exit code, and what else it said."""
        for number in signals:
            self.process.send_signal(number)
            time.sleep(0.1)
        code = self.process.wait(SECONDS)
        return code, self.process.stderr.read()


@contextmanager
def started(*options: str, **environment: str) -> Iterator[Started]:
    command = [sys.executable, "-m", "activestore", "serve", "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment) as process:
        try:
            lines = list(iter_until_address(process))
            address = re.fullmatch(r"activestore: serving on (https?://\S+:\d+); Ctrl-C stops\n", lines[-1])
            assert address is not None, lines
            yield Started(address[1], process, lines[:-1])
        finally:
            process.kill()


def iter_until_address(process: subprocess.Popen[str]) -> Iterator[str]:
    for line in process.stderr:
        yield line
        if "serving on" in line:
            return


class TestRefused:
    def test_nothing_to_read(self, capsys):
        assert "--root" in refused(capsys)
        assert "--allow-origin" in refused(capsys)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ("--memory 12x", "--memory 12x: is no size; write 256MiB, say"),
            ("--max-chunk lots", "--max-chunk lots: is no size; write 256MiB, say"),
            ("--cache=-1GiB", "--cache -1GiB: is no size; write 256MiB, say"),
            ("--memory 1.5GiB", "--memory 1.5GiB: is no size; write 256MiB, say"),
            ("--cache 1iB", "--cache 1iB: is no size; write 256MiB, say"),
            ("--memory 0", "--memory 0: give 64KiB or more"),
            ("--max-chunk 0", "--max-chunk 0: give 64KiB or more"),
            ("--max-request 1000", "--max-request 1000: give 64KiB or more"),
            ("--cache 100", "--cache 100: give 64KiB or more"),
            ("--workers 0", "--workers 0: give a whole number from 1 up"),
            ("--readers -3", "--readers -3: give a whole number from 1 up"),
            ("--queue -1", "--queue -1: give a whole number from 0 up"),
            ("--grace -1", "--grace -1: give a whole number from 0 up"),
            ("--workers many", "argument --workers: invalid int value: 'many'; see activestore serve --help"),
            ("--port 70000", "--port 70000: give a number from 0 to 65535"),
            ("--port -1", "--port -1: give a number from 0 to 65535"),
            ("--port http", "argument --port: invalid int value: 'http'; see activestore serve --help"),
            ("--host nosuch.invalid", "cannot listen on 'nosuch.invalid', port 8080: "),
            ("--host 192.0.2.1", "cannot listen on '192.0.2.1', port 8080: "),
            ("--host ''", "cannot listen on '', port 8080: "),
            ("--nonsense", "there is no option --nonsense; see "),
        ],
    )
    def test_options_that_mean_nothing(self, capsys, tmp_path, options, said):
        assert refused(capsys, "--root", str(tmp_path), *shlex.split(options)).startswith(said)

    def test_a_port_that_is_taken(self, capsys, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            said = refused(capsys, "--root", str(tmp_path), "--port", str(port))
        assert said == f"cannot listen on '127.0.0.1', port {port}: Address already in use; choose another"

    @pytest.mark.parametrize(
        ("origin", "said"),
        [
            ("store.example", "https://host:port"),
            ("ftp://store.example", "https://host:port"),
            ("https://", "https://host:port"),
            ("https://store.example:99999", "no such port"),
            ("https://store.example/?list-type=2", "it has a query"),
            ("https://key:hunter2@store.example", "no user, password"),
            ("http://169.254.169.254", "a link-local address"),
            ("http://[fd00:ec2::254]", "a cloud's metadata"),
            ("http://0.0.0.0:9000", "an unspecified address"),
            ("https://store.example/a/../b", "'..'"),
        ],
    )
    def test_origins_that_are_none_or_never_read(self, capsys, origin, said):
        text = refused(capsys, "--allow-origin", origin)
        assert said in text
        assert "hunter2" not in text

    def test_folders_and_files_that_are_not_there(self, capsys, tmp_path):
        (tmp_path / "file").touch()
        root = ("--root", str(tmp_path))
        assert "is no folder" in refused(capsys, "--root", str(tmp_path / "missing"))
        assert "is no folder" in refused(capsys, "--root", str(tmp_path / "file"))
        assert "--ca-bundle missing: there is no such file" in refused(capsys, *root, "--ca-bundle", "missing")
        assert "no certificates" in refused(capsys, *root, "--ca-bundle", str(tmp_path / "file"))


class TestCertificates:
    @pytest.fixture
    def pair(self, tmp_path):
        issued = trustme.CA().issue_cert("localhost")
        issued.private_key_pem.write_to_path(tmp_path / "key.pem")
        issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
        return str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")

    @pytest.mark.parametrize("half", ["--tls-cert", "--tls-key"])
    def test_half_of_the_pair(self, capsys, pair, tmp_path, half):
        assert refused(capsys, "--root", str(tmp_path), half, pair[0]) == "--tls-cert and --tls-key go together"

    def test_a_file_that_is_not_there(self, capsys, pair, tmp_path):
        said = refused(capsys, "--root", str(tmp_path), "--tls-cert", pair[0], "--tls-key", "missing.pem")
        assert said == "--tls-key missing.pem: there is no such file"

    def test_files_that_are_no_pair(self, capsys, pair, tmp_path):
        other = trustme.CA().issue_cert("localhost")
        other.private_key_pem.write_to_path(tmp_path / "other.pem")
        (tmp_path / "text.pem").write_text("nothing of the kind")
        for cert, key in (
            (pair[0], tmp_path / "other.pem"),
            (tmp_path / "text.pem", pair[1]),
            (pair[0], tmp_path / "text.pem"),
        ):
            said = refused(capsys, "--root", str(tmp_path), "--tls-cert", str(cert), "--tls-key", str(key))
            assert "are no certificate and its key" in said

    def test_a_key_with_a_password_is_refused_and_none_is_asked_for(self, capsys, pair, tmp_path):
        from cryptography.hazmat.primitives import serialization as pem

        key = pem.load_pem_private_key(Path(pair[1]).read_bytes(), None)
        locked = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.BestAvailableEncryption(b"hunter2"))
        (tmp_path / "locked.pem").write_bytes(locked)
        said = refused(capsys, "--root", str(tmp_path), "--tls-cert", pair[0], "--tls-key", str(tmp_path / "locked.pem"))
        assert "without a password" in said


class TestToken:
    def test_it_comes_from_a_file_or_from_the_environment(self, tmp_path, monkeypatch):
        root, file = ("--root", str(tmp_path)), tmp_path / "token"
        assert read(*root).token is None
        file.write_text(f"{TOKEN}\n")
        assert read(*root, "--token-file", str(file)).token == TOKEN
        monkeypatch.setenv("ACTIVESTORE_SERVE_TOKEN", TOKEN[::-1])
        assert read(*root).token == TOKEN[::-1]
        assert read(*root, "--token-file", str(file)).token == TOKEN
        assert TOKEN not in repr(read(*root, "--token-file", str(file)))

    @pytest.mark.parametrize(
        "token", ["", "fifteen-letters", "with a space in it", "with\nlines-in-it-and-more", "größer-als-alles-andere"]
    )
    def test_one_that_can_be_guessed_or_not_be_sent_is_refused_and_not_shown(self, capsys, tmp_path, monkeypatch, token):
        file = tmp_path / "token"
        file.write_text(token, encoding="utf-8")
        said = refused(capsys, "--root", str(tmp_path), "--token-file", str(file))
        assert said == f"--token-file {file}: a token has 16 characters or more, and no spaces"
        monkeypatch.setenv("ACTIVESTORE_SERVE_TOKEN", token)
        said = refused(capsys, "--root", str(tmp_path))
        assert said == "ACTIVESTORE_SERVE_TOKEN: a token has 16 characters or more, and no spaces"

    def test_a_file_that_cannot_be_read(self, capsys, tmp_path):
        (tmp_path / "binary").write_bytes(b"\xff" * 20)
        for name in ("missing", "binary", "."):
            said = refused(capsys, "--root", str(tmp_path), "--token-file", str(tmp_path / name))
            assert "cannot be read" in said


class TestSettings:
    def test_what_is_not_said_is_the_default(self, tmp_path):
        assert read("--root", str(tmp_path)) == ServerSettings(roots=(tmp_path,))

    def test_all_of_it(self, tmp_path):
        (tmp_path / "ca.pem").touch()
        given = f"--root {tmp_path} --root / --allow-origin https://a --allow-origin http://b:1/c --ca-bundle {tmp_path}/ca.pem"
        given += " --workers 3 --readers 4 --queue 0 --memory 1GiB --max-chunk 2MB --max-request 100k --cache 1TiB --v1"
        assert read(*given.split()) == ServerSettings(
            roots=(tmp_path, Path("/")),
            origins=("https://a", "http://b:1/c"),
            verify=f"{tmp_path}/ca.pem",
            workers=3,
            readers=4,
            queue=0,
            memory=1 << 30,
            largest_chunk=2_000_000,
            largest_request=100_000,
            cache=1 << 40,
            v1=True,
        )

    @pytest.mark.parametrize(
        ("text", "nbytes"),
        [
            ("65536", 65536),
            ("64KiB", 65536),
            ("64 kib", 65536),
            ("64ki", 65536),
            ("100kB", 100_000),
            ("1m", 10**6),
            ("2G", 2 * 10**9),
        ],
    )
    def test_sizes(self, text, nbytes):
        assert read("--root", ".", "--memory", text).memory == nbytes

    def test_no_cache_can_be_said(self):
        assert read("--root", ".", "--cache", "0").cache == 0

    def test_digits_are_ascii(self):
        with pytest.raises(ConfigurationError):
            read("--root", ".", "--memory", "٦٤MiB")


class TestPackages:
    def test_those_that_are_missing_are_named(self, capsys, monkeypatch):
        found = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("starlette", "uvicorn") else found(name))
        assert cli.main(["serve", "--root", "."]) == 1
        said = capsys.readouterr().err
        assert said == "activestore: error: serve needs starlette, uvicorn: pip install '.[server]' in a clone of activestore\n"

    def test_every_one_that_the_server_imports_is_looked_for(self):
        code = (
            "import sys; from activestore.cli.main import main; before = set(sys.modules);"
            "import activestore.server.command; print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS, check=True)
        new = set(done.stdout.split()) & set(importlib.metadata.packages_distributions())
        wanted = {name for name in new if not name.startswith("_")} - {"activestore", "numpy"}
        direct = {"botocore", "cbor2", "httptools", "prometheus_client", "starlette", "urllib3", "uvicorn"}
        assert direct <= wanted
        assert direct == set(serving._NEEDED)


class TestHelp:
    @pytest.fixture
    def text(self, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "100")
        with pytest.raises(SystemExit) as end:
            cli.main(["serve", "--help"])
        assert end.value.code == 0
        return capsys.readouterr().out

    def test_every_option_says_what_it_does(self, text):
        parser = argparse.ArgumentParser()
        serving.add_serve(parser)
        for action in parser._actions:
            assert action.help, action.dest
            assert action.option_strings[-1] in text

    def test_defaults_that_are_shown_are_the_true_ones(self, text):
        settings, flat = ServerSettings(), " ".join(text.split())
        for said, value in (
            (r"--readers N reads from origins at once \((\d+)\)", settings.readers),
            (r"--queue N .*?come back \((\d+)\)", settings.queue),
            (r"--memory SIZE .*?, (\d+)MiB at least\)", ServerSettings(workers=1).chunk_memory >> 20),
            (r"--memory SIZE .*? \((\d+)MiB for each", (ServerSettings(workers=100).chunk_memory >> 20) // 100),
            (r"--max-chunk SIZE .*? \((\d+)MiB\)", settings.largest_chunk >> 20),
            (r"--max-request SIZE .*? \((\d+)MiB\)", settings.largest_request >> 20),
            (r"--port PORT .*? \((\d+)\)", parsed().port),
            (r"--grace SECONDS .*? \((\d+)\)", parsed().grace),
        ):
            assert re.search(said, flat)[1] == str(value)
        assert f"({parsed().host}:" in flat
        assert settings.cache == 0

    def test_its_examples_are_understood(self, text):
        lines = re.findall(r"^  activestore serve (.*?)(?:  .*)?$", text, re.MULTILINE)
        assert len(lines) == 4
        for line in lines:
            given = parsed(*shlex.split(line))
            assert given.root or given.allow_origin

    def test_it_names_what_operators_look_for(self, text):
        for word in ("/healthz", "/metrics", "SIGTERM", "PyActiveStorage", "ACTIVESTORE_SERVE_TOKEN"):
            assert word in text


@pytest.fixture
def data(tmp_path):
    (tmp_path / "tas.nc").write_bytes(Path("docs/tas.nc").read_bytes())
    return tmp_path


class TestRunning:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_it_starts_answers_and_stops(self, data, number):
        with started("--root", str(data)) as server:
            assert server.said == []
            assert server.url.startswith("http://127.0.0.1:")
            assert server.get("/healthz").data == b"ok\n"
            near = Active(data / "tas.nc", "tas", backend="reductionist", server=server.url).run(["mean", "std"])
            here = Active(data / "tas.nc", "tas").run(["mean", "std"])
            assert near.values == here.values
            assert near.report.where == {"reductionist": 2}
            began = time.monotonic()
            code, said = server.end(number)
            assert time.monotonic() - began < 5
        assert code == 0
        lines = [json.loads(line) for line in said.splitlines()]
        assert {line["status"] for line in lines if line["path"] == "/activestore/v1/reduce"} == {200}

    def test_it_stops_even_before_the_first_request(self, data):
        with started("--root", str(data)) as server:
            assert server.end(signal.SIGTERM) == (0, "")

    def test_a_second_one_cannot_have_its_port(self, data, capsys):
        with started("--root", str(data)) as server:
            port = server.url.rpartition(":")[2]
            assert "Address already in use" in refused(capsys, "--root", str(data), "--port", port)

    def test_the_access_log_can_be_left_out(self, data):
        with started("--root", str(data), "--no-access-log") as server:
            server.get("/healthz")
            assert server.end(signal.SIGTERM) == (0, "")

    def test_a_token_of_the_environment_is_asked_for(self, data):
        with started("--root", str(data), ACTIVESTORE_SERVE_TOKEN=TOKEN) as server:
            assert server.get("/healthz").data == b"ok\n"
            assert server.get("/metrics").status == 401
            shown = server.get("/metrics", Authorization=f"Bearer {TOKEN}").data
            assert b"activestore_requests_total" in shown
            assert b"_created" not in shown
            with pytest.raises(BackendUnavailableError, match="token"):
                Active(data / "tas.nc", "tas", backend="reductionist", server=server.url).mean()
            options = {"token": TOKEN}
            near = Active(data / "tas.nc", "tas", backend="reductionist", server=server.url, backend_options=options)
            assert near.mean() == Active(data / "tas.nc", "tas").mean()
            assert TOKEN not in server.end(signal.SIGTERM)[1]

    @pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
    def test_ipv6_has_brackets(self, data):
        with started("--root", str(data), "--host", "::1") as server:
            assert server.url.startswith("http://[::1]:")
            assert server.get("/healthz").data == b"ok\n"


class TestBeyondThisMachine:
    def test_what_is_open_to_everybody_is_said(self, data):
        with started("--root", str(data), "--host", "0.0.0.0") as server:  # noqa: S104  # that is what it warns of
            first, second = server.said
        assert first == "activestore: warning: who reaches 0.0.0.0 can use this server; --token-file closes it\n"
        assert "unencrypted; --tls-cert and --tls-key" in second

    def test_with_tls_and_a_token_nothing_is(self, data):
        authority = trustme.CA()
        issued = authority.issue_cert("localhost", "127.0.0.1")
        issued.private_key_and_cert_chain_pem.write_to_path(data / "both.pem")
        authority.cert_pem.write_to_path(data / "ca.pem")
        (data / "token").write_text(TOKEN)
        both = ("--tls-cert", str(data / "both.pem"), "--tls-key", str(data / "both.pem"))
        token = ("--token-file", str(data / "token"))
        with started("--root", str(data), "--host", "0.0.0.0", *both, *token) as server:  # noqa: S104
            assert server.said == []
            assert server.url.startswith("https://0.0.0.0:")
            server.url = server.url.replace("0.0.0.0", "localhost")  # noqa: S104
            trusting = ssl.create_default_context(cafile=data / "ca.pem")
            assert server.get("/healthz", ca_file=data / "ca.pem").data == b"ok\n"
            options = {"token": TOKEN, "verify": str(data / "ca.pem")}
            near = Active(data / "tas.nc", "tas", backend="reductionist", server=server.url, backend_options=options)
            assert near.mean() == Active(data / "tas.nc", "tas").mean()
            assert spoken(server, trusting, ssl.TLSVersion.TLSv1_3)[1] == "TLSv1.3"
            name, version, _ = spoken(server, trusting, ssl.TLSVersion.TLSv1_2)
            assert version == "TLSv1.2"
            assert name.startswith("ECDHE-")
            assert "GCM" in name or "CHACHA20" in name
            assert server.end(signal.SIGTERM)[0] == 0


def spoken(server: Started, context: ssl.SSLContext, version: ssl.TLSVersion) -> tuple[str, str, int]:
    """The cipher that a client of this version gets."""
    context.maximum_version = version
    port = int(server.url.rpartition(":")[2])
    raw = socket.create_connection(("localhost", port), timeout=SECONDS)
    with context.wrap_socket(raw, server_hostname="localhost") as connection:
        return connection.cipher()


def posted(url: str, body: dict[str, object]) -> int:
    """The status of an answer."""
    with urllib3.PoolManager(retries=False, timeout=SECONDS) as http:
        return http.request("POST", url, json=body).status


class TestStopping:
    """A request that waits for an origin that does not answer."""

    @contextmanager
    def stuck(self, *options: str) -> Iterator[tuple[Started, list[int], threading.Thread]]:
        with socket.create_server(("127.0.0.1", 0)) as dead:
            origin = f"http://127.0.0.1:{dead.getsockname()[1]}"
            with started("--allow-origin", origin, *options) as server:
                body: dict[str, object] = {"interface_type": "http", "url": f"{origin}/x.bin", "dtype": "float32"}
                statuses: list[int] = []
                asking = threading.Thread(target=lambda: statuses.append(posted(f"{server.url}/v2/sum", body)))
                asking.start()
                dead.settimeout(SECONDS)
                with dead.accept()[0]:
                    yield server, statuses, asking
                asking.join(SECONDS)

    def test_the_grace_ends_it(self):
        with self.stuck("--grace", "1") as (server, statuses, asking):
            began = time.monotonic()
            code, said = server.end(signal.SIGTERM)
            took = time.monotonic() - began
            asking.join(SECONDS)
        assert code == 0
        assert 0.9 < took < 10
        assert "still under way after 1 s is broken off" in said
        assert "Traceback" not in said
        assert statuses == [502]

    def test_a_second_interrupt_ends_it_at_once(self):
        with self.stuck() as (server, statuses, asking):
            began = time.monotonic()
            code, said = server.end(signal.SIGINT, signal.SIGINT)
            took = time.monotonic() - began
            asking.join(SECONDS)
        assert code == 0
        assert took < 10
        assert "Traceback" not in said
        assert statuses == [502]
