"""A server that speaks enough of the Hub's HTTP for huggingface_hub, on this machine, and fails when it is told to.

    with HubServer() as hub, hub.in_this_process(tmp_path):      # everything here asks this server, fresh cache, logged in
        HfApi().create_repo("ann/tiny")
        hub.fail("PUT", "/lfs/", status=500, times=1)
        ...
    subprocess.run(..., env=os.environ | hub.env(tmp_path))       # another process asks this server

or as a fixture, which does the first two (`hub_server` in tests/conftest.py). Users: `ann`, whose token `hub.token` may
write what is hers, and whose token `hub.read_token` may not; `bob` (`hub.other_token`). Models and datasets: create, list (by
author, by tag), info, tree, commits with small and large (LFS) files, tags, downloads by revision with ranges. No Xet.

Attributes:
    log: every request, `Request(method, path, status)`; nothing of headers.
    repositories: (kind, id) -> Repository; kind is "models" or "datasets".
"""

import base64
import hashlib
import json
import os
import re
import socket
import struct
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import patch
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from tests.local_server import LocalServer

LARGE = (".safetensors", ".bin", ".parquet", ".png")  # what a new repository's .gitattributes keeps outside git
DATE = "2026-01-01T00:00:00.000Z"


@dataclass
class Request:
    """One request, as the log keeps it."""

    method: str
    path: str
    status: int | None = None  # None: the connection was cut


@dataclass
class Fault:
    """What happens instead of, or in the middle of, an answer; `times` counts down."""

    method: str
    pattern: str
    times: int
    status: int | None = None
    headers: dict = field(default_factory=dict)
    body: bytes | None = None
    after_bytes: int | None = None  # cut the connection when so many bytes of the body have gone over it


@dataclass
class File:
    """One file of a commit."""

    content: bytes
    large: bool

    @property
    def oid(self) -> str:
        """git's SHA-1 of a small file, SHA-256 of a large one."""
        if self.large:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    def info(self) -> dict:
        if not self.large:
            return {"size": len(self.content), "oid": self.oid}
        lfs = {"oid": self.oid, "sha256": self.oid, "size": len(self.content), "pointerSize": 134}
        return {"size": len(self.content), "oid": self.oid[:40], "lfs": lfs}


@dataclass
class Repository:
    """A model or a dataset: its commits, and what they are called."""

    owner: str
    private: bool = False
    commits: dict[str, dict[str, File]] = field(default_factory=dict)  # sha -> path -> file, oldest first
    titles: dict[str, str] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def sha(self, revision: str) -> str | None:
        """Return the commit that a branch, a tag or (part of) a commit's name means."""
        by_name = self.branches.get(revision) or self.tags.get(revision)
        whole = (sha for sha in self.commits if len(revision) >= 7 and sha.startswith(revision))
        return by_name or next(whole, None)

    def commit(self, files: dict[str, File], title: str, branch: str = "main") -> str:
        seed = repr((self.owner, len(self.commits), title, sorted((path, file.oid) for path, file in files.items())))
        sha = hashlib.sha1(seed.encode()).hexdigest()
        self.commits[sha], self.titles[sha], self.branches[branch] = files, title, sha
        return sha

    def card(self, sha: str) -> dict:
        """Return the front matter of README.md."""
        readme = self.commits[sha].get("README.md")
        parts = readme.content.decode().split("---\n") if readme else []
        return (yaml.safe_load(parts[1]) or {}) if len(parts) >= 3 and parts[0] == "" else {}


class HubServer(LocalServer):
    """See the module."""

    def __init__(self):
        self.token, self.read_token = "hf_annWrites00000001", "hf_annReads000000001"
        self.other_token = "hf_bobWrites00000001"
        self.tokens = {
            self.token: ("ann", "write"),
            self.read_token: ("ann", "read"),
            self.other_token: ("bob", "write"),
        }
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.blobs: dict[str, bytes] = {}  # large files that arrived whole
        self.log: list[Request] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        self.http.daemon_threads = True
        self.http.handle_error = lambda *arguments: None  # clients that do not wait for the end
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def fail(self, method, path_pattern, *, status, headers=None, body=None, times=1):
        """Answer the next `times` requests whose path matches (re.search; method "*": any) with this status."""
        self.faults.append(Fault(method, path_pattern, times, status, headers or {}, body))

    def cut(self, path_pattern, *, after_bytes=0, times=1, method="*"):
        """Reset the connection after so many bytes of an upload's or an answer's body."""
        self.faults.append(Fault(method, path_pattern, times, after_bytes=after_bytes))

    def requests(self, method: str = "", path_pattern: str = "") -> list[Request]:
        """Return the logged requests of a method ("": all) whose path matches."""
        return [each for each in self.log if method in ("", each.method) and re.search(path_pattern, each.path)]

    def files(self, repo_id: str, revision: str = "main", kind: str = "models") -> dict[str, bytes]:
        """Return what a repository holds: path -> content."""
        repository = self.repositories[kind, repo_id]
        return {path: file.content for path, file in repository.commits[repository.sha(revision)].items()}

    def env(self, home, token: str | None = None) -> dict[str, str]:
        """Return the environment variables with which another process asks this server; `home`: for its cache."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HUB_OFFLINE": "0",
            "HF_DATASETS_OFFLINE": "0",
            "TRANSFORMERS_OFFLINE": "0",
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(Path(home) / "hub"),
            "HF_TOKEN": self.token if token is None else token,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    @contextmanager
    def in_this_process(self, home, token: str | None = None, offline: bool = False):
        """Let huggingface_hub (and transformers and datasets) ask this server, with a cache in `home`.

        Args:
            token: "" to be logged out.
            offline: as with HF_HUB_OFFLINE=1, the cache being all there is.
        """
        import datasets.config
        import huggingface_hub
        import transformers.utils.hub
        from huggingface_hub import constants, hf_api

        huggingface_hub.close_session()
        values = {
            "ENDPOINT": self.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": self.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_URL_HOSTS": frozenset({"127.0.0.1"}),
            "HF_HUB_OFFLINE": offline,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(Path(home) / "hub"),
            "HF_TOKEN_PATH": str(Path(home) / "token"),
            "HF_STORED_TOKENS_PATH": str(Path(home) / "stored_tokens"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
        }
        data = {"HF_ENDPOINT": self.url, "HF_HUB_OFFLINE": offline, "HF_DATASETS_OFFLINE": offline}
        data["HUB_DATASETS_URL"] = self.url + "/datasets/{repo_id}/resolve/{revision}/{path}"
        data["HF_DATASETS_CACHE"] = Path(home) / "datasets"
        with ExitStack() as stack:
            for name, value in values.items():
                stack.enter_context(patch.object(constants, name, value))
            for name, value in data.items():
                stack.enter_context(patch.object(datasets.config, name, value))
            stack.enter_context(patch.object(hf_api.api, "endpoint", self.url))
            stack.enter_context(patch.object(transformers.utils.hub, "_hf_api", None))
            environment = self.env(home, token) | {"HF_HUB_OFFLINE": str(int(offline))}
            stack.enter_context(patch.dict(os.environ, environment))
            try:
                yield self
            finally:
                huggingface_hub.close_session()


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, message: str, code: str | None = None, **content):
        self.status, self.message, self.code, self.content = status, message, code, content


class Cut(Exception):
    """The connection is to be reset here."""


class Handler(BaseHTTPRequestHandler):
    """Reads a request, lets a fault happen or finds its answer, and logs it."""

    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    log_message = lambda *arguments: None

    def do_GET(self):
        self.request_log = Request(self.command, self.path)
        with self.hub.lock:
            self.hub.log.append(self.request_log)
            fault = self.next_fault()
        try:
            self.body = self.read_body(fault)
            if fault and fault.status:
                content = (
                    fault.body if fault.body is not None else json.dumps({"error": f"told to fail: {fault.status}"})
                )
                self.send(fault.status, content, fault.headers)
                return
            with self.hub.lock:
                status, content, headers = self.answer()
            self.send(status, content, headers, fault)
        except Refused as refused:
            headers = {"X-Error-Message": refused.message, **({"X-Error-Code": refused.code} if refused.code else {})}
            headers |= {"X-Repo-Commit": refused.content["sha"]} if "sha" in refused.content else {}
            self.send(refused.status, json.dumps({"error": refused.message, **refused.content}), headers, fault)
        except Cut:
            self.cut_off()

    do_HEAD = do_POST = do_PUT = do_GET

    def next_fault(self) -> Fault | None:
        for fault in self.hub.faults:
            if fault.times > 0 and fault.method in ("*", self.command) and re.search(fault.pattern, self.path):
                fault.times -= 1
                return fault
        return None

    def read_body(self, fault: Fault | None) -> bytes:
        length = int(self.headers["content-length"] or 0)
        upload = self.command in ("POST", "PUT")
        cut = fault.after_bytes if fault and fault.after_bytes is not None and upload else None
        body = self.rfile.read(length if cut is None else min(cut, length)) if length else b""
        if "chunked" in (self.headers["transfer-encoding"] or ""):
            while (size := int(self.rfile.readline(), 16)) or self.rfile.readline() != b"\r\n":
                body += self.rfile.read(size)
                self.rfile.readline()
                if cut is not None and len(body) >= cut:
                    break
        if cut is not None:
            raise Cut
        return body

    def cut_off(self):
        """Reset the connection without what was promised."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def send(self, status: int, content: bytes | str | dict | list, headers: dict | None = None, fault=None):
        kind = {} if isinstance(content, bytes) else {"Content-Type": "application/json"}
        if isinstance(content, (dict, list)):
            content = json.dumps(content)
        content = content.encode() if isinstance(content, str) else content
        self.request_log.status = status
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **kind, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            cut = fault.after_bytes if fault else None
            self.wfile.write(content if cut is None else content[:cut])
            if cut is not None:
                self.wfile.flush()
                self.request_log.status = None
                raise Cut

    def json(self) -> dict:
        return json.loads(self.body)

    def answer(self) -> tuple[int, bytes | str | dict | list, dict]:
        """Find the route; returns status, content and headers."""
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        routes = [
            ("GET", r"/api/whoami-v2", self.whoami),
            ("POST", r"/api/validate-yaml", self.validate_yaml),
            ("POST", r"/api/repos/create", self.create),
            ("GET", r"/api/(models|datasets)", lambda kind: self.listing(kind, query)),
            ("GET", r"/api/(models|datasets)/([^/]+/[^/]+)(?:/revision/([^/]+))?", self.info),
            ("GET", r"/api/(models|datasets)/([^/]+/[^/]+)/auth-check(/write)?", self.auth_check),
            ("GET", r"/api/(models|datasets)/([^/]+/[^/]+)/commits/([^/]+)", self.commits),
            ("GET", r"/api/(models|datasets)/([^/]+/[^/]+)/tree/([^/]+)(?:/(.*))?", self.tree),
            ("POST", r"/api/(models|datasets)/([^/]+/[^/]+)/paths-info/([^/]+)", self.paths_info),
            ("POST", r"/api/(models|datasets)/([^/]+/[^/]+)/preupload/([^/]+)", self.preupload),
            ("POST", r"/api/(models|datasets)/([^/]+/[^/]+)/commit/([^/]+)", self.commit),
            ("POST", r"/api/(models|datasets)/([^/]+/[^/]+)/tag/([^/]+)", self.create_tag),
            ("POST", r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.lfs_batch),
            ("PUT", r"/lfs/([0-9a-f]{64})", self.lfs_put),
            ("POST", r"/lfs/verify", self.lfs_verify),
            ("GET", r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.resolve),
        ]
        for method, pattern, find in routes:
            if method == self.command.replace("HEAD", "GET") and (match := re.fullmatch(pattern, path)):
                return find(*[unquote(group) if group else group for group in match.groups()])
        raise Refused(404, "Repository not found", "RepoNotFound")

    # who may do what

    def user(self) -> tuple[str | None, str | None]:
        """Return name and role of who asks; (None, None) without a token."""
        token = (self.headers["authorization"] or "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self.hub.tokens.get(token, (None, None))

    def may_write(self, owner: str, kind: str):
        name, role = self.user()
        if name is None:
            raise Refused(401, "Invalid username or password.")
        if role != "write":
            raise Refused(403, "Forbidden: pass a token with write access: your token has the role read")
        if name != owner:
            raise Refused(403, f'You don\'t have the rights to create a {kind[:-1]} under the namespace "{owner}"')

    def repository(self, kind: str, repo_id: str, write: bool = False) -> Repository:
        name, _ = self.user()
        repository = self.hub.repositories.get((kind, repo_id))
        if repository is None or (repository.private and name != repository.owner):
            if name is None:  # the Hub does not say which it is
                raise Refused(401, "Invalid username or password.", "RepoNotFound")
            raise Refused(404, "Repository not found", "RepoNotFound")
        if write:
            self.may_write(repository.owner, kind)
        return repository

    def files_at(self, repository: Repository, revision: str | None) -> tuple[str, dict[str, File]]:
        sha = repository.sha(revision or "main")
        if sha is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha, repository.commits[sha]

    # the routes

    def whoami(self):
        name, role = self.user()
        if name is None:
            raise Refused(401, "Invalid username or password.")
        access = {"displayName": "test", "role": role}
        return (
            200,
            {"type": "user", "name": name, "orgs": [], "auth": {"type": "access_token", "accessToken": access}},
            {},
        )

    def validate_yaml(self):
        parts = self.json()["content"].split("---\n")
        try:
            if len(parts) >= 3 and parts[0] == "":
                yaml.safe_load(parts[1])
        except yaml.YAMLError as error:
            return 400, {"errors": [{"message": str(error)}], "warnings": []}, {}
        return 200, {"errors": [], "warnings": []}, {}

    def named(self) -> tuple[str, str, str]:
        """Return kind, owner and id of the repository that a body names."""
        asked = self.json()
        owner = asked.get("organization") or self.user()[0] or ""
        return f"{asked.get('type') or 'model'}s", owner, f"{owner}/{asked['name']}"

    def create(self):
        kind, owner, repo_id = self.named()
        self.may_write(owner, kind)
        url = f"{self.hub.url}/{'datasets/' if kind == 'datasets' else ''}{repo_id}"
        if (kind, repo_id) in self.hub.repositories:
            raise Refused(409, f"You already created this {kind[:-1]} repo: {repo_id}", url=url)
        asked = self.json()
        private = asked.get("visibility") == "private" or asked.get("private") is True
        repository = self.hub.repositories[kind, repo_id] = Repository(owner, private)
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE)
        repository.commit({".gitattributes": File(attributes.encode(), False)}, "initial commit")
        return 200, {"url": url, "name": repo_id, "private": private}, {}

    def describe(self, kind: str, repo_id: str, repository: Repository, sha: str) -> dict:
        """Return what the Hub says of a repository at a commit."""
        card, files = repository.card(sha), repository.commits[sha]
        listed = {key: [each] if isinstance(each := card.get(key, []), str) else each for key in ("tags", "datasets")}
        tags = [*listed["tags"], *(f"dataset:{name}" for name in listed["datasets"])]
        tags += [card["pipeline_tag"]] if card.get("pipeline_tag") else []
        tags += [card["library_name"]] if card.get("library_name") else []
        tags += [f"license:{card['license']}"] if card.get("license") else []
        described = {
            "id": repo_id,
            "author": repository.owner,
            "sha": sha,
            "private": repository.private,
            "gated": False,
            "disabled": False,
            "createdAt": DATE,
            "lastModified": DATE,
            "downloads": 0,
            "likes": 0,
            "tags": list(dict.fromkeys(tags)),
            "siblings": [{"rfilename": path, "blobId": file.oid[:40], **file.info()} for path, file in files.items()],
            "cardData": card,
        }
        if kind == "models":
            described |= {"modelId": repo_id, "pipeline_tag": card.get("pipeline_tag"), "spaces": []}
            described |= {"library_name": card.get("library_name"), "model-index": card.get("model-index")}
        return described

    def listing(self, kind, query):
        """Return the repositories of an author, or with all tags of a filter, that the asker may see."""
        name, _ = self.user()
        found = []
        for (its_kind, repo_id), repository in self.hub.repositories.items():
            if its_kind != kind or (repository.private and name != repository.owner):
                continue
            described = self.describe(kind, repo_id, repository, repository.branches["main"])
            tags = {tag for tags in query.get("filter", []) for tag in tags.split(",")}
            if query.get("author", [repository.owner])[0] == repository.owner and tags <= set(described["tags"]):
                found.append({key: value for key, value in described.items() if key != "cardData"})
        return 200, found, {}

    def info(self, kind, repo_id, revision):
        repository = self.repository(kind, repo_id)
        sha, _ = self.files_at(repository, revision)
        return 200, self.describe(kind, repo_id, repository, sha), {}

    def auth_check(self, kind, repo_id, write):
        self.repository(kind, repo_id, write=bool(write))
        return 200, {}, {}

    def commits(self, kind, repo_id, revision):
        repository = self.repository(kind, repo_id)
        self.files_at(repository, revision)
        author = [{"user": repository.owner}]
        listed = [
            {"id": sha, "title": title, "message": "", "date": DATE, "authors": author}
            for sha, title in reversed(repository.titles.items())
        ]
        return 200, listed, {}

    def tree(self, kind, repo_id, revision, folder):
        sha, files = self.files_at(self.repository(kind, repo_id), revision)
        prefix = f"{folder}/" if folder else ""
        listed = [
            {"type": "file", "path": path, **file.info()} for path, file in files.items() if path.startswith(prefix)
        ]
        if prefix and not listed:
            raise Refused(404, f"{folder} does not exist on {revision}", "EntryNotFound", sha=sha)
        return 200, listed, {}

    def paths_info(self, kind, repo_id, revision):
        _, files = self.files_at(self.repository(kind, repo_id), revision)
        paths = parse_qs(self.body.decode()).get("paths", [])
        return 200, [{"type": "file", "path": path, **files[path].info()} for path in paths if path in files], {}

    def preupload(self, kind, repo_id, revision):
        _, files = self.files_at(self.repository(kind, repo_id, write=True), revision)
        modes = [
            {
                "path": each["path"],
                "uploadMode": "lfs" if each["path"].endswith(LARGE) or each["size"] > 10_000_000 else "regular",
                "shouldIgnore": False,
                "oid": files[each["path"]].oid if each["path"] in files else None,
            }
            for each in self.json()["files"]
        ]
        return 200, {"files": modes}, {}

    def lfs_batch(self, prefix, repo_id):
        self.repository("datasets" if prefix else "models", repo_id, write=True)
        objects = []
        for each in self.json()["objects"]:
            known = each["oid"] in self.hub.blobs  # arrived before: nothing to do
            upload = {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"}}
            verify = {"verify": {"href": f"{self.hub.url}/lfs/verify"}}
            objects.append({**each, **({} if known else {"actions": upload | verify})})
        return 200, {"transfer": "basic", "objects": objects}, {}

    def lfs_put(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refused(400, "the content is not what its name says")
        self.hub.blobs[oid] = self.body
        return 200, {}, {"ETag": f'"{oid}"'}

    def lfs_verify(self):
        asked = self.json()
        if len(self.hub.blobs.get(asked["oid"], b"")) != asked["size"]:
            raise Refused(404, "not arrived")
        return 200, {}, {}

    def commit(self, kind, repo_id, revision):
        repository = self.repository(kind, repo_id, write=True)
        parent, files = self.files_at(repository, revision)
        lines = [json.loads(line) for line in self.body.splitlines()]
        header, files = lines[0]["value"], dict(files)
        if revision not in repository.branches or header.get("parentCommit", parent) != parent:
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        for line in lines[1:]:
            value, path = line["value"], line["value"]["path"]
            if line["key"] == "file":
                files[path] = File(base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.blobs:
                    raise Refused(400, f"{path}: its content has not arrived")
                files[path] = File(self.hub.blobs[value["oid"]], True)
            else:  # deletedFile, deletedFolder
                files = {each: file for each, file in files.items() if each != path and not each.startswith(f"{path}/")}
        sha = repository.commit(files, header["summary"], revision)
        return 200, {"commitUrl": f"{self.hub.url}/{repo_id}/commit/{sha}", "commitOid": sha, "success": True}, {}

    def create_tag(self, kind, repo_id, revision):
        repository = self.repository(kind, repo_id, write=True)
        repository.tags[self.json()["tag"]], _ = self.files_at(repository, revision)
        return 200, {}, {}

    def resolve(self, prefix, repo_id, revision, path):
        sha, files = self.files_at(self.repository("datasets" if prefix else "models", repo_id), revision)
        if path not in files:
            raise Refused(404, f"{path} does not exist on {revision}", "EntryNotFound", sha=sha)
        file = files[path]
        headers = {"X-Repo-Commit": sha, "ETag": f'"{file.oid}"', "Accept-Ranges": "bytes"}
        if file.large:
            headers |= {"X-Linked-Etag": f'"{file.oid}"', "X-Linked-Size": str(len(file.content))}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["range"] or ""):
            start, end = int(asked[1]), int(asked[2] or len(file.content) - 1)
            if start >= len(file.content):
                raise Refused(416, "range not satisfiable")
            headers["Content-Range"] = f"bytes {start}-{end}/{len(file.content)}"
            return 206, file.content[start : end + 1], headers
        return 200, file.content, headers
