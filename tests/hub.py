"""A Hub on the loopback device, for the real clients: repositories in memory, commits, LFS, and faults on demand.

    with Hub() as hub:
        subprocess.run(command, env={**os.environ, **hub.environment})    HF_ENDPOINT is read when a client is imported
        hub.fail("/commit/", 500, times=2)
        hub.repos["model", "you/name"].files("main")

Only what the clients ask for in these tests is answered, in the shape of the Hub's own answers.
"""

import base64
import hashlib
import json
import re
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub.utils.sha import git_hash


WRITER, READER, STRANGER = "hf_writer", "hf_reader", "hf_unknown"
LFS_SUFFIXES = {".parquet", ".png", ".safetensors"}
TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}
HANG, DROP = "hang", "drop"  # instead of a status


@dataclass
class Repo:
    """One repository: every commit with all of its files, and the branches and tags that name commits."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)

    def sha(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.references.get(revision)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.sha(revision)]

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        content = repr((len(self.commits), branch, sorted((path, git_hash(data)) for path, data in files.items())))
        sha = hashlib.sha1(content.encode()).hexdigest()
        self.commits[sha] = files
        self.references[branch] = sha
        return sha


@dataclass
class Fault:
    """What happens to the next `times` requests whose "METHOD path" fits the pattern."""

    pattern: str
    answer: int | str
    times: int


class Hub:
    """The server and its store.

    Attributes:
        repos: (type, id) → repository.
        requests: "METHOD path" of everything that was asked, in order.
        uploads: sizes of the files that were sent, by path; LFS files as "lfs/OID".
        hanging: set as soon as a request hangs.
    """

    def __init__(self):
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.uploads: dict[str, int] = {}
        self.hanging = threading.Event()
        self._closed = threading.Event()
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.hub = self
        self._home = tempfile.TemporaryDirectory(prefix="hub-home-", ignore_cleanup_errors=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._home.cleanup()

    @property
    def environment(self) -> dict[str, str]:
        """For subprocesses: this server, a token that may write, and caches of their own."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": WRITER,
            "HF_HOME": self._home.name,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def fail(self, pattern: str, answer: int | str, times: int = 1_000) -> None:
        """Let requests fail.

        Args:
            pattern: regular expression, sought in "METHOD path".
            answer: an HTTP status, `HANG` (no answer comes) or `DROP` (the connection is closed).
            times: how many requests fail before the rest is answered.
        """
        self._faults.append(Fault(pattern, answer, times))

    def heal(self) -> None:
        self._faults.clear()

    def reset(self) -> None:
        """Back to an empty store without faults."""
        self.heal()
        for store in (self.repos, self.blobs, self.requests, self.uploads):
            store.clear()
        self.hanging.clear()

    def take_fault(self, request: str) -> int | str | None:
        with self._lock:
            for fault in self._faults:
                if fault.times and re.search(fault.pattern, request):
                    fault.times -= 1
                    return fault.answer
        return None

    def hang(self) -> None:
        self.hanging.set()
        self._closed.wait(60)


class _RefusedError(Exception):
    def __init__(self, status: int, message: str, code: str = ""):
        super().__init__(message)
        self.status, self.headers = status, {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        """Silent."""

    def answer(self) -> None:
        hub: Hub = self.server.hub
        address = urlsplit(self.path)
        self.query = parse_qs(address.query)
        self.route = unquote(address.path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = b"".join(self._chunks())
        request = f"{self.command} {self.route}"
        hub.requests.append(request)
        fault = hub.take_fault(request)
        if fault in (HANG, DROP):
            if fault == HANG:
                hub.hang()
            self.close_connection = True
            return
        try:
            if fault:
                raise _RefusedError(fault, "A fault of the server, as ordered")
            self._route(hub)
        except _RefusedError as refusal:
            self._send(refusal.status, json.dumps({"error": str(refusal)}).encode(), refusal.headers)

    def __getattr__(self, name: str):
        """The library looks for do_GET, do_POST and so on."""
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _send(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, content: dict | list, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    # ------------------------------------------------------------------------------------------------------------ who

    def _token(self) -> str | None:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    def _may_write(self) -> None:
        if self._token() not in (WRITER, READER):
            raise _RefusedError(401, "Invalid credentials in Authorization header")
        if self._token() != WRITER:
            raise _RefusedError(403, "Forbidden: you must use a write token")

    def _repo(self, hub: Hub, kind: str, repo_id: str) -> Repo:
        if self._token() == STRANGER:
            raise _RefusedError(401, "Invalid credentials in Authorization header")
        repo = hub.repos.get((kind, repo_id))
        if repo is None or (repo.private and self._token() is None):
            raise _RefusedError(404 if self._token() else 401, "Repository not found", "RepoNotFound")
        return repo

    # ----------------------------------------------------------------------------------------------------------- what

    def _route(self, hub: Hub) -> None:
        if self.route == "/api/whoami-v2":
            if self._token() not in (WRITER, READER):
                raise _RefusedError(401, "Invalid credentials in Authorization header")
            self._json({"type": "user", "name": "you", "orgs": []})
        elif self.route == "/api/repos/create":
            self._may_write()
            self._create(hub, json.loads(self.body))
        elif self.route == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif match := re.fullmatch(r"/lfs/(\w+)", self.route):
            hub.blobs[match[1]] = self.body
            hub.uploads[f"lfs/{match[1]}"] = len(self.body)
            self._send(200)
        elif match := re.fullmatch(r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.route):
            self._may_write()
            self._lfs_batch(hub, json.loads(self.body)["objects"])
        elif match := re.fullmatch(r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.route):
            self._resolve(self._repo(hub, TYPES[match[1] or "models"], match[2]), match[3], match[4])
        elif match := re.fullmatch(r"/api/(models|datasets|spaces)/([^/]+/[^/]+)(?:/([\w-]+)(?:/(.+))?)?", self.route):
            repo = self._repo(hub, TYPES[match[1]], match[2])
            if self.command == "POST" and match[3] != "paths-info":
                self._may_write()
            name = "info" if match[3] in (None, "revision") else match[3].replace("-", "_")
            getattr(self, f"_{name}", self._unknown)(hub, repo, match[1], match[2], match[4] or "main")
        else:
            self._unknown()

    def _unknown(self, *_) -> None:
        raise _RefusedError(404, f"This hub does not answer {self.command} {self.route}")

    def _create(self, hub: Hub, asked: dict) -> None:
        kind, repo_id = asked.get("type", "model"), f"{asked.get('organization') or 'you'}/{asked['name']}"
        prefix = "" if kind == "model" else f"{kind}s/"
        if (kind, repo_id) in hub.repos:
            self._json({"error": "You already created this repo", "url": f"{hub.url}/{prefix}{repo_id}"}, 409)
            return
        repo = hub.repos[kind, repo_id] = Repo(private=asked.get("visibility") == "private")
        repo.commit("main", {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        self._json({"url": f"{hub.url}/{prefix}{repo_id}", "name": repo_id})

    def _lfs_batch(self, hub: Hub, objects: list[dict]) -> None:
        answers = []
        for wanted in objects:
            upload = {"upload": {"href": f"{hub.url}/lfs/{wanted['oid']}"}}
            answers.append({**wanted, **({} if wanted["oid"] in hub.blobs else {"actions": upload})})
        self._json({"transfer": "basic", "objects": answers})

    def _resolve(self, repo: Repo, revision: str, path: str) -> None:
        sha = self._known_sha(repo, revision)
        if path not in repo.commits[sha]:
            raise _RefusedError(404, "Entry not found", "EntryNotFound")
        content = repo.commits[sha][path]
        self._send(200, content, {"X-Repo-Commit": sha, "ETag": f'"{_oid(path, content)}"', "Accept-Ranges": "none"})

    def _known_sha(self, repo: Repo, revision: str) -> str:
        if (sha := repo.sha(revision)) is None:
            raise _RefusedError(404, "Revision not found", "RevisionNotFound")
        return sha

    # ------------------------------------------------------------------------------------------- /api/TYPE/OWNER/NAME

    def _info(self, hub: Hub, repo: Repo, kind: str, repo_id: str, revision: str) -> None:
        sha = self._known_sha(repo, revision)
        siblings = [{"rfilename": path} for path in sorted(repo.commits[sha])]
        common = {"id": repo_id, "sha": sha, "private": repo.private, "siblings": siblings, "tags": []}
        self._json({**common, "gated": False, "disabled": False, "downloads": 0, "likes": 0})

    def _tree(self, hub: Hub, repo: Repo, kind: str, repo_id: str, rest: str) -> None:
        revision, _, folder = rest.partition("/")
        files = repo.commits[self._known_sha(repo, revision)]
        below = {path: content for path, content in files.items() if path.startswith(folder and f"{folder}/")}
        if folder and not below:
            raise _RefusedError(404, "Entry not found", "EntryNotFound")
        shown = [_entry(path, content) for path, content in sorted(below.items())]
        if self.query.get("recursive", ["false"])[0].lower() != "true":
            depth = folder.count("/") + 1 if folder else 0
            folders = {"/".join(path.split("/")[: depth + 1]) for path in below if path.count("/") > depth}
            shown = [entry for entry in shown if entry["path"].count("/") == depth]
            shown += [
                {"type": "directory", "path": path, "oid": git_hash(path.encode()), "size": 0} for path in folders
            ]
        self._json(shown)

    def _paths_info(self, hub: Hub, repo: Repo, kind: str, repo_id: str, revision: str) -> None:
        files = repo.commits[self._known_sha(repo, revision)]
        asked = parse_qs(self.body.decode())["paths"] if b"paths=" in self.body else json.loads(self.body)["paths"]
        self._json([_entry(path, files[path]) for path in asked if path in files])

    def _refs(self, hub: Hub, repo: Repo, *_) -> None:
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in repo.references.items()
        ]
        self._json({"branches": branches, "tags": [], "converts": []})

    def _branch(self, hub: Hub, repo: Repo, kind: str, repo_id: str, name: str) -> None:
        if name in repo.references:
            raise _RefusedError(409, "Reference already exists")
        start = json.loads(self.body or b"{}").get("startingPoint", "main")
        repo.references[name] = self._known_sha(repo, start)
        self._json({})

    def _tag(self, hub: Hub, repo: Repo, kind: str, repo_id: str, revision: str) -> None:
        name = json.loads(self.body)["tag"]
        if name in repo.references:
            raise _RefusedError(409, "Tag already exists")
        repo.references[name] = self._known_sha(repo, revision)
        self._json({})

    def _variables(self, hub: Hub, repo: Repo, *_) -> None:
        asked = json.loads(self.body)
        repo.variables[asked["key"]] = asked["value"]
        self._json({key: {"value": value} for key, value in repo.variables.items()})

    def _preupload(self, hub: Hub, repo: Repo, kind: str, repo_id: str, revision: str) -> None:
        files = repo.commits[self._known_sha(repo, revision)]
        self._json(
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if _is_lfs(file["path"]) else "regular",
                        "shouldIgnore": False,
                        "oid": _oid(file["path"], files[file["path"]]) if file["path"] in files else None,
                    }
                    for file in json.loads(self.body)["files"]
                ]
            }
        )

    def _commit(self, hub: Hub, repo: Repo, kind: str, repo_id: str, branch: str) -> None:
        files = dict(repo.commits[self._known_sha(repo, branch)])
        for operation in map(json.loads, self.body.splitlines()):
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
                hub.uploads[value["path"]] = len(files[value["path"]])
            elif operation["key"] == "lfsFile":
                if value["oid"] not in hub.blobs:
                    raise _RefusedError(400, f"LFS object of {value['path']} was never uploaded")
                files[value["path"]] = hub.blobs[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        sha = repo.commit(branch, files)
        prefix = "" if kind == "models" else f"{kind}/"
        url = f"{hub.url}/{prefix}{repo_id}/commit/{sha}"
        self._json({"success": True, "commitUrl": url, "commitOid": sha, "hookOutput": ""})


def _is_lfs(path: str) -> bool:
    return Path(path).suffix in LFS_SUFFIXES


def _oid(path: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if _is_lfs(path) else git_hash(content)


def _entry(path: str, content: bytes) -> dict:
    entry = {"type": "file", "path": path, "oid": git_hash(content), "size": len(content)}
    if _is_lfs(path):
        entry["lfs"] = {"oid": _oid(path, content), "size": len(content), "pointerSize": 130}
    return entry


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A Hub without repositories; `from hub import hub` makes it known to a test file."""
    with Hub() as running:
        yield running
