"""A local server that speaks the protocol of the Hugging Face hub, for the real clients, with faults on order."""

import contextlib
import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = {"main": "1" * 40, "older": "2" * 40}


class Hub:
    """Repositories and their faults.

    Attributes:
        files: (kind, repository, revision) → name → bytes; the kind is `models` or `datasets`.
        gated: repositories that a token without access is refused (403), or no token at all (401).
        faults: (repository, file name) → what the next answers do: a status, "cut" after half the
            bytes, or seconds to wait.
        asked: (method, path, range) of every request.
    """

    def __init__(self):
        self.files, self.gated, self.faults, self.asked = {}, {}, {}, []
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def add(self, kind, repository, files, revision="main"):
        self.files[kind, repository, revision] = {
            name: content.encode() if isinstance(content, str) else content for name, content in files.items()
        }

    def add_directory(self, kind, repository, path, revision="main"):
        files = {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
        self.add(kind, repository, files, revision)

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def do_POST(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer()

    def _answer(self):
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.asked.append((self.command, path, self.headers.get("Range")))
        parts = path.split("/")
        if parts[0] == "api":
            self._api(parts[1], "/".join(parts[2:4]), parts[4:])
        elif "resolve" in parts:
            kind = "datasets" if parts[0] == "datasets" else "models"
            at = parts.index("resolve")
            self._file(kind, "/".join(parts[at - 2 : at]), parts[at + 1], "/".join(parts[at + 2 :]))
        else:
            self._refuse(404, None)

    def _files(self, kind, repository, revision):
        """The files, or None after a refusal."""
        if repository in self.hub.gated:
            status = self.hub.gated[repository]
            self._refuse(status, "GatedRepo", f"Access to {repository} is restricted. You must have access to it.")
            return None
        known = [key[2] for key in self.hub.files if key[:2] == (kind, repository)]
        if not known:  # as the hub, which does not tell strangers what is private
            self._refuse(401, "RepoNotFound", "Invalid username or password.")
            return None
        names = {COMMIT[name]: name for name in known} | {name: name for name in known}
        if revision not in names:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return self.hub.files[kind, repository, names[revision]], COMMIT[names[revision]]

    def _api(self, kind, repository, rest):
        what, revision = (rest[0], rest[1]) if len(rest) > 1 else ("revision", "main")
        found = self._files(kind, repository, revision)
        if found is None:
            return
        files, commit = found
        if what == "revision":
            siblings = [{"rfilename": name} for name in files]
            about = {
                "id": repository, "sha": commit, "siblings": siblings, "private": False, "gated": False,
                "disabled": False, "tags": [], "downloads": 0, "likes": 0, "lastModified": "2024-01-01T00:00:00.000Z",
                "createdAt": "2024-01-01T00:00:00.000Z",
            }  # fmt: skip
            self._json(about)
        elif what == "tree":
            folder = "/".join(rest[2:])
            recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
            inside = [name for name in files if not folder or name.startswith(folder + "/")]
            if folder and not inside:
                self._refuse(404, "EntryNotFound")
                return
            listed, folders = [], set()
            for name in inside:
                below = name[len(folder) + 1 if folder else 0 :]
                if "/" in below and not recursive:
                    folders.add((folder + "/" if folder else "") + below.split("/")[0])
                else:
                    listed.append(_entry(name, files[name]))
            self._json([{"type": "directory", "oid": "0" * 40, "size": 0, "path": path} for path in folders] + listed)
        elif what == "paths-info":
            wanted = parse_qs(self.body.decode()).get("paths", [])
            if not wanted and self.body.startswith(b"{"):
                wanted = json.loads(self.body)["paths"]
            entries = [_entry(name, files[name]) for name in wanted if name in files]
            for path in wanted:
                if path not in files and any(name.startswith(path.rstrip("/") + "/") for name in files):
                    entries.append({"type": "directory", "oid": "0" * 40, "size": 0, "path": path})
            self._json(entries)
        else:
            self._refuse(404, None)

    def _file(self, kind, repository, revision, name):
        found = self._files(kind, repository, revision)
        if found is None:
            return
        files, commit = found
        if name not in files:
            self._refuse(404, "EntryNotFound", commit=commit)
            return
        content = files[name]
        faults = self.hub.faults.get((repository, name), [])
        fault = faults.pop(0) if faults and self.command == "GET" else None
        if isinstance(fault, int):
            self._refuse(fault, None)
            return
        if isinstance(fault, float):
            time.sleep(fault)
        first, last = 0, len(content) - 1
        asked = self.headers.get("Range")
        if asked:
            start, _, stop = asked.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(stop), last) if stop else last
            if first > last:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        part = content[first : last + 1]
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "cut":
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
            return
        with contextlib.suppress(OSError):  # the client waits no longer
            self.wfile.write(part)

    def _json(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status, code, message="", commit=None):
        body = json.dumps({"error": message}).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        if message:
            self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _entry(name, content):
    return {"type": "file", "oid": hashlib.sha1(content).hexdigest(), "size": len(content), "path": name}
