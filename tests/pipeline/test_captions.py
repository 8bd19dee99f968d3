"""Where prompts come from: captioner, cache, template; and what is checked."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from eim_ops.captioning.http import HttpCaptioner
from eim_ops.captioning.template import TemplateRefused, fill_template
from eim_ops.cost import costs
from eim_ops.editor import Editor
from pipeline.actors import CaptionStage, EditStage
from pipeline.asked_edits import AskedEdit
from pipeline.attempts import Attempts
from pipeline.caption_cache import CaptionCache, Captions
from pipeline.operations import Operations, caption_settings, real_operations
from pipeline.placement import PoolPlan
from pipeline.progress import Progress
from pipeline.recipe import Recipe, RecipeError
from pipeline.retrying import StorageError, UnansweredError
from pipeline.storage import Store, open_store
from pipeline.work import Row, table_of_work
from tests.eim_ops.conftest import tiny_sd3
from tests.fakes import FakeCaptioner, fake_operations
from tests.pipeline.builders import asked, make_recipe, start_job, work_row
from tests.pipeline.test_stages import loaded

POOL = PoolPlan(1, 1.0, 0.0, 1, "cpu")
ROWS = {"manifest": "rows.jsonl"}
TEMPLATE = {"kind": "template", "source": "a {{ kind }}", "target": "a {{ kind }}, {{ target }}"}


@dataclass(frozen=True)
class Counting(FakeCaptioner):
    """Notes what it is asked."""

    described: list[int] = field(default_factory=list)
    rewritten: list[str] = field(default_factory=list)
    again: list[tuple[str, str]] = field(default_factory=list)
    calls_again: list[int] = field(default_factory=list)

    def describe(self, images: Sequence[Image.Image]) -> list[str]:
        self.described.append(len(images))
        return super().describe(images)

    def rewrite(self, prompts: Sequence[str], requests: Sequence[str]) -> list[str]:
        self.rewritten.extend(requests)
        return super().rewrite(prompts, requests)

    def rewrite_again(
        self, prompts: Sequence[str], requests: Sequence[str], answers: Sequence[str], problems: Sequence[str]
    ) -> list[str]:
        self.calls_again.append(len(answers))
        self.again.extend(zip(answers, problems, strict=True))
        return super().rewrite_again(prompts, requests, answers, problems)


def caption(
    rows: Sequence[Row], writer: FakeCaptioner | None = None, cache: CaptionCache | None = None, **recipe: Any
) -> list[Row]:
    fakes = fake_operations()
    operations = Operations(lambda _, __: writer, fakes.make_editor, fakes.facts) if writer else fakes
    stage = CaptionStage(operations, make_recipe(**recipe), POOL, Progress(), Attempts(), cache)
    return stage(table_of_work(rows)).to_pylist()


def cache_at(path: Path, prefix: str = "c") -> CaptionCache:
    return CaptionCache(open_store(str(path)), prefix)


def test_a_refused_target_is_asked_for_once_more_and_told_why() -> None:
    captioner = Counting()
    (row,) = caption([loaded(0, asked(request="mend this very long request"))], captioner)
    assert row["results"][0]["target_prompts"] == [f"{row['source_prompt']}, again"]
    ((answer, problem),) = captioner.again
    assert answer.endswith("mend this very long request")
    assert "at most 3 words" in problem


def test_all_refused_targets_of_a_table_are_asked_for_again_together() -> None:
    captioner = Counting()
    texts = ["mend this very long request", "one two three four", "smile"]
    rows = [loaded(seed, *(asked(text, request=text) for text in texts)) for seed in range(5)]
    done = caption(rows, captioner, batch=16)
    assert captioner.calls_again == [10]
    for row in done:
        mended, wrong, good = row["results"]
        assert mended["target_prompts"] == [f"{row['source_prompt']}, again"]
        assert (wrong["error_type"], good["error_type"]) == ("NotMinimalPair", None)
    caption(rows, captioner, batch=4)
    assert captioner.calls_again == [10, 4, 4, 2]


@dataclass(frozen=True)
class Stubborn(Counting):
    """Cannot mend a request with the word `stuck`."""

    def rewrite_again(self, prompts: Sequence[str], requests: Sequence[str], *others: Sequence[str]) -> list[str]:
        if any("stuck" in request for request in requests):
            raise RuntimeError("no second answer")
        return super().rewrite_again(prompts, requests, *others)


def test_a_second_question_that_raises_fails_alone() -> None:
    texts = ["mend this very long request", "one two three stuck"]
    (row,) = caption([loaded(0, *(asked(text, request=text) for text in texts))], Stubborn())
    assert [result["error_type"] for result in row["results"]] == [None, "RuntimeError"]


def test_a_target_that_stays_wrong_is_a_failure_that_names_the_words() -> None:
    captioner = Counting()
    (row,) = caption([loaded(0, asked("a", request="one two three four"), asked("b", request="smile"))], captioner)
    bad, good = row["results"]
    assert (bad["error_stage"], bad["error_type"], good["error_type"]) == ("caption", "NotMinimalPair", None)
    assert "one two three four" in bad["error_message"]
    assert len(captioner.again) == 1


def test_the_recipe_can_widen_the_bound() -> None:
    (row,) = caption([loaded(0, asked(request="one two three four"))], max_changed_words=4)
    assert row["results"][0]["error_type"] is None


@pytest.mark.parametrize(
    ("row", "captioner"),
    [
        (
            loaded(0, asked(given="quite another picture of things"), source_prompt="a face"),
            {"captioner": "manifest", "input": ROWS},
        ),
        (loaded(0, asked(given="quite another picture of things"), source_prompt="a face"), {"captioner": "fake"}),
        (
            loaded(0, fields='{"kind": "cat"}'),
            {"captioner": {**TEMPLATE, "target": "quite another {{ kind }}, {{ target }}"}, "input": ROWS},
        ),
    ],
    ids=["manifest", "beside a captioner", "template"],
)
def test_prompts_that_come_with_the_rows_are_held_to_the_same_bound_unless_it_is_null(
    row: Row, captioner: dict[str, Any]
) -> None:
    def outcome(**changes: Any) -> Row:
        return caption([dict(row)], **captioner, **changes)[0]["results"][0]

    refused = outcome()
    assert (refused["error_stage"], refused["error_type"]) == ("caption", "NotMinimalPair")
    assert "at most 3 words in one place" in refused["error_message"]
    assert outcome(max_changed_words=5)["error_type"] is None
    assert outcome(max_changed_words=4)["error_type"] == "NotMinimalPair"
    assert outcome(max_changed_words=None)["error_type"] is None


def test_a_captioners_prompts_are_held_to_its_bound_where_the_recipes_is_null() -> None:
    (row,) = caption([loaded(0, asked(request="one two three four"))], max_changed_words=None)
    assert row["results"][0]["error_type"] == "NotMinimalPair"


def test_cached_captions_are_equal_and_the_captioner_is_not_asked_again(tmp_path: Path) -> None:
    rows = [{**loaded(seed, asked()), "source_sha256": f"{seed}"} for seed in range(3)]
    first, second, cache = Counting(), Counting(), cache_at(tmp_path)
    fresh = caption(rows, first, cache)
    other_strengths = [{**loaded(seed, asked("f", strength=2.0)), "source_sha256": f"{seed}"} for seed in range(3)]
    again = caption(other_strengths, second, cache)
    assert (sum(first.described), second.described, second.rewritten) == (3, [], [])
    for one, two in zip(fresh, again, strict=True):
        assert one["source_prompt"] == two["source_prompt"]
        assert one["results"][0]["target_prompts"] == two["results"][0]["target_prompts"]
    assert len(cache.store.keys("c")) == 3  # one object an image


def test_a_new_request_is_asked_alone_and_kept_beside_the_old(tmp_path: Path) -> None:
    cache, captioner = cache_at(tmp_path), Counting()
    caption([loaded(0, asked())], FakeCaptioner(), cache)
    caption([loaded(0, asked(), asked("f", request="hat"))], captioner, cache)
    assert (captioner.described, captioner.rewritten) == ([], ["hat"])
    assert [request for _, request in cache.read("s").targets] == ["hat", "smile"]


def test_failures_and_given_source_prompts_are_not_cached_as_the_images(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    caption([loaded(0, asked("a"), asked("b", request="impossible"), source_prompt="mine")], FakeCaptioner(), cache)
    assert cache.read("s") == Captions(None, {("mine", "smile"): "mine, smile"})


def test_an_object_that_cannot_be_read_counts_as_absent(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    caption([loaded(0)], FakeCaptioner(), cache)
    (key,) = cache.store.keys("c")
    cache.store.write(key, b'{"source_prompt": "a fa')
    captioner = Counting()
    caption([loaded(0)], captioner, cache)
    assert captioner.described == [1]
    assert cache.read("s").source_prompt is not None


@pytest.mark.parametrize("error", [UnansweredError("get: failed 14 times"), PermissionError("AccessDenied")])
def test_an_object_that_the_store_does_not_give_counts_as_absent(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, captioner = cache_at(tmp_path), Counting()
    caption([loaded(0)], FakeCaptioner(), cache)

    def refuse(*_: object) -> bytes:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Store, "read", refuse)
        (row,) = caption([loaded(0)], captioner, cache)
    assert (row["error_stage"], captioner.described) == (None, [1])
    assert cache.read("s").source_prompt == row["source_prompt"]


def test_a_store_that_refuses_all_work_is_no_empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise StorageError("ExpiredToken")

    monkeypatch.setattr(Store, "read", refuse)
    with pytest.raises(StorageError, match="ExpiredToken"):
        caption([loaded(0)], FakeCaptioner(), cache_at(tmp_path))


def test_templates_write_prompts_from_fields_of_the_row_and_the_edit() -> None:
    (row,) = caption([loaded(0, fields='{"kind": "cat"}')], captioner=TEMPLATE, input=ROWS)
    assert (row["source_prompt"], row["results"][0]["target_prompts"]) == ("a cat", ["a cat, broad smile"])


def test_a_row_that_lacks_a_field_is_a_failure_that_says_so() -> None:
    lacking, whole = caption(
        [loaded(0, fields='{"other": "x"}'), loaded(1, fields='{"kind": "dog"}')], captioner=TEMPLATE, input=ROWS
    )
    assert (lacking["error_stage"], lacking["error_type"]) == ("caption", "TemplateRefused")
    assert "'kind' is undefined; the row's fields: other" in lacking["error_message"]
    assert whole["error_stage"] is None


def test_the_columns_that_a_template_uses_reach_its_rows_and_are_part_of_the_edit(tmp_path: Path) -> None:
    def job(place: str, kind: str, other: str) -> tuple[Row, AskedEdit]:
        folder = tmp_path / place
        folder.mkdir()
        (tmp_path / "0.png").touch()
        row = {"uri": str(tmp_path / "0.png"), "kind": kind, "other": other}
        (folder / "m.jsonl").write_text(json.dumps(row))
        started = start_job(str(folder), 1, input={"manifest": str(folder / "m.jsonl")}, captioner=TEMPLATE)
        (sample,) = started.samples
        return sample, started.edits(sample)[0]

    cat, edit = job("a", "cat", "1")
    assert cat["fields"] == '{"kind": "cat"}'
    assert job("b", "cat", "2")[1].edit_id == edit.edit_id
    assert job("c", "dog", "1")[1].edit_id != edit.edit_id


HTTP = {"kind": "http", "url": "http://127.0.0.1:1/v1", "model": "m"}


@pytest.mark.parametrize(
    ("captioner", "parts"),
    [
        ({**HTTP, "modle": "x"}, ["captioner.modle: unknown key; did you mean 'model'?"]),
        ({**HTTP, "key": "secret"}, ["captioner.key: unknown key", "key_env"]),
        ({**HTTP, "url": "localhost"}, ["captioner.url: given 'localhost'"]),
        ({**HTTP, "url": "https://me:secret@host/v1"}, ["captioner.url: a name or a password", "key_env"]),
        ({"kind": "http", "model": "m"}, ["captioner.url: missing"]),
        ({"kind": "htpp"}, ["captioner: given", "kind: model (also of the hub), vllm, http or template"]),
        (3, ["captioner: given 3", "mini-vlm"]),
        ("", ["captioner: given ''"]),
        ({**TEMPLATE, "source": "a {{ kind"}, ["captioner.source: no Jinja template"]),
        (TEMPLATE, ["captioner: this template needs columns of a manifest"]),
    ],
)
def test_wrong_captioners_are_refused_with_the_key(captioner: Any, parts: list[str]) -> None:
    with pytest.raises(RecipeError, match="1 problem") as caught:
        make_recipe(captioner=captioner)
    for part in parts:
        assert part in str(caught.value)
    assert "me:secret" not in str(caught.value)


def test_actors_share_the_questions_at_once_and_more_actors_than_questions_are_refused() -> None:
    def of_each(actors: int) -> int:
        recipe = make_recipe(captioner={**HTTP, "concurrency": 5}, pools={"caption": {"size": actors}})
        made = real_operations().make_captioner(recipe, "cpu")
        assert isinstance(made, HttpCaptioner)
        return made.concurrency

    assert [of_each(actors) for actors in (1, 2, 5)] == [5, 2, 1]
    with pytest.raises(RecipeError, match=r"pools.caption.size: 6 actors .* captioner.concurrency allows 5 at once"):
        of_each(6)


def test_an_endpoint_is_asked_as_many_questions_at_once_as_it_takes() -> None:
    calls = []

    class Tallying(FakeCaptioner):
        def rewrite(self, prompts: Sequence[str], requests: Sequence[str]) -> list[str]:
            calls.append(len(requests))
            return super().rewrite(prompts, requests)

    rows = [loaded(seed, source_prompt=f"face {seed}") for seed in range(40)]
    for concurrency in (32, 4):
        caption(rows, Tallying(), captioner={**HTTP, "concurrency": concurrency}, batch=16)
    assert calls == [32, 8, 16, 16, 8]


def settings(captioner: Any, **changes: Any) -> dict[str, Any]:
    recipe: Recipe = make_recipe(captioner=captioner, model="mini-dit", **changes)
    return caption_settings(recipe, real_operations().facts(recipe))


def test_the_settings_change_with_what_changes_captions_and_with_nothing_else() -> None:
    assert settings(HTTP) == settings({**HTTP, "concurrency": 2, "key_env": "K", "attempts": 1})
    assert settings(HTTP) != settings({**HTTP, "model": "n"})
    assert settings(HTTP) != settings({**HTTP, "max_tokens": 64})
    assert settings(HTTP) == settings(HTTP, max_changed_words=None) != settings(HTTP, max_changed_words=4)
    elsewhere = {**HTTP, "url": "http://elsewhere/v1"}
    assert settings(HTTP) != settings(elsewhere)
    assert settings({**HTTP, "revision": "2"}) == settings({**elsewhere, "revision": "2"})
    constant = {"kind": "template", "source": "a", "target": "b"}
    assert settings(constant) != settings({**constant, "target": "c"})
    assert settings("mini-vlm")["captioner"] == "mini-vlm"


def test_a_model_can_be_named_with_its_revision() -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    pinned = settings({"kind": "model", "model": "owner/name", "revision": commit})
    assert pinned["captioner_revision"].startswith(f"{commit}+")
    with pytest.raises(RecipeError, match="give its revision"):
        settings({"kind": "model", "model": "owner/name"})
    with pytest.raises(RecipeError, match="has the revision 'main', which can come to mean other weights; give the"):
        settings({"kind": "model", "model": "owner/name", "revision": "main"})


def test_whether_a_models_decoding_is_constrained_is_part_of_its_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    model = {"kind": "model", "model": "owner/name", "revision": "0123456789abcdef" * 2 + "01234567"}

    def revisions(installed: bool) -> list[str]:
        monkeypatch.setattr("eim_ops.captioning.instructions.constraint_is_installed", lambda: installed)
        return [settings(captioner)["captioner_revision"] for captioner in (model, HTTP, "mini-vlm")]

    held, free = revisions(True), revisions(False)
    assert held[0] == f"{free[0]}+constrained" and held[1:] == free[1:]


def test_rows_that_failed_before_pass_untouched(tmp_path: Path) -> None:
    (row,) = caption([work_row(error_stage="load", error_type="E", error_message="m")], Counting(), cache_at(tmp_path))
    assert row["error_stage"] == "load"


def test_a_prompt_that_the_text_encoder_would_cut_is_a_failure_of_its_edit() -> None:
    recipe, fakes = (
        make_recipe(input=ROWS, captioner="manifest", method={"steps": 2, "draws": 1}, batch=2),
        fake_operations(),
    )
    editor = Editor(tiny_sd3(), recipe.method)
    operations = Operations(fakes.make_captioner, lambda _, __: editor, fakes.facts)
    face, long = "a portrait with deep frown", "a portrait with " + "broad smile, " * 30
    rows = [loaded(0, asked("a", given=long), asked("b", given=face), source_prompt=face)]
    rows.append(loaded(1, asked("c", given=face), source_prompt=long))
    stage = EditStage(operations, recipe, POOL, Progress(), Attempts())
    captioned = caption(rows, input=ROWS, captioner="manifest", max_changed_words=None)
    first, second = stage(table_of_work(captioned)).to_pylist()
    bad, good = first["results"]
    assert (bad["error_stage"], bad["error_type"], good["error_type"]) == ("edit", "PromptTooLongError", None)
    assert "tokens" in bad["error_message"]
    price = costs(recipe.method)
    one_call_of_each = price.encode + price.source + price.identify + price.decode
    assert editor.evaluations == recipe.batch * one_call_of_each
    assert second["results"][0]["error_type"] == "PromptTooLongError"


@pytest.mark.parametrize(
    "source", ["{{ title.format(breed='pug') }}", "{{ '{0}'.format() }}", "{{ title | truncate(1) }}"]
)
def test_whatever_a_template_raises_is_an_error_of_its_row(source: str) -> None:
    with pytest.raises(TemplateRefused, match="the row's fields: title"):
        fill_template(source, {"title": "a {colour} dog"})
