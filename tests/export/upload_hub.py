"""A model hub on the loopback interface that speaks as much of the hub's protocol as an upload needs."""

import base64
import json
from contextlib import AbstractContextManager

from tests.http_server import Handler, Server, running
from tests.models.stub_hub import COMMIT


class UploadHub(Server):
    """Keeps repositories in memory; requests without the token of the owner ``me`` are refused."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.private: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.refuse_commit = 0  # HTTP status of a refusal
        super().__init__(_Handler)


class _Handler(Handler):
    server: UploadHub

    def do_GET(self) -> None:
        body = self.body()
        hub, sent = self.server, self.headers.get("Authorization", "")
        if sent != f"Bearer {hub.token}":
            return self.send(401, {"error": f"Invalid credentials: {sent}"})
        path = self.path.partition("?")[0]
        if path == "/api/validate-yaml":
            return self.send(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            if asked["organization"] != "me":
                return self.send(403, {"error": f"You may not write to {asked['organization']}"})
            status = 409 if repo in hub.private else 200
            hub.private.setdefault(repo, asked.get("private", asked.get("visibility") == "private"))
            return self.send(status, {"url": f"{hub.endpoint}/{repo}"})
        _, _, _, owner, name, *action = path.split("/")
        repo = f"{owner}/{name}"
        if repo not in hub.private:
            return self.send(
                404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
            )
        if action[:1] == ["preupload"]:
            return self.send(
                200,
                {
                    "files": [
                        {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for file in json.loads(body)["files"]
                    ]
                },
            )
        if action[:1] == ["commit"]:
            if hub.refuse_commit:
                return self.send(hub.refuse_commit, {"error": "the quota of me is used up"})
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    hub.files.setdefault(repo, {})[line["value"]["path"]] = base64.b64decode(
                        line["value"]["content"]
                    )
            return self.send(
                200, {"commitOid": COMMIT, "commitUrl": f"{hub.endpoint}/{repo}/commit/{COMMIT}"}
            )
        return self.send(
            200,
            {"_id": "1", "id": repo, "sha": COMMIT, "private": hub.private[repo], "siblings": []},
        )

    do_POST = do_GET  # noqa: N815 - the name is that of the library


def upload_hub(token: str) -> AbstractContextManager[UploadHub]:
    """A hub that runs within the block."""
    return running(UploadHub(token))
