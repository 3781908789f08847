"""A Hugging Face Hub on 127.0.0.1: as much of its HTTP interface as pushing and loading a model takes.

Repositories live in memory, a dict of files a commit. `uploads` says how files are to be sent: `regular`, inside the
commit, or `lfs`, each by itself. `faults` are answered instead of a request that they name.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKENS = {"hf_writer": "write", "hf_reader": "read"}


@dataclass
class Repository:
    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch, changes):
        content = {**self.commits.get(self.branches.get(branch, ""), {}), **changes}
        digest = hashlib.sha1(repr((len(self.commits), sorted(content))).encode()).hexdigest()
        self.commits[digest] = content
        self.branches[branch] = digest
        return digest


class HubServer:
    """Runs while it is open; `url` is its address."""

    def __init__(self, uploads="regular"):
        self.uploads = uploads
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.faults: list[tuple[str, int | str]] = []  # a part of "METHOD path", and a status or "drop"
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, *_):
        pass

    def _handle(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        split = urlsplit(self.path)
        self.query, path = parse_qs(split.query), unquote(split.path)
        path = path.replace("/api/spaces/", "/api/models/spaces/")  # kept beside the models, under that name
        request = f"{self.command} {path}"
        self.hub.requests.append(request)
        for fault in self.hub.faults:
            if fault[0] in request:
                self.hub.faults.remove(fault)
                if fault[1] == "drop":
                    self.close_connection = True
                    return self.connection.shutdown(2)
                return self.fail(fault[1], "the test says so")
        for pattern, method in _ROUTES:
            if found := re.fullmatch(pattern, request):
                return getattr(self, method)(*found.groups())
        return self.fail(404, f"no such address: {request}")

    do_GET = do_POST = do_PUT = do_HEAD = _handle

    # --- answers

    def answer(self, content, status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def fail(self, status, message, code=None, **more):
        headers = {"X_Error_Message": message} | ({"X_Error_Code": code} if code else {})
        self.answer({"error": message, **more}, status, **headers)

    def may(self, right):
        """Whether the token has the right; if not, the answer says so."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if right == "read" and not token:
            return True
        if token not in TOKENS:
            self.fail(401, "Invalid credentials in Authorization header")
        elif right == "write" and TOKENS[token] != "write":
            self.fail(403, "You don't have the rights to write here")
        else:
            return True
        return False

    def find(self, name, revision="main"):
        """The files of a revision and its hash; if there are none, the answer says so."""
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not self.headers.get("Authorization")):
            self.fail(404, "Repository not found", "RepoNotFound")
            return None, None
        digest = repository.branches.get(revision, revision)
        if digest not in repository.commits:
            self.fail(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            return None, None
        return repository.commits[digest], digest

    # --- pushing

    def create(self):
        wanted = json.loads(self.body)
        if self.may("write"):
            name = f"{wanted.get('organization') or 'user'}/{wanted['name']}"
            if wanted.get("type") == "space":
                if wanted.get("sdk") != "static":
                    return self.fail(400, "a Space needs an SDK")
                name = f"spaces/{name}"
            if name in self.hub.repositories:
                return self.fail(409, "You already created this model repo", url=f"{self.hub.url}/{name}")
            private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
            self.hub.repositories[name] = Repository(private)
            self.hub.repositories[name].commit("main", {".gitattributes": b""})
            self.answer({"url": f"{self.hub.url}/{name}", "name": name, "id": name})

    def whoami(self):
        if self.may("write"):
            self.answer({"type": "user", "name": "user", "auth": {"accessToken": {"role": "write"}}})

    def validate(self):
        front = yaml.safe_load(json.loads(self.body)["content"].split("---")[1])
        errors = [] if isinstance(front, dict) else [{"message": "the metadata is no mapping"}]
        self.answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    def branch(self, name, branch):
        if self.may("write"):
            repository = self.hub.repositories[name]
            if branch in repository.branches:
                return self.fail(409, "Reference already exists")
            repository.branches[branch] = repository.branches["main"]
            self.answer({})

    def preupload(self, name, revision):
        content, _ = self.find(name, revision)
        if content is not None and self.may("write"):
            files = []
            for file in json.loads(self.body)["files"]:
                mode = "lfs" if file["size"] > 10_000 and self.hub.uploads == "lfs" else "regular"
                there = content.get(file["path"])
                oid = None
                if there is not None:
                    oid = (
                        hashlib.sha256(there).hexdigest()
                        if mode == "lfs"
                        else hashlib.sha1(b"blob %d\0" % len(there) + there).hexdigest()
                    )
                files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
            self.answer({"files": files})

    def lfs_batch(self, name):
        objects = [
            {
                "oid": each["oid"],
                "size": each["size"],
                "actions": {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"}},
            }
            for each in json.loads(self.body)["objects"]
        ]
        self.answer({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.fail(400, "wrong checksum")
        self.hub.objects[oid] = self.body
        self.answer(b"")

    def commit(self, name, revision):
        content, _ = self.find(name, revision)
        if content is None or not self.may("write" if "create_pr" not in self.query else "read"):
            return
        changes = {}
        for line in self.body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                changes[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            elif entry["key"] == "lfsFile":
                changes[entry["value"]["path"]] = self.hub.objects[entry["value"]["oid"]]
        pull_request = "create_pr" in self.query
        digest = self.hub.repositories[name].commit("refs/pr/1" if pull_request else revision, changes)
        self.answer(
            {
                "commitUrl": f"{self.hub.url}/{name}/commit/{digest}",
                "commitOid": digest,
                "hookOutput": "",
                **({"pullRequestUrl": f"{self.hub.url}/{name}/discussions/1"} if pull_request else {}),
            }
        )

    # --- loading

    def info(self, name, revision="main"):
        content, digest = self.find(name, revision)
        if content is not None:
            self.answer(
                {
                    "id": name,
                    "sha": digest,
                    "private": self.hub.repositories[name].private,
                    "pipeline_tag": "image-classification",
                    "tags": [],
                    "siblings": [{"rfilename": path} for path in content],
                }
            )

    def tree(self, name, revision):
        content, _ = self.find(name, revision)
        if content is not None:
            entries = [
                {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for path, data in content.items()
            ]
            self.answer(entries)

    def resolve(self, name, revision, path):
        content, digest = self.find(name, revision)
        if content is None:
            return
        if path not in content:
            return self.fail(404, "Entry not found", "EntryNotFound")
        etag = hashlib.sha1(content[path]).hexdigest()
        self.answer(content[path], X_Repo_Commit=digest, ETag=f'"{etag}"')


_NAME = r"((?:spaces/)?[^/]+/[^/]+)"
_ROUTES = [
    (r"POST /api/repos/create", "create"),
    (r"GET /api/whoami-v2", "whoami"),
    (r"POST /api/validate-yaml", "validate"),
    (rf"POST /api/models/{_NAME}/branch/(.+)", "branch"),
    (rf"POST /api/models/{_NAME}/preupload/(.+)", "preupload"),
    (rf"POST /{_NAME}\.git/info/lfs/objects/batch", "lfs_batch"),
    (r"PUT /lfs/(.+)", "lfs_put"),
    (rf"POST /api/models/{_NAME}/commit/(.+)", "commit"),
    (rf"GET /api/models/{_NAME}/tree/([^/]+).*", "tree"),
    (rf"GET /api/models/{_NAME}/revision/(.+)", "info"),
    (rf"GET /api/models/{_NAME}", "info"),
    (rf"(?:GET|HEAD) /{_NAME}/resolve/([^/]+)/(.+)", "resolve"),
]
