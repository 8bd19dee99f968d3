"""The image's recipe: hadolint has nothing to say, and what it copies is let through."""

import re
from pathlib import Path

import pytest

from tests.infra.tools import INFRA, ROOT, program, run

DOCKERFILE = INFRA / "images" / "Dockerfile"


def test_hadolint_has_nothing_to_say() -> None:
    done = run([program("hadolint"), DOCKERFILE])
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong", "rule"),
    [("FROM ${BASE} AS build", "FROM python AS build", "DL3006"), (" --no-install-recommends", "", "DL3015")],
)
def test_hadolint_finds_a_planted_mistake(right: str, wrong: str, rule: str, tmp_path: Path) -> None:
    text = DOCKERFILE.read_text()
    assert right in text
    (tmp_path / "Dockerfile").write_text(text.replace(right, wrong))
    done = run([program("hadolint"), tmp_path / "Dockerfile"])
    assert done.returncode != 0
    assert rule in done.stdout


def test_what_is_copied_is_there_and_not_ignored() -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
    copied = {name for line in copies for name in line.split()}
    assert copied == let_through
    assert all((ROOT / name).exists() for name in copied)


def test_no_target_runs_as_root() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE.read_text(), flags=re.MULTILINE)[1:]
    cpu, cuda = stages[1:]
    assert "USER 1000" in cpu
    assert cuda.startswith("cpu AS cuda")
    assert "USER" not in cuda
