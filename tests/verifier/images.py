"""A small project that is built once for all verifier tests, and images made from it by laying files over it.

The project lies in the folder that all test runs of a machine share, at a path that its content names, and belongs to
an owner of its own: every run of the tests finds the image that the first one built.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import shutil
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from actors.images import BuiltImage, Engine
from actors.settings import VerifySettings
from actors.templates import stock_context
from actors.verifier import TestOutcome, Verdict, Verifier
from actors.verifier.defences import Defence
from actors.verifier.image.image_files import ImageFiles
from actors.verifier.image.layers import open_image
from events.work import VerificationRules, WorkOrder
from tests.engine_fixtures import GitProject, TestBench

__all__ = ["LAID_OVER", "SAMPLE", "Altered", "Judge", "lay_over", "sample_project", "wheel"]

LAID_OVER = frozenset({Defence.TREE, Defence.COLLECTION, Defence.CONTROL})
"""What the images of these tests do not satisfy: they are made by laying files over one build, commit or not, and their
tests do not test its package."""

SAMPLE = {
    "setup.py": 'from setuptools import setup\n\nsetup(name="Sample-Pkg", version="1.2", py_modules=["sample_pkg"])\n',
    "sample_pkg.py": "def double(number):\n    return 2 * number\n",
    "tests/test_sample.py": "import sample_pkg\n\n\ndef test_double():\n    assert sample_pkg.double(2) == 4\n",
    ".gitignore": "*.egg-info/\n",
}
TESTS = "workspace/repo/tests/test_sample.py"
LABEL = "headrace.tests"
OWNER = "verifier-tests"


def sample_project(bench_cache: Path) -> tuple[GitProject, str]:
    """The sample project and its commit."""
    digest = hashlib.sha256(json.dumps(SAMPLE).encode()).hexdigest()[:12]
    home = (bench_cache / "rootfs").resolve().parent / "projects" / f"sample-{digest}"
    if not home.exists():
        home.parent.mkdir(exist_ok=True)
        made = GitProject(Path(tempfile.mkdtemp(dir=home.parent, prefix=".making-")) / "sample")
        made.commit(SAMPLE)
        try:
            made.path.rename(home)
        except OSError as exc:  # another run of the tests was first
            if exc.errno != errno.ENOTEMPTY:
                raise
        shutil.rmtree(made.path.parent)
    project = GitProject.__new__(GitProject)
    project.path = home
    return project, project.git("rev-parse", "HEAD")


def lay_over(
    engine: Engine,
    image_id: str,
    files: Mapping[str, str | bytes],
    *,
    run: str = "",
    env: Mapping[str, str] | None = None,
) -> str:
    """The id of a new image: files by absolute path without the first slash, then a shell command without network."""
    lines = [f"FROM {image_id}", "COPY files/ /", *(f"ENV {name}={value}" for name, value in (env or {}).items())]
    lines += [f"RUN {run}"] if run else []
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in {"Dockerfile": "\n".join(lines), **{f"files/{k}": v for k, v in files.items()}}.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            tar.addfile(info, io.BytesIO(data))
        folder = tarfile.TarInfo("files")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(folder)
    buffer.seek(0)
    answers = engine.api.build(
        fileobj=buffer,
        custom_context=True,
        rm=True,
        forcerm=True,
        network_mode="none",
        labels={LABEL: "verifier"},
        decode=True,
    )
    made = ""
    for answer in answers:
        assert "error" not in answer, answer
        made = (answer.get("aux") or {}).get("ID") or made
    return made


def wheel(name: str, version: str, modules: Mapping[str, str]) -> bytes:
    """A wheel with these modules."""
    info = f"{name}-{version}.dist-info"
    files = {
        **modules,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(path, text)
    return buffer.getvalue()


class Judge:
    """Lays tests and other files over the sample image and has the result verified."""

    def __init__(self, *, bench: TestBench, sample: BuiltImage, order: WorkOrder, spool: Path) -> None:
        self.bench, self.engine, self.sample, self.order, self.spool = bench, bench.engine, sample, order, spool
        self._made: list[str] = []

    def image(
        self,
        tests: str | None = None,
        *,
        files: Mapping[str, str | bytes] | None = None,
        run: str = "",
        env: Mapping[str, str] | None = None,
    ) -> str:
        """An image with ``tests`` as the sample's test module; without arguments the sample itself."""
        laid = {**({TESTS: tests} if tests is not None else {}), **(files or {})}
        if not laid and not run and not env:
            return self.sample.image_id
        self._made.append(lay_over(self.engine, self.sample.image_id, laid, run=run, env=env))
        return self._made[-1]

    def verify(
        self,
        image_id: str,
        *,
        settings: VerifySettings | None = None,
        rules: VerificationRules | None = None,
        primary_root: str | None = None,
        cancel: threading.Event | None = None,
        without: frozenset[Defence] = LAID_OVER,
        known_failures: bytes = b"",
    ) -> Verdict:
        """The verdict on an image, under limits that suit tests."""
        request = msgspec.structs.replace(self.order.pull_request, primary_root=primary_root)
        order = msgspec.structs.replace(self.order, rules=rules or self.order.rules, pull_request=request)
        image = msgspec.structs.replace(self.sample, image_id=image_id)
        verifier = Verifier(
            engine=self.engine,
            settings=settings or VerifySettings(memory_mb=512, test_timeout_s=60, smoke_timeout_s=60),
            build=self.bench.settings,
            cache_dir=self.bench.cache_dir,
            without=without,
        )
        return verifier.verify(
            order,
            image,
            context=stock_context(),
            spool=self.spool,
            cancel=cancel or threading.Event(),
            known_failures=known_failures,
        )

    def containers(self) -> list[str]:
        """Ids of the containers of this test's log that the engine has."""
        return [str(found["Id"]) for found in self.engine.containers({"headrace.log": self.order.log_id})]

    def close(self) -> None:
        """Removes the images that were laid over."""
        for image_id in self._made:
            self.engine.api.remove_image(image_id, force=True, noprune=False)


class Altered:
    """Lays files over the sample image and opens the result as files, with the sample's trusted parent."""

    def __init__(self, *, engine: Engine, sample: BuiltImage, cache_dir: Path) -> None:
        self.engine, self.sample, self.cache_dir = engine, sample, cache_dir
        self._made: list[str] = []

    def files(
        self,
        files: Mapping[str, str | bytes] | None = None,
        *,
        run: str = "",
        env: Mapping[str, str] | None = None,
    ) -> ImageFiles:
        """The files of the sample with these laid over, a shell command run, and variables set."""
        self._made.append(lay_over(self.engine, self.sample.image_id, files or {}, run=run, env=env))
        return open_image(
            self.engine, self._made[-1], parent_id=self.sample.parent_id, cache_dir=self.cache_dir / "cache"
        )

    @property
    def image(self) -> str:
        """Id of the image that was laid over last."""
        return self._made[-1]

    def close(self) -> None:
        """Removes the images that were laid over."""
        for image_id in self._made:
            self.engine.api.remove_image(image_id, force=True, noprune=False)


def outcomes_of(verdict: Verdict) -> dict[str, str]:
    """Outcome by test, from the verdict's per-test file."""
    lines = verdict.files["tests"].read_bytes().splitlines()
    return {found.test: found.outcome for found in (msgspec.json.decode(line, type=TestOutcome) for line in lines)}


def order_for(bench: TestBench, bench_cache: Path) -> WorkOrder:
    """A fresh attempt on the sample project."""
    project, commit = sample_project(bench_cache)
    order = bench.order(project, commit, dependencies=("pytest==8.3.4",))
    return msgspec.structs.replace(order, pull_request=msgspec.structs.replace(order.pull_request, owner=OWNER))
