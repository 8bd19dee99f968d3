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


def test_a_base_may_be_pinned_by_its_content(tmp_path: Path) -> None:
    text = DOCKERFILE.read_text()
    base = "ARG BASE=python:3.11.13-slim-bookworm"
    assert f"{base}\n" in text
    (tmp_path / "Dockerfile").write_text(text.replace(f"{base}\n", f"{base}@sha256:{'0' * 64}\n"))
    done = run([program("hadolint"), tmp_path / "Dockerfile"])
    assert (done.returncode, done.stdout) == (0, "")


def copy_complaints(dockerfile: str, ignored: str) -> list[str]:
    """What is copied and is not there or not let through, and what is let through for nothing."""
    let_through = {line[1:] for line in ignored.splitlines() if line.startswith("!")}
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    copied = {name for line in copies for name in line.split()}
    return [
        *(f"{name} is ignored" for name in sorted(copied - let_through)),
        *(f"{name} is copied by nobody" for name in sorted(let_through - copied)),
        *(f"{name} is not there" for name in sorted(copied) if not (ROOT / name).exists()),
        *([] if "*" in ignored.splitlines() else ["what is not named is let through"]),
    ]


IGNORED = (ROOT / ".dockerignore").read_text()


def test_what_is_copied_is_there_and_not_ignored() -> None:
    assert copy_complaints(DOCKERFILE.read_text(), IGNORED) == []


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("!jobs\n", "", "jobs is ignored"),
        ("!jobs\n", "!jobs\n!tests\n", "tests is copied by nobody"),
        ("\n*\n", "\n", "what is not named"),
    ],
)
def test_a_mistake_in_what_is_ignored_is_found(right: str, wrong: str, told: str) -> None:
    assert right in IGNORED
    (complaint,) = copy_complaints(DOCKERFILE.read_text(), IGNORED.replace(right, wrong))
    assert told in complaint


def test_a_copy_of_what_is_not_there_is_found() -> None:
    text = DOCKERFILE.read_text().replace("COPY jobs jobs", "COPY jobz jobs")
    assert "jobz is not there" in copy_complaints(text, IGNORED)


def root_targets(dockerfile: str) -> list[str]:
    """The targets, all stages but the first, whose process would be root."""
    users: dict[str, str] = {}
    for stage in re.split(r"^FROM ", dockerfile, flags=re.MULTILINE)[1:]:
        base, name = stage.split("\n", 1)[0].split(" AS ")
        named = re.findall(r"^USER (\S+)", stage, re.MULTILINE)
        users[name] = named[-1] if named else users.get(base, "root")
    return [name for name, user in list(users.items())[1:] if not user.isdigit() or int(user) == 0]


def test_no_target_runs_as_root() -> None:
    assert root_targets(DOCKERFILE.read_text()) == []


@pytest.mark.parametrize(
    ("right", "wrong", "found"),
    [
        ("USER 1000\n", "", ["cpu", "cuda"]),
        ("USER 1000\n", "USER eim\n", ["cpu", "cuda"]),  # by a name Kubernetes cannot tell that it is not root
        ("FROM cpu AS cuda\n", "FROM ${BASE} AS cuda\n", ["cuda"]),
        ("FROM cpu AS cuda\n", "FROM cpu AS cuda\nUSER 0\n", ["cuda"]),
    ],
)
def test_a_target_that_runs_as_root_is_found(right: str, wrong: str, found: list[str]) -> None:
    text = DOCKERFILE.read_text()
    assert right in text
    assert root_targets(text.replace(right, wrong)) == found
