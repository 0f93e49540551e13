"""Who is who: the coordinator's directory and the connection files. Rules of this file: files and keys only.

- ``Home`` belongs to one live coordinator: it holds a lock on it, and each opening raises the epoch by one.
- Secrets are in files of mode 0600, made whole or not at all; a file others can read is refused, not mended.
- The server's secret is in ``cluster.json``, those of clients and nodes are in their connection files only.
  ``keys.json`` lists the public keys that may come in. To replace a key that leaked, remove its connection
  file and start again.
- Every refusal names the path and says what to do.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from pathlib import Path
from types import TracebackType
from typing import Any

import zmq
from zmq.utils import z85

from cluster.actor import Identity
from cluster.errors import ConfigError, NoConnection
from cluster.transport import UNIX_PATH_BYTES

VERSION = 1
"""Of every file here. A newer one is refused, not guessed at."""
ROLES = ("client", "node")
NAMESPACE = "default"
MAX_FILE_BYTES = 1 << 20

_ADDRESS = re.compile(r"tcp://(?:\[([^\s\[\]]+)\]|[^\s/:\[\]*]+):(\d{1,5})", re.ASCII)
_SOCKET_NAME_BYTES = 24
"""Room kept for the name of a socket inside the runtime directory."""

# ------------------------------------------------------------------------------------ places


def home_dir() -> Path:
    """``$GANGER_HOME``, or ``~/.ganger``."""
    return Path(os.environ.get("GANGER_HOME") or "~/.ganger").expanduser()


def coordinator_dir() -> Path:
    return home_dir() / "coordinator"


def connection_path(role: str) -> Path:
    """Where the coordinator of this machine and user leaves the connection file for that role."""
    return coordinator_dir() / f"{role}.json"


def runtime_path(directory: Path) -> Path:
    """Where the sockets of the coordinator that lives in ``directory`` are.

    Under ``$XDG_RUNTIME_DIR`` or ``/tmp``, because the path of a socket has at most 107 bytes.
    """
    mark = hashlib.sha256(os.fsencode(os.path.realpath(directory))).hexdigest()[:12]
    name = f"ganger-{os.geteuid()}-{mark}"
    path = Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp") / name
    if len(os.fsencode(path)) + _SOCKET_NAME_BYTES > UNIX_PATH_BYTES or not os.access(path.parent, os.W_OK):
        path = Path("/tmp") / name
    return path


def runtime_dir(directory: Path) -> Path:
    """That directory, private; made if missing."""
    path = runtime_path(directory)
    _private_dir(path, may_be_link=False)
    return path


def remove_runtime_dir(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)


# ------------------------------------------------------------------------------------ connection files


@dataclass(frozen=True, slots=True)
class ConnectionFile:
    """All a client or a node needs to reach its coordinator and to be let in."""

    cluster_id: str
    role: str
    public_key: str
    secret_key: str = field(repr=False)
    coordinators: tuple[tuple[str, str], ...]
    """Addresses ``tcp://host:port``, each with the key of the coordinator that answers there."""
    local: str | None = None
    """``ipc://path`` on the coordinator's own host; only its own user gets in there."""
    namespace: str = NAMESPACE
    version: int = VERSION

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it, readable by its owner only; it is replaced as a whole."""
        body = {
            "version": self.version,
            "cluster_id": self.cluster_id,
            "role": self.role,
            "namespace": self.namespace,
            "coordinators": [{"address": a, "server_key": k} for a, k in self.coordinators],
            "local": self.local,
            "public_key": self.public_key,
            "secret_key": self.secret_key,
        }
        _write(Path(path), body)

    def way(self, transport: str = "auto") -> tuple[str, str | None]:
        """Address to dial, and the key of who answers there; none on the local socket.

        ``transport``: ``tcp``, ``ipc``, or ``auto``, which takes the local socket where it is there and ours.
        """
        if transport != "tcp" and self.local is not None:
            path = self.local.removeprefix("ipc://")
            with suppress(OSError):
                if os.stat(path).st_uid == os.geteuid():
                    return self.local, None
        if transport == "ipc":
            raise ConfigError(
                f"there is no local socket of ours at {self.local}; on another host or as another user, use"
                " transport 'tcp'"
            )
        if not self.coordinators:
            raise ConfigError(f"the coordinator's local socket {self.local} is not there; is it running?")
        return self.coordinators[0]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ConnectionFile:
        """Read and check it; :class:`ConfigError` names the field that is wrong. Nothing else is raised."""
        path = Path(path)
        fields = _Fields(path, _read(path), "copy a fresh connection file from the coordinator")
        fields.version()
        coordinators = []
        for i, entry in enumerate(fields.get("coordinators", list)):
            where = f"coordinators[{i}]"
            inner = _Fields(path, entry, fields.remedy, where + ".")
            coordinators.append((inner.matching("address", is_address, "tcp://host:port"), inner.key("server_key")))
        local = fields.get("local", str, type(None))
        if local is not None and not local.startswith("ipc:///"):
            raise fields.wrong("local", "is not ipc:// and an absolute path")
        if not coordinators and local is None:
            raise fields.wrong("coordinators", "names no address")
        role = fields.matching("role", ROLES.__contains__, " or ".join(ROLES))
        public, secret = fields.key("public_key"), fields.key("secret_key")
        if zmq.curve_public(secret.encode()).decode() != public:
            raise fields.wrong("secret_key", "does not belong to the public_key")
        return cls(
            cluster_id=fields.matching("cluster_id", _is_hex, "32 hexadecimal digits"),
            role=role,
            public_key=public,
            secret_key=secret,
            coordinators=tuple(coordinators),
            local=local,
            namespace=fields.matching("namespace", bool, "a name"),
        )


def find_connection(role: str, path: str | os.PathLike[str] | None = None) -> ConnectionFile:
    """The connection file given, or named by ``$GANGER_CONNECTION``, or left by this user's coordinator here.

    One that is given or named must be there: no other is tried instead. Raises :class:`NoConnection` if there
    is none, and :class:`ConfigError` if it is broken or made for another role.
    """
    named = os.environ.get("GANGER_CONNECTION")
    if path is not None:
        found, looked = Path(path), f"{path} (given)"
    elif named:
        found, looked = Path(named).expanduser(), f"{named} ($GANGER_CONNECTION)"
    else:
        found = connection_path(role)
        looked = f"$GANGER_CONNECTION (not set), {found} (default)"
    if not os.path.lexists(found):
        raise NoConnection(
            f"no connection file for a {role}; looked at: {looked}."
            " Start a coordinator with `cluster up`, or copy the file from the one that runs"
        )
    connection = ConnectionFile.load(found)
    if connection.role != role:
        raise ConfigError(f"{found} is the connection file of a {connection.role}; a {role} needs {role}.json")
    return connection


# ------------------------------------------------------------------------------------ the coordinator


class Home:
    """The directory of one coordinator, locked while this object is open. Also a context manager.

    Raises :class:`ConfigError` if another live coordinator has it, or if it is not private or is damaged.
    """

    cluster_id: str
    """32 hexadecimal digits, chosen at the first start."""
    epoch: int
    """Number of this life of the coordinator, from 1."""
    server_public: str
    server_secret: str

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        self.directory = Path(directory) if directory is not None else coordinator_dir()
        _private_dir(self.directory)
        self._lock = _locked(self.directory / "lock")
        try:
            for left in self.directory.glob(".*.tmp"):
                left.unlink()
            self._open_cluster()
            self._open_keys()
        except BaseException:
            self.close()
            raise

    def identity_of(self, public_key: str) -> Identity | None:
        """Whose key that is; None if it is not registered."""
        return self._identities.get(public_key)

    def write_connection_files(self, addresses: Sequence[str], ipc: str | None) -> None:
        """Write ``client.json`` and ``node.json`` for these addresses ``tcp://host:port`` and ``ipc://path``."""
        for role, (public, secret) in self._pairs.items():
            ConnectionFile(
                cluster_id=self.cluster_id,
                role=role,
                public_key=public,
                secret_key=secret,
                coordinators=tuple((address, self.server_public) for address in addresses),
                local=ipc,
            ).save(self.directory / f"{role}.json")

    def close(self) -> None:
        """Give the directory free."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Home:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_cluster(self) -> None:
        """Read the cluster's identity, or choose it; a new epoch is on disk before anybody hears of it."""
        path = self.directory / "cluster.json"
        if path.exists():
            fields = _Fields(path, _read(path), f"restore it, or start a new cluster by removing {self.directory}")
            fields.version()
            self.cluster_id = fields.matching("cluster_id", _is_hex, "32 hexadecimal digits")
            self.epoch = fields.get("epoch", int)
            self.server_public, self.server_secret = fields.key("public_key"), fields.key("secret_key")
        elif (self.directory / "keys.json").exists():
            raise ConfigError(
                f"{path} is missing, and with it the epoch; restore it, or start a new cluster"
                f" by removing {self.directory}"
            )
        else:
            self.cluster_id, self.epoch = secrets.token_hex(16), 0
            self.server_public, self.server_secret = _new_pair()
        self.epoch += 1
        body = {
            "version": VERSION,
            "cluster_id": self.cluster_id,
            "epoch": self.epoch,
            "public_key": self.server_public,
            "secret_key": self.server_secret,
        }
        _write(path, body)

    def _open_keys(self) -> None:
        """Read who may come in. A role without connection file gets a new key, which ends its old one."""
        path = self.directory / "keys.json"
        known: list[tuple[str, str, str, str]] = []
        if path.exists():
            fields = _Fields(path, _read(path), "restore it, or remove it together with all connection files")
            fields.version()
            for i, entry in enumerate(fields.get("keys", list)):
                inner = _Fields(path, entry, fields.remedy, f"keys[{i}].")
                known.append(
                    (
                        inner.matching("name", bool, "a name"),
                        inner.matching("role", ROLES.__contains__, " or ".join(ROLES)),
                        inner.matching("namespace", bool, "a name"),
                        inner.key("public_key"),
                    )
                )
        self._pairs: dict[str, tuple[str, str]] = {}
        rows = list(known)
        for role in ROLES:
            self._pairs[role] = public, _ = self._pair_of(role)
            rows = [row for row in rows if row[0] != role]
            rows.append((role, role, NAMESPACE, public))
        if sorted(rows) != sorted(known):
            columns = ("name", "role", "namespace", "public_key")
            _write(path, {"version": VERSION, "keys": [dict(zip(columns, row, strict=True)) for row in rows]})
        self._identities = {key: Identity(key, role, name, ns) for name, role, ns, key in rows}

    def _pair_of(self, role: str) -> tuple[str, str]:
        path = self.directory / f"{role}.json"
        if not path.exists():
            return _new_pair()
        try:
            connection = ConnectionFile.load(path)
        except ConfigError as e:
            raise ConfigError(f"{e}, or remove the file to give every {role} a new key") from None
        return connection.public_key, connection.secret_key


def _new_pair() -> tuple[str, str]:
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


def _locked(path: Path) -> int:
    """Descriptor that holds the lock; it ends with the process, however that ends."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise ConfigError(f"cannot open {path}: {e.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        pid = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise ConfigError(
            f"{path.parent} is in use by the coordinator with pid {pid};"
            " stop that one, or choose another directory with GANGER_HOME"
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


# ------------------------------------------------------------------------------------ files


def _private_dir(path: Path, may_be_link: bool = True) -> None:
    """Make it with mode 0700, or see that it is ours alone."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = path.stat(follow_symlinks=may_be_link)
    except OSError as e:
        raise ConfigError(f"cannot make the directory {path}: {e.strerror}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"{path} is not a directory; move it away")
    if found.st_uid != os.geteuid():
        raise ConfigError(f"{path} belongs to user {found.st_uid}; remove it, or run as that user")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigError(f"{path} is open to other users; chmod 700 {path}")


def _write(path: Path, body: Mapping[str, Any]) -> None:
    """Replace a secret file as a whole, on disk when this returns."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as f:
                json.dump(body, f, indent=2)
                f.write("\n")
                f.flush()
                os.fsync(f.fileno())
            os.replace(scratch, path)
        except BaseException:
            os.unlink(scratch)
            raise
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)
    except OSError as e:
        raise ConfigError(f"cannot write {path}: {e.strerror}") from None


def read_secret(path: Path) -> bytes:
    """What a secret file holds. Raises ``ConfigError`` if others than its owner can read it, or nobody."""
    try:
        with open(path, "rb") as f:
            found = os.fstat(f.fileno())
            raw = f.read(MAX_FILE_BYTES)
    except OSError as e:
        raise ConfigError(f"cannot read {path}: {e.strerror}") from None
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigError(f"{path} holds a secret and is open to other users; chmod 600 {path}")
    if found.st_uid not in (os.geteuid(), 0):
        raise ConfigError(f"{path} belongs to user {found.st_uid}; chown it, or copy it to a file of your own")
    return raw


def _read(path: Path) -> Any:
    raw = read_secret(path)
    try:
        return json.loads(raw)
    except ValueError as e:
        raise ConfigError(f"{path} is not JSON ({e}); restore it, or copy a fresh one") from None


class _Fields:
    """Checked access to the fields of a JSON object; each refusal names file and field and what to do."""

    def __init__(self, path: Path, body: Any, remedy: str, prefix: str = "") -> None:
        self.path, self.remedy, self.prefix = path, remedy, prefix
        if type(body) is not dict:
            raise ConfigError(f"{path}: {prefix.rstrip('.') or 'its content'} is not an object; {remedy}")
        self._body: dict[str, Any] = body

    def wrong(self, name: str, what: str) -> ConfigError:
        return ConfigError(f"{self.path}: field {self.prefix}{name} {what}; {self.remedy}")

    def get(self, name: str, *kinds: type) -> Any:
        if name not in self._body:
            raise self.wrong(name, "is missing")
        value = self._body[name]
        if type(value) not in kinds:
            raise self.wrong(name, f"is not a {kinds[0].__name__}")
        return value

    def matching(self, name: str, fits: Callable[[str], object], wanted: str) -> str:
        value: str = self.get(name, str)
        if not fits(value):
            raise self.wrong(name, f"is not {wanted}")
        return value

    def key(self, name: str) -> str:
        return self.matching(name, _is_key, "a key of 40 characters")

    def version(self) -> None:
        version = self.get("version", int)
        if version != VERSION:
            raise ConfigError(
                f"{self.path} has version {version}, and this program reads {VERSION};"
                " use the program that wrote it, or upgrade this one"
            )


def _is_key(text: str) -> bool:
    try:
        return len(text) == 40 and len(z85.decode(text.encode("ascii"))) == 32
    except (KeyError, ValueError, struct.error):
        return False


def _is_hex(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{32}", text) is not None


def is_address(text: str) -> bool:
    """Whether it is ``tcp://host:port`` with a host that can be dialled by name, or by number."""
    match = _ADDRESS.fullmatch(text)
    if match is None or not 0 < int(match[2]) < 65536:
        return False
    try:
        return match[1] is None or bool(IPv6Address(match[1]))
    except ValueError:
        return False
