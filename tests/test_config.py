"""Settings from the file, the environment and keyword arguments; routes; and no secret where it could be seen."""

import json
import os
import pickle
import subprocess
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest

from activestore import Active, BackendRecord, Capabilities, config
from activestore.cli import main as cli
from activestore.cli import site as site_commands
from activestore.config import Settings, choose, config_file, resolve
from activestore.errors import BackendUnavailableError, ConfigurationError
from activestore.network.redaction import Secret
from activestore.plugins import Plugins
from activestore.testing.datasets import write_sample

URI = "s3://cmip6-a/tas.nc"
ROUTES = """
workers = 32
fallback = "error"
progress = true

[[route]]
match = "s3://cmip6-*"
backend = "reductionist"
server = "https://route.example"
storage_options = { endpoint_url = "https://store.example", anon = true }
backend_options = { timeout = 5, retries = 2 }

[[route]]
match = "s3://*"
server = "https://second.example"

[[route]]
match = "/data/*"
storage_options = { local = 1 }
"""


class Mine:
    """A backend that tells more of itself than it should."""

    name = "mine"
    capabilities = Capabilities()

    def __repr__(self):
        return "Mine(password='hunter2')"

    def reduce_chunk(self, task):
        raise AssertionError(task)

    def close(self):
        pass


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    """An environment without settings, and an empty file of them."""
    for name in list(os.environ):
        if name.startswith("ACTIVESTORE_") and not name.startswith("ACTIVESTORE_CACHE"):
            monkeypatch.delenv(name)
    (tmp_path / "config.toml").touch()
    monkeypatch.setenv("ACTIVESTORE_CONFIG", str(tmp_path / "config.toml"))


@pytest.fixture
def write(tmp_path):
    def write(text):
        (tmp_path / "config.toml").write_text(text, encoding="utf-8")
        return tmp_path / "config.toml"

    return write


@pytest.fixture
def setenv(monkeypatch):
    def setenv(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(f"ACTIVESTORE_{name}", value if isinstance(value, str) else json.dumps(value))

    return setenv


def everything_about(error):
    """What anybody who gets an error can see: message, causes, pickle and traceback."""
    chain = [error]
    while chain[-1].__cause__ or chain[-1].__context__:
        chain.append(chain[-1].__cause__ or chain[-1].__context__)
    parts = [str(vars(one)) + repr(one) + repr(pickle.dumps(one)) for one in chain]
    return "".join(parts) + "".join(traceback.format_exception(error))


def refusal(uri=URI, **given):
    with pytest.raises(ConfigurationError) as caught:
        resolve(uri, given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestPrecedence:
    def test_defaults(self):
        settings, storage_options = resolve(URI, {"workers": None})
        assert settings == Settings()
        assert (settings.backend, settings.server, settings.workers) == ("posix", None, None)
        assert (settings.fallback, settings.progress, storage_options) == ("local", False, {})

    def test_file_then_environment_then_keyword(self, write, setenv):
        path = write(ROUTES)
        settings, _ = resolve(URI, {})
        assert (settings.workers, settings.fallback, settings.progress) == (32, "error", True)
        assert settings.origins["workers"] == str(path)
        setenv(WORKERS="8", FALLBACK="local", PROGRESS="no")
        settings, _ = resolve(URI, {})
        assert (settings.workers, settings.fallback, settings.progress) == (8, "local", False)
        assert settings.origins["workers"] == "ACTIVESTORE_WORKERS"
        settings, _ = resolve(URI, {"workers": 2, "fallback": "error", "progress": True})
        assert (settings.workers, settings.fallback, settings.progress) == (2, "error", True)
        assert settings.origins["workers"] == "the keyword argument workers"

    def test_server(self, write, setenv):
        path = write(ROUTES)
        settings, _ = resolve(URI, {})
        assert settings.server == "https://route.example"
        assert settings.origins["server"] == f"route 1 (match 's3://cmip6-*') of {path}"
        setenv(SERVER="https://env.example")
        assert resolve(URI, {})[0].server == "https://env.example"
        assert resolve(URI, {"server": "https://key.example"})[0].server == "https://key.example"

    @pytest.mark.parametrize("name", ["storage_options", "backend_options"])
    def test_options_are_merged_key_by_key(self, name, write, setenv):
        write('[[route]]\nmatch = "*"\nbackend = "reductionist"\n' + name + " = { a = 1, b = 1, c = { x = 1, y = 1 } }")
        setenv(**{name.upper(): {"b": 2, "d": 2}})
        given = {"d": 3, "c": {"x": 3}, "e": None}
        settings, storage_options = resolve(URI, {name: given})
        merged = settings.for_backend.options if name == "backend_options" else storage_options
        assert merged == {"a": 1, "b": 2, "c": {"x": 3}, "d": 3, "e": None}
        assert {key: settings.origins[f"{name}.{key}"].split(" ")[0] for key in merged} == {
            "a": "route",
            "b": "ACTIVESTORE_" + name.upper(),
            "c": "the",
            "d": "the",
            "e": "the",
        }
        assert given == {"d": 3, "c": {"x": 3}, "e": None}

    def test_nothing_that_is_returned_is_shared(self, write):
        write('[[route]]\nmatch = "*"\nstorage_options = { a = { b = [1, { c = 2 }] } }')
        for _ in range(2):
            _, options = resolve(URI, {})
            assert options == {"a": {"b": [1, {"c": 2}]}}
            options["a"]["b"][1]["c"] = 3
            options["a"]["new"] = options["b"] = 4

    def test_a_variable_that_is_empty_is_not_set(self, write, setenv):
        write(ROUTES)
        setenv(WORKERS="", SERVER="", BACKEND="", STORAGE_OPTIONS="", PROGRESS="", FALLBACK="", BACKEND_OPTIONS="")
        assert resolve(URI, {}) == resolve(URI, {"workers": 32})

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("1", True),
            ("true", True),
            ("YES", True),
            ("on", True),
            ("0", False),
            ("False", False),
            ("no", False),
            ("off", False),
        ],
    )
    def test_progress_in_words(self, text, value, setenv):
        setenv(PROGRESS=text)
        assert resolve(URI, {})[0].progress is value


class TestBackend:
    """Explicit instance, explicit name, route, environment, then whoever has a server."""

    def test_an_instance(self, write, setenv):
        write(ROUTES)
        setenv(BACKEND="other", BACKEND_OPTIONS={"x": 1})
        mine = Mine()
        settings, storage_options = resolve(URI, {"backend": mine})
        assert settings.backend is mine
        assert (settings.server, settings.backend_options) == (None, {})
        assert storage_options == {"endpoint_url": "https://store.example", "anon": True}

    def test_a_name(self, write, setenv):
        write(ROUTES)
        setenv(BACKEND="other")
        assert resolve(URI, {"backend": "posix"})[0].backend == "posix"

    def test_the_route_then_the_environment(self, write, setenv):
        setenv(BACKEND="other")
        assert resolve(URI, {})[0].backend == "other"
        write(ROUTES)
        assert resolve(URI, {})[0].backend == "reductionist"
        assert resolve("https://elsewhere/a.nc", {})[0].backend == "other"

    @pytest.mark.parametrize("given", [{"server": "https://s"}, {}])
    def test_a_server_is_one_of_reductionist(self, given, setenv):
        if not given:
            setenv(SERVER="https://s")
        settings, _ = resolve(URI, given)
        assert (settings.backend, settings.server) == ("reductionist", "https://s")

    def test_a_server_of_a_route(self, write):
        write(ROUTES)
        settings, _ = resolve("s3://other/a.nc", {})
        assert (settings.backend, settings.server) == ("reductionist", "https://second.example")

    def test_a_server_of_the_environment_cannot_read_local_files(self, setenv):
        setenv(SERVER="https://s")
        for uri in ("/data/a.nc", "a.nc", "file:///data/a.nc", "FILE:///data/a.nc"):
            settings, _ = resolve(uri, {})
            assert (settings.backend, settings.server) == ("posix", None)
            assert resolve(uri, {"backend": "reductionist"})[0].server == "https://s"

    def test_a_server_that_is_given_is_to_compute(self, write, setenv):
        setenv(BACKEND="posix")
        write('[[route]]\nmatch = "s3://*"\nbackend = "posix"\n[[route]]\nmatch = "https://*"\nbackend = "mine"')
        assert resolve(URI, {})[0].backend == "posix"
        assert resolve(URI, {"server": "https://s"})[0].backend == "reductionist"
        assert resolve("gs://b/a.nc", {"server": "https://s"})[0].backend == "reductionist"
        assert resolve("https://b/a.nc", {"server": "https://s"})[0].backend == "mine"

    def test_servers_and_options_of_another_backend_are_left_out(self, write, setenv):
        write(ROUTES)
        settings, storage_options = resolve(URI, {"backend": "mine"})
        assert (settings.server, settings.backend_options) == (None, {})
        assert storage_options["endpoint_url"] == "https://store.example"
        setenv(BACKEND="mine", SERVER="https://mine.example", BACKEND_OPTIONS={"timeout": 1, "x": 1})
        settings, _ = resolve(URI, {})
        assert (settings.server, settings.backend_options) == ("https://route.example", {"timeout": 5, "retries": 2})
        settings, _ = resolve(URI, {"backend": "mine"})
        assert (settings.server, settings.backend_options) == ("https://mine.example", {"timeout": 1, "x": 1})
        settings, _ = resolve(URI, {"backend": "posix"})
        assert (settings.server, settings.backend_options) == (None, {})

    @pytest.mark.parametrize("given", [{"backend_options": {"y": 1}}, {"backend": "posix", "server": "https://mine.example"}])
    def test_what_means_nothing_to_the_backend_is_refused(self, tmp_path, given):
        write_sample(tmp_path / "tas.nc")
        with pytest.raises(ConfigurationError, match="= has no effect: the backend 'posix' computes here"):
            Active(tmp_path / "tas.nc", "tas", **given)
        active = Active(tmp_path / "tas.nc", "tas")
        with pytest.raises(ConfigurationError, match="has no effect: the backend 'posix' computes here"):
            active.with_options(**given)
        assert active.with_options(backend="posix").count() == active.with_options(backend="posix", backend_options={}).count()

    def test_options_of_the_environment_without_a_name_are_for_any(self, write, setenv):
        write(ROUTES)
        setenv(BACKEND_OPTIONS={"timeout": 1})
        assert resolve(URI, {})[0].backend_options == {"timeout": 1, "retries": 2}
        assert resolve("https://x/a.nc", {"backend": "mine"})[0].backend_options == {"timeout": 1}


class TestRoutes:
    @pytest.mark.parametrize(
        ("pattern", "uri", "takes"),
        [
            ("s3://cmip6-*", "s3://cmip6-a/b/c.nc", True),
            ("s3://cmip6-*", "s3://CMIP6-a/b/c.nc", False),
            ("s3://cmip6-*", "xs3://cmip6-a", False),
            ("s3://bucket/*.nc", "s3://bucket/a/b.nc", True),
            ("s3://bucket/*.nc", "s3://bucket/a/b.nc4", False),
            ("s3://bucket-?/*", "s3://bucket-1/a", True),
            ("s3://bucket-[12]/*", "s3://bucket-3/a", False),
            ("*", "https://x/a.nc", True),
            ("*", "/data/a.nc", True),
            ("*://*", "/data/a.nc", False),
            ("s3://*", "/data/s3:/a.nc", False),
            ("/data/*", "/data/a.nc", True),
            ("/data/*", "file:///data/a.nc", False),
            ("file:///data/*", "file:///data/a.nc", True),
        ],
    )
    def test_a_glob_over_the_whole_address(self, pattern, uri, takes, write):
        write(f"[[route]]\nmatch = {json.dumps(pattern)}\nstorage_options = {{ mine = true }}")
        choice = choose(uri, {})
        assert (choice.route is not None) == takes
        assert choice.storage_options == ({"mine": True} if takes else {})

    def test_a_local_file_by_its_absolute_path(self, write, tmp_path, monkeypatch):
        write(f"[[route]]\nmatch = {json.dumps(str(tmp_path) + '/*')}\nbackend = 'mine'")
        monkeypatch.chdir(tmp_path)
        assert resolve("a.nc", {})[0].backend == "mine"
        monkeypatch.chdir("/")
        assert resolve("a.nc", {})[0].backend == "posix"

    def test_the_first_counts_alone(self, write):
        write(ROUTES)
        choice = choose(URI, {})
        assert choice.route.number == 1
        assert choose("s3://other/a", {}).route.number == 2
        assert choose("s3://other/a", {}).storage_options == {}
        assert choose("gs://other/a", {}).route is None

    def test_the_file_may_be_absent_or_empty(self, tmp_path, monkeypatch):
        monkeypatch.setattr("platformdirs.user_config_path", lambda _: tmp_path)
        for given in (None, "", os.devnull, str(tmp_path / "config.toml")):
            monkeypatch.delenv("ACTIVESTORE_CONFIG") if given is None else monkeypatch.setenv("ACTIVESTORE_CONFIG", given)
            assert config_file().present
            assert config_file().routes == ()
            assert resolve(URI, {})[0] == Settings()
        (tmp_path / "config.toml").unlink()
        monkeypatch.delenv("ACTIVESTORE_CONFIG")
        assert config_file() == config.ConfigFile(str(tmp_path / "config.toml"), present=False)

    @pytest.mark.parametrize("name", ["nothing.toml", "config.toml/below"])
    def test_a_file_that_is_named_has_to_be_there(self, tmp_path, monkeypatch, name):
        monkeypatch.setenv("ACTIVESTORE_CONFIG", str(tmp_path / name))
        assert refusal() == f"{tmp_path / name}: is not there, and ACTIVESTORE_CONFIG names it; correct the name, or unset it"

    def test_the_file_is_in_the_users_config_folder(self, monkeypatch):
        import platformdirs

        monkeypatch.delenv("ACTIVESTORE_CONFIG")
        assert config_file().path == str(platformdirs.user_config_path("activestore") / "config.toml")

    def test_its_name_may_begin_with_that_of_the_users_folder(self, write, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("ACTIVESTORE_CONFIG", "~/config.toml")
        assert config_file().path == str(write("workers = 3"))

    def test_it_is_parsed_once_for_each_state(self, write, monkeypatch):
        import tomllib

        parsed = []
        load = tomllib.load
        monkeypatch.setattr(tomllib, "load", lambda file: parsed.append(1) or load(file))
        path = write("workers = 3")
        assert {resolve(URI, {})[0].workers for _ in range(5)} == {3}
        assert len(parsed) == 1
        write("workers = 4")
        os.utime(path, ns=(1, 1))
        assert resolve(URI, {})[0].workers == 4
        assert len(parsed) == 2
        path.write_text("")
        assert resolve(URI, {})[0].workers is None

    def test_from_many_threads(self, write):
        write(ROUTES)
        start = threading.Barrier(4)

        def once(_):
            start.wait()
            return resolve(URI, {})[0].server

        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(once, range(4))) == {"https://route.example"}


MISTAKES = [
    ("worker = 3", ": unknown key 'worker'; did you mean 'workers'?"),
    ("colour = 3", ": unknown key 'colour'; there are workers, fallback, progress, route"),
    ("server = 'https://s'", ": unknown key 'server'; it belongs in a [[route]]"),
    ("[[routes]]\nmatch = '*'", ": unknown key 'routes'; did you mean 'route'?"),
    ("[route]\nmatch = '*'", ": route: begin each with [[route]]"),
    ("route = 'x'", ": route: begin each with [[route]]"),
    ("route = ['x']", ": route: begin each with [[route]]"),
    ("workers = 0", ": workers=0: give a whole number from 1 up"),
    ("workers = '3'", ": workers='3': give a whole number"),
    ("workers = true", ": workers=True: give a whole number"),
    ("workers = [3]", ": workers is of type list: give a whole number"),
    ("fallback = 'remote'", ": fallback='remote': give 'local' or 'error'"),
    ("progress = 1", ": progress=1: give true or false"),
    ("[[route]]\nbackend = 'x'", ": route 1: match is missing: give a pattern"),
    ("[[route]]\nmatch = 3", ": route 1: match=3: give a pattern"),
    ("[[route]]\nmatch = ''", ": route 1 (match ''): match='': give a pattern"),
    (
        "[[route]]\nmatch = '*'\n[[route]]\nmatch = 's3://*'\nbackend = 3",
        ": route 2 (match 's3://*'): backend=3: give the name",
    ),
    ("[[route]]\nmatch = '*'\nbackend = ''", ": route 1 (match '*'): backend='': give the name"),
    ("[[route]]\nmatch = '*'\nserver = 3", ": route 1 (match '*'): server is of type int: give an address"),
    ("[[route]]\nmatch = '*'\nsever = 'x'", ": route 1 (match '*'): unknown key 'sever'; did you mean 'server'?"),
    ("[[route]]\nmatch = '*'\nx = 'y'", ": unknown key 'x'; there are match, backend, server, storage_options"),
    ("[[route]]\nmatch = '*'\nworkers = 3", ": unknown key 'workers'; it belongs above the routes"),
    ("[[route]]\nmatch = '*'\nstorage_options = 'x'", "storage_options is of type str: give a mapping from names to values"),
    ("[[route]]\nmatch = '*'\nbackend_options = [1]", "backend_options is of type list: give a mapping"),
    ("workers = ", ": is not TOML: "),
    ("workers = 1\nworkers = 2", ": is not TOML: Cannot overwrite a value"),
]


class TestErrors:
    @pytest.mark.parametrize(("text", "said"), MISTAKES, ids=[text for text, _ in MISTAKES])
    def test_in_the_file(self, text, said, write):
        path = write(text)
        message = refusal("a.nc")
        assert message.startswith(f"{path}: ")
        assert said in message

    def test_no_text(self, write):
        path = write("")
        path.write_bytes(b"workers = 3 # \xff")
        assert refusal() == f"{path}: is not TOML: byte 15 is not UTF-8"

    @pytest.mark.skipif(os.name != "posix", reason="errors of POSIX")
    def test_a_file_that_cannot_be_read(self, tmp_path, monkeypatch):
        (tmp_path / "folder").mkdir()
        monkeypatch.setenv("ACTIVESTORE_CONFIG", str(tmp_path / "folder"))
        assert refusal() == f"{tmp_path / 'folder'}: cannot be read: Is a directory"
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        monkeypatch.setenv("ACTIVESTORE_CONFIG", str(tmp_path / "loop"))
        assert "loop: cannot be read: Too many levels" in refusal()

    @pytest.mark.parametrize(
        ("name", "text", "said"),
        [
            ("WORKERS", "many", "workers='many': give a whole number from 1 up"),
            ("WORKERS", "0", "workers=0: give"),
            ("WORKERS", "-1", "workers='-1': give"),
            ("WORKERS", "2.5", "workers='2.5': give"),
            ("FALLBACK", "remote", "fallback='remote': give 'local' or 'error'"),
            ("PROGRESS", "maybe", "progress='maybe': give true or false"),
            ("STORAGE_OPTIONS", "anon=true", "is not JSON: Expecting value at character 1"),
            ("STORAGE_OPTIONS", "[1]", "storage_options is of type list: give a mapping"),
            ("STORAGE_OPTIONS", '"x"', "storage_options is of type str: give a mapping"),
            ("BACKEND_OPTIONS", "null", "backend_options is of type NoneType: give a mapping"),
            ("BACKEND_OPTIONS", "{'a': 1}", "is not JSON: Expecting property name"),
            ("BACKEND_OPTIONS", "9" * 5000, "is not JSON: "),
            ("WORKER", "3", "did you mean ACTIVESTORE_WORKERS?"),
            ("STORAGE_OPTION", "{}", "did you mean ACTIVESTORE_STORAGE_OPTIONS?"),
            ("CONFIGS", "x", "did you mean ACTIVESTORE_CONFIG?"),
        ],
    )
    def test_in_the_environment(self, name, text, said, setenv):
        setenv(**{name: text})
        message = refusal()
        assert message.startswith(f"ACTIVESTORE_{name}: ")
        assert said in message

    def test_other_variables_are_none_of_ours(self, setenv):
        setenv(CACHE="off", CACHE_LIMIT="1", REAL="require", MYSTORE_FOLDER="x")
        assert resolve(URI, {})[0] == Settings()

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"storage_options": [("key", "x")]}, "storage_options is of type list"),
            ({"storage_options": {1: "x"}}, "storage_options is of type dict: give a mapping from names"),
            ({"backend_options": "x"}, "backend_options is of type str"),
            ({"server": b"https://s"}, "server is of type bytes"),
            ({"server": ""}, "server is of type str"),
            ({"progress": 1}, "progress=1"),
            ({"workers": 2.5}, "workers=2.5"),
            ({"backend": {"name": "x"}}, "backend is of type dict"),
            ({"executor": "threads"}, "executor='threads'"),
        ],
    )
    def test_in_keywords(self, given, said):
        assert refusal(**given).startswith(said)

    def test_nothing_is_read_before(self, write):
        write("workers = 0")
        with pytest.raises(ConfigurationError):
            Active("no/such/file.nc", "tas")

    def test_a_backend_that_there_is_not(self, write, setenv):
        path = write("[[route]]\nmatch = '*'\nbackend = 'posiks'")
        with pytest.raises(ConfigurationError) as caught:
            Active("no/such/file.nc", "tas")
        assert str(caught.value) == f"route 1 (match '*') of {path}: no backend 'posiks'; did you mean 'posix'?"
        write("# none")
        setenv(BACKEND="posiks")
        with pytest.raises(ConfigurationError, match=r"^ACTIVESTORE_BACKEND: no backend 'posiks'; did you mean 'posix'\?$"):
            Active("no/such/file.nc", "tas")
        with pytest.raises(ConfigurationError, match=r"^no backend 'posics'; did you mean 'posix'\?$"):
            Active("no/such/file.nc", "tas", backend="posics")


NAMED = """
[[route]]
match = "*"
backend = "posix"
server = "https://me:hunter2@route.example"
storage_options = { key = "hunter2", secret = { env = "SECRET" }, client_kwargs = { deep = [{ env = "SECRET" }] } }
backend_options = { password = "hunter2", colour = { env = "SECRET" }, anon = true }
"""


class TestSecrets:
    @pytest.fixture(autouse=True)
    def secret(self, monkeypatch):
        monkeypatch.setenv("SECRET", "swordfish")

    def test_a_secret_that_is_named_is_taken_from_the_environment(self, write, monkeypatch):
        write(NAMED)
        settings, storage_options = resolve(URI, {})
        assert storage_options == {"key": "hunter2", "secret": "swordfish", "client_kwargs": {"deep": ["swordfish"]}}
        assert isinstance(storage_options["secret"], Secret)
        assert settings.for_backend.options == {"password": "hunter2", "colour": "swordfish", "anon": True}
        monkeypatch.setenv("SECRET", "other")
        assert settings.for_backend.options["colour"] == "other"
        assert "other" in resolve(URI, {})[1].values()

    @pytest.mark.parametrize("where", ["environment", "keywords"])
    def test_it_may_be_named_anywhere(self, where, setenv):
        options = {"secret": {"env": "SECRET"}}
        if where == "environment":
            setenv(STORAGE_OPTIONS=options)
        _, storage_options = resolve(URI, {} if where == "environment" else {"storage_options": options})
        assert storage_options == {"secret": "swordfish"}

    @pytest.mark.parametrize("value", [None, ""])
    @pytest.mark.parametrize("name", ["storage_options", "backend_options"])
    def test_a_variable_that_is_not_set(self, name, value, write, monkeypatch):
        path = write(f"[[route]]\nmatch = '*'\nbackend = 'mine'\n{name} = {{ a = {{ secret = {{ env = 'SECRET' }} }} }}")
        monkeypatch.delenv("SECRET") if value is None else monkeypatch.setenv("SECRET", value)
        place = f"route 1 (match '*') of {path}: {name}.a.secret"
        assert refusal() == f"{place}: the environment variable SECRET is not set"
        assert resolve(URI, {name: {"a": "x"}})[0].backend == "mine"

    @pytest.mark.parametrize("value", ["3", "''", "['SECRET']"])
    def test_a_name_that_is_none(self, value, write):
        path = write(f"[[route]]\nmatch = '*'\nstorage_options = {{ secret = {{ env = {value} }} }}")
        place = f"route 1 (match '*') of {path}: storage_options.secret.env"
        assert refusal() == f"{place}: give the name of an environment variable"

    @staticmethod
    def assert_none(text):
        for secret in ("hunter2", "swordfish"):
            assert secret not in (repr(text) if isinstance(text, bytes) else text)

    def test_settings(self, write):
        write(NAMED)
        choice = choose(URI, {})
        for shown in (choice, choice.settings, choice.route, config_file(), choice.settings.for_backend.options["anon"]):
            self.assert_none(repr(shown))
        self.assert_none(json.dumps(dict(choice.settings.origins)))
        packed = pickle.dumps(choice.settings)
        self.assert_none(packed)
        restored = pickle.loads(packed)
        assert restored.server == "https://route.example"
        assert restored.for_backend.options == {"colour": "swordfish", "anon": True}
        assert restored.origins == choice.settings.origins

    def test_settings_with_a_backend_that_shows_its_own(self):
        assert "backend='mine'" in repr(Settings(backend=Mine()))
        self.assert_none(repr(Settings(backend=Mine())))

    def test_active(self, write, tmp_path, caplog, recwarn):
        write(NAMED)
        write_sample(tmp_path / "tas.nc")
        with caplog.at_level(0):
            active = Active(str(tmp_path / "tas.nc"), "tas", storage_options={"token": "hunter2"})
            near = active.with_options(
                server="http://127.0.0.1:9", backend="reductionist", backend_options={"token": "hunter2"}
            )
            result = active.run("mean")
        for shown in (active, active[0], near, active.explain(), result, result.report, active.plan("mean"), near.plan("mean")):
            self.assert_none(repr(shown))
            self.assert_none(str(shown))
        for packed in (active, active[0].with_options(workers=1), near, result):
            self.assert_none(pickle.dumps(packed))
        assert pickle.loads(pickle.dumps(active)).mean() == active.mean()
        self.assert_none(caplog.text)
        assert not recwarn

    @pytest.mark.parametrize(
        "given",
        [
            {"storage_options": "hunter2"},
            {"storage_options": ["hunter2"]},
            {"storage_options": {7: "hunter2"}},
            {"storage_options": {"a": {"env": 7}, "key": "hunter2"}},
            {"storage_options": {"a": {"env": "NOT_SET"}, "key": "hunter2"}},
            {"backend_options": "hunter2"},
            {"server": ["https://me:hunter2@s"]},
            {"backend": {"token": "hunter2"}},
            {"workers": {"hunter2": 1}},
            {"executor": ["hunter2"]},
            {"fallback": b"hunter2"},
            {"backend_options": {"password": "hunter2"}, "workers": 0},
        ],
    )
    def test_errors_of_keywords(self, given):
        with pytest.raises(ConfigurationError) as caught:
            resolve(URI, given)
        self.assert_none(everything_about(caught.value))
        with pytest.raises(ConfigurationError) as caught:
            Active("no/such/file.nc", "tas", **given)
        self.assert_none(everything_about(caught.value))

    @pytest.mark.parametrize("name", ["STORAGE_OPTIONS", "BACKEND_OPTIONS"])
    @pytest.mark.parametrize(
        "text", ["hunter2", '"hunter2"', '["hunter2"]', '{"key": "hunter2"', '{"key": hunter2}', '{"a": NaN} hunter2']
    )
    def test_errors_of_the_environment(self, name, text, setenv):
        setenv(**{name: text})
        with pytest.raises(ConfigurationError) as caught:
            resolve(URI, {})
        self.assert_none(everything_about(caught.value))

    @pytest.mark.parametrize(
        "text",
        [
            'key = "hunter2',
            '[[route]]\nmatch = "*"\nstorage_options = { key = "hunter2" } x',
            '[[route]]\nmatch = "*"\nstorage_options = "hunter2"',
            '[[route]]\nmatch = "*"\nstorage_options = [{ key = "hunter2" }]',
            '[[route]]\nmatch = "*"\nstorage_option = { key = "hunter2" }',
            '[[route]]\nmatch = "*"\nserver = ["hunter2"]',
            '[[route]]\nmatch = "*"\nbackend = "b"\nbackend_options = { key = "hunter2", a = { env = "NOT_SET" } }',
            "# hunter2 \udcff",
        ],
    )
    def test_errors_of_the_file(self, text, write):
        write("").write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(ConfigurationError) as caught:
            resolve(URI, {})
        self.assert_none(everything_about(caught.value))


class TestChanges:
    def test_changed_settings_say_so(self, write):
        path = write("workers = 3\nfallback = 'error'")
        settings, _ = resolve(URI, {})
        changed = settings.changed({"workers": 5})
        assert (changed.workers, changed.fallback) == (5, "error")
        assert changed.origins["workers"] == "the keyword argument workers"
        assert (changed.origins["fallback"], settings.origins["workers"]) == (str(path), str(path))
        with pytest.raises(ConfigurationError, match="workers=0"):
            settings.changed({"workers": 0})


class TestCommand:
    """`activestore backends [URI]`."""

    @pytest.fixture(autouse=True)
    def plugins(self, monkeypatch):
        """A backend whose server answers if its address ends in "up", and tells what it was asked with."""

        def check(server, options):
            asked.append((server, dict(options)))
            if not server.endswith("up"):
                raise BackendUnavailableError(f"{server}: does not answer; is it running?")
            return "Mine v2"

        asked = []
        plugins = Plugins.built_in()
        plugins._take([BackendRecord("mine", lambda *_: Mine(), "a test's", check=check)])
        plugins._take([BackendRecord("absent", lambda *_: Mine(), "a test's", available=lambda: "install it", check=check)])
        monkeypatch.setattr(site_commands, "default_plugins", lambda: plugins)
        return asked

    @pytest.fixture
    def run(self, capsys):
        def run(*argv, code=0):
            assert cli.main(["backends", *argv]) == code
            out, err = capsys.readouterr()
            assert (code != 0) == err.startswith("activestore: error: ")
            for secret in ("hunter2", "swordfish"):
                assert secret not in out + err
            return out, err

        return run

    @staticmethod
    def rows(out):
        return {line.split()[0]: line.split(maxsplit=2)[1:] for line in out.splitlines() if len(line.split()) > 1}

    def test_without_a_file(self, run, tmp_path, plugins, monkeypatch):
        monkeypatch.setattr("platformdirs.user_config_path", lambda _: tmp_path)
        monkeypatch.delenv("ACTIVESTORE_CONFIG")
        (tmp_path / "config.toml").unlink()
        out, _ = run()
        assert "posix" in out
        assert "route" not in out
        out, _ = run(URI)
        assert out.startswith(f"{tmp_path / 'config.toml'}: is not there\n")
        assert self.rows(out)["backend"] == ["posix", "the default"]
        assert json.loads(run("--json")[0])["routes"] == []
        assert plugins == []

    def test_the_route_of_an_address(self, run, write, setenv, plugins, monkeypatch):
        monkeypatch.setenv("SECRET", "swordfish")
        path = write(MINE)
        setenv(WORKERS="8", STORAGE_OPTIONS={"token": "hunter2"})
        out, _ = run("s3://cmip6-a/tas.nc?sig=hunter2")
        assert [line.split()[-1] for line in out.splitlines()[1:5]] == ["matches", "taken", "also", "no"]
        rows = self.rows(out)
        route = f"route 1 (match 's3://cmip6-*') of {path}"
        assert rows["backend"] == ["mine", route]
        assert rows["server"] == ["https://up", route]
        assert rows["storage_options.endpoint_url"] == ["https://store.example", route]
        assert rows["storage_options.secret"] == ["$SECRET", route]
        assert rows["storage_options.key"] == ["***", route]
        assert rows["storage_options.token"] == ["***", "ACTIVESTORE_STORAGE_OPTIONS"]
        assert rows["backend_options.timeout"] == ["5", route]
        assert rows["backend_options.password"] == ["$SECRET", route]
        assert rows["workers"] == ["8", "ACTIVESTORE_WORKERS"]
        assert out.endswith("the server: Mine v2\n")
        assert plugins == [("https://me:hunter2@up", {"timeout": 5, "password": "swordfish"})]

    def test_a_login_in_a_pattern_is_not_seen(self, run, write):
        write("[[route]]\nmatch = 'https://me:hunt/er@store.example/*?.nc'\nworker = 1")
        assert "hunt" not in run("s3://bucket/a.nc", code=2)[1]
        write("[[route]]\nmatch = 'https://me:hunt/er@store.example/*?.nc'\nbackend = 'posix'")
        for arguments in ((), ("--json",), ("https://me:hunt/er@store.example/a1.nc",)):
            out, err = run(*arguments)
            assert "hunt" not in out + err
            assert "store.example/*" in out

    def test_the_same_for_programs(self, run, write, monkeypatch):
        monkeypatch.setenv("SECRET", "swordfish")
        path = write(MINE)
        found = json.loads(run(URI, "--json")[0])
        assert (found["config"], found["uri"], found["route"]) == (str(path), URI, 1)
        assert found["settings"]["server"] == {"value": "https://up", "from": f"route 1 (match 's3://cmip6-*') of {path}"}
        assert found["settings"]["storage_options.secret"]["value"] == {"env": "SECRET"}
        assert (found["answer"], found["problem"]) == ("Mine v2", None)
        found = json.loads(run("gs://elsewhere/a.nc", "--json")[0])
        assert (found["route"], list(found["settings"]), found["answer"]) == (None, ["backend"], None)

    def test_a_server_that_does_not_answer(self, run, write, setenv):
        write(MINE)
        setenv(SERVER="https://down", BACKEND="mine")
        out, err = run("gs://elsewhere/a.nc", code=1)
        assert self.rows(out)["server"] == ["https://down", "ACTIVESTORE_SERVER"]
        assert err == "activestore: error: mine: https://down: does not answer; is it running?\n"
        out, _ = run("gs://elsewhere/a.nc", "--json", code=1)
        assert json.loads(out)["problem"] == "https://down: does not answer; is it running?"

    def test_every_route_is_checked(self, run, write, monkeypatch, plugins):
        monkeypatch.setenv("SECRET", "swordfish")
        path = write(MINE)
        out, err = run(code=1)
        assert "posix" in out
        table = out[out.index(f"routes of {path}; the first that matches counts") :].splitlines()[2:]
        assert [line.split("  ")[-1].strip() for line in table] == ["Mine v2", "no; see below", "-"]
        assert "endpoint_url=https://store.example, key=***, secret=$SECRET" in table[0]
        assert err == "activestore: error: route 2: https://down: does not answer; is it running?\n"
        out, _ = run("--json", code=1)
        routes = json.loads(out)["routes"]
        assert [(one["number"], one["answer"]) for one in routes] == [(1, "Mine v2"), (2, None), (3, None)]
        assert routes[0]["storage_options"]["key"] == "***"
        assert routes[2] == {
            "number": 3,
            "match": "/data/*",
            "storage_options": {"local": 1},
            "answer": None,
            "problem": None,
        }
        assert [server for server, _ in plugins] == ["https://me:hunter2@up", "https://down"] * 2

    @pytest.mark.parametrize(
        ("route", "said"),
        [
            ("backend = 'mine'", "no server is set: give it in the route"),
            ("backend = 'absent'\nserver = 'https://up'", "install it"),
            ("backend = 'miné'\nserver = 'https://up'", "no backend 'miné'; did you mean 'mine'?"),
            (
                "backend = 'mine'\nserver = 'https://up'\nbackend_options = { a = { env = 'NOT_SET' } }",
                "variable NOT_SET is not set",
            ),
        ],
    )
    def test_what_is_wrong_with_a_route(self, route, said, run, write):
        write(f"[[route]]\nmatch = '*'\n{route}")
        _, err = run(code=1)
        assert err.startswith("activestore: error: route 1: ")
        assert said in err
        assert err.count("\n") == 1

    def test_a_file_that_is_not_understood(self, run, write):
        path = write("worker = 3")
        assert run(code=2) == ("", f"activestore: error: {path}: unknown key 'worker'; did you mean 'workers'?\n")
        assert run(URI, code=2)[1].endswith("did you mean 'workers'?\n")

    def test_a_route_without_a_backend(self, run, write):
        path = write("[[route]]\nmatch = 's3://*'\nstorage_options = { anon = true }")
        out, _ = run(URI)
        assert self.rows(out)["backend"] == ["posix", "the default"]
        assert self.rows(out)["storage_options.anon"] == ["True", f"route 1 (match 's3://*') of {path}"]
        write("")
        assert run(URI)[0].startswith(f"{path}: has no routes\n")


MINE = """
[[route]]
match = "s3://cmip6-*"
backend = "mine"
server = "https://me:hunter2@up"
storage_options = { endpoint_url = "https://store.example", key = "hunter2", secret = { env = "SECRET" } }
backend_options = { timeout = 5, password = { env = "SECRET" } }

[[route]]
match = "s3://*"
backend = "mine"
server = "https://down"

[[route]]
match = "/data/*"
storage_options = { local = 1 }
"""


def test_importing_the_package_reads_no_settings(write):
    """And pays for no reader of settings either."""
    write("workers = 0")
    program = "import sys, activestore; print(sorted({'tomllib', 'platformdirs'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
