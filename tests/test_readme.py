"""What the README shows is what there is: its recipe, its keys, its ten lines."""

import re
from pathlib import Path

import pytest
from PIL import Image

from eim_ops.faces.render import render
from eim_ops.loading import Loading
from eim_ops.method import Method
from eim_ops.mini.face_set import draw_faces
from pipeline.recipe import Recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return found


def test_the_ten_lines_give_a_strip_of_all_strengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = block("python")
    assert len([line for line in lines.splitlines() if line]) <= 10
    monkeypatch.chdir(tmp_path)
    (named,) = re.findall(r'Image.open\("(.*)"\)', lines)
    Path(named).parent.mkdir(parents=True)
    Image.fromarray(render(draw_faces(7, 5)[4])).save(named)
    exec(compile(lines, "README.md", "exec"), {})
    assert Image.open("strip.png").size == (5 * 64, 64)


def test_the_recipe_shown_is_the_demos() -> None:
    assert block("yaml") == (ROOT / "examples" / "demo.yaml").read_text()


def test_every_key_of_a_recipe_and_of_the_method_is_told() -> None:
    told = set(re.findall(r"`([\w.]+)`", README))
    assert [key for key in Recipe.model_fields if key not in told and key != "input"] == []
    assert [key for key in (*Method.__dataclass_fields__, *Loading.__dataclass_fields__) if key not in told] == []


@pytest.mark.parametrize("page", ["README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))])
def test_links_and_named_files_are_there(page: str) -> None:
    text = (ROOT / page).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    named = re.findall(r"`((?:eim_ops|pipeline|jobs|docs|examples|infra)/[\w./-]+\.\w+)`", text)
    missing = [link for link in links if not (ROOT / page).parent.joinpath(link).exists()]
    assert missing + [name for name in named if not (ROOT / name).exists()] == []
